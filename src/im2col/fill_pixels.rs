//! im2col of NHWC: the channels side by side in the lanes, and with them the taps of a row that follow each other.

use std::ops::Range;

use super::lines;
use super::places::{Places, Run};
use crate::runs;
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Writes the patches of some rows of windows.
pub(super) struct FillPixels<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    /// The image.
    pub x: *const T,
    /// The image's part of the column matrix.
    pub col: *mut T,
    pub places: Places,
    /// Of `MEMORY_LEN` elements, where patches are columns.
    pub memory: *mut T,
}

/// Cells of a vector of windows that are transposed together.
const CELLS: usize = 64;

/// Elements of memory that columns of patches take.
pub(super) const MEMORY_LEN: usize = CELLS * TILE_LANES;

impl<T: Element> Kernel<T> for FillPixels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        match self.places.is_patch_rows() {
            true => self.patches(simd),
            false => self.transposed(simd),
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

    /// Rows of patches: copied.
    #[inline(always)]
    fn patches<S: Lanes<T>>(&self, simd: S) {
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

    /// Columns of patches: of a vector of windows, whichever rows they are in, some cells are copied and
    /// transposed.
    #[inline(always)]
    fn transposed<S: Lanes<T>>(&self, simd: S) {
        let (shape, places, run) = (self.shape, &self.places, Run::new(self.shape));
        let (columns, cell) = (shape.width.output, places.channel);
        let windows = self.rows.start * columns..self.rows.end * columns;
        for (kernel_row, number) in
            (0..shape.height.kernel).flat_map(|row| (0..run.count).map(move |run| (row, run)))
        {
            let line = self.col.wrapping_add(places.at([0; 3], (kernel_row, number)));
            for first in (0..run.len).step_by(CELLS) {
                let cells = first..run.len.min(first + CELLS);
                let (mut row, mut column) = (self.rows.start, 0);
                let mut window = windows.start;
                while window < windows.end {
                    let target = line.wrapping_add(first * cell + window);
                    // Up to where a vector begins: a vector across two lines is written twice.
                    let whole = match target.align_offset(S::LANES * size_of::<T>()) {
                        0 => S::LANES,
                        before => before.min(S::LANES),
                    };
                    let count = whole.min(windows.end - window);
                    lines::ask_for(simd, [cells.len(), count], target, cell);
                    for lane in 0..count {
                        let (source, inside) = match self.source(row, kernel_row) {
                            Some(source) => {
                                let (first, inside) = run.of_window(shape, column, number);
                                (source.wrapping_add(first), inside)
                            }
                            None => (self.x, 0..0),
                        };
                        // SAFETY: a part of the memory, and the elements of x that belong there.
                        unsafe {
                            let target = self.memory.add(lane * CELLS);
                            lines::copy(simd, cells.clone(), &inside, source, target);
                        }
                        column += 1;
                        if column == columns {
                            (row, column) = (row + 1, 0);
                        }
                    }
                    // SAFETY: these cells of these windows' patches.
                    unsafe {
                        let source = self.memory.cast_const();
                        runs::transpose(simd, [count, cells.len()], source, CELLS, target, cell);
                    }
                    window += count;
                }
            }
        }
    }
}
