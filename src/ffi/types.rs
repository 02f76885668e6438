//! Every type and constant of the header.

use std::ffi::c_void;

use crate::context::Context;

/// The version of the interface that this header describes: what cnnkern_abi_version() returns of
/// a library that it fits.
pub const CNNKERN_ABI_VERSION: u32 = 1;

/// What a call came to: one of CNNKERN_STATUS_... below.
pub type cnnkern_status = i32;

/// The call did what it says.
pub const CNNKERN_STATUS_OK: cnnkern_status = 0;
/// A pointer that the call needs is NULL.
pub const CNNKERN_STATUS_NULL_POINTER: cnnkern_status = 1;
/// An argument has a value that the function does not accept.
pub const CNNKERN_STATUS_INVALID_ARGUMENT: cnnkern_status = 2;
/// A tensor takes more than PTRDIFF_MAX bytes, or an extent is too large to compute with.
pub const CNNKERN_STATUS_SIZE_OVERFLOW: cnnkern_status = 3;
/// Scratch memory could not be allocated, or threads could not be started.
pub const CNNKERN_STATUS_OUT_OF_MEMORY: cnnkern_status = 4;
/// The arguments are valid, but the algorithm that was asked for does not cover them.
pub const CNNKERN_STATUS_UNSUPPORTED: cnnkern_status = 5;
/// A defect of cnnkern was caught. The contents of the call's outputs are then unspecified; the
/// context can still be used.
pub const CNNKERN_STATUS_INTERNAL: cnnkern_status = 6;

/// Threads and reusable scratch memory. A NULL context means the process-wide default one, made at
/// its first use as by cnnkern_context_create(NULL, 0, ...).
///
/// Several threads may use one context at once: the first has the context's threads, the others
/// meanwhile run on their own. Results never depend on it.
pub struct cnnkern_context {
    pub(super) context: Context,
}

/// A task of a parallel loop: see cnnkern_context_options.
pub type cnnkern_task = unsafe extern "C" fn(task_data: *mut c_void, index: usize);

/// How a context is made. All zero means defaults. It may grow at its end, so its size is passed
/// along with it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct cnnkern_context_options {
    /// Threads that a call may use, its caller included, at most 1024. 0 = the environment's
    /// CNNKERN_NUM_THREADS, or else the cores that this process may use. 1 = the calling thread
    /// only, no pool.
    pub num_threads: usize,
    /// NULL, or the caller's own pool, used in place of cnnkern's threads: runs
    /// task(task_data, i) once for each i < count, on any threads and in any order, and returns
    /// when all are done. It may be called from several threads at once when the context is, and
    /// must return normally: no longjmp, no C++ exception. count is at most num_threads.
    pub parallel_for: Option<
        unsafe extern "C" fn(
            user_data: *mut c_void,
            count: usize,
            task: cnnkern_task,
            task_data: *mut c_void,
        ),
    >,
    /// Handed to parallel_for; may be NULL.
    pub user_data: *mut c_void,
}

/// The layout of activations, x, y and their gradients: CNNKERN_LAYOUT_NCHW or _NHWC.
pub type cnnkern_layout = i32;

/// [batch, channels, height, width]
pub const CNNKERN_LAYOUT_NCHW: cnnkern_layout = 0;
/// [batch, height, width, channels]
pub const CNNKERN_LAYOUT_NHWC: cnnkern_layout = 1;

/// The layout of a convolution's weights w and their gradient dw: CNNKERN_FILTER_OIHW, _OHWI or
/// _HWIO. Any goes with any layout of the activations.
pub type cnnkern_filter_layout = i32;

/// [out_channels, in_channels / groups, kernel_height, kernel_width]
pub const CNNKERN_FILTER_OIHW: cnnkern_filter_layout = 0;
/// [out_channels, kernel_height, kernel_width, in_channels / groups]
pub const CNNKERN_FILTER_OHWI: cnnkern_filter_layout = 1;
/// [kernel_height, kernel_width, in_channels / groups, out_channels]
pub const CNNKERN_FILTER_HWIO: cnnkern_filter_layout = 2;

/// The way in which a convolution is computed: CNNKERN_ALGORITHM_AUTO, _REFERENCE, _GEMM or
/// _WINOGRAD.
pub type cnnkern_algorithm = i32;

/// The fastest that fits the shape. It may be Winograd where that applies; to switch that off, ask
/// for CNNKERN_ALGORITHM_GEMM.
pub const CNNKERN_ALGORITHM_AUTO: cnnkern_algorithm = 0;
/// Plain loops with sums in double precision: slow, the oracle that the others are tested against.
/// A result keeps CNNKERN_ALGORITHM_GEMM's bound with the u of f64, and in f32 is rounded once more.
pub const CNNKERN_ALGORITHM_REFERENCE: cnnkern_algorithm = 1;
/// Sums of products without a transform: a matrix product on patches, or a direct kernel. A result
/// that is a sum of K terms, a bias and what beta keeps among them, is off by at most
/// (K + 2) * u / (1 - (K + 2) * u) times the sum of the terms' absolute values, alpha and beta
/// included; u is 2^-24 in f32 and 2^-53 in f64.
pub const CNNKERN_ALGORITHM_GEMM: cnnkern_algorithm = 2;
/// Winograd's minimal filtering: windows of 3 x 3 by F(4x4, 3x3), with a quarter of the products, and of
/// 5 x 5 by F(2x2, 5x5), with a third of them; dw by F(3x3, 4x4) and F(5x5, 2x2). Stride 1 and dilation
/// 1, CNNKERN_STATUS_UNSUPPORTED for others. Errors are larger: y and dx, sums over C channels, are off by
/// at most 205 * (C + 24) * u times the largest |x| (|dy|) times 9 * C times the largest |w|; dw, a sum
/// over T tiles of 4 x 4 pixels, by at most 232 * (T + 24) * u times 16 * T times the largest |x| times
/// the largest |dy|; with 277 and 25 * C, and 187 and 4 * T for tiles of 2 x 2 pixels, where windows are
/// 5 x 5; and by CNNKERN_ALGORITHM_GEMM's bound for bias, alpha and beta. These bounds are wide: `cargo
/// bench --bench accuracy` measures errors.
/// A NaN or an infinity spreads to its whole tile of results, and in dw to all taps of its channels;
/// among the weights to all pixels. What would be exactly 0 may be a small number of either sign, before
/// the ReLU is applied.
pub const CNNKERN_ALGORITHM_WINOGRAD: cnnkern_algorithm = 3;

/// One of the three passes of a convolution: CNNKERN_PASS_FORWARD, _BACKWARD_DATA or
/// _BACKWARD_WEIGHTS.
pub type cnnkern_pass = i32;

/// y
pub const CNNKERN_PASS_FORWARD: cnnkern_pass = 0;
/// dx
pub const CNNKERN_PASS_BACKWARD_DATA: cnnkern_pass = 1;
/// dw and db
pub const CNNKERN_PASS_BACKWARD_WEIGHTS: cnnkern_pass = 2;

/// What a convolution applies to its sums: CNNKERN_ACTIVATION_NONE or _RELU.
pub type cnnkern_activation = i32;

/// y = u
pub const CNNKERN_ACTIVATION_NONE: cnnkern_activation = 0;
/// y = max(u, 0); NaN stays NaN
pub const CNNKERN_ACTIVATION_RELU: cnnkern_activation = 1;

/// The shape of a convolution (cross-correlation, as in the field).
///
/// Errors: any extent but batch of 0; a stride, dilation or groups of 0; channels that groups does
/// not divide; a window, (kernel - 1) * dilation + 1, larger than the padded input; a tensor over
/// PTRDIFF_MAX bytes. A batch of 0 is valid, and so is padding larger than the kernel.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct cnnkern_conv2d_params {
    /// Images.
    pub batch: usize,
    /// Channels of x.
    pub in_channels: usize,
    /// Rows of x.
    pub in_height: usize,
    /// Columns of x.
    pub in_width: usize,
    /// Channels of y.
    pub out_channels: usize,
    /// Rows of the filter.
    pub kernel_height: usize,
    /// Columns of the filter.
    pub kernel_width: usize,
    /// Rows of x from one row of y to the next.
    pub stride_height: usize,
    /// Columns of x from one column of y to the next.
    pub stride_width: usize,
    /// Rows of zeros above x. A padded zero is a value like any other: times an infinite weight it
    /// makes a NaN.
    pub pad_top: usize,
    /// Rows of zeros below x.
    pub pad_bottom: usize,
    /// Columns of zeros left of x.
    pub pad_left: usize,
    /// Columns of zeros right of x.
    pub pad_right: usize,
    /// Rows of x from one filter row to the next; 1 = dense.
    pub dilation_height: usize,
    /// Columns of x from one filter column to the next; 1 = dense.
    pub dilation_width: usize,
    /// Independent groups that the channels of x and of y are split into.
    pub groups: usize,
    /// Layout of x, y and their gradients.
    pub layout: cnnkern_layout,
    /// Layout of w and dw.
    pub filter_layout: cnnkern_filter_layout,
    /// The way to compute.
    pub algorithm: cnnkern_algorithm,
}

/// gradient = alpha * g + beta * gradient, where g is the plain gradient. beta == 0 never reads
/// what the gradient held.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct cnnkern_conv2d_gradient_options {
    /// Factor of the new dx.
    pub dx_alpha: f64,
    /// Factor of what dx held.
    pub dx_beta: f64,
    /// Factor of the new dw.
    pub dw_alpha: f64,
    /// Factor of what dw held.
    pub dw_beta: f64,
    /// Factor of the new db.
    pub db_alpha: f64,
    /// Factor of what db held.
    pub db_beta: f64,
}

/// The layout of a column matrix: CNNKERN_COL_PATCH_ROWS, _PATCH_COLUMNS or _PER_IMAGE.
/// N = batch, OH and OW = the output's extents, C = in_channels, KH and KW = the kernel's extents.
/// The patch is [C*KH*KW] for CNNKERN_LAYOUT_NCHW, as written below, and [KH*KW*C] for
/// CNNKERN_LAYOUT_NHWC.
pub type cnnkern_col_layout = i32;

/// [N*OH*OW, C*KH*KW]: a row per patch.
pub const CNNKERN_COL_PATCH_ROWS: cnnkern_col_layout = 0;
/// [C*KH*KW, N*OH*OW]: a column per patch.
pub const CNNKERN_COL_PATCH_COLUMNS: cnnkern_col_layout = 1;
/// [N, C*KH*KW, OH*OW]: a column per patch, image by image.
pub const CNNKERN_COL_PER_IMAGE: cnnkern_col_layout = 2;

/// What a pooling window's cells in the padding count as: CNNKERN_POOL_PADDING_EXCLUDED or _ZERO.
pub type cnnkern_pool_padding = i32;

/// Never the maximum, not counted in an average.
pub const CNNKERN_POOL_PADDING_EXCLUDED: cnnkern_pool_padding = 0;
/// Competes and counts as a cell of value 0, as in a zero-padded im2col.
pub const CNNKERN_POOL_PADDING_ZERO: cnnkern_pool_padding = 1;

/// The element type of max-pooling's argmax: CNNKERN_ARGMAX_I32 or _U8.
pub type cnnkern_argmax_type = i32;

/// int32_t, for any window
pub const CNNKERN_ARGMAX_I32: cnnkern_argmax_type = 0;
/// uint8_t, for windows of at most 256 cells
pub const CNNKERN_ARGMAX_U8: cnnkern_argmax_type = 1;

/// The shape of a pooling.
///
/// Errors: any extent but batch of 0; a stride or dilation of 0; a window,
/// (kernel - 1) * dilation + 1, larger than the padded input; a tensor over PTRDIFF_MAX bytes; more
/// than INT32_MAX cells in a window. A batch of 0 is valid.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct cnnkern_pool2d_params {
    /// Images.
    pub batch: usize,
    /// Channels of x and y.
    pub channels: usize,
    /// Rows of x.
    pub in_height: usize,
    /// Columns of x.
    pub in_width: usize,
    /// Rows of the window.
    pub kernel_height: usize,
    /// Columns of the window.
    pub kernel_width: usize,
    /// Rows of x from one row of y to the next.
    pub stride_height: usize,
    /// Columns of x from one column of y to the next.
    pub stride_width: usize,
    /// Rows of padding above x.
    pub pad_top: usize,
    /// Rows of padding below x.
    pub pad_bottom: usize,
    /// Columns of padding left of x.
    pub pad_left: usize,
    /// Columns of padding right of x.
    pub pad_right: usize,
    /// Rows of x from one window row to the next; 1 = dense.
    pub dilation_height: usize,
    /// Columns of x from one window column to the next; 1 = dense.
    pub dilation_width: usize,
    /// Not 0: output extents are rounded up. A window must still start inside the input or its
    /// leading padding, and its cells beyond the padded input do not exist.
    pub ceil_mode: i32,
    /// What cells in the padding count as.
    pub padding: cnnkern_pool_padding,
    /// The element type of argmax; read by max-pooling only.
    pub argmax_type: cnnkern_argmax_type,
    /// Layout of x, y and their gradients; argmax is shaped as y.
    pub layout: cnnkern_layout,
}

/// Whether a matrix is used as it lies or transposed: CNNKERN_NO_TRANSPOSE or CNNKERN_TRANSPOSE.
pub type cnnkern_transpose = i32;

/// As it lies.
pub const CNNKERN_NO_TRANSPOSE: cnnkern_transpose = 0;
/// Rows as columns.
pub const CNNKERN_TRANSPOSE: cnnkern_transpose = 1;
