//! A row dealt out by a stride, so that what a window's tap reads at consecutive outputs lies
//! consecutively: the vector loads of strided pooling and the stores of their gradients.

use std::ops::Range;

use crate::runs::{self, for_each_vector};
use crate::shape::Axis;
use crate::simd::{Element, Lanes};

/// Element `i` of phase `r` is the padded position `(first + i) * stride + r`.
///
/// So the tap at offset `q * stride + r` of the window at output `o` is element `o - first + q` of
/// phase r.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phases {
    pub axis: Axis,
    pub first: usize,
    /// Elements of a phase.
    pub len: usize,
    /// Elements from phase to phase in memory.
    pub pitch: usize,
}

impl Phases {
    /// Phases that some tap reads: the others are neither written nor read.
    pub fn count(axis: &Axis) -> usize {
        axis.stride.min(axis.window())
    }

    /// Elements that the taps of the outermost window reach beyond its first of a phase.
    pub fn reach(axis: &Axis) -> usize {
        (axis.window() - 1) / axis.stride
    }

    /// Deals `row`, one of the input, out to `target`. Cells in the padding become `padding`,
    /// those behind the padding `outside`.
    ///
    /// # Safety
    /// `row` has `axis.input` elements, `target` has `count` phases of `len`, `pitch` apart.
    #[inline(always)]
    pub unsafe fn split<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        row: *const T,
        [padding, outside]: [T; 2],
        target: *mut T,
    ) {
        let Axis { pad_before, input, stride, .. } = self.axis;
        let (start, end) = (pad_before, pad_before + input);
        let count = Phases::count(&self.axis);
        // Elements whose position and the next one both lie in the input.
        let pairs = self.below(start, 0)..self.below(end, 1);
        for phase in 0..count {
            let inside = self.below(start, phase)..self.below(end, phase);
            let padded_end = self.below(self.axis.padded(), phase);
            let position = self.position(inside.start, phase);
            // SAFETY: elements of the phase, and of the row where they lie in the input.
            unsafe {
                let target = target.add(phase * self.pitch);
                fill(target, 0..inside.start, padding);
                fill(target, inside.end..padded_end, padding);
                fill(target, padded_end..self.len, outside);
                if inside.is_empty() {
                    continue;
                }
                let target = target.add(inside.start);
                let source = row.add(position - pad_before);
                if stride == 1 {
                    runs::copy(simd, inside.len(), source, target);
                } else if stride != 2 || pairs.is_empty() {
                    copy_strided(inside.len(), source, stride, target);
                } else {
                    // At most one element on each side of the pairs, which are dealt out below.
                    copy_strided(pairs.start - inside.start, source, stride, target);
                    let rest = inside.end - pairs.end;
                    let skip = pairs.end - inside.start;
                    copy_strided(rest, source.wrapping_add(skip * 2), 2, target.wrapping_add(skip));
                }
            }
        }
        if stride == 2 && !pairs.is_empty() {
            // SAFETY: the positions of pairs lie in the input, the elements in both phases.
            unsafe {
                let source = row.add(self.position(pairs.start, 0) - pad_before);
                let target = target.add(pairs.start);
                for_each_vector(
                    simd,
                    pairs.len(),
                    #[inline(always)]
                    |at, lanes| {
                        let source = source.add(2 * at);
                        let (low, high) = halves::<T, S>(lanes);
                        let pair = [
                            runs::load(simd, low, source),
                            runs::load(simd, high, source.wrapping_add(S::LANES)),
                        ];
                        let [even, odd] = simd.deinterleave(pair[0], pair[1]);
                        runs::store(simd, lanes, target.add(at), even);
                        if count == 2 {
                            runs::store(simd, lanes, target.add(self.pitch + at), odd);
                        }
                    },
                );
            }
        }
    }

    /// Puts the elements at `columns` of the input together again. A position of no phase is 0.
    ///
    /// # Safety
    /// `source` has the phases, which cover `columns`; `target` has `columns.len()` elements.
    #[inline(always)]
    pub unsafe fn merge<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        source: *const T,
        columns: Range<usize>,
        target: *mut T,
    ) {
        let stride = self.axis.stride;
        let count = Phases::count(&self.axis);
        let padded = columns.start + self.axis.pad_before..columns.end + self.axis.pad_before;
        if stride == 1 {
            // SAFETY: one phase, which covers the columns.
            unsafe {
                runs::copy(simd, columns.len(), source.add(padded.start - self.first), target);
            }
            return;
        }
        // SAFETY: a position of the columns, and the element of its phase.
        let one = |position: usize| unsafe {
            let (i, phase) = (position / stride - self.first, position % stride);
            let value =
                if phase < count { *source.add(phase * self.pitch + i) } else { T::default() };
            *target.add(position - padded.start) = value;
        };
        if stride != 2 {
            return padded.clone().for_each(one);
        }
        let pairs = padded.start.div_ceil(2)..padded.end / 2;
        if padded.start % 2 == 1 {
            one(padded.start);
        }
        if padded.end % 2 == 1 && padded.end > padded.start.next_multiple_of(2) {
            one(padded.end - 1);
        }
        if pairs.is_empty() {
            return;
        }
        // SAFETY: pairs of positions of the columns, and their elements in both phases.
        unsafe {
            let source = source.add(pairs.start - self.first);
            let target = target.add(2 * pairs.start - padded.start);
            for_each_vector(
                simd,
                pairs.len(),
                #[inline(always)]
                |at, lanes| {
                    let even = runs::load(simd, lanes, source.add(at));
                    let odd = if count == 2 {
                        runs::load(simd, lanes, source.add(self.pitch + at))
                    } else {
                        simd.splat(T::default())
                    };
                    let [first, second] = simd.interleave(even, odd);
                    let (low, high) = halves::<T, S>(lanes);
                    let target = target.add(2 * at);
                    runs::store(simd, low, target, first);
                    runs::store(simd, high, target.wrapping_add(S::LANES), second);
                },
            );
        }
    }

    /// The padded position of element `i` of `phase`.
    #[inline(always)]
    fn position(&self, i: usize, phase: usize) -> usize {
        (self.first + i) * self.axis.stride + phase
    }

    /// The elements of `phase` whose padded position is below `extent`.
    #[inline(always)]
    fn below(&self, extent: usize, phase: usize) -> usize {
        let positions = extent.saturating_sub(phase).div_ceil(self.axis.stride);
        positions.saturating_sub(self.first).min(self.len)
    }
}

/// How `lanes` pairs fill two vectors.
#[inline(always)]
fn halves<T: Element, S: Lanes<T>>(lanes: usize) -> (usize, usize) {
    let low = (2 * lanes).min(S::LANES);
    (low, 2 * lanes - low)
}

#[inline(always)]
unsafe fn fill<T: Element>(target: *mut T, elements: Range<usize>, value: T) {
    for i in elements {
        // SAFETY: the caller answers for the elements.
        unsafe { *target.add(i) = value };
    }
}

#[inline(always)]
unsafe fn copy_strided<T: Element>(len: usize, source: *const T, stride: usize, target: *mut T) {
    for i in 0..len {
        // SAFETY: the caller answers for the elements.
        unsafe { *target.add(i) = *source.add(i * stride) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, Level};
    use crate::testing::{assert_same_bits, values};

    /// Splits a row, and merges what a split would have made of the input's own numbers.
    struct There<'a, T> {
        phases: Phases,
        row: &'a [T],
        target: &'a mut [T],
    }

    impl<T: Element> Kernel<T> for There<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<S: Lanes<T>>(self, simd: S) {
            let marks = [T::from_f64(50.0), T::from_f64(60.0)];
            // SAFETY: of the sizes that the phases say.
            unsafe {
                self.phases.split(simd, self.row.as_ptr(), marks, self.target.as_mut_ptr());
            }
        }
    }

    struct Back<'a, T> {
        phases: Phases,
        source: &'a [T],
        columns: Range<usize>,
        target: &'a mut [T],
    }

    impl<T: Element> Kernel<T> for Back<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<S: Lanes<T>>(self, simd: S) {
            // SAFETY: of the sizes that the phases say.
            unsafe {
                let (source, target) = (self.source.as_ptr(), self.target.as_mut_ptr());
                self.phases.merge(simd, source, self.columns, target);
            }
        }
    }

    fn check<T: Element>(level: Level, axis: Axis, first: usize, len: usize) {
        let row: Vec<T> = values(1, axis.input);
        let count = Phases::count(&axis);
        let pitch = len + 3;
        let phases = Phases { axis, first, len, pitch };
        let untouched = T::from_f64(70.0);
        let mut found = vec![untouched; count * pitch];
        let mut expected = found.clone();
        for phase in 0..count {
            for i in 0..len {
                let position = (first + i) * axis.stride + phase;
                expected[phase * pitch + i] = match position.checked_sub(axis.pad_before) {
                    Some(column) if column < axis.input => row[column],
                    _ if position < axis.padded() => T::from_f64(50.0),
                    _ => T::from_f64(60.0),
                };
            }
        }
        T::dispatch(level, There { phases, row: &row, target: &mut found });
        assert_same_bits(&found, &expected);

        let begin = (first * axis.stride).saturating_sub(axis.pad_before);
        let end = ((first + len) * axis.stride).saturating_sub(axis.pad_before).min(axis.input);
        for columns in [begin..end, begin + 1..end, begin..end.saturating_sub(1)] {
            if columns.is_empty() || columns.start + axis.pad_before < first * axis.stride {
                continue;
            }
            let mut merged = vec![untouched; columns.len()];
            let wanted: Vec<T> = columns
                .clone()
                .map(|column| match (column + axis.pad_before) % axis.stride {
                    phase if phase < count => row[column],
                    _ => T::default(),
                })
                .collect();
            let target = &mut merged;
            T::dispatch(level, Back { phases, source: &found, columns, target });
            assert_same_bits(&merged, &wanted);
        }
    }

    #[test]
    fn rows_of_every_length_split_and_merge() {
        for isa in Isa::ALL {
            let Some(level) = Level::new(isa) else {
                println!("not tested: this processor has no {isa}");
                continue;
            };
            for stride in 1..=4 {
                for input in (1..=40).chain([64, 65]) {
                    for pad_before in [0, 1, 2, 5] {
                        for kernel in [1, 2, 3] {
                            let axis = Axis {
                                input,
                                output: 0,
                                kernel,
                                stride,
                                dilation: 1,
                                pad_before,
                                pad_after: 3,
                            };
                            let whole = axis.padded().div_ceil(stride) + 2;
                            for (first, len) in [(0, whole), (1, whole / 2), (3, 4)] {
                                check::<f32>(level, axis, first, len);
                                check::<f64>(level, axis, first, len);
                            }
                        }
                    }
                }
            }
        }
    }
}
