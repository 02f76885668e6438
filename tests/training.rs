//! A small network of 3 x 3 convolutions learns as well with Winograd's transforms as without them.

mod common;

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients, Pass};
use cnnkern::gemm::{self, GemmParams, Transpose};
use cnnkern::pool2d::{self, Argmax, ArgmaxMut};
use cnnkern::{Activation, Algorithm, Context, Conv2dParams, Isa, Pool2dParams};

use common::contexts;
use common::random::{Data, Random};

const CLASSES: usize = 10;
const EXTENT: usize = 16;
const IMAGE: usize = 3 * EXTENT * EXTENT;
const BATCH: usize = 32;
const BATCHES: usize = 8;
const EPOCHS: usize = 6;
const RATE: f32 = 0.1;
/// Extent of the squares of one brightness that a pattern has.
const SQUARE: usize = 4;
const SQUARES: usize = 3 * (EXTENT / SQUARE) * (EXTENT / SQUARE);
/// Channels and extents of the convolutions: a pool of 2 x 2 follows the second and the fourth.
const LAYERS: [[usize; 3]; 4] = [[3, 16, 16], [16, 32, 16], [32, 32, 8], [32, 32, 8]];
const FEATURES: usize = 32 * 4 * 4;

/// Images with labels: each class has a pattern, of which a sample is a shifted copy with noise.
struct Samples {
    images: Vec<f32>,
    labels: Vec<usize>,
}

impl Samples {
    fn new(patterns: &[f32], count: usize, random: &mut Random) -> Self {
        let labels: Vec<usize> = (0..count).map(|_| random.within(0..=CLASSES - 1)).collect();
        let mut images = Vec::new();
        for &label in &labels {
            let shift = [random.within(0..=2), random.within(0..=2)];
            let noise: Vec<f32> = random.values(IMAGE, Data::Fractions);
            for (place, noise) in noise.into_iter().enumerate() {
                let (channel, row) = (place / (EXTENT * EXTENT), place / EXTENT % EXTENT);
                let row = (row + shift[0]) % EXTENT / SQUARE;
                let column = (place + shift[1]) % EXTENT / SQUARE;
                let square = (channel * (EXTENT / SQUARE) + row) * (EXTENT / SQUARE) + column;
                images.push(patterns[label * SQUARES + square] + 0.5 * noise);
            }
        }
        Samples { images, labels }
    }
}

struct Network {
    params: [Conv2dParams; 4],
    filters: Vec<Vec<f32>>,
    biases: Vec<Vec<f32>>,
    /// From the features to the classes.
    weights: Vec<f32>,
}

/// What the forward pass leaves for the backward pass.
struct Activations {
    /// The inputs of the convolutions, then the features.
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
    places: Vec<Vec<u8>>,
    scores: Vec<f32>,
}

fn pool(layer: usize) -> Option<Pool2dParams> {
    let [_, channels, extent] = LAYERS[layer];
    (layer % 2 == 1).then(|| Pool2dParams {
        stride_height: 2,
        stride_width: 2,
        ..Pool2dParams::new(BATCH, channels, extent, extent, 2, 2)
    })
}

impl Network {
    fn new(algorithm: Algorithm) -> Self {
        let mut random = Random::new(5);
        let params = LAYERS.map(|[inputs, outputs, extent]| Conv2dParams {
            algorithm,
            pad_top: 1,
            pad_bottom: 1,
            pad_left: 1,
            pad_right: 1,
            ..Conv2dParams::new(BATCH, inputs, extent, extent, outputs, 3, 3)
        });
        let mut scaled = |len: usize, terms: usize| -> Vec<f32> {
            let scale = (6.0 / terms as f32).sqrt();
            random.values::<f32>(len, Data::Fractions).iter().map(|value| value * scale).collect()
        };
        let filters = LAYERS.map(|[inputs, outputs, _]| scaled(inputs * outputs * 9, inputs * 9));
        Network {
            params,
            filters: filters.into(),
            biases: LAYERS.map(|[_, outputs, _]| vec![0.0; outputs]).into(),
            weights: scaled(FEATURES * CLASSES, FEATURES),
        }
    }

    fn forward(&self, context: &Context, images: &[f32]) -> Activations {
        let mut all = Activations {
            inputs: vec![images.to_vec()],
            outputs: Vec::new(),
            places: Vec::new(),
            scores: vec![0.0; BATCH * CLASSES],
        };
        for (layer, [_, outputs, extent]) in LAYERS.into_iter().enumerate() {
            let (params, w, bias) =
                (&self.params[layer], &self.filters[layer], &self.biases[layer]);
            let mut y = vec![0.0; BATCH * outputs * extent * extent];
            let x = &all.inputs[layer];
            conv2d::forward(context, params, x, w, Some(bias), Activation::Relu, &mut y).unwrap();
            let (mut pooled, mut places) = (y.clone(), Vec::new());
            if let Some(pool) = pool(layer) {
                pooled.truncate(y.len() / 4);
                places.resize(pooled.len(), 0);
                let argmax = Some(ArgmaxMut::U8(&mut places));
                pool2d::max_forward(context, &pool, &y, &mut pooled, argmax).unwrap();
            }
            all.outputs.push(y);
            all.inputs.push(pooled);
            all.places.push(places);
        }
        let features = &all.inputs[LAYERS.len()];
        let product = product([Transpose::No, Transpose::No], [BATCH, CLASSES, FEATURES]);
        gemm::gemm(context, &product, 1.0, features, &self.weights, 0.0, &mut all.scores).unwrap();
        all
    }

    /// One step down the gradient of the mean cross-entropy.
    fn train(&mut self, context: &Context, images: &[f32], labels: &[usize]) {
        let mut all = self.forward(context, images);
        for (scores, &label) in all.scores.chunks_exact_mut(CLASSES).zip(labels) {
            let most = scores.iter().copied().fold(f32::MIN, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - most).exp());
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum * BATCH as f32);
            scores[label] -= 1.0 / BATCH as f32;
        }
        let mut gradient = vec![0.0; BATCH * FEATURES];
        let back = product([Transpose::No, Transpose::Yes], [BATCH, FEATURES, CLASSES]);
        gemm::gemm(context, &back, 1.0, &all.scores, &self.weights, 0.0, &mut gradient).unwrap();
        let update = product([Transpose::Yes, Transpose::No], [FEATURES, CLASSES, BATCH]);
        let features = &all.inputs[LAYERS.len()];
        gemm::gemm(context, &update, -RATE, features, &all.scores, 1.0, &mut self.weights).unwrap();
        for layer in (0..LAYERS.len()).rev() {
            let y = &all.outputs[layer];
            let mut dy = gradient;
            if let Some(pool) = pool(layer) {
                let mut unpooled = vec![0.0; y.len()];
                let argmax = Argmax::U8(&all.places[layer]);
                pool2d::max_backward(context, &pool, &dy, argmax, &mut unpooled).unwrap();
                dy = unpooled;
            }
            let x = &all.inputs[layer];
            let mut dx = vec![0.0; x.len()];
            // The filters are read for dx, so that their gradient goes to a copy.
            let mut updated = self.filters[layer].clone();
            let options = GradientOptions {
                dw_alpha: f64::from(-RATE),
                dw_beta: 1.0,
                db_alpha: f64::from(-RATE),
                db_beta: 1.0,
                ..GradientOptions::default()
            };
            let inputs = BackwardInputs {
                x: Some(x),
                w: Some(&self.filters[layer]),
                dy: &dy,
                relu_output: Some(y),
            };
            let gradients = Gradients {
                dx: Some(&mut dx),
                dw: Some(&mut updated),
                db: Some(&mut self.biases[layer]),
            };
            let params = &self.params[layer];
            conv2d::backward(context, params, &inputs, &options, gradients).unwrap();
            self.filters[layer] = updated;
            gradient = dx;
        }
    }

    fn accuracy(&self, context: &Context, samples: &Samples) -> f64 {
        let mut right = 0;
        let batches = samples.images.chunks_exact(BATCH * IMAGE);
        for (images, labels) in batches.zip(samples.labels.chunks_exact(BATCH)) {
            let all = self.forward(context, images);
            for (scores, &label) in all.scores.chunks_exact(CLASSES).zip(labels) {
                let best = (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                right += usize::from(best == Some(label));
            }
        }
        right as f64 / samples.labels.len() as f64
    }
}

fn product([transa, transb]: [Transpose; 2], [m, n, k]: [usize; 3]) -> GemmParams {
    let lda = if transa == Transpose::No { k } else { m };
    let ldb = if transb == Transpose::No { n } else { k };
    GemmParams { transa, transb, m, n, k, lda, ldb, ldc: n }
}

#[test]
fn winograd_learns_as_well_as_plain_sums() {
    let context = contexts::context(Isa::best(), 2);
    let mut random = Random::new(11);
    let patterns: Vec<f32> = random.values(CLASSES * SQUARES, Data::Fractions);
    let train = Samples::new(&patterns, BATCH * BATCHES, &mut random);
    let test = Samples::new(&patterns, BATCH * BATCHES, &mut random);
    let accuracies = [Algorithm::Auto, Algorithm::Gemm].map(|algorithm| {
        let mut network = Network::new(algorithm);
        let algorithm_of = |pass| {
            conv2d::query::<f32>(&context, &network.params[1], pass)
                .expect("valid parameters")
                .algorithm
        };
        let expected = match algorithm {
            Algorithm::Auto => Algorithm::Winograd,
            other => other,
        };
        for pass in [Pass::Forward, Pass::BackwardData, Pass::BackwardWeights] {
            assert_eq!(algorithm_of(pass), expected);
        }
        let before = network.accuracy(&context, &test);
        assert!(before < 0.4, "an accuracy of {before} before the training");
        for _ in 0..EPOCHS {
            let batches = train.images.chunks_exact(BATCH * IMAGE);
            for (images, labels) in batches.zip(train.labels.chunks_exact(BATCH)) {
                network.train(&context, images, labels);
            }
        }
        network.accuracy(&context, &test)
    });
    println!("accuracy with Winograd {:.3}, without {:.3}", accuracies[0], accuracies[1]);
    assert!(accuracies.iter().all(|&accuracy| accuracy > 0.9), "accuracies {accuracies:?}");
    assert!((accuracies[0] - accuracies[1]).abs() < 0.02, "accuracies {accuracies:?}");
}
