//! Every pooling against the plain loops, on every instruction set and in both layouts.

use super::{Argmax, ArgmaxMut, avg_backward, avg_forward, max_backward, max_forward};
use crate::reference;
use crate::shape::{Layout, Pool2dParams, PoolPadding, PoolShape, activation_strides};
use crate::simd::{CACHE_LINE, Element};
use crate::testing::{Random, assert_same_bits, contexts, guarded, values, written};
use crate::{Context, Error};

/// Cells of the largest window, which a sum goes over at the most.
fn terms(shape: &PoolShape) -> f64 {
    shape.window_len() as f64
}

/// Half a unit in the last place of 1.
fn rounding<T: Element>() -> f64 {
    if size_of::<T>() == 4 { f64::from(f32::EPSILON) / 2.0 } else { f64::EPSILON / 2.0 }
}

/// `magnitude` is the sum of the terms' magnitudes, `roundings` how often one of them was rounded.
fn assert_near<T: Element>(found: &[T], expected: &[T], magnitude: &[T], roundings: f64) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected) = (found.to_f64(), expected.to_f64());
        let tolerance = roundings * rounding::<T>() * magnitude[index].to_f64();
        assert!(
            (found - expected).abs() <= tolerance || (found.is_nan() && expected.is_nan()),
            "element {index} is {found}, but must be {expected} within {tolerance}"
        );
    }
}

/// Small integers, so that there are ties, and among them what a maximum must not stumble over.
fn with_ties<T: Element>(seed: u64, len: usize, specials: bool) -> Vec<T> {
    let mut random = Random(seed);
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-40];
    // So many in a hundred: everywhere, or in some rows only.
    let many = [1, 20][random.within(0..=1)];
    let value = |random: &mut Random| {
        if specials && random.chance(many) {
            special[random.within(0..=4)]
        } else {
            random.within(0..=6) as f64 - 4.0
        }
    };
    (0..len).map(|_| T::from_f64(value(&mut random))).collect()
}

/// The tensor of the other layout.
fn relaid<T: Copy>(tensor: &[T], layout: Layout, [_, c, h, w]: [usize; 4]) -> Vec<T> {
    let other = if layout == Layout::Nchw { Layout::Nhwc } else { Layout::Nchw };
    let from = activation_strides(layout, c, h, w);
    let to = activation_strides(other, c, h, w);
    let mut all = tensor.to_vec();
    for index in 0..tensor.len() {
        let at = [index / (c * h * w), index / (h * w) % c, index / w % h, index % w];
        let of = |strides: [usize; 4]| (0..4).map(|axis| at[axis] * strides[axis]).sum::<usize>();
        all[of(to)] = tensor[of(from)];
    }
    all
}

fn places_of(context: &Context, params: &Pool2dParams, x: &[impl Element]) -> Vec<i32> {
    let mut places = vec![-1; PoolShape::new(params, 4).unwrap().output_len()];
    let mut y = vec![x.first().copied().unwrap_or_default(); places.len()];
    max_forward(context, params, x, &mut y, Some(ArgmaxMut::I32(&mut places))).unwrap();
    places
}

fn check_max<T: Element>(contexts: &[Context], params: &Pool2dParams, specials: bool) {
    let Ok(shape) = PoolShape::new(params, size_of::<T>()) else { return };
    let (x_len, y_len) = (shape.input_len(), shape.output_len());
    let x: Vec<T> = with_ties(x_len as u64, x_len, specials);
    let (mut y, mut places) = (vec![T::default(); y_len], vec![-1; y_len]);
    reference::maxpool2d_forward(&shape, &x, &mut y, Some(ArgmaxMut::I32(&mut places)));
    let bytes: Vec<u8> = places.iter().map(|&place| place as u8).collect();

    let dy: Vec<T> = values(1, y_len);
    let magnitudes: Vec<T> = dy.iter().map(|dy| T::from_f64(dy.to_f64().abs())).collect();
    let (mut dx, mut magnitude) = (vec![T::default(); x_len], vec![T::default(); x_len]);
    reference::maxpool2d_backward(&shape, &dy, Argmax::I32(&places), &mut dx);
    reference::maxpool2d_backward(&shape, &magnitudes, Argmax::I32(&places), &mut magnitude);
    let mut first_dx = None;

    for context in contexts {
        guarded(y_len, |y| max_forward(context, params, &x, y, None).unwrap(), &y);
        let mut found = vec![-1; y_len];
        let argmax = Some(ArgmaxMut::I32(&mut found));
        guarded(y_len, |y| max_forward(context, params, &x, y, argmax).unwrap(), &y);
        assert_eq!(found, places);
        let gradient =
            |argmax| written(x_len, |dx| max_backward(context, params, &dy, argmax, dx).unwrap());
        let found = gradient(Argmax::I32(&places));
        assert_near(&found, &dx, &magnitude, terms(&shape));
        assert_same_bits(&found, first_dx.get_or_insert_with(|| found.clone()));
        if shape.window_len() <= 256 {
            let mut found_bytes = vec![0xee; y_len];
            let argmax = Some(ArgmaxMut::U8(&mut found_bytes));
            guarded(y_len, |y| max_forward(context, params, &x, y, argmax).unwrap(), &y);
            assert_eq!(found_bytes, bytes);
            assert_same_bits(&gradient(Argmax::U8(&bytes)), &found);
        }
    }
}

fn check_average<T: Element>(contexts: &[Context], params: &Pool2dParams, specials: bool) {
    let Ok(shape) = PoolShape::new(params, size_of::<T>()) else { return };
    let magnitudes =
        |all: &[T]| all.iter().map(|x| T::from_f64(x.to_f64().abs())).collect::<Vec<_>>();
    let (x_len, y_len) = (shape.input_len(), shape.output_len());
    let mut x: Vec<T> = values(2, x_len);
    if specials {
        for (at, x) in x.iter_mut().enumerate().filter(|(at, _)| at % 7 == 3) {
            *x = T::from_f64([f64::NAN, f64::INFINITY, f64::NEG_INFINITY][at % 3]);
        }
    }
    let (mut y, mut y_magnitude) = (vec![T::default(); y_len], vec![T::default(); y_len]);
    reference::avgpool2d_forward(&shape, &x, &mut y);
    reference::avgpool2d_forward(&shape, &magnitudes(&x), &mut y_magnitude);
    let dy: Vec<T> = values(3, y_len);
    let (mut dx, mut dx_magnitude) = (vec![T::default(); x_len], vec![T::default(); x_len]);
    reference::avgpool2d_backward(&shape, &dy, &mut dx);
    reference::avgpool2d_backward(&shape, &magnitudes(&dy), &mut dx_magnitude);

    let mut first = None;
    for context in contexts {
        let found_y = written(y_len, |y| avg_forward(context, params, &x, y).unwrap());
        // Each term once per sum that it enters, the division, and the expected value's own.
        let same_infinity = |at: usize| found_y[at] == y[at];
        for at in (0..y_len).filter(|&at| !same_infinity(at)) {
            let roundings = terms(&shape) + 2.0;
            assert_near(&found_y[at..=at], &y[at..=at], &y_magnitude[at..=at], roundings);
        }
        let found_dx = written(x_len, |dx| avg_backward(context, params, &dy, dx).unwrap());
        // Also the reciprocal and the product with it.
        assert_near(&found_dx, &dx, &dx_magnitude, terms(&shape) + 3.0);
        let (first_y, first_dx) = first.get_or_insert_with(|| (found_y.clone(), found_dx.clone()));
        assert_same_bits(&found_y, first_y);
        assert_same_bits(&found_dx, first_dx);
    }
}

/// All passes give both layouts the same bits.
fn check_layouts<T: Element>(context: &Context, params: &Pool2dParams) {
    let Ok(shape) = PoolShape::new(params, size_of::<T>()) else { return };
    let layout = params.layout;
    let other_layout = if layout == Layout::Nchw { Layout::Nhwc } else { Layout::Nchw };
    let other = Pool2dParams { layout: other_layout, ..*params };
    let (n, c) = (shape.batch, shape.channels);
    let x_shape = [n, c, shape.height.input, shape.width.input];
    let y_shape = [n, c, shape.height.output, shape.width.output];
    let (x, dy): (Vec<T>, Vec<T>) = (values(4, shape.input_len()), values(5, shape.output_len()));
    let places = places_of(context, params, &x);
    let other_x = relaid(&x, layout, x_shape);
    let other_dy = relaid(&dy, layout, y_shape);
    let other_places = relaid(&places, layout, y_shape);
    assert_eq!(places_of(context, &other, &other_x), other_places);

    let mean = |params, x: &[T]| written(dy.len(), |y| avg_forward(context, params, x, y).unwrap());
    assert_same_bits(&mean(&other, &other_x), &relaid(&mean(params, &x), layout, y_shape));
    let spread =
        |params, dy: &[T]| written(x.len(), |dx| avg_backward(context, params, dy, dx).unwrap());
    assert_same_bits(&spread(&other, &other_dy), &relaid(&spread(params, &dy), layout, x_shape));
    let routed = |params, dy: &[T], places: &[i32]| {
        let argmax = Argmax::I32(places);
        written(x.len(), |dx| max_backward(context, params, dy, argmax, dx).unwrap())
    };
    assert_same_bits(
        &routed(&other, &other_dy, &other_places),
        &relaid(&routed(params, &dy, &places), layout, x_shape),
    );
}

fn check(contexts: &[Context], params: &Pool2dParams, specials: bool) {
    println!("{params:?}, specials: {specials}");
    check_max::<f32>(contexts, params, specials);
    check_max::<f64>(contexts, params, specials);
    check_average::<f32>(contexts, params, specials);
    check_average::<f64>(contexts, params, specials);
    check_layouts::<f32>(contexts.last().unwrap(), params);
}

#[test]
fn random_shapes() {
    let contexts = contexts();
    let mut random = Random(11);
    for _ in 0..400 {
        let extents = [2, 19, 9, 40].map(|most| random.within(1..=most));
        let [batch, channels, height, width] = extents;
        let [kernel_height, kernel_width] = [(); 2].map(|()| random.within(1..=4));
        let square = random.chance(50);
        let strides = [(); 2].map(|()| random.within(1..=4));
        let params = Pool2dParams {
            stride_height: if square { kernel_height } else { strides[0] },
            stride_width: if square { kernel_width } else { strides[1] },
            pad_top: random.within(0..=3),
            pad_bottom: random.within(0..=3),
            pad_left: random.within(0..=3),
            pad_right: random.within(0..=5),
            dilation_height: random.within(1..=2),
            dilation_width: random.within(1..=3),
            ceil_mode: random.chance(50),
            padding: if random.chance(50) { PoolPadding::Excluded } else { PoolPadding::Zero },
            layout: if random.chance(50) { Layout::Nchw } else { Layout::Nhwc },
            ..Pool2dParams::new(batch, channels, height, width, kernel_height, kernel_width)
        };
        let specials = random.chance(50);
        check(&contexts, &params, specials);
    }
}

/// As many windows as cells, whatever lies in the padding before them and behind them.
#[test]
fn windows_that_keep_the_extent() {
    let contexts = contexts();
    let mut random = Random(12);
    for kernel_height in 1..=6 {
        for kernel_width in 1..=6 {
            for padding in [PoolPadding::Excluded, PoolPadding::Zero] {
                let [pad_top, pad_left] =
                    [kernel_height, kernel_width].map(|kernel| random.within(0..=kernel - 1));
                let [channels, height, width] = [5, 14, 37].map(|most| random.within(1..=most));
                let params = Pool2dParams {
                    stride_height: 1,
                    stride_width: 1,
                    pad_top,
                    pad_bottom: kernel_height - 1 - pad_top,
                    pad_left,
                    pad_right: kernel_width - 1 - pad_left,
                    padding,
                    ..Pool2dParams::new(2, channels, height, width, kernel_height, kernel_width)
                };
                assert_eq!(params.output_size(), Ok((height, width)));
                check(&contexts, &params, random.chance(50));
            }
        }
    }
}

/// The same stride along both axes, and the same padding on all sides.
fn with_stride(params: Pool2dParams, stride: usize, pad: usize) -> Pool2dParams {
    Pool2dParams {
        stride_height: stride,
        stride_width: stride,
        pad_top: pad,
        pad_bottom: pad,
        pad_left: pad,
        pad_right: pad,
        ..params
    }
}

/// The windows that have loops of their own, at widths around a vector and around a tile.
#[test]
fn common_windows_of_every_width() {
    let contexts = contexts();
    let windows = [
        (2, 2, 0),
        (3, 2, 1),
        (3, 2, 0),
        (3, 1, 1),
        (3, 3, 0),
        (9, 1, 4),
        (1, 1, 0),
        (1, 2, 0),
        (5, 3, 2),
        (5, 1, 2),
        (4, 2, 3),
        (7, 2, 3),
    ];
    for (kernel, stride, pad) in windows {
        for width in (1..=36).chain([64, 65, 511, 513, 1025, 1029]) {
            if width + 2 * pad < kernel {
                continue;
            }
            let height = if width < 36 { kernel + 3 } else { kernel };
            for (layout, channels) in [(Layout::Nchw, 1), (Layout::Nhwc, 2), (Layout::Nhwc, 9)] {
                let params = Pool2dParams::new(1, channels, height, width, kernel, kernel);
                let params = Pool2dParams {
                    ceil_mode: width % 2 == 0,
                    layout,
                    ..with_stride(params, stride, pad)
                };
                check(&contexts, &params, width % 3 == 0);
            }
        }
    }
}

/// Shapes at which one loop or another does nothing, or takes the way for the odd ones out.
#[test]
fn odd_shapes() {
    let contexts = contexts();
    let zero = |params: Pool2dParams| Pool2dParams { padding: PoolPadding::Zero, ..params };
    let basis = Pool2dParams::new(1, 1, 1, 1, 1, 1);
    let far = Pool2dParams {
        // Windows that lie in the padding altogether, on all sides.
        pad_top: 5,
        pad_bottom: 6,
        pad_left: 7,
        pad_right: 8,
        stride_height: 2,
        stride_width: 2,
        ..Pool2dParams::new(1, 3, 2, 3, 2, 2)
    };
    let sparse =
        Pool2dParams { stride_height: 5, stride_width: 7, ..Pool2dParams::new(1, 2, 12, 40, 2, 2) };
    let dilated = Pool2dParams {
        stride_height: 1,
        stride_width: 2,
        dilation_height: 3,
        dilation_width: 4,
        pad_left: 9,
        pad_right: 9,
        ..Pool2dParams::new(2, 3, 9, 20, 3, 5)
    };
    let long = |width, kernel| Pool2dParams::new(1, 1, 1, width, 1, kernel);
    let shapes = [
        basis,
        Pool2dParams { batch: 0, ..basis },
        far,
        zero(far),
        sparse,
        dilated,
        zero(dilated),
        // Global, with full and with ragged blocks of planes.
        Pool2dParams::new(2, 16, 7, 7, 7, 7),
        Pool2dParams::new(1, 35, 6, 5, 6, 5),
        Pool2dParams::new(1, 2, 260, 259, 260, 259),
        // More than 256 cells, and more phases than scratch memory has room for.
        Pool2dParams::new(1, 2, 40, 40, 17, 16),
        long(3_000, 1_000),
        Pool2dParams { stride_width: 1, ..long(3_000, 1_500) },
        Pool2dParams { stride_width: 70_000, ..long(700_000, 65_000) },
        // A padding in which whole windows would fit, but none does.
        Pool2dParams {
            stride_height: 2,
            pad_top: 3,
            pad_bottom: 6,
            pad_left: 8,
            dilation_height: 2,
            dilation_width: 2,
            ..Pool2dParams::new(2, 3, 5, 9, 1, 7)
        },
        // Large windows that overlap, some of them in the padding alone.
        Pool2dParams {
            stride_height: 1,
            stride_width: 1,
            pad_top: 8,
            pad_left: 9,
            ..Pool2dParams::new(1, 3, 4, 5, 5, 4)
        },
        // Several bands of rows, and several chunks of channels.
        Pool2dParams {
            stride_height: 1,
            stride_width: 1,
            ..Pool2dParams::new(1, 2, 150, 75, 3, 3)
        },
        Pool2dParams {
            stride_height: 2,
            stride_width: 2,
            ..Pool2dParams::new(2, 1, 199, 130, 3, 2)
        },
        Pool2dParams { stride_height: 1, stride_width: 2, ..Pool2dParams::new(1, 140, 9, 8, 6, 4) },
        // Several strips, of one vector of channels and a part of another.
        with_stride(Pool2dParams::new(1, 20, 43, 9, 5, 5), 1, 2),
        with_stride(Pool2dParams::new(2, 19, 30, 6, 3, 3), 1, 1),
        with_stride(Pool2dParams::new(1, 17, 30, 11, 3, 3), 2, 1),
        with_stride(Pool2dParams::new(1, 70, 21, 12, 3, 3), 2, 0),
        with_stride(Pool2dParams::new(1, 33, 27, 14, 2, 2), 2, 1),
        with_stride(Pool2dParams::new(1, 19, 20, 9, 2, 2), 1, 0),
        // Windows that lie in the padding altogether beside some that share rows.
        Pool2dParams {
            pad_top: 4,
            pad_bottom: 5,
            pad_left: 6,
            pad_right: 4,
            ..with_stride(Pool2dParams::new(1, 3, 5, 4, 3, 3), 1, 0)
        },
        zero(Pool2dParams {
            ceil_mode: true,
            ..with_stride(Pool2dParams::new(1, 3, 10, 8, 3, 3), 2, 2)
        }),
        zero(with_stride(Pool2dParams::new(1, 21, 11, 7, 5, 5), 1, 4)),
        // A window larger than the input.
        with_stride(Pool2dParams::new(1, 18, 2, 1, 5, 5), 1, 3),
        // Large windows of several vectors at a time, and of what is left.
        Pool2dParams::new(1, 141, 7, 7, 7, 7),
        // Short rows of windows: several in a vector, through all planes or in each of them, and rows and
        // columns under none.
        Pool2dParams::new(3, 5, 10, 10, 2, 2),
        Pool2dParams::new(2, 9, 6, 4, 2, 2),
        Pool2dParams::new(2, 3, 9, 13, 2, 2),
        Pool2dParams::new(1, 5, 8, 17, 2, 2),
        Pool2dParams { pad_top: 1, ..Pool2dParams::new(2, 3, 9, 8, 2, 2) },
        Pool2dParams::new(4, 20, 12, 14, 2, 2),
        // Many tasks of several planes and of parts of one.
        Pool2dParams { stride_height: 1, ..Pool2dParams::new(3, 40, 30, 31, 3, 2) },
        Pool2dParams { layout: Layout::Nhwc, ..Pool2dParams::new(1, 300, 16, 16, 2, 2) },
    ];
    for params in shapes {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for specials in [false, true] {
                check(&contexts, &Pool2dParams { layout, ..params }, specials);
            }
        }
    }
}

/// `write` to `len` elements that begin with a cache line, and so may be written past the caches.
fn written_aligned<T: Element>(len: usize, write: impl FnOnce(&mut [T])) -> Vec<T> {
    let mut buffer = vec![T::from_f64(f64::NAN); len + CACHE_LINE];
    let first = buffer.as_ptr().align_offset(CACHE_LINE);
    write(&mut buffer[first..first + len]);
    let around = buffer[..first].iter().chain(&buffer[first + len..]);
    assert!(around.copied().all(|value| value.to_f64().is_nan()), "written outside");
    buffer[first..first + len].to_vec()
}

fn check_aligned<T: Element>(context: &Context, params: &Pool2dParams) {
    let shape = PoolShape::new(params, size_of::<T>()).unwrap();
    let (x_len, y_len) = (shape.input_len(), shape.output_len());
    let x: Vec<T> = with_ties(3, x_len, false);
    let (mut y, mut places) = (vec![T::default(); y_len], vec![0; y_len]);
    reference::maxpool2d_forward(&shape, &x, &mut y, Some(ArgmaxMut::U8(&mut places)));
    let mut found = vec![0xee; y_len];
    let argmax = Some(ArgmaxMut::U8(&mut found));
    let maxima = written_aligned(y_len, |y| max_forward(context, params, &x, y, argmax).unwrap());
    assert_same_bits(&maxima, &y);
    assert_eq!(found, places);
    let dy: Vec<T> = values(5, y_len);
    let gradient =
        |dx: &mut [T]| max_backward(context, params, &dy, Argmax::U8(&places), dx).unwrap();
    assert_same_bits(&written_aligned(x_len, gradient), &written(x_len, gradient));
    let mean = |y: &mut [T]| avg_forward(context, params, &x, y).unwrap();
    assert_same_bits(&written_aligned(y_len, mean), &written(y_len, mean));
}

/// Large tensors are written past the caches where each vector begins at a multiple of its size.
#[test]
fn whole_cache_lines() {
    for context in contexts() {
        for (kernel, stride, pad) in
            [(2, 2, 0), (2, 1, 0), (3, 2, 1), (3, 1, 1), (5, 1, 2), (7, 1, 3), (4, 4, 0)]
        {
            for channels in [16, 48] {
                let params = Pool2dParams::new(1, channels, 24, 27, kernel, kernel);
                let params =
                    Pool2dParams { layout: Layout::Nhwc, ..with_stride(params, stride, pad) };
                check_aligned::<f32>(&context, &params);
                check_aligned::<f64>(&context, &params);
            }
        }
    }
}

/// A sum begins with 0, however few the windows over a cell, and whichever way it goes.
#[test]
fn gradients_of_minus_zero_come_out_as_zero() {
    for context in contexts() {
        for (kernel, stride) in [(2, 2), (3, 3), (3, 2), (3, 1), (5, 1), (20, 20)] {
            for (layout, extent) in [(Layout::Nchw, 20), (Layout::Nchw, 40), (Layout::Nhwc, 20)] {
                let params = Pool2dParams::new(1, 9, extent, extent, kernel, kernel);
                let params = Pool2dParams { layout, ..with_stride(params, stride, 0) };
                let shape = PoolShape::new(&params, size_of::<f32>()).unwrap();
                let dy = vec![-0.0f32; shape.output_len()];
                let places = vec![0; dy.len()];
                let zeros = vec![0.0; shape.input_len()];
                let mut dx = vec![1.0; zeros.len()];
                max_backward(&context, &params, &dy, Argmax::I32(&places), &mut dx).unwrap();
                assert_same_bits(&dx, &zeros);
                dx.fill(1.0);
                avg_backward(&context, &params, &dy, &mut dx).unwrap();
                assert_same_bits(&dx, &zeros);
            }
        }
    }
}

#[test]
fn a_window_of_minus_infinity_takes_its_first_cell() {
    for context in contexts() {
        for padding in [PoolPadding::Excluded, PoolPadding::Zero] {
            let params = Pool2dParams {
                pad_top: 1,
                pad_left: 1,
                padding,
                ..Pool2dParams::new(1, 1, 3, 19, 2, 2)
            };
            let x = vec![f32::NEG_INFINITY; 57];
            let places = places_of(&context, &params, &x);
            let first_row: [i32; 2] = if padding == PoolPadding::Zero { [0, 0] } else { [3, 2] };
            let second_row = if padding == PoolPadding::Zero { [0, 0] } else { [1, 0] };
            assert_eq!(places[..2], first_row);
            assert_eq!(places[10..12], second_row);
        }
    }
}

#[test]
fn a_place_outside_the_window_is_refused_before_anything_is_written() {
    for context in contexts() {
        let params = Pool2dParams::new(40, 3, 60, 60, 2, 2);
        let len = 40 * 3 * 30 * 30;
        let dy = vec![1.0f32; len];
        let refused = |argmax: Argmax<'_>| {
            let mut dx = vec![7.0; 4 * len];
            let error = max_backward(&context, &params, &dy, argmax, &mut dx).unwrap_err();
            assert!(dx.iter().all(|&dx| dx == 7.0));
            match error {
                Error::InvalidArgument { message } => message,
                other => panic!("{other:?}"),
            }
        };
        for (at, bad) in [(0, 4), (len - 1, i32::MAX), (70_000, -1), (1234, 4)] {
            let mut places = vec![3; len];
            places[at] = bad;
            // Only the first is named.
            places[len - 1] = places[len - 1].max(if at == len - 1 { bad } else { 99 });
            assert_eq!(
                refused(Argmax::I32(&places)),
                format!("argmax must lie in the window of 4 cells, but is {bad} at index {at}")
            );
        }
        let mut places = vec![3u8; len];
        places[80_000] = 200;
        assert_eq!(
            refused(Argmax::U8(&places)),
            "argmax must lie in the window of 4 cells, but is 200 at index 80000"
        );
    }
}
