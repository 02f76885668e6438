//! The crate's operations on guarded memory: inputs that cannot be written, outputs filled with NaN.

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients, maxpool};
use cnnkern::gemm::{self, GemmBatch, GemmParams};
use cnnkern::im2col::{self, ColLayout};
use cnnkern::pool2d::{self, Argmax, ArgmaxMut};
use cnnkern::{Activation, Context, Conv2dParams, Pool2dParams};

use super::definitions::{Conv, Pool};
use super::guarded::{Guarded, Placement, ReadOnly};
use super::real::Real;

fn input<T: Real>(values: &[T], placement: Placement) -> ReadOnly<T> {
    Guarded::copy_of(values, placement).read_only()
}

fn output<T: Real>(len: usize, placement: Placement) -> Guarded<T> {
    Guarded::filled(len, placement, T::NAN)
}

pub fn conv_forward<T: Real>(
    context: &Context,
    params: &Conv2dParams,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    placement: Placement,
) -> Guarded<T> {
    let (x, w) = (input(x, placement), input(w, placement));
    let bias = bias.map(|bias| input(bias, placement));
    let mut y = output(Conv::new(params).y_len(), placement);
    conv2d::forward(context, params, &x, &w, bias.as_deref(), activation, &mut y)
        .expect("a valid convolution");
    y
}

/// The arguments of a backward pass. Whichever of dx, dw and db has a tensor is wanted; the tensor
/// is what it holds before the call.
#[derive(Clone, Copy, Default)]
pub struct Backward<'a, T> {
    pub x: Option<&'a [T]>,
    pub w: Option<&'a [T]>,
    pub dy: &'a [T],
    pub relu_output: Option<&'a [T]>,
    pub options: GradientOptions,
    pub dx: Option<&'a [T]>,
    pub dw: Option<&'a [T]>,
    pub db: Option<&'a [T]>,
}

/// Runs a backward pass on guarded memory: dx, dw and db, as far as wanted.
fn guarded_backward<T: Real>(
    call: &Backward<'_, T>,
    placement: Placement,
    run: impl FnOnce(&BackwardInputs<'_, T>, Gradients<'_, T>) -> cnnkern::Result<()>,
) -> [Option<Guarded<T>>; 3] {
    let [x, w, relu_output] =
        [call.x, call.w, call.relu_output].map(|values| values.map(|v| input(v, placement)));
    let dy = input(call.dy, placement);
    let inputs = BackwardInputs {
        x: x.as_deref(),
        w: w.as_deref(),
        dy: &dy,
        relu_output: relu_output.as_deref(),
    };
    let mut gradients = [call.dx, call.dw, call.db]
        .map(|before| before.map(|values| Guarded::copy_of(values, placement)));
    let [dx, dw, db] = &mut gradients;
    let targets = Gradients { dx: dx.as_deref_mut(), dw: dw.as_deref_mut(), db: db.as_deref_mut() };
    run(&inputs, targets).expect("a valid backward pass");
    gradients
}

/// dx, dw and db, as far as wanted.
pub fn conv_backward<T: Real>(
    context: &Context,
    params: &Conv2dParams,
    call: &Backward<'_, T>,
    placement: Placement,
) -> [Option<Guarded<T>>; 3] {
    guarded_backward(call, placement, |inputs, targets| {
        conv2d::backward(context, params, inputs, &call.options, targets)
    })
}

/// All three gradients, overwritten.
pub fn conv_gradients<T: Real>(
    context: &Context,
    params: &Conv2dParams,
    x: &[T],
    w: &[T],
    dy: &[T],
    relu_output: Option<&[T]>,
) -> [Guarded<T>; 3] {
    let conv = Conv::new(params);
    let [dx, dw, db] =
        [conv.x_len(), conv.w_len(), params.out_channels].map(|len| vec![T::NAN; len]);
    let call = Backward {
        x: Some(x),
        w: Some(w),
        dy,
        relu_output,
        options: GradientOptions::default(),
        dx: Some(&dx),
        dw: Some(&dw),
        db: Some(&db),
    };
    conv_backward(context, params, &call, Placement::End).map(|gradient| gradient.expect("wanted"))
}

/// Convolution and max-pooling as one step: the maxima and their places.
pub fn conv_maxpool_forward<T: Real>(
    context: &Context,
    (params, pool): (&Conv2dParams, &Pool2dParams),
    [x, w, bias]: [&[T]; 3],
    activation: Activation,
    places: Places,
    placement: Placement,
) -> (Guarded<T>, Vec<usize>) {
    let [x, w, bias] = [x, w, bias].map(|values| input(values, placement));
    let len = Pool::new(pool).y_len();
    let mut y = output(len, placement);
    let mut run = |argmax| {
        let bias = Some(&bias[..]);
        maxpool::forward(context, params, pool, &x, &w, bias, activation, &mut y, Some(argmax))
            .expect("a valid convolution and pooling");
    };
    let argmax = match places {
        Places::I32 => {
            let mut argmax = Guarded::filled(len, placement, -1i32);
            run(ArgmaxMut::I32(&mut argmax));
            argmax.iter().map(|&place| usize::try_from(place).expect("a place")).collect()
        }
        Places::U8 => {
            let mut argmax = Guarded::filled(len, placement, u8::MAX);
            run(ArgmaxMut::U8(&mut argmax));
            argmax.iter().map(|&place| usize::from(place)).collect()
        }
    };
    (y, argmax)
}

/// dx, dw and db, as far as wanted, from the gradient of the maxima.
pub fn conv_maxpool_backward<T: Real>(
    context: &Context,
    (params, pool): (&Conv2dParams, &Pool2dParams),
    call: &Backward<'_, T>,
    argmax: &[usize],
    places: Places,
    placement: Placement,
) -> [Option<Guarded<T>>; 3] {
    guarded_backward(call, placement, |inputs, targets| {
        let run = |argmax| {
            maxpool::backward(context, params, pool, inputs, argmax, &call.options, targets)
        };
        match places {
            Places::I32 => {
                let argmax: Vec<i32> = argmax.iter().map(|&place| place as i32).collect();
                run(Argmax::I32(&Guarded::copy_of(&argmax, placement).read_only()))
            }
            Places::U8 => {
                let argmax: Vec<u8> = argmax.iter().map(|&place| place as u8).collect();
                run(Argmax::U8(&Guarded::copy_of(&argmax, placement).read_only()))
            }
        }
    })
}

pub fn im2col<T: Real>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    x: &[T],
    placement: Placement,
) -> Guarded<T> {
    let x = input(x, placement);
    let mut col = output(Conv::new(params).col_len(), placement);
    im2col::im2col(context, params, col_layout, &x, &mut col).expect("a valid im2col");
    col
}

pub fn col2im<T: Real>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    col: &[T],
    placement: Placement,
) -> Guarded<T> {
    let col = input(col, placement);
    let mut x = output(Conv::new(params).x_len(), placement);
    im2col::col2im(context, params, col_layout, &col, &mut x).expect("a valid col2im");
    x
}

/// How argmax is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    I32,
    U8,
}

impl Places {
    /// Those that a window of `cells` may have.
    pub fn of_window(cells: usize) -> &'static [Places] {
        if cells <= 256 { &[Places::I32, Places::U8] } else { &[Places::I32] }
    }
}

/// The maxima and their places.
pub fn max_forward<T: Real>(
    context: &Context,
    params: &Pool2dParams,
    x: &[T],
    places: Places,
    placement: Placement,
) -> (Guarded<T>, Vec<usize>) {
    let x = input(x, placement);
    let len = Pool::new(params).y_len();
    let mut y = output(len, placement);
    let argmax = match places {
        Places::I32 => {
            let mut argmax = Guarded::filled(len, placement, -1i32);
            pool2d::max_forward(context, params, &x, &mut y, Some(ArgmaxMut::I32(&mut argmax)))
                .expect("a valid pooling");
            argmax.iter().map(|&place| usize::try_from(place).expect("a place")).collect()
        }
        Places::U8 => {
            let mut argmax = Guarded::filled(len, placement, u8::MAX);
            pool2d::max_forward(context, params, &x, &mut y, Some(ArgmaxMut::U8(&mut argmax)))
                .expect("a valid pooling");
            argmax.iter().map(|&place| usize::from(place)).collect()
        }
    };
    (y, argmax)
}

/// The maxima alone.
pub fn max_forward_without_places<T: Real>(
    context: &Context,
    params: &Pool2dParams,
    x: &[T],
    placement: Placement,
) -> Guarded<T> {
    let x = input(x, placement);
    let mut y = output(Pool::new(params).y_len(), placement);
    pool2d::max_forward(context, params, &x, &mut y, None).expect("a valid pooling");
    y
}

pub fn max_backward<T: Real>(
    context: &Context,
    params: &Pool2dParams,
    dy: &[T],
    argmax: &[usize],
    places: Places,
    placement: Placement,
) -> Guarded<T> {
    let dy = input(dy, placement);
    let mut dx = output(Pool::new(params).x_len(), placement);
    match places {
        Places::I32 => {
            let argmax: Vec<i32> = argmax.iter().map(|&place| place as i32).collect();
            let argmax = Guarded::copy_of(&argmax, placement).read_only();
            pool2d::max_backward(context, params, &dy, Argmax::I32(&argmax), &mut dx)
        }
        Places::U8 => {
            let argmax: Vec<u8> = argmax.iter().map(|&place| place as u8).collect();
            let argmax = Guarded::copy_of(&argmax, placement).read_only();
            pool2d::max_backward(context, params, &dy, Argmax::U8(&argmax), &mut dx)
        }
    }
    .expect("a valid pooling");
    dx
}

pub fn avg_forward<T: Real>(
    context: &Context,
    params: &Pool2dParams,
    x: &[T],
    placement: Placement,
) -> Guarded<T> {
    let x = input(x, placement);
    let mut y = output(Pool::new(params).y_len(), placement);
    pool2d::avg_forward(context, params, &x, &mut y).expect("a valid pooling");
    y
}

pub fn avg_backward<T: Real>(
    context: &Context,
    params: &Pool2dParams,
    dy: &[T],
    placement: Placement,
) -> Guarded<T> {
    let dy = input(dy, placement);
    let mut dx = output(Pool::new(params).x_len(), placement);
    pool2d::avg_backward(context, params, &dy, &mut dx).expect("a valid pooling");
    dx
}

/// The operands of a product, or of a batch of them: slices that end where the last matrix ends.
#[derive(Clone, Copy)]
pub struct Product<'a, T> {
    pub params: GemmParams,
    /// None = a single product, by the call without a batch.
    pub batch: Option<GemmBatch>,
    pub alpha: T,
    pub a: &'a [T],
    pub b: &'a [T],
    pub beta: T,
    /// What C holds before the call.
    pub c: &'a [T],
}

/// C after the call.
pub fn gemm<T: Real>(
    context: &Context,
    product: &Product<'_, T>,
    placement: Placement,
) -> Guarded<T> {
    let Product { params, batch, alpha, a, b, beta, c } = product;
    let (a, b) = (input(a, placement), input(b, placement));
    let mut c = Guarded::copy_of(c, placement);
    match batch {
        None => gemm::gemm(context, params, *alpha, &a, &b, *beta, &mut c),
        Some(batch) => gemm::gemm_batched(context, params, batch, *alpha, &a, &b, *beta, &mut c),
    }
    .expect("a valid product");
    c
}
