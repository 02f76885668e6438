//! `cargo bench --bench choice`: whether AUTO takes Winograd where it is faster, and only there.
//!
//! Of a sample of 3 x 3 and 5 x 5 convolutions: the times of both algorithms on one thread, the best of some rounds
//! taken in turn, and what AUTO takes. It fails where AUTO takes Winograd and loses by it.

use std::time::Instant;

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients, Pass, query};
use cnnkern::{Activation, Algorithm, Context, ContextOptions, Conv2dParams, Layout};

/// The extent of the windows, input channels, output channels, and the extent of the images.
const SAMPLE: [[usize; 4]; 24] = [
    [3, 16, 16, 14],
    [3, 16, 16, 56],
    [3, 16, 64, 28],
    [3, 32, 32, 9],
    [3, 32, 32, 56],
    [3, 64, 16, 28],
    [3, 64, 64, 7],
    [3, 64, 64, 14],
    [3, 64, 64, 56],
    [3, 128, 128, 7],
    [3, 128, 128, 28],
    [3, 256, 64, 14],
    [3, 256, 256, 7],
    [3, 256, 256, 14],
    [3, 512, 32, 14],
    [3, 512, 512, 7],
    [5, 16, 16, 14],
    [5, 16, 16, 28],
    [5, 32, 32, 9],
    [5, 32, 64, 28],
    [5, 64, 64, 7],
    [5, 64, 64, 56],
    [5, 128, 128, 14],
    [5, 256, 256, 14],
];
/// What a pass is measured for: the gradient of the weights looks at the batch.
const PASSES: [(Pass, usize); 4] = [
    (Pass::Forward, 1),
    (Pass::BackwardData, 1),
    (Pass::BackwardWeights, 1),
    (Pass::BackwardWeights, 8),
];

/// So much longer than direct is a loss, and no noise.
const LOSS: f64 = 1.05;
/// Seconds that the rounds of a convolution take, and how often they are taken again where they show a
/// loss.
const SECONDS: f64 = 0.05;
const TRIALS: usize = 4;

fn main() {
    // As `cargo test` calls it, it only tries whether everything runs.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let options = ContextOptions { num_threads: 1, ..ContextOptions::default() };
    let context = Context::new(&options).expect("a context");
    println!(
        "{:<17}{:<7}{:>7}{:>5}{:>5}{:>7}{:>7}{:>14}{:>14}{:>7}  AUTO takes",
        "pass",
        "layout",
        "window",
        "in",
        "out",
        "extent",
        "images",
        "direct, us",
        "Winograd, us",
        "ratio"
    );
    let mut losses = Vec::new();
    let (mut won, mut missed) = (0, 0);
    for sample in if measuring { &SAMPLE[..] } else { &SAMPLE[..1] } {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for (pass, images) in PASSES {
                let mut case = Case::new(*sample, layout, pass, images);
                let taken = query::<f32>(&context, &case.params, pass).expect("a query").algorithm;
                let mut best = [f64::INFINITY; 2];
                for _ in 0..if measuring { TRIALS } else { 1 } {
                    case.measure(&context, if measuring { SECONDS } else { 0.0 }, &mut best);
                    if best[1] <= best[0] || taken != Algorithm::Winograd {
                        break;
                    }
                }
                let ratio = best[0] / best[1];
                let line = format!(
                    "{:<17}{:<7}{:>7}{:>5}{:>5}{:>7}{images:>7}{:>14.1}{:>14.1}{ratio:>7.2}  {taken:?}",
                    format!("{pass:?}"),
                    format!("{layout:?}"),
                    sample[0],
                    sample[1],
                    sample[2],
                    sample[3],
                    best[0],
                    best[1],
                );
                println!("{line}");
                match taken {
                    Algorithm::Winograd if best[1] > LOSS * best[0] => losses.push(line),
                    Algorithm::Winograd => won += 1,
                    _ if best[0] > LOSS * best[1] => missed += 1,
                    _ => {}
                }
            }
        }
    }
    println!(
        "AUTO takes Winograd {won} times where it is faster, {} where it is slower, and leaves it {missed} \
        times where it is faster",
        losses.len()
    );
    if measuring && !losses.is_empty() {
        println!("It loses here:\n{}", losses.join("\n"));
        std::process::exit(1);
    }
}

/// A convolution and its tensors.
struct Case {
    params: Conv2dParams,
    pass: Pass,
    x: Vec<f32>,
    w: Vec<f32>,
    y: Vec<f32>,
}

impl Case {
    fn new(
        [window, inputs, outputs, extent]: [usize; 4],
        layout: Layout,
        pass: Pass,
        images: usize,
    ) -> Self {
        let mut params = Conv2dParams::new(images, inputs, extent, extent, outputs, window, window);
        (params.pad_top, params.pad_bottom) = (window / 2, window / 2);
        (params.pad_left, params.pad_right) = (window / 2, window / 2);
        params.layout = layout;
        let values = |len: usize| (0..len).map(|i| (i % 17) as f32 / 17.0 - 0.4).collect();
        let pixels = images * extent * extent;
        Case {
            params,
            pass,
            x: values(pixels * inputs),
            w: values(window * window * inputs * outputs),
            y: values(pixels * outputs),
        }
    }

    /// Takes both algorithms in turn for some seconds; keeps the best times, in microseconds.
    fn measure(&mut self, context: &Context, seconds: f64, best: &mut [f64; 2]) {
        let start = Instant::now();
        let mut rounds = 0;
        while rounds < 3 || start.elapsed().as_secs_f64() < seconds {
            for (algorithm, best) in
                [Algorithm::Gemm, Algorithm::Winograd].into_iter().zip(&mut *best)
            {
                let start = Instant::now();
                self.run(context, algorithm);
                *best = best.min(start.elapsed().as_secs_f64() * 1e6);
            }
            rounds += 1;
        }
    }

    fn run(&mut self, context: &Context, algorithm: Algorithm) {
        let params = Conv2dParams { algorithm, ..self.params };
        let Case { x, w, y, .. } = self;
        let options = GradientOptions::default();
        let none = Gradients { dx: None, dw: None, db: None };
        let result = match self.pass {
            Pass::Forward => conv2d::forward(context, &params, x, w, None, Activation::None, y),
            Pass::BackwardData => {
                let inputs = BackwardInputs { x: None, w: Some(w), dy: y, relu_output: None };
                let gradients = Gradients { dx: Some(x), ..none };
                conv2d::backward(context, &params, &inputs, &options, gradients)
            }
            Pass::BackwardWeights => {
                let inputs = BackwardInputs { x: Some(x), w: None, dy: y, relu_output: None };
                let gradients = Gradients { dw: Some(w), ..none };
                conv2d::backward(context, &params, &inputs, &options, gradients)
            }
        };
        result.expect("a convolution");
    }
}
