//! Products of a matrix and a vector, or a few: bound by the memory that the matrix is read from, so it is
//! read once, in long runs, as it lies.

use crate::runs;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, TileKernel};

/// A vector times a matrix whose rows are contiguous: y\[n\] = alpha * x\[k\] B\[k, n\] + beta * y.
///
/// Each element of y is one chain of multiply-adds in the order of the depth.
#[derive(Clone, Copy)]
pub(super) struct VectorByMatrix<T> {
    pub n: usize,
    pub k: usize,
    pub alpha: T,
    pub x: *const T,
    pub x_stride: usize,
    pub b: *const T,
    pub ldb: usize,
    pub beta: T,
    pub y: *mut T,
}

impl<T: Element> Kernel<T> for VectorByMatrix<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let mut column = 0;
        while column < self.n {
            let vectors = (self.n - column) / S::LANES;
            let columns = Columns { product: &self, column };
            if vectors < S::TILE_VECTORS {
                let count = S::LANES.min(self.n - column);
                simd.tile(1, 1, &columns);
                column += count;
                continue;
            }
            let rows = (vectors / S::TILE_VECTORS).min(S::TILE_ROWS);
            simd.tile(rows, S::TILE_VECTORS, &columns);
            column += rows * S::TILE_VECTORS * S::LANES;
        }
    }
}

/// A tile's worth of y's vectors, from `column` on; a single one may be cut.
struct Columns<'a, T> {
    product: &'a VectorByMatrix<T>,
    column: usize,
}

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Columns<'_, T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        let VectorByMatrix { n, k, alpha, x, x_stride, b, ldb, beta, y } = *self.product;
        let single = ROWS * VECTORS == 1;
        let count = if single { S::LANES.min(n - self.column) } else { S::LANES };
        let mask = simd.mask_between(0, count);
        let mut sums = [[simd.splat(T::default()); VECTORS]; ROWS];
        // SAFETY: whoever made the product answers for the operands, which have these columns.
        unsafe {
            let (mut left, mut right) = (x, b.add(self.column));
            for _ in 0..k {
                let factor = simd.splat(*left);
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let from = right.add((r * VECTORS + v) * S::LANES);
                        let lanes = match single {
                            true => simd.load_where(mask, from),
                            false => simd.load(from),
                        };
                        *sum = simd.mul_add(factor, lanes, *sum);
                    }
                }
                left = left.wrapping_add(x_stride);
                right = right.wrapping_add(ldb);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    let target = y.add(self.column + (r * VECTORS + v) * S::LANES);
                    let mut value = simd.mul(simd.splat(alpha), sum);
                    if beta != T::default() {
                        let old = runs::load(simd, count, target);
                        value = simd.mul_add(simd.splat(beta), old, value);
                    }
                    runs::store(simd, count, target, value);
                }
            }
        }
    }
}

/// A matrix whose rows are contiguous times a few contiguous vectors, the columns of B: C\[m, n\] =
/// alpha * A\[m, k\] B\[k, n\] + beta * C.
///
/// Each element of C is summed in the lanes of a cache line, which are then added in pairs.
#[derive(Clone, Copy)]
pub(super) struct MatrixByVectors<T> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: T,
    pub a: *const T,
    pub lda: usize,
    pub b: *const T,
    /// From column to column.
    pub b_stride: usize,
    pub beta: T,
    pub c: *mut T,
    /// Along (row, column).
    pub c_strides: [usize; 2],
}

impl<T: Element> Kernel<T> for MatrixByVectors<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // A cache line as AVX2 and AVX-512 have it; the portable lanes need not agree with them.
        let vectors = (CACHE_LINE / size_of::<T>() / S::LANES).min(S::TILE_VECTORS);
        for row in (0..self.m).step_by(S::TILE_ROWS) {
            let rows = S::TILE_ROWS.min(self.m - row);
            // The first column leaves the rows in a cache.
            for column in 0..self.n {
                simd.tile(rows, vectors, &Rows { product: &self, row, column });
            }
        }
    }
}

/// Some rows of A, from `row` on, times a column, each summed in VECTORS vectors.
struct Rows<'a, T> {
    product: &'a MatrixByVectors<T>,
    row: usize,
    column: usize,
}

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Rows<'_, T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        let MatrixByVectors { k, alpha, a, lda, b, b_stride, beta, c, c_strides, .. } =
            *self.product;
        let step = VECTORS * S::LANES;
        let mut sums = [[simd.splat(T::default()); VECTORS]; ROWS];
        // SAFETY: whoever made the product answers for the operands, which have these rows.
        unsafe {
            let a = a.add(self.row * lda);
            let b = b.add(self.column * b_stride);
            let whole = k / step * step;
            for depth in (0..whole).step_by(step) {
                for v in 0..VECTORS {
                    let place = depth + v * S::LANES;
                    let factor = simd.load(b.add(place));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let lanes = simd.load(a.add(r * lda + place));
                        sums[v] = simd.mul_add(lanes, factor, sums[v]);
                    }
                }
            }
            for v in 0..VECTORS {
                let place = whole + v * S::LANES;
                let count = S::LANES.min(k.saturating_sub(place));
                let factor = simd.load_first(count, b.wrapping_add(place));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let lanes = simd.load_first(count, a.wrapping_add(r * lda + place));
                    sums[v] = simd.mul_add(lanes, factor, sums[v]);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let mut lanes = [T::default(); CACHE_LINE / size_of::<f32>()];
                for (v, &sum) in sums.iter().enumerate() {
                    simd.store(lanes.as_mut_ptr().add(v * S::LANES), sum);
                }
                let target = c.add((self.row + r) * c_strides[0] + self.column * c_strides[1]);
                let value = alpha * sum_in_pairs(&mut lanes[..step]);
                *target = match beta == T::default() {
                    true => value,
                    false => value + beta * *target,
                };
            }
        }
    }
}

/// The sum of a power of two of lanes: each half is added to the other.
#[inline(always)]
fn sum_in_pairs<T: Element>(lanes: &mut [T]) -> T {
    let mut count = lanes.len();
    while count > 1 {
        count /= 2;
        for lane in 0..count {
            lanes[lane] = lanes[lane] + lanes[lane + count];
        }
    }
    lanes[0]
}
