//! dw and db of a depthwise convolution, NHWC with one output per channel, or of groups of few channels: channels in
//! the lanes, x read in place.
//!
//! Each tile of outputs adds its products to the sums of all taps, which stay in the first-level cache;
//! those of a block of rows are summed apart, so that rounding errors grow with the number of blocks only.

use std::ptr;

use super::nhwc_groups::Groups;
use super::nhwc_pixels::{Mode, Pixels, TapKernel, load_taps, vectors_of};
use super::nhwc_tap_sums::{self, BlockSums};
use super::nhwc_window::{
    Lines, Source, Tile, Tiles, Window, WindowKernel, for_each_size, has_many_registers,
};
use super::weights::gradient;
use crate::conv2d::gradient::{Gradient, View};
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::pool2d::Region;
use crate::runs;
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// The sums of a block of channels. The tensors have the rows and the channels; nobody else uses the sums of these
/// channels.
pub(super) struct Sums<'a, T> {
    pub shape: &'a ConvShape,
    /// Null for db alone.
    pub x: *const T,
    pub gradient: &'a Gradient<'a, T>,
    pub rows: Taps,
    pub columns: Taps,
    pub groups: &'a Groups<T>,
    /// First and end.
    pub channels: (usize, usize),
    /// First and end of the rows of y, counted over all images.
    pub units: (usize, usize),
    /// `[rows, terms, columns, all channels]` of dw, and `[all channels]` of db behind them.
    pub sums: *mut T,
    /// `scratch_len` elements.
    pub scratch: *mut T,
    /// Room for a copy of some of x.
    pub copy: *mut T,
    /// Room for a row of dy, and for the lines of a window.
    pub region: *mut T,
    pub lines: &'a mut Lines<T>,
}

/// Elements of memory for a block of channels: its sums of each tap and of db, and zeros.
pub(super) fn scratch_len(taps: usize, channels: usize) -> usize {
    (taps + 2) * channels.next_multiple_of(TILE_LANES)
}

impl<T: Element> Kernel<T> for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(mut self, simd: S) {
        let (first, end) = self.units;
        let (channel, count) = (self.channels.0, self.channels.1 - self.channels.0);
        let lanes = count.next_multiple_of(TILE_LANES);
        let block_rows = (DEPTH_BLOCK / self.shape.out_width).max(1);
        let zeros = self.scratch.wrapping_add(self.taps_and_db() * lanes);
        // SAFETY: there is memory for the block's sums; those of the channels are this kernel's.
        unsafe {
            zeros.write_bytes(0, lanes);
            for line in 0..self.taps_and_db() {
                self.sums.add(line * self.shape.out_channels + channel).write_bytes(0, count);
            }
            for block in (first..end).step_by(block_rows) {
                let units = (block, end.min(block + block_rows));
                if !self.in_registers(simd, units) {
                    self.scratch.write_bytes(0, self.taps_and_db() * lanes);
                    for row in units.0..units.1 {
                        match self.groups.outputs == 1 {
                            true => self.row::<S, false>(simd, row, zeros),
                            false => self.row::<S, true>(simd, row, zeros),
                        }
                    }
                }
                for lane in (0..count).step_by(S::LANES) {
                    let lanes = S::LANES.min(count - lane);
                    let new = self.scratch.add(vectors_of(self.taps_and_db(), lane));
                    for line in 0..self.taps_and_db() {
                        let sums = self.sums.add(line * self.shape.out_channels + channel + lane);
                        let old = runs::load(simd, lanes, sums);
                        let new = simd.load(new.add(line * TILE_LANES));
                        runs::store(simd, lanes, sums, simd.add(old, new));
                    }
                }
            }
        }
    }
}

impl<T: Element> Sums<'_, T> {
    /// Taps, and db behind them.
    #[inline(always)]
    fn taps_and_db(&self) -> usize {
        match self.x.is_null() {
            true => 1,
            false => self.rows.count * self.groups.terms * self.columns.count + 1,
        }
    }

    /// The sums of a block of rows, if registers have room for them.
    #[inline(always)]
    fn in_registers<S: Lanes<T>>(&self, simd: S, units: (usize, usize)) -> bool {
        if const { !has_many_registers::<T, S>() } {
            return false;
        }
        let Gradient::Stored { dy, relu_output } = *self.gradient else { return false };
        if self.x.is_null() || !nhwc_tap_sums::fits(self.groups, &self.columns) {
            return false;
        }
        simd.call(BlockSums {
            shape: self.shape,
            x: self.x.wrapping_add(self.channels.0),
            copy: self.copy,
            dy: View::new(dy, relu_output, self.shape.output_strides),
            rows: self.rows,
            columns: self.columns,
            channels: self.channels,
            units,
            sums: self.scratch,
        });
        true
    }

    /// Adds a row, counted over all images, to the block's sums.
    ///
    /// # Safety
    /// The tensors have the row.
    #[inline(always)]
    unsafe fn row<S: Lanes<T>, const GROUPED: bool>(
        &mut self,
        simd: S,
        row: usize,
        zeros: *const T,
    ) {
        let (image, row) = (row / self.shape.out_height, row % self.shape.out_height);
        let taps_and_db = self.taps_and_db();
        let [x_image, _, x_row, x_column] = self.shape.input_strides;
        let region =
            Region { image, channels: self.channels.0..self.channels.1, rows: row..row + 1 };
        let count = self.channels.1 - self.channels.0;
        let first = self.groups.source::<S>(self.channels.0, 0);
        let x = self.x.wrapping_add(image * x_image + first);
        let source = Source { start: [x, ptr::null()], strides: [x_row, x_column] };
        let lines = match self.x.is_null() {
            true => &mut self.lines[..0],
            false => &mut self.lines[..self.rows.count],
        };
        let window: Window<'_, T, GROUPED> =
            Window::new((&self.rows, &self.columns), row, &source, zeros, self.groups, lines);
        // SAFETY: the caller answers for the row, and there is memory for it.
        unsafe {
            let view = self.gradient.view(self.shape, &region, self.region);
            let [dy_image, dy_channel, dy_row, _] = view.strides;
            let offset = image * dy_image + row * dy_row + self.channels.0 * dy_channel;
            let mut kernel =
                Row { window, view, offset, channels: count, sums: self.scratch, taps_and_db };
            for_each_size(simd, &self.columns, self.shape.out_width, &mut kernel);
        }
    }
}

/// A block of channels of a row of y.
struct Row<'a, T, const GROUPED: bool> {
    /// Without lines for db alone.
    window: Window<'a, T, GROUPED>,
    view: View<T>,
    /// Where its dy begins.
    offset: usize,
    channels: usize,
    /// Of a vector of channels after the other, the sums of each tap, and of db behind them.
    sums: *mut T,
    taps_and_db: usize,
}

/// Tile by tile in their order, so that sums do not depend on the tiles' sizes.
impl<T: Element, const GROUPED: bool> Tiles<T, GROUPED> for Row<'_, T, GROUPED> {
    #[inline(always)]
    unsafe fn run<S: Lanes<T>, const N: usize, const STEP: usize>(
        &mut self,
        simd: S,
        columns: (usize, usize),
    ) {
        simd.call(TilesOfRow::<_, N, STEP, GROUPED> { row: self, columns });
    }
}

/// Tiles of `N` outputs of a row. (A kernel of its own: a function with all sizes in it takes long to compile.)
struct TilesOfRow<'a, 'b, T, const N: usize, const STEP: usize, const GROUPED: bool> {
    row: &'a Row<'b, T, GROUPED>,
    columns: (usize, usize),
}

impl<T: Element, const N: usize, const STEP: usize, const GROUPED: bool> Kernel<T>
    for TilesOfRow<'_, '_, T, N, STEP, GROUPED>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let TilesOfRow { row, columns } = self;
        // SAFETY: whoever takes the row's tiles answers for them.
        unsafe { row.window.for_each_tile::<S, N, STEP>(simd, columns, row.channels, row) };
    }
}

impl<T: Element, S: Lanes<T>, const GROUPED: bool> WindowKernel<T, S> for Row<'_, T, GROUPED> {
    const TAKES_MASKED: bool = false;

    #[inline(always)]
    unsafe fn run<const N: usize, const STEP: usize, const V: usize, M: Mode>(
        &self,
        simd: S,
        tile: Tile,
        channel: usize,
        count: usize,
    ) {
        let dy_column = self.view.strides[3];
        let [dy, relu_output] = self.view.at(self.offset + tile.column * dy_column + channel);
        let mut gradients = [[simd.splat(T::default()); N]; V];
        // SAFETY: the caller answers for dy and the lines; the sums have whole vectors.
        unsafe {
            for (v, gradients) in gradients.iter_mut().enumerate() {
                for (n, value) in gradients.iter_mut().enumerate() {
                    let place = n * dy_column + v * S::LANES;
                    *value = gradient(simd, dy, relu_output, place, count);
                }
            }
            let sums = self.sums.add(vectors_of(self.taps_and_db, channel));
            let mut kernel = Products { gradients, sums };
            let channels = (channel, count);
            self.window.for_each_tap::<S, N, STEP, V, M>(simd, tile, channels, &mut kernel);
            for (v, gradients) in gradients.iter().enumerate() {
                let total = kernel.sums.add(v * S::LANES);
                let mut sum = simd.load(total);
                for &gradient in gradients {
                    sum = simd.add(sum, gradient);
                }
                simd.store(total, sum);
            }
        }
    }
}

/// The products of a tile, which are added to sums in memory.
struct Products<T: Element, S: Lanes<T>, const N: usize, const V: usize> {
    gradients: [[S::Vector; N]; V],
    /// Of the next tap.
    sums: *mut T,
}

impl<T: Element, S: Lanes<T>, const N: usize, const V: usize> TapKernel<T, S, N, V>
    for Products<T, S, N, V>
{
    #[inline(always)]
    unsafe fn add<const STEP: usize, const TAPS: usize, M: Mode, const GROUPED: bool>(
        &mut self,
        pixels: &Pixels<T, S, GROUPED>,
        first: usize,
    ) -> usize {
        let (simd, gradients) = (pixels.simd, &self.gradients);
        // SAFETY: the caller answers for the pixels and the sums.
        unsafe {
            let mut sums = load_taps::<T, S, V, TAPS>(simd, self.sums);
            pixels.for_each::<N, STEP, V, TAPS, M>(
                first,
                #[inline(always)]
                |tap, n, v, pixel| {
                    sums[tap][v] = simd.mul_add(gradients[v][n], pixel, sums[tap][v]);
                },
            );
            for (tap, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    simd.store(self.sums.add(tap * TILE_LANES + v * S::LANES), sum);
                }
            }
        }
        self.sums = self.sums.wrapping_add(TAPS * TILE_LANES);
        TAPS
    }
}
