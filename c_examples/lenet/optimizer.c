#include "optimizer.h"

#include <math.h>
#include <stdlib.h>

static const double BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-8;

bool adam_create(struct adam *adam, size_t count)
{
    adam->count = count;
    adam->mean = calloc(count, sizeof *adam->mean);
    adam->square = calloc(count, sizeof *adam->square);
    adam->beta1_power = adam->beta2_power = 1;
    return adam->mean != NULL && adam->square != NULL;
}

void adam_destroy(struct adam *adam)
{
    free(adam->mean);
    free(adam->square);
}

void adam_step(struct adam *adam, double learning_rate, const float *gradients, float *parameters)
{
    adam->beta1_power *= BETA1;
    adam->beta2_power *= BETA2;
    const float mean_weight = (float)(1 - BETA1), square_weight = (float)(1 - BETA2);
    const float square_correction = (float)(1 / (1 - adam->beta2_power));
    const float rate = (float)(learning_rate / (1 - adam->beta1_power));

    /* Pointers that promise not to overlap, so that the compiler may use vectors. */
    const float *restrict const gradient = gradients;
    float *restrict const mean = adam->mean, *restrict const square = adam->square;
    float *restrict const parameter = parameters;
    for (size_t i = 0; i < adam->count; i++) {
        mean[i] += mean_weight * (gradient[i] - mean[i]);
        square[i] += square_weight * (gradient[i] * gradient[i] - square[i]);
        parameter[i] -= rate * mean[i] / (sqrtf(square[i] * square_correction) + (float)EPSILON);
    }
}
