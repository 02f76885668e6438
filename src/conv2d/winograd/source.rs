//! Tiles at the points, of the source and of the gradient: channels in the lanes, tile after tile.

use super::tiles::{Segment, Tiles};
use super::transforms::{self, POINTS};
use crate::conv2d::gather::Gather;
use crate::runs::{self, for_each_vector};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Channels that one task transforms.
pub(super) const CHUNK: usize = 128;

/// A tensor that tiles are cut from.
#[derive(Clone, Copy)]
pub(super) struct Images<T> {
    pub start: *const T,
    /// Masks it; null for none.
    pub relu_output: *const T,
    /// Strides along (image, channel, row, column).
    pub strides: [usize; 4],
    /// Row and column where the first tile begins: in the padding where negative.
    pub first: [isize; 2],
    /// Rows and columns.
    pub extents: [usize; 2],
}

// SAFETY: tasks read it.
unsafe impl<T: Sync> Sync for Images<T> {}

impl<T: Element> Images<T> {
    /// The source of a gathering pass.
    pub fn source_of(pass: &Gather<T>) -> Self {
        let Gather { rows, columns, .. } = pass;
        // The taps rise or fall.
        let first = |first: isize, last: isize| first.min(last);
        Images {
            start: pass.source,
            relu_output: pass.relu_output,
            strides: pass.source_strides,
            first: [
                first(rows.source(0, 0), rows.source(0, rows.count - 1)),
                first(columns.source(0, 0), columns.source(0, columns.count - 1)),
            ],
            extents: [rows.extent, columns.extent],
        }
    }
}

/// Columns of a strip of rows from which tiles of INPUTS x INPUTS are read.
fn strip_columns<const INPUTS: usize>(tiles: &Tiles) -> usize {
    tiles.part_tiles * tiles.extent + INPUTS - tiles.extent
}

/// Elements of the strip: a vector may be written past the last.
pub(super) fn strip_len<const INPUTS: usize>(tiles: &Tiles) -> usize {
    (INPUTS * strip_columns::<INPUTS>(tiles) + TILE_LANES) * TILE_LANES
}

/// Transforms the tiles of one segment, INPUTS x INPUTS each, some channels of them. Their rows are first
/// copied to a strip, a vector of channels per pixel, with zeros for the padding.
pub(super) struct TransformTiles<'a, T, const INPUTS: usize> {
    pub images: &'a Images<T>,
    pub tiles: &'a Tiles,
    pub segment: Segment,
    /// The number of the group's first channel.
    pub group_first: usize,
    /// First and number of the channels of the group.
    pub channels: (usize, usize),
    pub strip: *mut T,
    /// Where the segment's first tile goes.
    pub target: *mut T,
    /// Elements from tile to tile, and from point to point.
    pub tile_stride: usize,
    pub plane: usize,
    /// Where the sums over the segment's pixels go, one per channel of the group; null for nowhere.
    pub channel_sums: *mut T,
}

impl<T: Element, const INPUTS: usize> Kernel<T> for TransformTiles<'_, T, INPUTS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (first, count) = self.channels;
        let extent = self.tiles.extent;
        let of_row = strip_columns::<INPUTS>(self.tiles) * S::LANES;
        for channel in (first..first + count).step_by(S::LANES) {
            let channels = S::LANES.min(first + count - channel);
            // SAFETY: the images have these channels; the strip has INPUTS rows of vectors, the target
            // the tiles' vectors at each point, channels rounded up.
            unsafe {
                for row in 0..INPUTS {
                    let strip = self.strip.add(row * of_row);
                    self.copy_row(simd, row, channel, channels, strip);
                }
                if !self.channel_sums.is_null() {
                    let mut sum = simd.splat(T::default());
                    for row in 0..INPUTS {
                        for column in 0..self.segment.tiles * extent {
                            let pixel = self.strip.add(row * of_row + column * S::LANES);
                            sum = simd.add(sum, simd.load(pixel));
                        }
                    }
                    simd.store(self.channel_sums.add(channel), sum);
                }
                for tile in 0..self.segment.tiles {
                    let source = self.strip.add(tile * extent * S::LANES);
                    let target = self.target.add(tile * self.tile_stride + channel);
                    transform::<T, S, INPUTS>(simd, source, of_row, target, self.plane);
                }
            }
        }
    }
}

impl<T: Element, const INPUTS: usize> TransformTiles<'_, T, INPUTS> {
    /// Copies one row to the strip.
    ///
    /// # Safety
    /// The images have the channels, the strip the row.
    #[inline(always)]
    unsafe fn copy_row<S: Lanes<T>>(
        &self,
        simd: S,
        row: usize,
        channel: usize,
        channels: usize,
        strip: *mut T,
    ) {
        let Images { start: first_element, relu_output, strides, first, extents } = *self.images;
        let [of_image, of_channel, of_row, of_column] = strides;
        let zero = simd.splat(T::default());
        let len = self.segment.tiles * self.tiles.extent + INPUTS - self.tiles.extent;
        let source_row = (self.segment.row + row) as isize + first[0];
        let first_column = self.segment.column as isize + first[1];
        // Columns of the strip that are inside the image.
        let inside = |column: isize| (column - first_column).clamp(0, len as isize) as usize;
        let (start, end) = match source_row < 0 || source_row >= extents[0] as isize {
            true => (len, len),
            false => (inside(0), inside(extents[1] as isize)),
        };
        // SAFETY: as the caller answers for; columns from `start` to `end` are inside the source.
        unsafe {
            if start < end {
                let offset = self.segment.image * of_image
                    + (self.group_first + channel) * of_channel
                    + source_row as usize * of_row
                    + (first_column + start as isize) as usize * of_column;
                let source = first_element.add(offset);
                let relu_output = match relu_output.is_null() {
                    true => relu_output,
                    false => relu_output.add(offset),
                };
                let target = strip.add(start * S::LANES);
                if of_channel == 1 {
                    for column in 0..end - start {
                        let place = column * of_column;
                        let mut value = runs::load(simd, channels, source.add(place));
                        if !relu_output.is_null() {
                            let output = runs::load(simd, channels, relu_output.add(place));
                            value = simd.relu_gradient(output, value);
                        }
                        simd.store(target.add(column * S::LANES), value);
                    }
                } else {
                    // Rows that follow may be read too: what they leave behind the columns is
                    // overwritten, below or by the next row of the strip.
                    let rows_behind = (extents[0] as isize - 1 - source_row) as usize;
                    let readable = end - start + rows_behind * of_row;
                    let planes = Planes { source, relu_output, of_channel, channels };
                    for_each_vector(
                        simd,
                        end - start,
                        #[inline(always)]
                        |column, _| {
                            let count = S::LANES.min(readable - column);
                            let target = target.add(column * S::LANES);
                            planes.turn(simd, column, count, target);
                        },
                    );
                }
            }
            for column in (0..start).chain(end.max(start)..len) {
                simd.store(strip.add(column * S::LANES), zero);
            }
        }
    }
}

/// A vector of NCHW channels of one row.
struct Planes<T> {
    source: *const T,
    /// Null for no mask.
    relu_output: *const T,
    of_channel: usize,
    channels: usize,
}

impl<T: Element> Planes<T> {
    /// Writes a vector of channels for each of a vector of columns, of which `count` are there.
    ///
    /// # Safety
    /// The planes have the columns, the target has room for the vectors.
    #[inline(always)]
    unsafe fn turn<S: Lanes<T>>(&self, simd: S, column: usize, count: usize, target: *mut T) {
        let Planes { source, relu_output, of_channel, channels } = *self;
        // SAFETY: as the caller answers for.
        unsafe {
            let source = source.add(column);
            if count == S::LANES && channels == S::LANES && relu_output.is_null() {
                simd.transpose([S::LANES; 2], source, of_channel, target, S::LANES);
                return;
            }
            let mut block = [T::default(); TILE_LANES * TILE_LANES];
            for channel in 0..channels {
                let place = channel * of_channel;
                let mut value = runs::load(simd, count, source.add(place));
                if !relu_output.is_null() {
                    let output = runs::load(simd, count, relu_output.add(place + column));
                    value = simd.relu_gradient(output, value);
                }
                simd.store(block.as_mut_ptr().add(channel * S::LANES), value);
            }
            simd.transpose([S::LANES; 2], block.as_ptr(), S::LANES, target, S::LANES);
        }
    }
}

/// Transforms one tile for a vector of channels.
///
/// # Safety
/// The source has INPUTS rows, `of_row` apart, of INPUTS vectors side by side; the target has POINTS * POINTS
/// vectors, `of_point` apart.
#[inline(always)]
unsafe fn transform<T: Element, S: Lanes<T>, const INPUTS: usize>(
    simd: S,
    source: *const T,
    of_row: usize,
    target: *mut T,
    of_point: usize,
) {
    let mut rows = [[simd.splat(T::default()); INPUTS]; POINTS];
    // SAFETY: as the caller answers for.
    unsafe {
        for column in 0..INPUTS {
            let mut inputs = [simd.splat(T::default()); INPUTS];
            for (row, input) in inputs.iter_mut().enumerate() {
                *input = simd.load(source.add(row * of_row + column * S::LANES));
            }
            let points = transforms::tile(simd, inputs);
            for (row, point) in rows.iter_mut().zip(points) {
                row[column] = point;
            }
        }
        for (row, &inputs) in rows.iter().enumerate() {
            let points = transforms::tile(simd, inputs);
            for (column, &point) in points.iter().enumerate() {
                simd.store(target.add((row * POINTS + column) * of_point), point);
            }
        }
    }
}
