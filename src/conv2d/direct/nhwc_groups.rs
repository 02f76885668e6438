//! How the channels of groups lie in the lanes of a vector, NHWC: those of as many groups as fill it, side by side.
//! The pixels' are spread over them, one term after the other.

use crate::gemm::blocking::DEPTH_BLOCK;
use crate::shape::{ConvShape, Layout};
use crate::simd::{Element, Lanes, TILE_LANES};

/// Target channels of a group at the most: more fill lanes alone.
const MOST_OUTPUTS: usize = TILE_LANES / 2;

/// Whether a pass of groups of so many target channels and terms, its source channels, is one of these; for dw these
/// are y's and x's.
pub(in crate::conv2d) fn fits(shape: &ConvShape, [outputs, terms]: [usize; 2]) -> bool {
    let channels = shape.groups.saturating_mul(outputs);
    let side_by_side = outputs.is_power_of_two() && outputs <= MOST_OUTPUTS && terms <= outputs;
    let short = shape.window().saturating_mul(terms) <= DEPTH_BLOCK;
    shape.layout == Layout::Nhwc && side_by_side && short && channels >= TILE_LANES
}

/// The channels of some groups.
#[derive(Clone, Copy)]
pub(super) struct Groups<T> {
    /// Source channels of a group, and target channels: a power of two, and no fewer.
    pub terms: usize,
    pub outputs: usize,
    /// Of each lane, the number of its group's first source channel among those of the vector.
    first: [T; TILE_LANES],
}

impl<T: Element> Groups<T> {
    #[inline(always)]
    pub fn new(outputs: usize, terms: usize) -> Self {
        let mut first = [T::default(); TILE_LANES];
        for (lane, first) in first.iter_mut().enumerate() {
            *first = T::from_number((lane / outputs * terms) as u32);
        }
        Groups { terms, outputs, first }
    }

    /// The source channel that is read first for a term of the target channels from `channel` on.
    #[inline(always)]
    pub fn source<S: Lanes<T>>(&self, channel: usize, term: usize) -> usize {
        let group = channel >> self.outputs.trailing_zeros();
        // Where a group takes more than a vector, its only one.
        group * self.terms + if S::LANES < self.outputs { term } else { 0 }
    }

    /// How many are, for `count` target channels.
    #[inline(always)]
    pub fn count<S: Lanes<T>>(&self, count: usize) -> usize {
        if S::LANES < self.outputs {
            1
        } else {
            (count >> self.outputs.trailing_zeros()) * self.terms
        }
    }

    /// Of each lane, the number of a term among these.
    #[inline(always)]
    pub fn numbers<S: Lanes<T>>(&self, simd: S, term: usize) -> S::Vector {
        if S::LANES < self.outputs {
            return simd.splat(T::from_number(0));
        }
        // SAFETY: `TILE_LANES` are at least a vector.
        let first = unsafe { simd.load(self.first.as_ptr()) };
        simd.add_numbers(first, simd.splat(T::from_number(term as u32)))
    }
}
