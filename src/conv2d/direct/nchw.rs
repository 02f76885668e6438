//! NCHW with pixels in the lanes: a band of rows of some channels at a time, copied with its padding
//! to scratch memory.

use super::band::Band;
use super::{Gather, TASK_WORK};
use crate::context::Context;
use crate::error::Result;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Source channels that are copied at once, so that their sums stay in registers.
const TERMS: usize = 4;
/// Target channels that share a load of pixels, and vectors of pixels that share a weight: 12 sums.
const OUTPUTS: usize = 3;
const VECTORS: usize = 4;

/// Runs gathering passes that write to different places of the same rows: a band is written by all of
/// them in turn, while it is in the cache.
pub(super) fn gather<T: Element>(context: &Context, passes: &[Gather<T>]) -> Result<()> {
    let pass = &passes[0];
    let band =
        |pass: &Gather<T>| Band::new(pass.rows, pass.columns, pass.grid_height, pass.grid_width);
    let grid_rows = passes.iter().map(|pass| band(pass).grid_rows).min().unwrap_or(1);
    let band = |pass: &Gather<T>| Band { grid_rows, ..band(pass) };
    let sums_len = |pass: &Gather<T>| match pass.terms <= TERMS {
        true => 0,
        false => pass.outputs * grid_rows * pass.grid_width.next_multiple_of(TILE_LANES),
    };
    let sums_len = passes.iter().map(sums_len).max().unwrap_or(0);
    let copies_len =
        TERMS.min(pass.terms) * passes.iter().map(|pass| band(pass).len()).max().unwrap_or(0);
    let scratch = context.scratch::<T>(0, copies_len + sums_len)?;
    let bands = pass.grid_height.div_ceil(grid_rows);
    let per_task = (TASK_WORK / (pass.row_work() * grid_rows)).max(1);
    let count = pass.batch * pass.groups * bands;
    context.run(count.div_ceil(per_task), &|slot, index| {
        let copies = scratch.slot(slot);
        let (first, end) = (index * per_task, count.min((index + 1) * per_task));
        let at_once = if passes.len() == 1 { per_task } else { 1 };
        for first in (first..end).step_by(at_once) {
            for pass in passes {
                let kernel = GatherBands {
                    pass: *pass,
                    band: band(pass),
                    bands,
                    first,
                    end: end.min(first + at_once),
                    copies,
                    // SAFETY: behind the copies, within the slot.
                    sums: unsafe { copies.add(copies_len) },
                };
                T::dispatch(context.level(), kernel);
            }
        }
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
        for number in self.first..self.end {
            let (rest, band) = (number / self.bands, number % self.bands);
            let (image, group) = (rest / pass.groups, rest % pass.groups);
            let row = band * self.band.grid_rows;
            let rows = self.band.grid_rows.min(pass.grid_height - row);
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
        let pass = &self.pass;
        let outputs = pass.outputs;
        let depthwise = outputs == 1 && pass.terms == 1 && pass.target_strides[3] == 1;
        // SAFETY: the caller answers for the place.
        unsafe {
            match (depthwise, pass.rows.count, pass.columns.count) {
                (true, 3, 3) => return self.depthwise::<S, 3>(simd, place),
                (true, 5, 5) => return self.depthwise::<S, 5>(simd, place),
                _ => {}
            }
        }
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

    /// One channel to one channel with `K` x `K` taps, a row at a time.
    ///
    /// # Safety
    /// The target has the place, and nobody else uses it.
    #[inline(always)]
    unsafe fn depthwise<S: Lanes<T>, const K: usize>(&self, simd: S, place: Place) {
        let pass = &self.pass;
        let [of_image, of_channel, of_row, _] = pass.target_strides;
        let mut weights = [[T::default(); K]; K];
        for (r, weights) in weights.iter_mut().enumerate() {
            for (c, weight) in weights.iter_mut().enumerate() {
                let strides = pass.filter_strides;
                let offset =
                    place.group * strides.group + r * strides.row_tap + c * strides.column_tap;
                // SAFETY: the filters have the group's taps.
                *weight = unsafe { *pass.filters.add(offset) };
            }
        }
        let bias = match pass.bias.is_null() {
            true => T::default(),
            // SAFETY: the biases have the group's channel.
            false => unsafe { *pass.bias.add(place.group) },
        };
        let width = pass.grid_width;
        let offset = place.image * of_image + place.group * of_channel + place.row * of_row;
        // Vectors that are summed together: their chains of additions overlap.
        let nothing = Pixels { copy: self.copies.cast_const(), target: pass.target, count: 0 };
        let mut vectors = [nothing; VECTORS];
        let mut waiting = 0;
        for row in 0..place.rows {
            // SAFETY: the copy has what whole vectors of outputs read, the caller answers for the
            // target's row.
            unsafe {
                let copy = self.copies.add(row * pass.rows.step * self.band.row_len());
                let target = pass.target.add(offset + row * of_row);
                let mut column = 0;
                while column < width {
                    // The last vector may overlap the one before, unless it adds to the target.
                    if pass.beta == T::default() && width >= S::LANES {
                        column = column.min(width - S::LANES);
                    }
                    vectors[waiting] = Pixels {
                        copy: copy.add(column),
                        target: target.add(column),
                        count: S::LANES.min(width - column),
                    };
                    waiting += 1;
                    column += S::LANES;
                    if waiting == VECTORS {
                        self.sum::<S, K, VECTORS>(simd, &weights, bias, &vectors);
                        waiting = 0;
                    }
                }
            }
        }
        for &vector in &vectors[..waiting] {
            // SAFETY: as above.
            unsafe { self.sum::<S, K, 1>(simd, &weights, bias, &[vector]) };
        }
    }

    /// Sums `V` vectors of pixels and writes them.
    ///
    /// # Safety
    /// The copy has what the taps read, the target the pixels.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const K: usize, const V: usize>(
        &self,
        simd: S,
        weights: &[[T; K]; K],
        bias: T,
        vectors: &[Pixels<T>; V],
    ) {
        let mut sums = [simd.splat(T::default()); V];
        let mut copies = [vectors[0].copy; V];
        for (copy, vector) in copies.iter_mut().zip(vectors) {
            *copy = vector.copy;
        }
        for (row_tap, weights) in weights.iter().enumerate() {
            for (column_tap, &weight) in weights.iter().enumerate() {
                let start = self.band.start(row_tap, column_tap);
                let weight = simd.splat(weight);
                let mut pixels = [weight; V];
                for (pixels, copy) in pixels.iter_mut().zip(copies) {
                    // SAFETY: the caller answers for the copy.
                    *pixels = unsafe { simd.load(copy.add(start)) };
                }
                for (sum, pixels) in sums.iter_mut().zip(pixels) {
                    *sum = simd.mul_add(pixels, weight, *sum);
                }
            }
        }
        for (sum, vector) in sums.into_iter().zip(vectors) {
            // SAFETY: the caller answers for the target.
            unsafe { self.finish_row(simd, sum, bias, vector.count, vector.target) };
        }
    }

    /// Writes the sums of `count` pixels of a row.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn finish_row<S: Lanes<T>>(
        &self,
        simd: S,
        sum: S::Vector,
        bias: T,
        count: usize,
        target: *mut T,
    ) {
        let pass = &self.pass;
        let mut value = simd.mul(simd.splat(pass.alpha), sum);
        // SAFETY: the caller answers for the target.
        unsafe {
            if pass.beta != T::default() {
                let old = simd.load_first(count, target);
                value = simd.mul_add(simd.splat(pass.beta), old, value);
            }
            if !pass.bias.is_null() {
                value = simd.add(value, simd.splat(bias));
            }
            if pass.relu {
                value = simd.relu(value);
            }
            match count == S::LANES {
                true => simd.store(target, value),
                false => simd.store_first(count, target, value),
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
            if stride == 2 && vector.column + S::LANES < pass.grid_width {
                // What lies between belongs to this task too, and to another phase: it is kept.
                let old = [simd.load(target), simd.load(target.add(S::LANES))];
                let [_, between] = simd.deinterleave(old[0], old[1]);
                let [low, high] = simd.interleave(value, between);
                simd.store(target, low);
                simd.store(target.add(S::LANES), high);
            } else if stride > 1 {
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

/// Some neighbouring pixels, at most a vector: where the copy has them for the first tap of all, and
/// where they go.
#[derive(Clone, Copy)]
struct Pixels<T> {
    copy: *const T,
    target: *mut T,
    count: usize,
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
