//! Runs of consecutive elements: the vector loops that the memory-bound kernels share.
//!
//! # Safety of these functions
//! Each is sound when the elements that it names may be read (written) at its pointers.

use crate::simd::{Element, Lanes};

/// Calls `visit(offset, count)` for vectors that cover `0..len`. All have `count` = LANES, of which
/// the last may overlap the one before it; a `len` below LANES is one vector of `count` = len.
///
/// So `visit` sees some elements twice, and must do the same to them both times.
#[inline(always)]
pub(crate) fn for_each_vector<T: Element, S: Lanes<T>>(
    _simd: S,
    len: usize,
    mut visit: impl FnMut(usize, usize),
) {
    if len < S::LANES {
        if len > 0 {
            visit(0, len);
        }
        return;
    }
    let last = len - S::LANES;
    let mut offset = 0;
    loop {
        visit(offset, S::LANES);
        if offset == last {
            return;
        }
        offset = last.min(offset + S::LANES);
    }
}

/// The first `count` lanes from memory; the others are zero.
#[inline(always)]
pub(crate) unsafe fn load<T: Element, S: Lanes<T>>(
    simd: S,
    count: usize,
    source: *const T,
) -> S::Vector {
    // SAFETY: the caller answers for `count` elements.
    unsafe { if count == S::LANES { simd.load(source) } else { simd.load_first(count, source) } }
}

/// Writes the first `count` lanes.
#[inline(always)]
pub(crate) unsafe fn store<T: Element, S: Lanes<T>>(
    simd: S,
    count: usize,
    target: *mut T,
    vector: S::Vector,
) {
    // SAFETY: the caller answers for `count` elements.
    unsafe {
        if count == S::LANES {
            simd.store(target, vector);
        } else {
            simd.store_first(count, target, vector);
        }
    }
}
