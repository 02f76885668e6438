//! Average-pooling, forward.

use super::forward::{Reduction, Window};
use super::line::Line;
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

impl<T: Element> Reduction<T> for Mean {
    const PLACES: bool = false;
    type OfNumbers = Self;

    #[inline(always)]
    fn of_numbers(self) -> Self {
        self
    }

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
    fn cell<S: Lanes<T>>(
        self,
        simd: S,
        [sum, _]: &mut Line<S::Vector>,
        value: S::Vector,
        _: usize,
    ) {
        *sum = simd.add(*sum, value);
    }

    #[inline(always)]
    fn start<S: Lanes<T>>(self, simd: S, _: S::Vector) -> Line<S::Vector> {
        [simd.splat(T::default()); 2]
    }

    /// A sum that begins with 0 is never -0.
    #[inline(always)]
    fn start_with<S: Lanes<T>>(self, simd: S, [sum, _]: Line<S::Vector>) -> Line<S::Vector> {
        [simd.add(simd.splat(T::default()), sum); 2]
    }

    #[inline(always)]
    fn add_line<S: Lanes<T>>(
        self,
        simd: S,
        [total, _]: &mut Line<S::Vector>,
        [sum, _]: Line<S::Vector>,
        _: usize,
    ) {
        *total = simd.add(*total, sum);
    }

    #[inline(always)]
    fn finish<S: Lanes<T>>(
        self,
        simd: S,
        [total, _]: Line<S::Vector>,
        counts: S::Vector,
    ) -> Line<S::Vector> {
        [simd.div(total, counts), counts]
    }
}
