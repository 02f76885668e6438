//! Constants and parameter structs from C as typed parameters.

use super::args;
use super::types::*;
use crate::conv2d::{GradientOptions, Pass};
use crate::error::{Error, Result};
use crate::gemm::Transpose;
use crate::im2col::ColLayout;
use crate::shape::{
    Activation, Algorithm, Conv2dParams, FilterLayout, Layout, Pool2dParams, PoolPadding,
};

/// The meaning of a constant; an error that lists the known ones for any other value.
macro_rules! meaning {
    ($argument:expr, $value:expr, { $($constant:ident => $meaning:expr,)+ }) => {
        match $value {
            $($constant => Ok($meaning),)+
            unknown => Err(Error::invalid(format!(
                "{} must be {}, but is {unknown}",
                $argument,
                [$(format!("{} ({})", stringify!($constant), $constant)),+].join(" or ")
            ))),
        }
    };
}

fn layout(value: cnnkern_layout) -> Result<Layout> {
    meaning!("layout", value, {
        CNNKERN_LAYOUT_NCHW => Layout::Nchw,
        CNNKERN_LAYOUT_NHWC => Layout::Nhwc,
    })
}

fn filter_layout(value: cnnkern_filter_layout) -> Result<FilterLayout> {
    meaning!("filter_layout", value, {
        CNNKERN_FILTER_OIHW => FilterLayout::Oihw,
        CNNKERN_FILTER_OHWI => FilterLayout::Ohwi,
        CNNKERN_FILTER_HWIO => FilterLayout::Hwio,
    })
}

fn algorithm(value: cnnkern_algorithm) -> Result<Algorithm> {
    meaning!("algorithm", value, {
        CNNKERN_ALGORITHM_AUTO => Algorithm::Auto,
        CNNKERN_ALGORITHM_REFERENCE => Algorithm::Reference,
        CNNKERN_ALGORITHM_GEMM => Algorithm::Gemm,
        CNNKERN_ALGORITHM_WINOGRAD => Algorithm::Winograd,
    })
}

fn padding(value: cnnkern_pool_padding) -> Result<PoolPadding> {
    meaning!("padding", value, {
        CNNKERN_POOL_PADDING_EXCLUDED => PoolPadding::Excluded,
        CNNKERN_POOL_PADDING_ZERO => PoolPadding::Zero,
    })
}

/// The constant for the algorithm that a pass takes.
pub(super) fn algorithm_constant(algorithm: Algorithm) -> cnnkern_algorithm {
    match algorithm {
        Algorithm::Auto => CNNKERN_ALGORITHM_AUTO,
        Algorithm::Reference => CNNKERN_ALGORITHM_REFERENCE,
        Algorithm::Gemm => CNNKERN_ALGORITHM_GEMM,
        Algorithm::Winograd => CNNKERN_ALGORITHM_WINOGRAD,
    }
}

pub(super) fn pass(value: cnnkern_pass) -> Result<Pass> {
    meaning!("pass", value, {
        CNNKERN_PASS_FORWARD => Pass::Forward,
        CNNKERN_PASS_BACKWARD_DATA => Pass::BackwardData,
        CNNKERN_PASS_BACKWARD_WEIGHTS => Pass::BackwardWeights,
    })
}

pub(super) fn activation(value: cnnkern_activation) -> Result<Activation> {
    meaning!("activation", value, {
        CNNKERN_ACTIVATION_NONE => Activation::None,
        CNNKERN_ACTIVATION_RELU => Activation::Relu,
    })
}

pub(super) fn col_layout(value: cnnkern_col_layout) -> Result<ColLayout> {
    meaning!("col_layout", value, {
        CNNKERN_COL_PATCH_ROWS => ColLayout::PatchRows,
        CNNKERN_COL_PATCH_COLUMNS => ColLayout::PatchColumns,
        CNNKERN_COL_PER_IMAGE => ColLayout::PerImage,
    })
}

pub(super) fn transpose(argument: &str, value: cnnkern_transpose) -> Result<Transpose> {
    meaning!(argument, value, {
        CNNKERN_NO_TRANSPOSE => Transpose::No,
        CNNKERN_TRANSPOSE => Transpose::Yes,
    })
}

/// The two element types of an argmax.
#[derive(Debug, Clone, Copy)]
pub(super) enum ArgmaxType {
    I32,
    U8,
}

pub(super) fn argmax_type(value: cnnkern_argmax_type) -> Result<ArgmaxType> {
    meaning!("argmax_type", value, {
        CNNKERN_ARGMAX_I32 => ArgmaxType::I32,
        CNNKERN_ARGMAX_U8 => ArgmaxType::U8,
    })
}

/// A convolution's parameters.
///
/// # Safety
/// As for [`args::read`].
pub(super) unsafe fn conv2d_params(params: *const cnnkern_conv2d_params) -> Result<Conv2dParams> {
    // SAFETY: the caller's promise; integers take any bytes.
    let params = unsafe { args::read("params", params)? };
    Ok(Conv2dParams {
        filter_layout: filter_layout(params.filter_layout)?,
        algorithm: algorithm(params.algorithm)?,
        ..patch_fields(&params)?
    })
}

/// The parameters that im2col and col2im read; the others have defaults.
///
/// # Safety
/// As for [`args::read`].
pub(super) unsafe fn im2col_params(params: *const cnnkern_conv2d_params) -> Result<Conv2dParams> {
    // SAFETY: the caller's promise; integers take any bytes.
    let params = unsafe { args::read("params", params)? };
    Ok(Conv2dParams { out_channels: 1, ..patch_fields(&params)? })
}

fn patch_fields(params: &cnnkern_conv2d_params) -> Result<Conv2dParams> {
    Ok(Conv2dParams {
        batch: params.batch,
        in_channels: params.in_channels,
        in_height: params.in_height,
        in_width: params.in_width,
        out_channels: params.out_channels,
        kernel_height: params.kernel_height,
        kernel_width: params.kernel_width,
        stride_height: params.stride_height,
        stride_width: params.stride_width,
        pad_top: params.pad_top,
        pad_bottom: params.pad_bottom,
        pad_left: params.pad_left,
        pad_right: params.pad_right,
        dilation_height: params.dilation_height,
        dilation_width: params.dilation_width,
        groups: params.groups,
        layout: layout(params.layout)?,
        filter_layout: FilterLayout::Oihw,
        algorithm: Algorithm::Auto,
    })
}

/// The factors of the gradients; the defaults for NULL.
///
/// # Safety
/// As for [`args::read`].
pub(super) unsafe fn gradient_options(
    options: *const cnnkern_conv2d_gradient_options,
) -> Result<GradientOptions> {
    if options.is_null() {
        return Ok(GradientOptions::default());
    }
    // SAFETY: the caller's promise; floating-point numbers take any bytes.
    let options = unsafe { args::read("options", options)? };
    Ok(GradientOptions {
        dx_alpha: options.dx_alpha,
        dx_beta: options.dx_beta,
        dw_alpha: options.dw_alpha,
        dw_beta: options.dw_beta,
        db_alpha: options.db_alpha,
        db_beta: options.db_beta,
    })
}

/// A pooling's parameters, and the argmax_type as it came.
///
/// # Safety
/// As for [`args::read`].
pub(super) unsafe fn pool2d_params(
    argument: &'static str,
    params: *const cnnkern_pool2d_params,
) -> Result<(Pool2dParams, cnnkern_argmax_type)> {
    // SAFETY: the caller's promise; integers take any bytes.
    let params = unsafe { args::read(argument, params)? };
    let typed = Pool2dParams {
        batch: params.batch,
        channels: params.channels,
        in_height: params.in_height,
        in_width: params.in_width,
        kernel_height: params.kernel_height,
        kernel_width: params.kernel_width,
        stride_height: params.stride_height,
        stride_width: params.stride_width,
        pad_top: params.pad_top,
        pad_bottom: params.pad_bottom,
        pad_left: params.pad_left,
        pad_right: params.pad_right,
        dilation_height: params.dilation_height,
        dilation_width: params.dilation_width,
        ceil_mode: params.ceil_mode != 0,
        padding: padding(params.padding)?,
        layout: layout(params.layout)?,
    };
    Ok((typed, params.argmax_type))
}
