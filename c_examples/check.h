/* What the examples share: a failed call or a wrong result ends the program with a message and
   a non-zero exit status. */
#ifndef CHECK_H
#define CHECK_H

#include <cnnkern.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The call must succeed. */
#define CHECK(call)                                                                              \
    do {                                                                                         \
        const cnnkern_status check_status = (call);                                              \
        if (check_status != CNNKERN_STATUS_OK) {                                                 \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__,                               \
                    cnnkern_status_name(check_status), cnnkern_last_error());                    \
            exit(EXIT_FAILURE);                                                                  \
        }                                                                                        \
    } while (0)

/* The condition must hold; what follows it is printed, as by printf, when it does not. Written
   as `difference <= tolerance`, a condition also catches a NaN. */
#define EXPECT(condition, ...)                                                                   \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: %s does not hold: ", __FILE__, __LINE__, #condition);        \
            fprintf(stderr, __VA_ARGS__);                                                        \
            fputc('\n', stderr);                                                                 \
            exit(EXIT_FAILURE);                                                                  \
        }                                                                                        \
    } while (0)

/* The next of a stream of numbers in [-1, 1), the same on every machine and exact in a float. */
static inline double next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (double)(*state >> 8) / 8388608.0 - 1.0;
}

static inline void fill_f32(float *values, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)next_random(&seed);
    }
}

static inline void fill_f64(double *values, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = next_random(&seed);
    }
}

#endif
