//! The register tile with pixels in the lanes: some outputs times vectors of pixels, over all terms
//! and taps of a band.

use super::band::Band;
use super::even_parts;
use super::pixel_lanes::Place;
use crate::conv2d::gather::Gather;
use crate::gemm::blocking::DEPTH_BLOCK;
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
        // As many sums as registers hold: twelve or 24, or what hides the additions' latency.
        match (count, S::REGISTERS >= 32) {
            (1, _) => simd.call(Tiles::<_, 1, 8>(outputs)),
            (2, false) => simd.call(Tiles::<_, 2, 6>(outputs)),
            (3, false) => simd.call(Tiles::<_, 3, 4>(outputs)),
            (4, false) => simd.call(Tiles::<_, 4, 3>(outputs)),
            (5, false) => simd.call(Tiles::<_, 5, 2>(outputs)),
            (_, false) => simd.call(Tiles::<_, OUTPUTS, 2>(outputs)),
            (2, true) => simd.call(Tiles::<_, 2, 12>(outputs)),
            (3, true) => simd.call(Tiles::<_, 3, 8>(outputs)),
            (4, true) => simd.call(Tiles::<_, 4, 6>(outputs)),
            (5, true) => simd.call(Tiles::<_, 5, 4>(outputs)),
            (_, true) => simd.call(Tiles::<_, OUTPUTS, 4>(outputs)),
        }
    }
}

/// `N` outputs of a band, by `V` vectors at a time. (Kernels of their own: together they take long to compile.)
struct Tiles<'a, T, const N: usize, const V: usize>(Outputs<'a, T>);

impl<T: Element, const N: usize, const V: usize> Kernel<T> for Tiles<'_, T, N, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: whoever makes one answers for the target.
        unsafe { self.0.run::<S, N, V>(simd) };
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
    unsafe fn run<S: Lanes<T>, const N: usize, const V: usize>(&self, simd: S) {
        let width = self.pass.grid_width;
        let count = self.place.rows * width.div_ceil(S::LANES);
        let (mut row, mut column) = (0, 0);
        for first in (0..count).step_by(V) {
            let mut vectors = [Vector { row, column }; V];
            let mut pixels = [self.copies; V];
            let real = V.min(count - first);
            // Where there are no more vectors, the last one is summed again.
            for number in 0..real {
                vectors[number] = Vector { row, column };
                let start = row * self.band.rows.step * self.band.row_len() + column;
                for pixels in &mut pixels[number..] {
                    *pixels = self.copies.wrapping_add(start);
                }
                column += S::LANES;
                if column >= width {
                    (row, column) = (row + 1, 0);
                }
            }
            self.prefetch::<S, N, V>(simd, vectors[real - 1]);
            // SAFETY: the copies have what whole vectors of outputs read; the caller answers for the
            // target.
            unsafe {
                let mut sums = [[simd.splat(T::default()); V]; N];
                let block_terms = self.products.block_terms;
                let mut filters = self.filters;
                for term in (0..self.pass.terms).step_by(block_terms) {
                    let terms = block_terms.min(self.pass.terms - term);
                    let starts = &self.products.starts[..terms * self.products.taps];
                    let block = self.sum::<S, N, V>(simd, starts, filters, pixels);
                    for (sums, block) in sums.iter_mut().zip(&block) {
                        for (sum, &block) in sums.iter_mut().zip(block) {
                            *sum = simd.add(*sum, block);
                        }
                    }
                    filters = filters.add(starts.len() * N);
                    for pixels in &mut pixels {
                        *pixels = pixels.wrapping_add(terms * self.band.len());
                    }
                }
                for (n, sums) in sums.iter().enumerate() {
                    for (&sum, &vector) in sums.iter().zip(&vectors[..real]) {
                        self.finish(simd, self.output + n, vector, sum);
                    }
                }
            }
        }
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

    /// The sums of one block of terms.
    ///
    /// # Safety
    /// There is a vector at each of the pixels plus each of the starts, and `N` weights for each.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const N: usize, const V: usize>(
        &self,
        simd: S,
        starts: &[u32],
        mut filters: *const T,
        pixels: [*const T; V],
    ) -> [[S::Vector; V]; N] {
        let mut sums = [[simd.splat(T::default()); V]; N];
        for &start in starts {
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
        sums
    }

    /// Writes a vector of an output.
    ///
    /// # Safety
    /// The target has the vector, and nobody else uses it.
    #[inline(always)]
    unsafe fn finish<S: Lanes<T>>(&self, simd: S, output: usize, vector: Vector, sum: S::Vector) {
        let (pass, place) = (&self.pass, self.place);
        // SAFETY: the caller answers for the target; the biases have the output.
        unsafe {
            let count = S::LANES.min(pass.grid_width - vector.column);
            let channel = place.group * pass.outputs + output;
            let [_, of_channel, _, stride] = pass.target_strides;
            let target = self.target(output, vector);
            let old = match pass.adds() {
                true => simd.gather_where(simd.mask_between(0, count), target, stride as isize),
                false => sum,
            };
            let bias = if pass.bias.is_null() { T::default() } else { *pass.bias.add(channel) };
            let value = pass.result(simd, sum, old, simd.splat(bias));
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
            } else if count == S::LANES {
                simd.store(target, value);
            } else {
                simd.store_first(count, target, value);
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
