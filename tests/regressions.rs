//! Shapes that other libraries crash on, run out of memory or indices with, or compute wrongly.
//!
//! The tensors hold small integers, so that every sum is exact: each sampled element has to be right
//! to the last bit, but for those that are computed by Winograd's transforms.

mod common;

use cnnkern::conv2d::{Pass, query};
use cnnkern::pool2d::{self, Argmax, ArgmaxMut};
use cnnkern::{Activation, Algorithm, Context, Conv2dParams, FilterLayout, Layout, Pool2dParams};

use common::calls;
use common::contexts;
use common::definitions::{Conv, Pool};
use common::guarded::Placement;
use common::random::{Data, Random};
use common::shapes::{groups, pad, stride};
use common::sum::Sum;

/// Checks `SAMPLES` elements of y and of each gradient, the first and the last among them.
const SAMPLES: usize = 24;

fn samples(random: &mut Random, extents: [usize; 4]) -> Vec<[usize; 4]> {
    let mut all = vec![[0; 4], extents.map(|extent| extent - 1)];
    all.resize_with(SAMPLES, || extents.map(|extent| random.within(0..=extent - 1)));
    all
}

fn check_conv(context: &Context, params: &Conv2dParams) {
    let mut random = Random::new(23);
    let conv = Conv::new(params);
    let x: Vec<f32> = random.values(conv.x_len(), Data::Integers);
    let w: Vec<f32> = random.values(conv.w_len(), Data::Integers);
    let dy: Vec<f32> = random.values(conv.y_len(), Data::Integers);
    for algorithm in [Algorithm::Auto, Algorithm::Gemm] {
        let params = Conv2dParams { algorithm, ..*params };
        let activation = Activation::None;
        let y = calls::conv_forward(context, &params, &x, &w, None, activation, Placement::End);
        let [dx, dw, db] = calls::conv_gradients(context, &params, &x, &w, &dy, None);
        // Winograd's transforms round.
        let accuracy = |pass: Pass| match query::<f32>(context, &params, pass).unwrap().algorithm {
            Algorithm::Winograd => 1e-4,
            _ => 0.0,
        };
        let [of_y, of_dx, of_dw] =
            [Pass::Forward, Pass::BackwardData, Pass::BackwardWeights].map(accuracy);
        let check = |name: &str, at: [usize; 4], actual: f32, sum: Sum, accuracy: f64| {
            let error = (f64::from(actual) - sum.value).abs();
            assert!(
                error <= accuracy * sum.magnitude.max(1.0),
                "{name} at {at:?} of {params:?} is {actual}, but should be {sum:?}"
            );
        };
        for at in samples(&mut random, conv.y_extents()) {
            check("y", at, y[conv.y_index(at)], conv.y_at(&x, &w, None, at), of_y);
        }
        for at in samples(&mut random, conv.x_extents()) {
            check("dx", at, dx[conv.x_index(at)], conv.dx_at(&w, &dy, at), of_dx);
        }
        for at in samples(&mut random, conv.w_extents()) {
            check("dw", at, dw[conv.w_index(at)], conv.dw_at(&x, &dy, at), of_dw);
        }
        for (o, &db) in db.iter().enumerate() {
            check("db", [o; 4], db, conv.db_at(&dy, o), 0.0);
        }
    }
}

/// Every 1x1 layer of stride 2 with few channels, as in the shortcuts of thin residual networks.
#[test]
fn thin_pointwise_nhwc_with_stride_2() {
    let context = Context::new(&Default::default()).unwrap();
    for in_channels in [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] {
        for out_channels in [4, 6, 8, 11, 16] {
            let params = Conv2dParams {
                layout: Layout::Nhwc,
                filter_layout: FilterLayout::Ohwi,
                ..stride(2, 2, Conv2dParams::new(32, in_channels, 128, 128, out_channels, 1, 1))
            };
            let params =
                Conv2dParams { batch: if in_channels % 4 == 0 { 32 } else { 4 }, ..params };
            check_conv(&context, &params);
        }
    }
}

#[test]
fn layers_that_broke_elsewhere() {
    let new = Conv2dParams::new;
    let shapes = [
        pad([2; 4], new(32, 8, 32, 32, 8, 5, 5)),
        // few images, each of them large
        stride(2, 2, pad([3; 4], new(1, 3, 1120, 1120, 8, 7, 7))),
        // a kernel whose column matrix overflows 32 bits, and memory
        stride(2, 1, pad([10, 10, 5, 5], new(1, 32, 81, 980, 32, 21, 11))),
        pad([1; 4], new(2, 4, 8, 6, 3, 3, 3)),
        pad([1; 4], new(8, 16, 28, 28, 32, 3, 3)),
        pad([1; 4], new(32, 3, 32, 32, 16, 3, 3)),
        stride(2, 2, pad([3; 4], new(1, 3, 224, 224, 64, 7, 7))),
        new(4, 256, 14, 14, 256, 1, 1),
        groups(72, stride(2, 2, pad([2; 4], new(1, 72, 16, 16, 72, 5, 5)))),
        groups(16, pad([1; 4], new(1, 16, 16, 16, 16, 3, 3))),
        // a column matrix of over 2^31 elements, were there one
        pad([1; 4], new(1, 32, 1400, 1400, 2, 3, 3)),
    ];
    for context in [Context::new(&Default::default()).unwrap()] {
        for params in &shapes {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                check_conv(&context, &Conv2dParams { layout, ..*params });
            }
        }
    }
}

/// A stride far beyond the image, which has one column of windows then.
#[test]
fn depthwise_with_a_huge_stride() {
    for context in contexts::contexts() {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let depthwise = groups(17, Conv2dParams::new(2, 17, 9, 9, 17, 3, 3));
            for columns in [1 << 40, 1 << 60] {
                let params = stride(1, columns, pad([1; 4], depthwise));
                check_conv(&context, &Conv2dParams { layout, ..params });
            }
        }
    }
}

/// Overlapping windows on a large image, and padding larger than the window.
#[test]
fn pooling_that_broke_elsewhere() {
    let overlapping = Pool2dParams {
        stride_height: 2,
        stride_width: 2,
        pad_top: 1,
        pad_bottom: 1,
        pad_left: 1,
        pad_right: 1,
        ..Pool2dParams::new(2, 3, 112, 112, 3, 3)
    };
    let padded = Pool2dParams {
        pad_top: 10,
        pad_bottom: 10,
        pad_left: 10,
        pad_right: 10,
        ..Pool2dParams::new(2, 4, 20, 15, 5, 5)
    };
    for context in contexts::contexts() {
        for params in [overlapping, padded] {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                let params = Pool2dParams { layout, ..params };
                let pool = Pool::new(&params);
                let mut random = Random::new(29);
                let x: Vec<f32> = random.values(pool.x_len(), Data::Integers);
                let dy: Vec<f32> = random.values(pool.y_len(), Data::Integers);
                let (expected, places) = pool.max(&x);
                let (mut y, mut argmax) = (vec![f32::NAN; dy.len()], vec![77; dy.len()]);
                let written = Some(ArgmaxMut::U8(&mut argmax));
                pool2d::max_forward(&context, &params, &x, &mut y, written).unwrap();
                assert_eq!(y, expected, "{params:?}");
                assert!(argmax.iter().map(|&place| usize::from(place)).eq(places.iter().copied()));
                let mut dx = vec![f32::NAN; x.len()];
                pool2d::max_backward(&context, &params, &dy, Argmax::U8(&argmax), &mut dx).unwrap();
                let expected = pool.max_gradient(&dy, &places);
                assert!(dx.iter().zip(&expected).all(|(&dx, sum)| f64::from(dx) == sum.value));
            }
        }
    }
}
