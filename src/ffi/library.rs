//! The library itself: versions, names of statuses, the last error.

use std::ffi::{CStr, c_char};

use super::guard;
use super::types::*;

/// The name of a status, such as "CNNKERN_STATUS_OK"; "unknown status" for a value that is none.
/// Never NULL, and valid for the life of the program.
#[unsafe(no_mangle)]
pub extern "C" fn cnnkern_status_name(status: cnnkern_status) -> *const c_char {
    let name = match status {
        CNNKERN_STATUS_OK => c"CNNKERN_STATUS_OK",
        CNNKERN_STATUS_NULL_POINTER => c"CNNKERN_STATUS_NULL_POINTER",
        CNNKERN_STATUS_INVALID_ARGUMENT => c"CNNKERN_STATUS_INVALID_ARGUMENT",
        CNNKERN_STATUS_SIZE_OVERFLOW => c"CNNKERN_STATUS_SIZE_OVERFLOW",
        CNNKERN_STATUS_OUT_OF_MEMORY => c"CNNKERN_STATUS_OUT_OF_MEMORY",
        CNNKERN_STATUS_UNSUPPORTED => c"CNNKERN_STATUS_UNSUPPORTED",
        CNNKERN_STATUS_INTERNAL => c"CNNKERN_STATUS_INTERNAL",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// One English sentence about this thread's last failure: which argument was wrong, and its value.
/// "" when there was none; never NULL. As with errno, a success does not clear it. Valid until this
/// thread's next failing call.
#[unsafe(no_mangle)]
pub extern "C" fn cnnkern_last_error() -> *const c_char {
    guard::last_error()
}

/// The library's version, such as "0.1.0". Valid for the life of the program.
#[unsafe(no_mangle)]
pub extern "C" fn cnnkern_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL inside"),
        };
    VERSION.as_ptr()
}

/// The version of the library's interface. Equal to CNNKERN_ABI_VERSION where the library fits the
/// header that a program was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn cnnkern_abi_version() -> u32 {
    CNNKERN_ABI_VERSION
}
