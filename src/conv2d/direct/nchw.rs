//! NCHW: a band of rows of some channels at a time, copied with its padding to scratch memory and
//! parted by column remainders, so that every tap reads contiguous pixels.

use super::{Gather, TASK_WORK};
use crate::context::Context;
use crate::conv2d::patches::Taps;
use crate::error::Result;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

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
    /// Elements of a run: those of the widest, and a tile's lanes of zeros behind.
    pub run: usize,
    /// Rows of the grid that a band covers.
    pub grid_rows: usize,
    /// Where the first output's pixel lies in a row of the copy, for each column tap.
    column_starts: [usize; COLUMN_TAPS],
}

/// The widest kernel that these kernels take.
const COLUMN_TAPS: usize = 32;

impl Band {
    pub fn new(rows: Taps, columns: Taps, grid_height: usize, grid_width: usize) -> Self {
        let rows = CopiedAxis::new(rows);
        let columns = CopiedAxis::new(columns);
        let step = columns.taps.step;
        let run =
            (columns.span(grid_width).div_ceil(step) + TILE_LANES).next_multiple_of(TILE_LANES);
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
    fn row_start(&self, row_tap: usize) -> usize {
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
        for row in 0..self.rows.span(grid_rows) {
            let source_row = first_row + row as isize;
            // SAFETY: within the copy, whose rows are whole vectors; columns inside are the
            // source's, and the ReLU's output is shaped as it.
            unsafe {
                let copy = copy.add(row * self.row_len());
                if source_row < 0 || source_row >= self.rows.taps.extent as isize {
                    clear(simd, copy, self.row_len());
                    continue;
                }
                let offset = source_row as usize * row_stride;
                for remainder in 0..step {
                    // Column of the run's element j: first + j * step.
                    let first = self.columns.least + remainder as isize;
                    let before = ((-first).max(0) as usize).div_ceil(step).min(self.run);
                    let inside = (self.columns.taps.extent as isize - first).max(0) as usize;
                    let count = inside.div_ceil(step).clamp(before, self.run) - before;
                    let copy = copy.add(remainder * self.run);
                    if count == 0 {
                        clear(simd, copy, self.run);
                        continue;
                    }
                    // Whole vectors: the copied pixels overwrite what is too much.
                    clear(simd, copy, before.next_multiple_of(S::LANES));
                    let behind = before + count;
                    let offset = offset + (first + (before * step) as isize) as usize;
                    let relu_output = match relu_output.is_null() {
                        true => relu_output,
                        false => relu_output.add(offset),
                    };
                    let source = source.add(offset);
                    copy_run(simd, source, relu_output, step, count, copy.add(before));
                    clear(simd, copy.add(behind), self.run - behind);
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
/// `source`, `relu_output` and `target` have them, `target` whole vectors of them.
#[inline(always)]
unsafe fn copy_run<T: Element, S: Lanes<T>>(
    simd: S,
    source: *const T,
    relu_output: *const T,
    step: usize,
    count: usize,
    target: *mut T,
) {
    let mut done = 0;
    // SAFETY: the caller answers for the elements. With a step of 2, two vectors from element
    // `done` on end at the element before number `done + LANES`, which is one of them.
    unsafe {
        while step <= 2 && done + S::LANES < count {
            let mut value = load_apart(simd, source.add(done * step), step);
            if !relu_output.is_null() {
                value =
                    simd.relu_gradient(load_apart(simd, relu_output.add(done * step), step), value);
            }
            simd.store(target.add(done), value);
            done += S::LANES;
        }
        // Two loops: were the null checked in one, the compiler would make masked loads of it, which
        // the processor takes hundreds of cycles to find out to be void.
        if step == 1 && done < count {
            let rest = count - done;
            let mut value = simd.load_first(rest, source.add(done));
            if !relu_output.is_null() {
                value = simd.relu_gradient(simd.load_first(rest, relu_output.add(done)), value);
            }
            simd.store(target.add(done), value);
        } else if relu_output.is_null() {
            for at in done..count {
                *target.add(at) = *source.add(at * step);
            }
        } else {
            for at in done..count {
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
/// `step` vectors may be read from there on.
#[inline(always)]
unsafe fn load_apart<T: Element, S: Lanes<T>>(simd: S, from: *const T, step: usize) -> S::Vector {
    // SAFETY: the caller answers for the elements.
    unsafe {
        if step == 1 {
            return simd.load(from);
        }
        let [even, _] = simd.deinterleave(simd.load(from), simd.load(from.add(S::LANES)));
        even
    }
}

/// Whether a band of a pass over this convolution is small enough to be copied.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let reach = |axis: &Axis| (axis.kernel - 1) * axis.dilation + axis.stride;
    let width = shape.width.input + shape.width.pad_before + shape.width.pad_after;
    (width + TILE_LANES * shape.width.stride).saturating_mul(reach(&shape.height)) <= BAND_LIMIT
        && shape.width.kernel <= COLUMN_TAPS
}

/// Source channels that are copied at once, so that their sums stay in registers.
const TERMS: usize = 4;
/// Target channels that share a load of pixels, and vectors of pixels that share a weight: 12 sums.
const OUTPUTS: usize = 3;
const VECTORS: usize = 4;

/// Runs a gathering pass.
pub(super) fn gather<T: Element>(context: &Context, pass: &Gather<T>) -> Result<()> {
    let band = Band::new(pass.rows, pass.columns, pass.grid_height, pass.grid_width);
    let sums_len = match pass.terms <= TERMS {
        true => 0,
        false => pass.outputs * band.grid_rows * pass.grid_width.next_multiple_of(TILE_LANES),
    };
    let copies_len = TERMS.min(pass.terms) * band.len();
    let scratch = context.scratch::<T>(0, copies_len + sums_len)?;
    let bands = pass.grid_height.div_ceil(band.grid_rows);
    let per_task = (TASK_WORK / (pass.row_work() * band.grid_rows)).max(1);
    let count = pass.batch * pass.groups * bands;
    context.run(count.div_ceil(per_task), &|slot, index| {
        let copies = scratch.slot(slot);
        let kernel = GatherBands {
            pass: *pass,
            band,
            bands,
            first: index * per_task,
            end: count.min((index + 1) * per_task),
            copies,
            // SAFETY: behind the copies, within the slot.
            sums: unsafe { copies.add(copies_len) },
        };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Some of the bands of all images and groups.
struct GatherBands<T> {
    pass: Gather<T>,
    band: Band,
    /// Bands of a group.
    bands: usize,
    first: usize,
    end: usize,
    /// Of the source channels that are summed up at the moment.
    copies: *mut T,
    /// Of those before: `[outputs, vectors of the band]`.
    sums: *mut T,
}

/// A band of one group of one image, and the terms that are copied.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    group: usize,
    row: usize,
    rows: usize,
    term: usize,
    terms: usize,
}

impl<T: Element> Kernel<T> for GatherBands<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let pass = &self.pass;
        for index in self.first..self.end {
            let (rest, row) = (index / self.bands, index % self.bands * self.band.grid_rows);
            let rows = self.band.grid_rows.min(pass.grid_height - row);
            let (image, group) = (rest / pass.groups, rest % pass.groups);
            for term in (0..pass.terms).step_by(TERMS) {
                let terms = TERMS.min(pass.terms - term);
                let place = Place { image, group, row, rows, term, terms };
                // SAFETY: the tensors have the image, the group and the rows.
                unsafe {
                    self.copy(simd, place);
                    self.gather(simd, place);
                }
            }
        }
    }
}

impl<T: Element> GatherBands<T> {
    /// Copies the terms' bands.
    ///
    /// # Safety
    /// The source has the place.
    #[inline(always)]
    unsafe fn copy<S: Lanes<T>>(&self, simd: S, place: Place) {
        let pass = &self.pass;
        for term in 0..place.terms {
            let channel = place.group * pass.terms + place.term + term;
            let offset = place.image * pass.source_strides[0] + channel * pass.source_strides[1];
            // SAFETY: the caller answers for the source; there is a copy for each term.
            unsafe {
                let relu_output = match pass.relu_output.is_null() {
                    true => pass.relu_output,
                    false => pass.relu_output.add(offset),
                };
                let (source, copy) =
                    (pass.source.add(offset), self.copies.add(term * self.band.len()));
                let rows = (place.row, place.rows);
                self.band.fill(simd, source, relu_output, pass.source_strides[2], rows, copy);
            }
        }
    }

    /// Adds the copied terms to all outputs.
    ///
    /// # Safety
    /// The target has the place, and nobody else uses it.
    #[inline(always)]
    unsafe fn gather<S: Lanes<T>>(&self, simd: S, place: Place) {
        let outputs = self.pass.outputs;
        let vectors = place.rows * self.pass.grid_width.div_ceil(S::LANES);
        for output in (0..outputs).step_by(OUTPUTS) {
            // SAFETY: the caller answers for the place.
            unsafe {
                match outputs - output {
                    1 => self.outputs::<S, 1>(simd, place, output, vectors),
                    2 => self.outputs::<S, 2>(simd, place, output, vectors),
                    _ => self.outputs::<S, OUTPUTS>(simd, place, output, vectors),
                }
            }
        }
    }

    /// Adds the copied terms to `N` outputs from `output` on.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn outputs<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        place: Place,
        output: usize,
        vectors: usize,
    ) {
        let mut cursor =
            Cursor { vector: 0, row: 0, column: 0, lanes: S::LANES, width: self.pass.grid_width };
        // SAFETY: the caller answers for the outputs; the vectors are the band's.
        unsafe {
            while cursor.vector + VECTORS <= vectors {
                self.vectors::<S, N, VECTORS>(simd, place, output, &mut cursor);
            }
            while cursor.vector < vectors {
                self.vectors::<S, N, 1>(simd, place, output, &mut cursor);
            }
        }
    }

    /// The same for the next `V` vectors of the band.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn vectors<S: Lanes<T>, const N: usize, const V: usize>(
        &self,
        simd: S,
        place: Place,
        output: usize,
        cursor: &mut Cursor,
    ) {
        let pass = &self.pass;
        let strides = pass.filter_strides;
        // Where each vector's pixels lie for the first tap.
        let mut vectors = [*cursor; V];
        let mut starts = [0; V];
        for (vector, start) in vectors.iter_mut().zip(&mut starts) {
            *vector = *cursor;
            *start = cursor.row * self.band.rows.taps.step * self.band.row_len() + cursor.column;
            cursor.advance();
        }
        let mut sums = [[simd.splat(T::default()); V]; N];
        // SAFETY: the copies and the filters have what the taps read; the caller answers for the
        // target.
        unsafe {
            let filters = pass
                .filters
                .add(place.group * strides.group + output * strides.output)
                .add(place.term * strides.term);
            for term in 0..place.terms {
                for row_tap in 0..pass.rows.count {
                    let mut filters = filters.add(term * strides.term + row_tap * strides.row_tap);
                    let copy = self.copies.add(term * self.band.len());
                    let copy = copy.add(self.band.row_start(row_tap));
                    for &column_start in &self.band.column_starts[..pass.columns.count] {
                        let copy = copy.add(column_start);
                        let mut pixels = [simd.splat(T::default()); V];
                        for (pixels, &start) in pixels.iter_mut().zip(&starts) {
                            *pixels = simd.load(copy.add(start));
                        }
                        for (n, sums) in sums.iter_mut().enumerate() {
                            let weight = simd.splat(*filters.add(n * strides.output));
                            for (sum, &pixels) in sums.iter_mut().zip(&pixels) {
                                *sum = simd.mul_add(pixels, weight, *sum);
                            }
                        }
                        filters = filters.wrapping_add(strides.column_tap);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                for (&sum, vector) in sums.iter().zip(&vectors) {
                    self.finish(simd, place, output + n, vector, sum);
                }
            }
        }
    }

    /// Adds a vector's sum of the copied terms to those before; after the last it goes to the target.
    ///
    /// # Safety
    /// The target has the vector, and nobody else uses it.
    #[inline(always)]
    unsafe fn finish<S: Lanes<T>>(
        &self,
        simd: S,
        place: Place,
        output: usize,
        vector: &Cursor,
        sum: S::Vector,
    ) {
        let pass = &self.pass;
        let mut value = sum;
        // SAFETY: the sums have every vector of the band; the caller answers for the target.
        unsafe {
            if pass.terms > TERMS {
                let of_output = self.band.grid_rows * pass.grid_width.next_multiple_of(S::LANES);
                let sums = self.sums.add(output * of_output + vector.vector * S::LANES);
                if place.term > 0 {
                    value = simd.add(simd.load(sums), value);
                }
                if place.term + place.terms < pass.terms {
                    return simd.store(sums, value);
                }
            }
            let count = S::LANES.min(pass.grid_width - vector.column);
            let channel = place.group * pass.outputs + output;
            let [of_image, of_channel, of_row, stride] = pass.target_strides;
            let target = pass.target.add(
                place.image * of_image
                    + channel * of_channel
                    + (place.row + vector.row) * of_row
                    + vector.column * stride,
            );
            value = simd.mul(simd.splat(pass.alpha), value);
            if pass.beta != T::default() {
                let mask = simd.mask_between(0, count);
                let old = simd.gather_where(mask, target, stride as isize);
                value = simd.mul_add(simd.splat(pass.beta), old, value);
            }
            if !pass.bias.is_null() {
                value = simd.add(value, simd.splat(*pass.bias.add(channel)));
            }
            if pass.relu {
                value = simd.relu(value);
            }
            if stride > 1 {
                let mut lanes = [T::default(); TILE_LANES];
                simd.store(lanes.as_mut_ptr(), value);
                for (lane, &value) in lanes.iter().enumerate().take(count) {
                    *target.add(lane * stride) = value;
                }
            } else if count == S::LANES {
                simd.store(target, value);
            } else {
                simd.store_first(count, target, value);
            }
        }
    }
}

/// A vector of a band: its number, and where its pixels are in the grid.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    vector: usize,
    row: usize,
    column: usize,
    lanes: usize,
    /// Of the grid.
    width: usize,
}

impl Cursor {
    #[inline(always)]
    fn advance(&mut self) {
        self.vector += 1;
        self.column += self.lanes;
        if self.column >= self.width {
            (self.row, self.column) = (self.row + 1, 0);
        }
    }
}
