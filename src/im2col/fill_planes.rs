//! im2col of NCHW: the windows of a row side by side in the lanes, which a tap reads from one row of x.

use std::ops::Range;

use super::lines::{self, ANY, Reader};
use super::places::Places;
use crate::runs;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Writes the patches of some rows of windows, or their cells in some channels.
pub(super) struct FillPlanes<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    pub channels: Range<usize>,
    /// The image.
    pub x: *const T,
    /// The image's part of the column matrix.
    pub col: *mut T,
    pub places: Places,
    /// Of `memory_len` elements, where patches are rows.
    pub memory: *mut T,
}

/// Cells of a vector of windows that are transposed together, where that is a line at least: they stay in the
/// first-level cache.
const CELLS: usize = 256;

/// Lines of a patch, one for each channel and row of the kernel, that are transposed together.
fn lines_together(shape: &ConvShape) -> usize {
    (CELLS / shape.width.kernel).max(1)
}

/// Rows of windows of which a vector's columns are written before the next ones: their lines lie close together.
fn rows_together(width: &Axis) -> usize {
    (512 / width.output).max(1)
}

/// Elements of memory that rows of patches take.
pub(super) fn memory_len(shape: &ConvShape) -> usize {
    lines_together(shape) * shape.width.kernel * TILE_LANES
}

/// From cell to cell of the columns of patches that are written.
struct Columns<T> {
    start: *mut T,
    line: usize,
    kernel_column: usize,
    row: usize,
}

impl<T: Element> Kernel<T> for FillPlanes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        match self.shape.width.stride {
            1 => self.fill::<S, 1>(simd),
            2 => self.fill::<S, 2>(simd),
            _ => self.fill::<S, ANY>(simd),
        }
    }
}

impl<T: Element> FillPlanes<'_, T> {
    #[inline(always)]
    fn fill<S: Lanes<T>, const STRIDE: usize>(&self, simd: S) {
        let &FillPlanes { shape, ref rows, col, places, memory, .. } = self;
        let (kernel_height, width) = (shape.height.kernel, &shape.width);
        let lines = self.channels.start * kernel_height..self.channels.end * kernel_height;
        if !places.is_patch_rows() {
            for first in lines.step_by(kernel_height) {
                for row in rows.clone().step_by(rows_together(width)) {
                    let some = row..rows.end.min(row + rows_together(width));
                    let place = first / kernel_height * places.channel + row * places.row;
                    let columns = Columns {
                        start: col.wrapping_add(place),
                        line: places.kernel_row,
                        kernel_column: places.kernel_column,
                        row: places.row,
                    };
                    let channel = first..first + kernel_height;
                    self.columns::<S, STRIDE>(simd, channel, some, 0..width.output, &columns);
                }
            }
            return;
        }
        for row in rows.clone() {
            for column in (0..width.output).step_by(S::LANES) {
                let windows = column..width.output.min(column + S::LANES);
                let patches = col.wrapping_add(places.at([row, column, 0], (0, 0)));
                for first in lines.clone().step_by(lines_together(shape)) {
                    let some = first..lines.end.min(first + lines_together(shape));
                    let extents = [some.len() * width.kernel, windows.len()];
                    let target = patches.wrapping_add(first * places.kernel_row);
                    lines::ask_for(simd, [windows.len(), extents[0]], target, places.column);
                    let columns = Columns {
                        start: memory,
                        line: width.kernel * S::LANES,
                        kernel_column: S::LANES,
                        row: 0,
                    };
                    self.columns::<S, STRIDE>(simd, some, row..row + 1, windows.clone(), &columns);
                    // SAFETY: the cells of these lines in the patches of these windows.
                    unsafe {
                        let source = memory.cast_const();
                        runs::transpose(simd, extents, source, S::LANES, target, places.column);
                    }
                }
            }
        }
    }

    /// Writes some lines' cells of the windows in some rows and columns.
    #[inline(always)]
    fn columns<S: Lanes<T>, const STRIDE: usize>(
        &self,
        simd: S,
        lines: Range<usize>,
        rows: Range<usize>,
        windows: Range<usize>,
        columns: &Columns<T>,
    ) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let [_, x_channel, x_row, _] = self.shape.input_strides;
        let (channel, first_kernel_row) =
            (lines.start / height.kernel, lines.start % height.kernel);
        let first_row = rows.start * height.stride + first_kernel_row * height.dilation;
        let first_row = first_row.wrapping_sub(height.pad_before);
        let first_source =
            self.x.wrapping_add(channel * x_channel).wrapping_add(first_row.wrapping_mul(x_row));
        let next_channel =
            x_channel.wrapping_sub((height.kernel * height.dilation).wrapping_mul(x_row));
        for kernel_column in 0..width.kernel {
            let inside = width.outputs(kernel_column);
            for at in windows.clone().step_by(S::LANES) {
                let count = S::LANES.min(windows.end - at);
                let lanes = lines::lanes(&inside, at, count);
                let reader = Reader::<_, STRIDE>::new(simd, lanes, width.stride);
                let column = at * width.stride + kernel_column * width.dilation;
                let column = column.wrapping_sub(width.pad_before);
                let place = kernel_column * columns.kernel_column + at - windows.start;
                // Of the line's first row.
                let mut target = columns.start.wrapping_add(place);
                let mut kernel_row = first_kernel_row;
                let mut row = first_row;
                let mut source = first_source.wrapping_add(column);
                for _ in lines.clone() {
                    let (mut cells, mut from, mut from_row) = (target, source, row);
                    for _ in rows.clone() {
                        // SAFETY: cells of a row of windows, and the elements of x in them.
                        unsafe {
                            let value = match from_row < height.input {
                                true => reader.read(simd, from),
                                false => simd.splat(T::default()),
                            };
                            runs::store(simd, count, cells, value);
                        }
                        cells = cells.wrapping_add(columns.row);
                        from = from.wrapping_add(height.stride.wrapping_mul(x_row));
                        from_row = from_row.wrapping_add(height.stride);
                    }
                    target = target.wrapping_add(columns.line);
                    kernel_row += 1;
                    row = row.wrapping_add(height.dilation);
                    source = source.wrapping_add(height.dilation.wrapping_mul(x_row));
                    if kernel_row == height.kernel {
                        kernel_row = 0;
                        row = row.wrapping_sub(height.kernel * height.dilation);
                        source = source.wrapping_add(next_channel);
                    }
                }
            }
        }
    }
}
