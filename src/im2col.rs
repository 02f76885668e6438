//! The patches of a tensor as a matrix (im2col), and the adjoint (col2im).

use crate::context::Context;
use crate::error::{Error, Result};
use crate::shape::{Conv2dParams, ConvShape, Layout, activation_strides, tensor};
use crate::shared_mut::SharedMut;
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
///
/// ```
/// use cnnkern::im2col::{ColLayout, im2col};
/// use cnnkern::{Context, ContextOptions, Conv2dParams};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Conv2dParams::new(1, 1, 2, 3, 1, 2, 2);
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0f32];
/// let mut col = [0.0; 8];
/// im2col(&context, &params, ColLayout::PatchRows, &x, &mut col)?;
/// assert_eq!(col, [1.0, 2.0, 4.0, 5.0, 2.0, 3.0, 5.0, 6.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn im2col<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    x: &[T],
    col: &mut [T],
) -> Result<()> {
    T::im2col(context, params, col_layout, x, col)
}

/// [`im2col`], compiled by `Operations` for each element type.
pub(crate) fn run_im2col<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    x: &[T],
    col: &mut [T],
) -> Result<()> {
    let shape = checked(params, size_of::<T>(), x.len(), col.len())?;
    let (x_places, col_places) = (Places::of_x(&shape), Places::of_col(&shape, col_layout));
    let col = SharedMut::new(col);
    // A task fills the patches of some rows of an image.
    let rows = ROWS_WORK.div_ceil(shape.out_width * shape.patch_len());
    let chunks = shape.out_height.div_ceil(rows);
    context.run(shape.batch * chunks, &|_, index| {
        let (image, first) = (index / chunks, index % chunks * rows);
        for row in first..shape.out_height.min(first + rows) {
            fill_row(&shape, &x_places, &col_places, x, col, image, row);
        }
    });
    Ok(())
}

/// Adds every cell of the column matrix to the element of x that it came from: the adjoint of
/// [`im2col`]. x is overwritten with the sums.
///
/// ```
/// use cnnkern::im2col::{ColLayout, col2im};
/// use cnnkern::{Context, ContextOptions, Conv2dParams};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Conv2dParams::new(1, 1, 2, 3, 1, 2, 2);
/// let mut x = [0.0f32; 6];
/// col2im(&context, &params, ColLayout::PatchRows, &[1.0; 8], &mut x)?;
/// assert_eq!(x, [1.0, 2.0, 1.0, 1.0, 2.0, 1.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn col2im<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    col: &[T],
    x: &mut [T],
) -> Result<()> {
    T::col2im(context, params, col_layout, col, x)
}

/// [`col2im`], compiled by `Operations` for each element type.
pub(crate) fn run_col2im<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    col: &[T],
    x: &mut [T],
) -> Result<()> {
    let shape = checked(params, size_of::<T>(), x.len(), col.len())?;
    let (x_places, col_places) = (Places::of_x(&shape), Places::of_col(&shape, col_layout));
    let x = SharedMut::new(x);
    // A task owns some rows of an image: it gathers what every element of theirs is a sum of.
    let rows = ROWS_WORK.div_ceil(shape.width.input * shape.patch_len());
    let chunks = shape.height.input.div_ceil(rows);
    context.run(shape.batch * chunks, &|_, index| {
        let (image, first) = (index / chunks, index % chunks * rows);
        for row in first..shape.height.input.min(first + rows) {
            gather_row(&shape, &x_places, &col_places, col, x, image, row);
        }
    });
    Ok(())
}

/// Cells of the column matrix that are worth a task.
const ROWS_WORK: usize = 1 << 15;

/// Strides of x and of the column matrix along what they share.
struct Places {
    image: usize,
    row: usize,
    column: usize,
    channel: usize,
    kernel_row: usize,
    kernel_column: usize,
}

impl Places {
    /// Rows and columns are x's own.
    fn of_x(shape: &ConvShape) -> Self {
        let (h, w) = (&shape.height, &shape.width);
        let [image, channel, row, column] =
            activation_strides(shape.layout, shape.in_channels, h.input, w.input);
        Places { image, row, column, channel, kernel_row: 0, kernel_column: 0 }
    }

    /// Rows and columns are those of the patches.
    fn of_col(shape: &ConvShape, col_layout: ColLayout) -> Self {
        let (h, w) = (&shape.height, &shape.width);
        let (pixels, cells) = (h.output * w.output, shape.patch_len());
        let (image, pixel, cell) = match col_layout {
            ColLayout::PatchRows => (pixels * cells, cells, 1),
            ColLayout::PatchColumns => (pixels, 1, shape.batch * pixels),
            ColLayout::PerImage => (pixels * cells, 1, pixels),
        };
        let [channel, kernel_row, kernel_column] = match shape.layout {
            Layout::Nchw => [h.kernel * w.kernel, w.kernel, 1],
            Layout::Nhwc => [1, w.kernel * shape.in_channels, shape.in_channels],
        };
        Places {
            image,
            row: w.output * pixel,
            column: pixel,
            channel: channel * cell,
            kernel_row: kernel_row * cell,
            kernel_column: kernel_column * cell,
        }
    }
}

/// Writes the patches of one row of one image.
fn fill_row<T: Element>(
    shape: &ConvShape,
    x_places: &Places,
    places: &Places,
    x: &[T],
    col: SharedMut<'_, T>,
    image: usize,
    row: usize,
) {
    let (h, w) = (&shape.height, &shape.width);
    for channel in 0..shape.in_channels {
        for kernel_row in 0..h.kernel {
            let source = h.source(row, kernel_row).map(|source| {
                image * x_places.image + channel * x_places.channel + source * x_places.row
            });
            for kernel_column in 0..w.kernel {
                let inside = if source.is_some() { w.outputs(kernel_column) } else { 0..0 };
                let target = image * places.image
                    + row * places.row
                    + channel * places.channel
                    + kernel_row * places.kernel_row
                    + kernel_column * places.kernel_column;
                let target = |column: usize| col.at(target + column * places.column);
                // SAFETY: cells of this task's patches.
                unsafe {
                    for column in (0..inside.start).chain(inside.end..w.output) {
                        *target(column) = T::default();
                    }
                    let Some(source) = source else { continue };
                    for column in inside {
                        let position =
                            column * w.stride + kernel_column * w.dilation - w.pad_before;
                        *target(column) = x[source + position * x_places.column];
                    }
                }
            }
        }
    }
}

/// Writes one row of one image of x: every element the sum of its cells, in the order of the taps.
fn gather_row<T: Element>(
    shape: &ConvShape,
    x_places: &Places,
    places: &Places,
    col: &[T],
    x: SharedMut<'_, T>,
    image: usize,
    row: usize,
) {
    let (h, w) = (&shape.height, &shape.width);
    for channel in 0..shape.in_channels {
        let target = image * x_places.image + channel * x_places.channel + row * x_places.row;
        let target = |column: usize| x.at(target + column * x_places.column);
        for column in 0..w.input {
            // SAFETY: this task's element.
            unsafe { *target(column) = T::default() };
        }
        // The last window is over the row with the first of its taps.
        for (output_row, kernel_row) in h.windows(row).rev() {
            for kernel_column in 0..w.kernel {
                let source = image * places.image
                    + output_row * places.row
                    + channel * places.channel
                    + kernel_row * places.kernel_row
                    + kernel_column * places.kernel_column;
                for column in w.outputs(kernel_column) {
                    let position = column * w.stride + kernel_column * w.dilation - w.pad_before;
                    // SAFETY: this task's element.
                    unsafe {
                        let element = target(position);
                        *element = *element + col[source + column * places.column];
                    }
                }
            }
        }
    }
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
    let shape = ConvShape::of_windows(&Conv2dParams { out_channels: 1, ..*params }, element_size)?;
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
