//! Where the lanes of a pooling's vectors lie. No result depends on it.

use crate::runs;
use crate::shape::{Axis, Layout, PoolShape};
use crate::simd::{Element, Kernel, Lanes};

/// What the lanes of a vector are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// The `lanes` elements of a pixel, in each of `planes` planes.
    Channels { planes: usize, lanes: usize },
    /// Columns of a row, which is dealt out by the stride in scratch memory.
    Columns { planes: usize },
    /// The same pixel of [`BLOCK`] planes, which are transposed in scratch memory: for planes too
    /// narrow for `Columns`.
    Blocks { planes: usize },
}

/// Planes of a block: a multiple of every vector's lanes.
pub(super) const BLOCK: usize = 16;

/// Rows of y narrower than this waste most of a vector.
const NARROW: usize = 8;

/// The most elements of scratch memory a thread: what does not fit goes another way.
pub(super) const MAX_SCRATCH: usize = 1 << 19;

impl Path {
    /// The way for `shape`, when `Columns` needs `columns_scratch` elements a thread.
    pub fn new(shape: &PoolShape, columns_scratch: usize) -> Path {
        if shape.layout == Layout::Nhwc && shape.channels > 1 {
            return Path::Channels { planes: shape.batch, lanes: shape.channels };
        }
        let planes = shape.batch * shape.channels;
        // x, y and the places.
        let pixels = output_pixels(shape).saturating_mul(2).saturating_add(input_pixels(shape));
        if shape.width.output < NARROW && pixels.saturating_mul(BLOCK) <= MAX_SCRATCH {
            Path::Blocks { planes }
        } else if columns_scratch <= MAX_SCRATCH {
            Path::Columns { planes }
        } else {
            Path::Channels { planes, lanes: 1 }
        }
    }
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

/// [`runs::transpose`] as a kernel, between planes and a block.
pub(super) struct Transpose<T> {
    pub rows: usize,
    pub columns: usize,
    pub source: *const T,
    pub source_stride: usize,
    pub target: *mut T,
    pub target_stride: usize,
}

impl<T: Element> Kernel<T> for Transpose<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Transpose { rows, columns, source, source_stride, target, target_stride } = self;
        // SAFETY: whoever makes one answers for the matrices.
        unsafe {
            runs::transpose(simd, [rows, columns], source, source_stride, target, target_stride);
        }
    }
}
