//! dw and db of a depthwise convolution, NHWC with one output per channel: channels in the lanes, x
//! from a ring of copied rows.
//!
//! The sums of each tap stay in the first-level cache; those of a block of rows are summed apart, so
//! that rounding errors grow with the number of blocks only.

use super::nhwc_band::{NhwcBand, Source};
use crate::conv2d::gradient::{Gradient, View};
use crate::conv2d::patches::Taps;
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::pool2d::Region;
use crate::runs;
use crate::shape::ConvShape;
use crate::simd::{Element, Lanes};

/// Outputs whose products are summed together.
const OUTPUTS: usize = 7;

/// The sums of a block of channels.
pub(super) struct Sums<'a, T> {
    pub shape: &'a ConvShape,
    /// Null for db alone.
    pub x: *const T,
    pub gradient: &'a Gradient<'a, T>,
    pub rows: Taps,
    pub columns: Taps,
    pub band: NhwcBand,
    /// First and end.
    pub channels: (usize, usize),
    /// `[taps, all channels]` of dw, and `[all channels]` of db behind them.
    pub sums: *mut T,
    /// Room for the band's channels of each of these, and a ring behind them.
    pub scratch: *mut T,
    /// And for a row of dy.
    pub region: *mut T,
}

impl<T: Element> Sums<'_, T> {
    /// Taps, and db behind them.
    #[inline(always)]
    fn lines(&self) -> usize {
        if self.x.is_null() { 1 } else { self.rows.count * self.columns.count + 1 }
    }

    /// Sums rows `first..end` of y, counted over all images.
    ///
    /// # Safety
    /// The tensors have the rows and the channels; nobody else uses the sums of these channels.
    #[inline(always)]
    pub unsafe fn run<S: Lanes<T>>(&self, simd: S, (first, end): (usize, usize)) {
        let (channel, count) = (self.channels.0, self.channels.1 - self.channels.0);
        let stride = self.band.channels;
        let block_rows = (DEPTH_BLOCK / self.shape.out_width).max(1);
        let mut starts = [0; DEPTH_BLOCK];
        // SAFETY: the caller answers for the rows and the sums.
        unsafe {
            for line in 0..self.lines() {
                self.sums.add(line * self.shape.out_channels + channel).write_bytes(0, count);
            }
            for block in (first..end).step_by(block_rows) {
                self.scratch.write_bytes(0, self.lines() * stride);
                for row in block..end.min(block + block_rows) {
                    self.row(simd, row, row == first, &mut starts);
                }
                for line in 0..self.lines() {
                    let sums = self.sums.add(line * self.shape.out_channels + channel);
                    for lane in (0..count).step_by(S::LANES) {
                        let lanes = S::LANES.min(count - lane);
                        let old = runs::load(simd, lanes, sums.add(lane));
                        let new = simd.load(self.scratch.add(line * stride + lane));
                        runs::store(simd, lanes, sums.add(lane), simd.add(old, new));
                    }
                }
            }
        }
    }

    /// Adds a row, counted over all images, to the block's sums; `first` where the ring is empty.
    ///
    /// # Safety
    /// The tensors have the row.
    #[inline(always)]
    unsafe fn row<S: Lanes<T>>(
        &self,
        simd: S,
        row: usize,
        first: bool,
        starts: &mut [u32; DEPTH_BLOCK],
    ) {
        let (image, row) = (row / self.shape.out_height, row % self.shape.out_height);
        let [x_image, _, x_row, x_column] = self.shape.input_strides;
        let region =
            Region { image, channels: self.channels.0..self.channels.1, rows: row..row + 1 };
        let ring = self.scratch.wrapping_add(self.lines() * self.band.channels);
        // SAFETY: the caller answers for the row, and there is memory for it.
        unsafe {
            let view = self.gradient.view(self.shape, &region, self.region);
            let [dy_image, dy_channel, dy_row, dy_column] = view.strides;
            if !self.x.is_null() {
                let source = Source {
                    start: self.x.wrapping_add(image * x_image + self.channels.0),
                    relu_output: std::ptr::null(),
                    strides: [x_row, x_column],
                    count: self.channels.1 - self.channels.0,
                };
                self.band.fill(simd, &source, row, first || row == 0, ring);
                self.band.list_taps((&self.rows, row), &self.columns, starts);
            }
            let starts = &starts[..self.lines() - 1];
            let offset = image * dy_image + row * dy_row + self.channels.0 * dy_channel;
            let width = self.shape.out_width;
            let mut column = 0;
            while column < width {
                let pixels = ring.wrapping_add(column * self.band.step());
                let offset = offset + column * dy_column;
                if column + OUTPUTS <= width {
                    self.outputs::<S, OUTPUTS>(simd, starts, pixels, &view, offset);
                    column += OUTPUTS;
                } else {
                    self.outputs::<S, 1>(simd, starts, pixels, &view, offset);
                    column += 1;
                }
            }
        }
    }

    /// Adds the products of `N` neighbouring outputs, whose dy begins at `offset`.
    ///
    /// # Safety
    /// The tensors and the ring have them.
    #[inline(always)]
    unsafe fn outputs<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        starts: &[u32],
        pixels: *const T,
        view: &View<T>,
        offset: usize,
    ) {
        let channels = self.channels.1 - self.channels.0;
        let dy_column = view.strides[3];
        let step = self.band.step();
        for channel in (0..channels).step_by(S::LANES) {
            let count = S::LANES.min(channels - channel);
            let [dy, relu_output] = view.at(offset + channel);
            // SAFETY: dy has the channels; the ring and the sums have whole vectors.
            unsafe {
                let mut gradients = [simd.splat(T::default()); N];
                for (n, gradient) in gradients.iter_mut().enumerate() {
                    *gradient = runs::load(simd, count, dy.add(n * dy_column));
                }
                if !relu_output.is_null() {
                    for (n, gradient) in gradients.iter_mut().enumerate() {
                        let output = relu_output.add(n * dy_column);
                        *gradient = simd.relu_gradient(runs::load(simd, count, output), *gradient);
                    }
                }
                let mut total = self.scratch.add(channel);
                for &start in starts {
                    let pixels = pixels.add(start as usize + channel);
                    let mut sum = simd.load(total);
                    for (n, &gradient) in gradients.iter().enumerate() {
                        sum = simd.mul_add(gradient, simd.load(pixels.add(n * step)), sum);
                    }
                    simd.store(total, sum);
                    total = total.add(self.band.channels);
                }
                let mut sum = simd.load(total);
                for &gradient in &gradients {
                    sum = simd.add(sum, gradient);
                }
                simd.store(total, sum);
            }
        }
    }
}
