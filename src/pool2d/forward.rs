//! The forward pass of every pooling: the cells of each window in their order, a vector of windows
//! at a time.

use std::ops::Range;

use super::ArgmaxMut;
use super::forward_ring::{self, SharedRows};
use super::forward_rows::{self, Rows};
use super::numbers::Numbers;
use super::path::{self, BLOCK, Path, Transpose};
use super::place::{FromNumbers, PlacesMut, SharedPlaces};
use crate::context::Context;
use crate::error::Result;
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

    /// Whether `line` has a place.
    const PLACES: bool;

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

    /// What a row of the window came to, after its last cell, and the place of that.
    fn line<V: Copy>(self, state: Self::State<V>) -> [V; 2];

    /// A row of the window in place of its cells. `first_place` is that of its first cell.
    fn add_line<S: Lanes<T>>(
        self,
        simd: S,
        state: &mut Self::State<S::Vector>,
        line: [S::Vector; 2],
        first_place: usize,
    );

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
}

/// Where results go.
#[derive(Clone, Copy)]
pub(super) struct Results<T> {
    y: *mut T,
    places: PlacesMut<T>,
}

impl<T: Element> Results<T> {
    /// The results from a later one on.
    fn at(self, offset: usize) -> Self {
        Results { y: self.y.wrapping_add(offset), places: self.places.at(offset) }
    }

    #[inline(always)]
    pub unsafe fn store<S: Lanes<T>>(
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
    if path::is_planar(shape) && forward_rows::pays(shape) {
        let numbers = Numbers::new(shape);
        let work = shape.height.stride * shape.width.input + shape.width.output;
        let tasks = Tasks::new(shape.batch * shape.channels * shape.height.output, 1, work, 1);
        let scratch = context.scratch::<T>(ScratchLen::for_each(numbers.len()))?;
        context.run(tasks.count(), &|slot, index| {
            let (x, results) = (x.as_ptr(), results(0));
            let (rows, memory) = (tasks.part(index).0, scratch.slot(slot));
            let numbers = &numbers;
            T::dispatch(level, Rows { shape, reduction, rows, x, results, numbers, memory });
        });
        return Ok(());
    }
    let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
    let (rows, columns) = (shape.height.output, shape.width.output);
    // Elements that a column of y reads and writes.
    let work = (input / rows).div_ceil(columns) + 1;
    // Some rows of y.
    let part = |rows: Range<usize>| match rows.len() == shape.height.output {
        true => (*shape, 0..shape.height.input),
        false => shape.of_output_rows(shape.batch, rows),
    };
    let cuttable = !shape.height.has_windows_in_padding();
    match Path::new(shape, rows, |some| part(if cuttable { 0..some } else { 0..rows }).0) {
        Path::Channels { planes, lanes } => {
            let tasks = Tasks::new(planes * rows, lanes, work.saturating_mul(columns), 64);
            let scratch = context.scratch::<T>(ScratchLen::for_each(ring_len(shape, lanes)))?;
            context.run(tasks.count(), &|slot, index| {
                let (rows_of_all, part) = tasks.part(index);
                for (plane, rows) in by_plane(rows_of_all, rows) {
                    let x = x[plane * shape.input_plane * lanes + part.start..].as_ptr();
                    let results = results(plane * shape.output_plane * lanes + part.start);
                    let pixels = Pixels { stride: lanes, lanes: part.len(), x };
                    // SAFETY: x and y have the planes' rows, scratch memory a ring.
                    unsafe {
                        run_pixels(
                            level,
                            shape,
                            reduction,
                            rows,
                            pixels,
                            results,
                            scratch.slot(slot),
                        );
                    }
                }
            });
        }
        Path::Blocks { planes, rows: some } => {
            let some = if cuttable { some } else { rows };
            let bands = rows.div_ceil(some);
            let work = (input + output).div_ceil(bands) * BLOCK;
            let tasks = Tasks::new(planes.div_ceil(BLOCK) * bands, 1, work, 1);
            let len = (0..bands).map(|band| path::block_len(&part(path::band(band, some, rows)).0));
            let len = len.max().unwrap_or(0) + ring_len(shape, BLOCK);
            let scratch = context.scratch::<T>(ScratchLen::for_each(len))?;
            context.run(tasks.count(), &|slot, index| {
                for number in tasks.part(index).0 {
                    let (first, band) = (number / bands * BLOCK, number % bands);
                    let planes = BLOCK.min(planes - first);
                    let rows = path::band(band, some, rows);
                    let (part, inputs) = part(rows.clone());
                    let x_start = first * shape.input_plane + inputs.start * shape.width.input;
                    let x = x[x_start..].as_ptr();
                    let results = results(first * shape.output_plane + rows.start * columns);
                    let memory = scratch.slot(slot);
                    // SAFETY: x and y have the planes' rows, scratch memory a block.
                    unsafe { run_block(level, &part, reduction, planes, x, results, memory) };
                }
            });
        }
    }
    Ok(())
}

/// Elements of scratch memory of [`run_pixels`].
fn ring_len(shape: &PoolShape, lanes: usize) -> usize {
    forward_ring::ring(shape, lanes).map_or(0, |ring| ring.len())
}

/// Rows of y in one plane, the lanes along a pixel's elements.
///
/// # Safety
/// `pixels` and `results` have the rows; `memory` has `ring_len`.
unsafe fn run_pixels<T: Element, R: Reduction<T>>(
    level: Level,
    shape: &PoolShape,
    reduction: R,
    rows: Range<usize>,
    pixels: Pixels<T>,
    results: Results<T>,
    memory: *mut T,
) {
    match forward_ring::ring(shape, pixels.lanes) {
        None => T::dispatch(level, Channels { shape, reduction, rows, pixels, results }),
        Some(ring) => {
            for lane in (0..pixels.lanes).step_by(ring.pitch) {
                let (x, lanes) = (pixels.x.wrapping_add(lane), pixels.lanes - lane);
                let pixels = Pixels { x, lanes: lanes.min(ring.pitch), ..pixels };
                let (rows, results) = (rows.clone(), results.at(lane));
                let kernel = SharedRows { shape, reduction, rows, pixels, results, ring, memory };
                T::dispatch(level, kernel);
            }
        }
    }
}

/// Up to [`BLOCK`] planes, with the lanes across them.
///
/// # Safety
/// `x` and `results` have the planes, `memory` has `block_len` and `ring_len`.
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
    let y = unsafe { memory.add(input.max(output) * BLOCK) };
    // SAFETY: behind the block of y.
    let places = unsafe { y.add(output * BLOCK) };
    let with_places = !matches!(results.places, PlacesMut::Nowhere);
    let in_block = if with_places { PlacesMut::Numbers(places) } else { PlacesMut::Nowhere };
    let block = Results { y, places: in_block };
    let pixels = Pixels { stride: BLOCK, lanes: planes, x: memory.cast_const() };
    let rows = 0..shape.height.output;
    // SAFETY: the blocks have the rows; behind the block of places.
    unsafe {
        let memory = places.add(output * BLOCK);
        run_pixels(level, shape, reduction, rows, pixels, block, memory);
    }
    let transpose = Transpose {
        rows: output,
        columns: planes,
        source: y.cast_const(),
        source_stride: BLOCK,
        target: results.y,
        target_stride: shape.output_plane,
    };
    T::dispatch(level, transpose);
    if with_places {
        // Where the block of x was.
        let transpose = Transpose {
            rows: output,
            columns: planes,
            source: places.cast_const(),
            source_stride: BLOCK,
            target: memory,
            target_stride: output,
        };
        T::dispatch(level, transpose);
        let runs = [planes, output, shape.output_plane];
        T::dispatch(level, FromNumbers { numbers: memory, runs, target: results.places });
    }
}

/// The pixels of a plane of x, and of y likewise: `stride` elements from one to the next, of which
/// `lanes` are this task's.
#[derive(Clone, Copy)]
pub(super) struct Pixels<T> {
    pub stride: usize,
    pub lanes: usize,
    pub x: *const T,
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
        let Axis { kernel, .. } = self.shape.height;
        let full_columns = self.shape.width.full_outputs(false);
        for row in self.rows.clone() {
            // Windows that lie in the input: all of them have the same numbers.
            let full = match self.shape.height.taps(row) == (0..kernel) {
                true if !full_columns.is_empty() => full_columns.clone(),
                _ => 0..0,
            };
            for column in (0..full.start).chain(full.end..self.shape.width.output) {
                let window = Window::new(self.shape, row, column);
                self.clipped(simd, &self.pixel(row, column, &window), &window);
            }
            if full.is_empty() {
                continue;
            }
            let window = Window::new(self.shape, row, full.start);
            let first = self.pixel(row, full.start, &window);
            let numbers = simd.splat(self.reduction.number(&window));
            // The common windows with their extents as constants.
            match [kernel, self.shape.width.kernel] {
                [2, 2] => self.full(simd, first, full.len(), numbers, [2, 2]),
                [3, 3] => self.full(simd, first, full.len(), numbers, [3, 3]),
                extents => self.full(simd, first, full.len(), numbers, extents),
            }
        }
    }
}

/// A pixel of y, and its window's cells in x.
#[derive(Clone, Copy)]
struct Pixel<T> {
    /// The first cell that lies in the input.
    first: *const T,
    row_step: usize,
    column_step: usize,
    /// Its offset in y.
    at: usize,
}

impl<T: Element, R: Reduction<T>> Channels<'_, T, R> {
    #[inline(always)]
    fn pixel(&self, row: usize, column: usize, window: &Window) -> Pixel<T> {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let stride = self.pixels.stride;
        let mut first = self.pixels.x;
        if window.cells() > 0 {
            let y = row * height.stride + window.rows.start * height.dilation;
            let x = column * width.stride + window.columns.start * width.dilation;
            let cell = (y - height.pad_before) * width.input + x - width.pad_before;
            // SAFETY: a cell of the input.
            first = unsafe { first.add(cell * stride) };
        }
        Pixel {
            first,
            row_step: height.dilation * width.input * stride,
            column_step: width.dilation * stride,
            at: (row * width.output + column) * stride,
        }
    }

    /// `count` pixels from `pixel` on whose windows lie in the input.
    #[inline(always)]
    fn full<S: Lanes<T>>(
        &self,
        simd: S,
        pixel: Pixel<T>,
        count: usize,
        numbers: S::Vector,
        [kernel_height, kernel_width]: [usize; 2],
    ) {
        let reduction = self.reduction;
        let Pixels { stride, lanes, .. } = self.pixels;
        for number in 0..count {
            let first = pixel.first.wrapping_add(number * self.shape.width.stride * stride);
            let at = pixel.at + number * stride;
            for_each_vector(
                simd,
                lanes,
                #[inline(always)]
                |lane, count| {
                    let mut state = reduction.start(simd, numbers);
                    for kh in 0..kernel_height {
                        for kw in 0..kernel_width {
                            let cell = kh * pixel.row_step + kw * pixel.column_step;
                            // SAFETY: `count` lanes of a cell of the input.
                            let value = unsafe { runs::load(simd, count, first.add(cell + lane)) };
                            reduction.cell(simd, &mut state, value, kh * kernel_width + kw);
                        }
                        reduction.end_row(simd, &mut state);
                    }
                    let result = reduction.finish(simd, state, numbers);
                    // SAFETY: `count` lanes of the pixel.
                    unsafe { self.results.store(simd, result, at + lane, count) };
                },
            );
        }
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
