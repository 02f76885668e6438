//! dx of a depthwise convolution of 3x3 windows at stride 2, NHWC: its four phases together, in cells of 2x2 pixels,
//! which read the same 2x2 pixels of dy.
//!
//! Along an axis, a cell's first and second pixel are of the phases of two taps and of one tap, in some order: the
//! one of two taps reads both pixels of dy, the other one the first.

use super::nhwc_depthwise::Rows;
use super::nhwc_pixels::{Mode, Pixels, TapKernel};
use super::nhwc_row::{Row, Sums};
use super::nhwc_window::{Tile, Window, WindowKernel, has_many_registers};
use crate::conv2d::gather::Gather;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// The phases' passes: those of two taps along rows and columns, of two and one, of one and two, and of one.
const PHASES: [(usize, usize); 4] = [(2, 2), (2, 1), (1, 2), (1, 1)];

/// How four passes make cells.
#[derive(Clone, Copy)]
pub(super) struct Cells {
    /// The passes' numbers, as in `PHASES`.
    numbers: [usize; 4],
    /// The number of the cell that has the phase of one tap's first pixel, 0 or 1, along rows and columns; the first
    /// one of two taps is in cell 0.
    first: [usize; 2],
}

impl Cells {
    /// Whether there are registers for their sums.
    pub const fn fit<T: Element, S: Lanes<T>>() -> bool {
        has_many_registers::<T, S>()
    }

    /// Of these passes, if they make some.
    pub fn of<T: Element>(passes: &[Gather<T>]) -> Option<Self> {
        if passes.len() != PHASES.len() {
            return None;
        }
        let mut numbers = [0; 4];
        for (number, (rows, columns)) in numbers.iter_mut().zip(PHASES) {
            *number = passes.iter().position(|pass| {
                let one_to_one = pass.outputs == 1 && pass.terms == 1;
                let dense = |taps: &Taps, count: usize| {
                    taps.count == count && taps.step == 1 && taps.offset_step == -1
                };
                one_to_one && dense(&pass.rows, rows) && dense(&pass.columns, columns)
            })?;
        }
        let [two, _, _, one] = numbers.map(|number| &passes[number]);
        let first = |two: &Taps, one: &Taps| {
            let lowest = |taps: &Taps| taps.source(0, taps.in_order(0));
            usize::try_from(lowest(one) - lowest(two)).ok().filter(|&first| first < 2)
        };
        let first = [first(&two.rows, &one.rows)?, first(&two.columns, &one.columns)?];
        Some(Cells { numbers, first })
    }

    /// The number of the pass of two taps along both axes, which reads what all do.
    pub fn whole(&self) -> usize {
        self.numbers[0]
    }
}

/// Some rows of all four passes over one image.
pub(super) struct CellRows<'a, 'b, T> {
    pub cells: Cells,
    pub passes: &'a [Gather<T>],
    /// Of `Cells::whole`.
    pub rows: Rows<'b, T>,
}

impl<T: Element> Kernel<T> for CellRows<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let CellRows {
            cells: Cells { numbers, first: [first_row, first_column] },
            passes,
            mut rows,
        } = self;
        let of_phase = numbers.map(|number| &passes[number]);
        let [two, .., one] = of_phase;
        let (first, end) = rows.rows;
        let [end_of_two, end_of_one] = [two, one].map(|pass| end.min(pass.grid_height));
        let widths = [two.grid_width, one.grid_width];
        let width = widths[0].max(widths[1] + first_column);
        // Cells of four pixels.
        let whole = (first_column, widths[0].min(widths[1] + first_column));
        let channels = two.groups;
        // Where a vector is less than a tile's lanes, there are two of them, and as many sums.
        let wide = 2 * S::LANES > TILE_LANES;
        let mut fetched = 0;
        for row in first..end_of_two.max(end_of_one + first_row) {
            // Of no meaning before the first.
            let row_of_one = row.saturating_sub(first_row);
            let is_one = row >= first + first_row && row_of_one < end_of_one;
            let exist = [row < end_of_two, is_one];
            if rows.fetches {
                rows.fetch(simd, (row, row + 1), &mut fetched);
            }
            let place = [row, row, row_of_one, row_of_one];
            let mut targets = [rows.row(of_phase[0], numbers[0], row); 4];
            for (phase, target) in targets.iter_mut().enumerate() {
                *target = rows.row(of_phase[phase], numbers[phase], place[phase]);
            }
            let window = rows.window::<false>(row, 2);
            let kernel = Cell { window, rows: targets, exist, first_column, widths };
            let mut column = 0;
            while column < width {
                let is_whole = (whole.0..whole.1).contains(&column);
                let left = if is_whole { whole.1 - column } else { 1 };
                let first = column;
                let mut count = |tile: usize| {
                    column += left / tile * tile;
                    Columns { cell: &kernel, channels, columns: (first, column) }
                };
                match left {
                    4.. if wide => simd.call(Tiles::<_, 4>(count(4))),
                    3 if wide => simd.call(Tiles::<_, 3>(count(3))),
                    2.. => simd.call(Tiles::<_, 2>(count(2))),
                    _ => simd.call(Tiles::<_, 1>(count(1))),
                }
            }
        }
    }
}

/// Cells of a row, as first and end, and how many channels.
struct Columns<'a, 'b, T> {
    cell: &'a Cell<'b, T>,
    channels: usize,
    columns: (usize, usize),
}

/// The same in tiles of `N`. (Kernels of their own: a function with all sizes in it takes long to compile.)
struct Tiles<'a, 'b, T, const N: usize>(Columns<'a, 'b, T>);

impl<T: Element, const N: usize> Kernel<T> for Tiles<'_, '_, T, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Columns { cell, channels, columns } = self.0;
        // SAFETY: whoever makes one answers for the cells.
        unsafe { cell.window.for_each_tile::<S, N, 1>(simd, columns, channels, cell) };
    }
}

/// A row of cells.
struct Cell<'a, T> {
    /// Of the pass of two taps along both axes.
    window: Window<'a, T, false>,
    /// Of each phase.
    rows: [Row<'a, T>; 4],
    /// Whether the rows of the phases of two taps exist, and those of one tap.
    exist: [bool; 2],
    first_column: usize,
    /// Of the phases' rows of two taps, and of one.
    widths: [usize; 2],
}

impl<T: Element> Cell<'_, T> {
    /// Writes what becomes of a phase's sums.
    ///
    /// # Safety
    /// The caller answers for the target.
    #[inline(always)]
    unsafe fn write<S: Lanes<T>, const N: usize, const V: usize>(
        &self,
        simd: S,
        phase: usize,
        tile: Tile,
        channels: (usize, usize),
        sums: &[[S::Vector; N]; V],
    ) {
        let column = tile.column.wrapping_sub(phase % 2 * self.first_column);
        // Tiles of more are of whole cells.
        if N > 1 || column < self.widths[phase % 2] {
            // SAFETY: the caller's promise.
            unsafe { self.rows[phase].write(simd, column, channels, sums) };
        }
    }
}

impl<T: Element, S: Lanes<T>> WindowKernel<T, S> for Cell<'_, T> {
    const TAKES_MASKED: bool = true;

    #[inline(always)]
    unsafe fn run<const N: usize, const STEP: usize, const V: usize, M: Mode>(
        &self,
        simd: S,
        tile: Tile,
        channel: usize,
        count: usize,
    ) {
        let channels = (channel, count);
        let [a, b, c, d] = &self.rows;
        let mut sums = [
            a.sums::<S, N, V>(simd, channel),
            b.sums(simd, channel),
            c.sums(simd, channel),
            d.sums(simd, channel),
        ];
        // The line that the phases of two taps read alone comes first.
        let [alone, _, shared] = self.window.of_pair(1);
        // SAFETY: the caller answers for the lines and the targets; the filters have whole vectors.
        unsafe {
            if self.exist[0] {
                let mut taps = CellTaps::<_, _, N, V, false>(&mut sums);
                alone.for_each_tap::<S, N, STEP, V, M>(simd, tile, channels, &mut taps);
            }
            let mut taps = CellTaps::<_, _, N, V, true>(&mut sums);
            shared.for_each_tap::<S, N, STEP, V, M>(simd, tile, channels, &mut taps);
            if self.exist[0] {
                self.write(simd, 0, tile, channels, &sums[0].sums);
                self.write(simd, 1, tile, channels, &sums[1].sums);
            }
            if self.exist[1] {
                self.write(simd, 2, tile, channels, &sums[2].sums);
                self.write(simd, 3, tile, channels, &sums[3].sums);
            }
        }
    }
}

/// The sums of a tile of cells; on a line of all phases if `ALL`, or of the phases of two taps along rows.
struct CellTaps<'a, T: Element, S: Lanes<T>, const N: usize, const V: usize, const ALL: bool>(
    &'a mut [Sums<T, S, N, V>; 4],
);

impl<T: Element, S: Lanes<T>, const N: usize, const V: usize, const ALL: bool> TapKernel<T, S, N, V>
    for CellTaps<'_, T, S, N, V, ALL>
{
    #[inline(always)]
    unsafe fn add<const STEP: usize, const TAPS: usize, M: Mode, const GROUPED: bool>(
        &mut self,
        pixels: &Pixels<T, S, GROUPED>,
        first: usize,
    ) -> usize {
        debug_assert_eq!((first, TAPS), (0, 2), "neighbours share pixels");
        if TAPS != 2 {
            return TAPS;
        }
        let simd = pixels.simd;
        let [two_two, two_one, one_two, one_one] = &mut *self.0;
        let zero = simd.splat(T::default());
        let (mut of_one_two, mut of_one_one) = ([[zero; V]; TAPS], [[zero; V]; 1]);
        // SAFETY: the caller answers for the pixels and the filters.
        unsafe {
            let of_two_two = two_two.weights::<TAPS>(simd);
            let of_two_one = two_one.weights::<1>(simd);
            if ALL {
                of_one_two = one_two.weights::<TAPS>(simd);
                of_one_one = one_one.weights::<1>(simd);
            }
            pixels.for_each::<N, STEP, V, TAPS, M>(
                first,
                #[inline(always)]
                |tap, n, v, pixel| {
                    two_two.add(simd, [v, n], pixel, of_two_two[tap][v]);
                    if ALL {
                        one_two.add(simd, [v, n], pixel, of_one_two[tap][v]);
                    }
                    if tap == 0 {
                        two_one.add(simd, [v, n], pixel, of_two_one[0][v]);
                    }
                    if tap == 0 && ALL {
                        one_one.add(simd, [v, n], pixel, of_one_one[0][v]);
                    }
                },
            );
        }
        TAPS
    }
}
