//! im2col of NHWC to rows of patches: the channels side by side in the lanes, and with them the taps of a row that follow each other.

use std::ops::Range;

use super::lines;
use super::places::{Places, Run};
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes};

/// Writes the patches of some rows of windows.
pub(super) struct FillPixels<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    /// The image.
    pub x: *const T,
    /// The image's part of the column matrix.
    pub col: *mut T,
    /// Whose patches are rows.
    pub places: Places,
}

impl<T: Element> Kernel<T> for FillPixels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (shape, places, run) = (self.shape, &self.places, Run::new(self.shape));
        for row in self.rows.clone() {
            for column in 0..shape.width.output {
                let patch = self.col.wrapping_add(places.at([row, column, 0], (0, 0)));
                for number in 0..run.count {
                    let (first, inside) = run.of_window(shape, column, number);
                    for kernel_row in 0..shape.height.kernel {
                        let place = kernel_row * places.kernel_row + number * run.len;
                        let target = patch.wrapping_add(place);
                        let (source, inside) = match self.source(row, kernel_row) {
                            Some(source) => (source.wrapping_add(first), &inside),
                            None => (self.x, &(0..0)),
                        };
                        // SAFETY: cells of a patch, and the elements of x in them.
                        unsafe { lines::copy(simd, 0..run.len, inside, source, target) };
                    }
                }
            }
        }
    }
}

impl<T: Element> FillPixels<'_, T> {
    /// The row of x that a tap reads.
    #[inline(always)]
    fn source(&self, row: usize, kernel_row: usize) -> Option<*const T> {
        let source = self.shape.height.source(row, kernel_row)?;
        Some(self.x.wrapping_add(source * self.shape.input_strides[2]))
    }
}
