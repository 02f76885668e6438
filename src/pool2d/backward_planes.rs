//! The backward pass with the lanes along a plane, row after row, as if it were one: for small planes whose elements
//! lie side by side, and windows that leave them as large as they are. So vectors are full, however narrow the rows.
//!
//! What the windows give is dealt out to the plane's lines first, with the rows outside beside them. A mask leaves
//! out what a tap would read from the row before or behind. Equal shares are summed by columns, then by rows.

use std::ops::Range;

use super::backward::{Gradient, Inputs};
use super::path::BLOCK;
use super::planes::{Plane, row_ends, stay_in_row};
use crate::runs::{self, for_each_vector};
use crate::shape::PoolShape;
use crate::simd::{Element, Kernel, Lanes};

/// The most cells of a window, where each of them has its own share.
const FEW_CELLS: usize = 12;

/// None where planes of `shape` go another way.
pub(super) fn plane(shape: &PoolShape, with_places: bool) -> Option<Plane> {
    Plane::new(shape).filter(|_| !with_places || shape.window_len() <= FEW_CELLS)
}

/// Some planes.
pub(super) struct Planes<'a, T, G> {
    pub shape: &'a PoolShape,
    pub gradient: G,
    pub planes: Range<usize>,
    pub inputs: Inputs<T>,
    pub dx: *mut T,
    pub plane: Plane,
    /// The plane's memory, and behind it room for a plane of dx if it is `streamed`.
    pub memory: *mut T,
    pub streamed: bool,
}

impl<T: Element, G: Gradient<T>> Kernel<T> for Planes<'_, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (shape, len) = (self.shape, self.plane.len);
        let zero = simd.splat(T::default());
        // SAFETY: the memory is the plane's; what is read behind the places is zero, too.
        unsafe {
            self.plane.prepare(shape, self.memory, |row, column| {
                self.gradient.number(shape, row, column)
            });
            let len = 2 * self.plane.lines + BLOCK;
            runs::fill(simd, len, zero, self.plane.lines(self.memory), [(1, 0); 3]);
        }
        for plane in self.planes.clone() {
            let dx = self.dx.wrapping_add(plane * len);
            let streamed = self.memory.wrapping_add(self.plane.memory_len());
            let target = if self.streamed { streamed } else { dx };
            self.deal(simd, self.inputs.at(plane * len));
            // The common windows as constants.
            match [shape.height.kernel, shape.width.kernel] {
                [3, 3] => self.write(simd, target, [3, 3]),
                kernel => self.write(simd, target, kernel),
            }
            if self.streamed {
                // SAFETY: a plane of dx, for which the memory has room, too.
                unsafe { runs::copy_streaming(simd, len, streamed, dx) };
            }
        }
        if self.streamed {
            runs::end_stream();
        }
    }
}

impl<T: Element, G: Gradient<T>> Planes<'_, T, G> {
    /// The line of the first row of windows.
    #[inline(always)]
    fn first_line(&self) -> *mut T {
        let height = &self.shape.height;
        let outside = height.kernel - 1 - height.pad_before;
        self.plane.lines(self.memory).wrapping_add(outside * self.shape.width.input)
    }

    /// Writes what a plane's windows give to the lines.
    #[inline(always)]
    fn deal<S: Lanes<T>>(&self, simd: S, inputs: Inputs<T>) {
        let (numbers, lines) = (self.memory, self.first_line());
        for_each_vector(
            simd,
            self.plane.len,
            #[inline(always)]
            |at, count| {
                // SAFETY: vectors of the plane and of its memory: a plane has at least one.
                unsafe {
                    let number = simd.load(numbers.add(at));
                    let [first, place] = self.gradient.load(simd, inputs, number, at, count);
                    simd.store(lines.add(at), first);
                    if G::PLACES {
                        simd.store(self.plane.second(lines).add(at), place);
                    }
                }
            },
        );
    }

    /// Writes a plane of dx.
    #[inline(always)]
    fn write<S: Lanes<T>>(&self, simd: S, dx: *mut T, kernel: [usize; 2]) {
        let (row_len, lines) = (self.shape.width.input, self.plane.lines(self.memory));
        if !G::PLACES {
            let first = self.first_line();
            for_each_vector(
                simd,
                self.plane.len,
                #[inline(always)]
                |at, _| {
                    let zero = simd.splat(T::default());
                    let sum = self.row(simd, zero, first.wrapping_add(at), at, 0, kernel[1]);
                    // SAFETY: a vector of the sums.
                    unsafe { simd.store(self.plane.second(first).add(at), sum) };
                },
            );
        }
        for_each_vector(
            simd,
            self.plane.len,
            #[inline(always)]
            |at, count| {
                let mut sum = simd.splat(T::default());
                for over in 0..kernel[0] {
                    let line = lines.wrapping_add(at + over * row_len);
                    if G::PLACES {
                        let first_place = (kernel[0] - 1 - over) * kernel[1];
                        sum = self.row(simd, sum, line, at, first_place, kernel[1]);
                    } else {
                        // SAFETY: a vector of the sums.
                        sum = simd.add(sum, unsafe { simd.load(self.plane.second(line)) });
                    }
                }
                // SAFETY: `count` elements of the plane.
                unsafe { runs::store(simd, count, dx.add(at), sum) };
            },
        );
    }

    /// Adds to `sum` what a row of windows gives to the cells from the one at `at` on: the line has the window that
    /// begins `pad_before` cells before it.
    #[inline(always)]
    fn row<S: Lanes<T>>(
        &self,
        simd: S,
        mut sum: S::Vector,
        line: *mut T,
        at: usize,
        first_place: usize,
        kernel: usize,
    ) -> S::Vector {
        let width = &self.shape.width;
        // SAFETY: a vector of the plane's columns.
        let column = unsafe { simd.load(self.plane.columns(self.memory).add(at)) };
        let ends = row_ends(simd, width);
        for tap in (0..kernel).rev() {
            let is_there = stay_in_row(simd, ends, column, tap, width.pad_before);
            let dealt = line.wrapping_add(width.pad_before).wrapping_sub(tap);
            // SAFETY: windows of the row; their places lie within the memory, whatever is there.
            let loaded = unsafe {
                let first = simd.load_where(is_there, dealt);
                [first, if G::PLACES { simd.load(self.plane.second(dealt)) } else { first }]
            };
            sum = self.gradient.add(simd, sum, loaded, first_place + tap);
        }
        sum
    }
}
