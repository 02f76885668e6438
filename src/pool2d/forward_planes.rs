//! The forward pass with the lanes along a plane, row after row, as if it were one: for small planes whose elements
//! lie side by side, and windows that leave them as large as they are. So vectors are full, however narrow the rows.
//!
//! First each row of windows' cells comes to a line of the plane, in which a mask leaves out what a tap would read
//! from the row before or behind; then lines come to results.

use std::ops::Range;

use super::forward::{Reduction, Results, Window};
use super::line;
use super::planes::{Plane, row_ends, stay_in_row};
use crate::runs::{self, for_each_vector};
use crate::shape::PoolShape;
use crate::simd::{Element, Kernel, Lanes};

/// Some planes.
pub(super) struct Planes<'a, T, R> {
    pub shape: &'a PoolShape,
    pub reduction: R,
    pub planes: Range<usize>,
    pub x: *const T,
    pub results: Results<T>,
    pub plane: Plane,
    /// The plane's memory.
    pub memory: *mut T,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Planes<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        self.prepare(simd);
        // The common windows as constants.
        match [self.shape.height.kernel, self.shape.width.kernel] {
            [3, 3] => self.all(simd, [3, 3]),
            kernel => self.all(simd, kernel),
        }
    }
}

impl<T: Element, R: Reduction<T>> Planes<'_, T, R> {
    /// Each window's number, each element's column, and the lines outside.
    #[inline(always)]
    fn prepare<S: Lanes<T>>(&self, simd: S) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let (plane, lines) = (self.plane, self.plane.lines(self.memory));
        // SAFETY: the memory is the plane's.
        unsafe {
            plane.prepare(self.shape, self.memory, |row, column| {
                self.reduction.number(&Window::new(self.shape, row, column))
            });
        }
        let [value, place] = line::outside(simd, self.reduction, height, 0);
        let (before, within) = (height.pad_before * width.input, plane.len);
        for (first, end) in [(0, before), (before + within, plane.lines)] {
            let outside = lines.wrapping_add(first);
            // SAFETY: lines of the plane's memory.
            unsafe {
                runs::fill(simd, end - first, value, outside, [(1, 0); 3]);
                runs::fill(simd, end - first, place, plane.second(outside), [(1, 0); 3]);
            }
        }
    }

    #[inline(always)]
    fn all<S: Lanes<T>>(&self, simd: S, kernel: [usize; 2]) {
        for plane in self.planes.clone() {
            let before = plane * self.plane.len;
            self.write_lines(simd, self.x.wrapping_add(before), kernel[1]);
            self.write_results(simd, before, kernel);
        }
    }

    /// Writes what each row comes to under the windows.
    #[inline(always)]
    fn write_lines<S: Lanes<T>>(&self, simd: S, x: *const T, kernel: usize) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let (reduction, before, columns) =
            (self.reduction, width.pad_before, self.plane.columns(self.memory));
        let outside = match reduction.padding_takes_part() {
            true => T::default(),
            false => R::nothing(),
        };
        let (outside, ends) = (simd.splat(outside), row_ends(simd, width));
        let lines = self.plane.lines(self.memory).wrapping_add(height.pad_before * width.input);
        for_each_vector(
            simd,
            self.plane.len,
            #[inline(always)]
            |at, _| {
                // SAFETY: vectors of the plane's memory.
                let column = unsafe { simd.load(columns.add(at)) };
                let mut line = line::cell(simd, outside, 0);
                for tap in 0..kernel {
                    let cells = x.wrapping_add(at + tap).wrapping_sub(before);
                    let is_inside = stay_in_row(simd, ends, column, before, tap);
                    // SAFETY: the mask leaves elements of the plane: there is at least a vector of them.
                    let value = unsafe { simd.load_where(is_inside, cells) };
                    let value = simd.select(is_inside, value, outside);
                    if tap == 0 {
                        line = line::cell(simd, value, 0);
                    } else {
                        reduction.cell(simd, &mut line, value, tap);
                    }
                }
                // SAFETY: vectors of the plane's lines.
                unsafe {
                    let target = lines.add(at);
                    simd.store(target, line[0]);
                    if R::PLACES {
                        simd.store(self.plane.second(target), line[1]);
                    }
                }
            },
        );
    }

    /// Writes the results of the plane before which there are `before` elements.
    #[inline(always)]
    fn write_results<S: Lanes<T>>(&self, simd: S, before: usize, kernel: [usize; 2]) {
        let (reduction, results, row_len) = (self.reduction, self.results, self.shape.width.input);
        let (numbers, lines) = (self.memory, self.plane.lines(self.memory));
        for_each_vector(
            simd,
            self.plane.len,
            #[inline(always)]
            |at, count| {
                // SAFETY: vectors of the plane's memory.
                let numbers = unsafe { simd.load(numbers.add(at)) };
                let mut total = reduction.start(simd, numbers);
                for tap in 0..kernel[0] {
                    let line = lines.wrapping_add(at + tap * row_len);
                    // SAFETY: as above.
                    let line = unsafe {
                        let value = simd.load(line);
                        [value, if R::PLACES { simd.load(self.plane.second(line)) } else { value }]
                    };
                    reduction.add_line(simd, &mut total, line, tap * kernel[1]);
                }
                let result = reduction.finish(simd, total, numbers);
                // SAFETY: `count` elements of the plane.
                unsafe { results.store::<R, S>(simd, result, before + at, count) };
            },
        );
    }
}
