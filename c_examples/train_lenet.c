/* Trains LeNet-5 on handwritten digits. The network (lenet/lenet.c) runs on cnnkern; all else is
   plain C. This file holds the training itself: what is read, learned, tested and written. */
#define _POSIX_C_SOURCE 200809L /* for mkdir and access */

#include "lenet/benchmark.h"
#include "lenet/chart.h"
#include "lenet/idx.h"
#include "lenet/lenet.h"
#include "lenet/mistakes.h"
#include "lenet/optimizer.h"
#include "lenet/options.h"
#include "lenet/progress.h"

#include <cnnkern.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef DEFAULT_DATA
#define DEFAULT_DATA "data"
#endif

/* The learning rate falls in a straight line from here to 0. */
static const double LEARNING_RATE = 0.003;

/* Each time a training image comes up it is moved by up to so many pixels each way: few images
   then teach almost as much as many. */
enum { MAX_MOVE = 2 };

struct training {
    struct options options;
    struct idx_dataset train, test;
    cnnkern_context *context;
    struct random_stream random;
    struct lenet *net;
    struct adam adam;
    size_t *order;    /* in which the epoch takes the training images */
    float *images;    /* one batch */
    uint8_t *labels;  /* one batch */
    struct mistake *mistakes; /* of the last test */
    size_t mistake_count;
    struct chart_series loss, accuracy;
    double seconds;
};

static bool succeeded(cnnkern_status status)
{
    if (status != CNNKERN_STATUS_OK) {
        fprintf(stderr, "train_lenet: %s: %s\n", cnnkern_status_name(status), cnnkern_last_error());
    }
    return status == CNNKERN_STATUS_OK;
}

static bool join_path(char *path, size_t size, const char *folder, const char *name)
{
    const int length = snprintf(path, size, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= size) {
        fprintf(stderr, "train_lenet: the path is too long: %s\n", folder);
        return false;
    }
    return true;
}

enum { MAX_PATH = 4096 };

static bool read_dataset(const char *folder, const char *images_name, const char *labels_name,
                         struct idx_dataset *dataset)
{
    char images[MAX_PATH], labels[MAX_PATH];
    if (!join_path(images, sizeof images, folder, images_name) ||
        !join_path(labels, sizeof labels, folder, labels_name) ||
        !idx_read(images, labels, LENET_CLASSES, dataset)) {
        return false;
    }
    if (dataset->height != LENET_IMAGE_SIZE || dataset->width != LENET_IMAGE_SIZE) {
        fprintf(stderr, "%s: its images are %zux%zu; LeNet-5 takes %dx%d\n", images,
                dataset->height, dataset->width, LENET_IMAGE_SIZE, LENET_IMAGE_SIZE);
        return false;
    }
    return true;
}

/* Before the training, not after it, is the time to find that nothing can be written. */
static bool prepare_output(const char *folder)
{
    if ((mkdir(folder, 0777) != 0 && errno != EEXIST) || access(folder, W_OK | X_OK) != 0) {
        fprintf(stderr, "train_lenet: cannot write to %s: %s\n", folder, strerror(errno));
        return false;
    }
    return true;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static bool prepare(struct training *training)
{
    const struct options *options = &training->options;
    if (!read_dataset(options->data, "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                      &training->train) ||
        !read_dataset(options->data, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
                      &training->test) ||
        !prepare_output(options->output)) {
        return false;
    }

    const cnnkern_context_options context_options = {.num_threads = (size_t)options->threads};
    if (!succeeded(cnnkern_context_create(&context_options, sizeof context_options,
                                          &training->context))) {
        return false;
    }

    const size_t batch = (size_t)options->batch, count = training->train.count;
    const size_t steps = (size_t)options->epochs * ((count + batch - 1) / batch);
    training->random.state = options->seed;
    training->net = lenet_create(training->context, batch, options->algorithm, &training->random);
    training->order = malloc(count * sizeof *training->order);
    training->images = malloc(batch * LENET_IMAGE_PIXELS * sizeof *training->images);
    training->labels = malloc(batch);
    training->mistakes = malloc(training->test.count * sizeof *training->mistakes);
    training->loss.points = calloc(steps, sizeof(struct chart_point));
    training->accuracy.points = calloc((size_t)options->epochs, sizeof(struct chart_point));
    if (training->net == NULL || training->order == NULL || training->images == NULL ||
        training->labels == NULL || training->mistakes == NULL ||
        training->loss.points == NULL || training->accuracy.points == NULL ||
        !adam_create(&training->adam, lenet_parameter_count(training->net))) {
        fputs("train_lenet: out of memory\n", stderr);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        training->order[i] = i;
    }
    return true;
}

static void release(struct training *training)
{
    free(training->accuracy.points);
    free(training->loss.points);
    free(training->mistakes);
    free(training->labels);
    free(training->images);
    free(training->order);
    adam_destroy(&training->adam);
    lenet_destroy(training->net);
    cnnkern_context_destroy(training->context);
    idx_free(&training->test);
    idx_free(&training->train);
}

/* Puts an image into the batch, moved down and to the right. */
static void load_image(struct training *training, const struct idx_dataset *dataset, size_t index,
                       size_t place, int down, int right)
{
    idx_load(dataset, index, down, right, training->images + place * LENET_IMAGE_PIXELS);
    training->labels[place] = dataset->labels[index];
}

/* From -MAX_MOVE to MAX_MOVE pixels. */
static int random_move(struct random_stream *random)
{
    return (int)random_below(random, 2 * MAX_MOVE + 1) - MAX_MOVE;
}

/* One pass over the training images in a new order. */
static bool run_epoch(struct training *training, struct progress *progress)
{
    const size_t count = training->train.count, max_batch = (size_t)training->options.batch;
    const double epochs_done = (double)training->accuracy.count;
    const double images_in_all = (double)training->options.epochs * (double)count;
    double loss_sum = 0;
    random_shuffle(&training->random, training->order, count);

    for (size_t start = 0; start < count; start += max_batch) {
        const size_t batch = smaller(max_batch, count - start);
        for (size_t i = 0; i < batch; i++) {
            const int down = random_move(&training->random);
            const int right = random_move(&training->random);
            load_image(training, &training->train, training->order[start + i], i, down, right);
        }
        double loss;
        if (!succeeded(lenet_learn(training->net, batch, training->images, training->labels,
                                   &loss))) {
            return false;
        }
        const double seen = epochs_done * (double)count + (double)start;
        adam_step(&training->adam, LEARNING_RATE * (1 - seen / images_in_all),
                  lenet_gradients(training->net), lenet_parameters(training->net));

        loss_sum += loss * (double)batch;
        training->loss.points[training->loss.count++] =
            (struct chart_point){.images = seen + (double)batch, .value = loss};
        progress_update(progress, start + batch, loss_sum / (double)(start + batch));
    }
    return true;
}

static unsigned most_probable(const float *probabilities)
{
    unsigned best = 0;
    for (unsigned i = 1; i < LENET_CLASSES; i++) {
        best = probabilities[i] > probabilities[best] ? i : best;
    }
    return best;
}

/* Reads the test images, notes the mistakes, and adds the accuracy to the chart. */
static bool run_test(struct training *training)
{
    const struct idx_dataset *test = &training->test;
    const size_t max_batch = (size_t)training->options.batch;
    training->mistake_count = 0;
    for (size_t start = 0; start < test->count; start += max_batch) {
        const size_t batch = smaller(max_batch, test->count - start);
        for (size_t i = 0; i < batch; i++) {
            load_image(training, test, start + i, i, 0, 0);
        }
        const float *probabilities;
        if (!succeeded(lenet_classify(training->net, batch, training->images, &probabilities))) {
            return false;
        }
        for (size_t i = 0; i < batch; i++) {
            const float *probability = probabilities + i * LENET_CLASSES;
            const unsigned prediction = most_probable(probability);
            if (prediction != training->labels[i]) {
                training->mistakes[training->mistake_count++] = (struct mistake){
                    .image = test->images + (start + i) * LENET_IMAGE_PIXELS,
                    .label = training->labels[i],
                    .prediction = prediction,
                    .probability = probability[prediction],
                };
            }
        }
    }
    const size_t epoch = training->accuracy.count++;
    training->accuracy.points[epoch] = (struct chart_point){
        .images = (double)(epoch + 1) * (double)training->train.count,
        .value = 1 - (double)training->mistake_count / (double)test->count,
    };
    return true;
}

static double last_accuracy(const struct training *training)
{
    return training->accuracy.points[training->accuracy.count - 1].value;
}

static bool train(struct training *training)
{
    const size_t epochs = (size_t)training->options.epochs;
    struct progress progress = progress_create(epochs, training->train.count);
    const double start = seconds_now();
    for (size_t epoch = 1; epoch <= epochs; epoch++) {
        progress_begin_epoch(&progress, epoch);
        if (!run_epoch(training, &progress) || !run_test(training)) {
            return false;
        }
        progress_end_epoch(last_accuracy(training));
    }
    training->seconds = seconds_now() - start;
    return true;
}

/* FNV-1a, 64 bits. */
static uint64_t checksum(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

static bool report(const struct training *training)
{
    const struct options *options = &training->options;
    const double images_in_all = (double)options->epochs * (double)training->train.count;
    char subtitle[160], chart[MAX_PATH], mistakes[MAX_PATH];
    snprintf(subtitle, sizeof subtitle,
             "%zu images, epochs: %zu, batch: %zu, threads: %zu, kernels: %s; %.1f s",
             training->train.count, (size_t)options->epochs, (size_t)options->batch,
             cnnkern_context_num_threads(training->context),
             cnnkern_context_isa(training->context), training->seconds);
    if (!join_path(chart, sizeof chart, options->output, "training.svg") ||
        !join_path(mistakes, sizeof mistakes, options->output, "mistakes.svg") ||
        !chart_write(chart, subtitle, images_in_all, &training->loss, &training->accuracy) ||
        !mistakes_write(mistakes, LENET_IMAGE_SIZE, LENET_IMAGE_SIZE, training->mistakes,
                        training->mistake_count, training->test.count)) {
        return false;
    }

    const size_t size = lenet_parameter_count(training->net) * sizeof(float);
    printf("trained for %.1f s; see %s and %s\n", training->seconds, chart, mistakes);
    printf("weights checksum %016llx, the same for any --threads\n",
           (unsigned long long)checksum(lenet_parameters(training->net), size));
    printf("test accuracy %.3f\n", last_accuracy(training));
    return true;
}

int main(int argc, char **argv)
{
    const struct options defaults = {
        .data = DEFAULT_DATA, .output = ".", .epochs = 12, .batch = 32, .threads = 0, .seed = 1,
        .algorithm = CNNKERN_ALGORITHM_AUTO,
    };
    struct training training = {.options = options_parse(argc, argv, defaults)};
    bool done = prepare(&training);
    if (done) {
        printf("cnnkern %s, threads: %zu, kernels: %s\n"
               "LeNet-5 with %zu weights, %zu training and %zu test images\n",
               cnnkern_version(), cnnkern_context_num_threads(training.context),
               cnnkern_context_isa(training.context), lenet_parameter_count(training.net),
               training.train.count, training.test.count);
        if (training.options.benchmark) {
            done = succeeded(benchmark_run(training.context, training.options.algorithm,
                                           &training.train));
        } else {
            done = train(&training) && report(&training);
        }
    }
    release(&training);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
