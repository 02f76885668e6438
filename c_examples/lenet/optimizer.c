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

    for (size_t i = 0; i < adam->count; i++) {
        const float gradient = gradients[i];
        adam->mean[i] += mean_weight * (gradient - adam->mean[i]);
        adam->square[i] += square_weight * (gradient * gradient - adam->square[i]);
        parameters[i] -=
            rate * adam->mean[i] / (sqrtf(adam->square[i] * square_correction) + (float)EPSILON);
    }
}
