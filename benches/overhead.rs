//! `cargo bench --bench overhead`: what threads cost, and what they gain.
//!
//! Every figure is a median, or says otherwise. `CNNKERN_ISA` chooses the instruction set.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients};
use cnnkern::{Activation, Context, ContextOptions, Conv2dParams, bench_support};

fn main() {
    // As `cargo test` calls it, it only tries whether everything runs.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { 200 } else { 1 };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let contexts = [1, cores.min(2), cores, 2 * cores].map(context);
    let [one, two, all, many] = &contexts;
    println!("cnnkern {} as {}, {cores} cores", env!("CARGO_PKG_VERSION"), one.isa());

    region(two, rounds);
    idle(all);
    small_layers(one, two, rounds);
    large_layers(one, two, rounds.div_ceil(20));
    crowded(one, all, many, cores, rounds.div_ceil(10));
}

fn context(num_threads: usize) -> Context {
    let options = ContextOptions { num_threads, ..ContextOptions::default() };
    Context::new(&options).expect("a context")
}

/// The median and the largest of the times that `run` takes, in microseconds.
fn times(rounds: usize, run: impl FnMut()) -> [f64; 2] {
    times_after(Duration::ZERO, rounds, run)
}

/// The same with a pause before each.
fn times_after(pause: Duration, rounds: usize, mut run: impl FnMut()) -> [f64; 2] {
    run();
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            if !pause.is_zero() {
                thread::sleep(pause);
            }
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    [times[times.len() / 2], times[times.len() - 1]]
}

/// A region of two tasks, each of which waits until the other has begun on its own thread.
fn region(context: &Context, rounds: usize) {
    if context.num_threads() < 2 {
        return;
    }
    let meet = || {
        let begun = AtomicUsize::new(0);
        bench_support::region(context, 2, &|_| {
            begun.fetch_add(1, Ordering::SeqCst);
            while begun.load(Ordering::SeqCst) < 2 {
                spin_loop();
            }
        });
    };
    let [hot, _] = times(20 * rounds, meet);
    let [warm, warmest] = times_after(Duration::from_micros(200), rounds, meet);
    let [cold, coldest] = times_after(Duration::from_millis(2), rounds.min(50), meet);
    println!("\na region in which two threads meet");
    println!("  right after another  {hot:8.1} us");
    println!("  0.2 ms after another {warm:8.1} us, at most {warmest:.1} us");
    println!("  2 ms after another   {cold:8.1} us, at most {coldest:.1} us");
}

/// The processor time of a context from a millisecond after a call on.
fn idle(context: &Context) {
    const IDLE: Duration = Duration::from_millis(200);
    bench_support::region(context, 2 * context.num_threads(), &|_| ());
    thread::sleep(Duration::from_millis(1));
    let before = processor_time();
    thread::sleep(IDLE);
    let used = processor_time() - before;
    println!("\nidle, from 1 ms after a call on");
    println!("  processor time       {:8.2} % of one core", 100.0 * used / IDLE.as_secs_f64());
}

/// Of all threads of this process, in seconds.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` may be written.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A convolution and its tensors.
struct Layer {
    params: Conv2dParams,
    x: Vec<f32>,
    w: Vec<f32>,
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
}

impl Layer {
    fn new([batch, channels, size, filters, kernel, pad]: [usize; 6]) -> Layer {
        let params = Conv2dParams {
            pad_top: pad,
            pad_bottom: pad,
            pad_left: pad,
            pad_right: pad,
            ..Conv2dParams::new(batch, channels, size, size, filters, kernel, kernel)
        };
        let (height, width) = params.output_size().expect("a valid shape");
        let values = |len: usize| (0..len).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
        let (x_len, w_len) = (batch * channels * size * size, filters * channels * kernel * kernel);
        Layer {
            params,
            x: values(x_len),
            w: values(w_len),
            y: values(batch * filters * height * width),
            dx: vec![0.0; x_len],
            dw: vec![0.0; w_len],
        }
    }

    fn forward(&mut self, context: &Context) {
        let (params, none) = (&self.params, Activation::None);
        conv2d::forward(context, params, &self.x, &self.w, None, none, &mut self.y).expect("valid");
        black_box(&self.y);
    }

    fn backward(&mut self, context: &Context) {
        let inputs =
            BackwardInputs { x: Some(&self.x), w: Some(&self.w), dy: &self.y, relu_output: None };
        let gradients = Gradients { dx: Some(&mut self.dx), dw: Some(&mut self.dw), db: None };
        let options = GradientOptions::default();
        conv2d::backward(context, &self.params, &inputs, &options, gradients).expect("valid");
        black_box((&self.dx, &self.dw));
    }
}

/// The two convolutions of LeNet-5, one image at a time.
fn small_layers(one: &Context, two: &Context, rounds: usize) {
    println!("\nLeNet-5, batch 1         1 thread   2 threads");
    for (name, shape) in [("conv1", [1, 1, 28, 6, 5, 2]), ("conv2", [1, 6, 14, 16, 5, 0])] {
        let mut layer = Layer::new(shape);
        let forward = [one, two].map(|context| times(rounds, || layer.forward(context))[0]);
        println!("  {name} forward     {:10.1} us {:8.1} us", forward[0], forward[1]);
        let backward = [one, two].map(|context| times(rounds, || layer.backward(context))[0]);
        println!("  {name} backward    {:10.1} us {:8.1} us", backward[0], backward[1]);
    }
}

/// How much faster two threads are, where there is much to do.
fn large_layers(one: &Context, two: &Context, rounds: usize) {
    println!("\nbatch 8                  1 thread   2 threads");
    for (name, shape) in [
        ("3x3, 64 at 56x56 ", [8, 64, 56, 64, 3, 1]),
        ("1x1, 512 at 14x14", [8, 512, 14, 512, 1, 0]),
    ] {
        let mut layer = Layer::new(shape);
        for backward in [false, true] {
            let pass = if backward { "backward" } else { "forward " };
            // In turn, since the machine's speed may change.
            let mut best = [f64::INFINITY; 2];
            for _ in 0..rounds {
                for (context, best) in [one, two].into_iter().zip(&mut best) {
                    let [time, _] = times(1, || match backward {
                        true => layer.backward(context),
                        false => layer.forward(context),
                    });
                    *best = best.min(time);
                }
            }
            let [single, double] = best.map(|time| time / 1e3);
            let gain = single / double;
            println!("  {name} {pass} {single:8.2} ms {double:8.2} ms   {gain:.2} times");
        }
    }
}

/// More threads than cores, and a neighbour that never rests.
fn crowded(one: &Context, all: &Context, many: &Context, cores: usize, rounds: usize) {
    let mut layer = Layer::new([4, 64, 28, 64, 3, 1]);
    let [single, _] = times(rounds, || layer.forward(one));
    let [alone, _] = times(rounds, || layer.forward(all));
    println!("\ncrowded                   fair share     median    longest");
    let show = |name: &str, fair: f64, [median, longest]: [f64; 2]| {
        let (more, most) = (median / fair, longest / fair);
        println!("  {name:22} {fair:9.0} us {more:5.2} times {most:5.2} times");
    };
    let name = format!("{} threads", many.num_threads());
    show(&name, alone, times(rounds, || layer.forward(many)));
    let rest = AtomicBool::new(false);
    let crowd = thread::scope(|scope| {
        scope.spawn(|| {
            while !rest.load(Ordering::Relaxed) {
                spin_loop();
            }
        });
        let crowd = times(rounds, || layer.forward(all));
        rest.store(true, Ordering::Relaxed);
        crowd
    });
    // One of `cores` + 1 threads is the neighbour's.
    let share = (cores * cores) as f64 / (cores + 1) as f64;
    show("a busy neighbour", single / share, crowd);
}
