//! Where panics and errors stop: they become a status and the thread's last error.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic;
use std::sync::Once;

use super::types::*;
use crate::error::{Error, Result};
use crate::parallel;

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Runs the body of a C function.
pub(super) fn guard(call: impl FnOnce() -> Result<()>) -> cnnkern_status {
    match caught(call) {
        Ok(()) => CNNKERN_STATUS_OK,
        Err(error) => {
            remember(&error);
            status(&error)
        }
    }
}

/// Runs the body of a C function that returns a value: `fallback` when it fails.
pub(super) fn guard_or<R>(fallback: R, call: impl FnOnce() -> Result<R>) -> R {
    caught(call).unwrap_or_else(|error| {
        remember(&error);
        fallback
    })
}

/// The text of this thread's last failure, valid until its next one.
pub(super) fn last_error() -> *const c_char {
    let text = LAST_ERROR.try_with(|last| last.borrow().as_ref().map(|text| text.as_ptr()));
    text.ok().flatten().unwrap_or(c"".as_ptr())
}

fn remember(error: &Error) {
    let text = CString::new(error.to_string().replace('\0', "\\0")).unwrap_or_default();
    // A thread whose thread-locals are gone already is ending, and will not ask.
    let _ = LAST_ERROR.try_with(|last| last.replace(Some(text)));
}

fn status(error: &Error) -> cnnkern_status {
    match error {
        Error::NullPointer { .. } => CNNKERN_STATUS_NULL_POINTER,
        Error::InvalidArgument { .. } => CNNKERN_STATUS_INVALID_ARGUMENT,
        Error::SizeOverflow { .. } => CNNKERN_STATUS_SIZE_OVERFLOW,
        Error::OutOfMemory { .. } => CNNKERN_STATUS_OUT_OF_MEMORY,
        Error::Unsupported { .. } => CNNKERN_STATUS_UNSUPPORTED,
        Error::Internal { .. } => CNNKERN_STATUS_INTERNAL,
    }
}

fn caught<R>(call: impl FnOnce() -> Result<R>) -> Result<R> {
    silence_guarded_panics();
    parallel::catch_panic(true, call).unwrap_or_else(|payload| {
        Err(Error::Internal {
            message: format!("internal error: {}; please report it", panic_text(&*payload)),
        })
    })
}

/// A library does not print: std's hook, which does, gets to see only panics that are not ours.
fn silence_guarded_panics() {
    static INSTALLED: Once = Once::new();
    // The hook cannot be changed by a thread that is unwinding.
    if INSTALLED.is_completed() || std::thread::panicking() {
        return;
    }
    INSTALLED.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !parallel::is_quiet() {
                others(info);
            }
        }));
    });
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
