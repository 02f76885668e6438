//! im2col of NCHW to rows of patches where a window's rows have some width: runs of as many elements, each copied
//! at once from rows of x that lie in memory with their padding.

use std::ops::Range;

use super::lines;
use super::places::Places;
use crate::shape::{ConvShape, Layout};
use crate::simd::{Element, Kernel, Lanes};

/// Writes the patches of some rows of windows.
pub(super) struct FillRuns<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    /// The image.
    pub x: *const T,
    /// The image's part of the column matrix.
    pub col: *mut T,
    pub places: Places,
    /// Of `memory_len` elements.
    pub memory: *mut T,
}

/// The shortest run that is worth a copy of its own. (Shorter ones are faster made by transposing.)
const SHORTEST: usize = 5;

/// Whether it takes the patches, which are rows. Not where much lies between few windows: that would be copied, too.
pub(super) fn takes(shape: &ConvShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    let copied = height.span(shape.out_height).saturating_mul(width.span(shape.out_width));
    let cells = shape.window() * shape.out_height * shape.out_width;
    let pays = copied / 2 <= height.input * width.input + cells;
    pays && shape.layout == Layout::Nchw && width.dilation == 1 && width.kernel >= SHORTEST
}

/// Elements of memory for so many rows of windows.
pub(super) fn memory_len(shape: &ConvShape, rows: usize) -> usize {
    plane_len(shape, rows).saturating_mul(shape.in_channels).saturating_add(READ_TOO_MUCH)
}

/// Elements that are read behind a run at most.
const READ_TOO_MUCH: usize = 8;

/// Elements from one channel to the next.
fn plane_len(shape: &ConvShape, rows: usize) -> usize {
    lines::plane_len(shape.height.span(rows).saturating_mul(shape.width.span(shape.out_width)))
}

impl<T: Element> Kernel<T> for FillRuns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let rows = match self.shape.is_padded {
            true => self.pad(simd),
            false => self.unpadded(),
        };
        match self.shape.width.kernel {
            ..=8 => self.patches::<false>(&rows),
            _ => self.patches::<true>(&rows),
        }
    }
}

/// The rows that the windows read.
struct Rows<T> {
    /// The first one of the first channel.
    start: *const T,
    /// From row to row, and from channel to channel.
    row: usize,
    channel: usize,
}

impl<T: Element> FillRuns<'_, T> {
    /// Those of x, where all windows lie inside.
    fn unpadded(&self) -> Rows<T> {
        let [_, channel, row, _] = self.shape.input_strides;
        let first = self.rows.start * self.shape.height.stride;
        Rows { start: self.x.wrapping_add(first * row), row, channel }
    }

    /// Copies of them.
    #[inline(always)]
    fn pad<S: Lanes<T>>(&self, simd: S) -> Rows<T> {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let [_, x_channel, x_row, _] = self.shape.input_strides;
        let (rows, columns) = (height.span(self.rows.len()), width.span(self.shape.out_width));
        let inside = width.pad_before.min(columns)..(width.pad_before + width.input).min(columns);
        let plane = plane_len(self.shape, self.rows.len());
        for channel in 0..self.shape.in_channels {
            for row in 0..rows {
                let target = self.memory.wrapping_add(channel * plane + row * columns);
                let source =
                    (self.rows.start * height.stride + row).wrapping_sub(height.pad_before);
                let (first, inside) = match source < height.input {
                    true => (channel * x_channel + source * x_row, &inside),
                    false => (0, &(0..0)),
                };
                let source = self.x.wrapping_add(first).wrapping_sub(width.pad_before);
                // SAFETY: a row of the memory, and the elements of x in it.
                unsafe { lines::copy(simd, 0..columns, inside, source, target) };
            }
        }
        Rows { start: self.memory, row: columns, channel: plane }
    }

    /// Writes the patches by copies of runs, `LONG` ones or short ones.
    #[inline(always)]
    fn patches<const LONG: bool>(&self, from: &Rows<T>) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let channels = self.shape.in_channels;
        // (Of the shape itself it would be read anew after each store.)
        let (rows, len) = (height.kernel, width.kernel);
        let down = height.dilation * from.row;
        for row in self.rows.clone() {
            let line = (row - self.rows.start) * height.stride * from.row;
            for column in 0..self.shape.out_width {
                let mut source = from.start.wrapping_add(line + column * width.stride);
                let mut target = self.col.wrapping_add(self.places.at([row, column, 0], (0, 0)));
                for channel in 0..channels {
                    let mut run = source;
                    for kernel_row in 0..rows {
                        let is_last = (channel + 1, kernel_row + 1) == (channels, rows);
                        // SAFETY: a run of a patch, and what it is in x or in its copy. Behind it there are others
                        // but for the last one, and more of x: rows of the window below, or other channels.
                        unsafe {
                            match LONG {
                                true => copy_long(run, target, len),
                                false => copy_short(run, target, len, is_last),
                            }
                        }
                        run = run.wrapping_add(down);
                        target = target.wrapping_add(len);
                    }
                    source = source.wrapping_add(from.channel);
                }
            }
        }
    }
}

/// Copies 5 to 8 elements, and with them some that lie behind, unless these are the last of a patch: what comes there is
/// written later.
///
/// # Safety
/// They may be read and written, and so may 8 where they are not the last.
#[inline(always)]
unsafe fn copy_short<T: Element>(source: *const T, target: *mut T, len: usize, is_last: bool) {
    // SAFETY: the caller answers for the elements.
    unsafe {
        if is_last {
            target.copy_from_nonoverlapping(source, 4);
            target.add(len - 4).copy_from_nonoverlapping(source.add(len - 4), 4);
        } else {
            target.copy_from_nonoverlapping(source, 8);
        }
    }
}

/// Copies 8 elements or more.
///
/// # Safety
/// They may be read and written.
#[inline(always)]
unsafe fn copy_long<T: Element>(source: *const T, target: *mut T, len: usize) {
    for at in (0..len - 8).step_by(8).chain([len - 8]) {
        // SAFETY: the caller answers for the elements.
        unsafe { target.add(at).copy_from_nonoverlapping(source.add(at), 8) };
    }
}
