#include "benchmark.h"

#include "lenet.h"
#include "optimizer.h"
#include "progress.h"
#include "random.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_BATCH = 256 };
static const size_t BATCHES[] = {1, 16, 64, MAX_BATCH};

/* Steps of a batch size go on for so long, and there are at least so many. */
static const double SECONDS = 0.5;
enum { LEAST_STEPS = 10 };

static cnnkern_status time_steps(struct lenet *net, struct adam *adam, size_t batch,
                                 const float *images, const uint8_t *labels)
{
    const double begin = seconds_now();
    double best = 1e300;
    for (int steps = 0; steps < LEAST_STEPS || seconds_now() - begin < SECONDS; steps++) {
        const double start = seconds_now();
        double loss;
        const cnnkern_status status = lenet_learn(net, batch, images, labels, &loss);
        if (status != CNNKERN_STATUS_OK) {
            return status;
        }
        adam_step(adam, 1e-4, lenet_gradients(net), lenet_parameters(net));
        const double seconds = seconds_now() - start;
        best = seconds < best ? seconds : best;
    }
    printf("batch %3zu: %7.3f ms a step, %8.0f images/s\n", batch, 1e3 * best,
           (double)batch / best);
    return CNNKERN_STATUS_OK;
}

cnnkern_status benchmark_run(cnnkern_context *context, cnnkern_algorithm algorithm,
                             const struct idx_dataset *dataset)
{
    struct random_stream random = {.state = 1};
    struct lenet *net = lenet_create(context, MAX_BATCH, algorithm, &random);
    struct adam adam = {.count = 0};
    float *images = malloc(MAX_BATCH * LENET_IMAGE_PIXELS * sizeof *images);
    uint8_t *labels = malloc(MAX_BATCH);
    cnnkern_status status = CNNKERN_STATUS_OUT_OF_MEMORY;
    if (net != NULL && images != NULL && labels != NULL &&
        adam_create(&adam, lenet_parameter_count(net))) {
        for (size_t i = 0; i < MAX_BATCH; i++) {
            idx_load(dataset, i % dataset->count, 0, 0, images + i * LENET_IMAGE_PIXELS);
            labels[i] = dataset->labels[i % dataset->count];
        }
        status = CNNKERN_STATUS_OK;
        for (size_t i = 0; i < sizeof BATCHES / sizeof BATCHES[0]; i++) {
            if (status == CNNKERN_STATUS_OK) {
                status = time_steps(net, &adam, BATCHES[i], images, labels);
            }
        }
    }
    adam_destroy(&adam);
    free(labels);
    free(images);
    lenet_destroy(net);
    return status;
}
