//! Convolutional-network training kernels for the CPU.
mod context;
pub mod conv2d;
pub mod elementwise;
mod error;
mod float_mode;
pub mod gemm;
pub mod im2col;
mod parallel;
pub mod pool2d;
pub(crate) mod reference;
mod runs;
mod scratch;
mod shape;
mod shared_mut;
mod simd;
mod tasks;
#[cfg(test)]
mod testing;

pub mod ffi;

pub use context::{Context, ContextOptions};
pub use error::{Error, Result};
pub use parallel::{ParallelFor, TaskFunction};
pub use shape::{
    Activation, Algorithm, Conv2dParams, FilterLayout, Layout, Pool2dParams, PoolPadding,
};
pub use simd::{Element, Isa};
