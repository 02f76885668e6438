//! Contexts: made, asked and destroyed.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use super::args::{self, Array};
use super::guard::{guard, guard_or};
use super::types::*;
use crate::context::{Context, ContextOptions};
use crate::error::{Error, Result};
use crate::parallel::ParallelFor;
use crate::simd::Isa;

/// Makes a context and starts its threads. Its address is written to *context, which is left alone
/// on errors. Destroy it with cnnkern_context_destroy().
///
/// options: NULL means defaults, and options_size is then not read. options_size:
/// sizeof(cnnkern_context_options). A smaller size, made of whole fields, leaves the fields beyond
/// it at 0, their default; a larger one, as a newer header has it, is accepted where the bytes
/// beyond are all 0.
///
/// The environment's CNNKERN_ISA (portable, avx2 or avx512) chooses the instruction set; the
/// default is the widest that the processor has. CNNKERN_NUM_THREADS is read where num_threads is
/// 0. An empty variable counts as not set.
///
/// Errors: NULL_POINTER for context; INVALID_ARGUMENT for options_size, for more than 1024 threads,
/// for a CNNKERN_ISA that is unknown or that the processor lacks, or for a CNNKERN_NUM_THREADS that
/// is not a number from 1 to 1024; OUT_OF_MEMORY where the threads cannot be started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_context_create(
    options: *const cnnkern_context_options,
    options_size: usize,
    context: *mut *mut cnnkern_context,
) -> cnnkern_status {
    guard(|| {
        Array::new("context", context, 1)?;
        // SAFETY: the caller's promise.
        let options = unsafe { options_of_size(options, options_size)? };
        let made = Context::new(&ContextOptions {
            num_threads: options.num_threads,
            isa: None,
            parallel_for: options
                .parallel_for
                .map(|function| ParallelFor { function, user_data: options.user_data }),
        })?;
        let handle = Box::into_raw(Box::new(cnnkern_context { context: made }));
        // SAFETY: the caller's promise.
        unsafe { args::write("context", context, handle) }
    })
}

/// Ends a context: stops its threads and frees its memory. No call may be using it. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_context_destroy(context: *mut cnnkern_context) {
    guard(|| {
        if !context.is_null() {
            // SAFETY: made by cnnkern_context_create, and used no more, as the caller promises.
            drop(unsafe { Box::from_raw(context) });
        }
        Ok(())
    });
}

/// Threads that a call may use, its caller included. NULL asks the default context; 0, and an error
/// in cnnkern_last_error(), where that one cannot be made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_context_num_threads(context: *const cnnkern_context) -> usize {
    // SAFETY: the caller's promise.
    guard_or(0, || Ok(unsafe { context_or_default(context)? }.num_threads()))
}

/// The instruction set that the context's kernels run as: "avx512", "avx2" or "portable". NULL asks
/// the default context; "", and an error in cnnkern_last_error(), where that one cannot be made.
/// Never NULL, and valid for the life of the program.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_context_isa(context: *const cnnkern_context) -> *const c_char {
    let name = guard_or(c"", || {
        // SAFETY: the caller's promise.
        Ok(match unsafe { context_or_default(context)? }.isa() {
            Isa::Portable => c"portable",
            Isa::Avx2 => c"avx2",
            Isa::Avx512 => c"avx512",
        })
    });
    name.as_ptr()
}

/// The context inside a handle, for tests that ask it for what C cannot.
///
/// # Safety
/// The handle comes from [`cnnkern_context_create`] and outlives the result.
#[doc(hidden)]
pub unsafe fn context_of<'a>(handle: *const cnnkern_context) -> &'a Context {
    // SAFETY: the caller's promise.
    unsafe { &(*handle).context }
}

/// The context of a handle; the default one for NULL.
///
/// # Safety
/// A handle that is not NULL is a living context.
pub(super) unsafe fn context_or_default<'a>(handle: *const cnnkern_context) -> Result<&'a Context> {
    match Array::optional("context", handle, 1)? {
        // SAFETY: not null and aligned; the rest is the caller's promise.
        Some(_) => Ok(unsafe { context_of(handle) }),
        None => Context::global(),
    }
}

/// More bytes than any header of ours will ever ask for.
const MOST_OPTIONS: usize = 256;

/// The options from a header of any age.
///
/// # Safety
/// `options` is NULL or points to `size` readable bytes.
unsafe fn options_of_size(
    options: *const cnnkern_context_options,
    size: usize,
) -> Result<cnnkern_context_options> {
    const KNOWN: usize = size_of::<cnnkern_context_options>();
    // All zero is what the defaults are: 0 threads, no parallel_for.
    let mut known = MaybeUninit::<cnnkern_context_options>::zeroed();
    if !options.is_null() {
        let whole_fields = size.is_multiple_of(size_of::<usize>()) || size > KNOWN;
        if size == 0 || size > MOST_OPTIONS || !whole_fields {
            return Err(Error::invalid(format!(
                "options_size must be sizeof(cnnkern_context_options), which is {KNOWN} here, but \
                 is {size}"
            )));
        }
        Array::new("options", options, 1)?;
        let bytes = Array::new("options", options.cast::<u8>(), size)?;
        // SAFETY: the caller's promise.
        let bytes = unsafe { bytes.slice() };
        let (head, tail) = bytes.split_at(size.min(KNOWN));
        if let Some(place) = tail.iter().position(|&byte| byte != 0) {
            return Err(Error::invalid(format!(
                "options must be 0 beyond the {KNOWN} bytes that this version of cnnkern knows, \
                 but byte {} of {size} is {}",
                KNOWN + place,
                tail[place]
            )));
        }
        // SAFETY: `head` is no longer than the struct.
        unsafe { known.as_mut_ptr().cast::<u8>().copy_from(head.as_ptr(), head.len()) };
    }
    // SAFETY: integers and nullable pointers take any bytes.
    Ok(unsafe { known.assume_init() })
}
