//! The way in which a pass is computed, chosen by the shape alone: not by the threads, so that bits do
//! not depend on them, and for y and dx not by the batch either.

use std::ffi::CStr;

use super::{columns, direct, winograd};
use crate::error::{Error, Result};
use crate::shape::{Algorithm, ConvShape, Layout};

/// One of the three passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// y
    Forward,
    /// dx
    BackwardData,
    /// dw and db
    BackwardWeights,
}

/// How a pass is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Reference,
    Depthwise,
    Groups,
    Pixels,
    Channels,
    Product,
    Columns,
    Winograd,
}

impl Choice {
    pub fn algorithm(self) -> Algorithm {
        match self {
            Choice::Reference => Algorithm::Reference,
            Choice::Winograd => Algorithm::Winograd,
            _ => Algorithm::Gemm,
        }
    }

    /// In words.
    pub fn reason(self) -> &'static CStr {
        match self {
            Choice::Reference => c"plain loops with sums in double, as asked for",
            Choice::Depthwise => c"direct, a channel at a time: each group has one input channel",
            Choice::Groups => {
                c"direct, groups side by side in the vector lanes: each has few channels"
            }
            Choice::Pixels => {
                c"direct, pixels in the vector lanes: too few channels would fill them"
            }
            Choice::Channels => {
                c"direct, channels in the vector lanes: enough of them fill the lanes, and no patch \
                 is stored"
            }
            Choice::Product => {
                c"a matrix product on packed patches: they are single pixels, or too few channels would \
                 fill the lanes of a direct kernel"
            }
            Choice::Columns => {
                c"a matrix product that makes the cells of every window, added where the windows lie: too \
                 many phases, or too large windows, for kernels that gather"
            }
            Choice::Winograd => {
                c"Winograd's minimal filtering: the products that it saves outweigh its transforms"
            }
        }
    }
}

/// A pass with at most this many outputs per group has pixels in the lanes: a matrix product's tile
/// would have few rows, and packing its patches would take longer than multiplying them.
const FEW_OUTPUTS: usize = 16;
/// In NHWC so have those that would leave many lanes of a vector of channels empty.
const FEW_NHWC_OUTPUTS: usize = 7;
/// With at most this many terms and short sums, NCHW has pixels in the lanes whatever the number of
/// outputs: transposing sums of few products would take longer than the products.
const FEW_TERMS: usize = 4;
/// Outputs from which on channels fill the lanes well enough, and products of one output from which
/// on its tile is worth its transposition, which NHWC has no need of.
const MANY_OUTPUTS: usize = 16;
const MANY_PRODUCTS: usize = 24;
/// The same for dw. In NHWC fewer fill the lanes better than a matrix product would, which packs
/// patches.
const MANY_DW_OUTPUTS: usize = 8;
/// With so many input and output channels, and so many filters, the dw of single pixels is a matrix product
/// that is worth packing both sides.
const MANY_OF_BOTH: usize = 128;
const MANY_FILTERS: usize = 1 << 15;
/// So many outputs of single pixels with gaps between them are a matrix product in NCHW, whose direct
/// kernel packs them too. In NHWC it reads them as they lie, but all filters again for each row: those are
/// fewer than so many elements, which a second-level cache holds.
const MANY_STRIDED_OUTPUTS: usize = 64;
const MANY_STRIDED_FILTERS: usize = 1 << 19;

pub(super) fn choose(shape: &ConvShape, pass: Pass) -> Result<Choice> {
    match shape.algorithm {
        Algorithm::Gemm => {}
        Algorithm::Reference => return Ok(Choice::Reference),
        Algorithm::Auto if winograd::pays(shape, pass) => return Ok(Choice::Winograd),
        Algorithm::Auto => {}
        Algorithm::Winograd if !winograd::fits(shape) => {
            return Err(Error::Unsupported {
                message: "algorithm WINOGRAD is for windows of 3 x 3 or 5 x 5 with stride 1 and \
                          dilation 1"
                    .into(),
            });
        }
        Algorithm::Winograd => return Ok(Choice::Winograd),
    }
    // The gradients of one channel with many outputs are no planes of their own.
    let planes = pass == Pass::Forward || shape.group_out < MANY_OUTPUTS;
    if is_depthwise(shape) && (planes || shape.layout == Layout::Nhwc) {
        return Ok(Choice::Depthwise);
    }
    let of_group = match pass {
        Pass::BackwardData => [shape.group_in, shape.group_out],
        Pass::Forward | Pass::BackwardWeights => [shape.group_out, shape.group_in],
    };
    if direct::nhwc_groups_fit(shape, of_group) {
        return Ok(Choice::Groups);
    }
    Ok(match pass {
        Pass::BackwardWeights => choose_sums(shape),
        Pass::BackwardData if takes_columns(shape) => Choice::Columns,
        Pass::BackwardData | Pass::Forward => choose_gathering(shape, pass, of_group),
    })
}

/// For dw.
fn choose_sums(shape: &ConvShape) -> Choice {
    if direct::few_outputs_fit(shape) {
        return Choice::Pixels;
    }
    let many = shape.group_out >= MANY_DW_OUTPUTS || shape.layout == Layout::Nhwc;
    let filters = shape.group_out.saturating_mul(shape.group_in);
    let both_many = shape.group_out.min(shape.group_in) >= MANY_OF_BOTH && filters >= MANY_FILTERS;
    let matrix = shape.window() == 1 && both_many;
    if many && !matrix { Choice::Channels } else { Choice::Product }
}

/// dx with few channels is not gathered by more phases than those of a stride of 2, each of which reads all
/// of dy, and with so many terms for few results not by several; nor where so many times as many
/// products would be made as there are.
const MOST_PHASES: usize = 4;
const MANY_TERMS: usize = 96;
const MOST_WASTE: usize = 2;

/// Whether dx is added up from the cells of windows.
fn takes_columns(shape: &ConvShape) -> bool {
    let (outputs, terms) = (shape.group_in, shape.group_out);
    let few_terms = shape.layout == Layout::Nchw && terms <= FEW_TERMS;
    if !(outputs <= FEW_OUTPUTS || few_terms) || !columns::fits(shape) {
        return false;
    }
    let phases = shape.height.stride.saturating_mul(shape.width.stride);
    let most_phases = match outputs <= FEW_TERMS && terms >= MANY_TERMS {
        true => 1,
        false => MOST_PHASES,
    };
    let gathered = shape.height.input * shape.width.input;
    let multiplied = (shape.out_height * shape.out_width).saturating_mul(phases);
    let wasteful = gathered > multiplied.saturating_mul(MOST_WASTE);
    phases > most_phases || wasteful || !direct::pixel_lanes_fit(shape, terms)
}

/// For y and dx, of which each group has so many outputs, sums over so many terms and the taps.
fn choose_gathering(shape: &ConvShape, pass: Pass, [outputs, terms]: [usize; 2]) -> Choice {
    let nhwc = shape.layout == Layout::Nhwc;
    let dense = shape.height.stride == 1 && shape.width.stride == 1;
    // Single pixels side by side are a matrix already.
    let few = match nhwc {
        false => (outputs <= FEW_OUTPUTS || terms <= FEW_TERMS) && !(shape.window() == 1 && dense),
        true => outputs <= FEW_NHWC_OUTPUTS && shape.window() > 1,
    };
    let pixels = few && direct::pixel_lanes_fit(shape, terms);
    let fills_lanes = match nhwc {
        false => outputs >= MANY_OUTPUTS,
        true => !pixels,
    };
    // Pixels with gaps between them are packed, which many outputs are worth.
    let packing_pays = match nhwc {
        false => outputs >= MANY_STRIDED_OUTPUTS && shape.width.stride <= 2,
        true => outputs.saturating_mul(terms) >= MANY_STRIDED_FILTERS,
    };
    let matrix = shape.window() == 1 && (dense || pass == Pass::Forward && packing_pays);
    let worth_transposing = nhwc || terms.saturating_mul(shape.window()) >= MANY_PRODUCTS;
    if fills_lanes && worth_transposing && !matrix {
        Choice::Channels
    } else if pixels {
        Choice::Pixels
    } else {
        Choice::Product
    }
}

/// Whether depthwise kernels take all three passes: NHWC only with one output per group, since its
/// lanes are channels of both tensors.
fn is_depthwise(shape: &ConvShape) -> bool {
    let fits = match shape.layout {
        Layout::Nchw => direct::pixel_lanes_fit(shape, shape.group_out),
        Layout::Nhwc => shape.group_out == 1 && direct::nhwc_depthwise_fits(shape),
    };
    shape.group_in == 1 && fits
}
