/* The same convolution in two layouts: images as NHWC with filters as HWIO (TensorFlow's), and
   images as NCHW with filters as OIHW (PyTorch's). No layout is a second-class one: nothing is
   transposed by the caller in real use, here only to compare. */
#include "check.h"

#include <float.h>
#include <math.h>

enum {
    BATCH = 2, IN_CHANNELS = 3, IN_HEIGHT = 11, IN_WIDTH = 13, OUT_CHANNELS = 8, KERNEL = 3,
    OUT_HEIGHT = IN_HEIGHT, OUT_WIDTH = IN_WIDTH, /* 'same' padding */
    PATCH = IN_CHANNELS * KERNEL * KERNEL,
    X_COUNT = BATCH * IN_CHANNELS * IN_HEIGHT * IN_WIDTH,
    W_COUNT = OUT_CHANNELS * PATCH,
    Y_COUNT = BATCH * OUT_CHANNELS * OUT_HEIGHT * OUT_WIDTH
};

static void nchw_from_nhwc(const float *nhwc, float *nchw, size_t channels)
{
    const size_t pixels = IN_HEIGHT * IN_WIDTH;
    for (size_t n = 0; n < BATCH; n++) {
        for (size_t pixel = 0; pixel < pixels; pixel++) {
            for (size_t c = 0; c < channels; c++) {
                nchw[(n * channels + c) * pixels + pixel] = *nhwc++;
            }
        }
    }
}

static void oihw_from_hwio(const float *hwio, float *oihw)
{
    for (size_t place = 0; place < KERNEL * KERNEL; place++) {
        for (size_t i = 0; i < IN_CHANNELS; i++) {
            for (size_t o = 0; o < OUT_CHANNELS; o++) {
                oihw[(o * IN_CHANNELS + i) * KERNEL * KERNEL + place] = *hwio++;
            }
        }
    }
}

/* Every value is a sum of `terms` products of numbers below `bound`, summed in either order. */
static void expect_close(const char *name, const float *got, const float *expected, size_t count,
                         size_t terms, double bound)
{
    const double tolerance = 2.0 * (double)terms * FLT_EPSILON * (double)terms * bound;
    for (size_t i = 0; i < count; i++) {
        EXPECT(fabs((double)got[i] - expected[i]) <= tolerance,
               "%s[%zu] is %.9g as NHWC, %.9g as NCHW", name, i, got[i], expected[i]);
    }
}

int main(void)
{
    cnnkern_conv2d_params nchw = cnnkern_conv2d_params_default(
        BATCH, IN_CHANNELS, IN_HEIGHT, IN_WIDTH, OUT_CHANNELS, KERNEL, KERNEL);
    nchw.pad_top = nchw.pad_bottom = nchw.pad_left = nchw.pad_right = 1;
    cnnkern_conv2d_params nhwc = nchw;
    nhwc.layout = CNNKERN_LAYOUT_NHWC;
    nhwc.filter_layout = CNNKERN_FILTER_HWIO;

    float x[X_COUNT], w[W_COUNT], bias[OUT_CHANNELS], dy[Y_COUNT];
    fill_f32(x, X_COUNT, 1);
    fill_f32(w, W_COUNT, 2);
    fill_f32(bias, OUT_CHANNELS, 3);
    fill_f32(dy, Y_COUNT, 4);

    float y[Y_COUNT], dx[X_COUNT], dw[W_COUNT], db[OUT_CHANNELS];
    CHECK(cnnkern_conv2d_forward_f32(NULL, &nhwc, x, w, bias, CNNKERN_ACTIVATION_NONE, y));
    CHECK(cnnkern_conv2d_backward_f32(NULL, &nhwc, x, w, dy, NULL, NULL, dx, dw, db));

    /* The same on transposed copies. */
    float x_nchw[X_COUNT], w_oihw[W_COUNT], dy_nchw[Y_COUNT];
    nchw_from_nhwc(x, x_nchw, IN_CHANNELS);
    oihw_from_hwio(w, w_oihw);
    nchw_from_nhwc(dy, dy_nchw, OUT_CHANNELS);
    float y_nchw[Y_COUNT], dx_nchw[X_COUNT], dw_oihw[W_COUNT], db_nchw[OUT_CHANNELS];
    CHECK(cnnkern_conv2d_forward_f32(NULL, &nchw, x_nchw, w_oihw, bias, CNNKERN_ACTIVATION_NONE,
                                     y_nchw));
    CHECK(cnnkern_conv2d_backward_f32(NULL, &nchw, x_nchw, w_oihw, dy_nchw, NULL, NULL,
                                      dx_nchw, dw_oihw, db_nchw));

    float y_transposed[Y_COUNT], dx_transposed[X_COUNT], dw_transposed[W_COUNT];
    nchw_from_nhwc(y, y_transposed, OUT_CHANNELS);
    nchw_from_nhwc(dx, dx_transposed, IN_CHANNELS);
    oihw_from_hwio(dw, dw_transposed);
    const size_t outputs_per_channel = BATCH * OUT_HEIGHT * OUT_WIDTH;
    expect_close("y", y_transposed, y_nchw, Y_COUNT, PATCH + 1, 1);
    expect_close("dx", dx_transposed, dx_nchw, X_COUNT, OUT_CHANNELS * KERNEL * KERNEL, 1);
    expect_close("dw", dw_transposed, dw_oihw, W_COUNT, outputs_per_channel, 1);
    expect_close("db", db, db_nchw, OUT_CHANNELS, outputs_per_channel, 1);

    puts("conv_nhwc: ok");
    return EXIT_SUCCESS;
}
