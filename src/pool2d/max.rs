//! Max-pooling, forward.

use super::forward::{Reduction, Window};
use crate::shape::{PoolPadding, PoolShape};
use crate::simd::{Element, Lanes};

/// The first maximum of a window, or its first NaN.
#[derive(Clone, Copy)]
pub(super) struct Maximum {
    padding_takes_part: bool,
}

impl Maximum {
    pub fn new(shape: &PoolShape) -> Self {
        Maximum { padding_takes_part: shape.padding == PoolPadding::Zero }
    }
}

/// The best cells of a vector of windows so far.
#[derive(Clone, Copy)]
pub(super) struct Best<V> {
    value: V,
    place: V,
}

impl<T: Element> Reduction<T> for Maximum {
    type State<V: Copy> = Best<V>;

    const PLACES: bool = true;

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
    fn start<S: Lanes<T>>(self, simd: S, numbers: S::Vector) -> Best<S::Vector> {
        Best { value: simd.splat(<Self as Reduction<T>>::nothing()), place: numbers }
    }

    #[inline(always)]
    fn cell<S: Lanes<T>>(
        self,
        simd: S,
        best: &mut Best<S::Vector>,
        value: S::Vector,
        place: usize,
    ) {
        let exceeds = simd.exceeds(value, best.value);
        let place = simd.splat(T::from_number(place as u32));
        best.value = simd.select(exceeds, value, best.value);
        best.place = simd.select(exceeds, place, best.place);
    }

    #[inline(always)]
    fn end_row<S: Lanes<T>>(self, _: S, _: &mut Best<S::Vector>) {}

    #[inline(always)]
    fn line<V: Copy>(self, best: Best<V>) -> [V; 2] {
        [best.value, best.place]
    }

    #[inline(always)]
    fn add_line<S: Lanes<T>>(
        self,
        simd: S,
        best: &mut Best<S::Vector>,
        [value, place]: [S::Vector; 2],
        first_place: usize,
    ) {
        let exceeds = simd.exceeds(value, best.value);
        let place = simd.add_numbers(place, simd.splat(T::from_number(first_place as u32)));
        best.value = simd.select(exceeds, value, best.value);
        best.place = simd.select(exceeds, place, best.place);
    }

    #[inline(always)]
    fn finish<S: Lanes<T>>(self, _: S, best: Best<S::Vector>, _: S::Vector) -> [S::Vector; 2] {
        [best.value, best.place]
    }
}
