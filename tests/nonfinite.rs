//! NaN and infinity come out where the plain sum gives them; denormals are not flushed; what must
//! not be read is not.

mod common;

use cnnkern::gemm::{self, GemmParams, Transpose};
use cnnkern::{Activation, Algorithm, Conv2dParams, elementwise};

use common::calls;
use common::contexts;
use common::definitions::{self, Conv};
use common::guarded::Placement;
use common::random::{Data, Random};
use common::real::Real;
use common::shapes;
use common::sum::Sum;

const SPECIAL: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// The same infinity, both NaN, or both finite.
fn same_kind<T: Real>(what: &str, results: &[T], sums: &[Sum]) {
    for (index, (result, sum)) in results.iter().zip(sums).enumerate() {
        let (result, expected) = (result.widen(), sum.value);
        let same = if expected.is_finite() {
            result.is_finite()
        } else {
            result == expected || result.is_nan() && expected.is_nan()
        };
        assert!(same, "{what}[{index}] is {result}, but should be {expected}");
    }
}

/// `values` with a few specials strewn in.
fn strewn<T: Real>(random: &mut Random, mut values: Vec<T>) -> Vec<T> {
    for _ in 0..random.within(1..=2) {
        let place = random.within(0..=values.len() - 1);
        values[place] = T::narrow(random.pick(&SPECIAL));
    }
    values
}

fn convolution<T: Real>() {
    let mut random = Random::new(31);
    let edges: Vec<Conv2dParams> =
        shapes::conv_edges().into_iter().filter(|params| params.batch > 0).take(45).collect();
    for context in contexts::contexts() {
        for edge in &edges {
            let params = random.pick(&shapes::in_all_layouts(edge));
            let conv = Conv::new(&params);
            let mut plain = |len: usize| -> Vec<T> { random.values(len, Data::Fractions) };
            let (x, w, dy) = (plain(conv.x_len()), plain(conv.w_len()), plain(conv.y_len()));
            for algorithm in [Algorithm::Gemm, Algorithm::Reference] {
                let params = Conv2dParams { algorithm, ..params };
                let what = |name: &str| format!("{name} by {algorithm:?} of {params:?}");
                let (x2, w2, dy2) = (
                    strewn(&mut random, x.clone()),
                    strewn(&mut random, w.clone()),
                    strewn(&mut random, dy.clone()),
                );
                for (x, w) in [(&x2, &w), (&x, &w2)] {
                    let none = Activation::None;
                    let y =
                        calls::conv_forward(&context, &params, x, w, None, none, Placement::End);
                    same_kind(&what("y"), &y, &conv.y(x, w, None));
                }
                for (x, w, dy) in [(&x2, &w, &dy), (&x, &w2, &dy), (&x, &w, &dy2)] {
                    let [dx, dw, db] = calls::conv_gradients(&context, &params, x, w, dy, None);
                    same_kind(&what("dx"), &dx, &conv.dx(w, dy));
                    same_kind(&what("dw"), &dw, &conv.dw(x, dy));
                    same_kind(&what("db"), &db, &conv.db(dy));
                }
            }
        }
    }
}

fn relu<T: Real>() {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, -1.0, 1.0];
    let u: Vec<T> = values.iter().cycle().take(101).map(|&value| T::narrow(value)).collect();
    let dy: Vec<T> = (0..101).map(|i| T::narrow(f64::from(i) + 1.0)).collect();
    for context in contexts::contexts() {
        let (mut y, mut dx) = (u.clone(), dy.clone());
        elementwise::relu_forward(&context, &u, &mut y).unwrap();
        elementwise::relu_backward(&context, &u, &dy, &mut dx).unwrap();
        let masked = definitions::relu_mask(&dy, &u);
        for index in 0..u.len() {
            let expected = definitions::relu(u[index]).widen();
            let actual = y[index].widen();
            assert!(actual == expected || actual.is_nan() && expected.is_nan(), "relu at {index}");
            assert_eq!(dx[index].widen(), masked[index].widen(), "the gradient at {index}");
        }
    }
}

fn gemm_reads_only_what_it_needs<T: Real>() {
    let (m, n, k) = (37, 41, 300);
    let (transa, transb) = (Transpose::No, Transpose::No);
    let params = GemmParams { transa, transb, m, n, k, lda: k, ldb: n, ldc: n };
    let number = |value: f64| T::narrow(value);
    for context in contexts::contexts() {
        let (a, b) = (vec![T::NAN; m * k], vec![T::NAN; k * n]);
        let mut c = vec![number(3.0); m * n];
        gemm::gemm(&context, &params, number(0.0), &a, &b, number(2.0), &mut c).unwrap();
        assert!(c.iter().all(|c| c.widen() == 6.0), "alpha = 0 reads neither A nor B");
        let (a, b) = (vec![number(1.0); m * k], vec![number(1.0); k * n]);
        let mut c = vec![T::NAN; m * n];
        gemm::gemm(&context, &params, number(1.0), &a, &b, number(0.0), &mut c).unwrap();
        assert!(c.iter().all(|c| c.widen() == k as f64), "beta = 0 does not read C");
        gemm::gemm(&context, &params, number(0.0), &a, &b, number(0.0), &mut c).unwrap();
        assert!(c.iter().all(|c| c.widen() == 0.0), "alpha = beta = 0 clears C");
    }
}

fn denormals_are_kept<T: Real>() {
    let tiny = T::narrow(T::TINIEST * 2.0);
    let params = Conv2dParams::new(1, 1, 5, 37, 1, 1, 1);
    let x = vec![tiny; 5 * 37];
    for context in contexts::contexts() {
        let w = [T::narrow(1.0)];
        let none = Activation::None;
        let y = calls::conv_forward(&context, &params, &x, &w, None, none, Placement::End);
        assert!(y.iter().all(|y| y.widen() == tiny.widen()), "on {}", context.isa());
    }
}

tests_of_f32_and_f64! {
    convolution
    relu
    gemm_reads_only_what_it_needs
    denormals_are_kept
}
