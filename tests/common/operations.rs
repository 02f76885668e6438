//! Calls of every operation, ready to be made with any context, any number of times.

use std::io::Write;

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients, maxpool};
use cnnkern::elementwise;
use cnnkern::gemm::{self, GemmBatch, GemmParams, Transpose};
use cnnkern::im2col;
use cnnkern::pool2d::{self, Argmax, ArgmaxMut};
use cnnkern::{Activation, Algorithm, Context, Conv2dParams, Error, Isa, Pool2dParams};
use cnnkern::{PoolPadding, Result};

use super::random::{Data, Random};
use super::real::{Real, bits};
use super::shapes;

/// What an operation writes.
#[derive(Clone, Default)]
pub struct Outputs<T> {
    pub values: Vec<Vec<T>>,
    pub places: Vec<i32>,
    pub small_places: Vec<u8>,
}

type Call<T> = dyn Fn(&Context, &mut Outputs<T>) -> Result<()> + Send + Sync;

/// One call of the library, its inputs with it.
pub struct Operation<T> {
    pub name: String,
    /// What the outputs hold before the call.
    before: Outputs<T>,
    call: Box<Call<T>>,
}

impl<T: Real> Operation<T> {
    fn new(
        name: String,
        before: Outputs<T>,
        call: impl Fn(&Context, &mut Outputs<T>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Operation { name, before, call: Box::new(call) }
    }

    /// An operation that only writes the values of `lens` elements each: NaN before the call.
    fn writing(
        name: String,
        lens: &[usize],
        call: impl Fn(&Context, &mut Outputs<T>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let values = lens.iter().map(|&len| vec![T::NAN; len]).collect();
        Operation::new(name, Outputs { values, ..Outputs::default() }, call)
    }

    pub fn outputs(&self) -> Outputs<T> {
        self.before.clone()
    }

    pub fn try_run(&self, context: &Context, outputs: &mut Outputs<T>) -> Result<()> {
        (self.call)(context, outputs)
    }

    fn is_supported(&self) -> bool {
        let context = super::contexts::context(Isa::Portable, 1);
        let result = self.try_run(&context, &mut self.outputs());
        !matches!(result, Err(Error::Unsupported { .. }))
    }

    pub fn run(&self, context: &Context, outputs: &mut Outputs<T>) {
        self.try_run(context, outputs).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// The bits of everything that the call writes.
    pub fn bits(&self, context: &Context) -> Vec<u64> {
        let mut outputs = self.outputs();
        self.run(context, &mut outputs);
        let mut all = Vec::new();
        for values in &outputs.values {
            all.extend(bits(values));
        }
        all.extend(outputs.places.iter().map(|&place| place as u64));
        all.extend(outputs.small_places.iter().map(|&place| u64::from(place)));
        all
    }
}

/// Every operation, in every variant whose work is cut in a way of its own.
pub fn all<T: Real>() -> Vec<Operation<T>> {
    let mut random = Random::new(17);
    let (mut all, mut without_winograd) = (Vec::new(), 0);
    for params in convolutions() {
        for algorithm in [Algorithm::Auto, Algorithm::Gemm, Algorithm::Winograd] {
            let params = Conv2dParams { algorithm, ..params };
            let passes = GRADIENTS.map(|gradient| conv_backward(params, gradient, &mut random));
            for operation in [conv_forward(params, &mut random)].into_iter().chain(passes) {
                if algorithm == Algorithm::Winograd && !operation.is_supported() {
                    without_winograd += 1;
                } else {
                    all.push(operation);
                }
            }
        }
    }
    // not eprintln: the test harness would swallow it
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {without_winograd} convolutions to which Winograd does not apply"
    );
    for (transa, transb, sizes) in [
        (Transpose::No, Transpose::No, [161, 203, 300]),
        (Transpose::Yes, Transpose::No, [400, 77, 131]),
        (Transpose::No, Transpose::Yes, [65, 501, 257]),
        (Transpose::Yes, Transpose::Yes, [129, 90, 513]),
        (Transpose::No, Transpose::No, [1, 1500, 700]),
        (Transpose::No, Transpose::Yes, [1501, 1, 700]),
        (Transpose::No, Transpose::No, [9, 11, 20_000]),
    ] {
        all.push(gemm(shapes::gemm_params(transa, transb, sizes, [1, 2, 3]), 1, &mut random));
    }
    for (count, sizes) in [(7, [61, 47, 299]), (2, [150, 130, 100])] {
        let params = shapes::gemm_params(Transpose::No, Transpose::Yes, sizes, [0, 0, 0]);
        all.push(gemm(params, count, &mut random));
    }
    for params in poolings() {
        all.extend(pooling(params, &mut random));
    }
    for params in convolutions().into_iter().filter(|params| params.groups == 1) {
        for col_layout in shapes::COL_LAYOUTS {
            all.extend(patches(params, col_layout, &mut random));
        }
    }
    all.extend(relu(1_000_003, &mut random));
    for params in convolutions().into_iter().chain(large_convolutions()) {
        all.extend(conv_maxpool(params, &mut random));
    }
    all
}

/// A gradient of each kind alone, all at once, and all of them updated behind a ReLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    Input,
    Weights,
    Bias,
    All,
    AllUpdated,
}

pub const GRADIENTS: [Gradient; 5] =
    [Gradient::Input, Gradient::Weights, Gradient::Bias, Gradient::All, Gradient::AllUpdated];

/// Large enough to be cut into tasks, with odd extents, for batches of one image and of seven.
fn convolutions() -> Vec<Conv2dParams> {
    let new = Conv2dParams::new;
    let shapes = [
        shapes::pad([1, 1, 1, 1], new(1, 33, 29, 31, 37, 3, 3)),
        shapes::pad([1, 1, 1, 1], new(7, 19, 17, 15, 21, 3, 3)),
        shapes::stride(2, 2, new(7, 65, 19, 21, 67, 1, 1)),
        new(7, 800, 7, 3, 340, 1, 1),
        shapes::pad([2, 1, 0, 3], shapes::dilation(2, 1, new(7, 3, 41, 43, 17, 5, 5))),
        shapes::groups(3, shapes::stride(2, 1, shapes::pad([2; 4], new(7, 27, 19, 23, 33, 5, 5)))),
        shapes::groups(71, shapes::pad([1, 1, 1, 1], new(7, 71, 33, 35, 71, 3, 3))),
        shapes::pad([1, 1, 1, 1], new(1, 131, 7, 7, 129, 3, 3)),
    ];
    let filter_layouts = shapes::FILTER_LAYOUTS.into_iter().cycle();
    let mut all = Vec::new();
    for (params, filter_layout) in shapes.into_iter().zip(filter_layouts) {
        for layout in shapes::LAYOUTS {
            all.push(Conv2dParams { layout, filter_layout, ..params });
        }
    }
    all
}

/// With more between it and its pooling than is kept at once: cut into rows, and so on more threads in
/// another way.
fn large_convolutions() -> [Conv2dParams; 2] {
    let params = Conv2dParams::new(1, 3, 90, 91, 67, 3, 3);
    let params = shapes::pad([1, 1, 1, 1], params);
    shapes::LAYOUTS.map(|layout| Conv2dParams { layout, ..params })
}

fn poolings() -> Vec<Pool2dParams> {
    let new = Pool2dParams::new;
    let overlapping = Pool2dParams {
        stride_height: 2,
        stride_width: 2,
        pad_top: 1,
        pad_left: 1,
        padding: PoolPadding::Zero,
        ..new(7, 37, 61, 67, 3, 3)
    };
    let mut all = Vec::new();
    for layout in shapes::LAYOUTS {
        for params in [overlapping, new(1, 131, 65, 67, 2, 2), new(7, 131, 27, 26, 2, 3)] {
            all.push(Pool2dParams { layout, ..params });
        }
    }
    all
}

fn conv_name(what: &str, p: &Conv2dParams) -> String {
    format!(
        "{what} {}x{}x{}x{} to {}, {}x{}, {} groups, {:?} {:?} {:?}",
        p.batch,
        p.in_channels,
        p.in_height,
        p.in_width,
        p.out_channels,
        p.kernel_height,
        p.kernel_width,
        p.groups,
        p.layout,
        p.filter_layout,
        p.algorithm
    )
}

/// Elements of x, of w and of y.
pub fn conv_lens(p: &Conv2dParams) -> [usize; 3] {
    let (out_height, out_width) = p.output_size().expect("valid parameters");
    [
        p.batch * p.in_channels * p.in_height * p.in_width,
        p.out_channels * (p.in_channels / p.groups) * p.kernel_height * p.kernel_width,
        p.batch * p.out_channels * out_height * out_width,
    ]
}

pub fn conv_forward<T: Real>(params: Conv2dParams, random: &mut Random) -> Operation<T> {
    let [x, w, y] = conv_lens(&params);
    let mut values = |len| random.values::<T>(len, Data::Fractions);
    let (x, w, bias) = (values(x), values(w), values(params.out_channels));
    Operation::writing(conv_name("convolution", &params), &[y], move |context, outputs| {
        let y = &mut outputs.values[0];
        conv2d::forward(context, &params, &x, &w, Some(&bias), Activation::Relu, y)
    })
}

pub fn conv_backward<T: Real>(
    params: Conv2dParams,
    gradient: Gradient,
    random: &mut Random,
) -> Operation<T> {
    let [.., y_len] = conv_lens(&params);
    let name = conv_name(&format!("gradient {gradient:?} of convolution"), &params);
    gradient_of(
        name,
        params,
        gradient,
        y_len,
        random,
        move |context, inputs, options, gradients| {
            conv2d::backward(context, &params, inputs, options, gradients)
        },
    )
}

/// A backward pass of a convolution, from a gradient of `dy_len` elements.
fn gradient_of<T: Real>(
    name: String,
    params: Conv2dParams,
    gradient: Gradient,
    dy_len: usize,
    random: &mut Random,
    backward: impl Fn(
        &Context,
        &BackwardInputs<'_, T>,
        &GradientOptions,
        Gradients<'_, T>,
    ) -> Result<()>
    + Send
    + Sync
    + 'static,
) -> Operation<T> {
    let [x_len, w_len, _] = conv_lens(&params);
    let mut values = |len| random.values::<T>(len, Data::Fractions);
    let (x, w, dy, u) = (values(x_len), values(w_len), values(dy_len), values(dy_len));
    let wants = |one| gradient == one || matches!(gradient, Gradient::All | Gradient::AllUpdated);
    let wanted = [Gradient::Input, Gradient::Weights, Gradient::Bias].map(wants);
    let updates = gradient == Gradient::AllUpdated;
    let lens = [x_len, w_len, params.out_channels];
    let before = lens.iter().zip(wanted).map(|(&len, wanted)| match (wanted, updates) {
        (false, _) => Vec::new(),
        (true, false) => vec![T::NAN; len],
        (true, true) => values(len),
    });
    let before = Outputs { values: before.collect(), ..Outputs::default() };
    let options = match updates {
        false => GradientOptions::default(),
        true => GradientOptions {
            dx_alpha: 0.5,
            dx_beta: -0.75,
            dw_alpha: -1.25,
            dw_beta: 0.5,
            db_alpha: 3.0,
            db_beta: 1.0,
        },
    };
    Operation::new(name, before, move |context, outputs| {
        let inputs = BackwardInputs {
            x: wanted[1].then_some(&x[..]),
            w: wanted[0].then_some(&w[..]),
            dy: &dy,
            relu_output: updates.then_some(&u[..]),
        };
        let mut outputs = outputs.values.iter_mut().zip(wanted);
        let mut next = || {
            let (output, wanted) = outputs.next()?;
            wanted.then_some(&mut output[..])
        };
        let gradients = Gradients { dx: next(), dw: next(), db: next() };
        backward(context, &inputs, &options, gradients)
    })
}

/// Convolution and max-pooling as one step, forward and backward, with one kind of argmax or the other.
pub fn conv_maxpool<T: Real>(params: Conv2dParams, random: &mut Random) -> Vec<Operation<T>> {
    let pool = shapes::pool_of(&params, 3, 2, 1);
    let (out_height, out_width) = pool.output_size().expect("valid parameters");
    let y_len = pool.batch * pool.channels * out_height * out_width;
    let [x_len, w_len, _] = conv_lens(&params);
    let mut values = |len| random.values::<T>(len, Data::Fractions);
    let (x, w, bias) = (values(x_len), values(w_len), values(params.out_channels));
    let small_places = vec![255; y_len];
    let before = Outputs { values: vec![vec![T::NAN; y_len]], small_places, ..Outputs::default() };
    let name = conv_name("pooled convolution", &params);
    let mut all = vec![Operation::new(name, before, move |context, outputs| {
        let (y, argmax) = (&mut outputs.values[0], ArgmaxMut::U8(&mut outputs.small_places));
        let (bias, relu) = (Some(&bias[..]), Activation::Relu);
        maxpool::forward(context, &params, &pool, &x, &w, bias, relu, y, Some(argmax))
    })];
    for gradient in GRADIENTS {
        let places: Vec<i32> = (0..y_len).map(|_| random.within(0..=8) as i32).collect();
        let name = conv_name(&format!("gradient {gradient:?} of pooled convolution"), &params);
        all.push(gradient_of(name, params, gradient, y_len, random, move |context, i, o, g| {
            maxpool::backward(context, &params, &pool, i, Argmax::I32(&places), o, g)
        }));
    }
    all
}

pub fn gemm<T: Real>(params: GemmParams, count: usize, random: &mut Random) -> Operation<T> {
    let GemmParams { transa, transb, m, n, k, lda, ldb, ldc } = params;
    let [a_rows, b_rows] = [shapes::lies(transa, m, k)[0], shapes::lies(transb, k, n)[0]];
    let batch =
        GemmBatch { count, stride_a: a_rows * lda, stride_b: b_rows * ldb, stride_c: m * ldc };
    let mut values = |len| random.values::<T>(len, Data::Fractions);
    let a = values(count * batch.stride_a);
    let b = values(count * batch.stride_b);
    let before = Outputs { values: vec![values(count * batch.stride_c)], ..Outputs::default() };
    let (alpha, beta) = (T::narrow(1.5), T::narrow(-0.5));
    let name = format!("gemm {count} x {m}x{n}x{k} {transa:?} {transb:?}");
    Operation::new(name, before, move |context, outputs| {
        let c = &mut outputs.values[0];
        match count {
            1 => gemm::gemm(context, &params, alpha, &a, &b, beta, c),
            _ => gemm::gemm_batched(context, &params, &batch, alpha, &a, &b, beta, c),
        }
    })
}

/// Both kinds of pooling, forward and backward, with both kinds of argmax.
pub fn pooling<T: Real>(params: Pool2dParams, random: &mut Random) -> Vec<Operation<T>> {
    let (out_height, out_width) = params.output_size().expect("valid parameters");
    let y_len = params.batch * params.channels * out_height * out_width;
    let x_len = params.batch * params.channels * params.in_height * params.in_width;
    let name = |what: &str| {
        let Pool2dParams { batch, channels, in_height, in_width, layout, .. } = params;
        format!("{what} {batch}x{channels}x{in_height}x{in_width} {layout:?}")
    };
    let x: Vec<T> = random.values(x_len, Data::Integers);
    let dy: Vec<T> = random.values(y_len, Data::Fractions);
    let last = params.kernel_height * params.kernel_width - 1;
    let places: Vec<i32> = (0..y_len).map(|_| random.within(0..=last) as i32).collect();
    let small_places: Vec<u8> = places.iter().map(|&place| place as u8).collect();
    let y = vec![vec![T::NAN; y_len]];
    let [x_wide, x_small, x_average] = [x.clone(), x.clone(), x];
    let [dy_wide, dy_small, dy_average] = [dy.clone(), dy.clone(), dy];
    vec![
        Operation::new(
            name("max-pool with wide places"),
            Outputs { values: y.clone(), places: vec![-1; y_len], small_places: vec![] },
            move |context, outputs| {
                let argmax = Some(ArgmaxMut::I32(&mut outputs.places));
                pool2d::max_forward(context, &params, &x_wide, &mut outputs.values[0], argmax)
            },
        ),
        Operation::new(
            name("max-pool with small places"),
            Outputs { values: y, places: vec![], small_places: vec![255; y_len] },
            move |context, outputs| {
                let argmax = Some(ArgmaxMut::U8(&mut outputs.small_places));
                pool2d::max_forward(context, &params, &x_small, &mut outputs.values[0], argmax)
            },
        ),
        Operation::writing(
            name("gradient of max-pool with wide places"),
            &[x_len],
            move |context, outputs| {
                let (argmax, dx) = (Argmax::I32(&places), &mut outputs.values[0]);
                pool2d::max_backward(context, &params, &dy_wide, argmax, dx)
            },
        ),
        Operation::writing(
            name("gradient of max-pool with small places"),
            &[x_len],
            move |context, outputs| {
                let (argmax, dx) = (Argmax::U8(&small_places), &mut outputs.values[0]);
                pool2d::max_backward(context, &params, &dy_small, argmax, dx)
            },
        ),
        Operation::writing(name("average-pool"), &[y_len], move |context, outputs| {
            pool2d::avg_forward(context, &params, &x_average, &mut outputs.values[0])
        }),
        Operation::writing(name("gradient of average-pool"), &[x_len], move |context, outputs| {
            pool2d::avg_backward(context, &params, &dy_average, &mut outputs.values[0])
        }),
    ]
}

/// im2col and col2im.
pub fn patches<T: Real>(
    params: Conv2dParams,
    col_layout: im2col::ColLayout,
    random: &mut Random,
) -> Vec<Operation<T>> {
    let [x_len, ..] = conv_lens(&params);
    let col_len = im2col::col_len::<T>(&params).expect("valid parameters");
    let x: Vec<T> = random.values(x_len, Data::Fractions);
    let col: Vec<T> = random.values(col_len, Data::Fractions);
    let name = |what: &str| conv_name(&format!("{what} {col_layout:?} of"), &params);
    vec![
        Operation::writing(name("im2col"), &[col_len], move |context, outputs| {
            im2col::im2col(context, &params, col_layout, &x, &mut outputs.values[0])
        }),
        Operation::writing(name("col2im"), &[x_len], move |context, outputs| {
            im2col::col2im(context, &params, col_layout, &col, &mut outputs.values[0])
        }),
    ]
}

/// Forward and backward, in place too.
pub fn relu<T: Real>(len: usize, random: &mut Random) -> Vec<Operation<T>> {
    let u: Vec<T> = random.values(len, Data::Fractions);
    let dy: Vec<T> = random.values(len, Data::Fractions);
    let holding = |values: &Vec<T>| Outputs { values: vec![values.clone()], ..Outputs::default() };
    let (before_u, before_dy) = (holding(&u), holding(&dy));
    let [u_forward, u_backward, u_in_place] = [u.clone(), u.clone(), u];
    vec![
        Operation::writing("relu".into(), &[len], move |context, outputs| {
            elementwise::relu_forward(context, &u_forward, &mut outputs.values[0])
        }),
        Operation::new("relu in place".into(), before_u, |context, outputs| {
            elementwise::relu_forward_in_place(context, &mut outputs.values[0])
        }),
        Operation::writing("gradient of relu".into(), &[len], move |context, outputs| {
            elementwise::relu_backward(context, &u_backward, &dy, &mut outputs.values[0])
        }),
        Operation::new("gradient of relu in place".into(), before_dy, move |context, outputs| {
            elementwise::relu_backward_in_place(context, &u_in_place, &mut outputs.values[0])
        }),
    ]
}
