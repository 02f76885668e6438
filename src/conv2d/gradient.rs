//! dy as the backward pass to the weights reads it.

use super::gather::masked_at;
use crate::pool2d::{Region, Unpool};
use crate::shape::{ConvShape, activation_strides};
use crate::simd::Element;

/// The gradient of the output.
#[derive(Clone, Copy)]
pub(super) enum Gradient<'a, T> {
    /// A tensor, and what masks it: dy counts as 0 where that is <= 0.
    Stored { dy: &'a [T], relu_output: Option<&'a [T]> },
    /// What a max-pooling's backward pass makes, a region at a time.
    Pooled(Unpool<'a, T>),
}

/// Where elements of dy lie: (image, channel, row, column) at that many strides from the start.
#[derive(Clone, Copy)]
pub(super) struct View<T> {
    pub dy: *const T,
    /// At the same places; null for none.
    pub relu_output: *const T,
    pub strides: [usize; 4],
}

impl<T> View<T> {
    /// Of tensors.
    pub fn new(dy: &[T], relu_output: Option<&[T]>, strides: [usize; 4]) -> Self {
        let relu_output = relu_output.map_or(std::ptr::null(), <[T]>::as_ptr);
        View { dy: dy.as_ptr(), relu_output, strides }
    }

    /// The element at an offset, and what masks it there, if anything does.
    #[inline(always)]
    pub fn at(&self, offset: usize) -> [*const T; 2] {
        masked_at([self.dy, self.relu_output], offset)
    }
}

impl<T: Element> Gradient<'_, T> {
    /// For a pass whose shape only is looked at.
    pub fn none() -> Self {
        Gradient::Stored { dy: &[], relu_output: None }
    }

    /// Elements of memory that a view of a region of at most so many channels and rows takes.
    pub fn scratch_len(&self, channels: usize, rows: usize) -> usize {
        match self {
            Gradient::Stored { .. } => 0,
            Gradient::Pooled(unpool) => unpool.region_len(channels, rows) + unpool.scratch_len(),
        }
    }

    /// A view in which the region can be read until the memory is used again.
    ///
    /// # Safety
    /// dy has the region, and the memory `scratch_len`.
    pub unsafe fn view(&self, shape: &ConvShape, region: &Region, memory: *mut T) -> View<T> {
        let unpool = match self {
            Gradient::Stored { dy, relu_output } => {
                return View::new(dy, *relu_output, shape.output_strides);
            }
            Gradient::Pooled(unpool) => unpool,
        };
        let (channels, rows) = (region.channels.len(), region.rows.len());
        // SAFETY: the caller answers for the region and the memory.
        unsafe { unpool.run(region, memory, memory.add(unpool.region_len(channels, rows))) };
        let strides = activation_strides(shape.layout, channels, rows, shape.out_width);
        let [of_image, of_channel, of_row, _] = strides;
        let before = region.image * of_image
            + region.channels.start * of_channel
            + region.rows.start * of_row;
        let dy = memory.cast_const().wrapping_sub(before);
        View { dy, relu_output: std::ptr::null(), strides }
    }
}
