//! Packs filters into panels of target channels: the vectors that the channel kernel loads.

use crate::conv2d::gather::Gather;
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::gemm::pack::TileShape;
use crate::runs;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// How the filters of one group lie when packed: panels of channels, in a panel blocks of terms, in
/// a block row taps, and in those terms and column taps, a vector of channels each.
#[derive(Debug, Clone, Copy)]
pub(super) struct PanelPlan {
    pub count: usize,
    /// Channels of a panel, but for the last.
    pub width: usize,
    /// Terms of a block: its products are summed in registers, and then added to those before.
    pub block_terms: usize,
    pub row_taps: usize,
    pub column_taps: usize,
    /// Whether the innermost order is that of the terms, not of the column taps: where there are
    /// more of them, or where NHWC may have the terms of all column taps side by side.
    pub terms_inside: bool,
    terms: usize,
    outputs: usize,
    lanes: usize,
}

impl PanelPlan {
    pub fn new<T>(pass: &Gather<T>, tile: TileShape) -> Self {
        let taps = (pass.rows.count * pass.columns.count).max(1);
        let blocks = pass.terms.div_ceil((DEPTH_BLOCK / taps).max(1));
        PanelPlan {
            count: pass.outputs.div_ceil(tile.columns),
            width: tile.columns,
            block_terms: pass.terms.div_ceil(blocks),
            row_taps: pass.rows.count,
            column_taps: pass.columns.count,
            terms_inside: pass.terms >= pass.columns.count || pass.source_strides[1] == 1,
            terms: pass.terms,
            outputs: pass.outputs,
            lanes: tile.lanes,
        }
    }

    pub fn taps(&self) -> usize {
        self.row_taps * self.column_taps
    }

    /// Elements of all panels.
    pub fn len(&self) -> usize {
        self.offset(self.count)
    }

    /// Where a panel begins.
    #[inline(always)]
    pub fn offset(&self, panel: usize) -> usize {
        panel * self.width * self.taps() * self.terms
    }

    /// Channels of a panel.
    #[inline(always)]
    pub fn channels(&self, panel: usize) -> usize {
        (self.outputs - panel * self.width).min(self.width)
    }

    /// The same, rounded up to whole vectors.
    #[inline(always)]
    pub fn lanes(&self, panel: usize) -> usize {
        self.channels(panel).next_multiple_of(self.lanes)
    }

    /// The number of a weight's vectors in its block of `terms`.
    #[inline(always)]
    fn number(&self, terms: usize, Place { term, row, column }: Place) -> usize {
        match self.terms_inside {
            true => (row * self.column_taps + column) * terms + term,
            false => (row * terms + term) * self.column_taps + column,
        }
    }
}

/// A weight of a filter.
#[derive(Clone, Copy)]
struct Place {
    term: usize,
    row: usize,
    column: usize,
}

/// Weights that follow on from one another are transposed with what lies behind them, if they are so many.
const SHORT_RUN: usize = 4;

/// Packs one panel; false when some weight is not finite.
pub(super) struct PackPanel<'a, T> {
    pub pass: &'a Gather<T>,
    pub plan: PanelPlan,
    pub group: usize,
    pub panel: usize,
    pub target: *mut T,
}

impl<T: Element> Kernel<T> for PackPanel<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) -> bool {
        let (plan, strides) = (self.plan, self.pass.filter_strides);
        let width = plan.lanes(self.panel);
        let first = self.panel * plan.width;
        // Zero, or a NaN: a finite number times 0 is 0.
        let mut check = simd.splat(T::default());
        // How many weights follow on from one another in memory, from the first column tap on, or
        // from the first term on.
        let along_terms = strides.term == 1;
        let run_len = |terms: usize| {
            if along_terms {
                return terms;
            }
            let rows = if strides.row_tap == plan.column_taps { plan.row_taps } else { 1 };
            let all = rows == plan.row_taps && strides.term == plan.taps();
            if all { terms * plan.taps() } else { rows * plan.column_taps }
        };
        let contiguous = along_terms || strides.column_tap == 1;
        let ahead = self.ahead();
        let end = self.end();
        // SAFETY: the filters have the group's outputs, terms and taps; the target has the panel.
        unsafe {
            let filters = self.pass.filters.add(self.group * strides.group);
            for block in (0..plan.terms).step_by(plan.block_terms) {
                let terms = plan.block_terms.min(plan.terms - block);
                let target = self.target.add(block * plan.taps() * width);
                if strides.output == 1 {
                    let filters = filters.add(first + block * strides.term);
                    check = self.copy_block(simd, filters, terms, target, check);
                    continue;
                }
                let run = if contiguous { run_len(terms) } else { 1 };
                for lane in (0..width).step_by(S::LANES) {
                    let output = first + lane;
                    let count = S::LANES.min(plan.outputs - output);
                    let filters = filters.add(output * strides.output + block * strides.term);
                    let mut place = Place { term: 0, row: 0, column: 0 };
                    // Of the run, and where the rest of a block is transposed too.
                    let (mut done, mut is_block) = (0, false);
                    let mut lanes = [T::default(); TILE_LANES * TILE_LANES];
                    for _ in 0..terms * plan.taps() {
                        let source = place.term * strides.term
                            + place.row * strides.row_tap
                            + place.column * strides.column_tap;
                        let offset = output * strides.output + block * strides.term + source;
                        let source = filters.add(source);
                        if done % S::LANES == 0 {
                            // Square blocks are transposed in registers.
                            let (left, stride) = (run - done, strides.output);
                            let is_inside = offset + (count - 1) * stride + S::LANES <= end;
                            is_block = left >= S::LANES || left >= SHORT_RUN && is_inside;
                            if is_block {
                                if !along_terms {
                                    for line in 0..count {
                                        simd.prefetch(source.wrapping_add(ahead + line * stride));
                                    }
                                }
                                simd.transpose(
                                    [count, S::LANES],
                                    source,
                                    stride,
                                    lanes.as_mut_ptr(),
                                    S::LANES,
                                );
                            }
                        }
                        let value = match is_block {
                            true => simd.load(lanes.as_ptr().add(done % S::LANES * S::LANES)),
                            false => {
                                let mask = simd.mask_between(0, count);
                                simd.gather_where(mask, source, strides.output as isize)
                            }
                        };
                        check = simd.mul_add(value, simd.splat(T::default()), check);
                        let to = plan.number(terms, place) * width + lane;
                        simd.store(target.add(to), value);
                        done = if done + 1 == run { 0 } else { done + 1 };
                        place.advance(&plan, terms, along_terms);
                    }
                }
            }
            let mut lanes = [T::default(); TILE_LANES];
            simd.store(lanes.as_mut_ptr(), check);
            lanes == [T::default(); TILE_LANES]
        }
    }
}

impl<T: Element> PackPanel<'_, T> {
    /// How far the weights are that will be read some steps later, which no processor foresees: the
    /// same of a later term.
    #[inline(always)]
    fn ahead(&self) -> usize {
        const STEPS: usize = 16;
        STEPS.div_ceil(self.plan.taps().max(1)) * self.pass.filter_strides.term
    }

    /// Behind the group's last weight; of no meaning where no tap has one.
    #[inline(always)]
    fn end(&self) -> usize {
        let (plan, strides) = (self.plan, self.pass.filter_strides);
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        last(plan.outputs, strides.output)
            + last(plan.terms, strides.term)
            + last(plan.row_taps, strides.row_tap)
            + last(plan.column_taps, strides.column_tap)
            + 1
    }

    /// Packs a block of terms where outputs follow on from one another; adds to `check`.
    ///
    /// # Safety
    /// The filters have the panel's outputs and the terms, the target the block.
    #[inline(always)]
    unsafe fn copy_block<S: Lanes<T>>(
        &self,
        simd: S,
        filters: *const T,
        terms: usize,
        target: *mut T,
        check: S::Vector,
    ) -> S::Vector {
        let (plan, strides) = (self.plan, self.pass.filter_strides);
        let (width, outputs) = (plan.lanes(self.panel), plan.channels(self.panel));
        let along_terms = strides.term < strides.column_tap;
        let ahead = self.ahead();
        let mut check = check;
        let mut place = Place { term: 0, row: 0, column: 0 };
        for _ in 0..terms * plan.taps() {
            let source = place.term * strides.term
                + place.row * strides.row_tap
                + place.column * strides.column_tap;
            // SAFETY: the caller answers for the filters and the target.
            unsafe {
                let source = filters.add(source);
                let target = target.add(plan.number(terms, place) * width);
                simd.prefetch(source.wrapping_add(ahead));
                for lane in (0..width).step_by(S::LANES) {
                    let count = S::LANES.min(outputs - lane);
                    let value = runs::load(simd, count, source.add(lane));
                    check = simd.mul_add(value, simd.splat(T::default()), check);
                    simd.store(target.add(lane), value);
                }
            }
            place.advance(&plan, terms, along_terms);
        }
        check
    }
}

impl Place {
    /// The next one in memory's order.
    #[inline(always)]
    fn advance(&mut self, plan: &PanelPlan, terms: usize, along_terms: bool) {
        if along_terms {
            self.term += 1;
            if self.term < terms {
                return;
            }
            self.term = 0;
        }
        self.column += 1;
        if self.column < plan.column_taps {
            return;
        }
        self.column = 0;
        self.row += 1;
        if self.row < plan.row_taps {
            return;
        }
        self.row = 0;
        self.term += usize::from(!along_terms);
    }
}
