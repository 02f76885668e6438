//! `cargo bench`: what the kernels reach, beside what this machine can do.
//!
//! First the machine's peaks are measured. Then each benchmark shows its GFLOP/s or GB/s and the
//! per cent of the peak that belongs to it: multiply-adds of its element type, or memory bandwidth,
//! on the threads that it may use. Operations are counted as the shape says, padded taps included,
//! and each byte of a tensor once, so a clever algorithm or a tensor that stays in the cache may
//! pass 100 %.
//!
//! `cargo bench --bench throughput -- conv/forward/f32` runs those whose name contains that (a regular expression),
//! `cargo bench --bench throughput -- --quiet` leaves out the comparison with the last run; `CNNKERN_ISA` and
//! `CNNKERN_NUM_THREADS` choose the rest. Shapes are in `shapes/`.

mod conv;
mod gemm;
mod memory;
mod microkernel;
mod multiply_add;
mod number;
mod peak;
mod random;
mod report;
mod shapes;

use std::env;
use std::process::ExitCode;

use cnnkern::{Context, ContextOptions, Layout};

use peak::{Effort, Machine};
use report::{Bench, Peak};

fn main() -> ExitCode {
    let context = match Context::new(&ContextOptions::default()) {
        Ok(context) => context,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let asked = |option: &str| env::args().any(|argument| argument == option);
    // Without --bench, as `cargo test` calls it, criterion only tries every benchmark once.
    let measuring = asked("--bench") && !asked("--test") && !asked("--list");
    let effort = if measuring { Effort::Full } else { Effort::Trial };
    let machine = Machine::measure(&context, effort);
    if measuring {
        println!("{machine}");
    }

    let one_thread = &machine.one_thread;
    microkernel::run::<f32>(&mut Bench::new(&context, effort, Peak::of::<f32>(one_thread)));
    microkernel::run::<f64>(&mut Bench::new(&context, effort, Peak::of::<f64>(one_thread)));

    let mut bench = Bench::new(&context, effort, Peak::of::<f32>(&machine.all_threads));
    gemm::run::<f32>(&mut bench);
    conv::run::<f32>(&mut bench, &[Layout::Nchw, Layout::Nhwc]);
    memory::run(&mut bench);

    // The same kernels on half as many lanes: a part is enough to see that they keep up.
    let mut bench = Bench::new(&context, effort, Peak::of::<f64>(&machine.all_threads));
    gemm::run::<f64>(&mut bench);
    conv::run::<f64>(&mut bench, &[Layout::Nchw]);
    ExitCode::SUCCESS
}
