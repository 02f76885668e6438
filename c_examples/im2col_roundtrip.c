/* im2col lays the patches of an image out as a matrix, so that a convolution is one product;
   col2im adds the patches up again. (cnnkern_conv2d_* does without the matrix: this is for code
   that wants the patches themselves.) */
#include "check.h"

#include <float.h>
#include <math.h>

enum {
    BATCH = 2, IN_CHANNELS = 3, IN_HEIGHT = 10, IN_WIDTH = 9, OUT_CHANNELS = 5, KERNEL = 3,
    OUT_HEIGHT = IN_HEIGHT + 1 - KERNEL + 1, /* a row of padding above, */
    OUT_WIDTH = IN_WIDTH + 2 - KERNEL + 1,   /* and two columns to the right */
    PATCH = IN_CHANNELS * KERNEL * KERNEL,
    PATCHES = OUT_HEIGHT * OUT_WIDTH, /* in one image */
    X_COUNT = BATCH * IN_CHANNELS * IN_HEIGHT * IN_WIDTH,
    COL_COUNT = BATCH * PATCH * PATCHES,
    Y_COUNT = BATCH * OUT_CHANNELS * PATCHES
};

/* y[n] = w * col[n] for each image: the batched product reads the weights again each time. */
static void convolution_is_a_product(const cnnkern_conv2d_params *params)
{
    float x[X_COUNT], w[OUT_CHANNELS * PATCH], col[COL_COUNT], y[Y_COUNT], expected[Y_COUNT];
    fill_f32(x, X_COUNT, 1);
    fill_f32(w, OUT_CHANNELS * PATCH, 2);

    CHECK(cnnkern_im2col_f32(NULL, params, CNNKERN_COL_PER_IMAGE, x, col));
    CHECK(cnnkern_gemm_batched_f32(NULL, CNNKERN_NO_TRANSPOSE, CNNKERN_NO_TRANSPOSE,
                                   OUT_CHANNELS, PATCHES, PATCH,
                                   1.0f, w, PATCH, col, PATCHES, 0.0f, y, PATCHES,
                                   BATCH, 0, PATCH * PATCHES, OUT_CHANNELS * PATCHES));

    CHECK(cnnkern_conv2d_forward_f32(NULL, params, x, w, NULL, CNNKERN_ACTIVATION_NONE, expected));
    for (size_t i = 0; i < Y_COUNT; i++) {
        /* Both are sums of PATCH products of numbers below 1. */
        EXPECT(fabs((double)y[i] - expected[i]) <= 2.0 * PATCH * FLT_EPSILON * PATCH,
               "y[%zu] is %.9g by im2col, %.9g by conv2d", i, y[i], expected[i]);
    }
}

/* col2im(im2col(x)) is each pixel times the number of patches that hold it. */
static void round_trip(const cnnkern_conv2d_params *params, cnnkern_col_layout col_layout)
{
    float x[X_COUNT], col[COL_COUNT], sums[X_COUNT], patches_of[X_COUNT];
    for (size_t i = 0; i < X_COUNT; i++) {
        x[i] = (float)(i % 17) - 8; /* small integers, so that every sum is exact */
    }
    CHECK(cnnkern_im2col_f32(NULL, params, col_layout, x, col));
    CHECK(cnnkern_col2im_f32(NULL, params, col_layout, col, sums));

    for (size_t i = 0; i < COL_COUNT; i++) {
        col[i] = 1;
    }
    CHECK(cnnkern_col2im_f32(NULL, params, col_layout, col, patches_of));
    for (size_t i = 0; i < X_COUNT; i++) {
        EXPECT(patches_of[i] >= 1 && patches_of[i] <= KERNEL * KERNEL,
               "pixel %zu lies in %g patches", i, patches_of[i]);
        EXPECT(sums[i] == patches_of[i] * x[i],
               "pixel %zu came back as %g, %g expected", i, sums[i], patches_of[i] * x[i]);
    }
}

/* col2im is im2col's adjoint: <im2col(x), col> = <x, col2im(col)>. That makes it the step that
   takes a gradient from the patches back to the image. */
static void adjoint(const cnnkern_conv2d_params *params, cnnkern_col_layout col_layout)
{
    double x[X_COUNT], col[COL_COUNT], x_patches[COL_COUNT], col_sums[X_COUNT];
    fill_f64(x, X_COUNT, 3);
    fill_f64(col, COL_COUNT, 4);
    CHECK(cnnkern_im2col_f64(NULL, params, col_layout, x, x_patches));
    CHECK(cnnkern_col2im_f64(NULL, params, col_layout, col, col_sums));

    double in_patches = 0, in_images = 0;
    for (size_t i = 0; i < COL_COUNT; i++) {
        in_patches += x_patches[i] * col[i];
    }
    for (size_t i = 0; i < X_COUNT; i++) {
        in_images += x[i] * col_sums[i];
    }
    /* The same COL_COUNT products of numbers below 1, summed in two orders. */
    EXPECT(fabs(in_patches - in_images) <= 2.0 * COL_COUNT * DBL_EPSILON * COL_COUNT,
           "%.12g in patches, %.12g in images", in_patches, in_images);
}

int main(void)
{
    cnnkern_conv2d_params params = cnnkern_conv2d_params_default(
        BATCH, IN_CHANNELS, IN_HEIGHT, IN_WIDTH, OUT_CHANNELS, KERNEL, KERNEL);
    params.pad_top = 1;
    params.pad_right = 2;

    convolution_is_a_product(&params);
    const cnnkern_col_layout col_layouts[] = {
        CNNKERN_COL_PATCH_ROWS, CNNKERN_COL_PATCH_COLUMNS, CNNKERN_COL_PER_IMAGE,
    };
    for (size_t i = 0; i < sizeof col_layouts / sizeof col_layouts[0]; i++) {
        round_trip(&params, col_layouts[i]);
        adjoint(&params, col_layouts[i]);
    }
    puts("im2col_roundtrip: ok");
    return EXIT_SUCCESS;
}
