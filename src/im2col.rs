//! The patches of a tensor as a matrix (im2col), and the adjoint (col2im).

use crate::context::Context;
use crate::error::{Error, Result};
use crate::reference;
use crate::shape::{Conv2dParams, ConvShape, tensor};
use crate::simd::Element;

/// How a column matrix lies: P = out_height * out_width, K = in_channels * kernel_height *
/// kernel_width. A patch is `[in_channels, kernel_height, kernel_width]` for NCHW and
/// `[kernel_height, kernel_width, in_channels]` for NHWC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColLayout {
    /// `[batch * P, K]`: a row per patch.
    PatchRows,
    /// `[K, batch * P]`: a column per patch.
    PatchColumns,
    /// `[batch, K, P]`
    PerImage,
}

/// Writes every patch of x into the column matrix; padded cells are 0.
///
/// `out_channels`, `filter_layout` and `algorithm` are not read; `groups` must be 1.
pub fn im2col<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    x: &[T],
    col: &mut [T],
) -> Result<()> {
    let shape = checked(params, size_of::<T>(), x.len(), col.len())?;
    let _ = context;
    reference::im2col(&shape, col_layout, x, col);
    Ok(())
}

/// Adds every cell of the column matrix to the element of x that it came from: the adjoint of
/// [`im2col`]. x is overwritten with the sums.
pub fn col2im<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    col: &[T],
    x: &mut [T],
) -> Result<()> {
    let shape = checked(params, size_of::<T>(), x.len(), col.len())?;
    let _ = context;
    reference::col2im(&shape, col_layout, col, x);
    Ok(())
}

/// Elements of the column matrix of `params`; an error for parameters that im2col does not take.
pub fn col_len<T: Element>(params: &Conv2dParams) -> Result<usize> {
    let (_, col_len) = checked_shape(params, size_of::<T>())?;
    Ok(col_len)
}

fn checked_shape(params: &Conv2dParams, element_size: usize) -> Result<(ConvShape, usize)> {
    if params.groups != 1 {
        return Err(Error::invalid(format!(
            "groups must be 1 for im2col and col2im, but is {}",
            params.groups
        )));
    }
    let shape = ConvShape::new(&Conv2dParams { out_channels: 1, ..*params }, element_size)?;
    let (h, w) = (&shape.height, &shape.width);
    let extents = [shape.batch, h.output, w.output, shape.in_channels, h.kernel, w.kernel];
    let col_len = tensor("col", &extents, element_size)?;
    Ok((shape, col_len))
}

fn checked(params: &Conv2dParams, size: usize, x_len: usize, col_len: usize) -> Result<ConvShape> {
    let (shape, expected) = checked_shape(params, size)?;
    if x_len != shape.input_len() {
        return Err(Error::length("x", shape.input_len(), x_len));
    }
    if col_len != expected {
        return Err(Error::length("col", expected, col_len));
    }
    Ok(shape)
}
