//! Runs of elements between a tensor and a column matrix: copied, or added up.
//!
//! # Safety of these functions
//! Each is sound when its elements may be read at `source` and written at `target`.

use crate::runs;
use crate::simd::{Element, Lanes};

/// Calls `visit(offset, count)` for vectors that cover `0..len`, each element once.
#[inline(always)]
fn for_each<T: Element, S: Lanes<T>>(_: S, len: usize, mut visit: impl FnMut(usize, usize)) {
    let full = len / S::LANES * S::LANES;
    for at in (0..full).step_by(S::LANES) {
        visit(at, S::LANES);
    }
    if full < len {
        visit(full, len - full);
    }
}

/// `target[i] = 0`
#[inline(always)]
pub(super) unsafe fn clear<T: Element, S: Lanes<T>>(simd: S, len: usize, target: *mut T) {
    // SAFETY: the caller answers for the elements.
    unsafe { runs::fill(simd, len, simd.splat(T::default()), target, [(1, 0); 3]) };
}

/// `target[i] *= factor`
#[inline(always)]
pub(super) unsafe fn scale<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    factor: T,
    target: *mut T,
) {
    for_each(
        simd,
        len,
        #[inline(always)]
        |at, count| {
            // SAFETY: the caller answers for the elements.
            unsafe {
                let target = target.add(at);
                let value = simd.mul(simd.splat(factor), runs::load(simd, count, target));
                runs::store(simd, count, target, value);
            }
        },
    );
}

/// `target[i] = source[i]`
#[inline(always)]
pub(super) unsafe fn copy<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    source: *const T,
    target: *mut T,
) {
    for_each(
        simd,
        len,
        #[inline(always)]
        |at, count| {
            // SAFETY: the caller answers for the elements.
            unsafe {
                runs::store(simd, count, target.add(at), runs::load(simd, count, source.add(at)))
            };
        },
    );
}

/// `target[i] += source[i]`
#[inline(always)]
pub(super) unsafe fn add<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    source: *const T,
    target: *mut T,
) {
    for_each(
        simd,
        len,
        #[inline(always)]
        |at, count| {
            // SAFETY: the caller answers for the elements.
            unsafe {
                let target = target.add(at);
                let addend = runs::load(simd, count, source.add(at));
                runs::store(simd, count, target, simd.add(runs::load(simd, count, target), addend));
            }
        },
    );
}

/// `target[i] = source[stride * i]`
#[inline(always)]
pub(super) unsafe fn take<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    source: *const T,
    stride: usize,
    target: *mut T,
) {
    if stride != 2 {
        for i in 0..len {
            // SAFETY: the caller answers for the elements.
            unsafe { *target.add(i) = *source.add(stride * i) };
        }
        return;
    }
    for_each(
        simd,
        len,
        #[inline(always)]
        |at, count| {
            // SAFETY: the caller answers for the elements.
            unsafe {
                let [even, _] = pairs(simd, count, source.add(2 * at));
                runs::store(simd, count, target.add(at), even);
            }
        },
    );
}

/// `target[stride * i] += source[i]`
#[inline(always)]
pub(super) unsafe fn spread<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    source: *const T,
    target: *mut T,
    stride: usize,
) {
    if stride != 2 {
        for i in 0..len {
            // SAFETY: the caller answers for the elements.
            unsafe { *target.add(stride * i) = *target.add(stride * i) + *source.add(i) };
        }
        return;
    }
    for_each(
        simd,
        len,
        #[inline(always)]
        |at, count| {
            // SAFETY: the caller answers for the elements.
            unsafe {
                let target = target.add(2 * at);
                let [even, odd] = pairs(simd, count, target);
                let sum = simd.add(even, runs::load(simd, count, source.add(at)));
                let [first, second] = simd.interleave(sum, odd);
                let low = (2 * count - 1).min(S::LANES);
                runs::store(simd, low, target, first);
                runs::store(simd, 2 * count - 1 - low, target.wrapping_add(S::LANES), second);
            }
        },
    );
}

/// The even and the odd ones of the first `2 * count - 1` elements.
#[inline(always)]
unsafe fn pairs<T: Element, S: Lanes<T>>(
    simd: S,
    count: usize,
    source: *const T,
) -> [S::Vector; 2] {
    let low = (2 * count - 1).min(S::LANES);
    // SAFETY: the caller answers for the elements.
    unsafe {
        let first = runs::load(simd, low, source);
        let second = runs::load(simd, 2 * count - 1 - low, source.wrapping_add(S::LANES));
        simd.deinterleave(first, second)
    }
}
