//! col2im of some rows of an image, a run of elements at a time.

use std::ops::Range;

use super::fill::taps;
use super::lines;
use super::places::{Block, Places};
use crate::runs;
use crate::shape::{Axis, ConvShape, Layout};
use crate::simd::{Element, Kernel, Lanes};

/// Remainders of columns at the most, and columns whose row stays in the first-level cache.
const MOST_PHASES: usize = 16;
const MOST_COLUMNS: usize = 1 << 12;

/// Writes some rows of an image of x: every element the sum of its cells, in the order of the taps.
pub(super) struct Gather<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    /// All of them for NHWC.
    pub channels: Range<usize>,
    pub x_places: Places,
    pub places: Places,
    /// The image's part of the column matrix.
    pub col: *const T,
    /// The image, and what its elements count before their cells are added.
    pub x: *mut T,
    pub beta: T,
    /// Where cells are transposed, and the memory for it.
    pub block: Option<Block>,
    pub memory: *mut T,
}

impl<T: Element> Kernel<T> for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Gather { shape, ref rows, col, memory, places, .. } = self;
        self.begin(simd);
        let windows = windows_over(&shape.height, rows);
        let pixels = windows.len() * shape.out_width;
        let from_rows = col.wrapping_add(windows.start * places.row);
        let all = self.channels.clone();
        match (shape.layout, places.is_patch_rows(), self.block) {
            (Layout::Nhwc, true, _) => self.patches(simd),
            (Layout::Nchw, false, _) if phases_len(shape) > 0 => self.phases(simd, col),
            (Layout::Nchw, false, _) => {
                let source = from_rows.wrapping_add(all.start * places.channel);
                self.columns(simd, all, source, &places, windows.start);
            }
            // Too few channels to be transposed.
            (Layout::Nhwc, false, None) => {
                self.columns(simd, all, from_rows, &places, windows.start);
            }
            (Layout::Nchw, true, None) => self.cells(),
            (Layout::Nchw, true, Some(block)) => {
                for first in all.clone().step_by(block.channels) {
                    let channels = first..all.end.min(first + block.channels);
                    let extents = [pixels, channels.len() * shape.window()];
                    let source = from_rows.wrapping_add(first * places.channel);
                    // SAFETY: the cells of these channels in the patches over these rows.
                    unsafe {
                        runs::transpose(simd, extents, source, places.column, memory, pixels);
                    }
                    let places = block.places(shape, pixels);
                    self.columns(simd, channels, memory, &places, windows.start);
                }
            }
            (Layout::Nhwc, false, Some(_)) => {
                for (kernel_row, kernel_column) in taps(shape) {
                    let source =
                        from_rows.wrapping_add(places.at([0; 3], (kernel_row, kernel_column)));
                    let channels = shape.in_channels;
                    // SAFETY: a cell of the patches over these rows, in each channel.
                    unsafe {
                        let extents = [channels, pixels];
                        runs::transpose(simd, extents, source, places.channel, memory, channels);
                    }
                    self.pixels(simd, (kernel_row, kernel_column), windows.start);
                }
            }
        }
    }
}

/// Elements of a row of one remainder of columns.
fn phase_len(width: &Axis) -> usize {
    width.input.div_ceil(width.stride)
}

/// Elements of memory that a row of NCHW takes whose columns are added by their remainders, from columns of
/// patches: none where they are not.
pub(super) fn phases_len(shape: &ConvShape) -> usize {
    let width = &shape.width;
    match width.stride {
        3..=MOST_PHASES if width.input <= MOST_COLUMNS => width.stride * phase_len(width),
        _ => 0,
    }
}

/// The rows of windows over some rows of x.
pub(super) fn windows_over(height: &Axis, rows: &Range<usize>) -> Range<usize> {
    let start = height.windows_over(rows.start).start;
    start..height.windows_over(rows.end - 1).end.max(start)
}

impl<T: Element> Gather<'_, T> {
    /// The rows of windows of which a tap is on one of the rows, and that row, the last first: so a row gets its
    /// taps in their order.
    #[inline(always)]
    fn on_rows(&self, kernel_row: usize) -> impl Iterator<Item = (usize, *mut T)> {
        let height = self.shape.height;
        let windows = windows_over(&height, &self.rows);
        windows.rev().filter_map(move |window| {
            let row = height.source(window, kernel_row)?;
            let x = self.x.wrapping_add(row * self.x_places.row);
            self.rows.contains(&row).then_some((window, x))
        })
    }

    /// From columns of patches at strides whose elements no vector can take apart: those of each column's
    /// remainder are added in a row of their own, and then put together.
    #[inline(always)]
    fn phases<S: Lanes<T>>(&self, simd: S, col: *const T) {
        let (width, places, x_places) = (&self.shape.width, &self.places, &self.x_places);
        let (stride, row_len) = (width.stride, phase_len(&self.shape.width));
        let memory = self.memory;
        for (channel, row) in
            self.channels.clone().flat_map(|c| self.rows.clone().map(move |r| (c, r)))
        {
            let x = self.x.wrapping_add(channel * x_places.channel + row * x_places.row);
            // SAFETY: a row of x, which is this task's, and of the memory, and the cells that lie on it.
            unsafe {
                lines::clear(simd, stride * row_len, memory);
                if self.beta != T::default() {
                    for column in 0..width.input {
                        let place = column % stride * row_len + column / stride;
                        *memory.add(place) = *x.add(column);
                    }
                }
                // The last window first: so an element gets its taps in their order.
                for (window, kernel_row) in self.shape.height.windows(row).rev() {
                    for kernel_column in 0..width.kernel {
                        let inside = width.outputs(kernel_column);
                        let at = [window, inside.start, channel];
                        let source = col.wrapping_add(places.at(at, (kernel_row, kernel_column)));
                        let position = (inside.start * stride + kernel_column * width.dilation)
                            .wrapping_sub(width.pad_before);
                        let place = position % stride * row_len + position / stride;
                        lines::add(simd, inside.len(), source, memory.wrapping_add(place));
                    }
                }
                let whole = width.input / stride;
                runs::transpose(simd, [stride, whole], memory, row_len, x, stride);
                for phase in 0..width.input % stride {
                    *x.add(whole * stride + phase) = *memory.add(phase * row_len + whole);
                }
            }
        }
    }

    /// Scales the elements by beta; 0 does not read them.
    #[inline(always)]
    fn begin<S: Lanes<T>>(&self, simd: S) {
        let (rows, places) = (self.rows.clone(), &self.x_places);
        let (runs, len) = match self.shape.layout {
            Layout::Nchw => (self.channels.clone(), rows.len() * places.row),
            Layout::Nhwc => (0..1, rows.len() * places.row),
        };
        for run in runs {
            let target = self.x.wrapping_add(run * places.channel + rows.start * places.row);
            // SAFETY: the rows of this task.
            unsafe {
                match self.beta == T::default() {
                    true => lines::clear(simd, len, target),
                    false => lines::scale(simd, len, self.beta, target),
                }
            }
        }
    }

    /// From columns of patches, those of the first channel and of row `first` at `source`.
    #[inline(always)]
    fn columns<S: Lanes<T>>(
        &self,
        simd: S,
        channels: Range<usize>,
        source: *const T,
        places: &Places,
        first: usize,
    ) {
        let (w, pixel) = (&self.shape.width, self.x_places.column);
        for (number, channel) in channels.enumerate() {
            for (kernel_row, kernel_column) in taps(self.shape) {
                let inside = w.outputs(kernel_column);
                let position = (inside.start * w.stride + kernel_column * w.dilation)
                    .wrapping_sub(w.pad_before);
                let source = source.wrapping_add(
                    places.at([0, inside.start, number], (kernel_row, kernel_column)),
                );
                for (window, x) in self.on_rows(kernel_row) {
                    let source = source.wrapping_add((window - first) * places.row);
                    let position = position.wrapping_mul(pixel);
                    let x = x.wrapping_add(channel * self.x_places.channel).wrapping_add(position);
                    // SAFETY: a row of cells, and the elements of x that they came from.
                    unsafe {
                        match w.stride * pixel {
                            1 => lines::add(simd, inside.len(), source, x),
                            stride => lines::spread(simd, inside.len(), source, x, stride),
                        }
                    }
                }
            }
        }
    }

    /// From rows of patches of NHWC: runs of channels, of all taps of a row where they follow each other.
    #[inline(always)]
    fn patches<S: Lanes<T>>(&self, simd: S) {
        let (w, channels) = (&self.shape.width, self.shape.in_channels);
        for kernel_row in 0..self.shape.height.kernel {
            for (window, x) in self.on_rows(kernel_row) {
                // The last first: so an element gets its taps in their order.
                for column in (0..w.output).rev() {
                    let taps = w.taps(column);
                    let position = (column * w.stride + taps.start * w.dilation)
                        .wrapping_sub(w.pad_before)
                        .wrapping_mul(channels);
                    let x = x.wrapping_add(position);
                    let place = self.places.at([window, column, 0], (kernel_row, taps.start));
                    let source = self.col.wrapping_add(place);
                    // SAFETY: the cells in the row, and the elements of x that they came from.
                    unsafe {
                        if w.dilation == 1 {
                            lines::add(simd, taps.len() * channels, source, x);
                            continue;
                        }
                        for tap in 0..taps.len() {
                            let x = x.wrapping_add(tap * w.dilation * channels);
                            lines::add(simd, channels, source.add(tap * channels), x);
                        }
                    }
                }
            }
        }
    }

    /// From the pixels of a tap of NHWC, which are in memory from row `first` on.
    #[inline(always)]
    fn pixels<S: Lanes<T>>(
        &self,
        simd: S,
        (kernel_row, kernel_column): (usize, usize),
        first: usize,
    ) {
        let (w, channels) = (&self.shape.width, self.shape.in_channels);
        let inside = w.outputs(kernel_column);
        for (window, x) in self.on_rows(kernel_row) {
            for column in inside.clone() {
                let pixel = (window - first) * w.output + column;
                let source = self.memory.wrapping_add(pixel * channels);
                let position = column * w.stride + kernel_column * w.dilation - w.pad_before;
                // SAFETY: a pixel, and that of x that it came from.
                unsafe { lines::add(simd, channels, source, x.add(position * channels)) };
            }
        }
    }

    /// From any patches, a cell at a time.
    fn cells(&self) {
        let w = &self.shape.width;
        for (kernel_row, kernel_column) in taps(self.shape) {
            for (window, x) in self.on_rows(kernel_row) {
                for channel in self.channels.clone() {
                    for column in w.outputs(kernel_column) {
                        let position =
                            column * w.stride + kernel_column * w.dilation - w.pad_before;
                        let place =
                            position * self.x_places.column + channel * self.x_places.channel;
                        let tap = (kernel_row, kernel_column);
                        let source = self.places.at([window, column, channel], tap);
                        // SAFETY: a cell, and the element of x that it came from.
                        unsafe { *x.add(place) = *x.add(place) + *self.col.add(source) };
                    }
                }
            }
        }
    }
}
