/* The command line of train_lenet. */
#ifndef LENET_OPTIONS_H
#define LENET_OPTIONS_H

#include <cnnkern.h>

#include <stdbool.h>
#include <stdint.h>

struct options {
    const char *data, *output; /* folders */
    uint64_t epochs, batch, threads, seed;
    cnnkern_algorithm algorithm; /* of the convolutions */
    bool benchmark;              /* instead of the training */
};

/* Prints the help and exits with status 0 if that is asked for, or says what is wrong and exits
   with status 2. */
struct options options_parse(int argc, char **argv, struct options defaults);

#endif
