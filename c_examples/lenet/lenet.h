/* LeNet-5 (LeCun et al., 1998) as it is trained today, on 28x28 images:

     conv 5x5, 1 -> 6, padded, ReLU    [6, 28, 28]
     max-pool 2x2                      [6, 14, 14]
     conv 5x5, 6 -> 16, ReLU           [16, 10, 10]
     max-pool 2x2                      [16, 5, 5]
     dense 400 -> 120, ReLU
     dense 120 -> 84, ReLU
     dense 84 -> 10, softmax */
#ifndef LENET_LENET_H
#define LENET_LENET_H

#include "random.h"

#include <cnnkern.h>

#include <stdint.h>

enum { LENET_IMAGE_SIZE = 28, LENET_IMAGE_PIXELS = 28 * 28, LENET_CLASSES = 10 };

struct lenet;

/* A network with weights drawn from `random`, for batches of at most `max_batch` images, whose
   convolutions are computed by `algorithm`. It uses the context for as long as it lives. NULL when
   out of memory. */
struct lenet *lenet_create(cnnkern_context *context, size_t max_batch, cnnkern_algorithm algorithm,
                           struct random_stream *random);
void lenet_destroy(struct lenet *net);

/* All weights and biases as one array, and their gradients as another. */
size_t lenet_parameter_count(const struct lenet *net);
float *lenet_parameters(struct lenet *net);
const float *lenet_gradients(const struct lenet *net);

/* Reads the images [batch, 28, 28]: the probability of each class comes out in `probabilities`
   [batch, 10], which stays the network's and holds until its next call. */
cnnkern_status lenet_classify(struct lenet *net, size_t batch, const float *images,
                              const float **probabilities);

/* Runs the batch forwards and backwards: the mean cross-entropy comes out in `loss`, and its
   gradients in lenet_gradients(). */
cnnkern_status lenet_learn(struct lenet *net, size_t batch, const float *images,
                           const uint8_t *labels, double *loss);

#endif
