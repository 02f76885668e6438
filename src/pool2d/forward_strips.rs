//! The forward pass with the lanes along a pixel's elements, for small windows: a vector of them goes down some rows
//! of y. What a row of x comes to under each stays in registers for as long as windows share it.

use std::ops::Range;

use super::forward::{Pixels, Reduction, Results, Window};
use super::line::{self, Cells, Line};
use crate::runs::for_each_vector;
use crate::shape::PoolShape;
use crate::simd::{Element, Kernel, Lanes};

/// Elements of pixels so wide that a strip's cells would drive each other from the first-level cache.
const WIDE: usize = 1024;

/// The most rows of y that a strip goes down.
const MOST_ROWS: usize = 16;

/// The rows of y that a strip goes down, and that a task had better have together: enough to share, few enough that
/// the columns beside find x in the cache. None where windows of pixels of so many elements go another way.
pub(super) fn band(
    shape: &PoolShape,
    lanes: usize,
    with_places: bool,
    is_large: bool,
) -> Option<usize> {
    let (height, width) = (&shape.height, &shape.width);
    if height.dilation > 1 || width.dilation > 1 || height.stride != width.stride {
        return None;
    }
    // As measured. Where windows share little, each for itself finds x sooner, but for narrow pixels in the caches.
    match ([height.kernel, width.kernel], height.stride) {
        ([3, 3], 1) if lanes < WIDE => Some(4),
        ([3, 3], 2) if with_places && !is_large && lanes <= 64 => Some(4),
        ([5, 5], 1) => Some(MOST_ROWS),
        _ => None,
    }
}

/// Rows of y in one plane.
pub(super) struct Strips<'a, T, R> {
    pub shape: &'a PoolShape,
    pub reduction: R,
    pub rows: Range<usize>,
    pub pixels: Pixels<T>,
    pub results: Results<T>,
    /// See [`band`].
    pub band: usize,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Strips<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // The windows of `band`.
        match (self.shape.height.kernel, self.shape.height.stride) {
            (3, 1) => simd.call(OfExtent::<_, 3, 1>(self)),
            (3, _) => simd.call(OfExtent::<_, 3, 2>(self)),
            _ => simd.call(OfExtent::<_, 5, 1>(self)),
        }
    }
}

/// Strips of windows of `K` by `K` cells, `STRIDE` apart.
struct OfExtent<P, const K: usize, const STRIDE: usize>(P);

impl<T: Element, R: Reduction<T>, const K: usize, const STRIDE: usize> Kernel<T>
    for OfExtent<Strips<'_, T, R>, K, STRIDE>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        self.0.all::<S, K>(simd, STRIDE);
    }
}

impl<T: Element, R: Reduction<T>> Strips<'_, T, R> {
    #[inline(always)]
    fn all<S: Lanes<T>, const K: usize>(&self, simd: S, stride: usize) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let full_rows = height.full_outputs(false);
        let is_whole = self.pixels.lanes >= S::LANES;
        for first in self.rows.clone().step_by(self.band) {
            let rows = first..self.rows.end.min(first + self.band);
            let are_inside = full_rows.start <= rows.start && rows.end <= full_rows.end;
            for column in 0..width.output {
                let (rows, at) = (rows.clone(), [column, stride]);
                let cells = Cells::new(width, column, self.reduction.padding_takes_part());
                // The common windows' cells as constants.
                match (cells.missing(K).filter(|_| is_whole), are_inside) {
                    (Some([0, 0]), true) => {
                        self.strip::<S, K, true, true>(simd, rows, at, &Cells::all(K));
                    }
                    (Some([0, 0]), false) => {
                        self.strip::<S, K, false, true>(simd, rows, at, &Cells::all(K));
                    }
                    (Some([1, 0]), _) => {
                        self.strip::<S, K, false, true>(simd, rows, at, &Cells::some(1..K));
                    }
                    (Some([0, 1]), _) => {
                        self.strip::<S, K, false, true>(simd, rows, at, &Cells::some(0..K - 1));
                    }
                    _ => self.strip::<S, K, false, false>(simd, rows, at, &cells),
                }
            }
        }
    }

    /// The windows at a column of some rows, whose cells in a row these are. Their rows lie in the input if `ROWS`;
    /// pixels have a vector if `WHOLE`.
    #[inline(always)]
    fn strip<S: Lanes<T>, const K: usize, const ROWS: bool, const WHOLE: bool>(
        &self,
        simd: S,
        rows: Range<usize>,
        [column, stride]: [usize; 2],
        cells: &Cells,
    ) {
        let (reduction, width) = (self.reduction, &self.shape.width);
        let number = |row: usize| reduction.number(&Window::new(self.shape, row, column));
        let shared = simd.splat(number(rows.start));
        let mut numbers = [T::default(); MOST_ROWS];
        if !ROWS {
            for (to, row) in numbers.iter_mut().zip(rows.clone()) {
                *to = number(row);
            }
        }
        let pixel = self.pixels.stride;
        let first_row = rows.start * stride;
        let x = {
            let row = first_row.wrapping_sub(self.shape.height.pad_before);
            let cell = (column * width.stride + cells.first()).wrapping_sub(width.pad_before);
            let cell = row.wrapping_mul(width.input).wrapping_add(cell);
            self.pixels.x.wrapping_add(cell.wrapping_mul(pixel))
        };
        let (down, to_next) = (width.input * pixel, width.output * pixel);
        let at = (rows.start * width.output + column) * pixel;
        // No less than a vector: so the compiler leaves out the loop's other branch.
        let lanes = if WHOLE { self.pixels.lanes.max(S::LANES) } else { self.pixels.lanes };
        for_each_vector(
            simd,
            lanes,
            #[inline(always)]
            |lane, count| {
                let (mut row, mut x, mut at) = (first_row, x.wrapping_add(lane), at + lane);
                // The rows of the window before: those that it shares with the first.
                let mut lines = [line::cell(simd, shared, 0); K];
                for line in lines.iter_mut().skip(stride) {
                    *line = self.line::<S, ROWS>(simd, row, cells, x, count);
                    (row, x) = (row + 1, x.wrapping_add(down));
                }
                for &number in numbers.iter().take(rows.len()) {
                    for tap in 0..K {
                        if tap + stride < K {
                            lines[tap] = lines[tap + stride];
                        } else {
                            lines[tap] = self.line::<S, ROWS>(simd, row, cells, x, count);
                            (row, x) = (row + 1, x.wrapping_add(down));
                        }
                    }
                    let numbers = if ROWS { shared } else { simd.splat(number) };
                    let mut total = reduction.start(simd, numbers);
                    for (tap, line) in lines.iter().enumerate() {
                        if ROWS && tap == 0 {
                            total = reduction.start_with(simd, *line);
                        } else {
                            reduction.add_line(simd, &mut total, *line, tap * K);
                        }
                    }
                    let result = reduction.finish(simd, total, numbers);
                    // SAFETY: `count` lanes of the pixel.
                    unsafe { self.results.store::<R, S>(simd, result, at, count) };
                    at += to_next;
                }
            },
        );
    }

    /// What a row of the padded input comes to, whose first cell in the input is `first`.
    #[inline(always)]
    fn line<S: Lanes<T>, const INSIDE: bool>(
        &self,
        simd: S,
        row: usize,
        cells: &Cells,
        first: *const T,
        count: usize,
    ) -> Line<S::Vector> {
        let height = &self.shape.height;
        if INSIDE || row.wrapping_sub(height.pad_before) < height.input {
            // SAFETY: `count` lanes of cells of the row.
            return unsafe { cells.line(simd, self.reduction, first, self.pixels.stride, count) };
        }
        line::outside(simd, self.reduction, height, row)
    }
}
