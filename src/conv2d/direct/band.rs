//! A band of rows of one NCHW channel, copied with its padding and parted by column remainders, so
//! that every tap reads contiguous pixels.

use crate::conv2d::patches::Taps;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Lanes, TILE_LANES};

/// What a band's copy may take, in elements: some of them should stay in the first-level cache.
const BAND: usize = 2048;
/// Beyond this, for windows with very large extents, the copy does not pay.
const BAND_LIMIT: usize = 1 << 17;

/// One axis of the copy of a source: positions are counted from the least that a tap reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopiedAxis {
    pub taps: Taps,
    /// The least offset of a tap.
    pub least: isize,
    /// From the least offset to the largest.
    pub reach: usize,
}

impl CopiedAxis {
    pub fn new(taps: Taps) -> Self {
        let last = taps.first_offset + taps.count.saturating_sub(1) as isize * taps.offset_step;
        let least = taps.first_offset.min(last);
        CopiedAxis { taps, least, reach: (taps.first_offset.max(last) - least) as usize }
    }

    /// Positions that `outputs` neighbouring outputs read.
    pub fn span(&self, outputs: usize) -> usize {
        (outputs - 1) * self.taps.step + self.reach + 1
    }

    /// The position of a tap's first output.
    #[inline(always)]
    pub fn position(&self, tap: usize) -> usize {
        (self.taps.first_offset + tap as isize * self.taps.offset_step - self.least) as usize
    }
}

/// How the copy of a band lies: rows of `step` runs, one per remainder of the column's position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    pub rows: CopiedAxis,
    pub columns: CopiedAxis,
    /// Elements of a run: those of the widest, and zeros behind that fill a tile's lanes.
    pub run: usize,
    /// Rows of the grid that a band covers.
    pub grid_rows: usize,
    /// Where the first output's pixel lies in a row of the copy, for each column tap.
    pub column_starts: [usize; COLUMN_TAPS],
}

/// The widest kernel that these kernels take.
const COLUMN_TAPS: usize = 32;

impl Band {
    pub fn new(rows: Taps, columns: Taps, grid_height: usize, grid_width: usize) -> Self {
        let rows = CopiedAxis::new(rows);
        let columns = CopiedAxis::new(columns);
        let step = columns.taps.step;
        // What whole vectors of outputs read.
        let run = columns.span(grid_width.next_multiple_of(TILE_LANES)).div_ceil(step);
        let mut column_starts = [0; COLUMN_TAPS];
        for (tap, start) in column_starts.iter_mut().enumerate().take(columns.taps.count) {
            let position = columns.position(tap);
            *start = position % step * run + position / step;
        }
        let copied_rows = BAND / (run * step);
        let grid_rows = copied_rows.saturating_sub(rows.reach) / rows.taps.step;
        Band { rows, columns, run, grid_rows: grid_rows.clamp(1, grid_height), column_starts }
    }

    /// Elements of a row of the copy.
    pub fn row_len(&self) -> usize {
        self.run * self.columns.taps.step
    }

    /// Elements of the copy.
    pub fn len(&self) -> usize {
        self.rows.span(self.grid_rows) * self.row_len()
    }

    /// Where the pixels that a tap reads for the first row of the band begin in the copy.
    #[inline(always)]
    pub fn start(&self, row_tap: usize, column_tap: usize) -> usize {
        self.row_start(row_tap) + self.column_starts[column_tap]
    }

    #[inline(always)]
    pub fn row_start(&self, row_tap: usize) -> usize {
        self.rows.position(row_tap) * self.row_len()
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
        let step = self.columns.taps.step;
        let first_row = (grid_row * self.rows.taps.step) as isize + self.rows.least;
        let rows = self.rows.span(grid_rows) as isize;
        let inside = self.rows.taps.extent as isize - first_row;
        // Rows of the copy up to the first that the source has, and up to the last.
        let top = (-first_row).clamp(0, rows) as usize;
        let bottom = inside.clamp(top as isize, rows) as usize;
        // SAFETY: rows of the copy, which are whole runs; columns inside are the source's, and the
        // ReLU's output is shaped as it.
        unsafe {
            clear(simd, copy, top * self.row_len());
            clear(
                simd,
                copy.add(bottom * self.row_len()),
                (rows as usize - bottom) * self.row_len(),
            );
            for remainder in 0..step {
                // Column of the run's element j: first + j * step.
                let first = self.columns.least + remainder as isize;
                let before = ((-first).max(0) as usize).div_ceil(step).min(self.run);
                let inside = (self.columns.taps.extent as isize - first).max(0) as usize;
                let count = inside.div_ceil(step).clamp(before, self.run) - before;
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
                    let offset = offset + (first + (before * step) as isize) as usize;
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
unsafe fn copy_run<T: Element, S: Lanes<T>>(
    simd: S,
    source: *const T,
    relu_output: *const T,
    step: usize,
    count: usize,
    target: *mut T,
) {
    // SAFETY: the caller answers for the elements.
    unsafe {
        if step <= 2 && count > S::LANES {
            let mut done = 0;
            while done < count {
                // The last vector may overlap the one before.
                let at = done.min(count - S::LANES);
                let mut value = load_apart(simd, source.add(at * step), step, at);
                if !relu_output.is_null() {
                    let output = load_apart(simd, relu_output.add(at * step), step, at);
                    value = simd.relu_gradient(output, value);
                }
                simd.store(target.add(at), value);
                done += S::LANES;
            }
            return;
        }
        // Two loops: were the null checked in one, the compiler would make masked loads of it, which
        // the processor takes hundreds of cycles to find out to be void.
        if relu_output.is_null() {
            for at in 0..count {
                *target.add(at) = *source.add(at * step);
            }
        } else {
            for at in 0..count {
                let dead = *relu_output.add(at * step) <= T::default();
                *target.add(at) = if dead { T::default() } else { *source.add(at * step) };
            }
        }
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

/// Whether a band of a pass over this convolution is small enough to be copied.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let reach = |axis: &Axis| (axis.kernel - 1) * axis.dilation + axis.stride;
    let width = shape.width.input + shape.width.pad_before + shape.width.pad_after;
    (width + TILE_LANES * shape.width.stride).saturating_mul(reach(&shape.height)) <= BAND_LIMIT
        && shape.width.kernel <= COLUMN_TAPS
}
