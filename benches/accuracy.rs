//! `cargo bench --bench accuracy`: the errors of each algorithm of 3 x 3 and 5 x 5 convolutions in f32, against
//! sums in double precision, beside those of a sequential sum in f32.
//!
//! Of each window, pass, kind of data and number of terms in a sum: the error's 2-norm relative to the result's,
//! that divided by the same of the sequential sum, and the largest error relative to the largest
//! element. It fails where these exceed the bounds that README states.

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients};
use cnnkern::{Activation, Algorithm, Context, ContextOptions, Conv2dParams};

/// Source channels, or images for the gradient of the weights.
const CHANNELS: [usize; 7] = [16, 32, 64, 128, 256, 512, 1024];
const IMAGES: [usize; 3] = [1, 8, 32];
const EXTENT: usize = 16;
/// Extents of the windows.
const WINDOWS: [usize; 2] = [3, 5];
/// Channels on the other side.
const OTHERS: usize = 16;

/// At most so much larger than the sequential sum's error in the 2-norm, of each window, and so much of the
/// largest element.
const NORM_BOUNDS: [f64; 2] = [3.0, 4.0];
const LARGEST_BOUND: f64 = 4e-6;

fn main() {
    let context = Context::new(&ContextOptions::default()).expect("a context");
    println!(
        "{:<8}{:<6}{:<9}{:>6}  {:<10}{:>12}{:>16}{:>14}",
        "window", "pass", "data", "terms", "algorithm", "2-norm", "to sequential", "largest"
    );
    // As `cargo test` calls it, it only tries whether everything runs.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let (mut norms, mut largest) = ([0.0f64; 2], 0.0f64);
    for (name, data) in [("uniform", Data::Uniform), ("normal", Data::Normal), ("relu", Data::Relu)]
    {
        let channels = if measuring { &CHANNELS[..] } else { &CHANNELS[..1] };
        let images = if measuring { &IMAGES[..] } else { &IMAGES[..1] };
        let forward = channels.iter().map(|&channels| (Pass::Forward, channels));
        let weights = images.iter().map(|&images| (Pass::Weights, images));
        let sizes: Vec<_> = forward.chain(weights).collect();
        for (window, norm) in WINDOWS.into_iter().zip(&mut norms) {
            for &(pass, size) in &sizes {
                let case = Case::new(window, pass, size, data);
                let sequential = case.error_of(&case.sequential);
                for algorithm in [Algorithm::Gemm, Algorithm::Winograd] {
                    let error = case.error_of(&case.run(&context, algorithm));
                    let ratio = error.norm / sequential.norm;
                    println!(
                        "{window:<8}{:<6}{name:<9}{:>6}  {:<10}{:>12.1e}{ratio:>16.2}{:>14.1e}",
                        case.pass.name(),
                        case.terms,
                        format!("{algorithm:?}"),
                        error.norm,
                        error.largest
                    );
                    *norm = norm.max(ratio);
                    largest = largest.max(error.largest);
                }
            }
        }
    }
    println!(
        "most: {:.2} times the sequential sum's 2-norm in 3 x 3 windows, {:.2} in 5 x 5; {largest:.1e} of \
        the largest",
        norms[0], norms[1]
    );
    let exceeded = norms.iter().zip(NORM_BOUNDS).any(|(&norm, bound)| norm > bound);
    if measuring && (exceeded || largest > LARGEST_BOUND) {
        println!("more than the bounds of {NORM_BOUNDS:?} and {LARGEST_BOUND:e}");
        std::process::exit(1);
    }
}

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Weights,
}

impl Pass {
    fn name(self) -> &'static str {
        match self {
            Pass::Forward => "y",
            Pass::Weights => "dw",
        }
    }
}

/// Of x and dy; weights are normal.
#[derive(Clone, Copy)]
enum Data {
    /// From -1 to 1.
    Uniform,
    Normal,
    /// Normal, with 0 for what is negative.
    Relu,
}

struct Error {
    norm: f64,
    largest: f64,
}

struct Case {
    pass: Pass,
    params: Conv2dParams,
    terms: usize,
    x: Vec<f32>,
    /// The weights, or dy.
    other: Vec<f32>,
    exact: Vec<f64>,
    sequential: Vec<f32>,
}

impl Case {
    fn new(window: usize, pass: Pass, size: usize, data: Data) -> Self {
        let (batch, channels) = match pass {
            Pass::Forward => (1, size),
            Pass::Weights => (size, OTHERS),
        };
        let (taps, pad) = (window * window, window / 2);
        let mut params = Conv2dParams::new(batch, channels, EXTENT, EXTENT, OTHERS, window, window);
        (params.pad_top, params.pad_bottom, params.pad_left, params.pad_right) =
            (pad, pad, pad, pad);
        let mut random = Random(size as u64);
        let x = (0..batch * channels * EXTENT * EXTENT).map(|_| random.draw(data)).collect();
        let (other_len, other_data) = match pass {
            Pass::Forward => (OTHERS * channels * taps, Data::Normal),
            Pass::Weights => (batch * OTHERS * EXTENT * EXTENT, Data::Normal),
        };
        let other = (0..other_len).map(|_| random.draw(other_data)).collect();
        let terms = match pass {
            Pass::Forward => channels * taps,
            Pass::Weights => batch * EXTENT * EXTENT,
        };
        let mut case =
            Case { pass, params, terms, x, other, exact: Vec::new(), sequential: Vec::new() };
        (case.exact, case.sequential) = case.sums().into_iter().unzip();
        case
    }

    /// Every result, in double precision and as a sequential sum.
    fn sums(&self) -> Vec<(f64, f32)> {
        let Conv2dParams { in_channels: channels, kernel_height: window, pad_top: pad, .. } =
            self.params;
        let x_at = |image: usize, channel: usize, row: usize, column: usize| {
            // Rows and columns are counted from the padding on.
            let inside = pad..pad + EXTENT;
            if !inside.contains(&row) || !inside.contains(&column) {
                return 0.0;
            }
            let (row, column) = (row - pad, column - pad);
            self.x[((image * channels + channel) * EXTENT + row) * EXTENT + column]
        };
        let mut all = Vec::new();
        match self.pass {
            Pass::Forward => {
                for (output, row, column) in triples([OTHERS, EXTENT, EXTENT]) {
                    let (mut exact, mut sequential) = (0.0, 0.0f32);
                    for (channel, r, c) in triples([channels, window, window]) {
                        let a = x_at(0, channel, row + r, column + c);
                        let b =
                            self.other[((output * channels + channel) * window + r) * window + c];
                        exact += f64::from(a) * f64::from(b);
                        sequential += a * b;
                    }
                    all.push((exact, sequential));
                }
            }
            Pass::Weights => {
                for (cell, r, c) in triples([OTHERS * channels, window, window]) {
                    let (output, channel) = (cell / channels, cell % channels);
                    let (mut exact, mut sequential) = (0.0, 0.0f32);
                    for (image, row, column) in triples([self.params.batch, EXTENT, EXTENT]) {
                        let a = x_at(image, channel, row + r, column + c);
                        let place = ((image * OTHERS + output) * EXTENT + row) * EXTENT + column;
                        let b = self.other[place];
                        exact += f64::from(a) * f64::from(b);
                        sequential += a * b;
                    }
                    all.push((exact, sequential));
                }
            }
        }
        all
    }

    fn run(&self, context: &Context, algorithm: Algorithm) -> Vec<f32> {
        let params = Conv2dParams { algorithm, ..self.params };
        let mut results = vec![0.0; self.exact.len()];
        match self.pass {
            Pass::Forward => {
                let (x, w) = (&self.x, &self.other);
                conv2d::forward(context, &params, x, w, None, Activation::None, &mut results)
            }
            Pass::Weights => {
                let dy = &self.other[..];
                let inputs = BackwardInputs { x: Some(&self.x), w: None, dy, relu_output: None };
                let gradients = Gradients { dx: None, dw: Some(&mut results), db: None };
                conv2d::backward(context, &params, &inputs, &GradientOptions::default(), gradients)
            }
        }
        .expect("a valid call");
        results
    }

    fn error_of(&self, results: &[f32]) -> Error {
        let (mut squares, mut errors) = (0.0f64, 0.0f64);
        let (mut largest, mut largest_error) = (0.0f64, 0.0f64);
        for (&exact, &result) in self.exact.iter().zip(results) {
            let error = (f64::from(result) - exact).abs();
            squares += exact * exact;
            errors += error * error;
            largest = largest.max(exact.abs());
            largest_error = largest_error.max(error);
        }
        Error { norm: (errors / squares).sqrt(), largest: largest_error / largest }
    }
}

fn triples([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller's method.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn draw(&mut self, data: Data) -> f32 {
        let value = match data {
            Data::Uniform => 2.0 * self.uniform() - 1.0,
            Data::Normal => self.normal(),
            Data::Relu => self.normal().max(0.0),
        };
        value as f32
    }
}
