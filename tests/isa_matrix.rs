//! What different ways to run a call have in common, bit by bit: AVX2 and AVX-512, one thread and
//! several, an image in a batch and alone. (How near each instruction set's results are to the
//! definitions is the subject of `oracle.rs`.)
mod common;

use cnnkern::conv2d::GradientOptions;
use cnnkern::gemm::GemmParams;
use cnnkern::im2col::ColLayout;
use cnnkern::{Activation, Context, Conv2dParams, Isa, Pool2dParams, elementwise};

use common::calls::{self, Backward, Places, Product};
use common::cases::{for_each, for_each_seed};
use common::contexts::{context, contexts, supported_isas};
use common::definitions::{Conv, Pool};
use common::guarded::{Guarded, Placement};
use common::random::{Data, Random};
use common::real::{Real, bits};
use common::shapes;

/// `CNNKERN_REQUIRE_ISA="avx2 avx512"` makes this fail where the processor lacks one of them, so
/// that a test machine cannot skip them unnoticed.
#[test]
fn required_instruction_sets_are_present() {
    let required = std::env::var("CNNKERN_REQUIRE_ISA").unwrap_or_default();
    for name in required.split_whitespace() {
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == name);
        let isa = isa.unwrap_or_else(|| panic!("CNNKERN_REQUIRE_ISA names {name:?}"));
        assert!(isa.is_supported(), "{isa} is required, but this processor lacks it");
    }
}

/// Pairs of contexts that give the same bits.
fn equal_contexts() -> Vec<[Context; 2]> {
    let isas = supported_isas();
    let mut pairs: Vec<_> = isas.iter().map(|&isa| [context(isa, 1), context(isa, 3)]).collect();
    if isas.contains(&Isa::Avx2) && isas.contains(&Isa::Avx512) {
        pairs.push([context(Isa::Avx2, 2), context(Isa::Avx512, 2)]);
    }
    pairs
}

#[track_caller]
fn assert_same_bits<T: Real>(what: &str, pair: &[Context; 2], run: impl Fn(&Context) -> Vec<T>) {
    let [one, other] = [run(&pair[0]), run(&pair[1])];
    assert_eq!(one.len(), other.len(), "{what}");
    let difference = one.iter().zip(&other).position(|(a, b)| a.bits() != b.bits());
    if let Some(index) = difference {
        panic!(
            "{what}[{index}] is {:?} with {:?}, but {:?} with {:?}",
            one[index], pair[0], other[index], pair[1]
        );
    }
}

/// One behind the other.
fn joined<T: Real>(gradients: [Option<Guarded<T>>; 3]) -> Vec<T> {
    gradients.iter().flatten().map(|gradient| &gradient[..]).collect::<Vec<_>>().concat()
}

fn check_conv<T: Real>(pairs: &[[Context; 2]], params: &Conv2dParams, random: &mut Random) {
    let conv = Conv::new(params);
    let mut values = |len: usize| -> Vec<T> { random.values(len, Data::Fractions) };
    let (x, w, bias) = (values(conv.x_len()), values(conv.w_len()), values(params.out_channels));
    let (dy, relu_output) = (values(conv.y_len()), values(conv.y_len()));
    let (dx, dw, db) = (values(conv.x_len()), values(conv.w_len()), values(params.out_channels));
    let call = Backward {
        x: Some(&x),
        w: Some(&w),
        dy: &dy,
        relu_output: Some(&relu_output),
        options: GradientOptions {
            dx_alpha: 0.3,
            dx_beta: 0.7,
            dw_alpha: -1.1,
            dw_beta: 1.0,
            db_alpha: 0.9,
            db_beta: -0.2,
        },
        dx: Some(&dx),
        dw: Some(&dw),
        db: Some(&db),
    };
    for pair in pairs {
        for algorithm in shapes::algorithms(params) {
            let params = Conv2dParams { algorithm, ..*params };
            assert_same_bits("y", pair, |context| {
                let activation = Activation::Relu;
                let bias = Some(&bias[..]);
                calls::conv_forward(context, &params, &x, &w, bias, activation, Placement::End)
                    .to_vec()
            });
            assert_same_bits("dx, dw and db", pair, |context| {
                let gradients = calls::conv_backward(context, &params, &call, Placement::End);
                joined(gradients)
            });
            assert_same_bits("gradients, overwritten", pair, |context| {
                let gradients = calls::conv_gradients(context, &params, &x, &w, &dy, None);
                joined(gradients.map(Some))
            });
        }
    }
}

fn conv_bits_edges<T: Real>() {
    let pairs = equal_contexts();
    let cases = shapes::conv_edges().into_iter().flat_map(|params| shapes::in_all_layouts(&params));
    let mut values = Random::new(1);
    for_each(cases, |params| check_conv::<T>(&pairs, params, &mut values));
}

fn conv_bits_random<T: Real>() {
    let pairs = equal_contexts();
    for_each_seed(
        60,
        |random| shapes::random_conv(random, 3_000_000),
        |params, random| check_conv::<T>(&pairs, params, random),
    );
}

/// Convolution and max-pooling as one step.
fn conv_maxpool_bits<T: Real>() {
    let pairs = equal_contexts();
    for_each_seed(
        60,
        |random| {
            let params = shapes::random_conv(random, 500_000);
            (params, shapes::random_pool_of(&params, random))
        },
        |(params, pool), random| {
            let (conv, end) = (Conv::new(params), Placement::End);
            let mut values = |len: usize| -> Vec<T> { random.values(len, Data::Fractions) };
            let [x, w, bias] = [conv.x_len(), conv.w_len(), params.out_channels].map(&mut values);
            let y_len = Pool::new(pool).y_len();
            let (dy, relu_output) = (values(y_len), values(y_len));
            let last = pool.kernel_height * pool.kernel_width - 1;
            let argmax: Vec<usize> = (0..y_len).map(|_| random.within(0..=last)).collect();
            let [dx, dw, db] = [&x, &w, &bias].map(|like| vec![T::NAN; like.len()]);
            let call = Backward {
                x: Some(&x),
                w: Some(&w),
                dy: &dy,
                relu_output: Some(&relu_output),
                options: GradientOptions::default(),
                dx: Some(&dx),
                dw: Some(&dw),
                db: Some(&db),
            };
            for pair in &pairs {
                for algorithm in shapes::algorithms(params) {
                    let shapes = (&Conv2dParams { algorithm, ..*params }, pool);
                    let inputs = [&x[..], &w, &bias];
                    let (relu, places) = (Activation::Relu, Places::U8);
                    assert_same_bits("y and argmax", pair, |context| {
                        let (y, argmax) =
                            calls::conv_maxpool_forward(context, shapes, inputs, relu, places, end);
                        let argmax = argmax.into_iter().map(|place| T::narrow(place as f64));
                        y.iter().copied().chain(argmax).collect()
                    });
                    assert_same_bits("dx, dw and db of the step", pair, |context| {
                        let gradients = calls::conv_maxpool_backward(
                            context, shapes, &call, &argmax, places, end,
                        );
                        joined(gradients)
                    });
                }
            }
        },
    );
}

fn check_gemm<T: Real>(pairs: &[[Context; 2]], params: &GemmParams, random: &mut Random) {
    let GemmParams { transa, transb, m, n, k, lda, ldb, ldc } = *params;
    let mut values = |len: usize| -> Vec<T> { random.values(len, Data::Fractions) };
    let [a_rows, b_rows] = [shapes::lies(transa, m, k)[0], shapes::lies(transb, k, n)[0]];
    let (a, b, c) = (values(a_rows * lda), values(b_rows * ldb), values(m * ldc));
    for pair in pairs {
        for (alpha, beta) in [(1.0, 0.0), (-0.3, 0.7)] {
            let (alpha, beta) = (T::narrow(alpha), T::narrow(beta));
            let product =
                Product { params: *params, batch: None, alpha, a: &a, b: &b, beta, c: &c };
            assert_same_bits("c", pair, |context| {
                calls::gemm(context, &product, Placement::End).to_vec()
            });
        }
    }
}

fn gemm_bits<T: Real>() {
    let pairs = equal_contexts();
    let mut random = Random::new(2);
    let larger = [[300, 530, 70], [70, 700, 300], [520, 60, 520], [260, 260, 260]];
    let mut cases = Vec::new();
    for sizes in shapes::gemm_edges().into_iter().chain(larger) {
        for transa in shapes::TRANSPOSES {
            for transb in shapes::TRANSPOSES {
                cases.push(shapes::gemm_params(transa, transb, sizes, [1, 2, 3]));
            }
        }
    }
    for_each(cases, |params| check_gemm::<T>(&pairs, params, &mut random));
}

fn check_pool<T: Real>(pairs: &[[Context; 2]], params: &Pool2dParams, random: &mut Random) {
    let pool = Pool::new(params);
    let x: Vec<T> = random.values(pool.x_len(), Data::Fractions);
    let dy: Vec<T> = random.values(pool.y_len(), Data::Fractions);
    let (_, argmax) = pool.max(&x);
    let end = Placement::End;
    for pair in pairs {
        for &places in Places::of_window(params.kernel_height * params.kernel_width) {
            assert_same_bits("y of max-pool", pair, |context| {
                let (y, argmax) = calls::max_forward(context, params, &x, places, end);
                let argmax = argmax.into_iter().map(|place| T::narrow(place as f64));
                y.iter().copied().chain(argmax).collect()
            });
            assert_same_bits("dx of max-pool", pair, |context| {
                calls::max_backward(context, params, &dy, &argmax, places, end).to_vec()
            });
        }
        assert_same_bits("y of average-pool", pair, |context| {
            calls::avg_forward(context, params, &x, end).to_vec()
        });
        assert_same_bits("dx of average-pool", pair, |context| {
            calls::avg_backward(context, params, &dy, end).to_vec()
        });
    }
}

fn pool_bits<T: Real>() {
    let pairs = equal_contexts();
    let mut random = Random::new(3);
    let larger = (0..40).map(|seed| shapes::random_pool(&mut Random::new(seed), 200_000));
    let cases = shapes::pool_edges().into_iter().chain(larger);
    for_each(cases, |params| check_pool::<T>(&pairs, params, &mut random));
}

fn im2col_bits<T: Real>() {
    let pairs = equal_contexts();
    let mut random = Random::new(4);
    let cases = (0..60).map(|seed| shapes::random_im2col(&mut Random::new(seed), 200_000));
    for_each(cases, |params| {
        let conv = Conv::new(params);
        let x: Vec<T> = random.values(conv.x_len(), Data::Fractions);
        let col: Vec<T> = random.values(conv.col_len(), Data::Fractions);
        for pair in &pairs {
            for col_layout in shapes::COL_LAYOUTS {
                assert_same_bits("col", pair, |context| {
                    calls::im2col(context, params, col_layout, &x, Placement::End).to_vec()
                });
                assert_same_bits("x of col2im", pair, |context| {
                    calls::col2im(context, params, col_layout, &col, Placement::End).to_vec()
                });
            }
        }
    });
}

fn relu_bits<T: Real>() {
    let pairs = equal_contexts();
    let mut random = Random::new(5);
    for_each([1, 3, 15, 17, 33, 300_001], |&len: &usize| {
        let u: Vec<T> = random.values(len, Data::Fractions);
        let dy: Vec<T> = random.values(len, Data::Fractions);
        for pair in &pairs {
            let nan = || Guarded::filled(len, Placement::End, T::NAN);
            assert_same_bits("y of relu", pair, |context| {
                let mut y = nan();
                elementwise::relu_forward(context, &u, &mut y).expect("lengths");
                y.to_vec()
            });
            assert_same_bits("dx of relu", pair, |context| {
                let mut dx = nan();
                elementwise::relu_backward(context, &u, &dy, &mut dx).expect("lengths");
                dx.to_vec()
            });
        }
    });
}

/// Image `image` of `batch` images that lie one after another.
fn image<T>(tensor: &[T], image: usize, batch: usize) -> &[T] {
    let len = tensor.len() / batch;
    &tensor[image * len..(image + 1) * len]
}

/// Enough images that work is cut otherwise than for one.
fn batches(batch: usize) -> usize {
    batch.max(1) * 3 + 1
}

fn check_conv_images<T: Real>(contexts: &[Context], params: &Conv2dParams, random: &mut Random) {
    let batch = batches(params.batch);
    let together = Conv2dParams { batch, ..*params };
    let alone = Conv2dParams { batch: 1, ..*params };
    let conv = Conv::new(&together);
    let mut values = |len: usize| -> Vec<T> { random.values(len, Data::Fractions) };
    let (x, w, bias) = (values(conv.x_len()), values(conv.w_len()), values(params.out_channels));
    let (dy, relu_output) = (values(conv.y_len()), values(conv.y_len()));
    let nan = vec![T::NAN; conv.x_len()];
    for context in contexts {
        for algorithm in shapes::algorithms(params) {
            let forward = |params: &Conv2dParams, x: &[T]| {
                let params = Conv2dParams { algorithm, ..*params };
                let (activation, bias) = (Activation::Relu, Some(&bias[..]));
                calls::conv_forward(context, &params, x, &w, bias, activation, Placement::End)
            };
            let backward = |params: &Conv2dParams, dy: &[T], relu_output: &[T]| {
                let params = Conv2dParams { algorithm, ..*params };
                let dx = &nan[..Conv::new(&params).x_len()];
                let call = Backward {
                    w: Some(&w),
                    dy,
                    relu_output: Some(relu_output),
                    dx: Some(dx),
                    ..Backward::default()
                };
                let [dx, _, _] = calls::conv_backward(context, &params, &call, Placement::End);
                dx.expect("wanted")
            };
            let y = forward(&together, &x);
            let dx = backward(&together, &dy, &relu_output);
            for n in 0..batch {
                let what = format!("image {n} by {algorithm:?} on {}", context.isa());
                let y_alone = forward(&alone, image(&x, n, batch));
                assert_eq!(bits(&y_alone), bits(image(&y, n, batch)), "y of {what}");
                let dx_alone =
                    backward(&alone, image(&dy, n, batch), image(&relu_output, n, batch));
                assert_eq!(bits(&dx_alone), bits(image(&dx, n, batch)), "dx of {what}");
            }
        }
    }
}

fn conv_images_edges<T: Real>() {
    let contexts = contexts();
    let mut random = Random::new(6);
    // each shape in one of the combinations of layouts
    let cases = shapes::conv_edges().into_iter().enumerate().map(|(number, params)| {
        let layouts = shapes::in_all_layouts(&params);
        layouts[number % layouts.len()]
    });
    for_each(cases, |params| check_conv_images::<T>(&contexts, params, &mut random));
}

fn conv_images_random<T: Real>() {
    let contexts = contexts();
    for_each_seed(
        60,
        |random| shapes::random_conv(random, 500_000),
        |params, random| check_conv_images::<T>(&contexts, params, random),
    );
}

fn pool_images<T: Real>() {
    let contexts = contexts();
    let mut random = Random::new(7);
    for_each(shapes::pool_edges(), |params| {
        let batch = batches(params.batch);
        let together = Pool2dParams { batch, ..*params };
        let alone = Pool2dParams { batch: 1, ..*params };
        let pool = Pool::new(&together);
        let x: Vec<T> = random.values(pool.x_len(), Data::Fractions);
        let dy: Vec<T> = random.values(pool.y_len(), Data::Fractions);
        let end = Placement::End;
        for context in &contexts {
            let (max, places) = calls::max_forward(context, &together, &x, Places::I32, end);
            let max_dx = calls::max_backward(context, &together, &dy, &places, Places::I32, end);
            let mean = calls::avg_forward(context, &together, &x, end);
            let mean_dx = calls::avg_backward(context, &together, &dy, end);
            for n in 0..batch {
                let of = |tensor: &[T]| bits(image(tensor, n, batch));
                let (x, dy) = (image(&x, n, batch), image(&dy, n, batch));
                let (y, argmax) = calls::max_forward(context, &alone, x, Places::I32, end);
                assert_eq!(bits(&y), of(&max), "maxima of image {n}");
                assert_eq!(argmax, image(&places, n, batch), "places of image {n}");
                let dx = calls::max_backward(context, &alone, dy, &argmax, Places::I32, end);
                assert_eq!(bits(&dx), of(&max_dx), "dx of max-pool of image {n}");
                let y = calls::avg_forward(context, &alone, x, end);
                assert_eq!(bits(&y), of(&mean), "means of image {n}");
                let dx = calls::avg_backward(context, &alone, dy, end);
                assert_eq!(bits(&dx), of(&mean_dx), "dx of average-pool of image {n}");
            }
        }
    });
}

fn im2col_images<T: Real>() {
    let contexts = contexts();
    let cases = (0..60).map(|seed| shapes::random_im2col(&mut Random::new(seed), 30_000));
    let mut random = Random::new(8);
    for_each(cases, |params| {
        let batch = batches(params.batch);
        let together = Conv2dParams { batch, ..*params };
        let alone = Conv2dParams { batch: 1, ..*params };
        let conv = Conv::new(&together);
        let pixels = conv.out_height * conv.out_width;
        let x: Vec<T> = random.values(conv.x_len(), Data::Fractions);
        let col: Vec<T> = random.values(conv.col_len(), Data::Fractions);
        // The part of a column matrix that belongs to image n.
        let part = |col: &[T], col_layout: ColLayout, n: usize| -> Vec<T> {
            match col_layout {
                ColLayout::PatchRows | ColLayout::PerImage => image(col, n, batch).to_vec(),
                ColLayout::PatchColumns => col
                    .chunks_exact(batch * pixels)
                    .flat_map(|row| image(row, n, batch).to_vec())
                    .collect(),
            }
        };
        for context in &contexts {
            for col_layout in shapes::COL_LAYOUTS {
                let end = Placement::End;
                let all = calls::im2col(context, &together, col_layout, &x, end);
                let sums = calls::col2im(context, &together, col_layout, &col, end);
                for n in 0..batch {
                    let what = format!("image {n} of {col_layout:?} on {}", context.isa());
                    let one = calls::im2col(context, &alone, col_layout, image(&x, n, batch), end);
                    assert_eq!(bits(&one), bits(&part(&all, col_layout, n)), "col of {what}");
                    let col = part(&col, col_layout, n);
                    let one = calls::col2im(context, &alone, col_layout, &col, end);
                    assert_eq!(bits(&one), bits(image(&sums, n, batch)), "x of {what}");
                }
            }
        }
    });
}

tests_of_f32_and_f64! {
    conv_bits_edges
    conv_bits_random
    conv_maxpool_bits
    gemm_bits
    pool_bits
    im2col_bits
    relu_bits
    conv_images_edges
    conv_images_random
    pool_images
    im2col_images
}
