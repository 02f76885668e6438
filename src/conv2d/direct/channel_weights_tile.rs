//! The register tiles of dw: input channels or column taps times a panel of output channels, summed over pixels.

use crate::simd::{Element, Lanes, TileKernel};

/// Items, input channels or column taps, times a panel, over rows and columns of pixels.
pub(super) struct Products<T> {
    pub source: *const T,
    /// From item to item.
    pub item_stride: usize,
    /// From row to row, and from column to column.
    pub source_steps: [usize; 2],
    pub gradient: *const T,
    pub gradient_row: usize,
    /// Rows and columns.
    pub counts: [usize; 2],
    pub sums: *mut T,
    /// From item to item.
    pub sum_stride: usize,
}

/// The same, with pixels asked for ahead of their use.
pub(super) struct Fetching<T>(pub Products<T>);

/// A vector of the panel and few items, at two neighbouring column taps: a tile of one of them would have too few sums.
pub(super) struct TwoTaps<T> {
    pub products: Products<T>,
    /// The sums of the second one.
    pub next_tap: *mut T,
}

/// As many pixels as take longer to multiply than one takes to arrive from the third-level cache.
const PIXELS_AHEAD: usize = 24;

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Products<T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        self.sum::<S, ROWS, VECTORS, 1, false>(simd, [self.sums]);
    }
}

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Fetching<T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        self.0.sum::<S, ROWS, VECTORS, 1, true>(simd, [self.0.sums]);
    }
}

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for TwoTaps<T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        if VECTORS > 1 || 2 * ROWS > S::TILE_ROWS {
            unreachable!("see SumPart::takes_two_taps");
        }
        self.products.sum::<S, ROWS, VECTORS, 2, false>(simd, [self.products.sums, self.next_tap]);
    }
}

impl<T: Element> Products<T> {
    /// Adds the products at `TAPS` neighbouring column taps to the sums of each.
    #[inline(always)]
    fn sum<
        S: Lanes<T>,
        const ROWS: usize,
        const VECTORS: usize,
        const TAPS: usize,
        const FETCH: bool,
    >(
        &self,
        simd: S,
        totals: [*mut T; TAPS],
    ) {
        let mut sums = [[[simd.splat(T::default()); VECTORS]; TAPS]; ROWS];
        let [row_step, column_step] = self.source_steps;
        let item_stride = self.item_stride;
        // SAFETY: x has the pixels that the items read, dy's panel and the sums have theirs.
        unsafe {
            for row in 0..self.counts[0] {
                let mut source = self.source.add(row * row_step);
                let mut gradient = self.gradient.add(row * self.gradient_row);
                for _ in 0..self.counts[1] {
                    let mut lanes = [simd.splat(T::default()); VECTORS];
                    for (v, lane) in lanes.iter_mut().enumerate() {
                        *lane = simd.load(gradient.add(v * S::LANES));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        for (tap, sums) in sums.iter_mut().enumerate() {
                            let item = simd.splat(*source.add(r * item_stride + tap));
                            for (sum, &lane) in sums.iter_mut().zip(&lanes) {
                                *sum = simd.mul_add(item, lane, *sum);
                            }
                        }
                    }
                    if FETCH {
                        let ahead = source.wrapping_add(PIXELS_AHEAD * column_step);
                        simd.prefetch(ahead);
                        simd.prefetch(ahead.wrapping_add((ROWS - 1) * item_stride));
                    }
                    source = source.wrapping_add(column_step);
                    gradient = gradient.add(VECTORS * S::LANES);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (sums, total) in sums.iter().zip(totals) {
                    for (v, &sum) in sums.iter().enumerate() {
                        let total = total.add(r * self.sum_stride + v * S::LANES);
                        simd.store(total, simd.add(simd.load(total), sum));
                    }
                }
            }
        }
    }
}
