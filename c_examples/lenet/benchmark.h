/* The time of a training step: forwards, backwards, update. */
#ifndef LENET_BENCHMARK_H
#define LENET_BENCHMARK_H

#include "idx.h"

#include <cnnkern.h>

/* Prints the best time of a step at each of some batch sizes, with images of the dataset.
   CNNKERN_STATUS_OUT_OF_MEMORY also where it gets no memory itself. */
cnnkern_status benchmark_run(cnnkern_context *context, cnnkern_algorithm algorithm,
                             const struct idx_dataset *dataset);

#endif
