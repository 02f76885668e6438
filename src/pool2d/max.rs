//! Max-pooling.

use super::forward::{self, Reduction, Window};
use super::path::BLOCK;
use super::place::{self, Place};
use crate::context::Context;
use crate::error::Result;
use crate::runs;
use crate::shape::{PoolPadding, PoolShape};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Lanes};

/// y = the maximum of each window, places = where it lies.
pub(super) fn forward<T: Element, P: Place>(
    context: &Context,
    shape: &PoolShape,
    x: &[T],
    y: &mut [T],
    places: &mut [P],
) -> Result<()> {
    let (y, places) = (SharedMut::new(y), SharedMut::new(places));
    let padding_takes_part = shape.padding == PoolPadding::Zero;
    forward::run(context, shape, x, &|at| Maximum {
        y: y.at(at),
        places: places.at(at),
        padding_takes_part,
    })
}

/// The first maximum of a window, or its first NaN.
#[derive(Clone, Copy)]
struct Maximum<T, P> {
    y: *mut T,
    places: *mut P,
    padding_takes_part: bool,
}

/// The best cells of a vector of windows so far.
#[derive(Clone, Copy)]
struct Best<V> {
    value: V,
    place: V,
}

impl<T: Element, P: Place> Reduction<T> for Maximum<T, P> {
    type State<V: Copy> = Best<V>;

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
        Best { value: simd.splat(Self::nothing()), place: numbers }
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
    unsafe fn finish<S: Lanes<T>>(
        self,
        simd: S,
        best: Best<S::Vector>,
        _: S::Vector,
        at: usize,
        count: usize,
    ) {
        // SAFETY: the caller answers for the results at `at`.
        unsafe {
            runs::store(simd, count, self.y.add(at), best.value);
            place::store(simd, count, self.places.add(at), best.place);
        }
    }

    fn block_len(len: usize) -> usize {
        len + (len * size_of::<P>()).div_ceil(size_of::<T>())
    }

    unsafe fn in_block(self, memory: *mut T, len: usize) -> Self {
        // SAFETY: `memory` has room for both, and an element is as aligned as a place.
        let places = unsafe { memory.add(len).cast::<P>() };
        Maximum { y: memory, places, ..self }
    }

    #[inline(always)]
    unsafe fn take_block<S: Lanes<T>>(self, simd: S, block: Self, planes: usize, windows: usize) {
        // SAFETY: the caller answers for the sizes.
        unsafe {
            runs::transpose(simd, [windows, planes], block.y, BLOCK, self.y, windows);
            for plane in 0..planes {
                for window in 0..windows {
                    *self.places.add(plane * windows + window) =
                        *block.places.add(window * BLOCK + plane);
                }
            }
        }
    }
}
