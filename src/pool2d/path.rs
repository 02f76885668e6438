//! Where the lanes of a pooling's vectors lie. No result depends on it.

use std::ops::Range;

use crate::shape::{Axis, Layout, PoolShape};

/// What the lanes of a vector are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// The `lanes` elements of a pixel, in each of `planes` planes.
    Channels { planes: usize, lanes: usize },
    /// The same pixel of [`BLOCK`] planes, some of whose `rows` are transposed in scratch memory.
    Blocks { planes: usize, rows: usize },
}

/// Planes of a block: a multiple of every vector's lanes.
pub(super) const BLOCK: usize = 16;

/// The most rows of a window where the lanes run along the rows of a plane.
pub(super) const MOST_ROWS: usize = 3;

/// The most elements of scratch memory a thread: what does not fit goes another way.
pub(super) const MAX_SCRATCH: usize = 1 << 19;

/// Elements of a block, where fewer rows would do: it stays in the second-level cache.
pub(super) const CACHED: usize = 1 << 17;

impl Path {
    /// The way for `shape`. `part` is the shape of some rows, of y or of x, in a block's planes.
    pub fn new(shape: &PoolShape, rows: usize, part: impl Fn(usize) -> PoolShape) -> Path {
        if !is_planar(shape) {
            return Path::Channels { planes: shape.batch, lanes: shape.channels };
        }
        let planes = shape.batch * shape.channels;
        let mut some = rows;
        while some > 1 && block_len(&part(some)) > CACHED {
            some = some.div_ceil(2);
        }
        match block_len(&part(some)) <= MAX_SCRATCH {
            true => Path::Blocks { planes, rows: some },
            false => Path::Channels { planes, lanes: 1 },
        }
    }
}

/// Whether the elements of a plane's rows lie side by side.
pub(super) fn is_planar(shape: &PoolShape) -> bool {
    shape.layout == Layout::Nchw || shape.channels == 1
}

/// Its planes, and the elements of their pixels.
pub(super) fn planes_and_lanes(shape: &PoolShape) -> (usize, usize) {
    match shape.layout {
        Layout::Nchw => (shape.batch * shape.channels, 1),
        Layout::Nhwc => (shape.batch, shape.channels),
    }
}

/// Whether vectors along a row of x, as many as the stride for each vector of windows, are full by half.
pub(super) fn fills_lanes(width: &Axis) -> bool {
    2 * width.input >= width.input.div_ceil(width.stride).next_multiple_of(BLOCK) * width.stride
}

/// The rows of a band, of `some` of the `rows` each but for the last.
pub(super) fn band(number: usize, some: usize, rows: usize) -> Range<usize> {
    number * some..rows.min((number + 1) * some)
}

/// Elements of scratch memory of a block: of x (or of what is behind y, where that is larger), of y, and
/// of its places.
pub(super) fn block_len(shape: &PoolShape) -> usize {
    let (input, output) = (input_pixels(shape), output_pixels(shape));
    output.saturating_mul(2).saturating_add(input.max(output)).saturating_mul(BLOCK)
}

/// Pixels of a plane of x.
pub(super) fn input_pixels(shape: &PoolShape) -> usize {
    shape.height.input * shape.width.input
}

/// Pixels of a plane of y.
pub(super) fn output_pixels(shape: &PoolShape) -> usize {
    shape.height.output * shape.width.output
}

/// An axis whose extents the compiler knows, for the loops of the common windows.
#[inline(always)]
pub(super) fn with_constants(axis: &Axis, kernel: usize, stride: usize, dilation: usize) -> Axis {
    Axis { kernel, stride, dilation, ..*axis }
}
