//! The forward pass of every pooling: the cells of each window in their order, a vector of windows
//! at a time.

use std::ops::Range;

use super::ArgmaxMut;
use super::forward_pixels::Channels;
use super::forward_planes::Planes;
use super::forward_ring::{self, SharedRows};
use super::forward_rows::{self, Rows};
use super::forward_strips::{self, Strips};
use super::line::Line;
use super::numbers::Numbers;
use super::path::{self, BLOCK, Path};
use super::place::{FromNumbers, PlacesMut, SharedPlaces};
use super::planes::Plane;
use super::ring::Ring;
use super::rows_read::RowsRead;
use crate::context::Context;
use crate::error::Result;
use crate::runs::{self, Transpose};
use crate::scratch::ScratchLen;
use crate::shape::PoolShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Lanes, Level};
use crate::tasks::{Tasks, by_plane};

/// What a pooling makes of the cells of its windows: of each row a line, then of the lines the result.
pub(super) trait Reduction<T: Element>: Copy + Sync {
    /// Whether a line has a place.
    const PLACES: bool;

    /// The same reduction of cells none of which is a NaN.
    type OfNumbers: Reduction<T>;

    /// See [`Self::OfNumbers`].
    fn of_numbers(self) -> Self::OfNumbers;

    /// A value that never changes a result.
    fn nothing() -> T;

    /// Whether cells in the padding take part, with the value 0.
    fn padding_takes_part(self) -> bool;

    /// A number of the window that `start` and `finish` need.
    fn number(self, window: &Window) -> T;

    /// The cell at `place` of each row, after those that `line` is of.
    fn cell<S: Lanes<T>>(self, simd: S, line: &mut Line<S::Vector>, value: S::Vector, place: usize);

    /// What the windows come to before their first line.
    fn start<S: Lanes<T>>(self, simd: S, numbers: S::Vector) -> Line<S::Vector>;

    /// After their first line, where none of its cells lie in the padding.
    fn start_with<S: Lanes<T>>(self, simd: S, line: Line<S::Vector>) -> Line<S::Vector>;

    /// A line after those that `total` is of. `first_place` is that of its first cell.
    fn add_line<S: Lanes<T>>(
        self,
        simd: S,
        total: &mut Line<S::Vector>,
        line: Line<S::Vector>,
        first_place: usize,
    );

    /// The results, and their places in the windows.
    fn finish<S: Lanes<T>>(
        self,
        simd: S,
        total: Line<S::Vector>,
        numbers: S::Vector,
    ) -> Line<S::Vector>;
}

/// The cells of a window that lie in the input, and in the padded input.
pub(super) struct Window {
    /// Rows that lie in the input; no rows say where the window lies: see [`Axis::taps`].
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub rows_end: usize,
    pub columns_end: usize,
    pub kernel_width: usize,
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
    /// Whether y is written past the caches, by whole vectors.
    streams: bool,
}

impl<T: Element> Results<T> {
    /// The results from a later one on.
    fn at(self, offset: usize) -> Self {
        Results { y: self.y.wrapping_add(offset), places: self.places.at(offset), ..self }
    }

    #[inline(always)]
    pub unsafe fn store<R: Reduction<T>, S: Lanes<T>>(
        self,
        simd: S,
        [values, places]: Line<S::Vector>,
        at: usize,
        count: usize,
    ) {
        // SAFETY: the caller answers for `count` results at `at`.
        unsafe {
            runs::store_or_stream(simd, count, self.y.add(at), values, self.streams);
            if R::PLACES {
                self.places.store(simd, count, at, places);
            }
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
    let results = |at: usize| Results { y: y.at(at), places: places.at(at), streams: false };
    let level = context.level();
    if let Some(plane) = Plane::new(shape) {
        let tasks = Tasks::new(shape.batch * shape.channels, 1, 2 * shape.input_plane, 1);
        let scratch = context.scratch::<T>(ScratchLen::for_each(plane.memory_len()))?;
        context.run(tasks.count(), &|slot, index| {
            let (x, results) = (x.as_ptr(), results(0));
            let (planes, memory) = (tasks.part(index).0, scratch.slot(slot));
            T::dispatch(level, Planes { shape, reduction, planes, x, results, plane, memory });
        });
        return Ok(());
    }
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
            let is_large = runs::exceeds_caches::<T>(x.len() + shape.output_len());
            let streams = is_large && runs::are_lines(y.at(0), lanes);
            let plan = Plan::new::<R, T>(shape, lanes, is_large);
            let band = plan.band().min(rows);
            let bands = rows.div_ceil(band);
            let work = work.saturating_mul(columns).saturating_mul(band);
            let tasks = Tasks::new(planes * bands, lanes, work, 64);
            let scratch = context.scratch::<T>(ScratchLen::for_each(plan.len()))?;
            context.run(tasks.count(), &|slot, index| {
                let (bands_of_all, part) = tasks.part(index);
                for (plane, some) in by_plane(bands_of_all, bands) {
                    let rows = some.start * band..rows.min(some.end * band);
                    let x = x[plane * shape.input_plane * lanes + part.start..].as_ptr();
                    let results = results(plane * shape.output_plane * lanes + part.start);
                    let results = Results { streams, ..results };
                    let pixels = Pixels { stride: lanes, lanes: part.len(), x };
                    let memory = scratch.slot(slot);
                    let of_plane = PixelRows { level, shape, pixels, results, memory };
                    // SAFETY: x and y have the planes' rows, scratch memory a ring.
                    unsafe { of_plane.run(reduction, rows, plan) };
                }
                if streams {
                    runs::end_stream();
                }
            });
        }
        Path::Blocks { planes, rows: some } => {
            let some = if cuttable { some } else { rows };
            let bands = rows.div_ceil(some);
            let work = (input + output).div_ceil(bands) * BLOCK;
            let tasks = Tasks::new(planes.div_ceil(BLOCK) * bands, 1, work, 1);
            let len = (0..bands).map(|band| path::block_len(&part(path::band(band, some, rows)).0));
            let len = len.max().unwrap_or(0) + Plan::new::<R, T>(shape, BLOCK, false).len();
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

/// How the windows of a call go.
#[derive(Clone, Copy)]
struct Plan {
    way: Way,
    /// Whether rows of x are read before their windows are: see [`RowsRead`].
    reads_first: bool,
}

/// How windows share what rows of x come to, where the lanes lie along a pixel's elements.
#[derive(Clone, Copy)]
enum Way {
    /// Each window for itself.
    Windows,
    /// In registers, down so many rows of y: see [`forward_strips::band`].
    Strips(usize),
    /// In scratch memory, along so many rows of y.
    Ring(Ring, usize),
}

impl Plan {
    /// For pixels of so many elements, in memory rather than in the caches if `is_large`.
    fn new<R: Reduction<T>, T: Element>(shape: &PoolShape, lanes: usize, is_large: bool) -> Plan {
        // Where the windows share cells enough, it pays to know that none is a NaN.
        let shares = R::PLACES && shape.height.stride == 1 && shape.width.stride == 1;
        let reads_first = RowsRead::suits(shape) && (is_large || shares);
        let way = if let Some(band) = forward_strips::band(shape, lanes, R::PLACES, is_large) {
            Way::Strips(band)
        } else if let Some(ring) = forward_ring::ring(shape, lanes, R::PLACES) {
            Way::Ring(ring, forward_ring::band(shape))
        } else {
            Way::Windows
        };
        Plan { way, reads_first }
    }

    /// The rows of y that a task had better have together.
    fn band(self) -> usize {
        match self.way {
            Way::Windows => 1,
            Way::Strips(band) | Way::Ring(_, band) => band,
        }
    }

    /// Elements of scratch memory.
    fn len(self) -> usize {
        if let Way::Ring(ring, _) = self.way { ring.len() } else { 0 }
    }
}

/// Rows of y in one plane, the lanes along a pixel's elements.
#[derive(Clone, Copy)]
struct PixelRows<'a, T> {
    level: Level,
    shape: &'a PoolShape,
    pixels: Pixels<T>,
    results: Results<T>,
    /// Room for what the plan needs.
    memory: *mut T,
}

impl<T: Element> PixelRows<'_, T> {
    /// Writes some rows of y.
    ///
    /// # Safety
    /// The pointers have the rows.
    unsafe fn run<R: Reduction<T>>(self, reduction: R, rows: Range<usize>, plan: Plan) {
        let PixelRows { level, shape, pixels, results, .. } = self;
        if !plan.reads_first {
            return self.run_some(reduction, rows, plan.way);
        }
        let mut read = RowsRead::new();
        let band = plan.band();
        for first in rows.clone().step_by(band) {
            let rows = first..rows.end.min(first + band);
            // SAFETY: the caller answers for x.
            if unsafe { read.has_nan(level, shape, rows.clone(), pixels) } {
                T::dispatch(level, Channels { shape, reduction, rows, pixels, results });
            } else {
                self.run_some(reduction.of_numbers(), rows, plan.way);
            }
        }
    }

    /// The same, without a look at x before.
    fn run_some<R: Reduction<T>>(self, reduction: R, rows: Range<usize>, way: Way) {
        let PixelRows { level, shape, pixels, results, memory } = self;
        match way {
            Way::Windows => {
                T::dispatch(level, Channels { shape, reduction, rows, pixels, results });
            }
            Way::Strips(band) => {
                T::dispatch(level, Strips { shape, reduction, rows, pixels, results, band });
            }
            Way::Ring(ring, _) => {
                for lane in (0..pixels.lanes).step_by(ring.pitch) {
                    let (x, lanes) = (pixels.x.wrapping_add(lane), pixels.lanes - lane);
                    let pixels = Pixels { x, lanes: lanes.min(ring.pitch), ..pixels };
                    let (rows, results) = (rows.clone(), results.at(lane));
                    let of_lanes =
                        SharedRows { shape, reduction, rows, pixels, results, ring, memory };
                    T::dispatch(level, of_lanes);
                }
            }
        }
    }
}

/// Up to [`BLOCK`] planes, with the lanes across them.
///
/// # Safety
/// `x` and `results` have the planes, `memory` has `block_len` and what the way needs.
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
        extents: [planes, input],
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
    let block = Results { y, places: in_block, streams: false };
    let pixels = Pixels { stride: BLOCK, lanes: planes, x: memory.cast_const() };
    let rows = 0..shape.height.output;
    // SAFETY: the blocks have the rows; behind the block of places.
    unsafe {
        let memory = places.add(output * BLOCK);
        let in_block = PixelRows { level, shape, pixels, results: block, memory };
        in_block.run(reduction, rows, Plan::new::<R, T>(shape, BLOCK, false));
    }
    let transpose = Transpose {
        extents: [output, planes],
        source: y.cast_const(),
        source_stride: BLOCK,
        target: results.y,
        target_stride: shape.output_plane,
    };
    T::dispatch(level, transpose);
    if with_places {
        // Where the block of x was.
        let transpose = Transpose {
            extents: [output, planes],
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
