//! The patches of an image as a matrix that is never stored: im2col a block at a time, straight
//! into the panels of a matrix product.

use crate::shape::{Axis, Layout};
use crate::simd::{Element, Kernel, Lanes};

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

/// The patches of one image (and group): a row per pixel of the grid that they are centred on, in
/// the order of the grid, and in it the taps, and of each tap the channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patches<T> {
    pub layout: Layout,
    /// The image's first element, of the group's first channel.
    pub source: *const T,
    /// Elements whose signs mask the source's, at the same places: see `Lanes::relu_gradient`.
    /// Null for none.
    pub relu_output: *const T,
    pub channels: usize,
    /// Strides of the source along (channel, row, column).
    pub strides: [usize; 3],
    pub rows: Taps,
    pub columns: Taps,
    /// Columns of the grid.
    pub grid_width: usize,
}

// SAFETY: tasks only read through it.
unsafe impl<T: Sync> Sync for Patches<T> {}

impl<T> Patches<T> {
    /// Whether a patch is just its pixel, and the grid's rows are as long as the source's.
    pub fn are_pixels(&self) -> bool {
        let just_the_pixel =
            |taps: Taps| taps.count == 1 && taps.step == 1 && taps.first_offset == 0;
        let whole_rows = self.grid_width == self.columns.extent;
        just_the_pixel(self.rows) && just_the_pixel(self.columns) && whole_rows
    }

    /// Where a block's pixels begin, if they are a matrix in memory: a patch is just its pixel, and
    /// all of them lie in one row of the source.
    pub fn matrix(&self, block: Block) -> Option<usize> {
        let (row, column) = (block.pixel / self.grid_width, block.pixel % self.grid_width);
        let inside = column + block.pixels <= self.grid_width && row < self.rows.extent;
        (self.are_pixels() && inside).then(|| row * self.strides[1] + column * self.strides[2])
    }

    /// Takes the image as one long row where a patch is just its pixel: then no vector of pixels
    /// straddles rows.
    pub fn flattened(self) -> Self {
        if !self.are_pixels() {
            return self;
        }
        let pixels = self.rows.extent * self.columns.extent;
        Patches {
            rows: Taps { extent: 1, ..self.rows },
            columns: Taps { extent: pixels, ..self.columns },
            grid_width: pixels,
            ..self
        }
    }

    /// Elements of a patch.
    pub fn len(&self) -> usize {
        self.channels * self.rows.count * self.columns.count
    }
}

/// A block of the matrix: pixels `pixel .. pixel + pixels`, cells `cell .. cell + cells`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub pixel: usize,
    pub pixels: usize,
    pub cell: usize,
    pub cells: usize,
}

/// Writes a block of NHWC patches with the cells contiguous: (pixel, cell) to
/// `target + pixel * stride + cell`, zeros behind the block's cells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FillByPixel<T> {
    pub patches: Patches<T>,
    pub block: Block,
    pub target: *mut T,
    pub stride: usize,
    /// Zeros behind the cells of each pixel.
    pub padding: usize,
}

impl<T: Element> Kernel<T> for FillByPixel<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        debug_assert_eq!(self.patches.layout, Layout::Nhwc);
        let Patches { rows, columns, strides, channels, grid_width, .. } = self.patches;
        for pixel in 0..self.block.pixels {
            let grid_row = (self.block.pixel + pixel) / grid_width;
            let grid_column = (self.block.pixel + pixel) % grid_width;
            let mut cell = 0;
            while cell < self.block.cells {
                let tap = (self.block.cell + cell) / channels;
                let channel = (self.block.cell + cell) % channels;
                let count = (channels - channel).min(self.block.cells - cell);
                let row = rows.source(grid_row, tap / columns.count);
                let column = columns.source(grid_column, tap % columns.count);
                // SAFETY: a tap inside has its channels in the source; the target has the block.
                unsafe {
                    let target = self.target.add(pixel * self.stride + cell);
                    if rows.outside(row) || columns.outside(column) {
                        target.write_bytes(0, count);
                    } else {
                        let offset =
                            row as usize * strides[1] + column as usize * strides[2] + channel;
                        self.copy(simd, offset, count, target);
                    }
                }
                cell += count;
            }
            // SAFETY: the target has the zeros' places too.
            unsafe { self.target.add(pixel * self.stride + cell).write_bytes(0, self.padding) };
        }
    }
}

impl<T: Element> FillByPixel<T> {
    /// Copies `count` channels, masked.
    ///
    /// # Safety
    /// The source and the target have them.
    #[inline(always)]
    unsafe fn copy<S: Lanes<T>>(&self, simd: S, offset: usize, count: usize, target: *mut T) {
        // SAFETY: the caller answers for `count` elements from each pointer on.
        unsafe {
            let source = self.patches.source.add(offset);
            let masked = !self.patches.relu_output.is_null();
            let relu_output =
                if masked { self.patches.relu_output.add(offset) } else { std::ptr::null() };
            let mut done = 0;
            while done + S::LANES <= count {
                let mut value = simd.load(source.add(done));
                if masked {
                    value = simd.relu_gradient(simd.load(relu_output.add(done)), value);
                }
                simd.store(target.add(done), value);
                done += S::LANES;
            }
            if done < count {
                let rest = count - done;
                let mut value = simd.load_first(rest, source.add(done));
                if masked {
                    value = simd.relu_gradient(simd.load_first(rest, relu_output.add(done)), value);
                }
                simd.store_first(rest, target.add(done), value);
            }
        }
    }
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
