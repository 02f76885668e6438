/* What an error looks like; and contexts with one thread, several, or the caller's own threads,
   which all give the same bits. */
#include "check.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum {
    BATCH = 5, IN_CHANNELS = 8, SIZE = 14, OUT_CHANNELS = 12, KERNEL = 3,
    X_COUNT = BATCH * IN_CHANNELS * SIZE * SIZE,
    W_COUNT = OUT_CHANNELS * IN_CHANNELS * KERNEL * KERNEL,
    Y_COUNT = BATCH * OUT_CHANNELS * SIZE * SIZE
};

static cnnkern_conv2d_params example_params(void)
{
    cnnkern_conv2d_params params = cnnkern_conv2d_params_default(
        BATCH, IN_CHANNELS, SIZE, SIZE, OUT_CHANNELS, KERNEL, KERNEL);
    params.pad_top = params.pad_bottom = params.pad_left = params.pad_right = 1;
    return params;
}

static void expect_error(cnnkern_status got, cnnkern_status expected)
{
    EXPECT(got == expected, "%s came back, not %s", cnnkern_status_name(got),
           cnnkern_status_name(expected));
    EXPECT(strlen(cnnkern_last_error()) > 0, "the error has no message");
    printf("  %s: %s\n", cnnkern_status_name(got), cnnkern_last_error());
}

/* A wrong call returns a status, leaves its outputs alone and says what was wrong. */
static void errors(void)
{
    float x[4 * 4] = {0}, w[3 * 3] = {0}, y[4] = {1, 2, 3, 4};
    const float y_before[4] = {1, 2, 3, 4};
    puts("errors look like this:");

    cnnkern_conv2d_params params = cnnkern_conv2d_params_default(1, 1, 4, 4, 1, 3, 3);
    expect_error(cnnkern_conv2d_forward_f32(NULL, &params, NULL, w, NULL,
                                            CNNKERN_ACTIVATION_NONE, y),
                 CNNKERN_STATUS_NULL_POINTER);
    expect_error(cnnkern_conv2d_forward_f32(NULL, &params, x, w, NULL, 99, y),
                 CNNKERN_STATUS_INVALID_ARGUMENT);

    params.stride_width = 0;
    expect_error(cnnkern_conv2d_forward_f32(NULL, &params, x, w, NULL,
                                            CNNKERN_ACTIVATION_NONE, y),
                 CNNKERN_STATUS_INVALID_ARGUMENT);

    params = cnnkern_conv2d_params_default(1, 1, SIZE_MAX / 2, SIZE_MAX / 2, 1, 3, 3);
    size_t out_height = 7, out_width = 7;
    expect_error(cnnkern_conv2d_output_size(&params, &out_height, &out_width),
                 CNNKERN_STATUS_SIZE_OVERFLOW);

    EXPECT(out_height == 7 && out_width == 7 && memcmp(y, y_before, sizeof y) == 0,
           "a failed call wrote to its output");
}

/* The results of a forward and a backward pass. */
struct results {
    float y[Y_COUNT], dx[X_COUNT], dw[W_COUNT], db[OUT_CHANNELS];
};

static void run(cnnkern_context *context, struct results *results)
{
    const cnnkern_conv2d_params params = example_params();
    float x[X_COUNT], w[W_COUNT], bias[OUT_CHANNELS], dy[Y_COUNT];
    fill_f32(x, X_COUNT, 1);
    fill_f32(w, W_COUNT, 2);
    fill_f32(bias, OUT_CHANNELS, 3);
    fill_f32(dy, Y_COUNT, 4);
    CHECK(cnnkern_conv2d_forward_f32(context, &params, x, w, bias, CNNKERN_ACTIVATION_RELU,
                                     results->y));
    CHECK(cnnkern_conv2d_backward_f32(context, &params, x, w, dy, results->y, NULL,
                                      results->dx, results->dw, results->db));
}

static void run_with(const cnnkern_context_options *options, const char *name,
                     struct results *results)
{
    cnnkern_context *context = NULL;
    CHECK(cnnkern_context_create(options, sizeof *options, &context));
    run(context, results);
    printf("%s: threads %zu, kernels %s\n", name, cnnkern_context_num_threads(context),
           cnnkern_context_isa(context));
    cnnkern_context_destroy(context);
}

/* A program with threads of its own can lend them to the library. This 'pool' starts its threads
   anew for each call, which a real one would not. */
enum { WORKERS = 3 };

struct worker {
    size_t first, count;
    cnnkern_task task;
    void *task_data;
};

static void *work(void *argument)
{
    const struct worker *self = argument;
    for (size_t index = self->first; index < self->count; index += WORKERS) {
        self->task(self->task_data, index);
    }
    return NULL;
}

static void parallel_for(void *user_data, size_t count, cnnkern_task task, void *task_data)
{
    size_t *calls = user_data;
    ++*calls;

    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];
    bool started[WORKERS];
    for (size_t i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){
            .first = i, .count = count, .task = task, .task_data = task_data,
        };
        /* Every task has to run, so the calling thread does what no thread could be had for. */
        started[i] = i > 0 && pthread_create(&threads[i], NULL, work, &workers[i]) == 0;
    }
    for (size_t i = 0; i < WORKERS; i++) {
        if (!started[i]) {
            work(&workers[i]);
        }
    }
    for (size_t i = 0; i < WORKERS; i++) {
        if (started[i]) {
            pthread_join(threads[i], NULL);
        }
    }
}

int main(void)
{
    errors();

    struct results expected, got;
    run_with(&(cnnkern_context_options){.num_threads = 1}, "the calling thread alone", &expected);

    run_with(&(cnnkern_context_options){.num_threads = 2}, "two threads", &got);
    EXPECT(memcmp(&got, &expected, sizeof got) == 0, "two threads gave other bits");

    run_with(&(cnnkern_context_options){.num_threads = 0}, "the default", &got);
    EXPECT(memcmp(&got, &expected, sizeof got) == 0, "the default context gave other bits");

    size_t calls = 0;
    run_with(&(cnnkern_context_options){
                 .num_threads = WORKERS, .parallel_for = parallel_for, .user_data = &calls},
             "our own threads", &got);
    EXPECT(memcmp(&got, &expected, sizeof got) == 0, "our own threads gave other bits");
    EXPECT(calls > 0, "our own threads were not used");

    run(NULL, &got); /* NULL is the context that the whole process shares */
    EXPECT(memcmp(&got, &expected, sizeof got) == 0, "the process-wide context gave other bits");

    puts("errors_and_contexts: ok");
    return EXIT_SUCCESS;
}
