//! Convolutional-network training kernels for the CPU: convolution, pooling, im2col, matrix products
//! and ReLU, forward and backward, in single and double precision, on plain NCHW and NHWC slices.
//!
//! ```
//! use cnnkern::{Activation, Context, ContextOptions, Conv2dParams, conv2d};
//!
//! let context = Context::new(&ContextOptions::default())?;
//! let params = Conv2dParams::new(1, 1, 4, 4, 1, 3, 3);
//! let (x, w) = ([1.0f32; 16], [0.5f32; 9]);
//! let mut y = [0.0; 4];
//! conv2d::forward(&context, &params, &x, &w, None, Activation::None, &mut y)?;
//! assert_eq!(y, [4.5; 4]);
//! # Ok::<(), cnnkern::Error>(())
//! ```
//!
//! | operation | file |
//! |---|---|
//! | [`conv2d::forward`] | `conv2d/forward.rs`, on `conv2d/filter_product.rs` |
//! | [`conv2d::backward`] to x | `conv2d/backward_data.rs`, on `conv2d/filter_product.rs` |
//! | [`conv2d::backward`] to w and the bias | `conv2d/backward_weights.rs` |
//! | the same without patches, for most windows and for depthwise | `conv2d/direct/` |
//! | the same with fewer products, for windows of 3 x 3 and 5 x 5 | `conv2d/winograd/` |
//! | the same with max-pooling as one step: [`conv2d::maxpool`] | `conv2d/maxpool.rs` |
//! | the patches of an image, never stored | `conv2d/patches.rs` |
//! | [`gemm::gemm`], [`gemm::gemm_batched`] | `gemm/mod.rs`; small ones in `gemm/in_place.rs` |
//! | the block product that these end in | `gemm/kernel.rs`, packed by `gemm/pack.rs` |
//! | [`im2col::im2col`], [`im2col::col2im`] | `im2col/` |
//! | [`pool2d`] | `pool2d/` |
//! | [`elementwise`]: ReLU | `elementwise.rs` |
//! | every operation as plain loops | `reference.rs` |
//!
//! Parameters are checked once, in `shape.rs`. An operation is cut into tasks by its shape alone, and
//! `parallel.rs`, the one file that names rayon, runs them on a [`Context`]'s threads. A task runs
//! kernels, which are generic over the vector lanes of `simd/` and know nothing of threads, C or
//! errors. `ffi/` is the C interface: it only translates.
//!
//! The same inputs give the same bits, whatever the number of threads; image i of a batch gets the
//! bits that it gets alone; and AVX2 and AVX-512 give the same bits. The sums of a convolution or a
//! matrix product are those of K products in the element's own precision, in blocks: their error is
//! at most about K times half a unit in the last place of the sum of the products' magnitudes.

#[doc(hidden)]
pub mod bench_support;
mod cache;
mod context;
pub mod conv2d;
pub mod elementwise;
mod error;
mod float_mode;
pub mod gemm;
pub mod im2col;
mod operations;
mod parallel;
pub mod pool2d;
pub(crate) mod reference;
mod runs;
mod scratch;
mod shape;
mod shared_mut;
mod simd;
mod taps;
mod tasks;
#[cfg(test)]
mod testing;
mod window;

// Not in the unit tests' build: it would compile every kernel again.
#[cfg(not(test))]
pub mod ffi;

pub use context::{Context, ContextOptions};
pub use error::{Error, Result};
pub use parallel::{ParallelFor, TaskFunction};
pub use shape::{
    Activation, Algorithm, Conv2dParams, FilterLayout, Layout, Pool2dParams, PoolPadding,
};
pub use simd::{Element, Isa};
