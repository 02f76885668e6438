//! The layers of a network. Each owns its weights, and what its backward pass reads beside x and y.

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients};
use cnnkern::elementwise::{relu_backward, relu_forward};
use cnnkern::gemm::{GemmParams, Transpose, gemm};
use cnnkern::pool2d::{self, Argmax, ArgmaxMut};
use cnnkern::{Activation, Context, Conv2dParams, Pool2dParams, Result};

use crate::random::Random;

/// Of gradient descent.
const RATE: f32 = 0.01;
const MOMENTUM: f32 = 0.9;

/// A step's work of one layer.
pub trait Layer {
    /// Elements of y.
    fn output_len(&self) -> usize;

    fn forward(&mut self, context: &Context, x: &[f32], y: &mut [f32]) -> Result<()>;

    /// Finds dx, where it is wanted, and adds the gradients of the weights to their velocities.
    fn backward(
        &mut self,
        context: &Context,
        x: &[f32],
        y: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
    ) -> Result<()>;

    /// Moves the weights.
    fn update(&mut self) {}
}

/// Weights under gradient descent with momentum.
struct Weights {
    values: Vec<f32>,
    /// MOMENTUM times what it was, plus the gradient: the backward pass writes it as beta * velocity +
    /// gradient, which takes no pass of its own.
    velocity: Vec<f32>,
}

impl Weights {
    /// For sums of so many terms.
    fn new(len: usize, terms: usize, random: &mut Random) -> Weights {
        let scale = 1.0 / (terms as f32).sqrt();
        let values = (0..len).map(|_| scale * random.value() as f32).collect();
        Weights { values, velocity: vec![0.0; len] }
    }

    fn update(&mut self) {
        for (value, velocity) in self.values.iter_mut().zip(&self.velocity) {
            *value -= RATE * velocity;
        }
    }
}

/// A convolution with bias, and the ReLU after it.
pub struct Convolution {
    params: Conv2dParams,
    filters: Weights,
    bias: Weights,
}

impl Convolution {
    pub fn new(params: Conv2dParams, random: &mut Random) -> Convolution {
        let terms = params.in_channels * params.kernel_height * params.kernel_width;
        Convolution {
            params,
            filters: Weights::new(params.out_channels * terms, terms, random),
            bias: Weights::new(params.out_channels, terms, random),
        }
    }
}

impl Layer for Convolution {
    fn output_len(&self) -> usize {
        let (height, width) = self.params.output_size().expect("a valid shape");
        self.params.batch * self.params.out_channels * height * width
    }

    fn forward(&mut self, context: &Context, x: &[f32], y: &mut [f32]) -> Result<()> {
        let (w, bias) = (&self.filters.values, &self.bias.values);
        conv2d::forward(context, &self.params, x, w, Some(bias), Activation::Relu, y)
    }

    fn backward(
        &mut self,
        context: &Context,
        x: &[f32],
        y: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
    ) -> Result<()> {
        let w = Some(&self.filters.values[..]);
        let inputs = BackwardInputs { x: Some(x), w, dy, relu_output: Some(y) };
        let momentum = f64::from(MOMENTUM);
        let options =
            GradientOptions { dw_beta: momentum, db_beta: momentum, ..GradientOptions::default() };
        let gradients = Gradients {
            dx,
            dw: Some(&mut self.filters.velocity),
            db: Some(&mut self.bias.velocity),
        };
        conv2d::backward(context, &self.params, &inputs, &options, gradients)
    }

    fn update(&mut self) {
        self.filters.update();
        self.bias.update();
    }
}

/// Max-pooling.
pub struct Pool {
    params: Pool2dParams,
    argmax: Vec<u8>,
}

impl Pool {
    pub fn new(params: Pool2dParams) -> Pool {
        let (height, width) = params.output_size().expect("a valid shape");
        Pool { params, argmax: vec![0; params.batch * params.channels * height * width] }
    }
}

impl Layer for Pool {
    fn output_len(&self) -> usize {
        self.argmax.len()
    }

    fn forward(&mut self, context: &Context, x: &[f32], y: &mut [f32]) -> Result<()> {
        pool2d::max_forward(context, &self.params, x, y, Some(ArgmaxMut::U8(&mut self.argmax)))
    }

    fn backward(
        &mut self,
        context: &Context,
        _x: &[f32],
        _y: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
    ) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        pool2d::max_backward(context, &self.params, dy, Argmax::U8(&self.argmax), dx)
    }
}

/// y = x * w + bias, with w as `[outputs, inputs]`.
pub struct Linear {
    batch: usize,
    inputs: usize,
    outputs: usize,
    weights: Weights,
    bias: Weights,
}

impl Linear {
    pub fn new([batch, inputs, outputs]: [usize; 3], random: &mut Random) -> Linear {
        Linear {
            batch,
            inputs,
            outputs,
            weights: Weights::new(outputs * inputs, inputs, random),
            bias: Weights::new(outputs, inputs, random),
        }
    }
}

/// Of matrices without gaps.
fn product([transa, transb]: [Transpose; 2], [m, n, k]: [usize; 3]) -> GemmParams {
    let lda = if transa == Transpose::No { k } else { m };
    let ldb = if transb == Transpose::No { n } else { k };
    GemmParams { transa, transb, m, n, k, lda, ldb, ldc: n }
}

impl Layer for Linear {
    fn output_len(&self) -> usize {
        self.batch * self.outputs
    }

    fn forward(&mut self, context: &Context, x: &[f32], y: &mut [f32]) -> Result<()> {
        for row in y.chunks_exact_mut(self.outputs) {
            row.copy_from_slice(&self.bias.values);
        }
        let sizes = [self.batch, self.outputs, self.inputs];
        let params = product([Transpose::No, Transpose::Yes], sizes);
        gemm(context, &params, 1.0, x, &self.weights.values, 1.0, y)
    }

    fn backward(
        &mut self,
        context: &Context,
        x: &[f32],
        _y: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
    ) -> Result<()> {
        let params =
            product([Transpose::Yes, Transpose::No], [self.outputs, self.inputs, self.batch]);
        gemm(context, &params, 1.0, dy, x, MOMENTUM, &mut self.weights.velocity)?;
        for (index, velocity) in self.bias.velocity.iter_mut().enumerate() {
            let column = dy.iter().skip(index).step_by(self.outputs);
            *velocity = MOMENTUM * *velocity + column.sum::<f32>();
        }
        let Some(dx) = dx else { return Ok(()) };
        let params =
            product([Transpose::No, Transpose::No], [self.batch, self.inputs, self.outputs]);
        gemm(context, &params, 1.0, dy, &self.weights.values, 0.0, dx)
    }

    fn update(&mut self) {
        self.weights.update();
        self.bias.update();
    }
}

/// The ReLU after a linear layer.
pub struct Relu {
    pub len: usize,
}

impl Layer for Relu {
    fn output_len(&self) -> usize {
        self.len
    }

    fn forward(&mut self, context: &Context, x: &[f32], y: &mut [f32]) -> Result<()> {
        relu_forward(context, x, y)
    }

    fn backward(
        &mut self,
        context: &Context,
        _x: &[f32],
        y: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
    ) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        relu_backward(context, y, dy, dx)
    }
}
