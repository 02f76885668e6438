/* A convolution with bias and ReLU forwards, all of its gradients in one call backwards, and the
   proof by finite differences that they are right. In double, where differences mean something. */
#include "check.h"

#include <float.h>
#include <math.h>

enum {
    BATCH = 2, IN_CHANNELS = 4, IN_HEIGHT = 9, IN_WIDTH = 8,
    OUT_CHANNELS = 6, KERNEL = 3, STRIDE = 2, GROUPS = 2,
    OUT_HEIGHT = (IN_HEIGHT + 2 - KERNEL) / STRIDE + 1, /* one row and column of padding around */
    OUT_WIDTH = (IN_WIDTH + 2 - KERNEL) / STRIDE + 1,
    PATCH = IN_CHANNELS / GROUPS * KERNEL * KERNEL, /* products in one output */
    X_COUNT = BATCH * IN_CHANNELS * IN_HEIGHT * IN_WIDTH,
    W_COUNT = OUT_CHANNELS * PATCH,
    Y_COUNT = BATCH * OUT_CHANNELS * OUT_HEIGHT * OUT_WIDTH
};

struct convolution {
    cnnkern_conv2d_params params;
    double x[X_COUNT], w[W_COUNT], bias[OUT_CHANNELS];
    double dy[Y_COUNT]; /* the loss is sum(dy * y), so this is its gradient at y */
};

static double loss(const struct convolution *conv)
{
    double y[Y_COUNT], sum = 0;
    CHECK(cnnkern_conv2d_forward_f64(NULL, &conv->params, conv->x, conv->w, conv->bias,
                                     CNNKERN_ACTIVATION_RELU, y));
    for (size_t i = 0; i < Y_COUNT; i++) {
        sum += conv->dy[i] * y[i];
    }
    return sum;
}

/* The loss with every term made positive: what its rounding errors are in proportion to. */
static double loss_magnitude(const struct convolution *conv)
{
    struct convolution positive = *conv;
    for (size_t i = 0; i < X_COUNT; i++) positive.x[i] = fabs(conv->x[i]);
    for (size_t i = 0; i < W_COUNT; i++) positive.w[i] = fabs(conv->w[i]);
    for (size_t i = 0; i < OUT_CHANNELS; i++) positive.bias[i] = fabs(conv->bias[i]);
    for (size_t i = 0; i < Y_COUNT; i++) positive.dy[i] = fabs(conv->dy[i]);
    return loss(&positive);
}

/* `values` is one of the arrays in `conv`, and `gradient` the loss's gradient for it. */
static void check_gradient(struct convolution *conv, const char *name, double *values,
                           const double *gradient, size_t count, double step, double tolerance)
{
    for (size_t i = 0; i < count; i++) {
        const double value = values[i];
        values[i] = value + step;
        const double above = loss(conv);
        values[i] = value - step;
        const double below = loss(conv);
        values[i] = value;
        const double expected = (above - below) / (2 * step);
        EXPECT(fabs(gradient[i] - expected) <= tolerance,
               "%s[%zu] is %.12g, %.12g by finite differences", name, i, gradient[i], expected);
    }
}

int main(void)
{
    struct convolution conv;
    conv.params = cnnkern_conv2d_params_default(BATCH, IN_CHANNELS, IN_HEIGHT, IN_WIDTH,
                                                OUT_CHANNELS, KERNEL, KERNEL);
    conv.params.stride_height = conv.params.stride_width = STRIDE;
    conv.params.pad_top = conv.params.pad_bottom = 1;
    conv.params.pad_left = conv.params.pad_right = 1;
    conv.params.groups = GROUPS;
    fill_f64(conv.x, X_COUNT, 1);
    fill_f64(conv.w, W_COUNT, 2);
    fill_f64(conv.bias, OUT_CHANNELS, 3);
    fill_f64(conv.dy, Y_COUNT, 4);

    size_t out_height, out_width;
    CHECK(cnnkern_conv2d_output_size(&conv.params, &out_height, &out_width));
    EXPECT(out_height == OUT_HEIGHT && out_width == OUT_WIDTH,
           "the output is %zu x %zu", out_height, out_width);

    double y[Y_COUNT];
    CHECK(cnnkern_conv2d_forward_f64(NULL, &conv.params, conv.x, conv.w, conv.bias,
                                     CNNKERN_ACTIVATION_RELU, y));

    /* The backward pass masks dy where the ReLU was closed, if it is given y. */
    double dx[X_COUNT], dw[W_COUNT], db[OUT_CHANNELS];
    CHECK(cnnkern_conv2d_backward_f64(NULL, &conv.params, conv.x, conv.w, conv.dy, y, NULL,
                                      dx, dw, db));

    /* Away from the ReLU's kink the loss is linear in each value, so that the differences are
       exact but for rounding. With values below 1, a step moves no pre-activation by more than
       itself: check that none lies so close to the kink. */
    const double step = 1e-4;
    double u[Y_COUNT];
    CHECK(cnnkern_conv2d_forward_f64(NULL, &conv.params, conv.x, conv.w, conv.bias,
                                     CNNKERN_ACTIVATION_NONE, u));
    for (size_t i = 0; i < Y_COUNT; i++) {
        EXPECT(fabs(u[i]) > 2 * step, "output %zu lies on the kink", i);
    }
    const double rounding = (PATCH + Y_COUNT + 2) * DBL_EPSILON * loss_magnitude(&conv);
    const double tolerance = 2 * rounding / (2 * step) + rounding;

    check_gradient(&conv, "dx", conv.x, dx, X_COUNT, step, tolerance);
    check_gradient(&conv, "dw", conv.w, dw, W_COUNT, step, tolerance);
    check_gradient(&conv, "db", conv.bias, db, OUT_CHANNELS, step, tolerance);

    /* Gradients can be added to what is there, as when a batch is worked through in parts:
       twice the same pass, the second with beta = 1, gives twice the gradient. */
    const cnnkern_conv2d_gradient_options add = {
        .dx_alpha = 1, .dx_beta = 1, .dw_alpha = 1, .dw_beta = 1, .db_alpha = 1, .db_beta = 1,
    };
    double twice[W_COUNT];
    for (size_t i = 0; i < W_COUNT; i++) {
        twice[i] = dw[i];
    }
    /* dx and db are not wanted, so neither they nor w are given. */
    CHECK(cnnkern_conv2d_backward_f64(NULL, &conv.params, conv.x, NULL, conv.dy, y, &add,
                                      NULL, twice, NULL));
    for (size_t i = 0; i < W_COUNT; i++) {
        EXPECT(fabs(twice[i] - 2 * dw[i]) <= rounding, "dw[%zu] was not added to", i);
    }

    printf("conv_gradients: ok, within %.1e of finite differences\n", tolerance);
    return EXIT_SUCCESS;
}
