/* Max-pooling with windows that overlap: a pixel that wins in several windows gets the sum of
   their gradients. The winners' places are kept in one byte each, or as 32-bit integers. */
#include "check.h"

#include <string.h>

enum { IN = 5, OUT = 2 };

/* Four 3x3 windows, two apart; they all share the pixel in the middle. */
static const float x[IN * IN] = {
    1, 2, 3, 4, 0,
    0, 1, 0, 5, 1,
    2, 1, 4, 1, 7,
    6, 0, 2, 1, 0,
    6, 1, 0, 3, 2,
};
static const float expected_y[OUT * OUT] = {
    4, 7,
    6, 7,
};
/* kernel row * 3 + kernel column; of the two sixes at the lower left the first one wins. */
static const unsigned char expected_argmax[OUT * OUT] = {
    8, 8,
    3, 2,
};
static const float dy[OUT * OUT] = {
    10, 20,
    30, 40,
};
/* The seven wins twice: 20 + 40. */
static const float expected_dx[IN * IN] = {
    0, 0, 0, 0, 0,
    0, 0, 0, 0, 0,
    0, 0, 10, 0, 60,
    30, 0, 0, 0, 0,
    0, 0, 0, 0, 0,
};

static void expect_equal(const char *name, const float *got, const float *expected, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        EXPECT(got[i] == expected[i], "%s[%zu] is %g, %g expected", name, i, got[i], expected[i]);
    }
}

int main(void)
{
    cnnkern_pool2d_params params = cnnkern_pool2d_params_default(1, 1, IN, IN, 3, 3);
    params.stride_height = params.stride_width = 2; /* the default is the kernel: no overlap */

    size_t out_height, out_width;
    CHECK(cnnkern_pool2d_output_size(&params, &out_height, &out_width));
    EXPECT(out_height == OUT && out_width == OUT, "the output is %zu x %zu", out_height, out_width);

    float y[OUT * OUT], dx[IN * IN];
    unsigned char argmax_u8[OUT * OUT];
    params.argmax_type = CNNKERN_ARGMAX_U8;
    CHECK(cnnkern_maxpool2d_forward_f32(NULL, &params, x, y, argmax_u8));
    expect_equal("y", y, expected_y, OUT * OUT);
    EXPECT(memcmp(argmax_u8, expected_argmax, sizeof argmax_u8) == 0, "another pixel won");
    CHECK(cnnkern_maxpool2d_backward_f32(NULL, &params, dy, argmax_u8, dx));
    expect_equal("dx", dx, expected_dx, IN * IN);

    /* Windows of more than 256 cells need the wider type; here it says the same. */
    int32_t argmax_i32[OUT * OUT];
    params.argmax_type = CNNKERN_ARGMAX_I32;
    CHECK(cnnkern_maxpool2d_forward_f32(NULL, &params, x, y, argmax_i32));
    expect_equal("y", y, expected_y, OUT * OUT);
    for (size_t i = 0; i < OUT * OUT; i++) {
        EXPECT(argmax_i32[i] == expected_argmax[i], "window %zu was won by %d", i,
               (int)argmax_i32[i]);
    }
    memset(dx, 0xff, sizeof dx); /* all NaN: dx is overwritten, never added to */
    CHECK(cnnkern_maxpool2d_backward_f32(NULL, &params, dy, argmax_i32, dx));
    expect_equal("dx", dx, expected_dx, IN * IN);

    /* Without a backward pass no places are needed. */
    CHECK(cnnkern_maxpool2d_forward_f32(NULL, &params, x, y, NULL));
    expect_equal("y", y, expected_y, OUT * OUT);

    puts("maxpool_overlap: ok");
    return EXIT_SUCCESS;
}
