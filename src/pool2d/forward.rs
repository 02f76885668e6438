//! The forward pass of every pooling: the cells of each window in their order, a vector of windows
//! at a time.

use std::ops::Range;

use super::ArgmaxMut;
use super::path::{self, BLOCK, Path, Transpose, with_constants};
use super::place::{PlacesMut, SharedPlaces};
use crate::context::Context;
use crate::error::Result;
use crate::phases::Phases;
use crate::runs::{self, for_each_vector};
use crate::scratch::ScratchLen;
use crate::shape::{Axis, PoolShape};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes, Level};
use crate::tasks::{Tasks, by_plane};

/// What a pooling makes of the cells of its windows.
pub(super) trait Reduction<T: Element>: Copy + Sync {
    /// What is kept of a vector of windows while their cells pass.
    type State<V: Copy>: Copy;

    /// A value that never changes a result.
    fn nothing() -> T;

    /// Whether cells in the padding take part, with the value 0.
    fn padding_takes_part(self) -> bool;

    /// A number of the window that `start` and `finish` need.
    fn number(self, window: &Window) -> T;

    /// The state before the first cell.
    fn start<S: Lanes<T>>(self, simd: S, numbers: S::Vector) -> Self::State<S::Vector>;

    /// The cell at `place` of each window of the vector.
    fn cell<S: Lanes<T>>(
        self,
        simd: S,
        state: &mut Self::State<S::Vector>,
        value: S::Vector,
        place: usize,
    );

    /// After the last cell of a row of the window.
    fn end_row<S: Lanes<T>>(self, simd: S, state: &mut Self::State<S::Vector>);

    /// The result, and its place in the window.
    fn finish<S: Lanes<T>>(
        self,
        simd: S,
        state: Self::State<S::Vector>,
        numbers: S::Vector,
    ) -> [S::Vector; 2];
}

/// The cells of a window that lie in the input, and in the padded input.
pub(super) struct Window {
    /// Rows that lie in the input; no rows say where the window lies: see [`Axis::taps`].
    rows: Range<usize>,
    columns: Range<usize>,
    rows_end: usize,
    columns_end: usize,
    kernel_width: usize,
}

impl Window {
    #[inline(always)]
    pub fn new(shape: &PoolShape, row: usize, column: usize) -> Window {
        Window {
            rows: shape.height.taps(row),
            columns: shape.width.taps(column),
            rows_end: shape.height.taps_end(row),
            columns_end: shape.width.taps_end(column),
            kernel_width: shape.width.kernel,
        }
    }

    /// The place of the first cell in the input; 0 where there is none.
    #[inline(always)]
    pub fn first_place(&self) -> usize {
        if self.cells() == 0 { 0 } else { self.rows.start * self.kernel_width + self.columns.start }
    }

    /// Cells in the input.
    #[inline(always)]
    pub fn cells(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Cells in the padded input.
    #[inline(always)]
    pub fn padded_cells(&self) -> usize {
        self.rows_end * self.columns_end
    }

    #[inline(always)]
    fn is_full(&self, shape: &PoolShape) -> bool {
        self.rows == (0..shape.height.kernel) && self.columns == (0..shape.width.kernel)
    }
}

/// Where results go.
#[derive(Clone, Copy)]
struct Results<T> {
    y: *mut T,
    places: PlacesMut,
}

impl<T: Element> Results<T> {
    #[inline(always)]
    unsafe fn store<S: Lanes<T>>(
        self,
        simd: S,
        [values, places]: [S::Vector; 2],
        at: usize,
        count: usize,
    ) {
        // SAFETY: the caller answers for `count` results at `at`.
        unsafe {
            runs::store(simd, count, self.y.add(at), values);
            self.places.store(simd, count, at, places);
        }
    }
}

/// Columns of y that are computed at a time: they and what they read fit the first-level cache.
const TILE: usize = 512;

/// Runs the pooling of x.
pub(super) fn run<T: Element, R: Reduction<T>>(
    context: &Context,
    shape: &PoolShape,
    reduction: R,
    x: &[T],
    y: &mut [T],
    argmax: Option<ArgmaxMut<'_>>,
) -> Result<()> {
    let (y, places) = (SharedMut::new(y), SharedPlaces::new(argmax));
    let results = |at: usize| Results { y: y.at(at), places: places.at(at) };
    let level = context.level();
    let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
    let (rows, columns) = (shape.height.output, shape.width.output);
    // Elements that a column of y reads and writes.
    let work = (input / rows).div_ceil(columns) + 1;
    let ring = Ring::new(shape);
    match Path::new(shape, ring.scratch_len()) {
        Path::Channels { planes, lanes } => {
            let tasks = Tasks::new(planes * rows, lanes, work.saturating_mul(columns), 64);
            context.run(tasks.count(), &|_, index| {
                let (rows_of_all, part) = tasks.part(index);
                for (plane, rows) in by_plane(rows_of_all, rows) {
                    let x = x[plane * shape.input_plane * lanes + part.start..].as_ptr();
                    let results = results(plane * shape.output_plane * lanes + part.start);
                    let pixels = Pixels { stride: lanes, lanes: part.len(), x };
                    T::dispatch(level, Channels { shape, reduction, rows, pixels, results });
                }
            });
        }
        Path::Columns { planes } => {
            let tasks = Tasks::new(planes * rows, columns, work, 64);
            let scratch = context.scratch::<T>(ScratchLen::for_each(ring.scratch_len()))?;
            context.run(tasks.count(), &|slot, index| {
                let (rows, columns) = tasks.part(index);
                let (x, results) = (x.as_ptr(), results(0));
                let memory = scratch.slot(slot);
                let kernel = Columns { shape, reduction, rows, columns, x, results, ring, memory };
                T::dispatch(level, kernel);
            });
        }
        Path::Blocks { planes } => {
            let tasks = Tasks::new(planes.div_ceil(BLOCK), 1, (input + output) * BLOCK, 1);
            let len = ScratchLen::for_each((input + 2 * output) * BLOCK);
            let scratch = context.scratch::<T>(len)?;
            context.run(tasks.count(), &|slot, index| {
                for first in tasks.part(index).0.map(|block| block * BLOCK) {
                    let planes = BLOCK.min(planes - first);
                    let x = x[first * shape.input_plane..].as_ptr();
                    let results = results(first * shape.output_plane);
                    let memory = scratch.slot(slot);
                    // SAFETY: x has the planes, scratch memory a block of x and two of y.
                    unsafe { run_block(level, shape, reduction, planes, x, results, memory) };
                }
            });
        }
    }
    Ok(())
}

/// Up to [`BLOCK`] planes, with the lanes across them.
///
/// # Safety
/// `x` and `results` have the planes, `memory` has room for a block of x and two of y.
unsafe fn run_block<T: Element, R: Reduction<T>>(
    level: Level,
    shape: &PoolShape,
    reduction: R,
    planes: usize,
    x: *const T,
    results: Results<T>,
    memory: *mut T,
) {
    let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
    let transpose = Transpose {
        rows: planes,
        columns: input,
        source: x,
        source_stride: shape.input_plane,
        target: memory,
        target_stride: BLOCK,
    };
    T::dispatch(level, transpose);
    // SAFETY: behind the block of x.
    let (y, places) = unsafe { (memory.add(input * BLOCK), memory.add((input + output) * BLOCK)) };
    let block = Results { y, places: results.places.in_memory(places) };
    let pixels = Pixels { stride: BLOCK, lanes: planes, x: memory.cast_const() };
    let rows = 0..shape.height.output;
    T::dispatch(level, Channels { shape, reduction, rows, pixels, results: block });
    let transpose = Transpose {
        rows: output,
        columns: planes,
        source: y.cast_const(),
        source_stride: BLOCK,
        target: results.y,
        target_stride: shape.output_plane,
    };
    T::dispatch(level, transpose);
    // SAFETY: as for y.
    unsafe {
        let pitches = [BLOCK, shape.output_plane];
        results.places.take_transposed(block.places, [output, planes], pitches);
    }
}

/// The pixels of a plane of x, and of y likewise: `stride` elements from one to the next, of which
/// `lanes` are this task's.
#[derive(Clone, Copy)]
struct Pixels<T> {
    stride: usize,
    lanes: usize,
    x: *const T,
}

/// Rows of y in one plane, the lanes along a pixel's elements.
struct Channels<'a, T, R> {
    shape: &'a PoolShape,
    reduction: R,
    rows: Range<usize>,
    pixels: Pixels<T>,
    results: Results<T>,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Channels<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let stride = self.pixels.stride;
        for row in self.rows.clone() {
            for column in 0..width.output {
                let window = Window::new(self.shape, row, column);
                let mut first = self.pixels.x;
                if window.cells() > 0 {
                    let y = row * height.stride + window.rows.start * height.dilation;
                    let x = column * width.stride + window.columns.start * width.dilation;
                    let cell = (y - height.pad_before) * width.input + x - width.pad_before;
                    // SAFETY: a cell of the input.
                    first = unsafe { first.add(cell * stride) };
                }
                let pixel = Pixel {
                    first,
                    row_step: height.dilation * width.input * stride,
                    column_step: width.dilation * stride,
                    at: (row * width.output + column) * stride,
                };
                // The common windows with their extents as constants.
                match [height.kernel, width.kernel] {
                    _ if !window.is_full(self.shape) => self.clipped(simd, &pixel, &window),
                    [2, 2] => self.full(simd, &pixel, &window, [2, 2]),
                    [3, 3] => self.full(simd, &pixel, &window, [3, 3]),
                    kernel => self.full(simd, &pixel, &window, kernel),
                }
            }
        }
    }
}

/// A pixel of y, and its window's cells in x.
struct Pixel<T> {
    /// The first cell that lies in the input.
    first: *const T,
    row_step: usize,
    column_step: usize,
    /// Its offset in y.
    at: usize,
}

impl<T: Element, R: Reduction<T>> Channels<'_, T, R> {
    /// A window that lies in the input.
    #[inline(always)]
    fn full<S: Lanes<T>>(
        &self,
        simd: S,
        pixel: &Pixel<T>,
        window: &Window,
        [kernel_height, kernel_width]: [usize; 2],
    ) {
        let reduction = self.reduction;
        let numbers = simd.splat(reduction.number(window));
        for_each_vector(
            simd,
            self.pixels.lanes,
            #[inline(always)]
            |lane, count| {
                let mut state = reduction.start(simd, numbers);
                for kh in 0..kernel_height {
                    for kw in 0..kernel_width {
                        let cell = kh * pixel.row_step + kw * pixel.column_step;
                        // SAFETY: `count` lanes of a cell of the input.
                        let value =
                            unsafe { runs::load(simd, count, pixel.first.add(cell + lane)) };
                        reduction.cell(simd, &mut state, value, kh * kernel_width + kw);
                    }
                    reduction.end_row(simd, &mut state);
                }
                let result = reduction.finish(simd, state, numbers);
                // SAFETY: `count` lanes of the pixel.
                unsafe { self.results.store(simd, result, pixel.at + lane, count) };
            },
        );
    }

    /// A window of which some cells lie outside the input.
    #[inline(always)]
    fn clipped<S: Lanes<T>>(&self, simd: S, pixel: &Pixel<T>, window: &Window) {
        let Window { rows, columns, rows_end, columns_end, kernel_width } = window;
        let reduction = self.reduction;
        let numbers = simd.splat(reduction.number(window));
        let zero = simd.splat(T::default());
        let padding = reduction.padding_takes_part();
        let all_rows = if padding { 0..*rows_end } else { rows.clone() };
        for_each_vector(
            simd,
            self.pixels.lanes,
            #[inline(always)]
            |lane, count| {
                let mut state = reduction.start(simd, numbers);
                for kh in all_rows.clone() {
                    // Of cells in the padding that follow each other, the first speaks for all.
                    let place = kh * kernel_width;
                    if !rows.contains(&kh) {
                        reduction.cell(simd, &mut state, zero, place);
                        continue;
                    }
                    if padding && columns.start > 0 {
                        reduction.cell(simd, &mut state, zero, place);
                    }
                    for kw in columns.clone() {
                        let cell = (kh - rows.start) * pixel.row_step
                            + (kw - columns.start) * pixel.column_step;
                        // SAFETY: `count` lanes of a cell of the input.
                        let value =
                            unsafe { runs::load(simd, count, pixel.first.add(cell + lane)) };
                        reduction.cell(simd, &mut state, value, place + kw);
                    }
                    if padding && columns.end < *columns_end {
                        reduction.cell(simd, &mut state, zero, place + columns.end);
                    }
                    reduction.end_row(simd, &mut state);
                }
                let result = reduction.finish(simd, state, numbers);
                // SAFETY: `count` lanes of the pixel.
                unsafe { self.results.store(simd, result, pixel.at + lane, count) };
            },
        );
    }
}

/// Scratch memory for `Columns`: the rows of x that the windows of a row of y read, padded and
/// dealt out by the stride, each at its padded row's number modulo `rows`. Behind them, a number
/// for each window.
#[derive(Clone, Copy)]
struct Ring {
    rows: usize,
    /// Elements from phase to phase.
    pitch: usize,
    /// Elements from row to row.
    row: usize,
}

impl Ring {
    fn new(shape: &PoolShape) -> Ring {
        let tile = shape.width.output.min(TILE);
        let pitch = (tile + Phases::reach(&shape.width)).next_multiple_of(BLOCK);
        let row = pitch.saturating_mul(Phases::count(&shape.width));
        Ring { rows: shape.height.window(), pitch, row }
    }

    fn scratch_len(&self) -> usize {
        self.rows.saturating_mul(self.row).saturating_add(self.pitch)
    }
}

/// Rows of y, counted through all planes, and a range of their columns; the lanes along the row.
struct Columns<'a, T, R> {
    shape: &'a PoolShape,
    reduction: R,
    rows: Range<usize>,
    columns: Range<usize>,
    x: *const T,
    results: Results<T>,
    ring: Ring,
    memory: *mut T,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Columns<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for first in self.columns.clone().step_by(TILE) {
            let tile = first..(first + TILE).min(self.columns.end);
            // The window rows that the numbers in scratch memory belong to.
            let mut numbers_of = None;
            for (plane, rows) in by_plane(self.rows.clone(), self.shape.height.output) {
                self.tile(simd, plane, rows, tile.clone(), &mut numbers_of);
            }
        }
    }
}

impl<T: Element, R: Reduction<T>> Columns<'_, T, R> {
    /// The rows of one plane, `tile` of their columns.
    #[inline(always)]
    fn tile<S: Lanes<T>>(
        &self,
        simd: S,
        plane: usize,
        rows: Range<usize>,
        tile: Range<usize>,
        numbers_of: &mut Option<(Range<usize>, usize)>,
    ) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let numbers = self.memory.wrapping_add(self.ring.rows * self.ring.row);
        let phases = Phases {
            axis: *width,
            first: tile.start,
            len: tile.len() + Phases::reach(width),
            pitch: self.ring.pitch,
        };
        let outside = R::nothing();
        let padding = if self.reduction.padding_takes_part() { T::default() } else { outside };
        let mut dealt = 0;
        for row in rows {
            let taps = height.taps(row);
            let rows_of_window = (taps.clone(), height.taps_end(row));
            if numbers_of.as_ref() != Some(&rows_of_window) {
                for (i, column) in tile.clone().enumerate() {
                    let number = self.reduction.number(&Window::new(self.shape, row, column));
                    // SAFETY: scratch memory has a number for each column of a tile.
                    unsafe { *numbers.add(i) = number };
                }
                *numbers_of = Some(rows_of_window);
            }
            let top = row * height.stride;
            if !taps.is_empty() {
                // All rows that the window spans: those between its taps are other windows'.
                dealt = dealt.max(top).max(height.pad_before);
                let end = top + (taps.end - 1) * height.dilation + 1;
                while dealt < end {
                    // SAFETY: a row of the input, and the ring's place for it.
                    unsafe {
                        let row = (dealt - height.pad_before) * width.input;
                        let source = self.x.add(plane * self.shape.input_plane + row);
                        let target = self.memory.add(dealt % self.ring.rows * self.ring.row);
                        phases.split(simd, source, [padding, outside], target);
                    }
                    dealt += 1;
                }
            }
            let row = Row {
                taps,
                taps_end: height.taps_end(row),
                top: top % self.ring.rows,
                numbers,
                len: tile.len(),
                at: plane * self.shape.output_plane + row * width.output + tile.start,
            };
            // The common windows with their extents and strides as constants.
            match ([height.kernel, width.kernel], width.stride, width.dilation) {
                ([2, 2], 2, 1) => self.row(simd, &row, 2, &with_constants(width, 2, 2, 1)),
                ([3, 3], 2, 1) => self.row(simd, &row, 3, &with_constants(width, 3, 2, 1)),
                ([3, 3], 1, 1) => self.row(simd, &row, 3, &with_constants(width, 3, 1, 1)),
                ([kernel, _], ..) => self.row(simd, &row, kernel, width),
            }
        }
    }

    #[inline(always)]
    fn row<S: Lanes<T>>(&self, simd: S, row: &Row<T>, kernel_height: usize, width: &Axis) {
        let reduction = self.reduction;
        let zero = simd.splat(T::default());
        let padding = reduction.padding_takes_part();
        let full = row.taps == (0..kernel_height);
        for_each_vector(
            simd,
            row.len,
            #[inline(always)]
            |i, count| {
                // SAFETY: `count` columns of the tile, from its i-th on.
                let numbers = unsafe { runs::load(simd, count, row.numbers.add(i)) };
                let mut state = reduction.start(simd, numbers);
                for kh in 0..kernel_height {
                    if full || row.taps.contains(&kh) {
                        self.window_row(simd, &mut state, row, kh, width, i, count);
                    } else if padding && kh < row.taps_end {
                        reduction.cell(simd, &mut state, zero, kh * width.kernel);
                    }
                }
                let result = reduction.finish(simd, state, numbers);
                // SAFETY: as above.
                unsafe { self.results.store(simd, result, row.at + i, count) };
            },
        );
    }

    /// Row `kh` of the windows of `count` columns, from the tile's i-th on.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the loop's variables")]
    fn window_row<S: Lanes<T>>(
        &self,
        simd: S,
        state: &mut R::State<S::Vector>,
        row: &Row<T>,
        kh: usize,
        width: &Axis,
        i: usize,
        count: usize,
    ) {
        let mut place = row.top + kh * self.shape.height.dilation;
        if place >= self.ring.rows {
            place -= self.ring.rows;
        }
        let cells = self.memory.wrapping_add(place * self.ring.row);
        let (mut phase, mut skip) = (0, i);
        for kw in 0..width.kernel {
            // SAFETY: the phases reach as far as the taps of the tile's last window do.
            let value =
                unsafe { runs::load(simd, count, cells.add(phase * self.ring.pitch + skip)) };
            self.reduction.cell(simd, state, value, kh * width.kernel + kw);
            phase += width.dilation;
            while phase >= width.stride {
                phase -= width.stride;
                skip += 1;
            }
        }
        self.reduction.end_row(simd, state);
    }
}

/// A row of y.
struct Row<T> {
    /// The window's rows in the input, and the end of those in the padded input.
    taps: Range<usize>,
    taps_end: usize,
    /// The ring's place of the window's first row.
    top: usize,
    numbers: *const T,
    /// Columns of the tile.
    len: usize,
    /// The offset of the first in y.
    at: usize,
}
