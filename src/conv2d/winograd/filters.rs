//! The filters at the points: packed in panels of target channels, as the products read them.

use std::ops::Range;

use super::plan::Plan;
use super::transforms::{self, POINTS};
use crate::conv2d::gather::Gather;
use crate::gemm::pack::{Depth, PackMatrix, PanelShape};
use crate::simd::{Element, Kernel, Lanes};

/// Transforms the filters of up to `FILTER_TERMS` source channels to one panel of target channels.
pub(super) struct TransformFilters<'a, T, const TAPS: usize> {
    pub pass: &'a Gather<T>,
    pub plan: &'a Plan,
    pub group: usize,
    pub panel: usize,
    pub terms: Range<usize>,
    /// The first source channel that is kept.
    pub first_kept: usize,
    /// Room for the filters as they are.
    pub unpacked: *mut T,
    /// All panels that are kept.
    pub target: *mut T,
}

impl<T: Element, const TAPS: usize> Kernel<T> for TransformFilters<'_, T, TAPS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (pass, plan) = (self.pass, self.plan);
        let strides = pass.filter_strides;
        let first = self.panel * plan.panel;
        let first_term = self.terms.start;
        let terms = self.terms.len();
        // Read along what is contiguous.
        let [term_step, row_step, column_step] =
            [strides.term, strides.row_tap, strides.column_tap].map(|stride| stride as isize);
        let terms_inside = strides.term == 1;
        let depth = match terms_inside {
            true => Depth::nested([TAPS, TAPS, terms], [row_step, column_step, term_step]),
            false => Depth::nested([terms, TAPS, TAPS], [term_step, row_step, column_step]),
        };
        let (of_term, of_tap) = match terms_inside {
            true => (plan.panel, terms * plan.panel),
            false => (TAPS * TAPS * plan.panel, plan.panel),
        };
        let start = self.group * strides.group + first * strides.output + first_term * strides.term;
        let pack = PackMatrix {
            source: pass.filters.wrapping_add(start),
            relu_output: std::ptr::null(),
            line_stride: strides.output,
            depth,
            lines: plan.panel.min(pass.outputs - first),
            start: 0,
            count: terms * TAPS * TAPS,
            // With zeros up to the whole panel.
            panels: PanelShape { width: plan.panel, granule: plan.panel },
            target: self.unpacked,
            panel_stride: 0,
        };
        pack.run(simd);
        let (place, of_point) = plan.filter_place(self.panel);
        let target = self.target.wrapping_add(place);
        // The taps in the order in which they read the source: dx reads dy from the last one on.
        let (first_tap, tap_step) = match pass.rows.offset_step < 0 {
            true => ((TAPS * TAPS - 1) * of_tap, -(of_tap as isize)),
            false => (0, of_tap as isize),
        };
        for term in 0..terms {
            for lane in (0..plan.panel).step_by(S::LANES) {
                let source = self.unpacked.wrapping_add(first_tap + term * of_term + lane);
                let target =
                    target.wrapping_add((first_term - self.first_kept + term) * plan.panel + lane);
                // SAFETY: the unpacked filters have the term's taps, the panel its points.
                unsafe { transform::<T, S, TAPS>(simd, source, tap_step, target, of_point) };
            }
        }
    }
}

/// Transforms one filter for a vector of target channels.
///
/// # Safety
/// The source has TAPS * TAPS vectors `of_tap` apart, the target POINTS * POINTS vectors `of_point` apart.
#[inline(always)]
unsafe fn transform<T: Element, S: Lanes<T>, const TAPS: usize>(
    simd: S,
    source: *const T,
    of_tap: isize,
    target: *mut T,
    of_point: usize,
) {
    let mut rows = [[simd.splat(T::default()); TAPS]; POINTS];
    // SAFETY: as the caller answers for.
    unsafe {
        for column in 0..TAPS {
            let mut taps = [simd.splat(T::default()); TAPS];
            for (row, tap) in taps.iter_mut().enumerate() {
                *tap = simd.load(source.offset((row * TAPS + column) as isize * of_tap));
            }
            let points = transforms::evaluate(simd, taps);
            for (row, point) in rows.iter_mut().zip(points) {
                row[column] = point;
            }
        }
        for (row, &taps) in rows.iter().enumerate() {
            let points = transforms::evaluate(simd, taps);
            for (column, &point) in points.iter().enumerate() {
                simd.store(target.add((row * POINTS + column) * of_point), point);
            }
        }
    }
}
