//! The backward pass as a gather: each element of dx is written once, the sum of what the windows over it
//! give, in their order. So windows may overlap, without atomics.

use super::Argmax;
use super::backward_apart::{self, Apart};
use super::backward_pixels::{self as pixels, DealtPixels, Pixels};
use super::backward_planes::Planes;
use super::backward_rows::{Lines, Rows};
use super::backward_strips::Strips;
use super::path;
use super::place::Places;
use super::planes::Plane;
use crate::context::Context;
use crate::error::Result;
use crate::runs;
use crate::scratch::ScratchLen;
use crate::shape::PoolShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Lanes};
use crate::tasks::{GRAIN, Tasks, by_plane};

/// What a pooling's windows give to their cells.
pub(super) trait Gradient<T: Element>: Copy + Sync {
    /// Whether it needs places. Else it needs numbers.
    const PLACES: bool;

    /// A number of the window at (row, column) of y that `load` needs.
    fn number(self, shape: &PoolShape, row: usize, column: usize) -> T;

    /// What `add` needs of `count` windows, from offset `at` of y on: two vectors, of which the
    /// second counts only with PLACES.
    ///
    /// # Safety
    /// `inputs` may be read there.
    unsafe fn load<S: Lanes<T>>(
        self,
        simd: S,
        inputs: Inputs<T>,
        numbers: S::Vector,
        at: usize,
        count: usize,
    ) -> [S::Vector; 2];

    /// Adds what windows of which `load` was the result give to their cells at `places`, as numbers. `sum`
    /// is not -0.
    fn add_to_each<S: Lanes<T>>(
        self,
        simd: S,
        sum: S::Vector,
        loaded: [S::Vector; 2],
        places: S::Vector,
    ) -> S::Vector;

    /// The same to their cells at `place`.
    #[inline(always)]
    fn add<S: Lanes<T>>(
        self,
        simd: S,
        sum: S::Vector,
        loaded: [S::Vector; 2],
        place: usize,
    ) -> S::Vector {
        self.add_to_each(simd, sum, loaded, simd.splat(T::from_number(place as u32)))
    }
}

/// What is read of each window.
#[derive(Clone, Copy)]
pub(super) struct InputSlices<'a, T> {
    pub dy: &'a [T],
    /// Checked to lie in the windows.
    pub argmax: Option<Argmax<'a>>,
    /// Gradients count as 0 where it is <= 0.
    pub relu_output: Option<&'a [T]>,
}

impl<T> InputSlices<'_, T> {
    /// From some offset of y on.
    pub fn from(&self, offset: usize) -> Inputs<T> {
        Inputs {
            dy: self.dy[offset..].as_ptr(),
            places: self.argmax.map_or(Places::Nowhere, |argmax| argmax.from(offset)),
            relu_output: self.relu_output.map(|output| output[offset..].as_ptr()),
        }
    }
}

/// [`InputSlices`] from some offset of y on.
#[derive(Clone, Copy)]
pub(super) struct Inputs<T> {
    dy: *const T,
    pub places: Places,
    relu_output: Option<*const T>,
}

impl<T: Element> Inputs<T> {
    /// Gradients alone.
    pub fn of_gradients(dy: *const T) -> Self {
        Inputs { dy, places: Places::Nowhere, relu_output: None }
    }

    /// The same from a later offset on.
    pub fn at(self, offset: usize) -> Self {
        Inputs {
            dy: self.dy.wrapping_add(offset),
            places: self.places.at(offset),
            relu_output: self.relu_output.map(|output| output.wrapping_add(offset)),
        }
    }

    /// The gradients of `count` windows. `masked` says whether there may be a ReLU's output: a constant, so
    /// that nobody else asks.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    pub unsafe fn gradients<S: Lanes<T>>(
        &self,
        simd: S,
        at: usize,
        count: usize,
        masked: bool,
    ) -> S::Vector {
        // SAFETY: the caller answers for the windows.
        unsafe {
            let gradients = runs::load(simd, count, self.dy.add(at));
            match self.relu_output {
                Some(output) if masked => {
                    simd.relu_gradient(runs::load(simd, count, output.add(at)), gradients)
                }
                _ => gradients,
            }
        }
    }

    /// The gradient of a window.
    ///
    /// # Safety
    /// There is one.
    #[inline(always)]
    pub unsafe fn gradient(&self, at: usize) -> T {
        // SAFETY: the caller answers for the window.
        unsafe {
            match self.relu_output {
                Some(output) if *output.add(at) <= T::default() => T::default(),
                _ => *self.dy.add(at),
            }
        }
    }
}

/// Writes dx under windows that [`Apart`] takes.
pub(super) fn run_apart<T: Element, G: Gradient<T>>(
    context: &Context,
    shape: &PoolShape,
    gradient: G,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
) -> Result<()> {
    let (planes, lanes) = path::planes_and_lanes(shape);
    let rows = shape.height.input;
    let work = shape.width.input + shape.output_plane / rows + 1;
    let tasks = Tasks::new(planes * rows, 1, work.saturating_mul(lanes), 1);
    let streamed = runs::streams::<T>(shape.input_len() + shape.output_len());
    let rows_len = if streamed { backward_apart::rows_len(shape, lanes) } else { 0 };
    let scratch = context.scratch::<T>(ScratchLen::for_each(rows_len))?;
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|slot, index| {
        let apart = Apart {
            shape,
            gradient,
            rows: tasks.part(index).0,
            inputs: inputs.from(0),
            dx: dx.at(0),
            lanes,
            dy_stride: lanes,
            memory: scratch.slot(slot),
            streamed,
        };
        T::dispatch(context.level(), apart);
    });
    Ok(())
}

/// Writes dx, the lanes along its planes.
pub(super) fn run_planes<T: Element, G: Gradient<T>>(
    context: &Context,
    shape: &PoolShape,
    gradient: G,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
    plane: Plane,
) -> Result<()> {
    let tasks = Tasks::new(shape.batch * shape.channels, 1, 2 * shape.input_plane, 1);
    let streamed = runs::streams::<T>(shape.input_len() + shape.output_len());
    let len = plane.memory_len() + if streamed { plane.len } else { 0 };
    let scratch = context.scratch::<T>(ScratchLen::for_each(len))?;
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|slot, index| {
        let (planes, memory) = (tasks.part(index).0, scratch.slot(slot));
        let (inputs, dx) = (inputs.from(0), dx.at(0));
        let kernel = Planes { shape, gradient, planes, inputs, dx, plane, memory, streamed };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Writes dx, the lanes along its rows.
pub(super) fn run_rows<T: Element, G: Gradient<T>>(
    context: &Context,
    shape: &PoolShape,
    gradient: G,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
    lines: &Lines,
) -> Result<()> {
    let rows = shape.height.input;
    let work = shape.width.input + shape.output_plane / rows + 1;
    let tasks = Tasks::new(shape.batch * shape.channels * rows, 1, work, 1);
    let scratch = context.scratch::<T>(ScratchLen::for_each(lines.len()))?;
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|slot, index| {
        let (rows, memory) = (tasks.part(index).0, scratch.slot(slot));
        let (inputs, dx) = (inputs.from(0), dx.at(0));
        T::dispatch(context.level(), Rows { shape, gradient, rows, inputs, dx, lines, memory });
    });
    Ok(())
}

/// Writes dx, the lanes along its pixels' channels, of which a task takes as many as
/// [`pixels::ring_lanes`] says.
pub(super) fn run_pixels<T: Element, G: Gradient<T>>(
    context: &Context,
    shape: &PoolShape,
    gradient: G,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
    chunk: usize,
) -> Result<()> {
    let (rows, columns, channels) = (shape.height.input, shape.width.input, shape.channels);
    // Elements that a column of dx reads and writes.
    let work = (shape.output_plane / rows).div_ceil(columns) + 1;
    let task_rows = task_rows(shape, work.saturating_mul(columns * chunk));
    let (parts, chunks) = (rows.div_ceil(task_rows), channels.div_ceil(chunk));
    let ring = pixels::ring(shape, chunk, G::PLACES);
    let streamed =
        chunk == channels && runs::exceeds_caches::<T>(shape.input_len() + shape.output_len());
    let row_len = if streamed { columns * channels } else { 0 };
    let len = pixels::memory_len(shape, ring, G::PLACES).saturating_add(row_len);
    let scratch = context.scratch::<T>(ScratchLen::for_each(len))?;
    let dx = SharedMut::new(dx);
    context.run(shape.batch * parts * chunks, &|slot, index| {
        let (rest, lane) = (index / chunks, index % chunks * chunk);
        let (image, row) = (rest / parts, rest % parts * task_rows);
        let kernel = DealtPixels {
            shape,
            gradient,
            numbers_of: (shape, 0),
            rows: row..rows.min(row + task_rows),
            pixels: Pixels {
                strides: [channels; 2],
                lanes: chunk.min(channels - lane),
                dx: dx.at(image * shape.input_plane * channels + lane),
            },
            inputs: inputs.from(image * shape.output_plane * channels + lane),
            ring,
            memory: scratch.slot(slot),
            streamed,
        };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Writes dx by [`Strips`].
pub(super) fn run_strips<T: Element>(
    context: &Context,
    shape: &PoolShape,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
    band: usize,
) -> Result<()> {
    let (rows, lanes) = (shape.height.input, shape.channels);
    let len = shape.input_len() + shape.output_len();
    let streams = runs::exceeds_caches::<T>(len) && runs::are_lines(dx.as_ptr(), lanes);
    // In memory, rows that are written at once had better be few.
    let band = if streams { band / 2 } else { band };
    let band_rows = band * shape.height.stride;
    let bands = rows.div_ceil(band_rows);
    let work = (shape.width.input + shape.output_plane / rows + 1) * band_rows;
    let tasks = Tasks::new(shape.batch * bands, lanes, work, 64);
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|_, index| {
        let (numbers, some) = tasks.part(index);
        for (image, numbers) in by_plane(numbers, bands) {
            let kernel = Strips {
                shape,
                rows: numbers.start * band_rows..rows.min(numbers.end * band_rows),
                pixels: Pixels {
                    strides: [lanes; 2],
                    lanes: some.len(),
                    dx: dx.at(image * shape.input_plane * lanes + some.start),
                },
                inputs: inputs.from(image * shape.output_plane * lanes + some.start),
                band,
                streams,
            };
            T::dispatch(context.level(), kernel);
        }
    });
    Ok(())
}

/// Rows of dx of a task, which deals out the windows over them: the windows at its edges are another
/// task's, too.
fn task_rows(shape: &PoolShape, row_work: usize) -> usize {
    let rows = GRAIN / row_work.max(1);
    rows.max(4 * shape.height.window()).min(shape.height.input)
}
