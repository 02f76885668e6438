//! The patches of a tensor as a matrix (im2col), and the adjoint (col2im).

mod cut;
mod fill_pixels;
mod fill_planes;
mod fill_runs;
mod gather_apart;
mod gather_cells;
mod gather_pixels;
mod gather_planes;
mod lines;
mod places;
mod ring;
mod share;
mod transposed;

use std::ops::Range;
use std::ptr;

use cut::Cut;
use fill_pixels::FillPixels;
use fill_planes::FillPlanes;
use fill_runs::FillRuns;
use gather_apart::GatherApart;
use gather_cells::GatherCells;
use gather_pixels::GatherPixels;
use gather_planes::GatherPlanes;
use places::Places;
use ring::Ring;
use share::Share;
use transposed::{FillTransposed, GatherTransposed, Planes};

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
    let places = Places::of_col(&shape, col_layout);
    let (is_nhwc, is_patch_rows) = (shape.layout == Layout::Nhwc, places.is_patch_rows());
    let least_channels = match (is_nhwc, is_patch_rows) {
        (_, true) => shape.in_channels,
        (false, false) => 1,
        (true, false) => transposed::channels(&shape),
    };
    let cut = Cut::new(&shape, shape.out_height, least_channels, col_layout);
    let memory_len = match (is_nhwc, is_patch_rows) {
        (false, true) if fill_runs::takes(&shape) => fill_runs::memory_len(&shape, cut.rows),
        (false, true) => fill_planes::memory_len(&shape),
        (true, false) => {
            let rows = shape.height.span(cut.rows).min(shape.height.input);
            transposed::memory_len(&shape, rows, cut.channels)
        }
        _ => 0,
    };
    let scratch = context.scratch::<T>(ScratchLen::for_each(memory_len))?;
    let col = SharedMut::new(col);
    // A task fills the patches of some rows of an image, or their cells in some of its channels.
    let fill = |slot: usize, (image, rows, channels): (usize, Range<usize>, Range<usize>)| {
        let (level, shape) = (context.level(), &shape);
        let x = x[image * shape.input_strides[0]..].as_ptr();
        let (col, memory) = (col.at(image * places.image), scratch.slot(slot));
        if is_patch_rows && fill_runs::takes(shape) {
            return T::dispatch(level, FillRuns { shape, rows, x, col, places, memory });
        }
        if !is_nhwc {
            let fill = FillPlanes { shape, rows, channels, x, col, places, memory };
            return T::dispatch(level, fill);
        }
        if is_patch_rows {
            return T::dispatch(level, FillPixels { shape, rows, x, col, places });
        }
        let planes = Planes {
            shape,
            x: x.cast_mut(),
            memory,
            rows: shape.height.inputs(&rows),
            channels: channels.clone(),
        };
        let of_planes = planes.shape();
        let fill = FillPlanes {
            shape: &of_planes,
            rows,
            channels,
            x: planes.image(),
            col,
            places,
            memory: ptr::null_mut(),
        };
        T::dispatch(level, FillTransposed { planes, fill });
    };
    context.run(cut.tasks(), &|slot, index| cut.task(index).for_each(|part| fill(slot, part)));
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

/// How elements are made of cells.
#[derive(Clone, Copy)]
enum Way {
    /// Of one each.
    Apart,
    /// Where the cells lie.
    Direct,
    /// The same, to planes that are transposed then.
    Planes,
    /// Where they were transposed to.
    Transposed(Ring),
    /// One by one.
    Cells,
}

impl<T: Element> AddCells<'_, T> {
    fn places(&self) -> Places {
        Places::of_col(self.shape, self.col_layout)
    }

    /// The way, and its tasks, each of which owns some rows of an image, or of some of its channels.
    fn way(&self) -> (Way, Cut) {
        let shape = self.shape;
        let is_apart = self.beta == T::default() && gather_apart::fits(shape);
        let cut = |channels| Cut::new(shape, shape.height.input, channels, self.col_layout);
        match (shape.layout, self.places().is_patch_rows()) {
            (Layout::Nchw, false) if is_apart => (Way::Apart, cut(1)),
            (Layout::Nhwc, _) if is_apart => (Way::Apart, cut(shape.in_channels)),
            (Layout::Nchw, false) => (Way::Direct, cut(1)),
            (Layout::Nhwc, true) => (Way::Direct, cut(shape.in_channels)),
            (Layout::Nhwc, false) => (Way::Planes, cut(transposed::channels(shape))),
            (Layout::Nchw, true) => {
                let cut = cut(gather_planes::ring_channels(shape));
                if is_apart {
                    return (Way::Apart, cut);
                }
                // Rows of windows that reach the rows of two tasks are transposed by both.
                let cut = cut.with_rows(shape.height.window().saturating_mul(4));
                match Ring::new(shape, shape.window().saturating_mul(cut.channels)) {
                    Some(ring) => (Way::Transposed(ring), cut),
                    None => (Way::Cells, cut),
                }
            }
        }
    }

    /// Elements of memory that each slot needs, whatever beta is.
    pub fn memory_len(&self) -> usize {
        let shape = self.shape;
        let of_rows = gather_planes::memory_len(&shape.width);
        let of_sums = AddCells { beta: T::from_f64(1.0), ..*self };
        match of_sums.way() {
            (Way::Apart | Way::Cells, _) => 0,
            (Way::Direct, _) if shape.layout == Layout::Nhwc => 0,
            (Way::Direct, _) => of_rows,
            (Way::Transposed(ring), _) => of_rows + ring.len(),
            (Way::Planes, cut) => of_rows + transposed::memory_len(shape, cut.rows, cut.channels),
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
        let (shape, beta, places) = (self.shape, self.beta, self.places());
        let (way, cut) = self.way();
        let x = SharedMut::new(x);
        let gather = |slot: usize, (image, rows, channels): (usize, Range<usize>, Range<usize>)| {
            let (col, x) =
                (col[image * places.image..].as_ptr(), x.at(image * shape.input_strides[0]));
            let (level, memory) = (context.level(), || memory(slot));
            let share = Share { shape, rows, channels, col, places, x, beta };
            match (way, shape.layout) {
                (Way::Apart, _) => T::dispatch(level, GatherApart { share }),
                (Way::Cells, _) => GatherCells { share }.run(),
                (Way::Direct, Layout::Nhwc) => T::dispatch(level, GatherPixels { share }),
                (Way::Direct, Layout::Nchw) => {
                    T::dispatch(level, GatherPlanes { share, ring: None, memory: memory() });
                }
                (Way::Transposed(ring), _) => {
                    let ring = Some(ring);
                    T::dispatch(level, GatherPlanes { share, ring, memory: memory() });
                }
                (Way::Planes, _) => {
                    let memory = memory();
                    let planes = Planes {
                        shape,
                        x,
                        memory: memory.wrapping_add(gather_planes::memory_len(&shape.width)),
                        rows: share.rows.clone(),
                        channels: share.channels.clone(),
                    };
                    let of_planes = planes.shape();
                    let share = Share { shape: &of_planes, x: planes.image(), ..share };
                    let gather = GatherPlanes { share, ring: None, memory };
                    T::dispatch(level, GatherTransposed { planes, gather });
                }
            }
        };
        context.run(cut.tasks(), &|slot, index| {
            cut.task(index).for_each(|part| gather(slot, part));
        });
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
