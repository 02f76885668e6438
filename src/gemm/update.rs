//! What becomes of a tile's sums.

use crate::runs;
use crate::simd::{Element, Lanes};

/// What is added to the sums.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bias<T> {
    None,
    /// An element per row of C.
    Rows(*const T),
    /// An element per column of C.
    Columns(*const T),
}

/// C = activation(alpha * sum + beta * C + bias); beta = 0 does not read C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update<T> {
    pub alpha: T,
    pub beta: T,
    pub bias: Bias<T>,
    pub relu: bool,
    /// Whether C is written past the caches, where its rows are whole cache lines apart and it is not read.
    pub streams: bool,
}

impl<T: Element> Update<T> {
    /// That of a tile of C, with this first row and column: its bias begins there.
    #[inline(always)]
    pub fn of_tile(self, row: usize, column: usize) -> Self {
        let bias = match self.bias {
            Bias::None => Bias::None,
            Bias::Rows(bias) => Bias::Rows(bias.wrapping_add(row)),
            Bias::Columns(bias) => Bias::Columns(bias.wrapping_add(column)),
        };
        Update { bias, ..self }
    }

    /// Updates a tile, whose bias this begins with, straight from the registers: `columns` columns that are
    /// contiguous from `target` on, in rows that lie at `row(0)`, `row(1)`, ... behind it.
    ///
    /// # Safety
    /// C has the tile's elements, and nobody else uses them; the bias has an element per row or column.
    #[inline(always)]
    pub unsafe fn write<S: Lanes<T>, const ROWS: usize, const VECTORS: usize>(
        self,
        simd: S,
        mut sums: [[S::Vector; VECTORS]; ROWS],
        target: *mut T,
        columns: usize,
        row: impl Fn(usize) -> usize,
    ) {
        let Update { alpha, beta, bias, relu, streams } = self;
        // Columns of the last vector.
        let last = columns - (VECTORS - 1) * S::LANES;
        let count = |v: usize| if v == VECTORS - 1 { last } else { S::LANES };
        // SAFETY: the caller answers for C and the bias.
        unsafe {
            // One short loop a step, so that each is unrolled and the sums stay in registers.
            if alpha != T::from_f64(1.0) {
                for sums in &mut sums {
                    for sum in sums {
                        *sum = simd.mul(simd.splat(alpha), *sum);
                    }
                }
            }
            if beta != T::default() {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let old = runs::load(simd, count(v), target.add(row(r) + v * S::LANES));
                        *sum = simd.mul_add(simd.splat(beta), old, *sum);
                    }
                }
            }
            match bias {
                Bias::None => {}
                Bias::Rows(bias) => {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let bias = simd.splat(*bias.add(r));
                        for sum in sums {
                            *sum = simd.add(*sum, bias);
                        }
                    }
                }
                Bias::Columns(bias) => {
                    // All of them first: else compilers copy each once for every row.
                    let mut biases = [simd.splat(T::default()); VECTORS];
                    for (v, to) in biases.iter_mut().enumerate() {
                        *to = simd.load_first(count(v), bias.add(v * S::LANES));
                    }
                    for sums in &mut sums {
                        for (sum, &bias) in sums.iter_mut().zip(&biases) {
                            *sum = simd.add(*sum, bias);
                        }
                    }
                }
            }
            if relu {
                for sums in &mut sums {
                    for sum in sums {
                        *sum = simd.relu(*sum);
                    }
                }
            }
            let streams = streams && runs::are_lines(target, 0);
            for (r, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    let (target, count) = (target.add(row(r) + v * S::LANES), count(v));
                    let streams = streams && count == S::LANES;
                    runs::store_or_stream(simd, count, target, sum, streams);
                }
            }
        }
    }
}
