//! Products at the points, and what becomes of them in the target.

use std::ops::Range;

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
                // SAFETY: the products have the segment's tiles and these channels, the strip has
                // OUTPUTS rows of vectors.
                unsafe {
                    for tile in 0..segment.tiles {
                        let place = products + tile * plan.block_outputs + column;
                        let source = self.products.add(place);
                        let target = self.strip.add(tile * OUTPUTS * S::LANES);
                        let of_row = plan.target_strip_columns() * S::LANES;
                        transform::<T, S, OUTPUTS>(
                            simd,
                            source,
                            plan.product_plane(),
                            target,
                            of_row,
                        );
                    }
                    let count = S::LANES.min(outputs - column);
                    self.write(simd, &segment, output + column, count);
                }
            }
        }
    }
}

impl<T: Element, const OUTPUTS: usize> WriteBlock<'_, T, OUTPUTS> {
    /// Writes the strip's pixels of `count` target channels from `output` on.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them; the strip holds the segment's rows.
    #[inline(always)]
    unsafe fn write<S: Lanes<T>>(&self, simd: S, segment: &Segment, output: usize, count: usize) {
        let pass = self.pass;
        let [of_image, of_channel, of_row, of_column] = pass.target_strides;
        let channel = self.group * pass.outputs + output;
        let bias = match pass.bias.is_null() {
            true => pass.bias,
            false => pass.bias.wrapping_add(channel),
        };
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
                        let sums = [simd.load(strip.add(column * S::LANES))];
                        let place = (target.add(column * of_column), 0);
                        pass.write_vectors(simd, sums, bias, count, place);
                    }
                    continue;
                }
                for column in (0..columns).step_by(S::LANES) {
                    let pixels = S::LANES.min(columns - column);
                    let mut block = [T::default(); TILE_LANES * TILE_LANES];
                    let start = strip.add(column * S::LANES);
                    simd.transpose([S::LANES; 2], start, S::LANES, block.as_mut_ptr(), S::LANES);
                    for lane in 0..count {
                        let sum = simd.load(block.as_ptr().add(lane * S::LANES));
                        let target = target.add(lane * of_channel + column);
                        let mut old = sum;
                        if pass.adds() {
                            old = runs::load(simd, pixels, target);
                        }
                        let mut addend = simd.splat(T::default());
                        if !bias.is_null() {
                            addend = simd.splat(*bias.add(lane));
                        }
                        let value = pass.result(simd, sum, old, addend);
                        runs::store(simd, pixels, target, value);
                    }
                }
            }
        }
    }
}

/// Transforms the products of one tile for a vector of target channels.
///
/// # Safety
/// The source has POINTS * POINTS vectors, `of_point` apart; the target has OUTPUTS rows, `of_row` apart,
/// of OUTPUTS vectors side by side.
#[inline(always)]
unsafe fn transform<T: Element, S: Lanes<T>, const OUTPUTS: usize>(
    simd: S,
    source: *const T,
    of_point: usize,
    target: *mut T,
    of_row: usize,
) {
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
            let results = transforms::interpolate::<T, S, OUTPUTS>(simd, products);
            for (column, &result) in results.iter().enumerate() {
                simd.store(target.add(row * of_row + column * S::LANES), result);
            }
        }
    }
}
