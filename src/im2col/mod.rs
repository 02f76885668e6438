//! The patches of a tensor as a matrix (im2col), and the adjoint (col2im).

mod fill;
mod gather;
mod lines;
mod places;

use fill::Fill;
use gather::{Gather, phases_len};
use places::{Block, CHANNELS, Places};

use std::ops::Range;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::scratch::ScratchLen;
use crate::shape::{Conv2dParams, ConvShape, Layout, tensor};
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
    let (x_places, places) = (Places::of_x(&shape), Places::of_col(&shape, col_layout));
    let col = SharedMut::new(col);
    // A task fills the patches of some rows of an image, or their cells in some of its channels.
    let cut = Cut::new(&shape, col_layout, shape.out_height);
    let is_transposed = shape.layout == Layout::Nchw && places.is_patch_rows();
    let block = is_transposed.then(|| Block::new(&shape, cut.rows)).flatten();
    let scratch = context.scratch::<T>(ScratchLen::for_each(block.map_or(0, |block| block.len)))?;
    context.run(shape.batch * cut.parts(), &|slot, index| {
        let (image, rows, channels) = cut.part(index);
        let fill = Fill {
            shape: &shape,
            rows,
            channels,
            x_places,
            places,
            x: x[image * x_places.image..].as_ptr(),
            col: col.at(image * places.image),
            block,
            memory: scratch.slot(slot),
        };
        T::dispatch(context.level(), fill);
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
    let add = AddCells { shape: &shape, col_layout, beta: T::default() };
    let scratch = context.scratch::<T>(ScratchLen::for_each(add.memory_len()))?;
    add.run(context, col, x, |slot| scratch.slot(slot));
    Ok(())
}

/// x = beta * x + the sums of the cells that lie on each element.
pub(crate) struct AddCells<'a, T> {
    /// Of any number of groups: their patches are parts of the whole patches.
    pub shape: &'a ConvShape,
    pub col_layout: ColLayout,
    pub beta: T,
}

impl<T: Element> AddCells<'_, T> {
    fn places(&self) -> Places {
        Places::of_col(self.shape, self.col_layout)
    }

    /// Where cells are transposed.
    fn block(&self, cut: &Cut) -> Option<Block> {
        let height = &self.shape.height;
        let windows = ((cut.rows + height.window()) / height.stride + 1).min(height.output);
        match (self.shape.layout, self.places().is_patch_rows()) {
            (Layout::Nchw, true) => Block::new(self.shape, windows),
            (Layout::Nhwc, false) => Block::of_pixels(self.shape, windows),
            _ => None,
        }
    }

    fn cut(&self) -> Cut {
        Cut::new(self.shape, self.col_layout, self.shape.height.input)
    }

    /// Elements of memory that each slot needs.
    pub fn memory_len(&self) -> usize {
        match (self.shape.layout, self.places().is_patch_rows()) {
            (Layout::Nchw, false) => phases_len(self.shape),
            _ => self.block(&self.cut()).map_or(0, |block| block.len),
        }
    }

    /// Adds the cells of all images, with memory for each slot.
    pub fn run(
        &self,
        context: &Context,
        col: &[T],
        x: &mut [T],
        memory: impl Fn(usize) -> *mut T + Sync,
    ) {
        let shape = self.shape;
        let (x_places, places) = (Places::of_x(shape), self.places());
        // A task owns some rows of an image, or of some of its channels: it gathers what every element is a
        // sum of.
        let cut = self.cut();
        let block = self.block(&cut);
        let x = SharedMut::new(x);
        context.run(shape.batch * cut.parts(), &|slot, index| {
            let (image, rows, channels) = cut.part(index);
            let gather = Gather {
                shape,
                rows,
                channels,
                x_places,
                places,
                col: col[image * places.image..].as_ptr(),
                x: x.at(image * x_places.image),
                beta: self.beta,
                block,
                memory: memory(slot),
            };
            T::dispatch(context.level(), gather);
        });
    }
}

/// How the work on an image is cut into tasks: by its shape alone.
struct Cut {
    all_rows: usize,
    all_channels: usize,
    rows: usize,
    channels: usize,
}

/// Cells of the column matrix that are worth a task.
const WORK: usize = 1 << 15;

/// Pixels of a task, at least, where there are as many: a vector's lanes.
const PIXELS: usize = 16;

impl Cut {
    /// For `rows` rows of x or of patches.
    fn new(shape: &ConvShape, col_layout: ColLayout, rows: usize) -> Cut {
        let all_channels = shape.in_channels;
        let least_channels = match (shape.layout, col_layout) {
            (Layout::Nhwc, _) => all_channels,
            (Layout::Nchw, ColLayout::PatchRows) => CHANNELS.min(all_channels),
            (Layout::Nchw, _) => 1,
        };
        let columns = shape.out_width.max(shape.width.input);
        let row = shape.window().saturating_mul(columns);
        let some = WORK / row.saturating_mul(least_channels);
        let some = some.max(PIXELS.div_ceil(shape.out_width)).min(rows);
        let channels = (WORK / row.saturating_mul(some)).clamp(least_channels, all_channels);
        Cut { all_rows: rows, all_channels, rows: some, channels }
    }

    /// The tasks of an image.
    fn parts(&self) -> usize {
        self.all_rows.div_ceil(self.rows) * self.all_channels.div_ceil(self.channels)
    }

    /// The image, rows and channels of a task.
    fn part(&self, index: usize) -> (usize, Range<usize>, Range<usize>) {
        let (image, part) = (index / self.parts(), index % self.parts());
        let parts = self.all_channels.div_ceil(self.channels);
        let (row, channel) = (part / parts * self.rows, part % parts * self.channels);
        (
            image,
            row..self.all_rows.min(row + self.rows),
            channel..self.all_channels.min(channel + self.channels),
        )
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
    let mut shape =
        ConvShape::of_windows(&Conv2dParams { out_channels: 1, ..*params }, element_size)?;
    if shape.in_channels == 1 {
        // Both layouts are the same.
        shape = shape.with_layout(Layout::Nchw);
    }
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
