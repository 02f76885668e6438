//! The forward pass with the lanes along a pixel's elements: each window for itself.

use std::ops::Range;

use super::forward::{Pixels, Reduction, Results, Window};
use super::line::{self, Cells};
use crate::runs::{self, for_each_vector};
use crate::shape::PoolShape;
use crate::simd::{Element, Kernel, Lanes};

/// Cells of a large window, of which several vectors at a time are read: the processor would wait for each cell of
/// one. And of a small one: memory gives the more of a pixel the sooner.
const MANY_CELLS: usize = 16;
const FEW_CELLS: usize = 4;

/// The taps of a window in the input, and all in a row of it.
struct Taps {
    rows: Range<usize>,
    columns: Range<usize>,
    kernel_width: usize,
}

impl Taps {
    /// Of a window whose cells all lie in the input.
    #[inline(always)]
    fn all([kernel_height, kernel_width]: [usize; 2]) -> Taps {
        Taps { rows: 0..kernel_height, columns: 0..kernel_width, kernel_width }
    }
}

/// Rows of y in one plane, the lanes along a pixel's elements.
pub(super) struct Channels<'a, T, R> {
    pub shape: &'a PoolShape,
    pub reduction: R,
    pub rows: Range<usize>,
    pub pixels: Pixels<T>,
    pub results: Results<T>,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Channels<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let (full_rows, full_columns) = (height.full_outputs(false), width.full_outputs(false));
        for row in self.rows.clone() {
            // Windows that lie in the input: all of them have the same numbers.
            let full = if full_rows.contains(&row) { full_columns.clone() } else { 0..0 };
            for column in (0..full.start).chain(full.end..width.output) {
                self.clipped(simd, row, column);
            }
            if full.is_empty() {
                continue;
            }
            // The common windows with their extents as constants.
            match [height.kernel, width.kernel] {
                [2, 2] => self.full(simd, row, full, [2, 2]),
                [3, 3] => self.full(simd, row, full, [3, 3]),
                extents => self.full(simd, row, full, extents),
            }
        }
    }
}

impl<T: Element, R: Reduction<T>> Channels<'_, T, R> {
    /// The cell of a window's first taps in the input.
    #[inline(always)]
    fn cell(&self, [row, column]: [usize; 2], [kh, kw]: [usize; 2]) -> *const T {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let y = (row * height.stride + kh * height.dilation).wrapping_sub(height.pad_before);
        let x = (column * width.stride + kw * width.dilation).wrapping_sub(width.pad_before);
        let cell = y.wrapping_mul(width.input).wrapping_add(x);
        self.pixels.x.wrapping_add(cell.wrapping_mul(self.pixels.stride))
    }

    /// From cell to cell of a window: down, and along the row.
    #[inline(always)]
    fn steps(&self) -> [usize; 2] {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let stride = self.pixels.stride;
        [height.dilation * width.input * stride, width.dilation * stride]
    }

    /// The offset of a pixel of y.
    #[inline(always)]
    fn at(&self, row: usize, column: usize) -> usize {
        (row * self.shape.width.output + column) * self.pixels.stride
    }

    /// Windows of a row that lie in the input.
    #[inline(always)]
    fn full<S: Lanes<T>>(
        &self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        [kernel_height, kernel_width]: [usize; 2],
    ) {
        let numbers = Window::new(self.shape, row, columns.start);
        let numbers = simd.splat(self.reduction.number(&numbers));
        let lanes = self.pixels.lanes;
        let taps = &Taps::all([kernel_height, kernel_width]);
        let is_all = lanes == self.pixels.stride;
        match S::LANES / lanes {
            2 | 3 if is_all => return self.together::<S, 2>(simd, row, columns, numbers, taps),
            4.. if is_all => return self.together::<S, 4>(simd, row, columns, numbers, taps),
            _ => {}
        }
        // Pixels of less than a vector: what is written past one is written again by the next one.
        let whole = match lanes < S::LANES && is_all {
            true => (columns.end + 1).saturating_sub(S::LANES.div_ceil(lanes)),
            false => 0,
        };
        for column in columns {
            let first = self.cell([row, column], [0, 0]);
            let at = self.at(row, column);
            if column < whole {
                self.side_by_side::<S, 1>(simd, first, at, S::LANES, numbers, taps);
                continue;
            }
            match kernel_height * kernel_width {
                MANY_CELLS.. => self.pixel::<S, 8>(simd, first, at, numbers, taps),
                ..=FEW_CELLS if lanes >= 4 * S::LANES => {
                    self.pixel::<S, 4>(simd, first, at, numbers, taps)
                }
                _ => self.pixel::<S, 1>(simd, first, at, numbers, taps),
            }
        }
    }

    /// The pixel `at`, whose window's first cell in the input is `first`: `V` vectors at a time, and what is left.
    #[inline(always)]
    fn pixel<S: Lanes<T>, const V: usize>(
        &self,
        simd: S,
        first: *const T,
        at: usize,
        numbers: S::Vector,
        taps: &Taps,
    ) {
        let lanes = self.pixels.lanes;
        let several = if V > 1 { lanes - lanes % (V * S::LANES) } else { 0 };
        for lane in (0..several).step_by(V * S::LANES) {
            let (first, at) = (first.wrapping_add(lane), at + lane);
            self.side_by_side::<S, V>(simd, first, at, S::LANES, numbers, taps);
        }
        for_each_vector(
            simd,
            lanes - several,
            #[inline(always)]
            |lane, count| {
                let (first, at) = (first.wrapping_add(several + lane), at + several + lane);
                self.side_by_side::<S, 1>(simd, first, at, count, numbers, taps);
            },
        );
    }

    /// Windows of a row that lie in the input, where a vector has room for those of `PIXELS` pixels.
    #[inline(always)]
    fn together<S: Lanes<T>, const PIXELS: usize>(
        &self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        numbers: S::Vector,
        taps: &Taps,
    ) {
        let lanes = self.pixels.lanes;
        let mut masks = [simd.mask_between(0, 0); PIXELS];
        for (pixel, mask) in masks.iter_mut().enumerate() {
            *mask = simd.mask_between(pixel * lanes, (pixel + 1) * lanes);
        }
        let step = self.shape.width.stride * lanes;
        let mut column = columns.start;
        while column < columns.end {
            let pixels = PIXELS.min(columns.end - column);
            // What is written past the last pixel of a vector is written again by the next one.
            let is_followed = (columns.end - column) * lanes >= S::LANES;
            let count = if is_followed { S::LANES } else { pixels * lanes };
            let (first, at) = (self.cell([row, column], [0, 0]), self.at(row, column));
            self.vectors::<S, 1>(
                simd,
                first,
                at,
                count,
                numbers,
                taps,
                #[inline(always)]
                |cell, _| {
                    let mut vector = simd.splat(T::default());
                    for (place, &mask) in masks.iter().enumerate() {
                        // Where there are no more, the last one.
                        let pixel = place.min(pixels - 1);
                        let cell = cell.wrapping_add(pixel * step).wrapping_sub(place * lanes);
                        // SAFETY: a cell of the input, whose windows lie in it.
                        vector = simd.select(mask, unsafe { simd.load_where(mask, cell) }, vector);
                    }
                    vector
                },
            );
            column += pixels;
        }
    }

    /// `V` vectors side by side, of `count` lanes each.
    #[inline(always)]
    fn side_by_side<S: Lanes<T>, const V: usize>(
        &self,
        simd: S,
        first: *const T,
        at: usize,
        count: usize,
        numbers: S::Vector,
        taps: &Taps,
    ) {
        self.vectors::<S, V>(
            simd,
            first,
            at,
            count,
            numbers,
            taps,
            #[inline(always)]
            |cell, i| {
                // SAFETY: cells of the input, whose windows lie in it.
                unsafe { runs::load(simd, count, cell.wrapping_add(i * S::LANES)) }
            },
        );
    }

    /// `V` vectors of the window whose first cell in the input is `first`, and of the pixel `at`. `load(cell, i)` is
    /// the vector number i of a cell, given as its place in the first window.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "a window, and where its results go")]
    fn vectors<S: Lanes<T>, const V: usize>(
        &self,
        simd: S,
        first: *const T,
        at: usize,
        count: usize,
        numbers: S::Vector,
        taps: &Taps,
        load: impl Fn(*const T, usize) -> S::Vector,
    ) {
        let reduction = self.reduction;
        let [down, along] = self.steps();
        let Taps { rows, columns, kernel_width } = taps;
        let mut totals = [reduction.start(simd, numbers); V];
        for kh in rows.clone() {
            let mut lines = totals;
            let first = first.wrapping_add((kh - rows.start) * down);
            for (i, line) in lines.iter_mut().enumerate() {
                *line = line::cell(simd, load(first, i), columns.start);
            }
            for kw in columns.start + 1..columns.end {
                let cell = first.wrapping_add((kw - columns.start) * along);
                for (i, line) in lines.iter_mut().enumerate() {
                    reduction.cell(simd, line, load(cell, i), kw);
                }
            }
            for (total, line) in totals.iter_mut().zip(lines) {
                if kh == 0 {
                    *total = reduction.start_with(simd, line);
                } else {
                    reduction.add_line(simd, total, line, kh * kernel_width);
                }
            }
        }
        for (i, total) in totals.into_iter().enumerate() {
            let result = reduction.finish(simd, total, numbers);
            // SAFETY: `count` lanes of the pixel.
            unsafe { self.results.store::<R, S>(simd, result, at + i * S::LANES, count) };
        }
    }

    /// A window of which some cells lie outside the input.
    #[inline(always)]
    fn clipped<S: Lanes<T>>(&self, simd: S, row: usize, column: usize) {
        let reduction = self.reduction;
        let window = Window::new(self.shape, row, column);
        let numbers = simd.splat(reduction.number(&window));
        if reduction.padding_takes_part() || window.cells() == 0 {
            return self.padded(simd, &window, [row, column], numbers);
        }
        let Window { rows, columns, kernel_width, .. } = window;
        let first = self.cell([row, column], [rows.start, columns.start]);
        let taps = &Taps { rows, columns, kernel_width };
        self.pixel::<S, 4>(simd, first, self.at(row, column), numbers, taps);
    }

    /// The same where cells in the padding take part, or no others are there.
    #[inline(always)]
    fn padded<S: Lanes<T>>(
        &self,
        simd: S,
        window: &Window,
        [row, column]: [usize; 2],
        numbers: S::Vector,
    ) {
        let reduction = self.reduction;
        let zeros = line::cell(simd, simd.splat(T::default()), 0);
        let padding = reduction.padding_takes_part();
        let cells = Cells::new(&self.shape.width, column, padding);
        let Window { rows, rows_end, columns, kernel_width, .. } = window;
        let first = self.cell([row, column], [rows.start, columns.start]);
        let at = self.at(row, column);
        let [down, along] = self.steps();
        let all_rows = if padding { 0..*rows_end } else { rows.clone() };
        for_each_vector(
            simd,
            self.pixels.lanes,
            #[inline(always)]
            |lane, count| {
                let mut total = reduction.start(simd, numbers);
                for kh in all_rows.clone() {
                    let mut line = zeros;
                    if rows.contains(&kh) {
                        let first = first.wrapping_add((kh - rows.start) * down + lane);
                        // SAFETY: `count` lanes of cells of the input.
                        line = unsafe { cells.line(simd, reduction, first, along, count) };
                    }
                    reduction.add_line(simd, &mut total, line, kh * kernel_width);
                }
                let result = reduction.finish(simd, total, numbers);
                // SAFETY: `count` lanes of the pixel.
                unsafe { self.results.store::<R, S>(simd, result, at + lane, count) };
            },
        );
    }
}
