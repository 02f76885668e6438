//! Two-dimensional convolution (cross-correlation, as in the field), forward and backward.

mod add_parts;
mod backward_data;
mod backward_weights;
mod choice;
mod columns;
mod direct;
mod fill_by_cell;
mod filter_plan;
mod filter_product;
mod filter_task;
mod forward;
mod gather;
mod gradient;
pub mod maxpool;
mod patches;
mod query;
mod weights_panels;
mod weights_plan;
mod weights_shared;
mod winograd;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::reference;
use crate::shape::{Activation, Conv2dParams, ConvShape};
use crate::simd::Element;
use backward_data::BackwardData;
use backward_weights::BackwardWeights;
use choice::{Choice, choose};
use direct::Kind;
use gradient::Gradient;

pub use choice::Pass;
pub use query::{Query, query};

/// What [`backward`] reads.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInputs<'a, T> {
    /// The forward pass's input, read for dw only.
    pub x: Option<&'a [T]>,
    /// The weights, read for dx only.
    pub w: Option<&'a [T]>,
    /// The gradient of the output.
    pub dy: &'a [T],
    /// The forward pass's pre-activation u, or its output y = relu(u): dy counts as 0 where it is
    /// <= 0.
    pub relu_output: Option<&'a [T]>,
}

/// gradient = alpha * g + beta * gradient; with beta = 0 the gradient is not read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientOptions {
    /// Factor of the new dx.
    pub dx_alpha: f64,
    /// Factor of the dx that is there.
    pub dx_beta: f64,
    /// Factor of the new dw.
    pub dw_alpha: f64,
    /// Factor of the dw that is there.
    pub dw_beta: f64,
    /// Factor of the new db.
    pub db_alpha: f64,
    /// Factor of the db that is there.
    pub db_beta: f64,
}

impl Default for GradientOptions {
    /// Every alpha 1, every beta 0: sums, overwriting what was there.
    fn default() -> Self {
        GradientOptions {
            dx_alpha: 1.0,
            dx_beta: 0.0,
            dw_alpha: 1.0,
            dw_beta: 0.0,
            db_alpha: 1.0,
            db_beta: 0.0,
        }
    }
}

/// The gradients that [`backward`] writes; None where not wanted.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of x.
    pub dx: Option<&'a mut [T]>,
    /// Of w.
    pub dw: Option<&'a mut [T]>,
    /// Of the bias: `[out_channels]`.
    pub db: Option<&'a mut [T]>,
}

/// y = activation(conv(x, w) + bias)
///
/// ```
/// use cnnkern::{Activation, Context, ContextOptions, Conv2dParams, conv2d};
/// let context = Context::new(&ContextOptions::default())?;
/// // one image of 3 x 3 with one channel, one filter of 2 x 2
/// let params = Conv2dParams::new(1, 1, 3, 3, 1, 2, 2);
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0f32];
/// let w = [1.0, 0.0, 0.0, -1.0];
/// let mut y = [0.0; 4];
/// conv2d::forward(&context, &params, &x, &w, Some(&[5.0]), Activation::Relu, &mut y)?;
/// assert_eq!(y, [1.0; 4]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn forward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Result<()> {
    T::conv2d_forward(context, params, x, w, bias, activation, y)
}

/// [`forward`], compiled by `Operations` for each element type.
pub(crate) fn run_forward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Result<()> {
    let shape = ConvShape::new(params, size_of::<T>())?.simplified();
    check_inputs(&shape, x, w, bias)?;
    check("y", y, shape.output_len())?;
    let choice = choose(&shape, Pass::Forward)?;
    if shape.batch == 0 {
        return Ok(());
    }
    forward_as(context, &shape, choice, x, w, bias, activation, y)
}

/// The forward pass of a checked shape, or of some of its rows, by the way that was chosen for all.
#[allow(clippy::too_many_arguments, reason = "those of the forward pass")]
fn forward_as<T: Element>(
    context: &Context,
    shape: &ConvShape,
    choice: Choice,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Result<()> {
    let kind = Kind::new(choice, shape);
    match choice {
        Choice::Reference => reference::conv2d_forward(shape, x, w, bias, activation, y),
        // The columns are those of a backward pass.
        Choice::Product | Choice::Columns => {
            forward::run(context, shape, x, w, bias, activation, y)?
        }
        Choice::Winograd => {
            winograd::gather(context, &gather::forward(shape, x, w, bias, activation, y))?;
        }
        Choice::Depthwise | Choice::Groups | Choice::Pixels | Choice::Channels => {
            if !direct::forward(context, shape, kind, x, w, bias, activation, y)? {
                forward::run(context, shape, x, w, bias, activation, y)?;
            }
        }
    }
    Ok(())
}

/// The whole backward pass: any of dx, dw and db, with the ReLU that followed the convolution.
///
/// ```
/// use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients};
/// use cnnkern::{Context, ContextOptions, Conv2dParams};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Conv2dParams::new(1, 1, 3, 3, 1, 2, 2);
/// let (x, w, dy) = ([1.0f32; 9], [1.0, 2.0, 3.0, 4.0], [1.0; 4]);
/// let (mut dx, mut dw, mut db) = ([0.0; 9], [0.0; 4], [0.0; 1]);
/// let inputs = BackwardInputs { x: Some(&x), w: Some(&w), dy: &dy, relu_output: None };
/// let gradients = Gradients { dx: Some(&mut dx), dw: Some(&mut dw), db: Some(&mut db) };
/// conv2d::backward(&context, &params, &inputs, &GradientOptions::default(), gradients)?;
/// assert_eq!(dx, [1.0, 3.0, 2.0, 4.0, 10.0, 6.0, 3.0, 7.0, 4.0]);
/// assert_eq!((dw, db), ([4.0; 4], [4.0]));
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn backward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    inputs: &BackwardInputs<'_, T>,
    options: &GradientOptions,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    T::conv2d_backward(context, params, inputs, options, gradients)
}

/// [`backward`], compiled by `Operations` for each element type.
pub(crate) fn run_backward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    inputs: &BackwardInputs<'_, T>,
    options: &GradientOptions,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    let shape = ConvShape::new(params, size_of::<T>())?.simplified();
    check("dy", inputs.dy, shape.output_len())?;
    if let Some(relu_output) = inputs.relu_output {
        check("relu_output", relu_output, shape.output_len())?;
    }
    check_gradients(&shape, inputs.x, inputs.w, &gradients)?;
    let choice = choose(&shape, Pass::BackwardData)?;
    if shape.batch == 0 {
        return Ok(());
    }
    if choice == Choice::Reference {
        reference::conv2d_backward(&shape, inputs, options, gradients);
        return Ok(());
    }
    if let (Some(dx), Some(w)) = (gradients.dx, inputs.w) {
        let pass = BackwardData {
            w,
            dy: inputs.dy,
            relu_output: inputs.relu_output,
            alpha: T::from_f64(options.dx_alpha),
            beta: T::from_f64(options.dx_beta),
        };
        backward_data_as(context, &shape, choice, &pass, dx)?;
    }
    let gradient = Gradient::Stored { dy: inputs.dy, relu_output: inputs.relu_output };
    let pass = BackwardWeights::new(inputs.x, gradient, options);
    backward_weights(context, &shape, &pass, gradients.dw, gradients.db)
}

/// dx of a checked shape, or of some of its rows, by the way that was chosen for all.
fn backward_data_as<T: Element>(
    context: &Context,
    shape: &ConvShape,
    choice: Choice,
    pass: &BackwardData<'_, T>,
    dx: &mut [T],
) -> Result<()> {
    if choice == Choice::Winograd {
        let phase = gather::backward_phase(shape, pass, dx.as_mut_ptr(), [0, 0]);
        winograd::gather(context, &phase)?;
    // Columns have no taps that read no dy, and the kernel with channels in the lanes skips them.
    } else if choice == Choice::Columns {
        columns::run(context, shape, pass, dx)?;
    } else if choice != Choice::Channels && pass.needs_plain_loops(shape) {
        pass.run_plain_loops(context, shape, dx);
    } else if choice == Choice::Product {
        pass.run(context, shape, dx)?;
    } else {
        direct::backward_data(context, shape, Kind::new(choice, shape), pass, dx)?;
    }
    Ok(())
}

/// dw and db of a checked shape, those that are wanted.
fn backward_weights<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    mut dw: Option<&mut [T]>,
    mut db: Option<&mut [T]>,
) -> Result<()> {
    if dw.is_none() && db.is_none() {
        return Ok(());
    }
    let choice = choose(shape, Pass::BackwardWeights)?;
    if let (Choice::Channels, Some(x), Some(dw)) = (choice, pass.x, dw.as_deref_mut()) {
        if direct::exchanged_weights::run(context, shape, pass, x, dw)? {
            return db.map_or(Ok(()), |db| pass.run(context, shape, None, Some(db)));
        }
        if direct::channel_weights::run(context, shape, pass, x, dw, db.as_deref_mut())? {
            return Ok(());
        }
    }
    if let (Choice::Winograd, Some(x), Some(dw)) = (choice, pass.x, dw.as_deref_mut()) {
        return winograd::weights::run(context, shape, pass, x, dw, db);
    }
    match choice {
        Choice::Depthwise | Choice::Groups | Choice::Pixels => {
            direct::weights::run(context, shape, pass, dw, db)
        }
        _ => pass.run(context, shape, dw, db),
    }
}

/// Elements that are looked at together.
const FINITE_CHUNK: usize = 256;

/// Whether no element is an infinity or a NaN.
fn are_finite<T: Element>(values: &[T]) -> bool {
    // A number times 0 is 0; an infinity or a NaN is a NaN. Some elements at a time, in vectors.
    let finite = |some: &[T]| {
        some.iter().fold(true, |all, &value| all & (value * T::default() == T::default()))
    };
    values.chunks(FINITE_CHUNK).all(finite)
}

/// An error for a wrong length of what the forward pass reads.
fn check_inputs<T>(shape: &ConvShape, x: &[T], w: &[T], bias: Option<&[T]>) -> Result<()> {
    check("x", x, shape.input_len())?;
    check("w", w, shape.filter_len())?;
    bias.map_or(Ok(()), |bias| check("bias", bias, shape.out_channels))
}

/// An error for a wrong length of what is to be written, or of what it needs.
fn check_gradients<T>(
    shape: &ConvShape,
    x: Option<&[T]>,
    w: Option<&[T]>,
    gradients: &Gradients<'_, T>,
) -> Result<()> {
    if let Some(dx) = &gradients.dx {
        check("dx", dx, shape.input_len())?;
        check("w", w.ok_or(Error::NullPointer { argument: "w" })?, shape.filter_len())?;
    }
    if let Some(dw) = &gradients.dw {
        check("dw", dw, shape.filter_len())?;
        check("x", x.ok_or(Error::NullPointer { argument: "x" })?, shape.input_len())?;
    }
    if let Some(db) = &gradients.db {
        check("db", db, shape.out_channels)?;
    }
    Ok(())
}

fn check<T>(argument: &'static str, slice: &[T], expected: usize) -> Result<()> {
    if slice.len() != expected {
        return Err(Error::length(argument, expected, slice.len()));
    }
    Ok(())
}
