//! dw and db of a depthwise convolution, NHWC, for windows of the usual widths: the sums of a vector of channels stay
//! in registers along a block of rows, for each row of taps or several at a time. They run over the pixels in the same
//! order as those of tiles do.

use std::array;

use super::nhwc_groups::Groups;
use super::nhwc_pixels::vectors_of;
use super::weights::gradient;
use crate::conv2d::gradient::View;
use crate::runs;
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// Whether a window's width and stride are of these, as measured.
fn is_usual(width: usize, stride: usize) -> bool {
    matches!((width, stride), (3, _) | (5, 2..))
}

/// Whether a window is one of these. (For its sums, there must be many registers.)
pub(super) fn fits<T: Element>(groups: &Groups<T>, columns: &Taps) -> bool {
    groups.outputs == 1 && groups.terms == 1 && is_usual(columns.count, columns.step)
}

/// Bytes of a pixel, or a divisor of them, that leave each of its channels one set of the first-level cache: the pixels
/// that a row's taps share drive each other out.
const ONE_SET: usize = 4096;

/// Bytes of a copy of some channels, side by side: it stays in the first-level cache or is read from end to end.
const COPY: usize = 64 * 1024;

/// Elements of memory for a copy of some rows and channels of x; 0 where they are read in place.
pub(super) fn copy_len<T: Element>(shape: &ConvShape, channels: usize) -> usize {
    if rows_of_copy::<T>(shape, channels) == 0 { 0 } else { COPY / size_of::<T>() }
}

/// Rows of y whose rows of x are copied together; 0 where x is read in place.
fn rows_of_copy<T: Element>(shape: &ConvShape, channels: usize) -> usize {
    let ConvShape { height, width, .. } = shape;
    let is_depthwise = shape.group_in == 1 && shape.group_out == 1;
    let has_one_set = (shape.input_strides[3] * size_of::<T>()).is_multiple_of(ONE_SET);
    if !is_depthwise || !has_one_set || !is_usual(width.kernel, width.stride) {
        return 0;
    }
    let pixels = COPY / size_of::<T>() / channels.next_multiple_of(TILE_LANES);
    let rows = pixels / width.input.max(1);
    let window = (height.kernel - 1).saturating_mul(height.dilation).saturating_add(1);
    if rows >= window { (rows - window) / height.stride + 1 } else { 0 }
}

/// A block of rows of y. The tensors have the rows and the channels.
pub(super) struct BlockSums<'a, T> {
    pub shape: &'a ConvShape,
    pub x: *const T,
    /// `copy_len` elements.
    pub copy: *mut T,
    pub dy: View<T>,
    pub rows: Taps,
    pub columns: Taps,
    /// First and end.
    pub channels: (usize, usize),
    /// First and end of the rows, counted over all images.
    pub units: (usize, usize),
    /// Where `vectors_of` places them, the sums of each tap, and of db behind them.
    pub sums: *mut T,
}

/// Any number of taps in the padding.
const ANY: usize = usize::MAX;

/// Sums of taps, and of dy.
struct Sums<V, const ROWS: usize, const TAPS: usize, const VECTORS: usize> {
    taps: [[[V; VECTORS]; TAPS]; ROWS],
    dy: [V; VECTORS],
}

/// A row of dy, from some channel on.
struct Row<T, const ROWS: usize> {
    /// The offset of its first pixel.
    dy: usize,
    /// Where the first tap of that pixel reads, of each row of taps.
    lines: [*const T; ROWS],
    /// From column to column of x.
    column: usize,
    /// Of each vector of channels.
    lanes: usize,
    /// First and end of the rows of taps that lie in the input.
    taps: (usize, usize),
}

impl<T: Element> Kernel<T> for BlockSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let mut unit = self.units.0;
        while unit < self.units.1 {
            // SAFETY: whoever makes one answers for the rows, the channels and the copy.
            let (units, x) = unsafe { self.some_rows(simd, unit) };
            // As many as registers have room for.
            match self.columns.count {
                3 => self.all::<S, 3, 3, 2>(simd, &x, units),
                _ => self.all::<S, 2, 5, 2>(simd, &x, units),
            }
            unit = units.1;
        }
    }
}

/// The channels of x, or of a copy.
struct X<T> {
    /// The first of the first pixel.
    start: *const T,
    /// Along (image, row, column).
    strides: [usize; 3],
}

impl<T: Element> BlockSums<'_, T> {
    /// All rows from `unit` on, or some of its image, whose rows of x are copied.
    ///
    /// # Safety
    /// The tensors have the rows and the channels, and nobody else uses the copy.
    #[inline(always)]
    unsafe fn some_rows<S: Lanes<T>>(&self, simd: S, unit: usize) -> ((usize, usize), X<T>) {
        let shape = self.shape;
        let [x_image, _, x_row, x_column] = shape.input_strides;
        let channels = self.channels.1 - self.channels.0;
        let rows = rows_of_copy::<T>(shape, channels);
        if rows == 0 {
            return (self.units, X { start: self.x, strides: [x_image, x_row, x_column] });
        }
        let (image, row) = (unit / shape.out_height, unit % shape.out_height);
        let rows = rows.min(shape.out_height - row).min(self.units.1 - unit);
        let inside = |row: isize| row.clamp(0, self.rows.extent as isize) as usize;
        let first = inside(self.rows.source(row, 0));
        let end = inside(self.rows.source(row + rows - 1, self.rows.count - 1) + 1);
        let (width, stride) = (self.columns.extent, channels.next_multiple_of(TILE_LANES));
        for row in first..end {
            for column in 0..width {
                let pixel = self.x.wrapping_add(image * x_image + row * x_row + column * x_column);
                let copy = self.copy.wrapping_add(((row - first) * width + column) * stride);
                for lane in (0..channels).step_by(S::LANES) {
                    let lanes = S::LANES.min(channels - lane);
                    // SAFETY: the caller answers for the pixels and the copy, which has whole vectors.
                    unsafe {
                        let vector = runs::load(simd, lanes, pixel.wrapping_add(lane));
                        simd.store(copy.wrapping_add(lane), vector);
                    }
                }
            }
        }
        // Of the image's first row, which need not be there.
        let start = self.copy.wrapping_sub(first * width * stride);
        ((unit, unit + rows), X { start, strides: [0, width * stride, stride] })
    }

    #[inline(always)]
    fn all<S: Lanes<T>, const ROWS: usize, const TAPS: usize, const V: usize>(
        &self,
        simd: S,
        x: &X<T>,
        units: (usize, usize),
    ) {
        debug_assert_eq!(self.columns.count, TAPS);
        let count = self.channels.1 - self.channels.0;
        let mut channel = 0;
        while channel < count {
            let lanes = S::LANES.min(count - channel);
            let are_whole = channel + V * S::LANES <= count;
            let x = X { start: x.start.wrapping_add(channel), strides: x.strides };
            for row_tap in (0..self.rows.count).step_by(ROWS) {
                let place = (row_tap, channel);
                // SAFETY: whoever makes one answers for the rows and the channels.
                unsafe {
                    if are_whole {
                        self.sum::<S, ROWS, TAPS, V, true>(simd, &x, units, place, lanes);
                    } else if lanes == S::LANES {
                        self.sum::<S, ROWS, TAPS, 1, true>(simd, &x, units, place, lanes);
                    } else {
                        self.sum::<S, ROWS, TAPS, 1, false>(simd, &x, units, place, lanes);
                    }
                }
            }
            channel += if are_whole { V * lanes } else { lanes };
        }
    }

    /// The sums of up to `ROWS` rows of taps, from `row_tap` on, for `V` vectors of channels, whole ones if `WHOLE`, or
    /// else of so many lanes.
    ///
    /// # Safety
    /// The tensors have the rows and the channels.
    #[inline(always)]
    unsafe fn sum<
        S: Lanes<T>,
        const ROWS: usize,
        const TAPS: usize,
        const V: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        x: &X<T>,
        units: (usize, usize),
        (row_tap, channel): (usize, usize),
        lanes: usize,
    ) {
        let lanes = if WHOLE { S::LANES } else { lanes };
        let zero = simd.splat(T::default());
        let mut sums = Sums { taps: [[[zero; V]; TAPS]; ROWS], dy: [zero; V] };
        if units.0 > self.units.0 {
            // SAFETY: earlier rows' sums lie there.
            self.for_each_sum(simd, row_tap, channel, &mut sums, |sum, place| unsafe {
                *sum = simd.load(place);
            });
        }
        let shape = self.shape;
        let [x_image, x_row, x_column] = x.strides;
        let [dy_image, dy_channel, dy_row, _] = self.dy.strides;
        let width = shape.out_width;
        // Columns all of whose taps lie in the input.
        let (_, whole_end) = self.columns.positions(TAPS - 1, width);
        let (whole_start, _) = self.columns.positions(0, width);
        let first_column = self.columns.source(0, 0).wrapping_mul(x_column as isize);
        let (start, end) = (whole_start.min(whole_end), whole_end);
        // The commonest padding.
        let left = start == 1 && self.columns.inside(0) == (1, TAPS);
        let right = end + 1 == width && self.columns.inside(end) == (0, TAPS - 1);
        let (mut image, mut row) = (units.0 / shape.out_height, units.0 % shape.out_height);
        for _ in units.0..units.1 {
            let dy = image * dy_image + row * dy_row + (self.channels.0 + channel) * dy_channel;
            let x = x.start.wrapping_add(image * x_image).wrapping_offset(first_column);
            let lines: [*const T; ROWS] = array::from_fn(|r| {
                let row = self.rows.source(row, row_tap + r);
                x.wrapping_offset(row.wrapping_mul(x_row as isize))
            });
            let inside = self.rows.inside(row);
            let of_rows =
                (inside.0.saturating_sub(row_tap), inside.1.saturating_sub(row_tap).min(ROWS));
            let this = Row { dy, lines, column: x_column, lanes, taps: of_rows };
            row += 1;
            if row == shape.out_height {
                (image, row) = (image + 1, 0);
            }
            let are_inside = of_rows == (0, ROWS);
            // SAFETY: the caller answers for the tensors.
            unsafe {
                match left {
                    true => {
                        self.add::<S, ROWS, TAPS, V, false, 1, 0>(simd, &this, (0, 1), &mut sums)
                    }
                    false => self.add::<S, ROWS, TAPS, V, false, ANY, ANY>(
                        simd,
                        &this,
                        (0, start),
                        &mut sums,
                    ),
                }
                match are_inside {
                    true => {
                        self.add::<S, _, _, _, true, 0, 0>(simd, &this, (start, end), &mut sums)
                    }
                    false => {
                        self.add::<S, _, _, _, false, 0, 0>(simd, &this, (start, end), &mut sums)
                    }
                }
                match right {
                    true => self.add::<S, ROWS, TAPS, V, false, 0, 1>(
                        simd,
                        &this,
                        (end, width),
                        &mut sums,
                    ),
                    false => self.add::<S, ROWS, TAPS, V, false, ANY, ANY>(
                        simd,
                        &this,
                        (end, width),
                        &mut sums,
                    ),
                }
            }
        }
        // SAFETY: there is room for the sums of whole vectors.
        self.for_each_sum(simd, row_tap, channel, &mut sums, |sum, place| unsafe {
            simd.store(place, *sum);
        });
    }

    /// Adds the products of some columns of a row of dy. All of the rows' taps lie in the input if `IN_ROWS`, and
    /// all of the columns' but so many in front and behind.
    ///
    /// # Safety
    /// The tensors have the row, and its taps in the input.
    #[inline(always)]
    unsafe fn add<
        S: Lanes<T>,
        const ROWS: usize,
        const TAPS: usize,
        const V: usize,
        const IN_ROWS: bool,
        const BEFORE: usize,
        const BEHIND: usize,
    >(
        &self,
        simd: S,
        row: &Row<T, ROWS>,
        (first, end): (usize, usize),
        sums: &mut Sums<S::Vector, ROWS, TAPS, V>,
    ) {
        let x_column = row.column;
        let from_tap_to_tap = self.columns.offset_step as usize * x_column;
        for column in first..end {
            let of_columns = match BEFORE {
                ANY => self.columns.inside(column),
                _ => (BEFORE, TAPS - BEHIND),
            };
            let place = column * self.columns.step * x_column;
            let lines = row.lines.map(|line| line.wrapping_add(place));
            let [dy, relu_output] = self.dy.at(row.dy + column * self.dy.strides[3]);
            // (Not by `array::from_fn`, whose closure would be a call.)
            let mut gradients = [simd.splat(T::default()); V];
            for (v, vector) in gradients.iter_mut().enumerate() {
                // SAFETY: the caller answers for dy.
                *vector = unsafe { gradient(simd, dy, relu_output, v * S::LANES, row.lanes) };
            }
            for (sum, &gradient) in sums.dy.iter_mut().zip(&gradients) {
                *sum = simd.add(*sum, gradient);
            }
            for (r, sums) in sums.taps.iter_mut().enumerate() {
                if !IN_ROWS && !(row.taps.0..row.taps.1).contains(&r) {
                    continue;
                }
                for (tap, sums) in sums.iter_mut().enumerate() {
                    if !(of_columns.0..of_columns.1).contains(&tap) {
                        continue;
                    }
                    let pixel = lines[r].wrapping_add(tap * from_tap_to_tap);
                    for (v, (sum, &gradient)) in sums.iter_mut().zip(&gradients).enumerate() {
                        let pixel = pixel.wrapping_add(v * S::LANES);
                        // SAFETY: the caller answers for the taps.
                        let pixel = unsafe { runs::load(simd, row.lanes, pixel) };
                        *sum = simd.mul_add(gradient, pixel, *sum);
                    }
                }
            }
        }
    }

    /// Calls `visit` for sums and where they belong.
    #[inline(always)]
    fn for_each_sum<S: Lanes<T>, const ROWS: usize, const TAPS: usize, const V: usize>(
        &self,
        _simd: S,
        row_tap: usize,
        channel: usize,
        sums: &mut Sums<S::Vector, ROWS, TAPS, V>,
        mut visit: impl FnMut(&mut S::Vector, *mut T),
    ) {
        let taps = self.rows.count * TAPS;
        let mut line = |line: usize, vectors: &mut [S::Vector; V]| {
            for (v, vector) in vectors.iter_mut().enumerate() {
                let place = vectors_of(taps + 1, channel + v * S::LANES) + line * TILE_LANES;
                visit(vector, self.sums.wrapping_add(place));
            }
        };
        for (r, sums) in sums.taps.iter_mut().enumerate().take(self.rows.count - row_tap) {
            for (tap, sums) in sums.iter_mut().enumerate() {
                line((row_tap + r) * TAPS + tap, sums);
            }
        }
        if row_tap == 0 {
            line(taps, &mut sums.dy);
        }
    }
}
