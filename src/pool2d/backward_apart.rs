//! The backward pass of windows that tile the input, as 2 x 2 at stride 2 does: a cell lies in one window, so
//! what it gets is written at once.

use std::ops::Range;

use super::backward::{Gradient, Inputs};
use super::path;
use crate::runs::{self, for_each_vector};
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::by_plane;

/// Whether it takes `shape`. Rows of windows may reach over the edges, windows of a row not. Each column of a
/// window is written at a time of its own, so that there had better be few.
pub(super) fn takes(shape: &PoolShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    let tiles = |axis: &Axis| axis.kernel == axis.stride && axis.dilation == 1;
    let is_inside = width.pad_before == 0 && width.full_outputs(false) == (0..width.output);
    let is_narrow = match path::is_planar(shape) {
        true => width.kernel == PAIR && path::fills_lanes(width),
        false => width.kernel <= FEW,
    };
    tiles(height) && tiles(width) && is_inside && is_narrow
}

/// Columns of a window whose vectors are put together, where the lanes run along a row.
const PAIR: usize = 2;

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
    /// Room for the rows of dx under a row of windows, if it is `streamed`.
    pub memory: *mut T,
    pub streamed: bool,
}

impl<T: Element, G: Gradient<T>> Kernel<T> for Apart<'_, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        match [self.shape.height.kernel, self.shape.width.kernel] {
            [PAIR, PAIR] => self.all(simd, [PAIR; 2]),
            kernel => self.all(simd, kernel),
        }
        if self.streamed {
            runs::end_stream();
        }
    }
}

impl<T: Element, G: Gradient<T>> Apart<'_, T, G> {
    #[inline(always)]
    fn all<S: Lanes<T>>(&self, simd: S, kernel: [usize; 2]) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let row_len = width.input * self.lanes;
        for (plane, rows) in by_plane(self.rows.clone(), height.input) {
            let inputs = self.inputs.at(plane * self.shape.output_plane * self.dy_stride);
            let dx = self.dx.wrapping_add(plane * self.shape.input_plane * self.lanes);
            let mut row = rows.start;
            while row < rows.end {
                let dx = dx.wrapping_add(row * row_len);
                let target = if self.streamed { self.memory } else { dx };
                let padded = row + height.pad_before;
                let (window, tap) = (padded / kernel[0], padded % kernel[0]);
                let taps = tap..kernel[0].min(tap + rows.end - row);
                row += taps.len();
                self.rows(simd, inputs, window, taps.clone(), kernel[1], target);
                if self.streamed {
                    // SAFETY: rows of dx, for which the memory has room, too.
                    unsafe { runs::copy_streaming(simd, taps.len() * row_len, target, dx) };
                }
            }
        }
    }

    /// Writes the rows of dx under some rows of the windows.
    #[inline(always)]
    fn rows<S: Lanes<T>>(
        &self,
        simd: S,
        inputs: Inputs<T>,
        window: usize,
        taps: Range<usize>,
        kernel: usize,
        target: *mut T,
    ) {
        let (width, lanes) = (&self.shape.width, self.lanes);
        let row_len = width.input * lanes;
        let columns = if window < self.shape.height.output { width.output } else { 0 };
        let number = match columns {
            0 => T::default(),
            _ => self.gradient.number(self.shape, window, 0),
        };
        let number = simd.splat(number);
        let first = window * columns;
        if self.dy_stride == 1 {
            for_each_vector(
                simd,
                columns,
                #[inline(always)]
                |column, count| {
                    // SAFETY: `count` windows of a row.
                    let loaded =
                        unsafe { self.gradient.load(simd, inputs, number, first + column, count) };
                    for (row, tap) in taps.clone().enumerate() {
                        let first = self.sum(simd, loaded, tap * kernel);
                        let second = self.sum(simd, loaded, tap * kernel + 1);
                        let pairs = simd.interleave(first, second);
                        let at = row * row_len + PAIR * column;
                        // SAFETY: the cells of the windows.
                        unsafe { runs::store_two(simd, PAIR * count, target.add(at), pairs) };
                    }
                },
            );
        } else {
            for column in 0..columns {
                for_each_vector(
                    simd,
                    lanes,
                    #[inline(always)]
                    |lane, count| {
                        let at = (first + column) * self.dy_stride + lane;
                        // SAFETY: `count` lanes of a pixel of dy.
                        let loaded = unsafe { self.gradient.load(simd, inputs, number, at, count) };
                        for (row, tap) in taps.clone().enumerate() {
                            for cell in 0..kernel {
                                let sum = self.sum(simd, loaded, tap * kernel + cell);
                                let at = row * row_len + (column * kernel + cell) * lanes + lane;
                                // SAFETY: lanes of the cell.
                                unsafe { runs::store(simd, count, target.add(at), sum) };
                            }
                        }
                    },
                );
            }
        }
        // The columns under no window.
        let (written, zero) = (columns * kernel * lanes, simd.splat(T::default()));
        let (rest, rows) = (target.wrapping_add(written), (taps.len(), row_len));
        // SAFETY: the end of each row.
        unsafe { runs::fill(simd, row_len - written, zero, rest, [(1, 0), (1, 0), rows]) };
    }

    /// What the only window over a cell gives to it: a sum of one, as any other, which is never -0.
    #[inline(always)]
    fn sum<S: Lanes<T>>(&self, simd: S, loaded: [S::Vector; 2], place: usize) -> S::Vector {
        self.gradient.add(simd, simd.splat(T::default()), loaded, place)
    }
}
