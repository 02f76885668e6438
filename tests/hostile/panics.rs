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

const SIDE: usize = 200;
const DEPTH: usize = 200;

/// C = A * B for matrices of ones, large enough for several tasks.
fn product(context: *mut cnnkern_context, c: &mut [f32]) -> cnnkern_status {
    let ones = [1.0f32; SIDE * DEPTH];
    let (a, n, k, c) = (ones.as_ptr(), SIDE, DEPTH, c.as_mut_ptr());
    // SAFETY: A, B and C are as large as it says, and the context lives.
    unsafe { cnnkern_gemm_f32(context, 0, 0, n, n, k, 1.0, a, k, a, n, 0.0, c, n) }
}

fn survives_panics(options: &cnnkern_context_options) {
    let mut context = null_mut();
    let mut c = vec![0.0; SIDE * SIDE];
    // SAFETY: good options; the context is destroyed at the end.
    unsafe {
        assert_ok(cnnkern_context_create(options, size_of_val(options), &mut context));
        // More than once: another thread may be the first to panic.
        for _ in 0..4 {
            context_of(context).panic_in_next_region();
            let status = product(context, &mut c);
            assert_refused(status, CNNKERN_STATUS_INTERNAL, &["a panic that a test asked for"]);
            assert!(last_error().starts_with("internal error: "), "{}", last_error());
            assert!(last_error().ends_with("; please report it"), "{}", last_error());

            c.fill(0.0);
            assert_ok(product(context, &mut c));
            assert!(c.iter().all(|&sum| sum == DEPTH as f32));
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
