//! After a context's first call with given parameters the same call allocates nothing, and scratch
//! memory is bounded.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients, Pass, maxpool};
use cnnkern::pool2d::{Argmax, ArgmaxMut};
use cnnkern::{Activation, Context, Conv2dParams, Isa};

use common::contexts;
use common::operations;
use common::shapes;

/// Counts the allocations of all threads.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        FREED.fetch_add(layout.size(), Ordering::Relaxed);
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

/// Bytes that are allocated after some work and were not before.
fn kept(work: impl FnOnce()) -> usize {
    let live = || BYTES.load(Ordering::SeqCst) - FREED.load(Ordering::SeqCst);
    let before = live();
    work();
    live().saturating_sub(before)
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

/// What lies between a convolution and its pooling is never stored whole.
fn pooled_convolutions_store_little_between() {
    let num_threads = 2;
    for layout in shapes::LAYOUTS {
        let params = Conv2dParams { layout, ..Conv2dParams::new(2, 16, 226, 226, 64, 3, 3) };
        let pool = shapes::pool_of(&params, 2, 2, 0);
        let [x_len, w_len, between] = operations::conv_lens(&params);
        let (x, w) = (vec![1.0f32; x_len], vec![1.0; w_len]);
        let (mut y, mut places) = (vec![0.0; between / 4], vec![0; between / 4]);
        let (mut dx, mut dw, mut db) = (x.clone(), w.clone(), [0.0; 64]);
        let context = contexts::context(Isa::best(), num_threads);
        let (_, forward) = counted(|| {
            let (activation, argmax) = (Activation::Relu, Some(ArgmaxMut::U8(&mut places)));
            maxpool::forward(&context, &params, &pool, &x, &w, None, activation, &mut y, argmax)
                .unwrap();
        });
        let (_, backward) = counted(|| {
            let inputs = BackwardInputs { x: Some(&x), w: Some(&w), dy: &y, relu_output: Some(&y) };
            let gradients = Gradients { dx: Some(&mut dx), dw: Some(&mut dw), db: Some(&mut db) };
            let (argmax, options) = (Argmax::U8(&places), GradientOptions::default());
            maxpool::backward(&context, &params, &pool, &inputs, argmax, &options, gradients)
                .unwrap();
        });
        // A megabyte a thread between the two, and what each of them needs.
        let bound = num_threads * (5 << 20);
        assert!(2 * bound < between * size_of::<f32>(), "too small a step to tell");
        assert!(forward <= bound, "{forward} bytes for the forward pass of {params:?}");
        assert!(backward <= 2 * bound, "{backward} bytes for the backward pass of {params:?}");
    }
}

/// A query tells what a context's first call makes it keep.
fn scratch_is_foretold<T: common::real::Real>() {
    let shapes = [
        Conv2dParams::new(2, 5, 9, 9, 7, 1, 1),
        Conv2dParams::new(2, 3, 20, 20, 6, 5, 5),
        Conv2dParams::new(2, 24, 13, 11, 20, 3, 3),
        Conv2dParams { groups: 6, ..Conv2dParams::new(3, 6, 30, 30, 6, 3, 3) },
        Conv2dParams { groups: 4, ..Conv2dParams::new(3, 80, 10, 10, 72, 3, 3) },
    ];
    let layouts = [cnnkern::Layout::Nchw, cnnkern::Layout::Nhwc];
    let strides = [1, 2, 3];
    for isa in contexts::supported_isas() {
        for (params, layout, stride) in shapes
            .iter()
            .flat_map(|params| layouts.map(|layout| (params, layout)))
            .flat_map(|(params, layout)| strides.map(|stride| (params, layout, stride)))
        {
            let params =
                Conv2dParams { layout, stride_height: stride, stride_width: stride, ..*params };
            the_query_holds::<T>(isa, &params);
            let padded = Conv2dParams { pad_top: 1, pad_left: 2, ..params };
            the_query_holds::<T>(isa, &padded);
        }
    }
}

/// The scratch memory of each pass on finite numbers is within the query's, and with a ReLU's output
/// and no padding it is the query's.
fn the_query_holds<T: common::real::Real>(isa: Isa, params: &Conv2dParams) {
    let (height, width) = params.output_size().unwrap();
    let of = |len: usize| vec![T::narrow(1.0); len];
    let x = of(params.batch * params.in_channels * params.in_height * params.in_width);
    let patch = params.in_channels / params.groups * params.kernel_height * params.kernel_width;
    let w = of(params.out_channels * patch);
    let mut y = of(params.batch * params.out_channels * height * width);
    let (mut dx, mut dw, mut db) = (x.clone(), w.clone(), of(params.out_channels));
    let options = GradientOptions::default();
    let backward = |context: &Context, y: &[T], gradients: Gradients<'_, T>| {
        let inputs = BackwardInputs { x: Some(&x), w: Some(&w), dy: y, relu_output: Some(y) };
        conv2d::backward(context, params, &inputs, &options, gradients).unwrap();
    };
    for pass in [Pass::Forward, Pass::BackwardData, Pass::BackwardWeights] {
        let context = contexts::context(isa, 2);
        let query = conv2d::query::<T>(&context, params, pass).unwrap();
        // Of three tries one has no other thread's allocations in it.
        let tries = (0..3).map(|_| {
            let context = contexts::context(isa, 2);
            let bytes = kept(|| match pass {
                Pass::Forward => {
                    let activation = Activation::None;
                    conv2d::forward(&context, params, &x, &w, None, activation, &mut y).unwrap();
                }
                Pass::BackwardData => {
                    let gradients = Gradients { dx: Some(&mut dx), dw: None, db: None };
                    backward(&context, &y, gradients);
                }
                Pass::BackwardWeights => {
                    let gradients = Gradients { dx: None, dw: Some(&mut dw), db: Some(&mut db) };
                    backward(&context, &y, gradients);
                }
            });
            drop(context);
            bytes
        });
        let bytes = tries.min().unwrap();
        // The context's list of its buffers, and a buffer's least size.
        let beside = 512;
        let exact = params.pad_left == 0 && pass != Pass::BackwardWeights;
        let least = if exact { query.scratch_bytes } else { 0 };
        assert!(
            (least..=query.scratch_bytes + beside).contains(&bytes),
            "{bytes} bytes, but the query said {query:?} for {pass:?} of {params:?} on {isa}"
        );
    }
}

/// One test, since every thread's allocations count.
#[test]
fn nothing_is_allocated_twice() {
    the_second_call_allocates_nothing::<f32>();
    the_second_call_allocates_nothing::<f64>();
    scratch_is_bounded();
    pooled_convolutions_store_little_between();
    scratch_is_foretold::<f32>();
    scratch_is_foretold::<f64>();
}
