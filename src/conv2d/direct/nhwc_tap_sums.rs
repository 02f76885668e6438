//! dw and db of a depthwise convolution, NHWC, for windows of the usual widths: the sums of a vector of channels stay
//! in registers along a block of rows, for each row of taps or several at a time. They run over the pixels in the same
//! order as those of tiles do.

use std::array;

use super::nhwc_groups::Groups;
use super::nhwc_pixels::vectors_of;
use super::nhwc_window::has_many_registers;
use super::weights::gradient;
use crate::conv2d::gradient::View;
use crate::runs;
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// Whether a window is one of these, as measured.
pub(super) fn fits<T: Element, S: Lanes<T>>(groups: &Groups<T>, columns: &Taps) -> bool {
    let usual = matches!((columns.count, columns.step), (3, _) | (5, 2..));
    groups.outputs == 1 && groups.terms == 1 && usual && has_many_registers::<T, S>()
}

/// A block of rows of y. The tensors have the rows and the channels.
pub(super) struct BlockSums<'a, T> {
    pub shape: &'a ConvShape,
    pub x: *const T,
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
    /// Of each vector of channels.
    lanes: usize,
    /// First and end of the rows of taps that lie in the input.
    taps: (usize, usize),
}

impl<T: Element> Kernel<T> for BlockSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // As many as registers have room for.
        match self.columns.count {
            3 => self.all::<S, 3, 3, 2>(simd),
            _ => self.all::<S, 2, 5, 2>(simd),
        }
    }
}

impl<T: Element> BlockSums<'_, T> {
    #[inline(always)]
    fn all<S: Lanes<T>, const ROWS: usize, const TAPS: usize, const V: usize>(&self, simd: S) {
        debug_assert_eq!(self.columns.count, TAPS);
        let count = self.channels.1 - self.channels.0;
        let mut channel = 0;
        while channel < count {
            let lanes = S::LANES.min(count - channel);
            let are_whole = channel + V * S::LANES <= count;
            for row_tap in (0..self.rows.count).step_by(ROWS) {
                // SAFETY: whoever makes one answers for the rows and the channels.
                unsafe {
                    if are_whole {
                        self.sum::<S, ROWS, TAPS, V, true>(simd, row_tap, channel, lanes);
                    } else if lanes == S::LANES {
                        self.sum::<S, ROWS, TAPS, 1, true>(simd, row_tap, channel, lanes);
                    } else {
                        self.sum::<S, ROWS, TAPS, 1, false>(simd, row_tap, channel, lanes);
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
        row_tap: usize,
        channel: usize,
        lanes: usize,
    ) {
        let lanes = if WHOLE { S::LANES } else { lanes };
        let zero = simd.splat(T::default());
        let mut sums = Sums { taps: [[[zero; V]; TAPS]; ROWS], dy: [zero; V] };
        let shape = self.shape;
        let [x_image, _, x_row, x_column] = shape.input_strides;
        let [dy_image, dy_channel, dy_row, _] = self.dy.strides;
        let width = shape.out_width;
        // Columns all of whose taps lie in the input.
        let (_, whole_end) = self.columns.positions(TAPS - 1, width);
        let (whole_start, _) = self.columns.positions(0, width);
        let first_column = self.columns.source(0, 0).wrapping_mul(x_column as isize);
        for unit in self.units.0..self.units.1 {
            let (image, row) = (unit / shape.out_height, unit % shape.out_height);
            let dy = image * dy_image + row * dy_row + (self.channels.0 + channel) * dy_channel;
            let x = self.x.wrapping_add(image * x_image + channel).wrapping_offset(first_column);
            let lines: [*const T; ROWS] = array::from_fn(|r| {
                let row = self.rows.source(row, row_tap + r);
                x.wrapping_offset(row.wrapping_mul(x_row as isize))
            });
            let (first, end) = self.rows.inside(row);
            let of_rows = (first.saturating_sub(row_tap), end.saturating_sub(row_tap).min(ROWS));
            let row = Row { dy, lines, lanes, taps: of_rows };
            let (start, end) = (whole_start.min(whole_end), whole_end);
            // SAFETY: the caller answers for the tensors.
            unsafe {
                self.add::<S, ROWS, TAPS, V, false, false>(simd, &row, (0, start), &mut sums);
                match of_rows == (0, ROWS) {
                    true => self.add::<S, _, _, _, true, true>(simd, &row, (start, end), &mut sums),
                    false => {
                        self.add::<S, _, _, _, false, true>(simd, &row, (start, end), &mut sums);
                    }
                }
                self.add::<S, ROWS, TAPS, V, false, false>(simd, &row, (end, width), &mut sums);
            }
        }
        // SAFETY: there is room for the sums of whole vectors.
        unsafe { self.store(simd, row_tap, channel, &sums) };
    }

    /// Adds the products of some columns of a row of dy. All of the rows' taps lie in the input if `IN_ROWS`, all of
    /// the columns' if `IN_COLUMNS`.
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
        const IN_COLUMNS: bool,
    >(
        &self,
        simd: S,
        row: &Row<T, ROWS>,
        (first, end): (usize, usize),
        sums: &mut Sums<S::Vector, ROWS, TAPS, V>,
    ) {
        let x_column = self.shape.input_strides[3];
        let from_tap_to_tap = self.columns.offset_step as usize * x_column;
        for column in first..end {
            let of_columns = if IN_COLUMNS { (0, TAPS) } else { self.columns.inside(column) };
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
                    if !IN_COLUMNS && !(of_columns.0..of_columns.1).contains(&tap) {
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

    /// Stores sums where they belong.
    ///
    /// # Safety
    /// There is room for whole vectors.
    #[inline(always)]
    unsafe fn store<S: Lanes<T>, const ROWS: usize, const TAPS: usize, const V: usize>(
        &self,
        simd: S,
        row_tap: usize,
        channel: usize,
        sums: &Sums<S::Vector, ROWS, TAPS, V>,
    ) {
        let taps = self.rows.count * TAPS;
        let store = |line: usize, vectors: &[S::Vector; V]| {
            for (v, &vector) in vectors.iter().enumerate() {
                let place = vectors_of(taps + 1, channel + v * S::LANES) + line * TILE_LANES;
                // SAFETY: the caller answers for the room.
                unsafe { simd.store(self.sums.add(place), vector) };
            }
        };
        for (r, sums) in sums.taps.iter().enumerate().take(self.rows.count - row_tap) {
            for (tap, sums) in sums.iter().enumerate() {
                store((row_tap + r) * TAPS + tap, sums);
            }
        }
        if row_tap == 0 {
            store(taps, &sums.dy);
        }
    }
}
