//! A copy of some rows of the source, as the channel kernel reads it: masked, and in NCHW with the pixels of a
//! channel in lines that do not compete for the same few sets of the first-level cache.

use std::ops::Range;

use super::band::copy_run;
use super::channel_panel::Source;
use crate::conv2d::gather::Gather;
use crate::runs;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes};

/// From so many images on, if tiles are made of these, they lie side by side at each pixel of a copy of NCHW: a tile
/// then reads one line for a term, not one of each image. Fewer are not worth the transposition.
const INTERLEAVED_IMAGES: usize = 4;

/// Whether a band of the source is copied: where it is masked, and where the planes of its channels
/// lie apart, so that their lines compete for the same few sets of the first-level cache.
pub(super) fn is_copied<T>(passes: &[Gather<T>]) -> bool {
    let taps = passes.iter().map(|pass| pass.rows.count * pass.columns.count).sum::<usize>();
    taps > 0 && (!passes[0].relu_output.is_null() || is_planar(&passes[0]))
}

fn is_planar<T>(pass: &Gather<T>) -> bool {
    pass.source_strides[3] == 1
}

/// Whether the copy of so many images has them side by side.
fn interleaves<T>(pass: &Gather<T>, images: usize) -> bool {
    let in_tiles = images >= pass.grid_height.max(pass.grid_width);
    is_planar(pass) && images >= INTERLEAVED_IMAGES && in_tiles
}

/// Elements of the copy of so many rows of so many images or fewer.
pub(super) fn copy_len<T>(pass: &Gather<T>, images: usize, rows: usize) -> usize {
    let (pixels, terms) = (rows * pass.columns.extent, pass.terms);
    if !is_planar(pass) {
        return images * pixels * terms;
    }
    let apart = images * plane_len::<T>(pixels);
    apart.max(plane_len::<T>(images * pixels)) * terms
}

/// Elements of memory that filling it takes.
pub(super) fn memory_len<T>(pass: &Gather<T>, images: usize, rows: usize) -> usize {
    match interleaves(pass, images) {
        true => images * rows * pass.columns.extent,
        false => 0,
    }
}

/// From term to term of planes of so many elements: an odd number of cache lines.
fn plane_len<T>(elements: usize) -> usize {
    let line = CACHE_LINE / size_of::<T>();
    (elements.div_ceil(line) | 1) * line
}

/// The copy of a group's terms.
#[derive(Clone)]
pub(super) struct BandCopy<'a, T> {
    pub pass: &'a Gather<T>,
    /// First and end.
    pub images: (usize, usize),
    pub group: usize,
    pub rows: Range<usize>,
    /// Room for `copy_len` elements.
    pub copy: *mut T,
}

impl<T: Element> BandCopy<'_, T> {
    fn images(&self) -> usize {
        self.images.1 - self.images.0
    }

    /// Pixels of an image.
    fn pixels(&self) -> usize {
        self.rows.len() * self.pass.columns.extent
    }

    /// Strides of the copy along (image, term, row, column).
    fn strides(&self) -> [usize; 4] {
        let (images, pixels, terms) = (self.images(), self.pixels(), self.pass.terms);
        let width = self.pass.columns.extent;
        if interleaves(self.pass, images) {
            return [1, plane_len::<T>(images * pixels), width * images, images];
        }
        match is_planar(self.pass) {
            true => {
                let of_term = plane_len::<T>(pixels);
                [terms * of_term, of_term, width, 1]
            }
            false => [pixels * terms, 1, width * terms, terms],
        }
    }

    /// What is read of it.
    pub fn source(&self) -> Source<T> {
        let strides = self.strides();
        let start = self.copy.cast_const().wrapping_sub(self.rows.start * strides[2]);
        Source { start, strides }
    }

    /// What it is filled by: terms, or pixels of all images.
    pub fn items(&self) -> usize {
        match is_planar(self.pass) {
            true => self.pass.terms,
            false => self.images() * self.pixels(),
        }
    }

    /// Fills some of its items, with memory of `memory_len`.
    ///
    /// # Safety
    /// The source has the rows of every image; nobody else uses the items' part of the copy, nor the memory.
    #[inline(always)]
    pub unsafe fn fill<S: Lanes<T>>(&self, simd: S, items: Range<usize>, memory: *mut T) {
        let (pass, images, pixels) = (self.pass, self.images(), self.pixels());
        let [of_image, of_channel, of_row, of_column] = pass.source_strides;
        let [of_copied_image, of_term, ..] = self.strides();
        let interleaves = interleaves(pass, images);
        let first = self.images.0 * of_image
            + self.group * pass.terms * of_channel
            + self.rows.start * of_row;
        for item in items {
            // SAFETY: the caller answers for a channel's planes, or for a pixel's channels.
            unsafe {
                if !is_planar(pass) {
                    let from = first + item / pixels * of_image + item % pixels * of_column;
                    let to = self.copy.add(item * pass.terms);
                    let [source, relu_output] = pass.source_at(from);
                    copy_run(simd, source, relu_output, 1, pass.terms, to);
                    continue;
                }
                let from = first + item * of_channel;
                let to = self.copy.add(item * of_term);
                let [source, relu_output] = pass.source_at(from);
                if interleaves && relu_output.is_null() {
                    runs::transpose(simd, [images, pixels], source, of_image, to, images);
                    continue;
                }
                let (planes, of_plane) = match interleaves {
                    true => (memory, pixels),
                    false => (to, of_copied_image),
                };
                for image in 0..images {
                    let [source, relu_output] = pass.source_at(from + image * of_image);
                    let plane = planes.add(image * of_plane);
                    copy_run(simd, source, relu_output, 1, pixels, plane);
                }
                if interleaves {
                    runs::transpose(simd, [images, pixels], planes, pixels, to, images);
                }
            }
        }
    }
}

/// Fills some items of a copy that several tasks read.
pub(super) struct FillCopy<'a, T> {
    pub copy: BandCopy<'a, T>,
    pub items: Range<usize>,
    pub memory: *mut T,
}

impl<T: Element> Kernel<T> for FillCopy<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: whoever made it answers for the source, the copy and the memory.
        unsafe { self.copy.fill(simd, self.items, self.memory) };
    }
}
