//! col2im of any layouts, a cell at a time: where windows are so large that what the other ways keep of them would
//! not stay in a cache.

use super::share::Share;
use crate::simd::Element;

/// Writes some rows of an image, in some channels.
pub(super) struct GatherCells<'a, T> {
    pub share: Share<'a, T>,
}

impl<T: Element> GatherCells<'_, T> {
    pub fn run(&self) {
        let Share { shape, ref rows, ref channels, col, ref places, x, beta } = self.share;
        let (height, width) = (&shape.height, &shape.width);
        let [_, x_channel, x_row, x_column] = shape.input_strides;
        for channel in channels.clone() {
            for row in rows.clone() {
                for column in 0..width.input {
                    let place = channel * x_channel + row * x_row + column * x_column;
                    // SAFETY: an element of x, which is this task's, and the cells that lie on it.
                    unsafe {
                        let x = x.add(place);
                        let mut sum = T::default();
                        if beta != sum {
                            sum = beta * *x;
                        }
                        // The last window first: so an element gets its taps in their order.
                        for (row, kernel_row) in height.windows(row).rev() {
                            for (column, kernel_column) in width.windows(column).rev() {
                                let tap = (kernel_row, kernel_column);
                                sum = sum + *col.add(places.at([row, column, channel], tap));
                            }
                        }
                        *x = sum;
                    }
                }
            }
        }
    }
}
