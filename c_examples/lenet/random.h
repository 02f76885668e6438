/* Random numbers that depend on the seed alone: not on the machine, nor on its C library. */
#ifndef LENET_RANDOM_H
#define LENET_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random_stream {
    uint64_t state; /* starts as the seed; any will do */
};

uint64_t random_next(struct random_stream *random);

/* In [0, 1). */
double random_unit(struct random_stream *random);

/* In [0, bound), each with the same probability; bound must not be 0. */
uint64_t random_below(struct random_stream *random, uint64_t bound);

void random_shuffle(struct random_stream *random, size_t *values, size_t count);

#endif
