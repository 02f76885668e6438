//! Max-pooling, forward.

use super::forward::{Reduction, Window};
use super::line::Line;
use crate::shape::{PoolPadding, PoolShape};
use crate::simd::{Element, Lanes};

/// The first maximum of a window, or its first NaN where cells may be NaN.
#[derive(Clone, Copy)]
pub(super) struct Maximum<const NAN: bool = true> {
    padding_takes_part: bool,
}

impl Maximum {
    pub fn new(shape: &PoolShape) -> Self {
        Maximum { padding_takes_part: shape.padding == PoolPadding::Zero }
    }
}

impl<T: Element, const NAN: bool> Reduction<T> for Maximum<NAN> {
    const PLACES: bool = true;
    type OfNumbers = Maximum<false>;

    #[inline(always)]
    fn of_numbers(self) -> Maximum<false> {
        Maximum { padding_takes_part: self.padding_takes_part }
    }

    #[inline(always)]
    fn nothing() -> T {
        T::from_f64(f64::NEG_INFINITY)
    }

    #[inline(always)]
    fn padding_takes_part(self) -> bool {
        self.padding_takes_part
    }

    /// The place of the first cell that takes part: it wins where all are -infinity.
    #[inline(always)]
    fn number(self, window: &Window) -> T {
        let place = if self.padding_takes_part { 0 } else { window.first_place() };
        T::from_number(place as u32)
    }

    #[inline(always)]
    fn cell<S: Lanes<T>>(
        self,
        simd: S,
        line: &mut Line<S::Vector>,
        value: S::Vector,
        place: usize,
    ) {
        self.add_line(simd, line, [value, simd.splat(T::from_number(0))], place);
    }

    #[inline(always)]
    fn start<S: Lanes<T>>(self, simd: S, numbers: S::Vector) -> Line<S::Vector> {
        [simd.splat(<Self as Reduction<T>>::nothing()), numbers]
    }

    #[inline(always)]
    fn start_with<S: Lanes<T>>(self, _: S, line: Line<S::Vector>) -> Line<S::Vector> {
        line
    }

    #[inline(always)]
    fn add_line<S: Lanes<T>>(
        self,
        simd: S,
        best: &mut Line<S::Vector>,
        [value, place]: Line<S::Vector>,
        first_place: usize,
    ) {
        let exceeds = if NAN { simd.exceeds(value, best[0]) } else { simd.less(best[0], value) };
        let place = simd.add_numbers(place, simd.splat(T::from_number(first_place as u32)));
        *best = [simd.select(exceeds, value, best[0]), simd.select(exceeds, place, best[1])];
    }

    #[inline(always)]
    fn finish<S: Lanes<T>>(self, _: S, best: Line<S::Vector>, _: S::Vector) -> Line<S::Vector> {
        best
    }
}
