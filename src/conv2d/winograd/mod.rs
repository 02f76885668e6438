//! Winograd's minimal filtering F(4x4, 3x3) and F(2x2, 5x5): 36 products for what a direct convolution
//! needs 144, or 100, for.
//!
//! Tiles of 6 x 6 inputs and the filters are transformed to their values at 36 points; at each point, tiles
//! times filters is a matrix product over the channels; a second transform makes 4 x 4, or 2 x 2, outputs of
//! the products (Lavin and Gray, 2016, algorithm 1). dw is F(3x3, 4x4) or F(5x5, 2x2), products over the
//! tiles. Channels are in the lanes whatever the layout.
//!
//! Work is cut by the shape alone, and a tile's products do not depend on the tiles beside it: an image has
//! the bits that it has alone, on any number of threads.

mod filters;
mod plan;
mod source;
mod target;
mod tiles;
mod transforms;
pub(super) mod weights;

use super::choice::Pass;
use super::gather::Gather;
use crate::context::Context;
use crate::error::Result;
use crate::gemm::pack::TileShape;
use crate::scratch::ScratchLen;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Level};
use filters::TransformFilters;
use plan::{BLOCK_OUTPUTS, FILTER_TERMS, Plan};
use source::{CHUNK, Images, TransformTiles};
use target::MultiplyBlock;
use transforms::{POINTS, outputs_of};

/// Whether the transforms are made for the windows: 3 x 3 or 5 x 5, without stride and dilation.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let dense = |axis: &Axis| axis.stride == 1 && axis.dilation == 1;
    let square = shape.height.kernel == shape.width.kernel;
    square && matches!(shape.height.kernel, 3 | 5) && dense(&shape.height) && dense(&shape.width)
}

/// With fewer channels on either side a tile of the products has little to do.
const FEWEST_CHANNELS: usize = 16;

/// What the filters, the tiles and the products take beside their work: each is a parallel region.
const THREE_REGIONS: f64 = 25_000.0;

/// Whether it is faster than a direct convolution, in processor cycles of AVX2 for one group; where it is
/// close, direct is taken. For y and dx of one image, never of the batch, so that an image's bits do not
/// depend on it. Measured for 16 to 512 channels and extents of 5 to 56; `cargo bench --bench choice`
/// holds it against a sample.
pub(super) fn pays(shape: &ConvShape, pass: Pass) -> bool {
    let forward = [shape.group_in, shape.group_out, shape.out_height, shape.out_width];
    let [terms, outputs, height, width] = match pass {
        Pass::Forward | Pass::BackwardWeights => forward,
        Pass::BackwardData => {
            [shape.group_out, shape.group_in, shape.height.input, shape.width.input]
        }
    };
    // With many terms and few outputs, there are few products for what is transformed.
    let few_products = terms.div_ceil(8) > outputs;
    if !fits(shape) || terms.min(outputs) < FEWEST_CHANNELS || few_products {
        return false;
    }
    let images = if pass == Pass::BackwardWeights { shape.batch as f64 } else { 1.0 };
    let extent = outputs_of(shape.height.kernel);
    let tiles = images * height.div_ceil(extent) as f64 * width.div_ceil(extent) as f64;
    let pixels = images * height as f64 * width as f64;
    let (terms, outputs) = (terms as f64, outputs as f64);
    let filters = terms * outputs;
    // A filter's points are written and read again, in a cache or in memory. The filters of dx lie
    // across; those of dw are sums that are added to.
    let of_filter = match (pass, filters) {
        (Pass::Forward, ..16_384.0) => 30.0,
        (Pass::Forward, ..65_536.0) => 40.0,
        (Pass::BackwardWeights, ..65_536.0) => 75.0,
        (Pass::BackwardData, ..65_536.0) => 90.0,
        (Pass::Forward, ..131_072.0) => 50.0,
        (_, ..131_072.0) => 90.0,
        (Pass::Forward, _) => 90.0,
        (Pass::BackwardData, _) => 130.0,
        (Pass::BackwardWeights, _) => 150.0,
    };
    // Each product of dw is a short sum over tiles, added to what there is.
    let of_product = if pass == Pass::BackwardWeights { 9.5 } else { 3.0 };
    let products = of_product * tiles * filters;
    let transforms = 25.0 * tiles * terms + 40.0 * tiles * outputs + of_filter * filters;
    let direct = shape.window() as f64 * pixels * filters / 16.0 / 0.5;
    THREE_REGIONS + products + transforms < 0.9 * direct
}

pub(super) fn scratch_len<T: Element>(level: Level, pass: &Gather<T>) -> ScratchLen {
    Plan::new(pass, TileShape::of::<T>(level)).scratch_len()
}

/// Runs a gathering pass of windows that fit.
pub(super) fn gather<T: Element>(context: &Context, pass: &Gather<T>) -> Result<()> {
    match pass.rows.count {
        3 => gather_tiles::<T, 4, 3>(context, pass),
        _ => gather_tiles::<T, 2, 5>(context, pass),
    }
}

fn gather_tiles<T: Element, const OUTPUTS: usize, const TAPS: usize>(
    context: &Context,
    pass: &Gather<T>,
) -> Result<()> {
    let level = context.level();
    let plan = Plan::new(pass, TileShape::of::<T>(level));
    let scratch = context.scratch::<T>(plan.scratch_len())?;
    let panels = plan.panels();
    let source_start = plan.filters();
    let term_blocks = pass.terms.div_ceil(FILTER_TERMS);
    let chunks = pass.terms.div_ceil(CHUNK);
    let (tiles, images, strides) = (&plan.tiles, Images::source_of(pass), pass.filter_strides);
    for group in 0..pass.groups {
        context.run(panels * term_blocks, &|slot, task| {
            // In the order in which they lie in memory.
            let (panel, block) = match strides.output < strides.term {
                true => (task % panels, task / panels),
                false => (task / term_blocks, task % term_blocks),
            };
            let transform = TransformFilters::<T, TAPS> {
                pass,
                plan: &plan,
                group,
                panel,
                term: block * FILTER_TERMS,
                unpacked: scratch.slot(slot),
                target: scratch.shared(),
            };
            T::dispatch(level, transform);
        });
        for first in (0..tiles.segments).step_by(plan.segments_together) {
            let segments = plan.segments_together.min(tiles.segments - first);
            let first_tile = tiles.first_tile(first);
            let transformed = |segment: usize| {
                let tile = tiles.first_tile(segment) - first_tile;
                scratch.shared().wrapping_add(source_start + tile * plan.term_stride())
            };
            context.run(segments * chunks, &|slot, task| {
                let number = first + task / chunks;
                let term = task % chunks * CHUNK;
                let transform = TransformTiles::<T, POINTS> {
                    images: &images,
                    tiles,
                    segment: tiles.segment(number),
                    group_first: group * pass.terms,
                    channels: (term, CHUNK.min(pass.terms - term)),
                    strip: scratch.slot(slot),
                    target: transformed(number),
                    tile_stride: plan.term_stride(),
                    plane: plan.source_plane(),
                    channel_sums: std::ptr::null_mut(),
                };
                T::dispatch(level, transform);
            });
            let blocks = segments.div_ceil(plan.block_segments);
            context.run(blocks * plan.output_blocks(), &|slot, task| {
                // One block of filters after another, so that each is read from memory once.
                let (block, output) = (task % blocks, task / blocks * BLOCK_OUTPUTS);
                let start = first + block * plan.block_segments;
                let end = (first + segments).min(start + plan.block_segments);
                let products = scratch.slot(slot);
                let multiply = MultiplyBlock::<T, OUTPUTS> {
                    pass,
                    plan: &plan,
                    group,
                    segments: (start, end),
                    output,
                    source: transformed(start),
                    filters: scratch.shared(),
                    products,
                    strip: products.wrapping_add(plan.products()),
                };
                T::dispatch(level, multiply);
            });
        }
    }
    Ok(())
}
