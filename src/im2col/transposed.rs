//! Columns of patches of an NHWC image: the lanes are windows there and channels here, so that some of its channels go
//! through planes in memory.

use std::ops::Range;

use super::fill_planes::FillPlanes;
use super::gather_planes::GatherPlanes;
use super::lines;
use crate::runs;
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Channels of a task, but for the last: whole vectors.
pub(super) fn channels(shape: &ConvShape) -> usize {
    TILE_LANES.min(shape.in_channels)
}

/// Elements of memory for so many rows of x and channels.
pub(super) fn memory_len(shape: &ConvShape, rows: usize, channels: usize) -> usize {
    plane_len(shape, rows).saturating_mul(channels)
}

fn plane_len(shape: &ConvShape, rows: usize) -> usize {
    lines::plane_len(rows.saturating_mul(shape.width.input))
}

/// The planes of some rows of an image in some channels.
pub(super) struct Planes<'a, T> {
    pub shape: &'a ConvShape,
    /// The image, in NHWC.
    pub x: *mut T,
    /// Of `memory_len` elements.
    pub memory: *mut T,
    pub rows: Range<usize>,
    pub channels: Range<usize>,
}

impl<T> Planes<'_, T> {
    /// Elements from one plane to the next.
    fn plane(&self) -> usize {
        plane_len(self.shape, self.rows.len())
    }

    /// Elements of a plane.
    fn len(&self) -> usize {
        self.rows.len() * self.shape.width.input
    }

    /// The shape of an image that lies so.
    pub fn shape(&self) -> ConvShape {
        ConvShape { input_strides: [0, self.plane(), self.shape.width.input, 1], ..*self.shape }
    }

    /// Where that image would begin.
    pub fn image(&self) -> *mut T {
        let before = self.channels.start * self.plane() + self.rows.start * self.shape.width.input;
        self.memory.wrapping_sub(before)
    }

    /// Their elements in NHWC.
    fn pixels(&self) -> *mut T {
        self.x.wrapping_add(self.rows.start * self.shape.input_strides[2] + self.channels.start)
    }
}

impl<T: Element> Planes<'_, T> {
    /// Copies them from NHWC.
    ///
    /// # Safety
    /// x may be read there, and the memory written.
    #[inline(always)]
    unsafe fn read<S: Lanes<T>>(&self, simd: S) {
        let (extents, of_pixel) = ([self.len(), self.channels.len()], self.shape.input_strides[3]);
        // SAFETY: the caller answers for the elements.
        unsafe {
            let x = self.pixels().cast_const();
            runs::transpose(simd, extents, x, of_pixel, self.memory, self.plane());
        }
    }

    /// Copies them to NHWC.
    ///
    /// # Safety
    /// x may be written there, and the memory read.
    #[inline(always)]
    unsafe fn write<S: Lanes<T>>(&self, simd: S) {
        let (extents, of_pixel) = ([self.channels.len(), self.len()], self.shape.input_strides[3]);
        // SAFETY: the caller answers for the elements.
        unsafe {
            let memory = self.memory.cast_const();
            runs::transpose(simd, extents, memory, self.plane(), self.pixels(), of_pixel);
        }
    }
}

/// im2col.
pub(super) struct FillTransposed<'a, T> {
    /// Of the rows that the windows read.
    pub planes: Planes<'a, T>,
    /// From there.
    pub fill: FillPlanes<'a, T>,
}

impl<T: Element> Kernel<T> for FillTransposed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: rows of the image, for which there is memory.
        unsafe { self.planes.read(simd) };
        simd.call(self.fill);
    }
}

/// col2im.
pub(super) struct GatherTransposed<'a, T> {
    pub planes: Planes<'a, T>,
    /// To there.
    pub gather: GatherPlanes<'a, T>,
}

impl<T: Element> Kernel<T> for GatherTransposed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: rows of the image, which are this task's, and for which there is memory.
        unsafe {
            if self.gather.share.beta != T::default() {
                self.planes.read(simd);
            }
            simd.call(self.gather);
            self.planes.write(simd);
        }
    }
}
