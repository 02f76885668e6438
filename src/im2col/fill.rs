//! im2col of some rows of an image, a run of elements at a time.

use std::ops::Range;

use super::lines;
use super::places::{Block, Places};
use crate::runs;
use crate::shape::{ConvShape, Layout};
use crate::simd::{Element, Kernel, Lanes};

/// Writes the patches of some rows of an image.
pub(super) struct Fill<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    /// All of them for NHWC.
    pub channels: Range<usize>,
    pub x_places: Places,
    pub places: Places,
    /// The image.
    pub x: *const T,
    /// The image's part of the column matrix.
    pub col: *mut T,
    /// Where rows of patches are made of columns, and the memory for it.
    pub block: Option<Block>,
    pub memory: *mut T,
}

impl<T: Element> Kernel<T> for Fill<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Fill { shape, ref rows, col, memory, .. } = self;
        let all = self.channels.clone();
        let to_rows = col.wrapping_add(rows.start * self.places.row);
        match (shape.layout, self.places.is_patch_rows()) {
            (Layout::Nhwc, true) => self.patches(simd),
            (Layout::Nhwc, false) => self.transposed(simd),
            (Layout::Nchw, false) => {
                let target = to_rows.wrapping_add(all.start * self.places.channel);
                self.columns(simd, all, target, &self.places);
            }
            (Layout::Nchw, true) => {
                let Some(block) = self.block else { return self.cells(all) };
                let pixels = rows.len() * shape.out_width;
                for first in all.clone().step_by(block.channels) {
                    let channels = first..all.end.min(first + block.channels);
                    let cells = channels.len() * shape.window();
                    self.columns(simd, channels, memory, &block.places(shape, pixels));
                    let target = to_rows.wrapping_add(first * self.places.channel);
                    // SAFETY: the cells of these channels in the patches of these rows.
                    unsafe {
                        let source = memory.cast_const();
                        let extents = [cells, pixels];
                        runs::transpose(simd, extents, source, pixels, target, self.places.column);
                    }
                }
            }
        }
    }
}

impl<T: Element> Fill<'_, T> {
    /// The row of x that a tap reads.
    #[inline(always)]
    fn source(&self, row: usize, kernel_row: usize) -> Option<*const T> {
        let source = self.shape.height.source(row, kernel_row)?;
        Some(self.x.wrapping_add(source * self.x_places.row))
    }

    /// Columns of patches of NCHW, to where those of the first channel and row lie.
    #[inline(always)]
    fn columns<S: Lanes<T>>(
        &self,
        simd: S,
        channels: Range<usize>,
        target: *mut T,
        places: &Places,
    ) {
        let w = &self.shape.width;
        for (number, channel) in channels.enumerate() {
            for (kernel_row, kernel_column) in taps(self.shape) {
                let inside = w.outputs(kernel_column);
                let first = (inside.start * w.stride + kernel_column * w.dilation)
                    .wrapping_sub(w.pad_before);
                let target =
                    target.wrapping_add(places.at([0, 0, number], (kernel_row, kernel_column)));
                for (number, row) in self.rows.clone().enumerate() {
                    let target = target.wrapping_add(number * places.row);
                    // SAFETY: a row of the patches' cells, and the elements of x in it.
                    unsafe {
                        let Some(source) = self.source(row, kernel_row) else {
                            lines::clear(simd, w.output, target);
                            continue;
                        };
                        let source = source.wrapping_add(channel * self.x_places.channel);
                        let source = source.wrapping_add(first);
                        lines::clear(simd, inside.start, target);
                        let copied = target.add(inside.start);
                        match w.stride {
                            1 => lines::copy(simd, inside.len(), source, copied),
                            stride => lines::take(simd, inside.len(), source, stride, copied),
                        }
                        lines::clear(simd, w.output - inside.end, target.add(inside.end));
                    }
                }
            }
        }
    }

    /// Rows of patches of NHWC: runs of channels, of all taps of a row where they follow each other.
    #[inline(always)]
    fn patches<S: Lanes<T>>(&self, simd: S) {
        let (w, channels) = (&self.shape.width, self.shape.in_channels);
        for row in self.rows.clone() {
            for column in 0..w.output {
                let taps = w.taps(column);
                let first = column * w.stride + taps.start * w.dilation;
                let first = first.wrapping_sub(w.pad_before).wrapping_mul(channels);
                for kernel_row in 0..self.shape.height.kernel {
                    let place = self.places.at([row, column, 0], (kernel_row, 0));
                    let target = self.col.wrapping_add(place);
                    // SAFETY: a row of the patch, and the elements of x in it.
                    unsafe {
                        let Some(source) = self.source(row, kernel_row) else {
                            lines::clear(simd, w.kernel * channels, target);
                            continue;
                        };
                        let source = source.wrapping_add(first);
                        lines::clear(simd, taps.start * channels, target);
                        let copied = target.add(taps.start * channels);
                        if w.dilation == 1 {
                            lines::copy(simd, taps.len() * channels, source, copied);
                        } else {
                            for tap in 0..taps.len() {
                                let source = source.wrapping_add(tap * w.dilation * channels);
                                lines::copy(simd, channels, source, copied.add(tap * channels));
                            }
                        }
                        let end = taps.end.max(taps.start);
                        let rest = (w.kernel - end) * channels;
                        lines::clear(simd, rest, target.add(end * channels));
                    }
                }
            }
        }
    }

    /// Columns of patches of NHWC: transposed.
    #[inline(always)]
    fn transposed<S: Lanes<T>>(&self, simd: S) {
        let (w, channels) = (&self.shape.width, self.shape.in_channels);
        for (kernel_row, kernel_column) in taps(self.shape) {
            let inside = w.outputs(kernel_column);
            let first = (inside.start * w.stride + kernel_column * w.dilation)
                .wrapping_sub(w.pad_before)
                .wrapping_mul(channels);
            for row in self.rows.clone() {
                let place = self.places.at([row, 0, 0], (kernel_row, kernel_column));
                let target = self.col.wrapping_add(place);
                let source = self.source(row, kernel_row);
                let inside = if source.is_some() { inside.clone() } else { 0..0 };
                // SAFETY: a row of the patches' cells in each channel, and the elements of x in it.
                unsafe {
                    for channel in 0..channels {
                        let target = target.wrapping_add(channel * self.places.channel);
                        lines::clear(simd, inside.start, target);
                        lines::clear(simd, w.output - inside.end, target.add(inside.end));
                    }
                    let Some(source) = source else { continue };
                    let source = source.wrapping_add(first);
                    let target = target.wrapping_add(inside.start);
                    let extents = [inside.len(), channels];
                    let stride = w.stride * channels;
                    runs::transpose(simd, extents, source, stride, target, self.places.channel);
                }
            }
        }
    }

    /// Any patches, a cell at a time.
    fn cells(&self, channels: Range<usize>) {
        let (w, places) = (&self.shape.width, &self.places);
        for row in self.rows.clone() {
            for channel in channels.clone() {
                for (kernel_row, kernel_column) in taps(self.shape) {
                    let source = self.source(row, kernel_row);
                    for column in 0..w.output {
                        let source = source.zip(w.source(column, kernel_column));
                        let target = self.col.wrapping_add(
                            places.at([row, column, channel], (kernel_row, kernel_column)),
                        );
                        // SAFETY: a cell of these patches, and an element of x.
                        unsafe {
                            *target = source.map_or(T::default(), |(source, position)| {
                                *source.add(channel * self.x_places.channel + position)
                            });
                        }
                    }
                }
            }
        }
    }
}

/// The taps of a window: (kernel row, kernel column).
#[inline(always)]
pub(super) fn taps(shape: &ConvShape) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (rows, columns) = (shape.height.kernel, shape.width.kernel);
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}
