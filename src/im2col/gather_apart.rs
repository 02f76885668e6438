//! col2im where no window overlaps another, and none reaches into padding: every element has one cell, or none.

use super::share::Share;
use crate::runs;
use crate::shape::{Axis, ConvShape, Layout};
use crate::simd::{Element, Kernel, Lanes};

/// Writes some rows of an image, or of some of its channels.
pub(super) struct GatherApart<'a, T> {
    pub share: Share<'a, T>,
}

/// Whether windows lie so.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let apart = |axis: &Axis| {
        let padding = axis.pad_before + axis.pad_after;
        axis.dilation == 1 && axis.stride >= axis.kernel && padding == 0
    };
    apart(&shape.height) && apart(&shape.width)
}

impl<T: Element> Kernel<T> for GatherApart<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Share { shape, ref rows, ref channels, col, ref places, x, .. } = self.share;
        let (height, width) = (&shape.height, &shape.width);
        let [_, x_channel, x_row, x_column] = shape.input_strides;
        // Cells of a window that follow each other in a row of x.
        let (channels, run) = match shape.layout {
            Layout::Nchw => (channels.clone(), width.kernel),
            Layout::Nhwc => (0..1, width.kernel * shape.in_channels),
        };
        let apart = width.stride * x_column;
        let is_covered = run * width.output == x_row;
        for (channel, row) in channels.flat_map(|c| rows.clone().map(move |row| (c, row))) {
            let x = x.wrapping_add(channel * x_channel + row * x_row);
            let (window, kernel_row) = (row / height.stride, row % height.stride);
            let has_window = kernel_row < height.kernel && window < height.output;
            // SAFETY: a row of x, which is this task's, and the cells on it.
            unsafe {
                if !(has_window && is_covered) {
                    runs::fill(simd, x_row, simd.splat(T::default()), x, [(1, 0); 3]);
                }
                if !has_window {
                    continue;
                }
                let cells = col.wrapping_add(places.at([window, 0, channel], (kernel_row, 0)));
                if !places.is_patch_rows() {
                    // From cell to cell.
                    let cell = match shape.layout {
                        Layout::Nchw => places.kernel_column,
                        Layout::Nhwc => places.channel,
                    };
                    runs::transpose(simd, [run, width.output], cells, cell, x, apart);
                    continue;
                }
                for column in 0..width.output {
                    let (source, target) =
                        (cells.add(column * places.column), x.add(column * apart));
                    runs::for_each_vector(
                        simd,
                        run,
                        #[inline(always)]
                        |at, count| {
                            let value = runs::load(simd, count, source.add(at));
                            runs::store(simd, count, target.add(at), value);
                        },
                    );
                }
            }
        }
    }
}
