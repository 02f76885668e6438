//! After a context's first call with given parameters the same call allocates nothing, and scratch
//! memory is bounded.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients};
use cnnkern::{Activation, Conv2dParams, Isa};

use common::contexts;
use common::operations;

/// Counts the allocations of all threads.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted(work: impl FnOnce()) -> (usize, usize) {
    let before = (ALLOCATIONS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
    work();
    let after = (ALLOCATIONS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
    (after.0 - before.0, after.1 - before.1)
}

/// Checks every operation; each has a context of its own, whose first call may allocate.
fn the_second_call_allocates_nothing<T: common::real::Real>() {
    for isa in contexts::supported_isas() {
        for num_threads in [1, 3] {
            for operation in operations::all::<T>() {
                let context = contexts::context(isa, num_threads);
                let mut outputs = operation.outputs();
                operation.run(&context, &mut outputs);
                // The test harness allocates once in a while too; a call that does, does so again.
                let silent =
                    (0..3).any(|_| counted(|| operation.run(&context, &mut outputs)).0 == 0);
                assert!(silent, "{} on {isa}, {num_threads} threads", operation.name);
            }
        }
    }
}

fn scratch_is_bounded() {
    let shapes = [
        Conv2dParams::new(8, 64, 56, 56, 64, 3, 3),
        Conv2dParams::new(2, 64, 224, 224, 64, 3, 3),
        Conv2dParams::new(8, 512, 7, 7, 512, 3, 3),
        Conv2dParams::new(8, 256, 56, 56, 512, 1, 1),
        Conv2dParams {
            stride_height: 2,
            stride_width: 2,
            ..Conv2dParams::new(4, 3, 224, 224, 64, 7, 7)
        },
        Conv2dParams { groups: 64, ..Conv2dParams::new(8, 64, 112, 112, 64, 3, 3) },
    ];
    let num_threads = 2;
    for params in shapes {
        let (height, width) = params.output_size().unwrap();
        let x =
            vec![1.0f32; params.batch * params.in_channels * params.in_height * params.in_width];
        let patch = params.in_channels / params.groups * params.kernel_height * params.kernel_width;
        let w = vec![1.0f32; params.out_channels * patch];
        let mut y = vec![0.0; params.batch * params.out_channels * height * width];
        let (mut dx, mut dw) = (x.clone(), w.clone());
        let mut db = vec![0.0; params.out_channels];
        let context = contexts::context(Isa::best(), num_threads);
        let (_, forward) = counted(|| {
            let activation = Activation::None;
            conv2d::forward(&context, &params, &x, &w, None, activation, &mut y).unwrap();
        });
        let (_, backward) = counted(|| {
            let inputs = BackwardInputs { x: Some(&x), w: Some(&w), dy: &y, relu_output: Some(&y) };
            let gradients = Gradients { dx: Some(&mut dx), dw: Some(&mut dw), db: Some(&mut db) };
            let options = GradientOptions::default();
            conv2d::backward(&context, &params, &inputs, &options, gradients).unwrap();
        });
        // A few MB a thread and a few times the weights. The backward call may replace its
        // buffer by a larger one twice, and each time counts in full.
        let bound = num_threads * (4 << 20) + 4 * size_of_val(w.as_slice());
        assert!(forward <= bound, "{forward} bytes for the forward pass of {params:?}");
        assert!(backward <= 3 * bound, "{backward} bytes for the backward pass of {params:?}");
    }
}

/// One test, since every thread's allocations count.
#[test]
fn nothing_is_allocated_twice() {
    the_second_call_allocates_nothing::<f32>();
    the_second_call_allocates_nothing::<f64>();
    scratch_is_bounded();
}
