//! Options and environment variables that make no context, and whose error it is.

use std::ffi::{OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::ptr::{null, null_mut};

use cnnkern::Isa;
use cnnkern::ffi::*;

use crate::refused::*;

const SIZE: usize = size_of::<cnnkern_context_options>();

struct Create {
    options: *mut cnnkern_context_options,
    options_size: usize,
    context: *mut *mut cnnkern_context,
}

impl Create {
    fn set(&mut self, num_threads: usize, own_pool: bool) {
        let parallel_for = own_pool.then_some(never_called as _);
        let options = cnnkern_context_options { num_threads, parallel_for, user_data: null_mut() };
        // SAFETY: the pointer is good before it is spoiled.
        unsafe { self.options.write(options) };
    }
}

impl Call for Create {
    fn new(memory: &mut Memory) -> Self {
        // The bytes behind the options are not 0.
        let options =
            cnnkern_context_options { num_threads: 1, parallel_for: None, user_data: null_mut() };
        Create {
            options: memory.slot_with(0, options),
            options_size: SIZE,
            context: memory.slot_with(1, null_mut()),
        }
    }

    fn call(&self) -> cnnkern_status {
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe {
            let status = cnnkern_context_create(self.options, self.options_size, self.context);
            if status == CNNKERN_STATUS_OK {
                cnnkern_context_destroy(*self.context);
            }
            status
        }
    }
}

unsafe extern "C" fn never_called(_: *mut c_void, _: usize, _: cnnkern_task, _: *mut c_void) {
    unreachable!("no region is run");
}

#[test]
fn context_create() {
    refuse::<Create>(&[
        (|c| c.context = null_mut(), NULL, &["context"]),
        (|c| c.context = c.context.wrapping_byte_add(1), INVALID, &["context", "aligned"]),
        (|c| c.options = c.options.wrapping_byte_add(1), INVALID, &["options", "aligned"]),
        (|c| c.options_size = 0, INVALID, &["options_size", "0"]),
        (|c| c.options_size = 4, INVALID, &["options_size", "4"]),
        (|c| c.options_size = SIZE - 1, INVALID, &["options_size", "23"]),
        (|c| c.options_size = SIZE + 1, INVALID, &["options", "byte 24", "90"]),
        (|c| c.options_size = 256, INVALID, &["options", "byte 24", "90"]),
        (|c| c.options_size = 257, INVALID, &["options_size", "257"]),
        (|c| c.options_size = usize::MAX, INVALID, &["options_size", SIZE_MAX]),
        (|c| c.set(1025, false), INVALID, &["num_threads", "1025"]),
        (|c| c.set(usize::MAX, false), INVALID, &["num_threads", SIZE_MAX]),
        (|c| c.set(1025, true), INVALID, &["num_threads", "1025"]),
    ]);
    accept::<Create>(&[
        |c| c.options = null_mut(),
        |c| (c.options, c.options_size) = (null_mut(), 0),
        |c| (c.options, c.options_size) = (null_mut(), usize::MAX),
        // Older headers: num_threads alone, then parallel_for as well.
        |c| c.options_size = size_of::<usize>(),
        |c| c.options_size = 2 * size_of::<usize>(),
        // A newer one, whose new fields are 0.
        // SAFETY: the slot is larger.
        |c| unsafe {
            c.options.add(1).cast::<[u8; 40]>().write([0; 40]);
            c.options_size = SIZE + 40;
        },
    ]);
}

/// A shorter struct's missing fields are not read: here they are no function.
#[test]
fn fields_beyond_options_size_take_their_defaults() {
    let mut options = [3, usize::MAX, usize::MAX];
    let mut context = null_mut();
    // SAFETY: `options` has the bytes that its size says.
    unsafe {
        let pointer = options.as_mut_ptr().cast();
        assert_ok(cnnkern_context_create(pointer, size_of::<usize>(), &mut context));
        assert_eq!(cnnkern_context_num_threads(context), 3);
        // With a parallel_for of that value this would be the end.
        let (u, mut y) = (vec![1.0f32; 1 << 16], vec![0.0f32; 1 << 16]);
        assert_ok(cnnkern_relu_forward_f32(context, u.len(), u.as_ptr(), y.as_mut_ptr()));
        cnnkern_context_destroy(context);
    }
}

#[test]
fn destroying_null_is_fine() {
    // SAFETY: NULL is allowed.
    unsafe { cnnkern_context_destroy(null_mut()) };
}

#[test]
fn the_last_error_is_this_threads_and_stays() {
    let fails = |name: &str| {
        // SAFETY: NULL, twice.
        let status = unsafe { cnnkern_relu_forward_f32(null_mut(), 1, null(), null_mut()) };
        assert_refused(status, NULL, &[name]);
    };
    fails("u");
    std::thread::spawn(move || {
        assert_eq!(last_error(), "");
        // SAFETY: NULL is what is tested.
        let status = unsafe { cnnkern_conv2d_output_size(null(), null_mut(), null_mut()) };
        assert_refused(status, NULL, &["params"]);
    })
    .join()
    .expect("the other thread's asserts hold");
    assert_eq!(last_error(), "u must not be NULL");
    // SAFETY: nothing to do.
    assert_ok(unsafe { cnnkern_relu_forward_f32(null_mut(), 0, null(), null_mut()) });
    assert_eq!(last_error(), "u must not be NULL");
}

#[test]
fn statuses_have_names() {
    for (status, name) in [
        (CNNKERN_STATUS_OK, "CNNKERN_STATUS_OK"),
        (CNNKERN_STATUS_NULL_POINTER, "CNNKERN_STATUS_NULL_POINTER"),
        (CNNKERN_STATUS_INVALID_ARGUMENT, "CNNKERN_STATUS_INVALID_ARGUMENT"),
        (CNNKERN_STATUS_SIZE_OVERFLOW, "CNNKERN_STATUS_SIZE_OVERFLOW"),
        (CNNKERN_STATUS_OUT_OF_MEMORY, "CNNKERN_STATUS_OUT_OF_MEMORY"),
        (CNNKERN_STATUS_UNSUPPORTED, "CNNKERN_STATUS_UNSUPPORTED"),
        (CNNKERN_STATUS_INTERNAL, "CNNKERN_STATUS_INTERNAL"),
        (7, "unknown status"),
        (-1, "unknown status"),
        (i32::MIN, "unknown status"),
    ] {
        assert_eq!(status_name(status), name);
    }
}

/// Run by the tests below in a process of its own, with their environment: says what came of
/// making a context, and whether the default context agrees.
#[test]
#[ignore = "other tests run it, in an environment of their making"]
fn child_makes_a_context() {
    let mut context = null_mut();
    // SAFETY: a good pointer.
    let status = unsafe { cnnkern_context_create(null(), 0, &mut context) };
    // SAFETY: NULL is the default context.
    let default = unsafe { cnnkern_relu_forward_f32(null_mut(), 0, null(), null_mut()) };
    assert_eq!(default, status, "the default context differs: {}", last_error());
    // SAFETY: as above.
    let (threads, isa) =
        unsafe { (cnnkern_context_num_threads(context), string(cnnkern_context_isa(context))) };
    if status != CNNKERN_STATUS_OK {
        assert!(context.is_null());
        assert_eq!((threads, isa.as_str()), (0, ""));
    }
    println!("\ncontext: {status}, {threads} threads, {isa:?}, {:?}", last_error());
    // SAFETY: not used any more.
    unsafe { cnnkern_context_destroy(context) };
}

/// What `child_makes_a_context` says with a variable set.
fn context_with(variable: &str, value: &OsStr) -> String {
    let output = Command::new(std::env::current_exe().expect("a test knows where it is"))
        .args(["--ignored", "--exact", "--nocapture", "contexts::child_makes_a_context"])
        .env_remove("CNNKERN_ISA")
        .env_remove("CNNKERN_NUM_THREADS")
        .env(variable, value)
        .output()
        .expect("a test can be run again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{variable}={value:?}: {text}");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("context: "));
    lines.next().expect("the child says what came of it").to_owned()
}

#[test]
fn environment_variables_that_cannot_be_used() {
    let text = |value: &'static str| OsStr::new(value);
    for (variable, value, words) in [
        ("CNNKERN_ISA", text("sse9"), "sse9"),
        ("CNNKERN_ISA", text("AVX2"), "AVX2"),
        ("CNNKERN_ISA", text(" portable"), " portable"),
        ("CNNKERN_ISA", OsStr::from_bytes(b"\xff"), "UTF-8"),
        ("CNNKERN_NUM_THREADS", text("0"), "0"),
        ("CNNKERN_NUM_THREADS", text("-1"), "-1"),
        ("CNNKERN_NUM_THREADS", text("two"), "two"),
        ("CNNKERN_NUM_THREADS", text("2 2"), "2 2"),
        ("CNNKERN_NUM_THREADS", text("1025"), "1025"),
        ("CNNKERN_NUM_THREADS", text("18446744073709551617"), "18446744073709551617"),
        ("CNNKERN_NUM_THREADS", OsStr::from_bytes(b"2\xff"), "UTF-8"),
    ] {
        let outcome = context_with(variable, value);
        assert!(outcome.starts_with("2, "), "{variable}={value:?}: {outcome}");
        assert!(outcome.contains(variable) && outcome.contains(words), "{value:?}: {outcome}");
    }
}

#[test]
fn an_instruction_set_that_the_processor_lacks() {
    for isa in Isa::ALL {
        let outcome = context_with("CNNKERN_ISA", OsStr::new(isa.name()));
        if isa.is_supported() {
            let named = format!("{:?}", isa.name());
            assert!(outcome.starts_with("0, ") && outcome.contains(&named), "{outcome}");
        } else {
            assert!(outcome.starts_with("2, "), "{isa}: {outcome}");
            assert!(outcome.contains("CNNKERN_ISA") && outcome.contains(isa.name()), "{outcome}");
        }
    }
    if Isa::ALL.into_iter().all(Isa::is_supported) {
        println!("skipped: a CNNKERN_ISA that this processor lacks: it has every one");
    }
}

#[test]
fn environment_variables_that_can_be_used() {
    let default = context_with("CNNKERN_ISA", OsStr::new(""));
    assert!(default.starts_with("0, "), "{default}");
    assert_eq!(context_with("CNNKERN_NUM_THREADS", OsStr::new("")), default);
    let seven = context_with("CNNKERN_NUM_THREADS", OsStr::new("7"));
    assert!(seven.starts_with("0, 7 threads"), "{seven}");
}
