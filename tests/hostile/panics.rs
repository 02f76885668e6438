//! A panic inside the library: a status, no output, and a context that still works.

use std::ffi::c_void;
use std::process::{Command, Output};
use std::ptr::{null, null_mut};

use cnnkern::ffi::*;

use crate::refused::*;

/// A caller's pool that gives each task a thread of its own.
unsafe extern "C" fn a_thread_each(
    calls: *mut c_void,
    count: usize,
    task: cnnkern_task,
    data: *mut c_void,
) {
    // SAFETY: `user_data` is the number below.
    unsafe { *calls.cast::<usize>() += 1 };
    let data = data.expose_provenance();
    std::thread::scope(|scope| {
        for index in 0..count {
            scope.spawn(move || {
                // SAFETY: what the library asks its caller's pool for.
                unsafe { task(std::ptr::with_exposed_provenance_mut(data), index) };
            });
        }
    });
}

/// What panics: calls that are cut into tasks, and look at their results where they end well.
const CALLS: [fn(*mut cnnkern_context) -> cnnkern_status; 3] =
    [product, convolution_and_pooling, gradients_of_convolution_and_pooling];

/// C = A * B for matrices of ones.
fn product(context: *mut cnnkern_context) -> cnnkern_status {
    const SIDE: usize = 200;
    const DEPTH: usize = 200;
    let ones = [1.0f32; SIDE * DEPTH];
    let mut product = vec![f32::NAN; SIDE * SIDE];
    let (a, n, k, c) = (ones.as_ptr(), SIDE, DEPTH, product.as_mut_ptr());
    // SAFETY: A, B and C are as large as it says, and the context lives.
    let status = unsafe { cnnkern_gemm_f32(context, 0, 0, n, n, k, 1.0, a, k, a, n, 0.0, c, n) };
    assert!(status != CNNKERN_STATUS_OK || product.iter().all(|&sum| sum == DEPTH as f32));
    status
}

/// Filters of 3 x 3 on images of ones, pooled by windows of 2 x 2.
struct Step {
    params: cnnkern_conv2d_params,
    pool: cnnkern_pool2d_params,
    x: Vec<f32>,
    w: Vec<f32>,
    y_len: usize,
}

impl Step {
    fn new() -> Step {
        let params = cnnkern_conv2d_params_default(5, 3, 42, 42, 4, 3, 3);
        let mut pool = cnnkern_pool2d_params_default(5, 4, 40, 40, 2, 2);
        pool.argmax_type = CNNKERN_ARGMAX_U8;
        let (x, w) = (vec![1.0; 5 * 3 * 42 * 42], vec![1.0; 4 * 3 * 9]);
        Step { params, pool, x, w, y_len: 5 * 4 * 20 * 20 }
    }
}

fn convolution_and_pooling(context: *mut cnnkern_context) -> cnnkern_status {
    let Step { params, pool, x, w, y_len } = Step::new();
    let (mut y, mut argmax) = (vec![f32::NAN; y_len], vec![255u8; y_len]);
    let (x, w, places) = (x.as_ptr(), w.as_ptr(), argmax.as_mut_ptr().cast());
    let activation = CNNKERN_ACTIVATION_RELU;
    // SAFETY: the tensors are as large as the parameters say, and the context lives.
    let status = unsafe {
        let (params, pool, y) = (&params, &pool, y.as_mut_ptr());
        cnnkern_conv2d_maxpool2d_forward_f32(
            context,
            params,
            pool,
            x,
            w,
            null(),
            activation,
            y,
            places,
        )
    };
    if status == CNNKERN_STATUS_OK {
        assert!(y.iter().all(|&sum| sum == 27.0) && argmax.iter().all(|&place| place == 0));
    }
    status
}

fn gradients_of_convolution_and_pooling(context: *mut cnnkern_context) -> cnnkern_status {
    let Step { params, pool, x, w, y_len } = Step::new();
    let (dy, argmax) = (vec![1.0f32; y_len], vec![0u8; y_len]);
    let mut dx = vec![f32::NAN; x.len()];
    let (mut dw, mut db) = (vec![f32::NAN; w.len()], [f32::NAN; 4]);
    // SAFETY: the tensors are as large as the parameters say, and the context lives.
    let status = unsafe {
        cnnkern_conv2d_maxpool2d_backward_f32(
            context,
            &params,
            &pool,
            x.as_ptr(),
            w.as_ptr(),
            dy.as_ptr(),
            argmax.as_ptr().cast(),
            null(),
            null(),
            dx.as_mut_ptr(),
            dw.as_mut_ptr(),
            db.as_mut_ptr(),
        )
    };
    if status == CNNKERN_STATUS_OK {
        // Each of 20 x 20 windows in 5 images counts once for each weight and each bias,
        let windows = 5.0 * 20.0 * 20.0;
        assert!(dw.iter().chain(&db).all(|&sum| sum == windows));
        // and passes each weight on to one element of x.
        assert_eq!(dx.iter().sum::<f32>(), windows * w.len() as f32);
    }
    status
}

fn survives_panics(options: &cnnkern_context_options) {
    let mut context = null_mut();
    // SAFETY: good options; the context is destroyed at the end.
    unsafe {
        assert_ok(cnnkern_context_create(options, size_of_val(options), &mut context));
        // More than once: another thread may be the first to panic.
        for call in CALLS.into_iter().cycle().take(4 * CALLS.len()) {
            context_of(context).panic_in_next_region();
            let status = call(context);
            assert_refused(status, CNNKERN_STATUS_INTERNAL, &["a panic that a test asked for"]);
            assert!(last_error().starts_with("internal error: "), "{}", last_error());
            assert!(last_error().ends_with("; please report it"), "{}", last_error());
            assert_ok(call(context));
        }
        cnnkern_context_destroy(context);
    }
}

#[test]
#[ignore = "another test runs it, to see what it prints"]
fn child_panics_inside() {
    for num_threads in [1, 2, 3] {
        let options =
            cnnkern_context_options { num_threads, parallel_for: None, user_data: null_mut() };
        survives_panics(&options);
    }
    let mut calls = 0usize;
    let options = cnnkern_context_options {
        num_threads: 3,
        parallel_for: Some(a_thread_each),
        user_data: (&raw mut calls).cast(),
    };
    survives_panics(&options);
    assert!(calls >= 8, "the caller's pool was called {calls} times");
}

#[test]
#[ignore = "another test runs it, to see what it prints"]
fn child_panics_outside() {
    // SAFETY: nothing to do.
    assert_ok(unsafe { cnnkern_relu_forward_f32(null_mut(), 0, null(), null_mut()) });
    panic!("the program's own panic");
}

fn run_alone(test: &str) -> Output {
    Command::new(std::env::current_exe().expect("a test knows where it is"))
        .args(["--ignored", "--exact", "--nocapture", test])
        .output()
        .expect("a test can be run again")
}

#[test]
fn a_panic_inside_is_a_status_and_prints_nothing() {
    let output = run_alone("panics::child_panics_inside");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_panic_outside_is_printed_as_ever() {
    let output = run_alone("panics::child_panics_outside");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("the program's own panic"), "{stderr}");
}

/// Threads that do not fit the address space are an error like any other.
#[test]
#[ignore = "another test runs it, to limit a process of its own"]
fn child_lacks_memory() {
    // Room for small allocations, but not for the first thread's stack: a thread that starts with
    // next to no room left would be aborted by the standard library.
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: u64 = statm.split(' ').next().expect("the size").parse().expect("a number");
    // SAFETY: without preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    let most = pages * page + (1 << 20);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: a good struct.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    let options =
        cnnkern_context_options { num_threads: 8, parallel_for: None, user_data: null_mut() };
    let mut context = null_mut();
    // SAFETY: good options.
    let status = unsafe { cnnkern_context_create(&options, size_of_val(&options), &mut context) };
    assert_refused(status, CNNKERN_STATUS_OUT_OF_MEMORY, &["7 threads"]);
    assert!(context.is_null());
}

#[test]
fn threads_that_cannot_be_started() {
    let output = run_alone("panics::child_lacks_memory");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
