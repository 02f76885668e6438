//! Average-pooling.

use std::ops::Range;

use super::backward::Gradient;
use super::forward::{Reduction, Window};
use super::path;
use super::place::Places;
use crate::context::Context;
use crate::runs;
use crate::shape::{Axis, PoolPadding, PoolShape};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::Tasks;

/// The sum of a window's row sums, over the number of its cells.
#[derive(Clone, Copy)]
pub(super) struct Mean {
    padding_counts: bool,
}

impl Mean {
    pub fn new(shape: &PoolShape) -> Self {
        Mean { padding_counts: shape.padding == PoolPadding::Zero }
    }

    /// The cells that the mean is over; 1 where there are none, so that the mean is 0.
    #[inline(always)]
    fn count(self, window: &Window) -> f64 {
        let count = if self.padding_counts { window.padded_cells() } else { window.cells() };
        count.max(1) as f64
    }
}

/// Of the rows so far, and of the one that cells are passing of.
#[derive(Clone, Copy)]
pub(super) struct Sums<V> {
    rows: V,
    row: V,
}

impl<T: Element> Reduction<T> for Mean {
    type State<V: Copy> = Sums<V>;

    const PLACES: bool = false;

    #[inline(always)]
    fn nothing() -> T {
        T::default()
    }

    /// A sum does not notice them.
    #[inline(always)]
    fn padding_takes_part(self) -> bool {
        false
    }

    #[inline(always)]
    fn number(self, window: &Window) -> T {
        T::from_f64(self.count(window))
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
    fn line<V: Copy>(self, sums: Sums<V>) -> [V; 2] {
        [sums.rows; 2]
    }

    #[inline(always)]
    fn add_line<S: Lanes<T>>(
        self,
        simd: S,
        sums: &mut Sums<S::Vector>,
        [sum, _]: [S::Vector; 2],
        _: usize,
    ) {
        sums.rows = simd.add(sums.rows, sum);
    }

    #[inline(always)]
    fn finish<S: Lanes<T>>(
        self,
        simd: S,
        sums: Sums<S::Vector>,
        counts: S::Vector,
    ) -> [S::Vector; 2] {
        [simd.div(sums.rows, counts), counts]
    }
}

/// Every cell of a window gets an equal share of its gradient: the product with the reciprocal of
/// the number of cells.
#[derive(Clone)]
pub(super) struct EqualShares<T> {
    mean: Mean,
    /// Windows whose cells all count, and their reciprocal.
    full_rows: Range<usize>,
    full_columns: Range<usize>,
    full: T,
}

impl<T: Element> EqualShares<T> {
    pub fn new(shape: &PoolShape) -> Self {
        let mean = Mean::new(shape);
        EqualShares {
            mean,
            full_rows: shape.height.full_outputs(mean.padding_counts),
            full_columns: shape.width.full_outputs(mean.padding_counts),
            full: T::from_f64(1.0 / shape.window_len() as f64),
        }
    }
}

impl<T: Element> Gradient<T> for &EqualShares<T> {
    const PLACES: bool = false;

    #[inline(always)]
    fn number(self, shape: &PoolShape, row: usize, column: usize) -> T {
        if self.full_rows.contains(&row) && self.full_columns.contains(&column) {
            return self.full;
        }
        T::from_f64(1.0 / self.mean.count(&Window::new(shape, row, column)))
    }

    #[inline(always)]
    unsafe fn load<S: Lanes<T>>(
        self,
        simd: S,
        dy: *const T,
        _: Places<T>,
        reciprocals: S::Vector,
        at: usize,
        count: usize,
    ) -> [S::Vector; 2] {
        // SAFETY: the caller answers for `count` gradients at `at`.
        let gradients = unsafe { runs::load(simd, count, dy.add(at)) };
        [simd.mul(gradients, reciprocals), reciprocals]
    }

    #[inline(always)]
    fn share<S: Lanes<T>>(self, _: S, [shares, _]: [S::Vector; 2], _: usize) -> S::Vector {
        shares
    }
}

/// Whether a single window is all of a plane, whose elements lie side by side.
pub(super) fn is_global(shape: &PoolShape) -> bool {
    let is_all = |axis: &Axis| axis.output == 1 && axis.full_outputs(true).len() == 1;
    let is_plain = |axis: &Axis| axis.input == axis.kernel && axis.pad_before == 0;
    path::is_planar(shape)
        && [&shape.height, &shape.width].iter().all(|axis| is_all(axis) && is_plain(axis))
}

/// The backward pass of such a pooling: every element of a plane of dx is the same.
pub(super) fn spread<T: Element>(context: &Context, shape: &PoolShape, dy: &[T], dx: &mut [T]) {
    let len = shape.input_plane;
    let share = T::from_f64(1.0 / shape.window_len() as f64);
    let tasks = Tasks::new(dy.len(), 1, len + 1, 1);
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|_, index| {
        let planes = tasks.part(index).0;
        let dx = dx.at(planes.start * len);
        T::dispatch(context.level(), Spread { dy: &dy[planes], share, len, dx });
    });
}

struct Spread<'a, T> {
    dy: &'a [T],
    share: T,
    /// Elements of a plane.
    len: usize,
    dx: *mut T,
}

impl<T: Element> Kernel<T> for Spread<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for (plane, &dy) in self.dy.iter().enumerate() {
            // A sum of one, as any other: never -0.
            let share = simd.splat(T::default() + dy * self.share);
            let dx = self.dx.wrapping_add(plane * self.len);
            // SAFETY: the planes of this task.
            unsafe { runs::fill(simd, self.len, share, dx, [(1, 0); 3]) };
        }
    }
}
