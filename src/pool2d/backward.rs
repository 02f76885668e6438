//! The backward pass of every pooling, as a gather: each element of dx is written once, the sum of
//! what the windows over it give, in their order. So windows may overlap, without atomics.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Argmax;
use super::backward_pixels::{self as pixels, DealtPixels, Pixels};
use super::backward_rows::{Lines, Rows};
use super::path::{self, BLOCK, Path, Transpose};
use super::place::{Places, ToNumbers};
use super::ring::Ring;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::runs::{self, for_each_vector};
use crate::scratch::ScratchLen;
use crate::shape::PoolShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes, Level};
use crate::tasks::{GRAIN, Tasks};

/// What a pooling's windows give to their cells.
pub(super) trait Gradient<T: Element>: Copy + Sync {
    /// Whether it needs places.
    const PLACES: bool;

    /// A number of the window at (row, column) of y that `load` needs.
    fn number(self, shape: &PoolShape, row: usize, column: usize) -> T;

    /// What `share` needs of `count` windows, from offset `at` of y on: two vectors, of which the
    /// second counts only with PLACES.
    ///
    /// # Safety
    /// `dy` and `places` may be read there.
    unsafe fn load<S: Lanes<T>>(
        self,
        simd: S,
        dy: *const T,
        places: Places<T>,
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
    pub places: Places<T>,
}

impl<T> Inputs<T> {
    /// The same from a later offset on.
    pub fn at(self, offset: usize) -> Self {
        Inputs { dy: self.dy.wrapping_add(offset), places: self.places.at(offset) }
    }
}

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
    if let Some(lines) = along_rows::<T>(shape) {
        let work = columns + output / rows + 1;
        let tasks = Tasks::new(shape.batch * shape.channels * rows, 1, work, 1);
        let scratch = context.scratch::<T>(ScratchLen::for_each(lines.len()))?;
        context.run(tasks.count(), &|slot, index| {
            let (rows, memory) = (tasks.part(index).0, scratch.slot(slot));
            let (inputs, dx, lines) = (inputs(0), dx.at(0), &lines);
            T::dispatch(level, Rows { shape, gradient, rows, inputs, dx, lines, memory });
        });
        return Ok(());
    }
    // Elements that a column of dx reads and writes.
    let work = (output / rows).div_ceil(columns) + 1;
    // Some rows of dx.
    let part = |rows: Range<usize>| shape.of_input_rows(shape.batch, rows);
    match Path::new(shape, rows, |some| part(0..some).0) {
        Path::Channels { planes, lanes } => {
            let chunk = pixels::ring_lanes(shape, lanes, G::PLACES).unwrap_or(lanes);
            let chunks = lanes.div_ceil(chunk);
            let task_rows = task_rows(shape, work.saturating_mul(columns * chunk));
            let parts = rows.div_ceil(task_rows);
            let ring_len = pixel_ring_len(shape, lanes, G::PLACES);
            let streamed = ring_len > 0
                && chunk == lanes
                && runs::streams::<T>(shape.input_len() + shape.output_len());
            let row_len = if streamed { columns * lanes } else { 0 };
            let scratch = context.scratch::<T>(ScratchLen::for_each(ring_len + row_len))?;
            context.run(planes * parts * chunks, &|slot, index| {
                let (rest, lane) = (index / chunks, index % chunks * chunk);
                let (plane, row) = (rest / parts, rest % parts * task_rows);
                let dx = dx.at(plane * input * lanes + lane);
                let inputs = inputs(plane * output * lanes + lane);
                let pixels = Pixels { stride: lanes, lanes: chunk.min(lanes - lane), dx };
                let rows = row..rows.min(row + task_rows);
                // SAFETY: the planes have the rows and the lanes; scratch memory has a ring.
                unsafe {
                    let memory = scratch.slot(slot);
                    run_pixels(level, shape, gradient, rows, pixels, inputs, memory, streamed);
                }
            });
        }
        Path::Blocks { planes, rows: some } => {
            let bands = rows.div_ceil(some);
            let work = (input + output).div_ceil(bands) * BLOCK;
            let tasks = Tasks::new(planes.div_ceil(BLOCK) * bands, 1, work, 1);
            let len =
                (0..bands).map(|number| path::block_len(&part(path::band(number, some, rows)).0));
            let scratch = context.scratch::<T>(ScratchLen::for_each(len.max().unwrap_or(0)))?;
            context.run(tasks.count(), &|slot, index| {
                for number in tasks.part(index).0 {
                    let first = number / bands * BLOCK;
                    let rows = path::band(number % bands, some, rows);
                    let (inputs, dx, memory) = (inputs(0), dx.at(0), scratch.slot(slot));
                    // SAFETY: dy and dx have the planes, scratch memory a block of the rows.
                    unsafe { run_block(level, shape, gradient, first, rows, inputs, dx, memory) };
                }
            });
        }
    }
    Ok(())
}

/// The way along the rows of dx, where there is one.
pub(super) fn along_rows<T>(shape: &PoolShape) -> Option<Lines> {
    let lines = Lines::new::<T>(shape).filter(|_| path::is_planar(shape))?;
    (lines.len() <= path::MAX_SCRATCH).then_some(lines)
}

/// The way of [`run_alone`]: of any regions of the same rows or fewer, with the same scratch memory.
fn path_alone(shape: &PoolShape) -> Path {
    Path::new(shape, shape.height.input, |rows| most_windows(shape, rows))
}

/// Some rows of dx, with as many windows over them as there may be.
pub(super) fn most_windows(shape: &PoolShape, rows: usize) -> PoolShape {
    let mut part = *shape;
    let windows = (rows + part.height.window()) / part.height.stride + 2;
    part.height.input = rows;
    part.height.output = windows.min(part.height.output);
    part
}

/// Elements of scratch memory that [`run_alone`] needs for `shape`, or for the same with fewer rows or
/// channels: a single channel is a plane in either layout.
pub(super) fn scratch_len_alone(shape: &PoolShape, places: bool) -> usize {
    let single = PoolShape { channels: 1, ..*shape };
    scratch_len_of(shape, places).max(scratch_len_of(&single, places))
}

fn scratch_len_of(shape: &PoolShape, places: bool) -> usize {
    match path_alone(shape) {
        Path::Channels { lanes, .. } => pixel_ring_len(shape, lanes, places),
        Path::Blocks { rows, .. } if rows == shape.height.input => path::block_len(shape),
        // Fewer rows may be cut less evenly.
        Path::Blocks { .. } => path::CACHED.max(path::block_len(&most_windows(shape, 1))),
    }
}

/// Elements of scratch memory for the lanes along a pixel's elements; 0 where a ring would be too large.
fn pixel_ring_len(shape: &PoolShape, lanes: usize, places: bool) -> usize {
    let lanes = pixels::ring_lanes(shape, lanes, places);
    lanes.map_or(0, |lanes| pixels::ring(shape, lanes, places).len())
}

/// Rows of dx of a task, which deals out the windows over them: the windows at its edges are another
/// task's, too.
fn task_rows(shape: &PoolShape, row_work: usize) -> usize {
    let rows = GRAIN / row_work.max(1);
    rows.max(4 * shape.height.window()).min(shape.height.input)
}

/// Rows of dx in one plane, the lanes along a pixel's elements, of which there are as many as
/// `ring_lanes` says, or fewer.
///
/// # Safety
/// `inputs` and `pixels` have the rows; `memory` has `pixel_ring_len`, and a row of dx if it is `streamed`.
#[allow(clippy::too_many_arguments, reason = "what the tasks of a region differ in")]
unsafe fn run_pixels<T: Element, G: Gradient<T>>(
    level: Level,
    shape: &PoolShape,
    gradient: G,
    rows: Range<usize>,
    pixels: Pixels<T>,
    inputs: Inputs<T>,
    memory: *mut T,
    streamed: bool,
) {
    if pixels::ring_lanes(shape, pixels.lanes, G::PLACES).is_none() {
        T::dispatch(level, Channels { shape, gradient, rows, pixels, inputs });
        return;
    }
    let ring = pixels::ring(shape, pixels.lanes, G::PLACES);
    let kernel = DealtPixels {
        shape,
        gradient,
        numbers_of: (shape, 0),
        rows,
        pixels,
        inputs,
        ring,
        is_dealt: false,
        memory,
        streamed,
    };
    T::dispatch(level, kernel);
}

/// Writes the dx of all planes in the task that calls it.
///
/// # Safety
/// `inputs` and `dx` have the planes of `shape`, as far apart as it says, and nobody else uses dx;
/// `memory` has `scratch_len_alone`.
pub(super) unsafe fn run_alone<T: Element, G: Gradient<T>>(
    level: Level,
    shape: &PoolShape,
    gradient: G,
    inputs: Inputs<T>,
    dx: *mut T,
    memory: *mut T,
) {
    let rows = shape.height.input;
    match path_alone(shape) {
        Path::Channels { planes, lanes } => {
            let chunk = pixels::ring_lanes(shape, lanes, G::PLACES).unwrap_or(lanes);
            for plane in 0..planes {
                for lane in (0..lanes).step_by(chunk) {
                    let inputs = inputs.at(plane * shape.output_plane * lanes + lane);
                    let dx = dx.wrapping_add(plane * shape.input_plane * lanes + lane);
                    let pixels = Pixels { stride: lanes, lanes: chunk.min(lanes - lane), dx };
                    // SAFETY: the caller answers for the planes and for the memory.
                    unsafe {
                        run_pixels(level, shape, gradient, 0..rows, pixels, inputs, memory, false);
                    }
                }
            }
        }
        Path::Blocks { planes, rows: some } => {
            for first in (0..planes).step_by(BLOCK) {
                for number in 0..rows.div_ceil(some) {
                    let rows = path::band(number, some, rows);
                    // SAFETY: the caller answers for the planes and for the memory.
                    unsafe { run_block(level, shape, gradient, first, rows, inputs, dx, memory) };
                }
            }
        }
    }
}

/// Some rows of up to [`BLOCK`] planes from plane `first` on, with the lanes across them.
///
/// # Safety
/// `inputs` and `dx` have the planes of `shape`; `memory` has the `block_len` of these rows.
#[allow(clippy::too_many_arguments, reason = "what the tasks of a region differ in")]
unsafe fn run_block<T: Element, G: Gradient<T>>(
    level: Level,
    shape: &PoolShape,
    gradient: G,
    first: usize,
    rows: Range<usize>,
    inputs: Inputs<T>,
    dx: *mut T,
    memory: *mut T,
) {
    let (part, windows) = shape.of_input_rows(shape.batch, rows.clone());
    let planes = BLOCK.min(shape.batch * shape.channels - first);
    let inputs = inputs.at(first * shape.output_plane + windows.start * shape.width.output);
    let dx = dx.wrapping_add(first * shape.input_plane + rows.start * shape.width.input);
    let (input, output) = (path::input_pixels(&part), path::output_pixels(&part));
    // SAFETY: behind the block of dx.
    let dy = unsafe { memory.add(input.max(output) * BLOCK) };
    let to_block = |source: *const T, source_stride: usize, target: *mut T| {
        let transpose = Transpose {
            rows: planes,
            columns: output,
            source,
            source_stride,
            target,
            target_stride: BLOCK,
        };
        T::dispatch(level, transpose);
    };
    to_block(inputs.dy, shape.output_plane, dy);
    if G::PLACES {
        // First as numbers to where the block of dx will be.
        let runs = [planes, output, shape.output_plane];
        T::dispatch(level, ToNumbers { places: inputs.places, runs, target: memory });
        to_block(memory, output, dy.wrapping_add(output * BLOCK));
    }
    let kernel = DealtPixels {
        shape: &part,
        gradient,
        rows: 0..part.height.input,
        pixels: Pixels { stride: BLOCK, lanes: planes, dx: memory },
        inputs: Inputs { dy: dy.cast_const(), places: Places::Nowhere },
        ring: Ring::new([part.height.output, part.width.output], BLOCK, true),
        // The block of dy is the ring. Shares are still to be made of it.
        is_dealt: G::PLACES,
        numbers_of: (shape, windows.start),
        memory: dy,
        streamed: false,
    };
    T::dispatch(level, kernel);
    let transpose = Transpose {
        rows: input,
        columns: planes,
        source: memory.cast_const(),
        source_stride: BLOCK,
        target: dx,
        target_stride: shape.input_plane,
    };
    T::dispatch(level, transpose);
}

/// Rows of dx in one plane, the lanes along a pixel's elements, without a ring.
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
