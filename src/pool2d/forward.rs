//! y of max-pooling and of average-pooling.
//!
//! A task takes some rows of y of one image, of all its channels (NHWC) or of one (NCHW).

use super::ArgmaxMut;
use crate::context::Context;
use crate::shape::{Layout, PoolPadding, PoolShape, activation_strides};
use crate::shared_mut::SharedMut;
use crate::simd::Element;

/// Cells of the windows of a task, about.
const TASK_CELLS: usize = 1 << 15;

/// One window of one channel: where it lies.
struct Window {
    /// Index of its y.
    output: usize,
    /// Index of its channel's first element of x.
    channel: usize,
    row: usize,
    column: usize,
}

/// Runs `reduce` for every window.
fn for_each_window(context: &Context, shape: &PoolShape, reduce: impl Fn(&Window) + Sync) {
    let (h, w) = (&shape.height, &shape.width);
    let [x_image, x_channel, ..] =
        activation_strides(shape.layout, shape.channels, h.input, w.input);
    let [y_image, y_channel, y_row, y_column] =
        activation_strides(shape.layout, shape.channels, h.output, w.output);
    let channels = match shape.layout {
        Layout::Nchw => 1,
        Layout::Nhwc => shape.channels,
    };
    // A line is one row of y of these channels.
    let groups = shape.channels / channels;
    let lines = shape.batch * groups * h.output;
    let of_task = TASK_CELLS.div_ceil(channels * w.output * shape.window_len());
    context.run(lines.div_ceil(of_task), &|_, task| {
        for line in task * of_task..lines.min((task + 1) * of_task) {
            let (row, rest) = (line % h.output, line / h.output);
            let (group, image) = (rest % groups, rest / groups);
            for column in 0..w.output {
                for channel in group * channels..(group + 1) * channels {
                    reduce(&Window {
                        output: image * y_image
                            + channel * y_channel
                            + row * y_row
                            + column * y_column,
                        channel: image * x_image + channel * x_channel,
                        row,
                        column,
                    });
                }
            }
        }
    });
}

/// The maximum of each window, and its place.
pub(super) fn max<T: Element>(
    context: &Context,
    shape: &PoolShape,
    x: &[T],
    y: &mut [T],
    argmax: Option<ArgmaxMut<'_>>,
) {
    let (h, w) = (&shape.height, &shape.width);
    let [.., x_row, x_column] = activation_strides(shape.layout, shape.channels, h.input, w.input);
    let y = SharedMut::new(y);
    let (wide, narrow) = match argmax {
        None => (None, None),
        Some(ArgmaxMut::I32(places)) => (Some(SharedMut::new(places)), None),
        Some(ArgmaxMut::U8(places)) => (None, Some(SharedMut::new(places))),
    };
    let is_nan = |value: T| value.partial_cmp(&value).is_none();
    for_each_window(context, shape, |window| {
        let (rows, columns) = (h.taps(window.row), w.taps(window.column));
        // Padding competes as zeros: then every cell of the padded input is visited.
        let (all_rows, all_columns) = match shape.padding {
            PoolPadding::Excluded => (rows.clone(), columns.clone()),
            PoolPadding::Zero => (0..h.taps_end(window.row), 0..w.taps_end(window.column)),
        };
        let mut best: Option<(usize, T)> = None;
        for row in all_rows {
            for column in all_columns.clone() {
                let value = if rows.contains(&row) && columns.contains(&column) {
                    let source_row = window.row * h.stride + row * h.dilation - h.pad_before;
                    let source = window.column * w.stride + column * w.dilation - w.pad_before;
                    x[window.channel + source_row * x_row + source * x_column]
                } else {
                    T::default()
                };
                let wins =
                    best.is_none_or(|(_, best)| !is_nan(best) && (value > best || is_nan(value)));
                if wins {
                    best = Some((row * w.kernel + column, value));
                }
            }
        }
        let (place, value) = best.unwrap_or((0, T::from_f64(f64::NEG_INFINITY)));
        // SAFETY: this task's window.
        unsafe {
            *y.at(window.output) = value;
            if let Some(places) = &wide {
                *places.at(window.output) = place as i32;
            }
            if let Some(places) = &narrow {
                *places.at(window.output) = place as u8;
            }
        }
    });
}

/// The mean of each window's cells that count; 0 where none does.
pub(super) fn average<T: Element>(context: &Context, shape: &PoolShape, x: &[T], y: &mut [T]) {
    let (h, w) = (&shape.height, &shape.width);
    let [.., x_row, x_column] = activation_strides(shape.layout, shape.channels, h.input, w.input);
    let y = SharedMut::new(y);
    for_each_window(context, shape, |window| {
        let (rows, columns) = (h.taps(window.row), w.taps(window.column));
        let cells = match shape.padding {
            PoolPadding::Excluded => rows.len() * columns.len(),
            PoolPadding::Zero => h.taps_end(window.row) * w.taps_end(window.column),
        };
        let mut sum = T::default();
        for row in rows {
            for column in columns.clone() {
                let source_row = window.row * h.stride + row * h.dilation - h.pad_before;
                let source = window.column * w.stride + column * w.dilation - w.pad_before;
                sum = sum + x[window.channel + source_row * x_row + source * x_column];
            }
        }
        let mean = if cells == 0 { 0.0 } else { sum.to_f64() / cells as f64 };
        // SAFETY: this task's window.
        unsafe { *y.at(window.output) = T::from_f64(mean) };
    });
}
