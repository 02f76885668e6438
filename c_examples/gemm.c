/* Matrix products: a transposed factor, alpha and beta, rows longer than the matrix is wide, and
   a batch of products that share one factor. */
#include "check.h"

#include <float.h>
#include <math.h>

enum { M = 37, N = 29, K = 53, BATCH = 3 };

/* C = alpha * A * B^T + beta * C, where B and C are parts of wider matrices. */
static void product_inside_larger_matrices(void)
{
    enum { LDA = K, LDB = K + 3, LDC = N + 5 }; /* elements from one row to the next */
    const float alpha = 0.5f, beta = -2.0f;
    float a[M * LDA], b[N * LDB], c[M * LDC], before[M * LDC];
    fill_f32(a, M * LDA, 1);
    fill_f32(b, N * LDB, 2);
    fill_f32(before, M * LDC, 3);
    for (size_t i = 0; i < M * LDC; i++) {
        c[i] = before[i];
    }

    CHECK(cnnkern_gemm_f32(NULL, CNNKERN_NO_TRANSPOSE, CNNKERN_TRANSPOSE, M, N, K,
                           alpha, a, LDA, b, LDB, beta, c, LDC));

    for (size_t row = 0; row < M; row++) {
        for (size_t column = 0; column < LDC; column++) {
            const double old = before[row * LDC + column];
            const double got = c[row * LDC + column];
            if (column >= N) {
                EXPECT(got == old, "gemm wrote beside C, at row %zu, column %zu", row, column);
                continue;
            }
            double expected = beta * old, magnitude = fabs(expected);
            for (size_t i = 0; i < K; i++) {
                const double term = (double)alpha * a[row * LDA + i] * b[column * LDB + i];
                expected += term;
                magnitude += fabs(term);
            }
            /* Each of the K products and the sums and scalings after it may round once. */
            EXPECT(fabs(got - expected) <= (K + 3) * FLT_EPSILON * magnitude,
                   "C[%zu, %zu] is %.9g, %.9g expected", row, column, got, expected);
        }
    }
}

/* C[i] = A * B[i] for a whole batch in one call. A stride of 0 uses the same A every time. */
static void batch_with_a_shared_factor(void)
{
    double a[M * K], b[BATCH * K * N], c[BATCH * M * N], single[M * N];
    fill_f64(a, M * K, 4);
    fill_f64(b, BATCH * K * N, 5);
    for (size_t i = 0; i < BATCH * M * N; i++) {
        c[i] = NAN; /* beta is 0, so C may hold anything: it is not read */
    }

    CHECK(cnnkern_gemm_batched_f64(NULL, CNNKERN_NO_TRANSPOSE, CNNKERN_NO_TRANSPOSE, M, N, K,
                                   1.0, a, K, b, N, 0.0, c, N,
                                   BATCH, 0, K * N, M * N));

    for (size_t i = 0; i < BATCH; i++) {
        CHECK(cnnkern_gemm_f64(NULL, CNNKERN_NO_TRANSPOSE, CNNKERN_NO_TRANSPOSE, M, N, K,
                               1.0, a, K, b + i * K * N, N, 0.0, single, N));
        for (size_t j = 0; j < M * N; j++) {
            const double difference = fabs(c[i * M * N + j] - single[j]);
            /* Both sum K products of numbers below 1. */
            EXPECT(difference <= 2 * K * DBL_EPSILON * K,
                   "product %zu of the batch is off by %g", i, difference);
        }
    }
}

int main(void)
{
    product_inside_larger_matrices();
    batch_with_a_shared_factor();
    puts("gemm: ok");
    return EXIT_SUCCESS;
}
