//! Which taps of a sliding window read which positions: [`Axis`] in ranges, without a test per tap.

use std::ops::Range;

use crate::shape::Axis;

impl Axis {
    /// The extent of the padded input.
    pub fn padded(&self) -> usize {
        self.pad_before + self.input + self.pad_after
    }

    /// The extent of a window.
    pub fn window(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// The extent of so many windows that follow each other, one at least.
    #[inline(always)]
    pub fn span(&self, outputs: usize) -> usize {
        (outputs - 1) * self.stride + self.window()
    }

    /// The inputs that the windows at some outputs reach.
    pub fn inputs(&self, outputs: &Range<usize>) -> Range<usize> {
        let start = outputs.start * self.stride;
        let input = |padded: usize| padded.saturating_sub(self.pad_before).min(self.input);
        input(start)..input(start + self.span(outputs.len()))
    }

    /// The taps of the window at `output` that read the input. Where there are none the range is
    /// empty: at `kernel` when the window lies before the input, at 0 when it lies behind.
    #[inline(always)]
    pub fn taps(&self, output: usize) -> Range<usize> {
        let start = output * self.stride;
        let first = self.taps_in(self.pad_before.saturating_sub(start));
        let end = self.taps_in((self.pad_before + self.input).saturating_sub(start));
        first..end.max(first)
    }

    /// The taps of the window at `output` that lie in the padded input, as all do without
    /// ceil_mode: those before the result.
    #[inline(always)]
    pub fn taps_end(&self, output: usize) -> usize {
        self.taps_in(self.padded().saturating_sub(output * self.stride))
    }

    /// The taps in the first `extent` positions of a window.
    #[inline(always)]
    fn taps_in(&self, extent: usize) -> usize {
        let taps = if self.dilation == 1 { extent } else { extent.div_ceil(self.dilation) };
        taps.min(self.kernel)
    }

    /// The outputs whose tap `kernel` reads the input.
    pub fn outputs(&self, kernel: usize) -> Range<usize> {
        let outputs_in = |extent: usize| extent.div_ceil(self.stride).min(self.output);
        let tap = kernel * self.dilation;
        let first = outputs_in(self.pad_before.saturating_sub(tap));
        let end = outputs_in((self.pad_before + self.input).saturating_sub(tap));
        first..end.max(first)
    }

    /// The outputs whose taps are all in the input, or in the padded input. Where there are none the range is
    /// empty, but among the outputs.
    pub fn full_outputs(&self, padded: bool) -> Range<usize> {
        let (start, end) = match padded {
            true => (0, self.padded()),
            false => (self.pad_before, self.pad_before + self.input),
        };
        let first = start.div_ceil(self.stride).min(self.output);
        let windows = (end + 1).saturating_sub(self.window()).div_ceil(self.stride);
        let last = windows.min(self.output);
        first..last.max(first)
    }

    /// The outputs whose windows reach over an input position, with a tap on it or, dilated, not.
    #[inline(always)]
    pub fn windows_over(&self, position: usize) -> Range<usize> {
        let padded = position + self.pad_before;
        let first = (padded + 1).saturating_sub(self.window());
        // The common strides without a division, which takes longer than what is done with a row of few windows.
        let (first, last) = match self.stride {
            1 => (first, padded),
            2 => (first.div_ceil(2), padded / 2),
            stride => (first.div_ceil(stride), padded / stride),
        };
        first..(last + 1).min(self.output).max(first)
    }

    /// The axis of some outputs alone, and the inputs that it keeps: those that their windows reach.
    /// None of these windows may lie in the padding alone.
    pub fn of_outputs(&self, outputs: Range<usize>) -> (Axis, Range<usize>) {
        let (start, inputs) = (outputs.start * self.stride, self.inputs(&outputs));
        let pad_before = self.pad_before.saturating_sub(start);
        let pad_after = self.padded().saturating_sub(start + pad_before + inputs.len());
        let axis =
            Axis { input: inputs.len(), output: outputs.len(), pad_before, pad_after, ..*self };
        (axis, inputs)
    }

    /// The axis of some inputs alone, and the outputs that it keeps: those whose windows reach them, and
    /// one at least.
    pub fn of_inputs(&self, inputs: Range<usize>) -> (Axis, Range<usize>) {
        let last_over = |input: usize| (input + self.pad_before) / self.stride;
        let first = self.windows_over(inputs.start).start;
        let first = first.min(last_over(inputs.start)).min(self.output - 1);
        let end = (last_over(inputs.end - 1) + 1).min(self.output).max(first + 1);
        let pad_before = inputs.start + self.pad_before - first * self.stride;
        let input = inputs.len();
        (Axis { input, output: end - first, pad_before, pad_after: 0, ..*self }, first..end)
    }

    /// Whether a window may lie in the padding alone.
    pub fn has_windows_in_padding(&self) -> bool {
        self.pad_before.max(self.pad_after) >= self.window()
    }

    /// The windows over an input position, as (output, tap), in ascending order of the output, so
    /// in descending order of the tap.
    #[inline(always)]
    pub fn windows(
        &self,
        position: usize,
    ) -> impl DoubleEndedIterator<Item = (usize, usize)> + Clone + use<> {
        self.windows_among(position, self.windows_over(position))
    }

    /// The same of some outputs, whose windows all reach over the position.
    #[inline(always)]
    pub fn windows_among(
        &self,
        position: usize,
        over: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = (usize, usize)> + Clone + use<> {
        let padded = position + self.pad_before;
        let (stride, dilation) = (self.stride, self.dilation);
        over.filter_map(move |output| {
            let offset = padded - output * stride;
            if dilation == 1 {
                Some((output, offset))
            } else {
                offset.is_multiple_of(dilation).then_some((output, offset / dilation))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::shape::Axis;
    use crate::testing::Random;

    fn axes() -> impl Iterator<Item = Axis> {
        let mut random = Random(3);
        (0..2000).filter_map(move |_| {
            let mut axis = Axis {
                input: random.within(1..=9),
                output: 0,
                kernel: random.within(1..=5),
                stride: random.within(1..=4),
                dilation: random.within(1..=3),
                pad_before: random.within(0..=6),
                pad_after: random.within(0..=6),
            };
            axis.output = axis.padded().checked_sub(axis.window())? / axis.stride + 1;
            // As ceil_mode does.
            let hangs_over = !(axis.padded() - axis.window()).is_multiple_of(axis.stride);
            let starts_inside = axis.output * axis.stride < axis.pad_before + axis.input;
            axis.output += usize::from(hangs_over && starts_inside && random.chance(50));
            Some(axis)
        })
    }

    #[test]
    fn parts_of_an_axis_keep_every_tap() {
        for axis in axes() {
            for start in 0..axis.output {
                for end in start + 1..=axis.output {
                    if axis.has_windows_in_padding() {
                        continue;
                    }
                    let (part, inputs) = axis.of_outputs(start..end);
                    assert!(!inputs.is_empty() && part.input == inputs.len(), "{axis:?}");
                    for output in start..end {
                        for tap in 0..axis.kernel {
                            let found = part.source(output - start, tap);
                            let found = found.map(|input| input + inputs.start);
                            assert_eq!(found, axis.source(output, tap), "{axis:?} {start}..{end}");
                        }
                        let taps_end = part.taps_end(output - start);
                        assert_eq!(taps_end, axis.taps_end(output), "{axis:?} {start}..{end}");
                    }
                }
            }
            for start in 0..axis.input {
                for end in start + 1..=axis.input {
                    let (part, outputs) = axis.of_inputs(start..end);
                    assert!(!outputs.is_empty() && part.output == outputs.len(), "{axis:?}");
                    for input in start..end {
                        let found = part.windows(input - start);
                        let found = found.map(|(output, tap)| (output + outputs.start, tap));
                        assert!(found.eq(axis.windows(input)), "{axis:?} {start}..{end}");
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_agree_with_a_test_per_tap() {
        for axis in axes() {
            for output in 0..axis.output {
                let reads = |&tap: &usize| axis.source(output, tap).is_some();
                let taps: Vec<usize> = (0..axis.kernel).filter(reads).collect();
                assert_eq!(axis.taps(output).collect::<Vec<_>>(), taps, "{axis:?} {output}");
                let inside =
                    |&tap: &usize| output * axis.stride + tap * axis.dilation < axis.padded();
                assert_eq!(axis.taps_end(output), (0..axis.kernel).filter(inside).count());
            }
            for tap in 0..axis.kernel {
                let reads = |&output: &usize| axis.source(output, tap).is_some();
                let outputs: Vec<usize> = (0..axis.output).filter(reads).collect();
                assert_eq!(axis.outputs(tap).collect::<Vec<_>>(), outputs, "{axis:?} {tap}");
            }
            for padded in [false, true] {
                let full = |&output: &usize| {
                    let (taps, end) = (axis.taps(output), axis.taps_end(output));
                    if padded { end == axis.kernel } else { taps == (0..axis.kernel) }
                };
                let outputs: Vec<usize> = (0..axis.output).filter(full).collect();
                let found = axis.full_outputs(padded);
                assert!(found.end <= axis.output, "{axis:?} {padded}");
                assert_eq!(found.collect::<Vec<_>>(), outputs, "{axis:?} {padded}");
            }
            for position in 0..axis.input {
                let mut windows = Vec::new();
                for output in 0..axis.output {
                    for tap in 0..axis.kernel {
                        if axis.source(output, tap) == Some(position) {
                            windows.push((output, tap));
                        }
                    }
                }
                assert_eq!(axis.windows(position).collect::<Vec<_>>(), windows, "{axis:?}");
            }
        }
    }
}
