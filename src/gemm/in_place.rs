//! Products that read A in place, and rows of B as they lie or of one packed panel: packing both operands
//! would take longer than it saves.

use super::lines::Lines;
use crate::runs;
use crate::simd::{Element, Kernel, Lanes, TileKernel};

/// C = alpha * A B + beta * C.
#[derive(Clone, Copy)]
pub(crate) struct InPlaceProduct<T> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: T,
    pub a: *const T,
    /// Strides of A along (row, depth).
    pub a_strides: [usize; 2],
    pub b: *const T,
    pub ldb: usize,
    pub beta: T,
    pub c: *mut T,
    pub ldc: usize,
}

impl<T: Element> Kernel<T> for InPlaceProduct<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let width = S::LANES * S::TILE_VECTORS;
        // A mask for the last columns takes the register of a row's factor.
        let most = if self.n.is_multiple_of(S::LANES) { S::TILE_ROWS } else { S::TILE_ROWS - 1 };
        // As even as can be: tiles of few rows would wait for their own sums.
        let tiles = self.m.div_ceil(most);
        let (height, higher) = (self.m / tiles, self.m % tiles);
        for column in (0..self.n).step_by(width) {
            let columns = width.min(self.n - column);
            let mut row = 0;
            for number in 0..tiles {
                let rows = height + usize::from(number < higher);
                let tile = Tile { product: &self, row, column, columns };
                simd.tile(rows, columns.div_ceil(S::LANES), &tile);
                row += rows;
            }
        }
    }
}

/// One register tile, from (`row`, `column`) of C on.
struct Tile<'a, T> {
    product: &'a InPlaceProduct<T>,
    row: usize,
    column: usize,
    columns: usize,
}

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Tile<'_, T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        // SAFETY: whoever made the product answers for the matrices, which have the tile.
        unsafe {
            if self.columns == VECTORS * S::LANES {
                self.compute::<S, ROWS, VECTORS, false>(simd);
            } else {
                assert!(ROWS < S::TILE_ROWS, "no register for the mask");
                self.compute::<S, ROWS, VECTORS, true>(simd);
            }
        }
    }
}

impl<T: Element> Tile<'_, T> {
    /// `PARTIAL` where the last vector of columns is.
    ///
    /// # Safety
    /// The matrices have the tile, and nobody else uses it in C.
    #[inline(always)]
    unsafe fn compute<S: Lanes<T>, const ROWS: usize, const VECTORS: usize, const PARTIAL: bool>(
        &self,
        simd: S,
    ) {
        let InPlaceProduct { k, alpha, a, a_strides, b, ldb, beta, c, ldc, .. } = *self.product;
        let last = self.columns - (VECTORS - 1) * S::LANES;
        let mask = simd.mask_between(0, last);
        let mut sums = [[simd.splat(T::default()); VECTORS]; ROWS];
        // SAFETY: the caller answers for the tile.
        unsafe {
            let mut lines = Lines::<T, ROWS>::new(a.add(self.row * a_strides[0]), a_strides[0]);
            let mut right = b.add(self.column);
            for _ in 0..k {
                let mut lanes = [simd.splat(T::default()); VECTORS];
                for (v, lanes) in lanes.iter_mut().enumerate() {
                    let from = right.add(v * S::LANES);
                    *lanes = match PARTIAL && v == VECTORS - 1 {
                        true => simd.load_where(mask, from),
                        false => simd.load(from),
                    };
                }
                lines.multiply(simd, lanes, a_strides[1] as isize, &mut sums);
                right = right.wrapping_add(ldb);
            }
            for (r, sums) in sums.iter().enumerate() {
                let row = c.add((self.row + r) * ldc + self.column);
                for (v, &sum) in sums.iter().enumerate() {
                    let count = if PARTIAL && v == VECTORS - 1 { last } else { S::LANES };
                    let target = row.add(v * S::LANES);
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
