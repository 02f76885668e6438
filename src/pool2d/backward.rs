//! The backward pass of every pooling, as a gather: each element of dx is written once, the sum of
//! what the windows over it give, in their order. So windows may overlap, without atomics.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Argmax;
use super::path::{self, BLOCK, MAX_SCRATCH, Path, Transpose, with_constants};
use super::place::Places;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::phases::Phases;
use crate::runs::{self, for_each_vector};
use crate::scratch::ScratchLen;
use crate::shape::{Axis, PoolShape};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes, Level};
use crate::tasks::{Tasks, by_plane};

/// What a pooling's windows give to their cells.
pub(super) trait Gradient<T: Element>: Copy + Sync {
    /// Whether it needs places.
    const PLACES: bool;

    /// A number of the window at (row, column) of y that `load` needs.
    fn number(self, shape: &PoolShape, row: usize, column: usize) -> T;

    /// Whether the windows of two rows of y have the same numbers.
    fn same_numbers(self, row: usize, other: usize) -> bool;

    /// What `share` needs of `count` windows, from offset `at` of y on: two vectors, of which the
    /// second counts only with PLACES.
    ///
    /// # Safety
    /// `dy` and `places` may be read there.
    unsafe fn load<S: Lanes<T>>(
        self,
        simd: S,
        dy: *const T,
        places: Places,
        numbers: S::Vector,
        at: usize,
        count: usize,
    ) -> [S::Vector; 2];

    /// What windows of which `load` was the result give to their cells at `place`.
    fn share<S: Lanes<T>>(self, simd: S, loaded: [S::Vector; 2], place: usize) -> S::Vector;
}

/// What is read: from some offset of y on.
#[derive(Clone, Copy)]
pub(super) struct Inputs<T> {
    pub dy: *const T,
    pub places: Places,
}

impl<T> Inputs<T> {
    /// The same from a later offset on.
    fn at(self, offset: usize) -> Self {
        Inputs { dy: self.dy.wrapping_add(offset), places: self.places.at(offset) }
    }
}

/// Columns of dx that are computed at a time: they and what they read fit the first-level cache.
const TILE: usize = 1024;

/// Writes dx. Places were checked.
pub(super) fn run<T: Element, G: Gradient<T>>(
    context: &Context,
    shape: &PoolShape,
    gradient: G,
    dy: &[T],
    argmax: Option<Argmax<'_>>,
    dx: &mut [T],
) -> Result<()> {
    let places = |at: usize| argmax.map_or(Places::Nowhere, |argmax| argmax.from(at));
    let inputs = |at: usize| Inputs { dy: dy[at..].as_ptr(), places: places(at) };
    let dx = SharedMut::new(dx);
    let level = context.level();
    let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
    let (rows, columns) = (shape.height.input, shape.width.input);
    // Elements that a column of dx reads and writes.
    let work = (output / rows).div_ceil(columns) + 1;
    let ring = Ring::new(shape, G::PLACES);
    match Path::new(shape, ring.scratch_len()) {
        Path::Channels { planes, lanes } => {
            let tasks = Tasks::new(planes * rows, lanes, work.saturating_mul(columns), 64);
            context.run(tasks.count(), &|_, index| {
                let (rows_of_all, part) = tasks.part(index);
                for (plane, rows) in by_plane(rows_of_all, rows) {
                    let dx = dx.at(plane * input * lanes + part.start);
                    let inputs = inputs(plane * output * lanes + part.start);
                    let pixels = Pixels { stride: lanes, lanes: part.len(), dx };
                    T::dispatch(level, Channels { shape, gradient, rows, pixels, inputs });
                }
            });
        }
        Path::Columns { planes } => {
            let tasks = Tasks::new(planes * rows, columns, work, 64);
            let scratch = context.scratch::<T>(ScratchLen::for_each(ring.scratch_len()))?;
            context.run(tasks.count(), &|slot, index| {
                let (rows, columns) = tasks.part(index);
                let (inputs, dx, memory) = (inputs(0), dx.at(0), scratch.slot(slot));
                let kernel = Columns { shape, gradient, rows, columns, inputs, dx, ring, memory };
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
                    let inputs = inputs(first * output);
                    let dx = dx.at(first * input);
                    let memory = scratch.slot(slot);
                    // SAFETY: dy and dx have the planes, scratch memory a block of dx and two of dy.
                    unsafe { run_block(level, shape, gradient, planes, inputs, dx, memory) };
                }
            });
        }
    }
    Ok(())
}

/// Elements of scratch memory that [`run_alone`] needs for `shape`, or for the same with fewer rows.
pub(super) fn scratch_len_alone(shape: &PoolShape, places: bool) -> usize {
    let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
    let ring = Ring::new(shape, places).scratch_len();
    let block = output.saturating_mul(2).saturating_add(input).saturating_mul(BLOCK);
    let fitting = |len: usize| if len <= MAX_SCRATCH { len } else { 0 };
    // Where this many rows are too many for a block, fewer may fit it.
    fitting(ring).max(block.min(MAX_SCRATCH))
}

/// Writes the dx of all planes in the task that calls it.
///
/// # Safety
/// `inputs` and `dx` have the planes of `shape`, one behind the other, and nobody else uses dx;
/// `memory` has `scratch_len_alone`.
pub(super) unsafe fn run_alone<T: Element, G: Gradient<T>>(
    level: Level,
    shape: &PoolShape,
    gradient: G,
    inputs: Inputs<T>,
    dx: *mut T,
    memory: *mut T,
) {
    let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
    let (rows, columns) = (0..shape.height.input, 0..shape.width.input);
    let ring = Ring::new(shape, G::PLACES);
    match Path::new(shape, ring.scratch_len()) {
        Path::Channels { planes, lanes } => {
            for plane in 0..planes {
                let inputs = inputs.at(plane * output * lanes);
                let dx = dx.wrapping_add(plane * input * lanes);
                let pixels = Pixels { stride: lanes, lanes, dx };
                let rows = rows.clone();
                T::dispatch(level, Channels { shape, gradient, rows, pixels, inputs });
            }
        }
        Path::Columns { planes } => {
            let rows = 0..planes * rows.end;
            let kernel = Columns { shape, gradient, rows, columns, inputs, dx, ring, memory };
            T::dispatch(level, kernel);
        }
        Path::Blocks { planes } => {
            for first in (0..planes).step_by(BLOCK) {
                let planes = BLOCK.min(planes - first);
                let (inputs, dx) = (inputs.at(first * output), dx.wrapping_add(first * input));
                // SAFETY: the caller answers for the planes and for the memory.
                unsafe { run_block(level, shape, gradient, planes, inputs, dx, memory) };
            }
        }
    }
}

/// Up to [`BLOCK`] planes, with the lanes across them.
///
/// # Safety
/// `inputs` and `dx` have the planes, `memory` has room for a block of dx and two of dy.
unsafe fn run_block<T: Element, G: Gradient<T>>(
    level: Level,
    shape: &PoolShape,
    gradient: G,
    planes: usize,
    inputs: Inputs<T>,
    dx: *mut T,
    memory: *mut T,
) {
    let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
    // SAFETY: behind the block of dx, and of dy.
    let (dy, places) = unsafe { (memory.add(input * BLOCK), memory.add((input + output) * BLOCK)) };
    let transpose = Transpose {
        rows: planes,
        columns: output,
        source: inputs.dy,
        source_stride: output,
        target: dy,
        target_stride: BLOCK,
    };
    T::dispatch(level, transpose);
    // SAFETY: as above.
    let places = unsafe { inputs.places.transposed([planes, output], places, BLOCK) };
    let pixels = Pixels { stride: BLOCK, lanes: planes, dx: memory };
    let (rows, inputs) = (0..shape.height.input, Inputs { dy: dy.cast_const(), places });
    T::dispatch(level, Channels { shape, gradient, rows, pixels, inputs });
    let transpose = Transpose {
        rows: input,
        columns: planes,
        source: memory.cast_const(),
        source_stride: BLOCK,
        target: dx,
        target_stride: input,
    };
    T::dispatch(level, transpose);
}

/// The pixels of a plane of dx, and of dy likewise: `stride` elements from one to the next, of which
/// `lanes` are this task's.
#[derive(Clone, Copy)]
struct Pixels<T> {
    stride: usize,
    lanes: usize,
    dx: *mut T,
}

/// Rows of dx in one plane, the lanes along a pixel's elements.
struct Channels<'a, T, G> {
    shape: &'a PoolShape,
    gradient: G,
    rows: Range<usize>,
    pixels: Pixels<T>,
    inputs: Inputs<T>,
}

impl<T: Element, G: Gradient<T>> Kernel<T> for Channels<'_, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Channels { shape, gradient, ref rows, pixels, inputs } = self;
        let (height, width) = (&shape.height, &shape.width);
        for row in rows.clone() {
            let rows_over = height.windows(row);
            for column in 0..width.input {
                let columns_over = width.windows(column);
                let at = (row * width.input + column) * pixels.stride;
                for_each_vector(
                    simd,
                    pixels.lanes,
                    #[inline(always)]
                    |lane, count| {
                        let mut sum = simd.splat(T::default());
                        for (window_row, kh) in rows_over.clone() {
                            for (window_column, kw) in columns_over.clone() {
                                let number = gradient.number(shape, window_row, window_column);
                                let window = window_row * width.output + window_column;
                                let at = window * pixels.stride + lane;
                                let Inputs { dy, places } = inputs;
                                // SAFETY: `count` lanes of a pixel of dy.
                                let loaded = unsafe {
                                    gradient.load(simd, dy, places, simd.splat(number), at, count)
                                };
                                let place = kh * width.kernel + kw;
                                sum = simd.add(sum, gradient.share(simd, loaded, place));
                            }
                        }
                        // SAFETY: `count` lanes of this pixel of dx.
                        unsafe { runs::store(simd, count, pixels.dx.add(at + lane), sum) };
                    },
                );
            }
        }
    }
}

/// Scratch memory for `Columns`: what the windows of some rows of y give, each at its row's number
/// modulo `rows`: a line of gradients, and one of places. Behind them, a line of numbers, and the
/// phases of a row of dx.
///
/// A line begins `reach` windows before the first over the tile, and is 0 where there is none.
#[derive(Clone, Copy)]
struct Ring {
    rows: usize,
    /// Lines of a row.
    lines: usize,
    /// Elements from line to line, and from phase to phase.
    pitch: usize,
    phases: usize,
}

impl Ring {
    fn new(shape: &PoolShape, places: bool) -> Ring {
        let (height, width) = (&shape.height, &shape.width);
        let tile = width.input.min(TILE) / width.stride + 2;
        Ring {
            rows: height.window().div_ceil(height.stride),
            lines: if places { 2 } else { 1 },
            pitch: (tile + Phases::reach(width)).next_multiple_of(BLOCK),
            phases: Phases::count(width),
        }
    }

    fn scratch_len(&self) -> usize {
        let lines = self.rows.saturating_mul(self.lines).saturating_add(1 + self.phases);
        lines.saturating_mul(self.pitch)
    }
}

/// Rows of dx, counted through all planes, and a range of their columns; the lanes along the row.
struct Columns<'a, T, G> {
    shape: &'a PoolShape,
    gradient: G,
    rows: Range<usize>,
    columns: Range<usize>,
    inputs: Inputs<T>,
    dx: *mut T,
    ring: Ring,
    memory: *mut T,
}

impl<T: Element, G: Gradient<T>> Kernel<T> for Columns<'_, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let width = &self.shape.width;
        for first in self.columns.clone().step_by(TILE) {
            let columns = first..(first + TILE).min(self.columns.end);
            let first_window = (first + width.pad_before) / width.stride;
            let last_window = (columns.end - 1 + width.pad_before) / width.stride;
            let tile = Tile { columns, first: first_window, len: last_window + 1 - first_window };
            // The row of y whose numbers are in scratch memory.
            let mut numbers_of = None;
            for (plane, rows) in by_plane(self.rows.clone(), self.shape.height.input) {
                self.tile(simd, plane, rows, &tile, &mut numbers_of);
            }
        }
    }
}

/// Columns of dx. The windows that begin over them would be `len` from `first` on, did y have no
/// end.
struct Tile {
    columns: Range<usize>,
    first: usize,
    len: usize,
}

impl<T: Element, G: Gradient<T>> Columns<'_, T, G> {
    /// The rows of one plane, `tile` of their columns.
    #[inline(always)]
    fn tile<S: Lanes<T>>(
        &self,
        simd: S,
        plane: usize,
        rows: Range<usize>,
        tile: &Tile,
        numbers_of: &mut Option<usize>,
    ) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let Ring { rows: ring_rows, lines, pitch, .. } = self.ring;
        let out = self.memory.wrapping_add((ring_rows * lines + 1) * pitch);
        let phases = Phases { axis: *width, first: tile.first, len: tile.len, pitch };
        let mut dealt = 0;
        for row in rows {
            let over = height.windows_over(row);
            dealt = dealt.max(over.start);
            while dealt < over.end {
                let line = self.memory.wrapping_add(dealt % ring_rows * lines * pitch);
                self.deal(simd, plane, dealt, tile, line, numbers_of);
                dealt += 1;
            }
            let first_place = over.start % ring_rows;
            let windows = height.windows(row).map(move |(window, kh)| {
                let mut place = first_place + window - over.start;
                if place >= ring_rows {
                    place -= ring_rows;
                }
                (place * lines * pitch, kh)
            });
            // SAFETY: a row of dx.
            let target = unsafe {
                let row = plane * height.input + row;
                self.dx.add(row * width.input + tile.columns.start)
            };
            // With stride 1 the one phase is the row itself.
            let phase = if width.stride == 1 { target } else { out };
            // The common windows with their extents and strides as constants.
            match (width.kernel, width.stride, width.dilation) {
                (2, 2, 1) => {
                    self.gather(simd, windows, &with_constants(width, 2, 2, 1), tile.len, phase);
                }
                (3, 2, 1) => {
                    self.gather(simd, windows, &with_constants(width, 3, 2, 1), tile.len, phase);
                }
                (3, 1, 1) => {
                    self.gather(simd, windows, &with_constants(width, 3, 1, 1), tile.len, phase);
                }
                _ => self.gather(simd, windows, width, tile.len, phase),
            }
            if width.stride != 1 {
                // SAFETY: the phases cover the tile's columns.
                unsafe { phases.merge(simd, out.cast_const(), tile.columns.clone(), target) };
            }
        }
    }

    /// Writes the lines of a row of y.
    #[inline(always)]
    fn deal<S: Lanes<T>>(
        &self,
        simd: S,
        plane: usize,
        row: usize,
        tile: &Tile,
        line: *mut T,
        numbers_of: &mut Option<usize>,
    ) {
        let Ring { rows: ring_rows, lines, pitch, .. } = self.ring;
        let (height, width) = (&self.shape.height, &self.shape.width);
        let reach = Phases::reach(width);
        let len = tile.len + reach;
        // The elements whose windows y has.
        let first = reach.saturating_sub(tile.first).min(len);
        let end = (width.output + reach).saturating_sub(tile.first).clamp(first, len);
        let numbers = self.memory.wrapping_add(ring_rows * lines * pitch);
        if !G::PLACES && numbers_of.is_none_or(|of| !self.gradient.same_numbers(of, row)) {
            for i in first..end {
                let number = self.gradient.number(self.shape, row, tile.first + i - reach);
                // SAFETY: an element of the line of numbers.
                unsafe { *numbers.add(i) = number };
            }
            *numbers_of = Some(row);
        }
        for start in (0..lines).map(|number| line.wrapping_add(number * pitch)) {
            for i in (0..first).chain(end..len) {
                // SAFETY: an element of the line.
                unsafe { *start.add(i) = T::default() };
            }
        }
        if first == end {
            return;
        }
        let row = plane * height.output + row;
        let at = row * width.output + tile.first + first - reach;
        for_each_vector(
            simd,
            end - first,
            #[inline(always)]
            |i, count| {
                let Inputs { dy, places } = self.inputs;
                // SAFETY: windows of y, and their elements in the lines.
                unsafe {
                    let numbers = if G::PLACES {
                        simd.splat(T::default())
                    } else {
                        runs::load(simd, count, numbers.add(first + i))
                    };
                    let loaded = self.gradient.load(simd, dy, places, numbers, at + i, count);
                    let target = line.add(first + i);
                    runs::store(simd, count, target, loaded[0]);
                    if G::PLACES {
                        runs::store(simd, count, target.add(pitch), loaded[1]);
                    }
                }
            },
        );
    }

    /// Writes the phases of a row of dx, `len` elements each. `windows` are the rows of windows over
    /// it: where their lines are, and which of their rows it is.
    #[inline(always)]
    fn gather<S: Lanes<T>>(
        &self,
        simd: S,
        windows: impl Iterator<Item = (usize, usize)> + Clone,
        width: &Axis,
        len: usize,
        target: *mut T,
    ) {
        let Axis { kernel, stride, dilation, .. } = *width;
        let pitch = self.ring.pitch;
        let reach = Phases::reach(width);
        for phase in 0..Phases::count(width) {
            let skips = (width.window() - 1 - phase) / stride;
            for_each_vector(
                simd,
                len,
                #[inline(always)]
                |i, count| {
                    let mut sum = simd.splat(T::default());
                    for (line, kh) in windows.clone() {
                        // Later windows have the cell at earlier taps.
                        for skip in (0..=skips).rev() {
                            let offset = skip * stride + phase;
                            if dilation != 1 && !offset.is_multiple_of(dilation) {
                                continue;
                            }
                            let kw = if dilation == 1 { offset } else { offset / dilation };
                            // SAFETY: the lines reach as far as the taps do.
                            let loaded = unsafe {
                                let element = self.memory.add(line + i + reach - skip);
                                let first = runs::load(simd, count, element);
                                let second = if G::PLACES {
                                    runs::load(simd, count, element.add(pitch))
                                } else {
                                    first
                                };
                                [first, second]
                            };
                            let share = self.gradient.share(simd, loaded, kh * kernel + kw);
                            sum = simd.add(sum, share);
                        }
                    }
                    // SAFETY: an element of the phase.
                    unsafe { runs::store(simd, count, target.add(phase * pitch + i), sum) };
                },
            );
        }
    }
}

/// An error for the first of `places` that no window of `window_len` cells has.
pub(super) fn check_places<T: Element>(
    context: &Context,
    argmax: Argmax<'_>,
    window_len: usize,
) -> Result<()> {
    if matches!(argmax, Argmax::U8(_)) && window_len > usize::from(u8::MAX) {
        return Ok(());
    }
    let tasks = Tasks::new(1, argmax.len(), 1, 64);
    let first_bad = AtomicUsize::new(usize::MAX);
    context.run(tasks.count(), &|_, index| {
        let (_, range) = tasks.part(index);
        if T::dispatch(context.level(), Largest { argmax, range: range.clone() }) >= window_len {
            let bad = range.into_iter().find(|&index| argmax.at(index) >= window_len);
            first_bad.fetch_min(bad.unwrap_or(usize::MAX), Ordering::Relaxed);
        }
    });
    let index = first_bad.into_inner();
    if index == usize::MAX {
        return Ok(());
    }
    let place = match argmax {
        Argmax::I32(places) => i64::from(places[index]),
        Argmax::U8(places) => i64::from(places[index]),
    };
    Err(Error::invalid(format!(
        "argmax must lie in the window of {window_len} cells, but is {place} at index {index}"
    )))
}

/// The largest place in a range, a negative one counting as larger than any other: a plain loop
/// that the compiler vectorises.
struct Largest<'a> {
    argmax: Argmax<'a>,
    range: Range<usize>,
}

impl<T: Element> Kernel<T> for Largest<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, _: S) -> usize {
        match self.argmax {
            Argmax::I32(places) => {
                places[self.range].iter().fold(0, |most, &place| most.max(place as u32)) as usize
            }
            Argmax::U8(places) => {
                usize::from(places[self.range].iter().fold(0, |most, &place| most.max(place)))
            }
        }
    }
}
