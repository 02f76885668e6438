/* Shows how far training has come: a bar that moves on a terminal, plain lines elsewhere. */
#ifndef LENET_PROGRESS_H
#define LENET_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

struct progress {
    bool terminal;
    size_t epochs, images;       /* in all; in one epoch */
    size_t epoch, done;          /* the present epoch, from 1; its images so far */
    double loss;                 /* the epoch's mean so far */
    double epoch_start, shown;   /* times of seconds_now() */
};

/* Seconds on a clock that only goes forward. */
double seconds_now(void);

struct progress progress_create(size_t epochs, size_t images_per_epoch);
void progress_begin_epoch(struct progress *progress, size_t epoch);
void progress_update(struct progress *progress, size_t images_done, double loss);
void progress_end_epoch(double test_accuracy);

#endif
