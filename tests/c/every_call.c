/* Compiled as C99 and as C++17, linked against libcnnkern.so and libcnnkern.a, and run: names every
 * function that the header declares, and calls a few of each family on numbers that a reader can
 * check by heart. every_function.inc is made by tests/c_link.rs from the header: NAME(f) a line. */
#include "cnnkern.h"

#include <stdio.h>
#include <string.h>

typedef void (*function)(void);

#define NAME(f) (function)f,
static const function every_function[] = {
#include "every_function.inc"
};
#undef NAME

static int failures = 0;

static void check(int holds, int line, const char *condition) {
  if (!holds) {
    fprintf(stderr, "line %d: not so: %s (last error: \"%s\")\n", line, condition, cnnkern_last_error());
    failures++;
  }
}
#define CHECK(condition) check(condition, __LINE__, #condition)
#define CHECK_OK(call) CHECK((call) == CNNKERN_STATUS_OK)

/* A pool of one thread, the caller's. */
static void in_a_row(void *user_data, size_t count, cnnkern_task task, void *task_data) {
  size_t i;
  for (i = 0; i < count; i++) task(task_data, i);
  *(size_t *)user_data += count;
}

int main(void) {
  size_t i, out_height = 0, out_width = 0, len = 0, tasks = 0;
  const float x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const double x64[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const float w[4] = {1, 0, 0, -1};
  float y[4], dx[9], col[16], c[4] = {0, 0, 0, 0};
  double y64[4];
  int32_t argmax[4];
  cnnkern_algorithm algorithm = CNNKERN_ALGORITHM_AUTO;
  const char *reason = NULL;
  cnnkern_context *context = NULL;
  cnnkern_context_options options = {2, in_a_row, NULL};
  cnnkern_conv2d_params conv = cnnkern_conv2d_params_default(1, 1, 3, 3, 1, 2, 2);
  cnnkern_pool2d_params pool = cnnkern_pool2d_params_default(1, 1, 3, 3, 2, 2);
  options.user_data = &tasks;

  for (i = 0; i < sizeof every_function / sizeof *every_function; i++) {
    CHECK(every_function[i] != NULL);
  }

  CHECK(strcmp(cnnkern_version(), EXPECTED_VERSION) == 0);
  CHECK(cnnkern_abi_version() == CNNKERN_ABI_VERSION);
  CHECK(strcmp(cnnkern_status_name(CNNKERN_STATUS_INTERNAL), "CNNKERN_STATUS_INTERNAL") == 0);
  CHECK(strcmp(cnnkern_last_error(), "") == 0);

  CHECK_OK(cnnkern_context_create(&options, sizeof options, &context));
  CHECK(cnnkern_context_num_threads(context) == 2);
  CHECK(strlen(cnnkern_context_isa(context)) > 0);

  CHECK_OK(cnnkern_conv2d_output_size(&conv, &out_height, &out_width));
  CHECK(out_height == 2 && out_width == 2);
  CHECK_OK(cnnkern_conv2d_query_f32(context, &conv, CNNKERN_PASS_BACKWARD_DATA, &algorithm, &len, &reason));
  CHECK(algorithm == CNNKERN_ALGORITHM_GEMM && len > 0 && strlen(reason) > 0);
  CHECK_OK(cnnkern_conv2d_forward_f32(context, &conv, x, w, NULL, CNNKERN_ACTIVATION_NONE, y));
  CHECK(y[0] == -4 && y[1] == -4 && y[2] == -4 && y[3] == -4);
  CHECK_OK(cnnkern_conv2d_forward_f32(NULL, &conv, x, w, NULL, CNNKERN_ACTIVATION_RELU, y));
  CHECK(y[0] == 0 && y[1] == 0 && y[2] == 0 && y[3] == 0);
  CHECK_OK(cnnkern_conv2d_backward_f32(context, &conv, NULL, w, w, NULL, NULL, dx, NULL, NULL));
  CHECK(dx[0] == 1 && dx[4] == -2 && dx[8] == 1 && dx[1] == 0);

  CHECK_OK(cnnkern_col_len(&conv, &len));
  CHECK(len == 16);
  CHECK_OK(cnnkern_im2col_f32(context, &conv, CNNKERN_COL_PATCH_ROWS, x, col));
  CHECK(col[0] == 1 && col[3] == 5 && col[15] == 9);

  pool.stride_height = pool.stride_width = 1;
  CHECK_OK(cnnkern_maxpool2d_forward_f32(context, &pool, x, y, argmax));
  CHECK(y[0] == 5 && y[3] == 9 && argmax[0] == 3);
  CHECK_OK(cnnkern_avgpool2d_forward_f64(context, &pool, x64, y64));
  CHECK(y64[0] == 3 && y64[3] == 7);

  /* One window of 2 x 2 over the convolution's output: four times -4, of which the first counts. */
  pool = cnnkern_pool2d_params_default(1, 1, 2, 2, 2, 2);
  CHECK_OK(cnnkern_conv2d_maxpool2d_forward_f32(context, &conv, &pool, x, w, NULL, CNNKERN_ACTIVATION_NONE, y, argmax));
  CHECK(y[0] == -4 && argmax[0] == 0);
  CHECK_OK(cnnkern_conv2d_maxpool2d_backward_f32(context, &conv, &pool, x, w, w, argmax, NULL, NULL, dx, y, NULL));
  CHECK(dx[0] == 1 && dx[4] == -1 && dx[8] == 0 && y[0] == 1 && y[3] == 5);

  CHECK_OK(cnnkern_gemm_f32(context, CNNKERN_NO_TRANSPOSE, CNNKERN_TRANSPOSE, 2, 2, 2, 2, x, 3, x, 3, 0, c, 2));
  CHECK(c[0] == 10 && c[1] == 28 && c[2] == 28 && c[3] == 82);
  c[1] = -1;
  CHECK_OK(cnnkern_relu_forward_f32(context, 4, c, c));
  CHECK(c[0] == 10 && c[1] == 0);

  CHECK(cnnkern_relu_forward_f32(context, 4, NULL, c) == CNNKERN_STATUS_NULL_POINTER);
  CHECK(strcmp(cnnkern_last_error(), "u must not be NULL") == 0);
  cnnkern_context_destroy(context);
  cnnkern_context_destroy(NULL);

  if (failures == 0) printf("every call did what it says\n");
  return failures != 0;
}
