//! A band of rows of some channels, copied plane by plane with its padding and parted by column
//! remainders, so that every tap reads contiguous pixels.

use crate::gemm::blocking::DEPTH_BLOCK;
use crate::runs;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Lanes, TILE_LANES};
use crate::taps::Taps;

/// What a channel's copy may take, in elements, so that a few of them stay in the first-level cache,
/// and what all channels' may take, in the second-level one.
const BAND: usize = 2048;
const BAND_BYTES: usize = 384 * 1024;
/// Beyond this, for windows with very large extents, the copy does not pay.
const BAND_LIMIT: usize = 1 << 18;

/// One axis of the copy of a source: positions are counted from the least that a tap reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopiedAxis {
    /// From output to output.
    pub step: usize,
    /// Of the source.
    pub extent: usize,
    /// The least offset of a tap.
    pub least: isize,
    /// From the least offset to the largest.
    pub reach: usize,
}

impl CopiedAxis {
    /// What the taps of some passes read, which have the same step and the same source.
    pub fn new(passes: impl Iterator<Item = Taps>) -> Self {
        let (mut step, mut extent) = (1, 0);
        let (mut least, mut most) = (isize::MAX, isize::MIN);
        for taps in passes {
            (step, extent) = (taps.step, taps.extent);
            if taps.count > 0 {
                let (first, last) = (taps.source(0, 0), taps.source(0, taps.count - 1));
                least = least.min(first.min(last));
                most = most.max(first.max(last));
            }
        }
        // Without any tap nothing is read.
        let (least, most) = if least <= most { (least, most) } else { (0, 0) };
        CopiedAxis { step, extent, least, reach: (most - least) as usize }
    }

    /// Positions that `outputs` neighbouring outputs read.
    pub fn span(&self, outputs: usize) -> usize {
        (outputs - 1) * self.step + self.reach + 1
    }

    /// The position of a tap's first output.
    pub fn position(&self, taps: &Taps, tap: usize) -> usize {
        (taps.source(0, tap) - self.least) as usize
    }
}

/// How the copy of a channel's band lies: rows of `step` runs, one per remainder of the column's
/// position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    pub rows: CopiedAxis,
    pub columns: CopiedAxis,
    /// Elements of a run: those of the widest, and zeros behind that fill a tile's lanes.
    pub run: usize,
    /// Rows of the grid that a band covers.
    pub grid_rows: usize,
}

impl Band {
    /// For passes with these taps over (rows, columns) and a grid of this height and width at the
    /// most, which read `terms` channels of T at once.
    pub fn new<T>(
        passes: impl Iterator<Item = (Taps, Taps)> + Clone,
        terms: usize,
        [grid_height, grid_width]: [usize; 2],
    ) -> Self {
        let rows = CopiedAxis::new(passes.clone().map(|(rows, _)| rows));
        let columns = CopiedAxis::new(passes.map(|(_, columns)| columns));
        let step = columns.step;
        // What whole vectors of outputs read.
        let run = columns.span(grid_width.next_multiple_of(TILE_LANES)).div_ceil(step);
        let copied_rows = BAND.min(BAND_BYTES / size_of::<T>() / terms) / (run * step);
        let grid_rows = copied_rows.saturating_sub(rows.reach) / rows.step;
        // As even as can be.
        let bands = grid_height.div_ceil(grid_rows.clamp(1, grid_height));
        Band { rows, columns, run, grid_rows: grid_height.div_ceil(bands) }
    }

    /// Elements of a row of the copy.
    pub fn row_len(&self) -> usize {
        self.run * self.columns.step
    }

    /// Elements of the copy.
    pub fn len(&self) -> usize {
        self.rows.span(self.grid_rows) * self.row_len()
    }

    /// Where the pixels that a tap reads for the first row of the band begin in the copy.
    pub fn start(
        &self,
        (rows, row_tap): (&Taps, usize),
        (columns, column_tap): (&Taps, usize),
    ) -> usize {
        let position = self.columns.position(columns, column_tap);
        let column = position % self.columns.step * self.run + position / self.columns.step;
        self.rows.position(rows, row_tap) * self.row_len() + column
    }

    /// What the source has of the run of a remainder.
    #[inline(always)]
    fn inside(&self, remainder: usize) -> Inside {
        let step = self.columns.step;
        // Column of the run's element j: first + j * step.
        let first = self.columns.least + remainder as isize;
        let before = ((-first).max(0) as usize).div_ceil(step).min(self.run);
        let inside = (self.columns.extent as isize - first).max(0) as usize;
        let count = inside.div_ceil(step).clamp(before, self.run) - before;
        // Of no meaning where there are none.
        let column = (first + (before * step) as isize).max(0) as usize;
        Inside { before, count, column }
    }

    /// Copies what `grid_rows` rows from `grid_row` on read of one channel.
    ///
    /// # Safety
    /// `source`, and `relu_output` if not null, hold the channel; `copy` has `len` elements.
    #[inline(always)]
    pub unsafe fn fill<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        source: *const T,
        relu_output: *const T,
        row_stride: usize,
        (grid_row, grid_rows): (usize, usize),
        copy: *mut T,
    ) {
        let step = self.columns.step;
        let first_row = (grid_row * self.rows.step) as isize + self.rows.least;
        let rows = self.rows.span(grid_rows) as isize;
        let inside = self.rows.extent as isize - first_row;
        // Rows of the copy up to the first that the source has, and up to the last.
        let top = (-first_row).clamp(0, rows) as usize;
        let bottom = inside.clamp(top as isize, rows) as usize;
        // SAFETY: rows of the copy, which are whole runs; columns inside are the source's, and the
        // ReLU's output is shaped as it.
        unsafe {
            let below = copy.add(bottom * self.row_len());
            clear(simd, copy, top * self.row_len());
            clear(simd, below, (rows as usize - bottom) * self.row_len());
            for remainder in 0..step {
                let Inside { before, count, column } = self.inside(remainder);
                // Whole vectors: the copied pixels overwrite what is too much.
                let zeros_before = if before == 0 { 0 } else { before.max(S::LANES) };
                let zeros_behind = match self.run - (before + count) {
                    0 => self.run,
                    _ => (before + count).min(self.run - S::LANES),
                };
                for row in top..bottom {
                    let copy = copy.add(row * self.row_len() + remainder * self.run);
                    if count == 0 {
                        clear(simd, copy, self.run);
                        continue;
                    }
                    clear(simd, copy, zeros_before);
                    clear(simd, copy.add(zeros_behind), self.run - zeros_behind);
                    let offset = (first_row + row as isize) as usize * row_stride;
                    let offset = offset + column;
                    let relu_output = match relu_output.is_null() {
                        true => relu_output,
                        false => relu_output.add(offset),
                    };
                    let source = source.add(offset);
                    copy_run(simd, source, relu_output, step, count, copy.add(before));
                }
            }
        }
    }

    /// The same as `fill` for `terms` NHWC channels, whose copies follow on from one another.
    ///
    /// # Safety
    /// `source`, and `relu_output` if not null, hold the image from the first of the channels on; there
    /// is a copy for each of them.
    #[inline(always)]
    pub unsafe fn fill_nhwc<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        source: *const T,
        relu_output: *const T,
        [row_stride, column_stride]: [usize; 2],
        (grid_row, grid_rows): (usize, usize),
        (copies, terms): (*mut T, usize),
    ) {
        let step = self.columns.step;
        let first_row = (grid_row * self.rows.step) as isize + self.rows.least;
        let rows = self.rows.span(grid_rows);
        // SAFETY: pixels inside are the source's; the copies have what is written.
        unsafe {
            for term in 0..terms {
                copies.add(term * self.len()).write_bytes(0, rows * self.row_len());
            }
            for row in 0..rows {
                let y = first_row + row as isize;
                if y < 0 || y >= self.rows.extent as isize {
                    continue;
                }
                for remainder in 0..step {
                    let Inside { before, count, column } = self.inside(remainder);
                    if count == 0 {
                        continue;
                    }
                    let offset = y as usize * row_stride + column * column_stride;
                    let pixels = Pixels {
                        source: source.add(offset),
                        relu_output: match relu_output.is_null() {
                            true => relu_output,
                            false => relu_output.add(offset),
                        },
                        stride: step * column_stride,
                        count,
                        target: copies.add(row * self.row_len() + remainder * self.run + before),
                        target_stride: self.len(),
                    };
                    pixels.transpose(simd, terms);
                }
            }
        }
    }
}

/// The elements of a run that lie in the source.
struct Inside {
    /// Those in the padding before them.
    before: usize,
    count: usize,
    /// The first one's column in the source.
    column: usize,
}

/// Some pixels, and where their channels go.
struct Pixels<T> {
    source: *const T,
    /// Null for none.
    relu_output: *const T,
    /// From pixel to pixel.
    stride: usize,
    count: usize,
    target: *mut T,
    /// From channel to channel.
    target_stride: usize,
}

impl<T: Element> Pixels<T> {
    /// Copies `terms` channels.
    ///
    /// # Safety
    /// The source has them, and the target the room.
    #[inline(always)]
    unsafe fn transpose<S: Lanes<T>>(&self, simd: S, terms: usize) {
        let whole = terms / S::LANES * S::LANES;
        // SAFETY: the caller answers for the channels.
        unsafe {
            for pixel in (0..self.count).step_by(S::LANES) {
                let pixels = S::LANES.min(self.count - pixel);
                let extents = [pixels, S::LANES];
                for term in (0..whole).step_by(S::LANES) {
                    let offset = pixel * self.stride + term;
                    let target = self.target.add(term * self.target_stride + pixel);
                    let source = self.source.add(offset);
                    if self.relu_output.is_null() {
                        simd.transpose(extents, source, self.stride, target, self.target_stride);
                        continue;
                    }
                    let mut block = [T::default(); TILE_LANES * TILE_LANES];
                    for number in 0..pixels {
                        let output = self.relu_output.add(offset + number * self.stride);
                        let value = simd.load(source.add(number * self.stride));
                        let value = simd.relu_gradient(simd.load(output), value);
                        simd.store(block.as_mut_ptr().add(number * S::LANES), value);
                    }
                    let block = block.as_ptr();
                    simd.transpose(extents, block, S::LANES, target, self.target_stride);
                }
            }
            for term in whole..terms {
                let relu_output = match self.relu_output.is_null() {
                    true => self.relu_output,
                    false => self.relu_output.add(term),
                };
                let target = self.target.add(term * self.target_stride);
                copy_run(simd, self.source.add(term), relu_output, self.stride, self.count, target);
            }
        }
    }
}

/// Writes zeros; a vector at least, or nothing.
///
/// # Safety
/// `target` has `count` elements.
#[inline(always)]
unsafe fn clear<T: Element, S: Lanes<T>>(simd: S, target: *mut T, count: usize) {
    debug_assert!(count == 0 || count >= S::LANES);
    let mut done = 0;
    while done < count {
        // SAFETY: the last vector ends at the last element.
        unsafe { simd.store(target.add(done.min(count - S::LANES)), simd.splat(T::default())) };
        done += S::LANES;
    }
}

/// Copies `count` elements that lie `step` apart, masked by `relu_output` if that is not null.
///
/// # Safety
/// `source`, `relu_output` and `target` have them.
#[inline(always)]
pub(super) unsafe fn copy_run<T: Element, S: Lanes<T>>(
    simd: S,
    source: *const T,
    relu_output: *const T,
    step: usize,
    count: usize,
    target: *mut T,
) {
    // SAFETY: the caller answers for the elements.
    unsafe {
        // A loop for each case: were it decided inside, that would take longer than the copy.
        match (step, relu_output.is_null()) {
            (1, true) if count > S::LANES => {
                copy_vectors::<T, S, 1, false>(simd, source, relu_output, count, target);
            }
            (1, false) if count > S::LANES => {
                copy_vectors::<T, S, 1, true>(simd, source, relu_output, count, target);
            }
            (2, true) if count > S::LANES => {
                copy_vectors::<T, S, 2, false>(simd, source, relu_output, count, target);
            }
            (2, false) if count > S::LANES => {
                copy_vectors::<T, S, 2, true>(simd, source, relu_output, count, target);
            }
            (1, _) => {
                let mut value = runs::load(simd, count, source);
                if !relu_output.is_null() {
                    value = simd.relu_gradient(runs::load(simd, count, relu_output), value);
                }
                runs::store(simd, count, target, value);
            }
            (_, true) => {
                for at in 0..count {
                    *target.add(at) = *source.add(at * step);
                }
            }
            (_, false) => {
                for at in 0..count {
                    let dead = *relu_output.add(at * step) <= T::default();
                    *target.add(at) = if dead { T::default() } else { *source.add(at * step) };
                }
            }
        }
    }
}

/// The same for more than a vector of elements that lie 1 or 2 apart.
///
/// # Safety
/// The same.
#[inline(always)]
unsafe fn copy_vectors<T: Element, S: Lanes<T>, const STEP: usize, const MASKED: bool>(
    simd: S,
    source: *const T,
    relu_output: *const T,
    count: usize,
    target: *mut T,
) {
    let mut done = 0;
    while done < count {
        // The last vector may overlap the one before.
        let at = done.min(count - S::LANES);
        // SAFETY: the caller answers for the elements.
        unsafe {
            let mut value = load_apart(simd, source.add(at * STEP), STEP, at);
            if MASKED {
                let output = load_apart(simd, relu_output.add(at * STEP), STEP, at);
                value = simd.relu_gradient(output, value);
            }
            simd.store(target.add(at), value);
        }
        done += S::LANES;
    }
}

/// A vector of elements that lie `step` apart, 1 or 2. (A function, since a closure would be compiled
/// without the instruction set's features.)
///
/// # Safety
/// `LANES` such elements may be read from there on, and the one before unless `number` is 0; then
/// there is one more of them.
#[inline(always)]
unsafe fn load_apart<T: Element, S: Lanes<T>>(
    simd: S,
    from: *const T,
    step: usize,
    number: usize,
) -> S::Vector {
    // SAFETY: the caller answers for the elements. Two vectors are what their lanes span and one
    // element more, at the side where there is one.
    unsafe {
        if step == 1 {
            return simd.load(from);
        }
        if number == 0 {
            return simd.deinterleave(simd.load(from), simd.load(from.add(S::LANES)))[0];
        }
        let from = from.sub(1);
        simd.deinterleave(simd.load(from), simd.load(from.add(S::LANES)))[1]
    }
}

/// Whether a band of `terms` channels of a pass over this convolution is small enough to be copied.
pub(in crate::conv2d) fn fits(shape: &ConvShape, terms: usize) -> bool {
    let reach = |axis: &Axis| (axis.kernel - 1) * axis.dilation + axis.stride;
    let width = shape.width.input + shape.width.pad_before + shape.width.pad_after;
    let width = shape.width.stride.saturating_mul(TILE_LANES).saturating_add(width);
    width.saturating_mul(reach(&shape.height)).saturating_mul(terms) <= BAND_LIMIT
        && shape.window() <= DEPTH_BLOCK
}
