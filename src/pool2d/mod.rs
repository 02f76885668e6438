//! Max-pooling and average-pooling, forward and backward.

mod average;
mod average_backward;
mod backward;
mod backward_apart;
mod backward_pairs;
mod backward_pixels;
mod backward_planes;
mod backward_rows;
mod backward_strips;
mod check_places;
mod forward;
mod forward_pixels;
mod forward_planes;
mod forward_ring;
mod forward_rows;
mod forward_strips;
mod line;
mod max;
mod max_backward;
mod numbers;
mod path;
mod place;
mod planes;
mod ring;
mod rows_read;
mod scatter;
#[cfg(test)]
mod tests;
mod unpool;

use average::Mean;
use backward::InputSlices;
use max::Maximum;
pub(crate) use unpool::{Region, Unpool};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::shape::{Pool2dParams, PoolShape};
use crate::simd::Element;

/// Where each window's maximum lies: `kh * kernel_width + kw`, shaped as y.
#[derive(Debug, Clone, Copy)]
pub enum Argmax<'a> {
    /// For any window.
    I32(&'a [i32]),
    /// For windows of at most 256 cells: a quarter of the memory.
    U8(&'a [u8]),
}

/// [`Argmax`] to be written.
#[derive(Debug)]
pub enum ArgmaxMut<'a> {
    /// For any window.
    I32(&'a mut [i32]),
    /// For windows of at most 256 cells: a quarter of the memory.
    U8(&'a mut [u8]),
}

impl Argmax<'_> {
    /// The place at `index`. A negative one is larger than any window.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize) -> usize {
        match self {
            Argmax::I32(places) => places[index] as usize,
            Argmax::U8(places) => usize::from(places[index]),
        }
    }

    fn len(&self) -> usize {
        match self {
            Argmax::I32(places) => places.len(),
            Argmax::U8(places) => places.len(),
        }
    }

    /// An error for a wrong number or type of places, or for one outside its window.
    pub(crate) fn check<T: Element>(&self, context: &Context, shape: &PoolShape) -> Result<()> {
        match self {
            Argmax::I32(places) => check_argmax(shape, places.len(), true)?,
            Argmax::U8(places) => check_argmax(shape, places.len(), false)?,
        }
        check_places::run::<T>(context, *self, shape.window_len())
    }
}

impl ArgmaxMut<'_> {
    /// An error for a wrong number or type of places.
    pub(crate) fn check(&self, shape: &PoolShape) -> Result<()> {
        match self {
            ArgmaxMut::I32(places) => check_argmax(shape, places.len(), true),
            ArgmaxMut::U8(places) => check_argmax(shape, places.len(), false),
        }
    }

    /// The places from `index` on.
    pub(crate) fn from(&mut self, index: usize) -> ArgmaxMut<'_> {
        match self {
            ArgmaxMut::I32(places) => ArgmaxMut::I32(&mut places[index..]),
            ArgmaxMut::U8(places) => ArgmaxMut::U8(&mut places[index..]),
        }
    }
}

/// y = the maximum of each window, argmax = its place: the first maximum in the window's order. A
/// NaN beats every number, and the first NaN wins.
///
/// ```
/// use cnnkern::pool2d::{self, ArgmaxMut};
/// use cnnkern::{Context, ContextOptions, Pool2dParams};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Pool2dParams::new(1, 1, 2, 4, 2, 2);
/// let x = [1.0, 2.0, 8.0, 7.0, 3.0, 4.0, 6.0, 5.0f32];
/// let (mut y, mut argmax) = ([0.0; 2], [0u8; 2]);
/// pool2d::max_forward(&context, &params, &x, &mut y, Some(ArgmaxMut::U8(&mut argmax)))?;
/// assert_eq!((y, argmax), ([4.0, 8.0], [3, 0]));
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn max_forward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    x: &[T],
    y: &mut [T],
    argmax: Option<ArgmaxMut<'_>>,
) -> Result<()> {
    T::maxpool2d_forward(context, params, x, y, argmax)
}

/// [`max_forward`], compiled by `Operations` for each element type.
pub(crate) fn run_max_forward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    x: &[T],
    y: &mut [T],
    argmax: Option<ArgmaxMut<'_>>,
) -> Result<()> {
    let shape = PoolShape::new(params, size_of::<T>())?;
    check_lengths(&shape, ("x", x.len()), ("y", y.len()))?;
    if let Some(argmax) = &argmax {
        argmax.check(&shape)?;
    }
    max_of(context, &shape, x, y, argmax)
}

/// [`max_forward`] of a checked shape, which may be a part of a tensor's.
pub(crate) fn max_of<T: Element>(
    context: &Context,
    shape: &PoolShape,
    x: &[T],
    y: &mut [T],
    argmax: Option<ArgmaxMut<'_>>,
) -> Result<()> {
    forward::run(context, shape, Maximum::new(shape), x, y, argmax)
}

/// dx = each gradient of dy added to the cell that `argmax` names; one in the padding is dropped.
///
/// # Errors
/// [`Error::InvalidArgument`] for a place outside the window; dx is untouched then.
///
/// ```
/// use cnnkern::pool2d::{self, Argmax};
/// use cnnkern::{Context, ContextOptions, Pool2dParams};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Pool2dParams::new(1, 1, 2, 4, 2, 2);
/// let mut dx = [0.0f32; 8];
/// pool2d::max_backward(&context, &params, &[1.0, 2.0], Argmax::U8(&[3, 0]), &mut dx)?;
/// assert_eq!(dx, [0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn max_backward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    dy: &[T],
    argmax: Argmax<'_>,
    dx: &mut [T],
) -> Result<()> {
    T::maxpool2d_backward(context, params, dy, argmax, dx)
}

/// [`max_backward`], compiled by `Operations` for each element type.
pub(crate) fn run_max_backward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    dy: &[T],
    argmax: Argmax<'_>,
    dx: &mut [T],
) -> Result<()> {
    let shape = PoolShape::new(params, size_of::<T>())?;
    check_lengths(&shape, ("dx", dx.len()), ("dy", dy.len()))?;
    argmax.check::<T>(context, &shape)?;
    let inputs = InputSlices { dy, argmax: Some(argmax), relu_output: None };
    max_backward::run(context, &shape, inputs, dx)
}

/// y = the mean of each window.
///
/// ```
/// use cnnkern::{Context, ContextOptions, Pool2dParams, pool2d};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Pool2dParams::new(1, 1, 2, 4, 2, 2);
/// let x = [1.0, 2.0, 8.0, 7.0, 3.0, 4.0, 6.0, 5.0f32];
/// let mut y = [0.0; 2];
/// pool2d::avg_forward(&context, &params, &x, &mut y)?;
/// assert_eq!(y, [2.5, 6.5]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn avg_forward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    x: &[T],
    y: &mut [T],
) -> Result<()> {
    T::avgpool2d_forward(context, params, x, y)
}

/// [`avg_forward`], compiled by `Operations` for each element type.
pub(crate) fn run_avg_forward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    x: &[T],
    y: &mut [T],
) -> Result<()> {
    let shape = PoolShape::new(params, size_of::<T>())?;
    check_lengths(&shape, ("x", x.len()), ("y", y.len()))?;
    forward::run(context, &shape, Mean::new(&shape), x, y, None)
}

/// dx = each gradient of dy spread evenly over the cells of its window that count.
///
/// ```
/// use cnnkern::{Context, ContextOptions, Pool2dParams, pool2d};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Pool2dParams::new(1, 1, 2, 4, 2, 2);
/// let mut dx = [0.0f32; 8];
/// pool2d::avg_backward(&context, &params, &[4.0, 8.0], &mut dx)?;
/// assert_eq!(dx, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn avg_backward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    T::avgpool2d_backward(context, params, dy, dx)
}

/// [`avg_backward`], compiled by `Operations` for each element type.
pub(crate) fn run_avg_backward<T: Element>(
    context: &Context,
    params: &Pool2dParams,
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    let shape = PoolShape::new(params, size_of::<T>())?;
    check_lengths(&shape, ("dx", dx.len()), ("dy", dy.len()))?;
    average_backward::run(context, &shape, dy, dx)
}

fn check_lengths(
    shape: &PoolShape,
    input: (&'static str, usize),
    output: (&'static str, usize),
) -> Result<()> {
    if input.1 != shape.input_len() {
        return Err(Error::length(input.0, shape.input_len(), input.1));
    }
    if output.1 != shape.output_len() {
        return Err(Error::length(output.0, shape.output_len(), output.1));
    }
    Ok(())
}

fn check_argmax(shape: &PoolShape, len: usize, wide: bool) -> Result<()> {
    if len != shape.output_len() {
        return Err(Error::length("argmax", shape.output_len(), len));
    }
    if !wide && shape.window_len() > 256 {
        return Err(Error::invalid(format!(
            "argmax_type must be I32 for a window of more than 256 cells, but is U8 for {} x {}",
            shape.height.kernel, shape.width.kernel
        )));
    }
    Ok(())
}
