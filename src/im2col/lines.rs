//! Vectors of lines of which not all elements exist: the others are zeros.

use std::ops::Range;

use crate::runs;
use crate::simd::{CACHE_LINE, Element, Lanes, TILE_LANES};

/// A stride that has no constant of its own: lanes are read one by one.
pub(super) const ANY: usize = 0;

/// How the lanes of a vector are read that lie STRIDE elements apart, or any number of them.
#[derive(Clone, Copy)]
pub(super) struct Reader<M, const STRIDE: usize> {
    masks: [M; 2],
    is_whole: bool,
    stride: usize,
}

impl<M: Copy, const STRIDE: usize> Reader<M, STRIDE> {
    /// For the lanes that exist.
    #[inline(always)]
    pub fn new<T: Element, S: Lanes<T, Mask = M>>(
        simd: S,
        lanes: Range<usize>,
        stride: usize,
    ) -> Self {
        let whole = simd.mask_between(lanes.start, lanes.end);
        let masks = match STRIDE {
            2 => {
                // Up to the last lane's element: the one behind it may not exist.
                let (start, end) = (2 * lanes.start, (2 * lanes.end).saturating_sub(1));
                let behind = |element: usize| element.saturating_sub(S::LANES);
                [simd.mask_between(start, end), simd.mask_between(behind(start), behind(end))]
            }
            _ => [whole; 2],
        };
        Reader { masks, is_whole: lanes.len() == S::LANES, stride }
    }

    /// Lane l of those that exist is at `source + stride * l`, where it may be read.
    #[inline(always)]
    pub unsafe fn read<T: Element, S: Lanes<T, Mask = M>>(
        &self,
        simd: S,
        source: *const T,
    ) -> S::Vector {
        let [first, second] = self.masks;
        // SAFETY: the caller answers for the lanes.
        unsafe {
            match STRIDE {
                1 if self.is_whole => simd.load(source),
                1 => simd.load_where(first, source),
                2 => {
                    let behind = source.wrapping_add(S::LANES);
                    let halves = [simd.load_where(first, source), simd.load_where(second, behind)];
                    let [even, _] = simd.deinterleave(halves[0], halves[1]);
                    even
                }
                _ => simd.gather_where(first, source, self.stride as isize),
            }
        }
    }
}

/// The lanes of a vector from element `at` on, of `count` at most, whose elements are `inside`.
#[inline(always)]
pub(super) fn lanes(inside: &Range<usize>, at: usize, count: usize) -> Range<usize> {
    let lane = |element: usize| element.saturating_sub(at).min(count);
    lane(inside.start)..lane(inside.end)
}

/// Writes the elements `part` of a line, of which those `inside` are copied from `source`, where the first of all
/// would be.
///
/// # Safety
/// These may be read, and `part` written at `target`.
#[inline(always)]
pub(super) unsafe fn copy<T: Element, S: Lanes<T>>(
    simd: S,
    part: Range<usize>,
    inside: &Range<usize>,
    source: *const T,
    target: *mut T,
) {
    let is_whole = inside.start <= part.start && part.end <= inside.end;
    for at in part.clone().step_by(S::LANES) {
        let count = S::LANES.min(part.end - at);
        let (source, target) = (source.wrapping_add(at), target.wrapping_add(at - part.start));
        // SAFETY: the caller answers for the elements.
        unsafe {
            let value = match is_whole {
                true => runs::load(simd, count, source),
                false => Reader::<_, 1>::new(simd, lanes(inside, at, count), 1).read(simd, source),
            };
            runs::store(simd, count, target, value);
        }
    }
}

/// Elements from one plane of so many to the next in memory: an odd multiple of a vector's, as others would share few
/// sets of a cache.
pub(super) fn plane_len(len: usize) -> usize {
    (len.div_ceil(TILE_LANES) | 1).saturating_mul(TILE_LANES)
}

/// Asks for the cache lines of a matrix that will be written soon, in rows of `columns` elements.
#[inline(always)]
pub(super) fn ask_for<T: Element, S: Lanes<T>>(
    simd: S,
    [rows, columns]: [usize; 2],
    target: *const T,
    stride: usize,
) {
    for row in 0..rows {
        for column in (0..columns).step_by(CACHE_LINE / size_of::<T>()) {
            simd.prefetch_second(target.wrapping_add(row * stride + column));
        }
    }
}
