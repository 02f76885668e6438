//! Pixels in the lanes: a band of rows of a group's channels at a time, copied with its padding to
//! scratch memory, and in NHWC transposed, to all of its outputs.

use super::band::Band;
use super::{PHASES, TASK_WORK, depthwise, pixels};
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::scratch::ScratchLen;
use crate::simd::{Element, Kernel, Lanes};

/// How some passes are cut, by the shape alone.
#[derive(Clone, Copy)]
struct Plan {
    band: Band,
    /// Bands of a group.
    bands: usize,
    /// Bands of a task, but for the last.
    per_task: usize,
    /// Elements of a pass's packed filters at the most.
    filters_len: usize,
}

impl Plan {
    fn new<T: Element>(passes: &[Gather<T>]) -> Self {
        let pass = &passes[0];
        let most = |of: fn(&Gather<T>) -> usize| passes.iter().map(of).max().unwrap_or(0);
        let height = most(|pass| pass.grid_height);
        let width = most(|pass| pass.grid_width);
        let taps = passes.iter().map(|pass| (pass.rows, pass.columns));
        let band = Band::new::<T>(taps, pass.terms, [height, width]);
        let work = passes.iter().map(Gather::row_work).sum::<usize>() * band.grid_rows;
        Plan {
            band,
            bands: height.div_ceil(band.grid_rows),
            per_task: (TASK_WORK / work).max(1),
            filters_len: pass.groups * most(pixels::filters_len),
        }
    }

    fn scratch_len<T>(&self, passes: &[Gather<T>]) -> ScratchLen {
        ScratchLen {
            shared: passes.len() * self.filters_len,
            per_slot: passes[0].terms * self.band.len(),
        }
    }
}

pub(super) fn scratch_len<T: Element>(passes: &[Gather<T>]) -> ScratchLen {
    Plan::new(passes).scratch_len(passes)
}

/// Runs gathering passes from the same source to different places of the same rows. A band is copied
/// once for all of them.
pub(super) fn gather<T: Element>(context: &Context, passes: &[Gather<T>]) -> Result<()> {
    let plan = Plan::new(passes);
    let pass = &passes[0];
    let scratch = context.scratch::<T>(plan.scratch_len(passes))?;
    let mut products = [pixels::Products::none(); PHASES];
    for (number, (pass, products)) in passes.iter().zip(&mut products).enumerate() {
        if depthwise::fits(pass) {
            continue;
        }
        *products = pixels::Products::new(pass, &plan.band);
        // SAFETY: the scratch memory has the filters of every pass.
        unsafe { pixels::pack(pass, scratch.shared().add(number * plan.filters_len)) };
    }
    let count = pass.batch * pass.groups * plan.bands;
    context.run(count.div_ceil(plan.per_task), &|slot, index| {
        let first = index * plan.per_task;
        let kernel = GatherBands {
            passes,
            products: &products,
            plan,
            first,
            end: count.min(first + plan.per_task),
            filters: scratch.shared(),
            copies: scratch.slot(slot),
        };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Some of the bands of all images and groups.
struct GatherBands<'a, T> {
    passes: &'a [Gather<T>],
    products: &'a [pixels::Products],
    plan: Plan,
    first: usize,
    end: usize,
    /// Of all passes and groups, packed.
    filters: *const T,
    /// Of the source channels of a group.
    copies: *mut T,
}

/// A band of one group of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub image: usize,
    pub group: usize,
    pub row: usize,
    pub rows: usize,
}

impl<T: Element> Kernel<T> for GatherBands<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Plan { band, bands, filters_len, .. } = self.plan;
        for number in self.first..self.end {
            let (rest, part) = (number / bands, number % bands);
            let groups = self.passes[0].groups;
            let (image, group) = (rest / groups, rest % groups);
            let row = part * band.grid_rows;
            // SAFETY: the tensors have the image, the group and the rows; the filters are packed.
            unsafe {
                if !self.passes.iter().all(depthwise::fits) {
                    self.copy(simd, Place { image, group, row, rows: band.grid_rows });
                }
                for (number, (pass, products)) in self.passes.iter().zip(self.products).enumerate()
                {
                    let rows = band.grid_rows.min(pass.grid_height.saturating_sub(row));
                    let place = Place { image, group, row, rows };
                    if depthwise::fits(pass) {
                        depthwise::gather(simd, *pass, place);
                    } else {
                        let filters = self.filters.add(number * filters_len);
                        pixels::gather(simd, *pass, &band, products, place, filters, self.copies);
                    }
                }
            }
        }
    }
}

impl<T: Element> GatherBands<'_, T> {
    /// Copies the source's bands.
    ///
    /// # Safety
    /// The source has the place.
    #[inline(always)]
    unsafe fn copy<S: Lanes<T>>(&self, simd: S, place: Place) {
        let (pass, band) = (&self.passes[0], self.plan.band);
        let [of_image, of_channel, of_row, of_column] = pass.source_strides;
        let rows = (place.row, place.rows);
        let first = place.image * of_image + place.group * pass.terms * of_channel;
        // SAFETY: the caller answers for the source; there is a copy for each term.
        unsafe {
            if of_column > 1 {
                let [source, relu_output] = pass.source_at(first);
                let (strides, copies) = ([of_row, of_column], (self.copies, pass.terms));
                return band.fill_nhwc(simd, source, relu_output, strides, rows, copies);
            }
            for term in 0..pass.terms {
                let [source, relu_output] = pass.source_at(first + term * of_channel);
                let copy = self.copies.add(term * band.len());
                band.fill(simd, source, relu_output, of_row, rows, copy);
            }
        }
    }
}
