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
mod gathering;
mod plan;
mod source;
mod taps;
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
use plan::Plan;
use transforms::outputs_of;

/// Whether the transforms are made for the windows: 3 x 3 or 5 x 5, without stride and dilation.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let dense = |axis: &Axis| axis.stride == 1 && axis.dilation == 1;
    let square = shape.height.kernel == shape.width.kernel;
    square && matches!(shape.height.kernel, 3 | 5) && dense(&shape.height) && dense(&shape.width)
}

/// With fewer channels on either side a tile of the products has little to do.
const FEWEST_CHANNELS: usize = 16;

/// What takes time, in the products of a direct convolution that take as long. For one group.
struct Costs {
    /// The regions that threads are called for.
    call: f64,
    /// The 36 products of a tile and a filter.
    products: f64,
    /// The transforms of a tile for each term and for each output.
    tile_term: f64,
    tile_output: f64,
    /// A filter's transform: it is written and read again, in a cache or in memory.
    filter: f64,
    /// What a direct convolution takes for each tap of a filter beside its products.
    direct_tap: f64,
}

impl Costs {
    fn new(pass: Pass, filters: usize) -> Costs {
        let gathering = |filter| Costs {
            call: 25_000.0,
            products: 36.0,
            tile_term: 1050.0,
            tile_output: 390.0,
            filter,
            direct_tap: 71.0,
        };
        match pass {
            Pass::Forward => gathering(840.0),
            // They lie across, which direct convolutions of many filters wait for as well.
            Pass::BackwardData if filters < 65_536 => gathering(1000.0),
            Pass::BackwardData => gathering(918.0),
            // Sums over tiles, short ones, that are added to what there is.
            Pass::BackwardWeights => Costs {
                call: 10_000.0,
                products: 52.0,
                tile_term: 100.0,
                tile_output: 470.0,
                filter: if filters < 65_536 { 660.0 } else { 850.0 },
                direct_tap: 19.0,
            },
        }
    }
}

/// Whether it is faster than a direct convolution, on any instruction set; where it is close, direct is taken.
/// For y and dx of one image, never of the batch, so that an image's bits do not depend on it. Measured for 16
/// to 512 channels and extents of 5 to 56; `cargo bench --bench choice` holds it against a sample.
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
    let costs = Costs::new(pass, terms.saturating_mul(outputs));
    let images = if pass == Pass::BackwardWeights { shape.batch as f64 } else { 1.0 };
    let extent = outputs_of(shape.height.kernel);
    let tiles = images * height.div_ceil(extent) as f64 * width.div_ceil(extent) as f64;
    let pixels = images * height as f64 * width as f64;
    let (terms, outputs) = (terms as f64, outputs as f64);
    let filters = terms * outputs;
    let of_tile = costs.products * filters + costs.tile_term * terms + costs.tile_output * outputs;
    let direct = shape.window() as f64 * (pixels + costs.direct_tap) * filters;
    costs.call + costs.filter * filters + tiles * of_tile < direct
}

pub(super) fn scratch_len<T: Element>(level: Level, pass: &Gather<T>) -> ScratchLen {
    Plan::new(pass, TileShape::of::<T>(level)).scratch_len()
}

/// Runs a gathering pass of windows that fit.
pub(super) fn gather<T: Element>(context: &Context, pass: &Gather<T>) -> Result<()> {
    match pass.rows.count {
        3 => gathering::run::<T, 4, 3>(context, pass),
        _ => gathering::run::<T, 2, 5>(context, pass),
    }
}
