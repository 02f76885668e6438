//! Fills a block of NCHW patches with the pixels contiguous: vectors of pixels, cell by cell.
//!
//! A vector of pixels may straddle rows of the grid, and its taps may lie in the padding. So each
//! vector is put together from pieces, masked loads from one row of the source. What the pieces are
//! depends on the vector and the tap, but not on the channel: they are worked out for some vectors
//! at a time and then used for all channels, which reads each channel's plane in long runs.

use super::patches::{Block, Patches};
use crate::gemm::pack::PanelShape;
use crate::runs;
use crate::shape::Layout;
use crate::simd::{Element, Kernel, Lanes};

/// Writes (cell, pixel) of the block to the panel of the pixel; in panels of vectors, zeros behind the
/// block's pixels up to whole ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FillByCell<T> {
    pub patches: Patches<T>,
    pub block: Block,
    /// Panels of pixels: of whole vectors, or of a tile's rows.
    pub panels: PanelShape,
    pub target: *mut T,
    /// Elements from panel to panel.
    pub panel_stride: usize,
}

/// Vectors that are filled together at the most, and what they may consist of.
const VECTORS: usize = 32;
const PIECES: usize = 64;

/// Memory is asked for so many channels before they are read: their planes are too far apart for a processor to
/// foresee.
const CHANNELS_AHEAD: usize = 8;

/// Where a vector of pixels goes, and its segments.
#[derive(Debug, Clone, Copy, Default)]
struct Vector {
    /// Of the block's first cell.
    target: usize,
    /// From cell to cell.
    stride: usize,
    /// Pixels.
    lanes: usize,
    first_segment: usize,
    end_segment: usize,
}

/// Pixels of one vector that lie in one row of the grid.
#[derive(Debug, Clone, Copy, Default)]
struct Segment {
    first_lane: usize,
    end_lane: usize,
    grid_row: usize,
    /// The grid column of the first lane.
    grid_column: usize,
}

/// Some lanes of a vector, from one row of the source.
#[derive(Clone, Copy)]
struct Piece<M> {
    lanes: M,
    /// With a step of 2: what is loaded from lane 0 on, in two vectors, the elements between the
    /// lanes' too.
    pairs: [M; 2],
    /// Of lane 0, from the channel's first element.
    offset: isize,
}

/// How a vector is put together for one tap: from the pieces `first..end`, none where all of it is
/// in the padding. `whole` where one load without a mask does.
#[derive(Debug, Clone, Copy, Default)]
struct Assembly {
    first: usize,
    end: usize,
    whole: bool,
}

impl<T: Element> Kernel<T> for FillByCell<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        debug_assert_eq!(self.patches.layout, Layout::Nchw);
        let PanelShape { width, granule } = self.panels;
        match width.is_multiple_of(S::LANES) && granule.is_multiple_of(S::LANES) {
            true => self.panels::<S, true>(simd),
            false => self.panels::<S, false>(simd),
        }
    }
}

impl<T: Element> FillByCell<T> {
    /// Fills all panels, which have room for `WHOLE` vectors or not.
    #[inline(always)]
    fn panels<S: Lanes<T>, const WHOLE: bool>(&self, simd: S) {
        let grid_width = self.patches.grid_width;
        let mut pixel = 0;
        while pixel < self.block.pixels {
            let mut vectors = [Vector::default(); VECTORS];
            let mut segments = [Segment::default(); PIECES];
            let (mut vector_count, mut segment_count) = (0, 0);
            while pixel < self.block.pixels
                && vector_count < VECTORS
                && segment_count + S::LANES <= PIECES
            {
                let panel = pixel / self.panels.width;
                let lanes = self.lanes_from::<S>(pixel);
                let first_segment = segment_count;
                let mut lane = 0;
                while lane < lanes {
                    let at = self.block.pixel + pixel + lane;
                    let (grid_row, grid_column) = (at / grid_width, at % grid_width);
                    let end_lane = lanes.min(lane + grid_width - grid_column);
                    segments[segment_count] =
                        Segment { first_lane: lane, end_lane, grid_row, grid_column };
                    segment_count += 1;
                    lane = end_lane;
                }
                vectors[vector_count] = Vector {
                    target: panel * self.panel_stride + pixel % self.panels.width,
                    lanes,
                    stride: self.panels.lines_of(panel, self.block.pixels),
                    first_segment,
                    end_segment: segment_count,
                };
                vector_count += 1;
                pixel += lanes;
            }
            // SAFETY: the caller answers for the source and the target.
            unsafe { self.fill::<S, WHOLE>(simd, &vectors[..vector_count], &segments) };
        }
    }

    /// The pixels of the vector that begins with one: of the block and of one panel.
    #[inline(always)]
    fn lanes_from<S: Lanes<T>>(&self, pixel: usize) -> usize {
        let of_panel = self.panels.width - pixel % self.panels.width;
        S::LANES.min(of_panel).min(self.block.pixels - pixel)
    }

    /// Writes some vectors of every cell.
    ///
    /// # Safety
    /// The source holds the image, the target the block.
    #[inline(always)]
    unsafe fn fill<S: Lanes<T>, const WHOLE: bool>(
        &self,
        simd: S,
        vectors: &[Vector],
        segments: &[Segment],
    ) {
        let Patches { rows, columns, channels, .. } = self.patches;
        let mut pieces = [Piece::new(simd, (0, 0), 1, 0); PIECES];
        let mut assemblies = [Assembly::default(); VECTORS];
        for row_tap in 0..rows.count {
            for column_tap in 0..columns.count {
                // The block's cells that are this tap's channels.
                let tap_cell = (row_tap * columns.count + column_tap) * channels;
                let first = self.block.cell.saturating_sub(tap_cell).min(channels);
                let end = self.block.cell + self.block.cells;
                let end = end.saturating_sub(tap_cell).min(channels);
                if first >= end {
                    continue;
                }
                let mut count = 0;
                for (vector, assembly) in vectors.iter().zip(&mut assemblies) {
                    *assembly = Assembly { first: count, end: count, whole: false };
                    for segment in &segments[vector.first_segment..vector.end_segment] {
                        let (lanes, offset) = self.inside(segment, row_tap, column_tap);
                        if lanes.0 < lanes.1 {
                            pieces[count] = Piece::new(simd, lanes, columns.step, offset);
                            count += 1;
                            assembly.whole = lanes.1 - lanes.0 == S::LANES && columns.step == 1;
                        }
                    }
                    assembly.end = count;
                }
                for channel in first..end {
                    let cell = tap_cell + channel - self.block.cell;
                    let plane = channel * self.patches.strides[0];
                    for (vector, assembly) in vectors.iter().zip(&assemblies) {
                        let pieces = &pieces[assembly.first..assembly.end];
                        if let Some(piece) = pieces.first() {
                            let soon = plane + CHANNELS_AHEAD * self.patches.strides[0];
                            let source = self.patches.source.wrapping_add(soon);
                            simd.prefetch(source.wrapping_offset(piece.offset));
                        }
                        // SAFETY: the pieces' lanes are inside, so what is read lies in the
                        // channel's plane; what is written lies in the block.
                        unsafe {
                            let source = self.patches.source.add(plane);
                            let mut value = self.load(simd, source, pieces, assembly.whole);
                            if !self.patches.relu_output.is_null() {
                                let source = self.patches.relu_output.add(plane);
                                let output = self.load(simd, source, pieces, assembly.whole);
                                value = simd.relu_gradient(output, value);
                            }
                            let target = self.target.add(vector.target + cell * vector.stride);
                            match WHOLE {
                                true => simd.store(target, value),
                                false => runs::store(simd, vector.lanes, target, value),
                            }
                        }
                    }
                }
            }
        }
    }

    /// The lanes of a segment, from first to end, that a tap reads inside the source, and the
    /// offset of lane 0 in a channel's plane.
    #[inline(always)]
    fn inside(
        &self,
        segment: &Segment,
        row_tap: usize,
        column_tap: usize,
    ) -> ((usize, usize), isize) {
        let Patches { rows, columns, strides, .. } = &self.patches;
        let row = rows.source(segment.grid_row, row_tap);
        if rows.outside(row) {
            return ((0, 0), 0);
        }
        // Lanes of 0 <= column + (lane - first_lane) * step < extent.
        let column = columns.source(segment.grid_column, column_tap);
        let step = columns.step;
        let (before, inside) = ((-column).max(0), (columns.extent as isize - column).max(0));
        let (skipped, end) = match step {
            1 => (before as usize, inside as usize),
            _ => ((before as usize).div_ceil(step), (inside as usize).div_ceil(step)),
        };
        let lanes = (
            segment.first_lane + skipped,
            segment.end_lane.min(segment.first_lane.saturating_add(end)),
        );
        // Of no meaning, and of any size, where the row's first lane is not the vector's.
        let before = (segment.first_lane as isize).wrapping_mul(step as isize);
        let lane_0 = column.wrapping_sub(before);
        (lanes, (row * strides[1] as isize).wrapping_add(lane_0))
    }

    /// One vector of one channel.
    ///
    /// # Safety
    /// The source has the lanes of the pieces.
    #[inline(always)]
    unsafe fn load<S: Lanes<T>>(
        &self,
        simd: S,
        source: *const T,
        pieces: &[Piece<S::Mask>],
        whole: bool,
    ) -> S::Vector {
        let step = self.patches.columns.step;
        let [first, rest @ ..] = pieces else { return simd.splat(T::default()) };
        // SAFETY: the caller answers for the lanes.
        unsafe {
            if whole {
                return simd.load(source.offset(first.offset));
            }
            let mut value = first.load(simd, source, step);
            for piece in rest {
                value = simd.select(piece.lanes, piece.load(simd, source, step), value);
            }
            value
        }
    }
}

impl<M: Copy> Piece<M> {
    #[inline(always)]
    fn new<T: Element, S: Lanes<T, Mask = M>>(
        simd: S,
        (first, end): (usize, usize),
        step: usize,
        offset: isize,
    ) -> Self {
        let lanes = simd.mask_between(first, end);
        let pairs = match step {
            2 => {
                let (first, end) = (2 * first, (2 * end).saturating_sub(1));
                let behind = |lane: usize| lane.saturating_sub(S::LANES);
                [simd.mask_between(first, end), simd.mask_between(behind(first), behind(end))]
            }
            _ => [lanes; 2],
        };
        Piece { lanes, pairs, offset }
    }

    /// The lanes, `step` elements apart, zero in the others. A pointer to lane 0 may lie outside
    /// the source when the mask leaves it out.
    ///
    /// # Safety
    /// The source has the lanes, in one row.
    #[inline(always)]
    unsafe fn load<T: Element, S: Lanes<T, Mask = M>>(
        &self,
        simd: S,
        source: *const T,
        step: usize,
    ) -> S::Vector {
        let lane_0 = source.wrapping_offset(self.offset);
        // SAFETY: the caller answers for the lanes, and so for what lies between them.
        unsafe {
            match step {
                1 => simd.load_where(self.lanes, lane_0),
                2 => {
                    let low = simd.load_where(self.pairs[0], lane_0);
                    let high = simd.load_where(self.pairs[1], lane_0.wrapping_add(S::LANES));
                    let [even, _] = simd.deinterleave(low, high);
                    even
                }
                _ => simd.gather_where(self.lanes, lane_0, step as isize),
            }
        }
    }
}
