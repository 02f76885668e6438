//! `cargo bench --bench step`: whole steps of training (forward, backward, gradient descent with
//! momentum) of LeNet-5 on images of 28 x 28 and of a small VGG on images of 32 x 32, in f32 and NCHW.
//!
//! Of each network and batch it prints the time of the fastest step, the times of that step's phases,
//! and the images in a second. The loss belongs to the forward pass; the ReLU of a convolution is
//! computed in the convolution; the images' own gradient is not computed. The momentum is part of the
//! backward pass, which adds to what is there. `CNNKERN_ISA` and `CNNKERN_NUM_THREADS` choose what is
//! measured.

#[path = "step/layers.rs"]
mod layers;
#[path = "step/network.rs"]
mod network;
mod random;

use cnnkern::{Context, ContextOptions};

use network::{CLASSES, Kind, Network, Step};

const LENET5: [Kind; 9] = [
    Kind::Convolution { channels: 6, kernel: 5, pad: 2 },
    Kind::Pool,
    Kind::Convolution { channels: 16, kernel: 5, pad: 0 },
    Kind::Pool,
    Kind::Linear(120),
    Kind::Relu,
    Kind::Linear(84),
    Kind::Relu,
    Kind::Linear(CLASSES),
];

const VGG: [Kind; 10] = [
    conv3x3(64),
    conv3x3(64),
    Kind::Pool,
    conv3x3(128),
    conv3x3(128),
    Kind::Pool,
    conv3x3(256),
    conv3x3(256),
    Kind::Pool,
    Kind::Linear(CLASSES),
];

const fn conv3x3(channels: usize) -> Kind {
    Kind::Convolution { channels, kernel: 3, pad: 1 }
}

/// Steps before those that are timed.
const WARM_UP: usize = 3;

fn main() {
    let context = Context::new(&ContextOptions::default()).expect("a context");
    println!(
        "cnnkern {} as {}, {} threads",
        env!("CARGO_PKG_VERSION"),
        context.isa(),
        context.num_threads()
    );
    println!(
        "{:<8}{:>6}{:>11}{:>13}{:>13}{:>11}{:>11}",
        "network", "batch", "step ms", "forward ms", "backward ms", "update ms", "images/s"
    );
    // As `cargo test` calls it, it only tries whether everything runs.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let batches = if measuring { &[1, 16, 64, 256][..] } else { &[1] };
    for &batch in batches {
        measure(&context, "lenet5", batch, Network::new(&LENET5, batch, [1, 28]), 100);
    }
    if measuring {
        measure(&context, "vgg", 32, Network::new(&VGG, 32, [3, 32]), 8);
    }
}

fn measure(context: &Context, name: &str, batch: usize, mut network: Network, rounds: usize) {
    let steps: Vec<Step> = (0..WARM_UP + rounds)
        .map(|_| network.step(context).expect("a network of valid shapes"))
        .collect();
    let [first, .., last] = &steps[..] else { unreachable!("more than the warm-up") };
    assert!(last.loss < first.loss, "the loss rose from {} to {}", first.loss, last.loss);
    let best = steps[WARM_UP..].iter().min_by(|a, b| a.seconds().total_cmp(&b.seconds()));
    let best = best.expect("a round at least");
    let [step, forward, backward, update] =
        [best.seconds(), best.forward, best.backward, best.update].map(|seconds| 1e3 * seconds);
    println!(
        "{name:<8}{batch:>6}{step:>11.3}{forward:>13.3}{backward:>13.3}{update:>11.3}{:>11.0}",
        batch as f64 / best.seconds()
    );
}
