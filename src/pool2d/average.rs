//! Average-pooling.

use super::forward::{self, Reduction, Window};
use super::path::BLOCK;
use crate::context::Context;
use crate::error::Result;
use crate::runs;
use crate::shape::{PoolPadding, PoolShape};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Lanes};

/// y = the mean of each window.
pub(super) fn forward<T: Element>(
    context: &Context,
    shape: &PoolShape,
    x: &[T],
    y: &mut [T],
) -> Result<()> {
    let y = SharedMut::new(y);
    let padding_counts = shape.padding == PoolPadding::Zero;
    forward::run(context, shape, x, &|at| Mean { y: y.at(at), padding_counts })
}

/// Cells that a window's mean is over.
#[inline(always)]
fn count(window: &Window, padding_counts: bool) -> usize {
    if padding_counts { window.padded_cells() } else { window.cells() }
}

/// The sum of each window's row sums, over the number of its cells.
#[derive(Clone, Copy)]
struct Mean<T> {
    y: *mut T,
    padding_counts: bool,
}

#[derive(Clone, Copy)]
struct Sums<V> {
    rows: V,
    row: V,
}

impl<T: Element> Reduction<T> for Mean<T> {
    type State<V: Copy> = Sums<V>;

    fn nothing() -> T {
        T::default()
    }

    /// A sum does not notice them.
    #[inline(always)]
    fn padding_takes_part(self) -> bool {
        false
    }

    /// The number of cells; 1 where there are none, so that the mean is 0.
    #[inline(always)]
    fn number(self, window: &Window) -> T {
        T::from_f64(count(window, self.padding_counts).max(1) as f64)
    }

    #[inline(always)]
    fn start<S: Lanes<T>>(self, simd: S, _: S::Vector) -> Sums<S::Vector> {
        let zero = simd.splat(T::default());
        Sums { rows: zero, row: zero }
    }

    #[inline(always)]
    fn cell<S: Lanes<T>>(self, simd: S, sums: &mut Sums<S::Vector>, value: S::Vector, _: usize) {
        sums.row = simd.add(sums.row, value);
    }

    #[inline(always)]
    fn end_row<S: Lanes<T>>(self, simd: S, sums: &mut Sums<S::Vector>) {
        sums.rows = simd.add(sums.rows, sums.row);
        sums.row = simd.splat(T::default());
    }

    #[inline(always)]
    unsafe fn finish<S: Lanes<T>>(
        self,
        simd: S,
        sums: Sums<S::Vector>,
        counts: S::Vector,
        at: usize,
        count: usize,
    ) {
        // SAFETY: the caller answers for the results at `at`.
        unsafe { runs::store(simd, count, self.y.add(at), simd.div(sums.rows, counts)) }
    }

    fn block_len(len: usize) -> usize {
        len
    }

    unsafe fn in_block(self, memory: *mut T, _: usize) -> Self {
        Mean { y: memory, ..self }
    }

    #[inline(always)]
    unsafe fn take_block<S: Lanes<T>>(self, simd: S, block: Self, planes: usize, windows: usize) {
        // SAFETY: the caller answers for the sizes.
        unsafe { runs::transpose(simd, [windows, planes], block.y, BLOCK, self.y, windows) }
    }
}
