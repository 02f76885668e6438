/* The IDX files that MNIST comes in: images and labels, read with every check that the format
   allows. */
#ifndef LENET_IDX_H
#define LENET_IDX_H

#include <stdbool.h>
#include <stddef.h>

struct idx_dataset {
    size_t count, height, width;
    unsigned char *images; /* [count, height, width], 0 = background */
    unsigned char *labels; /* [count], each below the number of classes */
};

/* Reads a file of images and the file of their labels. Returns false after a message on stderr
   when either is not what it should be; the dataset is then empty. */
bool idx_read(const char *images_path, const char *labels_path, unsigned classes,
              struct idx_dataset *dataset);

void idx_free(struct idx_dataset *dataset);

/* Writes image number `index` [height, width], moved down and to the right, with its grey values
   scaled to 0..1. */
void idx_load(const struct idx_dataset *dataset, size_t index, int down, int right, float *image);

#endif
