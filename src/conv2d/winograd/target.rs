//! Products at the points, and what becomes of them in the target.

use std::ops::Range;
use std::ptr;

use super::plan::Plan;
use super::tiles::Segment;
use super::transforms::{self, POINTS};
use crate::conv2d::gather::Gather;
use crate::gemm::in_place::InPlaceProduct;
use crate::runs;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Multiplies some tiles with the filters of some target channels, and adds what some source channels
/// come to.
pub(super) struct MultiplyBlock<'a, T> {
    pub plan: &'a Plan,
    pub tiles: usize,
    /// First target channel of the group, and the number of them.
    pub outputs: (usize, usize),
    /// The source channels whose filters are kept.
    pub terms: Range<usize>,
    /// The transformed source of the first tile.
    pub source: *const T,
    /// The transformed filters that are kept.
    pub filters: *const T,
    pub products: *mut T,
}

impl<T: Element> Kernel<T> for MultiplyBlock<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let plan = self.plan;
        let (output, outputs) = self.outputs;
        let block_terms = plan.block_terms();
        for point in 0..POINTS * POINTS {
            for column in (0..outputs).step_by(plan.panel) {
                let (panel, of_point) = plan.filter_place((output + column) / plan.panel);
                let panel = self.filters.wrapping_add(panel + point * of_point);
                for term in self.terms.clone().step_by(block_terms) {
                    let product = InPlaceProduct {
                        m: self.tiles,
                        n: plan.panel,
                        k: block_terms.min(self.terms.end - term),
                        alpha: T::from_f64(1.0),
                        a: self.source.wrapping_add(point * plan.source_plane() + term),
                        a_strides: [plan.term_stride(), 1],
                        b: panel.wrapping_add((term - self.terms.start) * plan.panel),
                        ldb: plan.panel,
                        beta: if term == 0 { T::default() } else { T::from_f64(1.0) },
                        c: self.products.wrapping_add(point * plan.product_plane() + column),
                        ldc: plan.block_outputs,
                    };
                    product.run(simd);
                }
            }
        }
    }
}

/// Writes some target channels of some segments of their products.
pub(super) struct WriteBlock<'a, T, const OUTPUTS: usize> {
    pub pass: &'a Gather<T>,
    pub plan: &'a Plan,
    pub group: usize,
    pub segments: Range<usize>,
    /// First target channel of the group, and the number of them.
    pub outputs: (usize, usize),
    pub products: *const T,
    pub strip: *mut T,
}

impl<T: Element, const OUTPUTS: usize> Kernel<T> for WriteBlock<'_, T, OUTPUTS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let plan = self.plan;
        let (output, outputs) = self.outputs;
        let first_tile = plan.tiles.first_tile(self.segments.start);
        for number in self.segments.clone() {
            let segment = plan.tiles.segment(number);
            let products = (segment.first - first_tile) * plan.block_outputs;
            for column in (0..outputs).step_by(S::LANES) {
                let count = S::LANES.min(outputs - column);
                // SAFETY: the products have the segment's tiles and these channels, the strip has
                // OUTPUTS rows of vectors.
                unsafe {
                    let bias = self.bias(simd, output + column, count);
                    for tile in 0..segment.tiles {
                        let place = products + tile * plan.block_outputs + column;
                        let source = self.products.add(place);
                        let target = self.strip.add(tile * OUTPUTS * S::LANES);
                        let of_row = plan.target_strip_columns() * S::LANES;
                        self.transform(simd, source, bias, target, of_row);
                    }
                    self.write(simd, &segment, output + column, count);
                }
            }
        }
    }
}

impl<T: Element, const OUTPUTS: usize> WriteBlock<'_, T, OUTPUTS> {
    /// The biases of `count` target channels, or zeros.
    ///
    /// # Safety
    /// The group has these channels.
    #[inline(always)]
    unsafe fn bias<S: Lanes<T>>(&self, simd: S, output: usize, count: usize) -> S::Vector {
        let bias = self.pass.bias;
        if bias.is_null() {
            return simd.splat(T::default());
        }
        // SAFETY: as the caller answers for.
        unsafe { runs::load(simd, count, bias.add(self.group * self.pass.outputs + output)) }
    }

    /// Transforms the products of one tile for a vector of target channels: to sums where the target's values
    /// before count, else to results.
    ///
    /// # Safety
    /// The source has the tile's products at each point; the target has OUTPUTS rows, `of_row` apart, of OUTPUTS
    /// vectors side by side.
    #[inline(always)]
    unsafe fn transform<S: Lanes<T>>(
        &self,
        simd: S,
        source: *const T,
        bias: S::Vector,
        target: *mut T,
        of_row: usize,
    ) {
        let of_point = self.plan.product_plane();
        let mut rows = [[simd.splat(T::default()); POINTS]; OUTPUTS];
        // SAFETY: as the caller answers for.
        unsafe {
            for column in 0..POINTS {
                let mut products = [simd.splat(T::default()); POINTS];
                for (row, product) in products.iter_mut().enumerate() {
                    *product = simd.load(source.add((row * POINTS + column) * of_point));
                }
                let results = transforms::interpolate::<T, S, OUTPUTS>(simd, products);
                for (row, result) in rows.iter_mut().zip(results) {
                    row[column] = result;
                }
            }
            for (row, &products) in rows.iter().enumerate() {
                let mut results = transforms::interpolate::<T, S, OUTPUTS>(simd, products);
                if !self.pass.adds() {
                    results = self.pass.results(simd, results, results, bias);
                }
                for (column, &result) in results.iter().enumerate() {
                    simd.store(target.add(row * of_row + column * S::LANES), result);
                }
            }
        }
    }

    /// Writes the strip's pixels of `count` target channels from `output` on.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them; the strip holds the segment's rows.
    #[inline(always)]
    unsafe fn write<S: Lanes<T>>(&self, simd: S, segment: &Segment, output: usize, count: usize) {
        let pass = self.pass;
        let [of_image, of_channel, of_row, of_column] = pass.target_strides;
        let channel = self.group * pass.outputs + output;
        let rows = OUTPUTS.min(pass.grid_height - segment.row);
        let columns = (segment.tiles * OUTPUTS).min(pass.grid_width - segment.column);
        let first = segment.image * of_image
            + channel * of_channel
            + segment.row * of_row
            + segment.column * of_column;
        // SAFETY: as the caller answers for.
        unsafe {
            for row in 0..rows {
                let target = pass.target.add(first + row * of_row);
                let strip =
                    self.strip.add(row * self.plan.target_strip_columns() * S::LANES).cast_const();
                if of_channel == 1 {
                    for column in 0..columns {
                        let value = simd.load(strip.add(column * S::LANES));
                        self.write_vector(simd, value, count, target.add(column * of_column));
                    }
                    continue;
                }
                for column in (0..columns).step_by(S::LANES) {
                    let pixels = S::LANES.min(columns - column);
                    let (strip, target) = (strip.add(column * S::LANES), target.add(column));
                    if !pass.adds() {
                        let extents = [pixels, count];
                        simd.transpose(extents, strip, S::LANES, target, of_channel);
                        continue;
                    }
                    let mut block = [T::default(); TILE_LANES * TILE_LANES];
                    simd.transpose([S::LANES; 2], strip, S::LANES, block.as_mut_ptr(), S::LANES);
                    for lane in 0..count {
                        let sum = simd.load(block.as_ptr().add(lane * S::LANES));
                        self.write_vector(simd, sum, pixels, target.add(lane * of_channel));
                    }
                }
            }
        }
    }

    /// Writes the first `count` lanes of results, or adds sums to what there is. (There is no bias then.)
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn write_vector<S: Lanes<T>>(
        &self,
        simd: S,
        value: S::Vector,
        count: usize,
        target: *mut T,
    ) {
        // SAFETY: as the caller answers for.
        unsafe {
            if self.pass.adds() {
                self.pass.write_vectors(simd, [value], ptr::null(), count, (target, 0), false);
            } else {
                runs::store(simd, count, target, value);
            }
        }
    }
}
