//! Average-pooling, backward.

use std::ops::Range;

use super::average::Mean;
use super::backward::{self, Gradient, InputSlices, Inputs};
use super::backward_pixels::{self as pixels, DealtPixels, Pixels};
use super::backward_rows::Lines;
use super::forward::Window;
use super::path::{self, BLOCK, Path};
use super::{backward_apart, backward_planes};
use crate::context::Context;
use crate::error::Result;
use crate::runs::{self, for_each_vector};
use crate::scratch::ScratchLen;
use crate::shape::{Axis, PoolShape};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::Tasks;

/// Writes dx.
pub(super) fn run<T: Element>(
    context: &Context,
    shape: &PoolShape,
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    if is_global(shape) {
        spread(context, shape, dy, dx);
        return Ok(());
    }
    let gradient = &EqualShares::new(shape);
    let inputs = InputSlices { dy, argmax: None, relu_output: None };
    if backward_apart::takes(shape) {
        return backward::run_apart(context, shape, gradient, inputs, dx);
    }
    if let Some(plane) = backward_planes::plane(shape, false) {
        return backward::run_planes(context, shape, gradient, inputs, dx, plane);
    }
    if let Some(lines) = Lines::new::<T>(shape, false) {
        return backward::run_rows(context, shape, gradient, inputs, dx, &lines);
    }
    match Path::new(shape, shape.height.input, |rows| shape.of_input_rows(1, 0..rows).0) {
        Path::Blocks { planes, rows } => {
            run_blocks(context, shape, gradient, inputs, dx, [planes, rows])
        }
        Path::Channels { planes, lanes } => match pixels::ring_lanes(shape, lanes, false) {
            Some(chunk) => backward::run_pixels(context, shape, gradient, inputs, dx, chunk),
            None => {
                run_channels(context, shape, gradient, inputs, dx, [planes, lanes]);
                Ok(())
            }
        },
    }
}

/// Every cell of a window gets an equal share of its gradient: the product with the reciprocal of
/// the number of cells.
struct EqualShares<T> {
    mean: Mean,
    /// Windows whose cells all count, and their reciprocal.
    full_rows: Range<usize>,
    full_columns: Range<usize>,
    full: T,
}

impl<T: Element> EqualShares<T> {
    fn new(shape: &PoolShape) -> Self {
        let mean = Mean::new(shape);
        EqualShares {
            mean,
            full_rows: shape.height.full_outputs(mean.padding_counts),
            full_columns: shape.width.full_outputs(mean.padding_counts),
            full: T::from_f64(1.0 / shape.window_len() as f64),
        }
    }
}

impl<T: Element> Gradient<T> for &EqualShares<T> {
    const PLACES: bool = false;

    #[inline(always)]
    fn number(self, shape: &PoolShape, row: usize, column: usize) -> T {
        if self.full_rows.contains(&row) && self.full_columns.contains(&column) {
            return self.full;
        }
        T::from_f64(1.0 / self.mean.count(&Window::new(shape, row, column)))
    }

    #[inline(always)]
    unsafe fn load<S: Lanes<T>>(
        self,
        simd: S,
        inputs: Inputs<T>,
        reciprocals: S::Vector,
        at: usize,
        count: usize,
    ) -> [S::Vector; 2] {
        // SAFETY: the caller answers for `count` gradients at `at`.
        let gradients = unsafe { inputs.gradients(simd, at, count, false) };
        [simd.mul(gradients, reciprocals), reciprocals]
    }

    #[inline(always)]
    fn add_to_each<S: Lanes<T>>(
        self,
        simd: S,
        sum: S::Vector,
        [shares, _]: [S::Vector; 2],
        _: S::Vector,
    ) -> S::Vector {
        simd.add(sum, shares)
    }
}

/// Whether a single window is all of a plane, whose elements lie side by side.
fn is_global(shape: &PoolShape) -> bool {
    let is_all = |axis: &Axis| axis.output == 1 && axis.full_outputs(true).len() == 1;
    let is_plain = |axis: &Axis| axis.input == axis.kernel && axis.pad_before == 0;
    path::is_planar(shape)
        && [&shape.height, &shape.width].iter().all(|axis| is_all(axis) && is_plain(axis))
}

/// The backward pass of such a pooling: every element of a plane of dx is the same.
fn spread<T: Element>(context: &Context, shape: &PoolShape, dy: &[T], dx: &mut [T]) {
    let len = shape.input_plane;
    let share = T::from_f64(1.0 / shape.window_len() as f64);
    let tasks = Tasks::new(dy.len(), 1, len + 1, 1);
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|_, index| {
        let planes = tasks.part(index).0;
        let dx = dx.at(planes.start * len);
        T::dispatch(context.level(), Spread { dy: &dy[planes], share, len, dx });
    });
}

struct Spread<'a, T> {
    dy: &'a [T],
    share: T,
    /// Elements of a plane.
    len: usize,
    dx: *mut T,
}

impl<T: Element> Kernel<T> for Spread<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for (plane, &dy) in self.dy.iter().enumerate() {
            // A sum of one, as any other: never -0.
            let share = simd.splat(T::default() + dy * self.share);
            let dx = self.dx.wrapping_add(plane * self.len);
            // SAFETY: the planes of this task.
            unsafe { runs::fill(simd, self.len, share, dx, [(1, 0); 3]) };
        }
    }
}

/// Writes dx, some rows of [`BLOCK`] planes at a time, with the lanes across them.
fn run_blocks<T: Element>(
    context: &Context,
    shape: &PoolShape,
    gradient: &EqualShares<T>,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
    [planes, some]: [usize; 2],
) -> Result<()> {
    let rows = shape.height.input;
    let bands = rows.div_ceil(some);
    let part = |number: usize| shape.of_input_rows(shape.batch, path::band(number, some, rows));
    let work = (shape.input_plane + shape.output_plane).div_ceil(bands) * BLOCK;
    let tasks = Tasks::new(planes.div_ceil(BLOCK) * bands, 1, work, 1);
    let len = (0..bands).map(|number| Block::<T>::len(&part(number).0));
    let scratch = context.scratch::<T>(ScratchLen::for_each(len.max().unwrap_or(0)))?;
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|slot, index| {
        for number in tasks.part(index).0 {
            let (first, band) = (number / bands * BLOCK, number % bands);
            let (part, windows) = part(band);
            let output = first * shape.output_plane + windows.start * shape.width.output;
            let input = first * shape.input_plane + band * some * shape.width.input;
            let block = Block {
                shape: &part,
                gradient,
                numbers_of: (shape, windows.start),
                planes: BLOCK.min(planes - first),
                dy: inputs.dy[output..].as_ptr(),
                dx: dx.at(input),
                memory: scratch.slot(slot),
            };
            T::dispatch(context.level(), block);
        }
    });
    Ok(())
}

/// Some rows of up to [`BLOCK`] planes.
struct Block<'a, T> {
    shape: &'a PoolShape,
    gradient: &'a EqualShares<T>,
    /// The shape that the windows' numbers are of, and the number there of the first row of y.
    numbers_of: (&'a PoolShape, usize),
    planes: usize,
    dy: *const T,
    dx: *mut T,
    /// Room for the [`Block::len`] of these rows.
    memory: *mut T,
}

impl<T> Block<'_, T> {
    /// Elements of memory: the block of dx, that of dy, and what deals it out.
    fn len(shape: &PoolShape) -> usize {
        let pixels = path::input_pixels(shape) + path::output_pixels(shape);
        let ring = pixels::ring(shape, BLOCK, false);
        pixels.saturating_mul(BLOCK).saturating_add(pixels::memory_len(shape, ring, false))
    }
}

impl<T: Element> Kernel<T> for Block<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Block { shape, gradient, numbers_of, planes, memory, .. } = self;
        let (input, output) = (path::input_pixels(shape), path::output_pixels(shape));
        let dy = memory.wrapping_add(input * BLOCK);
        // SAFETY: whoever makes one answers for the planes of dy, and the memory has room for a block of them.
        unsafe { runs::transpose(simd, [planes, output], self.dy, shape.output_plane, dy, BLOCK) };
        DealtPixels {
            shape,
            gradient,
            numbers_of,
            rows: 0..shape.height.input,
            pixels: Pixels { strides: [BLOCK; 2], lanes: planes, dx: memory },
            inputs: Inputs::of_gradients(dy),
            ring: pixels::ring(shape, BLOCK, false),
            memory: dy.wrapping_add(output * BLOCK),
            streamed: false,
        }
        .run(simd);
        // SAFETY: the block of dx, and whoever makes one answers for the planes.
        unsafe {
            runs::transpose(simd, [input, planes], memory, BLOCK, self.dx, shape.input_plane);
        }
    }
}

/// Writes dx where a ring would be too large, the lanes along the elements of its pixels.
fn run_channels<T: Element>(
    context: &Context,
    shape: &PoolShape,
    gradient: &EqualShares<T>,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
    [planes, lanes]: [usize; 2],
) {
    let rows = shape.height.input;
    let dx = SharedMut::new(dx);
    context.run(planes * rows, &|_, index| {
        let plane = index / rows;
        let channels = Channels {
            shape,
            gradient,
            row: index % rows,
            lanes,
            inputs: inputs.from(plane * shape.output_plane * lanes),
            dx: dx.at(plane * shape.input_plane * lanes),
        };
        T::dispatch(context.level(), channels);
    });
}

/// A row of dx in one plane.
struct Channels<'a, T> {
    shape: &'a PoolShape,
    gradient: &'a EqualShares<T>,
    row: usize,
    /// Elements of a pixel.
    lanes: usize,
    inputs: Inputs<T>,
    dx: *mut T,
}

impl<T: Element> Kernel<T> for Channels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Channels { shape, gradient, row, lanes, inputs, dx } = self;
        let width = &shape.width;
        for column in 0..width.input {
            let at = (row * width.input + column) * lanes;
            for_each_vector(
                simd,
                lanes,
                #[inline(always)]
                |lane, count| {
                    let mut sum = simd.splat(T::default());
                    for (window_row, _) in shape.height.windows(row) {
                        let mut row_sum = simd.splat(T::default());
                        for (window_column, _) in width.windows(column) {
                            let number = gradient.number(shape, window_row, window_column);
                            let window = window_row * width.output + window_column;
                            let at = window * lanes + lane;
                            // SAFETY: `count` lanes of a pixel of dy.
                            let [share, _] = unsafe {
                                gradient.load(simd, inputs, simd.splat(number), at, count)
                            };
                            row_sum = simd.add(row_sum, share);
                        }
                        sum = simd.add(sum, row_sum);
                    }
                    // SAFETY: `count` lanes of this pixel of dx.
                    unsafe { runs::store(simd, count, dx.add(at + lane), sum) };
                },
            );
        }
    }
}
