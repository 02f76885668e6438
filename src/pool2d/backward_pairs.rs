//! The backward pass of windows two wide that tile the rows of planes, the lanes along a row of windows or, where
//! rows are short, along several.

use super::backward::Gradient;
use super::backward_apart::{Apart, PAIR, Part};
use crate::runs::{self, for_each_vector};
use crate::simd::{Element, Lanes, TILE_LANES};

impl<T: Element, G: Gradient<T>> Apart<'_, T, G> {
    /// Writes the rows of dx under some rows of windows: of several if all of their windows fit in a vector.
    #[inline(always)]
    pub(super) fn pairs<S: Lanes<T>>(&self, simd: S, part: &Part<T>) {
        match part.windows {
            1 => self.row_of_windows(simd, part),
            _ => self.rows_of_windows(simd, part),
        }
    }

    /// Two vectors of dx for each vector of windows.
    #[inline(always)]
    fn row_of_windows<S: Lanes<T>>(&self, simd: S, part: &Part<T>) {
        let (row_len, columns) = (self.shape.width.input, self.columns(part));
        let (number, zero) = (self.number(simd, part), simd.splat(T::default()));
        for_each_vector(
            simd,
            columns,
            #[inline(always)]
            |column, count| {
                let loaded = self.windows(simd, part, number, column, count);
                for (row, tap) in part.taps.clone().enumerate() {
                    let first = self.gradient.add(simd, zero, loaded, tap * PAIR);
                    let second = self.gradient.add(simd, zero, loaded, tap * PAIR + 1);
                    let pairs = simd.interleave(first, second);
                    let at = row * row_len + PAIR * column;
                    // SAFETY: the cells of the windows.
                    unsafe { runs::store_two(simd, PAIR * count, part.target.add(at), pairs) };
                }
            },
        );
        self.fill_rest(simd, part, PAIR * columns);
    }

    /// A vector of windows for several rows of them, of each of whose rows of dx a vector is enough.
    #[inline(always)]
    fn rows_of_windows<S: Lanes<T>>(&self, simd: S, part: &Part<T>) {
        let (row_len, columns) = (self.shape.width.input, self.columns(part));
        let [shares, places] =
            self.windows(simd, part, self.number(simd, part), 0, part.windows * columns);
        // Of each cell of a row of dx: its window in the row, and its column there.
        let number = |of: fn(usize) -> usize| {
            let numbers: [T; TILE_LANES] =
                std::array::from_fn(|lane| T::from_number(of(lane) as u32));
            // SAFETY: an array of as many.
            unsafe { simd.load(numbers.as_ptr()) }
        };
        let (windows, cells) = (number(|lane| lane / PAIR), number(|lane| lane % PAIR));
        let zero = simd.splat(T::default());
        let inside = simd.mask_between(0, PAIR * columns);
        let stored = row_len.min(S::LANES);
        let mut target = part.target;
        for row in 0..part.windows {
            let first = simd.splat(T::from_number((row * columns) as u32));
            let windows = simd.add_numbers(windows, first);
            let shares = simd.permute(shares, windows);
            let places = if G::PLACES { simd.permute(places, windows) } else { places };
            for tap in part.taps.clone() {
                let cells =
                    simd.add_numbers(cells, simd.splat(T::from_number((tap * PAIR) as u32)));
                let sum = self.gradient.add_to_each(simd, zero, [shares, places], cells);
                // SAFETY: cells of the windows, and some under none behind them.
                unsafe { runs::store(simd, stored, target, simd.select(inside, sum, zero)) };
                target = target.wrapping_add(row_len);
            }
        }
        self.fill_rest(simd, part, stored);
    }

    /// What `add` needs of some windows from one in the part on.
    #[inline(always)]
    fn windows<S: Lanes<T>>(
        &self,
        simd: S,
        part: &Part<T>,
        number: S::Vector,
        at: usize,
        count: usize,
    ) -> [S::Vector; 2] {
        let at = part.window * self.columns(part) + at;
        // Whole vectors are read faster, whatever lies behind.
        let count = if at + S::LANES <= part.readable { S::LANES } else { count };
        // SAFETY: windows that there are.
        unsafe { self.gradient.load(simd, part.inputs, number, at, count) }
    }
}
