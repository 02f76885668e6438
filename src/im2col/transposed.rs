//! Columns of patches of an NHWC image: the lanes are windows there and channels here, so that some of its channels go
//! through planes in memory.

use std::ops::Range;

use super::fill_planes::FillPlanes;
use super::gather_planes::GatherPlanes;
use crate::runs;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Channels of a task, but for the last: whole vectors.
pub(super) fn channels(shape: &ConvShape) -> usize {
    TILE_LANES.min(shape.in_channels.max(1))
}

/// The planes of some rows of an image in some channels.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    /// Elements from one plane to the next.
    plane: usize,
    rows: usize,
    first_row: usize,
    channels: usize,
    first_channel: usize,
}

impl Planes {
    pub fn new(shape: &ConvShape, rows: &Range<usize>, channels: &Range<usize>) -> Planes {
        Planes {
            plane: plane_len(shape, rows.len()),
            rows: rows.len(),
            first_row: rows.start,
            channels: channels.len(),
            first_channel: channels.start,
        }
    }

    /// Rows of x that some rows of windows read.
    pub fn read_by(height: &Axis, rows: &Range<usize>) -> Range<usize> {
        let first = rows.start * height.stride;
        let end = (rows.end - 1) * height.stride + (height.kernel - 1) * height.dilation + 1;
        let [first, end] = [first, end].map(|padded| padded.saturating_sub(height.pad_before));
        first.min(height.input)..end.min(height.input)
    }

    /// Elements of memory for so many rows and channels.
    pub fn memory_len(shape: &ConvShape, rows: usize, channels: usize) -> usize {
        plane_len(shape, rows).saturating_mul(channels)
    }

    /// The shape of an image that lies so.
    pub fn shape(&self, shape: &ConvShape) -> ConvShape {
        ConvShape { input_strides: [0, self.plane, shape.width.input, 1], ..*shape }
    }

    /// Where that image would begin.
    pub fn image<T>(&self, shape: &ConvShape, memory: *mut T) -> *mut T {
        let before = self.first_channel * self.plane + self.first_row * shape.width.input;
        memory.wrapping_sub(before)
    }

    /// Their elements of an NHWC image.
    fn pixels<T>(&self, shape: &ConvShape, x: *mut T) -> *mut T {
        x.wrapping_add(self.first_row * shape.input_strides[2] + self.first_channel)
    }

    /// Copies them from an NHWC image.
    ///
    /// # Safety
    /// It may be read there, and the memory written.
    #[inline(always)]
    unsafe fn read<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        shape: &ConvShape,
        x: *const T,
        memory: *mut T,
    ) {
        let extents = [self.rows * shape.width.input, self.channels];
        let x = self.pixels(shape, x.cast_mut()).cast_const();
        // SAFETY: the caller answers for the elements.
        unsafe { runs::transpose(simd, extents, x, shape.input_strides[3], memory, self.plane) };
    }

    /// Copies them to an NHWC image.
    ///
    /// # Safety
    /// It may be written there, and the memory read.
    #[inline(always)]
    unsafe fn write<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        shape: &ConvShape,
        memory: *const T,
        x: *mut T,
    ) {
        let extents = [self.channels, self.rows * shape.width.input];
        let x = self.pixels(shape, x);
        // SAFETY: the caller answers for the elements.
        unsafe { runs::transpose(simd, extents, memory, self.plane, x, shape.input_strides[3]) };
    }
}

/// Odd multiples of a vector: other strides of the same lane would go to few sets of a cache.
fn plane_len(shape: &ConvShape, rows: usize) -> usize {
    let vectors = rows.saturating_mul(shape.width.input).div_ceil(TILE_LANES);
    (vectors | 1).saturating_mul(TILE_LANES)
}

/// im2col.
pub(super) struct FillTransposed<'a, T> {
    pub shape: &'a ConvShape,
    /// The image.
    pub x: *const T,
    pub planes: Planes,
    pub memory: *mut T,
    /// From the planes.
    pub fill: FillPlanes<'a, T>,
}

impl<T: Element> Kernel<T> for FillTransposed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: rows of the image, for which there is memory.
        unsafe { self.planes.read(simd, self.shape, self.x, self.memory) };
        simd.call(self.fill);
    }
}

/// col2im.
pub(super) struct GatherTransposed<'a, T> {
    pub shape: &'a ConvShape,
    /// The image.
    pub x: *mut T,
    pub planes: Planes,
    pub memory: *mut T,
    /// To the planes.
    pub gather: GatherPlanes<'a, T>,
}

impl<T: Element> Kernel<T> for GatherTransposed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: rows of the image, which are this task's, and for which there is memory.
        unsafe {
            if self.gather.share.beta != T::default() {
                self.planes.read(simd, self.shape, self.x, self.memory);
            }
            simd.call(self.gather);
            self.planes.write(simd, self.shape, self.memory, self.x);
        }
    }
}
