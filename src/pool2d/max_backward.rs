//! Max-pooling, backward.

use super::backward::{self, Gradient, InputSlices, Inputs};
use super::backward_pixels as pixels;
use super::backward_rows::Lines;
use super::path::BLOCK;
use super::{backward_apart, backward_planes, backward_strips, path, scatter};
use crate::context::Context;
use crate::error::Result;
use crate::shape::PoolShape;
use crate::simd::{Element, Lanes};

/// How gradients get to their cells, always in the order of their windows. No result depends on it.
pub(super) enum Way {
    /// All cells of a window, which lies apart from others.
    Apart,
    /// A gather along the rows of dx.
    Rows(Lines),
    /// Down so many rows of windows, along the channels of a pixel: see [`backward_strips::band`].
    Strips(usize),
    /// A gather along the channels of a pixel, so many at a time. It looks at every window over a cell.
    Pixels(usize),
    /// A gradient at a time.
    Scatter,
}

impl Way {
    pub fn new<T>(shape: &PoolShape) -> Way {
        let is_planar = path::is_planar(shape);
        if !is_planar && shape.channels < FEW_CHANNELS {
            return Way::Scatter;
        }
        if backward_apart::takes(shape) {
            return Way::Apart;
        }
        if let Some(lines) = Lines::new::<T>(shape, true) {
            return Way::Rows(lines);
        }
        if let Some(band) = backward_strips::band(shape)
            && !is_planar
            && shape.channels >= BLOCK
        {
            return Way::Strips(band);
        }
        match pixels::ring_lanes(shape, shape.channels, true) {
            Some(lanes) if !is_planar && shape.window_len() <= FEW_CELLS => Way::Pixels(lanes),
            _ => Way::Scatter,
        }
    }
}

const FEW_CHANNELS: usize = 8;
const FEW_CELLS: usize = 16;

/// Writes dx.
pub(super) fn run<T: Element>(
    context: &Context,
    shape: &PoolShape,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
) -> Result<()> {
    let gradient = ToMaximum;
    if let Some(plane) = backward_planes::plane(shape, true) {
        return backward::run_planes(context, shape, gradient, inputs, dx, plane);
    }
    match Way::new::<T>(shape) {
        Way::Apart => backward::run_apart(context, shape, gradient, inputs, dx),
        Way::Rows(lines) => backward::run_rows(context, shape, gradient, inputs, dx, &lines),
        Way::Strips(band) => backward::run_strips(context, shape, inputs, dx, band),
        Way::Pixels(lanes) => backward::run_pixels(context, shape, gradient, inputs, dx, lanes),
        Way::Scatter => {
            scatter::run(context, shape, inputs, dx);
            Ok(())
        }
    }
}

/// All of a window's gradient goes to the cell that was its maximum, if there is no ReLU's output that drops it.
#[derive(Clone, Copy)]
pub(super) struct ToMaximum;

impl<T: Element> Gradient<T> for ToMaximum {
    const PLACES: bool = true;

    #[inline(always)]
    fn number(self, _: &PoolShape, _: usize, _: usize) -> T {
        T::default()
    }

    #[inline(always)]
    unsafe fn load<S: Lanes<T>>(
        self,
        simd: S,
        inputs: Inputs<T>,
        _: S::Vector,
        at: usize,
        count: usize,
    ) -> [S::Vector; 2] {
        // SAFETY: the caller answers for `count` gradients and places at `at`.
        unsafe { [inputs.gradients(simd, at, count, true), inputs.places.load(simd, count, at)] }
    }

    #[inline(always)]
    fn add_to_each<S: Lanes<T>>(
        self,
        simd: S,
        sum: S::Vector,
        [gradients, places]: [S::Vector; 2],
        cells: S::Vector,
    ) -> S::Vector {
        simd.add_where(simd.same_bits(places, cells), sum, gradients)
    }
}
