//! Runs of consecutive elements: the vector loops that the memory-bound kernels share.
//!
//! # Safety of these functions
//! Each is sound when the elements that it names may be read (written) at its pointers.

use crate::cache;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes};

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

/// Writes the first `count` lanes; past the caches if `streams`, as only a whole vector at a multiple of its size may be.
/// [`end_stream`] has to follow then before the task ends.
#[inline(always)]
pub(crate) unsafe fn store_or_stream<T: Element, S: Lanes<T>>(
    simd: S,
    count: usize,
    target: *mut T,
    vector: S::Vector,
    streams: bool,
) {
    // SAFETY: the caller answers for `count` elements, and for a vector that streams.
    unsafe {
        if streams {
            simd.store_streaming(target, vector);
        } else {
            store(simd, count, target, vector);
        }
    }
}

/// Writes the first `len` elements of two vectors.
#[inline(always)]
pub(crate) unsafe fn store_two<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    target: *mut T,
    [first, second]: [S::Vector; 2],
) {
    let of_first = len.min(S::LANES);
    // SAFETY: the caller answers for the elements.
    unsafe {
        store(simd, of_first, target, first);
        store(simd, len - of_first, target.wrapping_add(S::LANES), second);
    }
}

/// Fills runs of `len` elements with the lanes of `vector`, all the same: at three axes' positions, each
/// axis as (positions, stride).
#[inline(always)]
pub(crate) unsafe fn fill<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    vector: S::Vector,
    target: *mut T,
    [outer, middle, inner]: [(usize, usize); 3],
) {
    for i in 0..outer.0 {
        for j in 0..middle.0 {
            for k in 0..inner.0 {
                let run = target.wrapping_add(i * outer.1 + j * middle.1 + k * inner.1);
                for_each_vector(
                    simd,
                    len,
                    #[inline(always)]
                    |at, count| {
                        // SAFETY: within the runs, for which the caller answers.
                        unsafe { store(simd, count, run.add(at), vector) }
                    },
                );
            }
        }
    }
}

/// The least bytes read and written by a call that writes past the caches whatever they hold: what it writes would not
/// stay in them anyway, and writing through them reads each line first. (Small in debug builds, so that tests go both
/// ways.)
const STREAMED: usize = if cfg!(debug_assertions) { 1 << 14 } else { 100 << 20 };

/// Whether a call that reads and writes so many elements had better write by [`stream`].
pub(crate) fn streams<T>(len: usize) -> bool {
    len >= STREAMED / size_of::<T>()
}

/// Whether it finds so many in memory rather than in the caches, of which others take a part.
pub(crate) fn exceeds_caches<T>(len: usize) -> bool {
    len >= STREAMED.min(cache::last_level() / 4 * 3) / size_of::<T>()
}

/// Whether pixels of so many elements, from `target` on, are whole cache lines.
pub(crate) fn are_lines<T>(target: *const T, lanes: usize) -> bool {
    (target.addr() | (lanes * size_of::<T>())).is_multiple_of(CACHE_LINE)
}

/// Asks for a run of elements.
#[inline(always)]
pub(crate) fn fetch<T: Element, S: Lanes<T>>(simd: S, run: *const T, len: usize) {
    for at in (0..len).step_by(CACHE_LINE / size_of::<T>()) {
        simd.prefetch(run.wrapping_add(at));
    }
}

/// Writes `len` elements past the caches: `value(offset, count)` is the vector whose first `count` lanes go to
/// `target + offset`. [`end_stream`] has to follow before the task ends.
#[inline(always)]
pub(crate) unsafe fn stream<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    target: *mut T,
    value: impl Fn(usize, usize) -> S::Vector,
) {
    let before = target.align_offset(S::LANES * size_of::<T>()).min(len);
    let end = before + (len - before) / S::LANES * S::LANES;
    // SAFETY: the caller answers for the elements; each streamed vector begins at a multiple of its size.
    unsafe {
        for at in (0..before).step_by(S::LANES) {
            let count = S::LANES.min(before - at);
            store(simd, count, target.add(at), value(at, count));
        }
        for at in (before..end).step_by(S::LANES) {
            simd.store_streaming(target.add(at), value(at, S::LANES));
        }
        if end < len {
            store(simd, len - end, target.add(end), value(end, len - end));
        }
    }
}

/// Copies `len` elements by [`stream`].
#[inline(always)]
pub(crate) unsafe fn copy_streaming<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    source: *const T,
    target: *mut T,
) {
    // SAFETY: the caller answers for the elements.
    unsafe {
        stream(
            simd,
            len,
            target,
            #[inline(always)]
            |at, count| load(simd, count, source.add(at)),
        );
    }
}

/// Orders what was streamed before whatever tells that the task is done.
#[inline(always)]
pub(crate) fn end_stream() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE, which every x86-64 processor has.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Puts `len` elements together of which the even ones follow each other at `even`, the others at `odd`.
#[inline(always)]
pub(crate) unsafe fn interleave<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    even: *const T,
    odd: *const T,
    target: *mut T,
) {
    for_each_vector(
        simd,
        len / 2,
        #[inline(always)]
        |at, pairs| {
            // SAFETY: pairs of the elements for which the caller answers.
            unsafe {
                let (even, odd) = (load(simd, pairs, even.add(at)), load(simd, pairs, odd.add(at)));
                store_two(simd, 2 * pairs, target.add(2 * at), simd.interleave(even, odd));
            }
        },
    );
    if len % 2 == 1 {
        // SAFETY: the last element.
        unsafe { *target.add(len - 1) = *even.add(len / 2) };
    }
}

/// Transposes a matrix: `target[k * target_stride + i] = source[i * source_stride + k]` for the
/// i below `rows` and the k below `columns`.
#[inline(always)]
pub(crate) unsafe fn transpose<T: Element, S: Lanes<T>>(
    simd: S,
    [rows, columns]: [usize; 2],
    source: *const T,
    source_stride: usize,
    target: *mut T,
    target_stride: usize,
) {
    let mut row = 0;
    while row < rows {
        // Up to where a vector begins, where that is so in all rows of the target: vectors across two cache lines
        // are written twice.
        let whole = match target.wrapping_add(row).align_offset(S::LANES * size_of::<T>()) {
            before @ 1.. if before < S::LANES && target_stride.is_multiple_of(S::LANES) => before,
            _ => S::LANES,
        };
        let count = whole.min(rows - row);
        for column in (0..columns).step_by(S::LANES) {
            let extents = [count, S::LANES.min(columns - column)];
            // SAFETY: blocks of the matrices, for which the caller answers.
            unsafe {
                let source = source.add(row * source_stride + column);
                let target = target.add(column * target_stride + row);
                simd.transpose(extents, source, source_stride, target, target_stride);
            }
        }
        row += count;
    }
}

/// [`transpose`] as a kernel.
pub(crate) struct Transpose<T> {
    /// Rows and columns of the source.
    pub extents: [usize; 2],
    pub source: *const T,
    pub source_stride: usize,
    pub target: *mut T,
    pub target_stride: usize,
}

impl<T: Element> Kernel<T> for Transpose<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Transpose { extents, source, source_stride, target, target_stride } = self;
        // SAFETY: whoever makes one answers for the matrices.
        unsafe { transpose(simd, extents, source, source_stride, target, target_stride) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Level};
    use crate::testing::{assert_same_bits, values, written};

    fn check<T: Element>(level: Level) {
        let gap = T::from_f64(9.0);
        for rows in 1..=35 {
            for columns in 1..=35 {
                let source: Vec<T> = values(5, rows * columns);
                let mut target = vec![gap; columns * (rows + 1)];
                let mut expected = target.clone();
                for i in 0..rows {
                    for k in 0..columns {
                        expected[k * (rows + 1) + i] = source[i * columns + k];
                    }
                }
                // One gap in each row of the target.
                let kernel = Transpose {
                    extents: [rows, columns],
                    source: source.as_ptr(),
                    source_stride: columns,
                    target: target.as_mut_ptr(),
                    target_stride: rows + 1,
                };
                T::dispatch(level, kernel);
                assert_same_bits(&target, &expected);
            }
        }
    }

    struct Interleave<'a, T> {
        even: &'a [T],
        odd: &'a [T],
        target: &'a mut [T],
    }

    impl<T: Element> Kernel<T> for Interleave<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<S: Lanes<T>>(self, simd: S) {
            let (even, odd) = (self.even.as_ptr(), self.odd.as_ptr());
            // SAFETY: as many even elements as odd ones, or one more.
            unsafe { interleave(simd, self.target.len(), even, odd, self.target.as_mut_ptr()) }
        }
    }

    struct Copy<'a, T> {
        source: &'a [T],
        target: &'a mut [T],
    }

    impl<T: Element> Kernel<T> for Copy<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<S: Lanes<T>>(self, simd: S) {
            let (source, target) = (self.source.as_ptr(), self.target.as_mut_ptr());
            // SAFETY: as long as each other.
            unsafe { copy_streaming(simd, self.source.len(), source, target) };
            end_stream();
        }
    }

    fn check_copy<T: Element>(level: Level) {
        let all: Vec<T> = values(7, 120);
        for len in 0..=70usize {
            for first in 0..=17 {
                let expected = &all[first..first + len];
                let found = written(first + len, |target| {
                    target[..first].copy_from_slice(&all[..first]);
                    let target = &mut target[first..];
                    T::dispatch(level, Copy { source: expected, target });
                });
                assert_same_bits(&found[first..], expected);
            }
        }
    }

    fn check_interleave<T: Element>(level: Level) {
        for len in 0..=70usize {
            let expected: Vec<T> = values(6, len);
            let even: Vec<T> = expected.iter().copied().step_by(2).collect();
            let odd: Vec<T> = expected.iter().copied().skip(1).step_by(2).collect();
            let found = written(len, |target| {
                T::dispatch(level, Interleave { even: &even, odd: &odd, target });
            });
            assert_same_bits(&found, &expected);
        }
    }

    #[test]
    fn runs_of_every_length_and_matrices_of_every_size() {
        for isa in Isa::ALL {
            let Some(level) = Level::new(isa) else {
                println!("not tested: this processor has no {isa}");
                continue;
            };
            check::<f32>(level);
            check::<f64>(level);
            check_interleave::<f32>(level);
            check_interleave::<f64>(level);
            check_copy::<f32>(level);
            check_copy::<f64>(level);
        }
    }
}
