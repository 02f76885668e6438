//! The patches of an image as a matrix that is never stored: im2col a block at a time, straight
//! into the panels of a matrix product.

use crate::shape::Layout;
use crate::simd::{Element, Kernel, Lanes};
use crate::taps::Taps;

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
