//! `cargo bench --bench throughput`: what the kernels reach that multiply, beside what this machine can do.
//!
//! First the machine's peaks are measured. Then each benchmark shows its GFLOP/s and the per cent of the peak
//! of its element type, on the threads that it may use. Operations are counted as the shape says, padded
//! taps included, so a clever algorithm may pass 100 %.
//!
//! `cargo bench --bench throughput -- conv/forward/f32` runs those whose name contains that (a regular expression),
//! `cargo bench --bench throughput -- --quiet` leaves out the comparison with the last run; `CNNKERN_ISA` and
//! `CNNKERN_NUM_THREADS` choose the rest. Shapes are in `shapes/`.

mod conv;
mod gemm;
mod microkernel;
mod multiply_add;
mod number;
mod peak;
mod random;
mod report;
mod shapes;

use cnnkern::Layout;

use report::{Bench, Peak, set_up};

fn main() {
    let (context, effort, machine) = set_up();
    let one_thread = &machine.one_thread;
    microkernel::run::<f32>(&mut Bench::new(&context, effort, Peak::of::<f32>(one_thread)));
    microkernel::run::<f64>(&mut Bench::new(&context, effort, Peak::of::<f64>(one_thread)));

    let mut bench = Bench::new(&context, effort, Peak::of::<f32>(&machine.all_threads));
    gemm::run::<f32>(&mut bench);
    conv::run::<f32>(&mut bench, &[Layout::Nchw, Layout::Nhwc]);

    // The same kernels on half as many lanes: a part is enough to see that they keep up.
    let mut bench = Bench::new(&context, effort, Peak::of::<f64>(&machine.all_threads));
    gemm::run::<f64>(&mut bench);
    conv::run::<f64>(&mut bench, &[Layout::Nchw]);
}
