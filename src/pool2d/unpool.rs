//! The gradient of a max-pooling's input a region at a time, for whoever reads it once and never stores
//! it whole.

use std::ops::Range;

use super::Argmax;
use super::backward::InputSlices;
use super::backward_apart::Apart;
use super::backward_pixels::{self as pixels, DealtPixels, Pixels};
use super::backward_rows::Rows;
use super::backward_strips::Strips;
use super::max_backward::{ToMaximum, Way};
use super::path;
use super::scatter::Scatter;
use crate::shape::{Layout, PoolShape};
use crate::simd::{Element, Level};

/// A max-pooling's backward pass, yet to be run.
#[derive(Clone, Copy)]
pub(crate) struct Unpool<'a, T> {
    level: Level,
    pub shape: &'a PoolShape,
    inputs: InputSlices<'a, T>,
}

/// Some channels of some rows of one image of the pooling's input.
#[derive(Clone)]
pub(crate) struct Region {
    pub image: usize,
    pub channels: Range<usize>,
    pub rows: Range<usize>,
}

impl<'a, T: Element> Unpool<'a, T> {
    /// Places were checked. `relu_output` is the pooling's output, where its input was a ReLU's: gradients count
    /// as 0 where it is <= 0. It is the ReLU's output at the maximum, so that is where they would be dropped.
    pub fn new(
        level: Level,
        shape: &'a PoolShape,
        dy: &'a [T],
        argmax: Argmax<'a>,
        relu_output: Option<&'a [T]>,
    ) -> Self {
        Unpool { level, shape, inputs: InputSlices { dy, argmax: Some(argmax), relu_output } }
    }

    /// Elements of a region.
    pub fn region_len(&self, channels: usize, rows: usize) -> usize {
        channels * rows * self.shape.width.input
    }

    /// Elements of scratch memory for any region.
    pub fn scratch_len(&self) -> usize {
        match Way::new::<T>(self.shape) {
            Way::Rows(lines) => lines.len(),
            Way::Pixels(lanes) => {
                pixels::memory_len(self.shape, pixels::ring(self.shape, lanes, true), true)
            }
            Way::Apart | Way::Strips(_) | Way::Scatter => 0,
        }
    }

    /// Writes the gradient of a region to `target`, laid out as a tensor of it alone.
    ///
    /// # Safety
    /// The pooling has the region; the target has `region_len`, and `memory` `scratch_len`.
    pub unsafe fn run(&self, region: &Region, target: *mut T, memory: *mut T) {
        let Region { image, channels, rows } = region;
        let (level, all) = (self.level, self.shape.channels);
        let (part, windows) = self.shape.of_input_rows(1, rows.clone());
        let (width, input_plane) = (self.shape.width.output, rows.len() * self.shape.width.input);
        let shape = &PoolShape { channels: channels.len(), input_plane, ..part };
        let (before, gradient) = (windows.start * width, ToMaximum);
        let of_image = image * all * shape.output_plane;
        // The region of y.
        let (at, dy_stride) = match shape.layout {
            Layout::Nchw => (of_image + channels.start * shape.output_plane + before, 1),
            Layout::Nhwc => (of_image + before * all + channels.start, all),
        };
        let inputs = self.inputs.from(at);
        let (planes, lanes) = path::planes_and_lanes(shape);
        match Way::new::<T>(self.shape) {
            Way::Apart => {
                let kernel = Apart {
                    shape,
                    gradient,
                    rows: 0..planes * rows.len(),
                    inputs,
                    dx: target,
                    lanes,
                    dy_stride,
                    memory,
                    streamed: false,
                };
                T::dispatch(level, kernel);
            }
            Way::Rows(lines) => {
                let (rows, dx) = (0..planes * rows.len(), target);
                let lines = &lines.of_rows(shape);
                T::dispatch(level, Rows { shape, gradient, rows, inputs, dx, lines, memory });
            }
            Way::Strips(band) => {
                let kernel = Strips {
                    shape,
                    rows: 0..rows.len(),
                    pixels: Pixels {
                        strides: [all, channels.len()],
                        lanes: channels.len(),
                        dx: target,
                    },
                    inputs,
                    band,
                    streams: false,
                };
                T::dispatch(level, kernel);
            }
            Way::Pixels(lanes) => {
                for first in (0..channels.len()).step_by(lanes) {
                    let kernel = DealtPixels {
                        shape,
                        gradient,
                        numbers_of: (shape, 0),
                        rows: 0..rows.len(),
                        pixels: Pixels {
                            strides: [all, channels.len()],
                            lanes: lanes.min(channels.len() - first),
                            dx: target.wrapping_add(first),
                        },
                        inputs: inputs.at(first),
                        ring: pixels::ring(shape, lanes, true),
                        memory,
                        streamed: false,
                    };
                    T::dispatch(level, kernel);
                }
            }
            Way::Scatter => {
                let plane_strides = [shape.output_plane, input_plane];
                let (dx, strides) = (target, [dy_stride, lanes]);
                Scatter { shape, inputs, dx, planes, lanes, plane_strides, strides }.run();
            }
        }
    }
}
