//! col2im of any layouts, a cell at a time: where windows are so large that what the other ways keep of them would
//! not stay in a cache.

use std::ops::Range;

use super::places::Places;
use crate::shape::ConvShape;
use crate::simd::Element;

/// Writes some rows of an image, in some channels.
pub(super) struct GatherCells<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    pub channels: Range<usize>,
    /// The image's part of the column matrix.
    pub col: *const T,
    pub places: Places,
    /// The image, and what its elements count before their cells are added.
    pub x: *mut T,
    pub beta: T,
}

impl<T: Element> GatherCells<'_, T> {
    pub fn run(&self) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let [_, x_channel, x_row, x_column] = self.shape.input_strides;
        for channel in self.channels.clone() {
            for row in self.rows.clone() {
                for column in 0..width.input {
                    let place = channel * x_channel + row * x_row + column * x_column;
                    // SAFETY: an element of x, which is this task's, and the cells that lie on it.
                    unsafe {
                        let x = self.x.add(place);
                        let mut sum = T::default();
                        if self.beta != sum {
                            sum = self.beta * *x;
                        }
                        // The last window first: so an element gets its taps in their order.
                        for (row, kernel_row) in height.windows(row).rev() {
                            for (column, kernel_column) in width.windows(column).rev() {
                                let tap = (kernel_row, kernel_column);
                                sum = sum
                                    + *self.col.add(self.places.at([row, column, channel], tap));
                            }
                        }
                        *x = sum;
                    }
                }
            }
        }
    }
}
