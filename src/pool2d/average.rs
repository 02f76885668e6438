//! Average-pooling, forward.

use super::forward::{Reduction, Window};
use crate::shape::{PoolPadding, PoolShape};
use crate::simd::{Element, Lanes};

/// The sum of a window's row sums, over the number of its cells.
#[derive(Clone, Copy)]
pub(super) struct Mean {
    pub padding_counts: bool,
}

impl Mean {
    pub fn new(shape: &PoolShape) -> Self {
        Mean { padding_counts: shape.padding == PoolPadding::Zero }
    }

    /// The cells that the mean is over; 1 where there are none, so that the mean is 0.
    #[inline(always)]
    pub fn count(self, window: &Window) -> f64 {
        let count = if self.padding_counts { window.padded_cells() } else { window.cells() };
        count.max(1) as f64
    }
}

/// Of the rows so far, and of the one that cells are passing of.
#[derive(Clone, Copy)]
pub(super) struct Sums<V> {
    rows: V,
    row: V,
}

impl<T: Element> Reduction<T> for Mean {
    type State<V: Copy> = Sums<V>;

    const PLACES: bool = false;

    #[inline(always)]
    fn nothing() -> T {
        T::default()
    }

    /// A sum does not notice them.
    #[inline(always)]
    fn padding_takes_part(self) -> bool {
        false
    }

    #[inline(always)]
    fn number(self, window: &Window) -> T {
        T::from_f64(self.count(window))
    }

    #[inline(always)]
    fn start<S: Lanes<T>>(self, simd: S, _: S::Vector) -> Sums<S::Vector> {
        let zero = simd.splat(T::default());
        Sums { rows: zero, row: zero }
    }

    #[inline(always)]
    fn cell<S: Lanes<T>>(self, simd: S, sums: &mut Sums<S::Vector>, value: S::Vector, _: usize) {
        sums.row = simd.add(sums.row, value);
    }

    #[inline(always)]
    fn end_row<S: Lanes<T>>(self, simd: S, sums: &mut Sums<S::Vector>) {
        sums.rows = simd.add(sums.rows, sums.row);
        sums.row = simd.splat(T::default());
    }

    #[inline(always)]
    fn line<V: Copy>(self, sums: Sums<V>) -> [V; 2] {
        [sums.rows; 2]
    }

    #[inline(always)]
    fn add_line<S: Lanes<T>>(
        self,
        simd: S,
        sums: &mut Sums<S::Vector>,
        [sum, _]: [S::Vector; 2],
        _: usize,
    ) {
        sums.rows = simd.add(sums.rows, sum);
    }

    #[inline(always)]
    fn finish<S: Lanes<T>>(
        self,
        simd: S,
        sums: Sums<S::Vector>,
        counts: S::Vector,
    ) -> [S::Vector; 2] {
        [simd.div(sums.rows, counts), counts]
    }
}
