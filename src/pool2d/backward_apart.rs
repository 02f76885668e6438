//! The backward pass of windows that tile the input, as 2 x 2 at stride 2 does: a cell lies in one window, so
//! what it gets is written at once.

use std::ops::Range;

use super::backward::{Gradient, Inputs};
use super::path;
use crate::runs::{self, for_each_vector};
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::tasks::by_plane;

/// Whether it takes `shape`. Rows of windows may reach over the edges, windows of a row not. Each column of a
/// window is written at a time of its own, so that there had better be few.
pub(super) fn takes(shape: &PoolShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    let tiles = |axis: &Axis| axis.kernel == axis.stride && axis.dilation == 1;
    let is_inside = width.pad_before == 0 && width.full_outputs(false) == (0..width.output);
    let is_narrow = match path::is_planar(shape) {
        true => width.kernel == PAIR && (width.output >= MANY || covers(height)),
        false => width.kernel <= FEW,
    };
    tiles(height) && tiles(width) && is_inside && is_narrow
}

/// Windows of a row from which on vectors pay that begin anew with each plane.
const MANY: usize = 4;

/// Whether windows that lie apart cover an axis, and nothing else.
fn covers(axis: &Axis) -> bool {
    axis.pad_before == 0 && axis.input == axis.output * axis.kernel
}

/// Columns of a window where the lanes run along a row: see [`Apart::pairs`].
pub(super) const PAIR: usize = 2;

/// The most columns of a window, where they run along the channels.
const FEW: usize = 3;

/// Rows of dx.
pub(super) struct Apart<'a, T, G> {
    pub shape: &'a PoolShape,
    pub gradient: G,
    /// Counted through all planes.
    pub rows: Range<usize>,
    pub inputs: Inputs<T>,
    pub dx: *mut T,
    /// Elements of a pixel: 1 of planes.
    pub lanes: usize,
    /// Elements from one pixel of dy to the next, 1 of planes; those of dx follow each other.
    pub dy_stride: usize,
    /// Room for the rows of dx that are written at a time, if it is `streamed`: see [`rows_len`].
    pub memory: *mut T,
    pub streamed: bool,
}

/// Elements of rows of dx that are written at a time: those under a row of windows, or under several
/// where a vector holds these.
pub(super) fn rows_len(shape: &PoolShape, lanes: usize) -> usize {
    shape.height.kernel * (shape.width.input * lanes).max(3 * TILE_LANES)
}

/// What is written at a time.
pub(super) struct Part<T> {
    /// Of the plane.
    pub inputs: Inputs<T>,
    /// Windows of the plane, and of others behind it, that may be read.
    pub readable: usize,
    /// The first row of windows, and how many.
    pub window: usize,
    pub windows: usize,
    /// Rows of each of them.
    pub taps: Range<usize>,
    /// Rows of dx.
    pub target: *mut T,
}

impl<T: Element, G: Gradient<T>> Kernel<T> for Apart<'_, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let joined = Apart { shape: &self.joined(), ..self };
        match [joined.shape.height.kernel, joined.shape.width.kernel] {
            [PAIR, PAIR] => joined.all(simd, [PAIR; 2]),
            kernel => joined.all(simd, kernel),
        }
        if self.streamed {
            runs::end_stream();
        }
    }
}

impl<T: Element, G: Gradient<T>> Apart<'_, T, G> {
    /// The shape, but planes that follow each other as one where windows tile them.
    fn joined(&self) -> PoolShape {
        let shape = self.shape;
        let PoolShape { height, width, .. } = shape;
        let follow_on = shape.input_plane == height.input * width.input
            && shape.output_plane == height.output * width.output;
        if !follow_on || !covers(height) {
            return *shape;
        }
        let planes = self.rows.end.div_ceil(height.input);
        let [input, output] = [height.input, height.output].map(|rows| rows * planes);
        PoolShape {
            height: Axis { input, output, ..*height },
            input_plane: shape.input_plane * planes,
            output_plane: shape.output_plane * planes,
            ..*shape
        }
    }

    #[inline(always)]
    fn all<S: Lanes<T>>(&self, simd: S, kernel: [usize; 2]) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let row_len = width.input * self.lanes;
        let output_plane = self.shape.output_plane;
        let planes_end = self.rows.end.div_ceil(height.input);
        // A row of windows that reach over an edge has a number of its own.
        let together = match self.dy_stride == 1 && (G::PLACES || covers(height)) {
            true if PAIR * width.output <= S::LANES => S::LANES / width.output.max(1),
            _ => 1,
        };
        for (plane, rows) in by_plane(self.rows.clone(), height.input) {
            let inputs = self.inputs.at(plane * output_plane * self.dy_stride);
            let dx = self.dx.wrapping_add(plane * self.shape.input_plane * self.lanes);
            let mut row = rows.start;
            while row < rows.end {
                let dx = dx.wrapping_add(row * row_len);
                let target = if self.streamed { self.memory } else { dx };
                let padded = row + height.pad_before;
                let (window, tap) = (padded / kernel[0], padded % kernel[0]);
                let taps = tap..kernel[0].min(tap + rows.end - row);
                // Those that have all of their rows here.
                let whole = (rows.end - row) / kernel[0];
                let windows = match taps.len() == kernel[0] {
                    true => whole.min(height.output.saturating_sub(window)).clamp(1, together),
                    false => 1,
                };
                let written = windows * taps.len();
                row += written;
                let behind = (planes_end - plane - 1) * output_plane;
                let readable = behind + height.output * width.output;
                let part = Part { inputs, readable, window, windows, taps, target };
                if self.dy_stride == 1 {
                    self.pairs(simd, &part);
                } else {
                    self.pixels(simd, &part, kernel[1]);
                }
                if self.streamed {
                    // SAFETY: rows of dx, for which the memory has room, too.
                    unsafe { runs::copy_streaming(simd, written * row_len, target, dx) };
                }
            }
        }
    }

    /// Windows of a row that there are.
    #[inline(always)]
    pub(super) fn columns(&self, part: &Part<T>) -> usize {
        if part.window < self.shape.height.output { self.shape.width.output } else { 0 }
    }

    /// What the windows of a row need, all the same; and those of all rows, where none reaches over an edge.
    #[inline(always)]
    pub(super) fn number<S: Lanes<T>>(&self, simd: S, part: &Part<T>) -> S::Vector {
        let row = if covers(&self.shape.height) { 0 } else { part.window };
        simd.splat(match self.columns(part) {
            0 => T::default(),
            _ => self.gradient.number(self.shape, row, 0),
        })
    }

    /// Writes zeros to the cells of each row that are under no window.
    #[inline(always)]
    pub(super) fn fill_rest<S: Lanes<T>>(&self, simd: S, part: &Part<T>, written: usize) {
        let row_len = self.shape.width.input * self.lanes;
        let rows = (part.windows * part.taps.len(), row_len);
        let (rest, zero) = (part.target.wrapping_add(written), simd.splat(T::default()));
        // SAFETY: the end of each row.
        unsafe { runs::fill(simd, row_len - written, zero, rest, [(1, 0), (1, 0), rows]) };
    }

    /// Writes the rows of dx under some rows of a row of windows, the lanes along the channels.
    #[inline(always)]
    fn pixels<S: Lanes<T>>(&self, simd: S, part: &Part<T>, kernel: usize) {
        let (lanes, columns) = (self.lanes, self.columns(part));
        let row_len = self.shape.width.input * lanes;
        let number = self.number(simd, part);
        let first = part.window * columns;
        // What the only window over a cell gives to it is a sum of one, as any other, which is never -0.
        let zero = simd.splat(T::default());
        for column in 0..columns {
            for_each_vector(
                simd,
                lanes,
                #[inline(always)]
                |lane, count| {
                    let at = (first + column) * self.dy_stride + lane;
                    // SAFETY: `count` lanes of a pixel of dy.
                    let loaded =
                        unsafe { self.gradient.load(simd, part.inputs, number, at, count) };
                    for (row, tap) in part.taps.clone().enumerate() {
                        for cell in 0..kernel {
                            let sum = self.gradient.add(simd, zero, loaded, tap * kernel + cell);
                            let at = row * row_len + (column * kernel + cell) * lanes + lane;
                            // SAFETY: lanes of the cell.
                            unsafe { runs::store(simd, count, part.target.add(at), sum) };
                        }
                    }
                },
            );
        }
        self.fill_rest(simd, part, columns * kernel * lanes);
    }
}
