#define _POSIX_C_SOURCE 200809L /* for clock_gettime and isatty */

#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

struct progress progress_create(size_t epochs, size_t images_per_epoch)
{
    const char *terminal = getenv("TERM");
    return (struct progress){
        .terminal = isatty(STDOUT_FILENO) && terminal != NULL && strcmp(terminal, "dumb") != 0,
        .epochs = epochs,
        .images = images_per_epoch,
    };
}

static void show(const struct progress *progress)
{
    const double seconds = seconds_now() - progress->epoch_start;
    const double speed = seconds > 0 ? (double)progress->done / seconds : 0;
    if (progress->terminal) {
        enum { WIDTH = 24 };
        char bar[WIDTH + 1];
        const size_t filled = progress->done * WIDTH / progress->images;
        for (size_t i = 0; i < WIDTH; i++) {
            bar[i] = i < filled ? '=' : i == filled ? '>' : ' ';
        }
        bar[WIDTH] = '\0';
        /* Back to the line's start, the new text, and whatever is left of the old one erased. */
        printf("\repoch %zu/%zu [%s] loss %.4f %6.0f images/s\033[K", progress->epoch,
               progress->epochs, bar, progress->loss, speed);
    } else {
        printf("epoch %zu/%zu %3zu %% loss %.4f %6.0f images/s", progress->epoch,
               progress->epochs, progress->done * 100 / progress->images, progress->loss, speed);
    }
}

void progress_begin_epoch(struct progress *progress, size_t epoch)
{
    progress->epoch = epoch;
    progress->done = 0;
    progress->epoch_start = progress->shown = seconds_now();
}

void progress_update(struct progress *progress, size_t images_done, double loss)
{
    progress->done = images_done;
    progress->loss = loss;
    /* Often enough to see it move; in a log, only to show that something does. */
    const double pause = progress->terminal ? 0.1 : 5.0;
    const bool last = images_done == progress->images;
    if (last || seconds_now() - progress->shown >= pause) {
        show(progress);
        if (!progress->terminal && !last) {
            putchar('\n');
        }
        fflush(stdout);
        progress->shown = seconds_now();
    }
}

void progress_end_epoch(double test_accuracy)
{
    printf("  test accuracy %.3f\n", test_accuracy); /* on the line that show() left open */
    fflush(stdout);
}
