//! dx of max-pooling and of average-pooling.
//!
//! A task owns some channels of one image: it adds each gradient of theirs to the cells that it
//! belongs to, in the order of the windows. So windows may overlap, without atomics, and the order
//! of every sum is the shape's.

use super::Argmax;
use crate::context::Context;
use crate::shape::{Layout, PoolPadding, PoolShape, activation_strides};
use crate::shared_mut::SharedMut;
use crate::simd::Element;

/// Channels of a task: whole cache lines of NHWC pixels, or one plane.
fn channels_of_task(shape: &PoolShape) -> usize {
    match shape.layout {
        Layout::Nchw => 1,
        Layout::Nhwc => 64,
    }
}

/// Where a task's windows and cells lie.
struct Part<'a, T> {
    dx: SharedMut<'a, T>,
    /// Index of the image's first channel of the task, in x and in y.
    x: usize,
    y: usize,
    channels: usize,
    /// Strides along (channel, row, column).
    x_strides: [usize; 3],
    y_strides: [usize; 3],
}

/// Clears each task's part of dx, then runs `scatter(part)` on it.
fn for_each_part<T: Element>(
    context: &Context,
    shape: &PoolShape,
    dx: &mut [T],
    scatter: impl Fn(&Part<'_, T>) + Sync,
) {
    let dx = SharedMut::new(dx);
    let (h, w) = (&shape.height, &shape.width);
    let [x_image, x_strides @ ..] =
        activation_strides(shape.layout, shape.channels, h.input, w.input);
    let [y_image, y_strides @ ..] =
        activation_strides(shape.layout, shape.channels, h.output, w.output);
    let step = channels_of_task(shape);
    let chunks = shape.channels.div_ceil(step);
    context.run(shape.batch * chunks, &|_, index| {
        let (image, channel) = (index / chunks, index % chunks * step);
        let part = Part {
            dx,
            x: image * x_image + channel * x_strides[0],
            y: image * y_image + channel * y_strides[0],
            channels: step.min(shape.channels - channel),
            x_strides,
            y_strides,
        };
        for row in 0..h.input {
            for column in 0..w.input {
                for channel in 0..part.channels {
                    let [of_channel, of_row, of_column] = part.x_strides;
                    let at = part.x + channel * of_channel + row * of_row + column * of_column;
                    // SAFETY: this task's element.
                    unsafe { *part.dx.at(at) = T::default() };
                }
            }
        }
        scatter(&part);
    });
}

/// Each gradient goes to the cell that was its window's maximum. Places were checked.
pub(super) fn max<T: Element>(
    context: &Context,
    shape: &PoolShape,
    dy: &[T],
    argmax: Argmax<'_>,
    dx: &mut [T],
) {
    let (h, w) = (&shape.height, &shape.width);
    for_each_part(context, shape, dx, |part| {
        for output_row in 0..h.output {
            for output_column in 0..w.output {
                for channel in 0..part.channels {
                    let [of_channel, of_row, of_column] = part.y_strides;
                    let at = part.y
                        + channel * of_channel
                        + output_row * of_row
                        + output_column * of_column;
                    let place = argmax.at(at);
                    let row = h.source(output_row, place / w.kernel);
                    let column = w.source(output_column, place % w.kernel);
                    let (Some(row), Some(column)) = (row, column) else { continue };
                    let [of_channel, of_row, of_column] = part.x_strides;
                    let cell = part.x + channel * of_channel + row * of_row + column * of_column;
                    // SAFETY: this task's element.
                    unsafe { *part.dx.at(cell) = *part.dx.at(cell) + dy[at] };
                }
            }
        }
    });
}

/// Each gradient is spread evenly over its window's cells that count.
pub(super) fn average<T: Element>(context: &Context, shape: &PoolShape, dy: &[T], dx: &mut [T]) {
    let (h, w) = (&shape.height, &shape.width);
    for_each_part(context, shape, dx, |part| {
        for output_row in 0..h.output {
            let rows = h.taps(output_row);
            for output_column in 0..w.output {
                let columns = w.taps(output_column);
                let cells = match shape.padding {
                    PoolPadding::Excluded => rows.len() * columns.len(),
                    PoolPadding::Zero => h.taps_end(output_row) * w.taps_end(output_column),
                };
                if cells == 0 {
                    continue;
                }
                for row in rows.clone() {
                    for column in columns.clone() {
                        let row = output_row * h.stride + row * h.dilation - h.pad_before;
                        let column = output_column * w.stride + column * w.dilation - w.pad_before;
                        for channel in 0..part.channels {
                            let [of_channel, of_row, of_column] = part.y_strides;
                            let at = part.y
                                + channel * of_channel
                                + output_row * of_row
                                + output_column * of_column;
                            let [of_channel, of_row, of_column] = part.x_strides;
                            let cell =
                                part.x + channel * of_channel + row * of_row + column * of_column;
                            let share = T::from_f64(dy[at].to_f64() / cells as f64);
                            // SAFETY: this task's element.
                            unsafe { *part.dx.at(cell) = *part.dx.at(cell) + share };
                        }
                    }
                }
            }
        }
    });
}
