//! Which positions of a source the taps of a window read, forward and backward: what all kernels of a sliding window
//! share.

use crate::shape::Axis;

/// What one axis of a patch reads: tap t of the patch at position p lies at
/// `p * step + first_offset + t * offset_step` of the source, and belongs to the filter's place
/// `first_kernel + t * kernel_step`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taps {
    pub count: usize,
    pub step: usize,
    pub first_offset: isize,
    pub offset_step: isize,
    pub first_kernel: usize,
    pub kernel_step: usize,
    /// Extent of the source; what lies outside it is 0.
    pub extent: usize,
}

impl Taps {
    /// The forward pass: positions are y's, the source is x.
    pub fn forward(axis: &Axis) -> Self {
        Taps {
            count: axis.kernel,
            step: axis.stride,
            first_offset: -(axis.pad_before as isize),
            offset_step: axis.dilation as isize,
            first_kernel: 0,
            kernel_step: 1,
            extent: axis.input,
        }
    }

    /// The backward pass to dx at `phase`, `phase + stride`, ...: positions count these, the
    /// source is dy.
    ///
    /// x at i was read by y at o through tap k where `i + pad = o * stride + k * dilation`. Along a
    /// phase the taps that fulfil it for some o are every (stride / gcd)-th one, and o falls by
    /// dilation / gcd from one to the next.
    pub fn backward(axis: &Axis, phase: usize) -> Self {
        let gcd = greatest_common_divisor(axis.stride, axis.dilation);
        let kernel_step = axis.stride / gcd;
        let padded = phase + axis.pad_before;
        let first = (0..kernel_step.min(axis.kernel)).find(|&k| {
            (padded as isize - (k * axis.dilation) as isize) % axis.stride as isize == 0
        });
        let (count, first_kernel) = match first {
            Some(first) => ((axis.kernel - first).div_ceil(kernel_step), first),
            None => (0, 0),
        };
        let difference = padded as isize - (first_kernel * axis.dilation) as isize;
        Taps {
            count,
            step: 1,
            first_offset: difference.div_euclid(axis.stride as isize),
            offset_step: -((axis.dilation / gcd) as isize),
            first_kernel,
            kernel_step,
            extent: axis.output,
        }
    }

    /// Where `tap` of the patch at `position` reads; outside `0..extent` in the padding.
    #[inline(always)]
    pub fn source(&self, position: usize, tap: usize) -> isize {
        (position * self.step) as isize + self.first_offset + tap as isize * self.offset_step
    }

    /// The tap that is number `number` in the order of the source.
    #[inline(always)]
    pub fn in_order(&self, number: usize) -> usize {
        if self.offset_step < 0 { self.count.saturating_sub(1 + number) } else { number }
    }

    /// The taps of the patch at `position` that are not in the padding: the first, and the one
    /// behind the last.
    #[inline(always)]
    pub fn inside(&self, position: usize) -> (usize, usize) {
        let start = (position * self.step) as isize + self.first_offset;
        let (extent, step) = (self.extent as isize, self.offset_step);
        // Taps up to the first that reaches the source, and up to the first behind it.
        let (before, behind) = match step {
            1.. => (-start, extent - start),
            _ => (start - extent + 1, start + 1),
        };
        let taps_in = |distance: isize| {
            let distance = distance.max(0) as usize;
            let taps =
                if step.abs() == 1 { distance } else { distance.div_ceil(step.unsigned_abs()) };
            taps.min(self.count)
        };
        let first = taps_in(before);
        (first, taps_in(behind).max(first))
    }

    /// The positions, of `count`, whose patches have `tap` inside the source: the first, and the
    /// one behind the last. Offsets that rise with the positions.
    #[inline(always)]
    pub fn positions(&self, tap: usize, count: usize) -> (usize, usize) {
        let first = self.source(0, tap);
        let positions_in =
            |distance: isize| (distance.max(0) as usize).div_ceil(self.step).min(count);
        let start = positions_in(-first);
        (start, positions_in(self.extent as isize - first).max(start))
    }

    /// Whether `source` is in the padding.
    #[inline(always)]
    pub fn outside(&self, source: isize) -> bool {
        source < 0 || source >= self.extent as isize
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::Taps;
    use crate::testing::Random;

    #[test]
    fn taps_inside_are_those_that_are_not_outside() {
        let mut random = Random(11);
        for _ in 0..3000 {
            let offset_step = random.within(1..=3) as isize;
            let taps = Taps {
                count: random.within(0..=5),
                step: random.within(1..=3),
                first_offset: random.within(0..=20) as isize - 10,
                offset_step: if random.chance(50) { offset_step } else { -offset_step },
                first_kernel: 0,
                kernel_step: 1,
                extent: random.within(1..=9),
            };
            for position in 0..8 {
                let inside = |&tap: &usize| !taps.outside(taps.source(position, tap));
                let found: Vec<usize> = (0..taps.count).filter(inside).collect();
                let (first, end) = taps.inside(position);
                assert_eq!((first..end).collect::<Vec<_>>(), found, "{taps:?} at {position}");
            }
        }
    }
}
