//! The register tile with pixels in the lanes: some outputs times vectors of pixels, over all terms
//! and taps of a band.

use super::band::Band;
use super::even_parts;
use super::pixel_lanes::Place;
use crate::conv2d::gather::Gather;
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::runs::{self, Transpose};
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, TILE_LANES};

/// The most outputs that share a load of pixels.
const OUTPUTS: usize = 6;

/// The pixels that the terms and taps of a block read, in the order of the packed filters: where they
/// lie in the copies, from the block's first term on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Products {
    /// Terms of a block: its products are summed in registers, and then added to those before.
    pub block_terms: usize,
    pub taps: usize,
    pub starts: [u32; DEPTH_BLOCK],
}

impl Products {
    pub fn none() -> Self {
        Products { block_terms: 1, taps: 0, starts: [0; DEPTH_BLOCK] }
    }

    pub fn new<T>(pass: &Gather<T>, band: &Band) -> Self {
        let (rows, columns) = (&pass.rows, &pass.columns);
        let taps = rows.count * columns.count;
        let blocks = pass.terms.div_ceil(DEPTH_BLOCK / taps.max(1));
        let mut products =
            Products { block_terms: pass.terms.div_ceil(blocks), taps, ..Products::none() };
        let mut starts = products.starts.iter_mut();
        for term in 0..products.block_terms {
            for row_tap in 0..rows.count {
                for column_tap in 0..columns.count {
                    let start = band.start((rows, row_tap), (columns, column_tap));
                    let next = starts.next().expect("a block's products");
                    *next = u32::try_from(term * band.len() + start).expect("a small copy");
                }
            }
        }
        products
    }
}

/// Elements of one group's packed filters.
pub(super) fn filters_len<T>(pass: &Gather<T>) -> usize {
    pass.outputs * pass.terms * pass.rows.count * pass.columns.count
}

/// Packs the filters of all groups: tiles of outputs, in a tile terms, in a term taps, of each the
/// outputs.
///
/// # Safety
/// `target` has `filters_len` elements for each group.
pub(super) unsafe fn pack<T: Element>(pass: &Gather<T>, target: *mut T) {
    let strides = pass.filter_strides;
    let mut target = target;
    for group in 0..pass.groups {
        for (first, count) in even_parts(pass.outputs, OUTPUTS) {
            for term in 0..pass.terms {
                for row_tap in 0..pass.rows.count {
                    for column_tap in 0..pass.columns.count {
                        let place = group * strides.group
                            + term * strides.term
                            + row_tap * strides.row_tap
                            + column_tap * strides.column_tap;
                        for output in first..first + count {
                            // SAFETY: the filters have the weight, the caller answers for the target.
                            unsafe {
                                *target = *pass.filters.add(place + output * strides.output);
                                target = target.add(1);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Computes a band of a pass.
///
/// # Safety
/// The target has the place, and nobody else uses it; the filters are packed, the band is copied.
#[inline(always)]
pub(super) unsafe fn gather<T: Element, S: Lanes<T>>(
    simd: S,
    pass: Gather<T>,
    band: &Band,
    products: &Products,
    place: Place,
    filters: *const T,
    copies: *const T,
) {
    let depth = pass.terms * products.taps;
    for (output, count) in even_parts(pass.outputs, OUTPUTS) {
        // SAFETY: the packed filters have the group's outputs.
        let filters = unsafe { filters.add((place.group * pass.outputs + output) * depth) };
        let outputs = Outputs { pass, band, products, place, output, filters, copies };
        // As many sums as registers hold: twelve or 24, or what hides the additions' latency. Vectors of few rows
        // skip more taps.
        match (count, S::REGISTERS >= 32) {
            (1, _) => outputs.call::<S, 1, 8, 8>(simd),
            (2, false) => outputs.call::<S, 2, 6, 6>(simd),
            (3, false) => outputs.call::<S, 3, 4, 4>(simd),
            (4, false) => outputs.call::<S, 4, 3, 3>(simd),
            (5, false) => outputs.call::<S, 5, 2, 2>(simd),
            (_, false) => outputs.call::<S, OUTPUTS, 2, 2>(simd),
            (2, true) => outputs.call::<S, 2, 12, 6>(simd),
            (3, true) => outputs.call::<S, 3, 8, 4>(simd),
            (4, true) => outputs.call::<S, 4, 6, 3>(simd),
            (5, true) => outputs.call::<S, 5, 4, 2>(simd),
            (_, true) => outputs.call::<S, OUTPUTS, 4, 2>(simd),
        }
    }
}

/// `N` outputs of a band, by `V` vectors at a time; `SKIPS` where taps that read padding alone are looked for. (Kernels of
/// their own: together they take long to compile.)
struct Tiles<'a, T, const N: usize, const V: usize, const SKIPS: bool>(Outputs<'a, T>);

impl<T: Element, const N: usize, const V: usize, const SKIPS: bool> Kernel<T>
    for Tiles<'_, T, N, V, SKIPS>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: whoever makes one answers for the target.
        unsafe { self.0.run::<S, N, V, SKIPS>(simd) };
    }
}

/// Some outputs of a band.
struct Outputs<'a, T> {
    pass: Gather<T>,
    band: &'a Band,
    products: &'a Products,
    place: Place,
    /// The first one.
    output: usize,
    /// Theirs.
    filters: *const T,
    copies: *const T,
}

impl<T: Element> Outputs<'_, T> {
    /// `N` outputs, `V` vectors at a time.
    ///
    /// # Safety
    /// The target has the outputs, and nobody else uses them.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>, const N: usize, const V: usize, const SKIPS: bool>(&self, simd: S) {
        let width = self.pass.grid_width;
        let count = self.place.rows * width.div_ceil(S::LANES);
        let (mut row, mut column) = (0, 0);
        for first in (0..count).step_by(V) {
            let mut vectors = [Vector { row, column }; V];
            let mut last = vectors[0];
            let mut pixels = [self.copies; V];
            let real = V.min(count - first);
            // Where there are no more vectors, the last one is summed again.
            for number in 0..real {
                last = Vector { row, column };
                vectors[number] = last;
                let start = row * self.band.rows.step * self.band.row_len() + column;
                for pixels in &mut pixels[number..] {
                    *pixels = self.copies.wrapping_add(start);
                }
                column += S::LANES;
                if column >= width {
                    (row, column) = (row + 1, 0);
                }
            }
            self.prefetch::<S, N, V>(simd, last);
            let taps = match SKIPS {
                true => self.taps_inside([vectors[0].row, last.row]),
                false => (0, self.products.taps),
            };
            // SAFETY: the copies have what whole vectors of outputs read; the caller answers for the
            // target.
            unsafe {
                let block_terms = self.products.block_terms;
                let mut filters = self.filters;
                let mut sums = [[simd.splat(T::default()); V]; N];
                for term in (0..self.pass.terms).step_by(block_terms) {
                    let terms = block_terms.min(self.pass.terms - term);
                    let starts = &self.products.starts[..terms * self.products.taps];
                    let block = self.sum::<S, N, V, SKIPS>(simd, starts, taps, filters, pixels);
                    if term == 0 {
                        sums = block;
                    } else {
                        for (sums, block) in sums.iter_mut().zip(&block) {
                            for (sum, &block) in sums.iter_mut().zip(block) {
                                *sum = simd.add(*sum, block);
                            }
                        }
                    }
                    filters = filters.add(starts.len() * N);
                    for pixels in &mut pixels {
                        *pixels = pixels.wrapping_add(terms * self.band.len());
                    }
                }
                let [_, of_channel, _, stride] = self.pass.target_strides;
                let adds = self.pass.adds();
                if !adds && of_channel == 1 && N > 1 {
                    self.write_pixels(simd, &sums, &vectors[..real]);
                    continue;
                }
                let is_plain = !adds && stride == 1;
                for (n, &sums) in sums.iter().enumerate() {
                    let output = self.output + n;
                    if !is_plain {
                        for (&sum, &vector) in sums.iter().zip(&vectors[..real]) {
                            self.finish(simd, output, vector, sum);
                        }
                        continue;
                    }
                    let values = self.pass.results(simd, sums, sums, self.bias(simd, output));
                    for (&value, &vector) in values.iter().zip(&vectors[..real]) {
                        let count = S::LANES.min(width - vector.column);
                        runs::store(simd, count, self.target(output, vector), value);
                    }
                }
            }
        }
    }

    /// Runs `N` outputs, `V` vectors at a time, or `FEW` where taps that read padding alone are looked for: that is worth
    /// it where they are many. But x's padding counts, as zeros that meet weights.
    #[inline(always)]
    fn call<S: Lanes<T>, const N: usize, const V: usize, const FEW: usize>(self, simd: S) {
        let (rows, count) = (&self.pass.rows, self.pass.grid_height);
        let inside = |tap: usize| {
            let (first, end) = rows.positions(tap, count);
            end - first
        };
        let needed: usize = (0..rows.count).map(inside).sum();
        match rows.offset_step < 0 && needed * 8 < rows.count * count * 7 {
            true => simd.call(Tiles::<_, N, FEW, true>(self)),
            false => simd.call(Tiles::<_, N, V, false>(self)),
        }
    }

    /// The taps of a term that do not read padding alone for rows of the band from a first to a last one.
    #[inline(always)]
    fn taps_inside(&self, ends: [usize; 2]) -> (usize, usize) {
        let Gather { rows, columns, .. } = &self.pass;
        let [first, last] = ends.map(|row| rows.inside(self.place.row + row));
        (first.0.min(last.0) * columns.count, first.1.max(last.1) * columns.count)
    }

    /// Asks for the lines that the tile after next writes, where an output's pixels lie side by side, as far
    /// behind this one's last vector: its stores would wait for them.
    #[inline(always)]
    fn prefetch<S: Lanes<T>, const N: usize, const V: usize>(&self, simd: S, last: Vector) {
        if self.pass.target_strides[3] != 1 {
            return;
        }
        for n in 0..N {
            let target = self.target(self.output + n, last).wrapping_add(V * S::LANES);
            for place in (S::LANES..=V * S::LANES).rev().step_by(CACHE_LINE / size_of::<T>()) {
                simd.prefetch(target.wrapping_add(place + S::LANES - 1));
            }
        }
    }

    /// Where a vector of an output goes.
    #[inline(always)]
    fn target(&self, output: usize, vector: Vector) -> *mut T {
        let (pass, place) = (&self.pass, self.place);
        let channel = place.group * pass.outputs + output;
        let [of_image, of_channel, of_row, stride] = pass.target_strides;
        pass.target.wrapping_add(
            place.image * of_image
                + channel * of_channel
                + (place.row + vector.row) * of_row
                + vector.column * stride,
        )
    }

    /// The sums of one block of terms, over the taps of each from a first one on.
    ///
    /// # Safety
    /// There is a vector at each of the pixels plus each of the starts, and `N` weights for each.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const N: usize, const V: usize, const SKIPS: bool>(
        &self,
        simd: S,
        starts: &[u32],
        (first, end): (usize, usize),
        filters: *const T,
        pixels: [*const T; V],
    ) -> [[S::Vector; V]; N] {
        let mut sums = [[simd.splat(T::default()); V]; N];
        let taps = self.products.taps;
        // Of each term, where some taps are skipped.
        let (run, apart) = match SKIPS {
            true => (end.saturating_sub(first), taps),
            false => (starts.len(), starts.len()),
        };
        let mut begin = 0;
        loop {
            let mut filters = filters.wrapping_add((begin + first) * N);
            for &start in &starts[begin + first..][..run] {
                // SAFETY: the caller answers for the pixels and the weights.
                unsafe {
                    if V > N {
                        // The smaller side stays in registers: the others pass by.
                        let mut weights = [simd.splat(T::default()); N];
                        for (n, weight) in weights.iter_mut().enumerate() {
                            *weight = simd.splat(*filters.add(n));
                        }
                        for (v, &pixels) in pixels.iter().enumerate() {
                            let lanes = simd.load(pixels.add(start as usize));
                            for (sums, &weight) in sums.iter_mut().zip(&weights) {
                                sums[v] = simd.mul_add(lanes, weight, sums[v]);
                            }
                        }
                    } else {
                        let mut lanes = [simd.splat(T::default()); V];
                        for (lanes, &pixels) in lanes.iter_mut().zip(&pixels) {
                            *lanes = simd.load(pixels.add(start as usize));
                        }
                        for (n, sums) in sums.iter_mut().enumerate() {
                            let weight = simd.splat(*filters.add(n));
                            for (sum, &lanes) in sums.iter_mut().zip(&lanes) {
                                *sum = simd.mul_add(lanes, weight, *sum);
                            }
                        }
                    }
                    filters = filters.add(N);
                }
            }
            begin += apart;
            if !SKIPS || begin >= starts.len() {
                return sums;
            }
        }
    }

    /// An output's bias, 0 for none.
    #[inline(always)]
    fn bias<S: Lanes<T>>(&self, simd: S, output: usize) -> S::Vector {
        let channel = self.place.group * self.pass.outputs + output;
        match self.pass.bias.is_null() {
            true => simd.splat(T::default()),
            // SAFETY: the biases have the output.
            false => simd.splat(unsafe { *self.pass.bias.add(channel) }),
        }
    }

    /// Writes vectors of pixels whose outputs lie side by side: NHWC.
    ///
    /// # Safety
    /// The target has the vectors, and nobody else uses them.
    #[inline(always)]
    unsafe fn write_pixels<S: Lanes<T>, const N: usize, const V: usize>(
        &self,
        simd: S,
        sums: &[[S::Vector; V]; N],
        vectors: &[Vector],
    ) {
        let mut values = [T::default(); OUTPUTS * TILE_LANES];
        for (v, &vector) in vectors.iter().enumerate() {
            for (n, sums) in sums.iter().enumerate() {
                let bias = self.bias(simd, self.output + n);
                let value = self.pass.result(simd, sums[v], sums[v], bias);
                // SAFETY: a tile has no more outputs.
                unsafe { simd.store(values.as_mut_ptr().add(n * S::LANES), value) };
            }
            // The caller answers for the target.
            simd.call(Transpose {
                extents: [N, S::LANES.min(self.pass.grid_width - vector.column)],
                source: values.as_ptr(),
                source_stride: S::LANES,
                target: self.target(self.output, vector),
                target_stride: self.pass.target_strides[3],
            });
        }
    }

    /// Writes a vector of an output.
    ///
    /// # Safety
    /// The target has the vector, and nobody else uses it.
    #[inline(always)]
    unsafe fn finish<S: Lanes<T>>(&self, simd: S, output: usize, vector: Vector, sum: S::Vector) {
        let pass = &self.pass;
        // SAFETY: the caller answers for the target.
        unsafe {
            let count = S::LANES.min(pass.grid_width - vector.column);
            let [_, of_channel, _, stride] = pass.target_strides;
            let target = self.target(output, vector);
            let old = match pass.adds() {
                true => simd.gather_where(simd.mask_between(0, count), target, stride as isize),
                false => sum,
            };
            let value = pass.result(simd, sum, old, self.bias(simd, output));
            if stride == 2 && of_channel > 1 && vector.column + S::LANES < pass.grid_width {
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
            } else {
                runs::store(simd, count, target, value);
            }
        }
    }
}

/// Where a vector's first pixel is in the band.
#[derive(Debug, Clone, Copy)]
struct Vector {
    row: usize,
    column: usize,
}
