/* mistakes.svg: the misread digits, each with its label and what it was taken for. */
#ifndef LENET_MISTAKES_H
#define LENET_MISTAKES_H

#include <stdbool.h>
#include <stddef.h>

struct mistake {
    const unsigned char *image; /* [height, width], 0 = background */
    unsigned label, prediction;
    double probability; /* that the network gave to its prediction */
};

/* `tested` images were read in all. False after a message on stderr. */
bool mistakes_write(const char *path, size_t height, size_t width, const struct mistake *mistakes,
                    size_t count, size_t tested);

#endif
