//! Every operation against its definition.
mod common;

use cnnkern::conv2d::{self, GradientOptions, Pass};
use cnnkern::elementwise::{
    relu_backward, relu_backward_in_place, relu_forward, relu_forward_in_place,
};
use cnnkern::gemm::{GemmBatch, GemmParams};
use cnnkern::{Activation, Algorithm, Context, Conv2dParams, Pool2dParams, im2col};

use common::calls::{self, Backward, Places, Product};
use common::cases::{for_each, for_each_seed};
use common::contexts::contexts;
use common::definitions::{self, Conv, Pool};
use common::guarded::{Guarded, Placement, page_size};
use common::random::{Data, Random};
use common::real::{Real, bits};
use common::shapes;
use common::sum::{Precision, Sum, assert_sum, assert_sums};

/// The other tests rely on it: a touch of the bytes next to a slice ends the process, or is noticed
/// when the slice is dropped.
#[test]
fn guards_notice_stray_accesses() {
    for placement in Placement::BOTH {
        let full = page_size() / size_of::<f32>();
        for len in [0, 1, full - 1, full, full + 1] {
            let mut guarded = Guarded::filled(len, placement, 1.0f32);
            let start = guarded.as_mut_ptr();
            let outside = [start.wrapping_sub(1), start.wrapping_add(len)];
            let forbidden: Vec<bool> = outside.iter().map(|&place| faults(place)).collect();
            let expected = match placement {
                Placement::Start => [true, len == full],
                Placement::End => [len == full, true],
            };
            assert_eq!(forbidden, expected, "{placement:?}, {len} elements");
            for (place, _) in outside.into_iter().zip(expected).filter(|(_, faults)| !faults) {
                assert!(guarded.is_intact());
                // SAFETY: on the slice's own page, beside it.
                let kept = unsafe { place.replace(2.0) };
                assert!(!guarded.is_intact(), "{placement:?}, {len} elements");
                // SAFETY: as above.
                unsafe { place.write(kept) };
            }
        }
    }
}

#[test]
fn read_only_slices_cannot_be_written() {
    let guarded = Guarded::copy_of(&[1.0f64; 10], Placement::End).read_only();
    assert_eq!(guarded[..], [1.0; 10]);
    assert!(faults(guarded.as_ptr().cast_mut()));
}

/// Whether writing there ends a process, tried in a child. (It writes what is there: it shares the memory.)
fn faults<T>(place: *mut T) -> bool {
    // SAFETY: the child only writes once and exits.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // SAFETY: may fault, which is the question; then the child ends without a word.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            place.write_volatile(place.read_volatile());
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: our own child.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
}

// Convolution

#[derive(Debug, Clone)]
struct Forward {
    params: Conv2dParams,
    data: Data,
    bias: bool,
    activation: Activation,
}

fn check_forward<T: Real>(contexts: &[Context], case: &Forward, random: &mut Random) {
    let conv = Conv::new(&case.params);
    let output_size = case.params.output_size().expect("valid parameters");
    assert_eq!(output_size, (conv.out_height, conv.out_width));
    let x: Vec<T> = random.values(conv.x_len(), case.data);
    let w: Vec<T> = random.values(conv.w_len(), case.data);
    let bias: Option<Vec<T>> =
        case.bias.then(|| random.values(case.params.out_channels, case.data));
    let bias = bias.as_deref();
    let mut expected = conv.y(&x, &w, bias);
    if case.activation == Activation::Relu {
        expected.iter_mut().for_each(|sum| *sum = definitions::relu_of_sum(sum));
    }
    for_each_way(contexts, &case.params, case.data, |context, params, precision| {
        let precision = match by_winograd::<T>(context, params, Pass::Forward) {
            true => tiles(&case.params, case.params.in_channels, &x, &w, 1.0),
            false => precision,
        };
        for placement in Placement::BOTH {
            let y = calls::conv_forward(context, params, &x, &w, bias, case.activation, placement);
            assert_sums(&way("y", context, params.algorithm), &y, &expected, precision);
        }
    });
}

fn by_winograd<T: Real>(context: &Context, params: &Conv2dParams, pass: Pass) -> bool {
    let query = conv2d::query::<T>(context, params, pass).expect("valid parameters");
    query.algorithm == Algorithm::Winograd
}

fn largest<T: Real>(values: &[T]) -> f64 {
    values.iter().map(|value| value.widen().abs()).fold(0.0, f64::max)
}

/// Results of a tile along an axis.
fn results(params: &Conv2dParams) -> usize {
    7 - params.kernel_height
}

/// The precision of sums over windows and `channels` of all groups.
fn tiles<T: Real>(
    params: &Conv2dParams,
    channels: usize,
    source: &[T],
    w: &[T],
    alpha: f64,
) -> Precision {
    let terms = channels / params.groups;
    let products = (params.kernel_height * params.kernel_width * terms) as f64;
    let magnitude = products * largest(source) * largest(w) * alpha.abs();
    Precision::tiles(results(params), magnitude, terms)
}

/// The precision of dw, sums over tiles of pixels.
fn tiles_of_batch<T: Real>(
    conv: &Conv,
    params: &Conv2dParams,
    x: &[T],
    dy: &[T],
    alpha: f64,
) -> Precision {
    let side = results(params);
    let terms = params.batch * conv.out_height.div_ceil(side) * conv.out_width.div_ceil(side);
    let magnitude = (side * side * terms) as f64 * largest(x) * largest(dy) * alpha.abs();
    Precision::tiles(params.kernel_height, magnitude, terms)
}

/// Calls `check` for each algorithm on each instruction set; the plain loops have only one.
fn for_each_way(
    contexts: &[Context],
    params: &Conv2dParams,
    data: Data,
    mut check: impl FnMut(&Context, &Conv2dParams, Precision),
) {
    let precision = |otherwise| match data {
        Data::Fractions => otherwise,
        Data::Integers | Data::Signs => Precision::Exact,
    };
    for context in contexts {
        for algorithm in shapes::algorithms(params) {
            check(context, &Conv2dParams { algorithm, ..*params }, precision(Precision::Own));
        }
    }
    let reference = Conv2dParams { algorithm: Algorithm::Reference, ..*params };
    check(&contexts[0], &reference, precision(Precision::Double));
}

fn way(what: &str, context: &Context, algorithm: Algorithm) -> String {
    format!("{algorithm:?} on {}: {what}", context.isa())
}

fn random_forward(random: &mut Random) -> Forward {
    Forward {
        params: shapes::random_conv(random, 100_000),
        data: random.data(),
        bias: random.once_in(2),
        activation: random.pick(&[Activation::None, Activation::Relu]),
    }
}

fn conv_forward_random<T: Real>() {
    let contexts = contexts();
    for_each_seed(300, random_forward, |case, random| check_forward::<T>(&contexts, case, random));
}

fn conv_forward_edges<T: Real>() {
    let contexts = contexts();
    let mut random = Random::new(1);
    let cases = shapes::conv_edges().into_iter().flat_map(|params| shapes::in_all_layouts(&params));
    let cases = cases.map(|params| Forward { params, ..random_forward(&mut random) });
    let mut values = Random::new(2);
    for_each(cases, |case| check_forward::<T>(&contexts, case, &mut values));
}

fn conv_forward_bias_and_activation<T: Real>() {
    let contexts = contexts();
    let mut cases = Vec::new();
    for params in
        shapes::in_all_layouts(&shapes::pad([1, 1, 1, 1], Conv2dParams::new(2, 5, 6, 9, 21, 3, 3)))
    {
        for data in Data::BOTH {
            for bias in [false, true] {
                for activation in [Activation::None, Activation::Relu] {
                    cases.push(Forward { params, data, bias, activation });
                }
            }
        }
    }
    let mut values = Random::new(3);
    for_each(cases, |case| check_forward::<T>(&contexts, case, &mut values));
}

/// What the backward pass is told of the ReLU that followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relu {
    None,
    PreActivation,
    Output,
}

const RELUS: [Relu; 3] = [Relu::None, Relu::PreActivation, Relu::Output];

#[derive(Debug, Clone)]
struct BackwardCase {
    params: Conv2dParams,
    data: Data,
    /// Of dx, dw and db.
    wanted: [bool; 3],
    relu: Relu,
    options: GradientOptions,
}

fn check_backward<T: Real>(contexts: &[Context], case: &BackwardCase, random: &mut Random) {
    let BackwardCase { params, data, wanted, relu, options } = case;
    let (data, [want_dx, want_dw, want_db]) = (*data, *wanted);
    let conv = Conv::new(params);
    let x: Vec<T> = random.values(conv.x_len(), data);
    let w: Vec<T> = random.values(conv.w_len(), data);
    let dy: Vec<T> = random.values(conv.y_len(), data);
    let mut relu_output: Vec<T> = random.values(conv.y_len(), data);
    for u in &mut relu_output {
        // a pre-activation may be exactly 0, of either sign
        match random.within(0..=9) {
            0 => *u = T::narrow(0.0),
            1 => *u = T::narrow(-0.0),
            _ => {}
        }
        if *relu == Relu::Output {
            *u = definitions::relu(*u);
        }
    }
    let relu_output = (*relu != Relu::None).then_some(relu_output.as_slice());
    let masked = relu_output.map_or(dy.clone(), |u| definitions::relu_mask(&dy, u));

    // a batch of 0 does nothing: the gradients keep what they held
    let effect = if params.batch == 0 {
        GradientOptions {
            dx_alpha: 0.0,
            dx_beta: 1.0,
            dw_alpha: 0.0,
            dw_beta: 1.0,
            db_alpha: 0.0,
            db_beta: 1.0,
        }
    } else {
        *options
    };
    // what the gradients hold before: NaN where it may not be read
    let mut before = |wanted: bool, len: usize, beta: f64| -> Option<Vec<T>> {
        wanted.then(|| if beta == 0.0 { vec![T::NAN; len] } else { random.values(len, data) })
    };
    let dx = before(want_dx, conv.x_len(), effect.dx_beta);
    let dw = before(want_dw, conv.w_len(), effect.dw_beta);
    let db = before(want_db, params.out_channels, effect.db_beta);
    let update = |sums: Vec<Sum>, before: &Option<Vec<T>>, alpha: f64, beta: f64| -> Vec<Sum> {
        let before = before.iter().flatten();
        sums.iter().zip(before).map(|(sum, old)| sum.update(alpha, beta, old.widen())).collect()
    };
    let expected = [
        want_dx.then(|| update(conv.dx(&w, &masked), &dx, effect.dx_alpha, effect.dx_beta)),
        want_dw.then(|| update(conv.dw(&x, &masked), &dw, effect.dw_alpha, effect.dw_beta)),
        want_db.then(|| update(conv.db(&masked), &db, effect.db_alpha, effect.db_beta)),
    ];
    let call = Backward {
        x: want_dw.then_some(&x),
        w: want_dx.then_some(&w),
        dy: &dy,
        relu_output,
        options: *options,
        dx: dx.as_deref(),
        dw: dw.as_deref(),
        db: db.as_deref(),
    };
    for_each_way(contexts, params, data, |context, params, precision| {
        for placement in Placement::BOTH {
            let gradients = calls::conv_backward(context, params, &call, placement);
            for (name, (gradient, expected)) in
                ["dx", "dw", "db"].iter().zip(gradients.iter().zip(&expected))
            {
                if let (Some(gradient), Some(expected)) = (gradient, expected) {
                    let precision = match *name {
                        "dx" if by_winograd::<T>(context, params, Pass::BackwardData) => {
                            tiles(params, params.out_channels, &dy, &w, options.dx_alpha)
                        }
                        "dw" if by_winograd::<T>(context, params, Pass::BackwardWeights) => {
                            tiles_of_batch(&conv, params, &x, &dy, options.dw_alpha)
                        }
                        _ => precision,
                    };
                    let what = way(name, context, params.algorithm);
                    assert_sums(&what, gradient, expected, precision);
                }
            }
        }
    });
}

fn random_options(random: &mut Random, data: Data) -> GradientOptions {
    // with integers, every factor is exact
    let alphas: &[f64] = match data {
        Data::Fractions => &[1.0, 1.0, -0.5, 0.0, 1.0 / 3.0],
        Data::Integers | Data::Signs => &[1.0, 1.0, -0.5, 0.0],
    };
    let betas: &[f64] = match data {
        Data::Fractions => &[0.0, 1.0, -0.5, 0.7],
        Data::Integers | Data::Signs => &[0.0, 1.0, -0.5],
    };
    GradientOptions {
        dx_alpha: random.pick(alphas),
        dx_beta: random.pick(betas),
        dw_alpha: random.pick(alphas),
        dw_beta: random.pick(betas),
        db_alpha: random.pick(alphas),
        db_beta: random.pick(betas),
    }
}

fn random_backward(random: &mut Random) -> BackwardCase {
    let data = random.data();
    BackwardCase {
        params: shapes::random_conv(random, 60_000),
        data,
        wanted: random.pick(&[[true, true, true], [true, false, false], [false, true, true]]),
        relu: random.pick(&RELUS),
        options: random_options(random, data),
    }
}

fn conv_backward_random<T: Real>() {
    let contexts = contexts();
    for_each_seed(300, random_backward, |case, random| {
        check_backward::<T>(&contexts, case, random);
    });
}

fn conv_backward_edges<T: Real>() {
    let contexts = contexts();
    let mut random = Random::new(4);
    let cases = shapes::conv_edges().into_iter().flat_map(|params| shapes::in_all_layouts(&params));
    let cases = cases.map(|params| {
        let data = random.data();
        BackwardCase {
            params,
            data,
            wanted: [true; 3],
            relu: random.pick(&RELUS),
            options: random_options(&mut random, data),
        }
    });
    let mut values = Random::new(5);
    for_each(cases, |case| check_backward::<T>(&contexts, case, &mut values));
}

/// Every subset of the gradients with every kind of mask, every alpha with every beta.
fn conv_backward_choices<T: Real>() {
    let contexts = contexts();
    let mut cases = Vec::new();
    for params in shapes::in_all_layouts(&shapes::stride(
        1,
        2,
        shapes::pad([1, 1, 1, 1], Conv2dParams::new(2, 5, 6, 11, 18, 3, 3)),
    )) {
        for subset in 0..8 {
            let wanted = [subset & 1 != 0, subset & 2 != 0, subset & 4 != 0];
            for relu in RELUS {
                let data = Data::Fractions;
                let options = GradientOptions::default();
                cases.push(BackwardCase { params, data, wanted, relu, options });
            }
        }
        for alpha in [0.0, 1.0, -0.5] {
            for beta in [0.0, 1.0, -0.5] {
                let options = GradientOptions {
                    dx_alpha: alpha,
                    dx_beta: beta,
                    dw_alpha: alpha,
                    dw_beta: beta,
                    db_alpha: alpha,
                    db_beta: beta,
                };
                let (data, wanted, relu) = (Data::Integers, [true; 3], Relu::PreActivation);
                cases.push(BackwardCase { params, data, wanted, relu, options });
            }
        }
    }
    let mut values = Random::new(6);
    for_each(cases, |case| check_backward::<T>(&contexts, case, &mut values));
}

// im2col and col2im

fn check_im2col<T: Real>(contexts: &[Context], params: &Conv2dParams, random: &mut Random) {
    let conv = Conv::new(params);
    let x: Vec<T> = random.values(conv.x_len(), Data::Fractions);
    for col_layout in shapes::COL_LAYOUTS {
        let expected = conv.im2col(col_layout, &x);
        assert_eq!(im2col::col_len::<T>(params), Ok(expected.len()));
        let col: Vec<T> = random.values(expected.len(), Data::Fractions);
        let expected_sums = conv.col2im(col_layout, &col);
        for context in contexts {
            let what = format!("{col_layout:?} on {}", context.isa());
            for placement in Placement::BOTH {
                let result = calls::im2col(context, params, col_layout, &x, placement);
                assert_eq!(bits(&result), bits(&expected), "{what}: col");
                let sums = calls::col2im(context, params, col_layout, &col, placement);
                assert_sums(&format!("{what}: x"), &sums, &expected_sums, Precision::Own);
            }
        }
    }
}

fn im2col_random<T: Real>() {
    let contexts = contexts();
    for_each_seed(
        200,
        |random| shapes::random_im2col(random, 30_000),
        |params, random| check_im2col::<T>(&contexts, params, random),
    );
}

fn im2col_edges<T: Real>() {
    let contexts = contexts();
    let edges = shapes::conv_edges().into_iter().filter(|params| params.groups == 1);
    let cases = edges
        .chain(shapes::im2col_edges())
        .flat_map(|params| shapes::LAYOUTS.map(|layout| Conv2dParams { layout, ..params }));
    let mut values = Random::new(7);
    for_each(cases, |params| check_im2col::<T>(&contexts, params, &mut values));
}

// Pooling

fn check_pool<T: Real>(contexts: &[Context], params: &Pool2dParams, random: &mut Random) {
    let pool = Pool::new(params);
    let output_size = params.output_size().expect("valid parameters");
    assert_eq!(output_size, (pool.out_height, pool.out_width));
    // integers have many ties
    let data = random.data();
    let x: Vec<T> = random.values(pool.x_len(), data);
    let dy: Vec<T> = random.values(pool.y_len(), data);
    let window = params.kernel_height * params.kernel_width;
    let (maxima, places) = pool.max(&x);
    let max_gradient = pool.max_gradient(&dy, &places);
    // any place in the window is a valid argmax, one in the padding too
    let any_places: Vec<usize> = dy.iter().map(|_| random.within(0..=window - 1)).collect();
    let any_gradient = pool.max_gradient(&dy, &any_places);
    let (means, mean_gradient) = (pool.mean(&x), pool.mean_gradient(&dy));
    for context in contexts {
        let isa = context.isa();
        for placement in Placement::BOTH {
            for &kind in Places::of_window(window) {
                let (y, argmax) = calls::max_forward(context, params, &x, kind, placement);
                assert_eq!(y[..], maxima, "maxima on {isa}");
                assert_eq!(argmax, places, "{kind:?} places of the maxima on {isa}");
                for (places, expected) in [(&places, &max_gradient), (&any_places, &any_gradient)] {
                    let dx = calls::max_backward(context, params, &dy, places, kind, placement);
                    let what = format!("dx of max-pool by {kind:?} on {isa}");
                    assert_sums(&what, &dx, expected, Precision::Own);
                }
            }
            let y = calls::max_forward_without_places(context, params, &x, placement);
            assert_eq!(y[..], maxima, "maxima alone on {isa}");
            let y = calls::avg_forward(context, params, &x, placement);
            assert_sums(&format!("means on {isa}"), &y, &means, Precision::Own);
            let dx = calls::avg_backward(context, params, &dy, placement);
            let what = format!("dx of average-pool on {isa}");
            assert_sums(&what, &dx, &mean_gradient, Precision::Own);
        }
    }
}

fn pool_random<T: Real>() {
    let contexts = contexts();
    for_each_seed(
        300,
        |random| shapes::random_pool(random, 20_000),
        |params, random| check_pool::<T>(&contexts, params, random),
    );
}

fn pool_edges<T: Real>() {
    let contexts = contexts();
    let mut values = Random::new(8);
    for_each(shapes::pool_edges(), |params| check_pool::<T>(&contexts, params, &mut values));
}

// GEMM

#[derive(Debug, Clone)]
struct Gemm {
    params: GemmParams,
    batch: Option<GemmBatch>,
    alpha: f64,
    beta: f64,
    data: Data,
}

const ALPHAS: [f64; 3] = [1.0, 0.0, -0.5];
const BETAS: [f64; 3] = [0.0, 1.0, -0.5];

/// `count` matrices `stride` apart, of rows `ld` apart: NaN between rows and between matrices.
fn matrices<T: Real>(
    [rows, columns]: [usize; 2],
    ld: usize,
    (count, stride): (usize, usize),
    mut value: impl FnMut() -> T,
) -> Vec<T> {
    if rows * columns * count == 0 {
        return Vec::new();
    }
    let mut matrices = vec![T::NAN; (count - 1) * stride + (rows - 1) * ld + columns];
    for matrix in 0..count {
        for row in 0..rows {
            let start = matrix * stride + row * ld;
            matrices[start..start + columns].fill_with(&mut value);
        }
    }
    matrices
}

fn check_gemm<T: Real>(contexts: &[Context], case: &Gemm, random: &mut Random) {
    let Gemm { params, batch, data, .. } = case;
    let GemmParams { transa, transb, m, n, k, lda, ldb, ldc } = *params;
    let (alpha, beta) = (T::narrow(case.alpha), T::narrow(case.beta));
    let GemmBatch { count, stride_a, stride_b, stride_c } =
        batch.unwrap_or(GemmBatch { count: 1, stride_a: 0, stride_b: 0, stride_c: 0 });
    let a = matrices(shapes::lies(transa, m, k), lda, (count, stride_a), || random.value(*data));
    let b = matrices(shapes::lies(transb, k, n), ldb, (count, stride_b), || random.value(*data));
    let c = matrices([m, n], ldc, (count, stride_c), || match case.beta {
        0.0 => T::NAN,
        _ => random.value(*data),
    });
    let mut expected: Vec<Option<Sum>> = vec![None; c.len()];
    for matrix in 0..count {
        let start = |stride: usize, len: usize| (matrix * stride).min(len);
        let (a, b) = (&a[start(stride_a, a.len())..], &b[start(stride_b, b.len())..]);
        let c = &c[start(stride_c, c.len())..];
        for i in 0..m {
            for j in 0..n {
                let sum = definitions::gemm_at(params, alpha, a, b, beta, c, [i, j]);
                expected[matrix * stride_c + i * ldc + j] = Some(sum);
            }
        }
    }
    let precision = match data {
        Data::Fractions => Precision::Own,
        Data::Integers | Data::Signs => Precision::Exact,
    };
    let product = Product { params: *params, batch: *batch, alpha, a: &a, b: &b, beta, c: &c };
    for context in contexts {
        for placement in Placement::BOTH {
            let result = calls::gemm(context, &product, placement);
            for (index, (value, expected)) in result.iter().zip(&expected).enumerate() {
                let what = format_args!("c[{index}] on {}", context.isa());
                match expected {
                    Some(sum) => assert_sum(&what, *value, sum, precision),
                    None => assert_eq!(value.bits(), T::NAN.bits(), "{what}: not an element of C"),
                }
            }
        }
    }
}

fn random_gemm(random: &mut Random) -> Gemm {
    let slack = if random.once_in(2) { [0, 0, 0] } else { [3, 5, 1] };
    Gemm {
        params: shapes::gemm_params(
            random.pick(&shapes::TRANSPOSES),
            random.pick(&shapes::TRANSPOSES),
            shapes::random_gemm(random, 200_000),
            slack,
        ),
        batch: None,
        alpha: random.pick(&[1.0, 1.0, 1.0, 0.0, -0.5]),
        beta: random.pick(&BETAS),
        data: random.data(),
    }
}

fn gemm_random<T: Real>() {
    let contexts = contexts();
    for_each_seed(300, random_gemm, |case, random| check_gemm::<T>(&contexts, case, random));
}

fn gemm_edges<T: Real>() {
    let contexts = contexts();
    let mut random = Random::new(9);
    let mut cases = Vec::new();
    for sizes in shapes::gemm_edges() {
        for transa in shapes::TRANSPOSES {
            for transb in shapes::TRANSPOSES {
                let case = random_gemm(&mut random);
                let slack = [case.params.lda % 2, case.params.ldb % 3, case.params.ldc % 4];
                let params = shapes::gemm_params(transa, transb, sizes, slack);
                cases.push(Gemm { params, ..case });
            }
        }
    }
    for_each(cases, |case| check_gemm::<T>(&contexts, case, &mut random));
}

fn gemm_alpha_and_beta<T: Real>() {
    let contexts = contexts();
    let mut cases = Vec::new();
    for sizes in [[7, 17, 3], [15, 33, 300], [5, 4, 0]] {
        for transa in shapes::TRANSPOSES {
            for transb in shapes::TRANSPOSES {
                for alpha in ALPHAS {
                    for beta in BETAS {
                        for data in Data::BOTH {
                            let params = shapes::gemm_params(transa, transb, sizes, [1, 2, 3]);
                            cases.push(Gemm { params, batch: None, alpha, beta, data });
                        }
                    }
                }
            }
        }
    }
    let mut random = Random::new(10);
    for_each(cases, |case| check_gemm::<T>(&contexts, case, &mut random));
}

/// Strides of 0 share A or B; wider ones leave a gap, which may not be touched.
fn gemm_batched<T: Real>() {
    let contexts = contexts();
    let mut random = Random::new(11);
    let mut cases = Vec::new();
    for sizes in [[1, 1, 1], [6, 16, 5], [7, 33, 19], [13, 9, 260], [3, 4, 0], [0, 2, 3]] {
        for count in [0, 1, 2, 5] {
            for (share_a, share_b) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut case = random_gemm(&mut random);
                let GemmParams { transa, transb, .. } = case.params;
                let slack = [random.within(0..=2), random.within(0..=2), random.within(0..=2)];
                case.params = shapes::gemm_params(transa, transb, sizes, slack);
                let GemmParams { m, n, k, lda, ldb, ldc, .. } = case.params;
                let (a_rows, b_rows) =
                    (shapes::lies(transa, m, k)[0], shapes::lies(transb, k, n)[0]);
                case.batch = Some(GemmBatch {
                    count,
                    stride_a: if share_a { 0 } else { a_rows * lda + random.within(0..=3) },
                    stride_b: if share_b { 0 } else { b_rows * ldb },
                    stride_c: m * ldc + random.within(0..=3),
                });
                cases.push(case);
            }
        }
    }
    for_each(cases, |case| check_gemm::<T>(&contexts, case, &mut random));
}

// ReLU

fn relu_forward_and_backward<T: Real>() {
    let contexts = contexts();
    let mut random = Random::new(12);
    for_each((0..=70).chain([1000, 100_003]), |&len: &usize| {
        let mut u: Vec<T> = random.values(len, Data::Fractions);
        for u in u.iter_mut().step_by(5) {
            *u = T::narrow(random.pick(&[0.0, -0.0]));
        }
        let dy: Vec<T> = random.values(len, Data::Fractions);
        let y: Vec<T> = u.iter().map(|&u| definitions::relu(u)).collect();
        let masked = definitions::relu_mask(&dy, &u);
        for context in &contexts {
            let isa = context.isa();
            for placement in Placement::BOTH {
                let guarded = |values: &[T]| Guarded::copy_of(values, placement);
                let nan = || Guarded::filled(len, placement, T::NAN);

                let mut result = nan();
                relu_forward(context, &guarded(&u).read_only(), &mut result).expect("lengths");
                assert_eq!(result[..], y, "y on {isa}");
                let mut in_place = guarded(&u);
                relu_forward_in_place(context, &mut in_place).expect("lengths");
                assert_eq!(in_place[..], y, "y in place on {isa}");

                for u_or_y in [&u, &y] {
                    let u_or_y = guarded(u_or_y).read_only();
                    let mut dx = nan();
                    relu_backward(context, &u_or_y, &guarded(&dy).read_only(), &mut dx)
                        .expect("lengths");
                    assert_eq!(dx[..], masked, "dx on {isa}");
                    let mut in_place = guarded(&dy);
                    relu_backward_in_place(context, &u_or_y, &mut in_place).expect("lengths");
                    assert_eq!(in_place[..], masked, "dx in place on {isa}");
                }
            }
        }
    });
}

tests_of_f32_and_f64! {
    conv_forward_random
    conv_forward_edges
    conv_forward_bias_and_activation
    conv_backward_random
    conv_backward_edges
    conv_backward_choices
    im2col_random
    im2col_edges
    pool_random
    pool_edges
    gemm_random
    gemm_edges
    gemm_alpha_and_beta
    gemm_batched
    relu_forward_and_backward
}
