/* Adam (Kingma and Ba, 2015), in plain C on a plain array of parameters. */
#ifndef LENET_OPTIMIZER_H
#define LENET_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>

struct adam {
    size_t count;
    float *mean;   /* running mean of each gradient */
    float *square; /* running mean of each gradient's square */
    double beta1_power, beta2_power; /* what the running means still lack, having started at 0 */
};

/* False when out of memory. */
bool adam_create(struct adam *adam, size_t count);
void adam_destroy(struct adam *adam);

void adam_step(struct adam *adam, double learning_rate, const float *gradients, float *parameters);

#endif
