//! The C interface: `include/cnnkern.h` is generated from this folder.
//!
//! It only translates: pointers and integers into slices and typed parameters, a call of the safe
//! function, a status. The rules of the folder:
//!
//! - Nothing that comes from C is trusted to be a valid Rust value: `convert` checks constants,
//!   `args` checks pointers, and an `args::Array` becomes a slice only after
//!   `args::no_overlap`.
//! - Everything runs under `guard`, where panics stop.
//! - A numeric function is written once, generic over the element, and its `_f32` and `_f64`
//!   symbols are one statement each, spelled out because cbindgen does not expand macros.
//! - Doc comments become the header's, so they speak to a C programmer.
//!
//! # Safety
//! What every function here asks of its caller stands once, at the top of the header: a pointer is
//! NULL or points to as many elements as its comment says, a context comes from
//! `cnnkern_context_create` and is not yet destroyed, and nobody else writes to these meanwhile.
#![allow(
    clippy::missing_safety_doc,
    reason = "the same for every function: said above and at the top of the header"
)]
#![allow(rustdoc::broken_intra_doc_links, reason = "brackets are shapes in the header's comments")]

mod args;
mod convert;
mod guard;

// The order of the header.
#[allow(non_camel_case_types, reason = "the names that C sees")]
mod types;

mod library;

mod context;

mod conv2d;
mod im2col;

mod pool2d;

mod conv2d_maxpool2d;

mod elementwise;
mod gemm;

pub use context::*;
pub use conv2d::*;
pub use conv2d_maxpool2d::*;
pub use elementwise::*;
pub use gemm::*;
pub use im2col::*;
pub use library::*;
pub use pool2d::*;
pub use types::*;
