//! Places in a window, as memory and vectors hold them.

use crate::simd::{Element, Lanes};

/// An integer type that holds places. `()` holds none: kernels then drop what computes them.
pub(super) trait Place: Copy + Send + Sync {
    fn from_number(number: u32) -> Self;
}

impl Place for i32 {
    #[inline(always)]
    fn from_number(number: u32) -> Self {
        number as i32
    }
}

impl Place for u8 {
    #[inline(always)]
    fn from_number(number: u32) -> Self {
        number as u8
    }
}

impl Place for () {
    #[inline(always)]
    fn from_number(_: u32) -> Self {}
}

/// At least as many as any vector has.
const MAX_LANES: usize = 16;

/// Writes the numbers in the first `count` lanes as places.
///
/// # Safety
/// `target` has room for `count` places.
#[inline(always)]
pub(super) unsafe fn store<T: Element, S: Lanes<T>, P: Place>(
    simd: S,
    count: usize,
    target: *mut P,
    numbers: S::Vector,
) {
    const { assert!(S::LANES <= MAX_LANES) };
    let mut lanes = [T::default(); MAX_LANES];
    // SAFETY: `lanes` has room for a vector, and the caller answers for `count` places.
    unsafe {
        simd.store(lanes.as_mut_ptr(), numbers);
        for (lane, number) in lanes.iter().enumerate().take(count) {
            *target.add(lane) = P::from_number(number.to_number());
        }
    }
}
