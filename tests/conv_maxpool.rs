//! Convolution and max-pooling as one step against the separate calls, bit by bit.
mod common;

use cnnkern::conv2d::GradientOptions;
use cnnkern::{Activation, Algorithm, Context, Conv2dParams, Isa, Layout, Pool2dParams};

use common::calls::{self, Backward, Places};
use common::cases::{for_each, for_each_seed};
use common::contexts::{context, supported_isas};
use common::definitions::{Conv, Pool};
use common::guarded::{Guarded, Placement};
use common::random::{Data, Random};
use common::real::{Real, bits};
use common::shapes::{self, LAYOUTS, groups, pad, pool_of, random_conv, random_pool_of, stride};

/// One thread and several, in every instruction set.
fn contexts() -> Vec<Context> {
    supported_isas().into_iter().flat_map(|isa| [context(isa, 1), context(isa, 3)]).collect()
}

#[track_caller]
fn assert_same<T: Real>(what: &str, context: &Context, found: &[T], expected: &[T]) {
    let pairs = bits(found).into_iter().zip(bits(expected));
    if let Some(index) = pairs.clone().position(|(a, b)| a != b) {
        let (found, expected) = (found[index], expected[index]);
        panic!("{what}[{index}] is {found:?}, but {expected:?} of separate calls: {context:?}");
    }
    assert_eq!(found.len(), expected.len());
}

fn check<T: Real>(contexts: &[Context], params: &Conv2dParams, pool: &Pool2dParams, data: Data) {
    let conv = Conv::new(params);
    let mut random = Random::new(29);
    let mut values = |len: usize| -> Vec<T> { random.values(len, data) };
    let (x, w, bias) = (values(conv.x_len()), values(conv.w_len()), values(params.out_channels));
    let dy = values(Pool::new(pool).y_len());
    let before = [values(conv.x_len()), values(conv.w_len()), values(params.out_channels)];
    let places = Places::of_window(pool.kernel_height * pool.kernel_width);
    let places = places[conv.x_len() % places.len()];
    for context in contexts {
        for activation in [Activation::Relu, Activation::None] {
            let placement = Placement::BOTH[usize::from(activation == Activation::None)];
            let u =
                calls::conv_forward(context, params, &x, &w, Some(&bias), activation, placement);
            let (y, argmax) = calls::max_forward(context, pool, &u, places, placement);
            let inputs = [&x[..], &w, &bias];
            let (found, found_places) = calls::conv_maxpool_forward(
                context,
                (params, pool),
                inputs,
                activation,
                places,
                placement,
            );
            assert_same("y", context, &found, &y);
            assert_eq!(found_places, argmax, "{context:?}");

            let relu = activation == Activation::Relu;
            let du = calls::max_backward(context, pool, &dy, &argmax, places, placement);
            let options = match relu {
                true => GradientOptions::default(),
                false => GradientOptions {
                    dx_alpha: 0.3,
                    dx_beta: 0.7,
                    dw_alpha: -1.1,
                    dw_beta: 1.0,
                    db_alpha: 0.9,
                    db_beta: -0.2,
                },
            };
            let call = Backward {
                x: Some(&x),
                w: Some(&w),
                dy: &du,
                relu_output: relu.then_some(&u[..]),
                options,
                dx: Some(&before[0]),
                dw: Some(&before[1]),
                db: Some(&before[2]),
            };
            let expected = calls::conv_backward(context, params, &call, placement);
            let call = Backward { dy: &dy, relu_output: relu.then_some(&y[..]), ..call };
            let found = calls::conv_maxpool_backward(
                context,
                (params, pool),
                &call,
                &argmax,
                places,
                placement,
            );
            for ((what, found), expected) in ["dx", "dw", "db"].iter().zip(&found).zip(&expected) {
                let slice = |gradient: &Option<Guarded<T>>| gradient.as_deref().unwrap().to_vec();
                assert_same(what, context, &slice(found), &slice(expected));
            }
        }
    }
}

/// Every way to compute, and poolings of every kind.
fn random_steps<T: Real>() {
    let contexts = contexts();
    for_each_seed(
        120,
        |random| {
            let params = random_conv(random, 200_000);
            let pool = random_pool_of(&params, random);
            (params, pool)
        },
        |(params, pool), _| {
            for algorithm in shapes::algorithms(params) {
                let params = Conv2dParams { algorithm, ..*params };
                check::<T>(&contexts, &params, pool, Data::Fractions);
            }
        },
    );
}

/// Images that are cut into rows, in the optimized build too.
#[test]
fn large_images() {
    let contexts = [context(Isa::best(), 1), context(Isa::best(), 3)];
    let new = Conv2dParams::new;
    let convs = [
        pad([1; 4], new(2, 3, 181, 183, 24, 3, 3)),
        pad([2; 4], new(1, 8, 190, 170, 36, 5, 5)),
        pad([1; 4], new(1, 17, 130, 131, 67, 3, 3)),
        stride(2, 2, pad([3; 4], new(1, 3, 390, 371, 33, 7, 7))),
        new(1, 9, 170, 150, 41, 1, 1),
        groups(40, pad([1; 4], new(1, 40, 150, 160, 40, 3, 3))),
        pad([1; 4], new(2, 3, 61, 63, 5, 3, 3)),
    ];
    let mut cases = Vec::new();
    for (number, params) in convs.iter().enumerate() {
        for layout in LAYOUTS {
            let params = Conv2dParams { layout, ..*params };
            let pools =
                [[2, 2, 0], [3, 2, 1], [3, 1, 1], [5, 7, 0]].map(|[kernel, stride, pad]| {
                    (
                        params,
                        Pool2dParams { ceil_mode: true, ..pool_of(&params, kernel, stride, pad) },
                    )
                });
            cases.push(pools[0]);
            cases.push(pools[1 + number % 3]);
        }
    }
    for_each(cases, |(params, pool)| {
        for algorithm in [Algorithm::Auto, Algorithm::Gemm] {
            let params = Conv2dParams { algorithm, ..*params };
            check::<f32>(&contexts, &params, pool, Data::Fractions);
        }
    });
}

/// Blocks of channels that leave one over: a plane, in NHWC too.
fn one_channel_left_over<T: Real>() {
    let contexts = contexts();
    let new = Conv2dParams::new;
    let mut cases = vec![pad([1; 4], new(2, 4, 20, 30, 65, 3, 3)), new(2, 9, 20, 30, 257, 1, 1)];
    for channels in [17, 33, 65, 129] {
        cases.push(groups(channels, pad([1; 4], new(2, channels, 20, 30, channels, 3, 3))));
    }
    for_each(cases, |params| {
        let params = Conv2dParams { layout: Layout::Nhwc, ..*params };
        check::<T>(&contexts, &params, &pool_of(&params, 2, 2, 0), Data::Fractions);
    });
}

/// The oracle takes the step apart, but with the same bits.
fn by_the_reference<T: Real>() {
    let contexts = contexts();
    for layout in LAYOUTS {
        let params = Conv2dParams {
            algorithm: Algorithm::Reference,
            layout,
            ..pad([1; 4], Conv2dParams::new(2, 3, 9, 10, 5, 3, 3))
        };
        check::<T>(&contexts, &params, &pool_of(&params, 3, 2, 1), Data::Fractions);
    }
}

/// What is not finite takes the paths that padding and weights have for it.
fn not_finite<T: Real>() {
    let context = &context(supported_isas()[0], 2);
    for layout in LAYOUTS {
        let params = pad([1; 4], Conv2dParams::new(2, 18, 12, 10, 20, 3, 3));
        let params = Conv2dParams { layout, algorithm: Algorithm::Gemm, ..params };
        let pool = pool_of(&params, 2, 2, 0);
        let conv = Conv::new(&params);
        let mut random = Random::new(31);
        let mut values = |len: usize| -> Vec<T> { random.values(len, Data::Fractions) };
        let x = values(conv.x_len());
        let (mut w, mut dy) = (values(conv.w_len()), values(Pool::new(&pool).y_len()));
        w[conv.w_len() / 3] = T::NAN;
        dy[7] = T::from_f64(f64::INFINITY);
        let bias = values(params.out_channels);
        let (activation, placement) = (Activation::None, Placement::End);
        let u = calls::conv_forward(context, &params, &x, &w, Some(&bias), activation, placement);
        let (y, argmax) = calls::max_forward(context, &pool, &u, Places::U8, placement);
        let both = (&params, &pool);
        let inputs = [&x[..], &w, &bias];
        let (found, places) =
            calls::conv_maxpool_forward(context, both, inputs, activation, Places::U8, placement);
        let with_nan = |values: &[T]| -> Vec<Option<u64>> {
            let all = values.iter().zip(bits(values));
            all.map(|(value, bits)| (!value.to_f64().is_nan()).then_some(bits)).collect()
        };
        assert_eq!(with_nan(&found), with_nan(&y));
        assert_eq!(places, argmax);
        let du = calls::max_backward(context, &pool, &dy, &argmax, Places::U8, placement);
        let before = [conv.x_len(), conv.w_len(), params.out_channels].map(|len| vec![T::NAN; len]);
        let call = Backward {
            x: Some(&x),
            w: Some(&w),
            dy: &du,
            dx: Some(&before[0]),
            dw: Some(&before[1]),
            db: Some(&before[2]),
            ..Backward::default()
        };
        let expected = calls::conv_backward(context, &params, &call, placement);
        let call = Backward { dy: &dy, ..call };
        let found =
            calls::conv_maxpool_backward(context, both, &call, &argmax, Places::U8, placement);
        for (found, expected) in found.iter().zip(&expected) {
            let [found, expected] = [found, expected].map(|all| with_nan(all.as_deref().unwrap()));
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_pooling_of_something_else_is_refused() {
    let context = &context(supported_isas()[0], 1);
    let params = Conv2dParams::new(1, 2, 6, 6, 3, 3, 3);
    let pool = pool_of(&params, 2, 2, 0);
    let (x, w) = ([1.0f32; 72], [1.0f32; 54]);
    for (name, pool) in [
        ("batch", Pool2dParams { batch: 2, ..pool }),
        ("channels", Pool2dParams { channels: 2, ..pool }),
        ("in_height", Pool2dParams { in_height: 6, ..pool }),
        ("in_width", Pool2dParams { in_width: 5, ..pool }),
        ("layout", Pool2dParams { layout: Layout::Nhwc, ..pool }),
    ] {
        let mut y = vec![7.0; Pool::new(&pool).y_len()];
        let error = cnnkern::conv2d::maxpool::forward(
            context,
            &params,
            &pool,
            &x,
            &w,
            None,
            Activation::None,
            &mut y,
            None,
        )
        .expect_err(name);
        let text = error.to_string();
        assert!(text.contains(&format!("the pooling's {name} must be")), "{text}");
        assert!(y.iter().all(|&value| value == 7.0));
    }
}

tests_of_f32_and_f64! { random_steps one_channel_left_over by_the_reference not_finite }
