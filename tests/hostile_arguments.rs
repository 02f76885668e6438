//! What C can get wrong: each mistake gives its status and a sentence that names the argument and
//! its value, and leaves every output untouched. A panic inside gives INTERNAL, prints nothing, and
//! leaves the context usable.

#[path = "hostile/refused.rs"]
mod refused;

/// The numeric functions in single precision.
#[path = "hostile"]
mod single {
    pub type Real = f32;
    pub use cnnkern::ffi::{
        cnnkern_avgpool2d_backward_f32 as avgpool2d_backward,
        cnnkern_avgpool2d_forward_f32 as avgpool2d_forward, cnnkern_col2im_f32 as col2im,
        cnnkern_conv2d_backward_f32 as conv2d_backward,
        cnnkern_conv2d_forward_f32 as conv2d_forward,
        cnnkern_conv2d_maxpool2d_backward_f32 as conv2d_maxpool2d_backward,
        cnnkern_conv2d_maxpool2d_forward_f32 as conv2d_maxpool2d_forward,
        cnnkern_conv2d_query_f32 as conv2d_query, cnnkern_gemm_batched_f32 as gemm_batched,
        cnnkern_gemm_f32 as gemm, cnnkern_im2col_f32 as im2col,
        cnnkern_maxpool2d_backward_f32 as maxpool2d_backward,
        cnnkern_maxpool2d_forward_f32 as maxpool2d_forward,
        cnnkern_relu_backward_f32 as relu_backward, cnnkern_relu_forward_f32 as relu_forward,
    };
    #[allow(clippy::duplicate_mod, reason = "once for each precision")]
    mod conv2d_maxpool2d;
    #[allow(clippy::duplicate_mod, reason = "once for each precision")]
    mod numeric;
}

/// The same tests on the functions in double precision.
#[path = "hostile"]
mod double {
    pub type Real = f64;
    pub use cnnkern::ffi::{
        cnnkern_avgpool2d_backward_f64 as avgpool2d_backward,
        cnnkern_avgpool2d_forward_f64 as avgpool2d_forward, cnnkern_col2im_f64 as col2im,
        cnnkern_conv2d_backward_f64 as conv2d_backward,
        cnnkern_conv2d_forward_f64 as conv2d_forward,
        cnnkern_conv2d_maxpool2d_backward_f64 as conv2d_maxpool2d_backward,
        cnnkern_conv2d_maxpool2d_forward_f64 as conv2d_maxpool2d_forward,
        cnnkern_conv2d_query_f64 as conv2d_query, cnnkern_gemm_batched_f64 as gemm_batched,
        cnnkern_gemm_f64 as gemm, cnnkern_im2col_f64 as im2col,
        cnnkern_maxpool2d_backward_f64 as maxpool2d_backward,
        cnnkern_maxpool2d_forward_f64 as maxpool2d_forward,
        cnnkern_relu_backward_f64 as relu_backward, cnnkern_relu_forward_f64 as relu_forward,
    };
    #[allow(clippy::duplicate_mod, reason = "once for each precision")]
    mod conv2d_maxpool2d;
    #[allow(clippy::duplicate_mod, reason = "once for each precision")]
    mod numeric;
}

#[path = "hostile/contexts.rs"]
mod contexts;
#[path = "hostile/panics.rs"]
mod panics;
