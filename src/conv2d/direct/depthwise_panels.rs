//! Depthwise with any window and stride: panels of channels are copied, some rows at a time, so that the
//! kernel of NHWC has its lanes full in NCHW too, however short the rows are, and meets no edges.

use std::ptr;

use super::TASK_WORK;
use super::nhwc_depthwise::{self, Filters};
use super::nhwc_window::no_lines;
use super::panel_copies::{self, Band, Bands, CHANNELS, from_panel, shape_of_panel};
use crate::context::Context;
use crate::conv2d::backward_data::BackwardData;
use crate::conv2d::gather::{self, Gather};
use crate::error::Result;
use crate::scratch::ScratchLen;
use crate::shape::{Activation, ConvShape, Layout};
use crate::simd::{Element, Kernel, Lanes};

/// The most phases of dx: those of a stride of 4.
const MOST_PHASES: usize = 16;

/// Whether a convolution is one of these.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let phases = shape.height.stride.saturating_mul(shape.width.stride);
    phases <= MOST_PHASES && nhwc_depthwise::fits(shape) && panel_copies::fits(shape)
}

/// The passes of a direction, and how they are cut, by the shape alone.
pub(super) struct Panels<T> {
    /// Between the tensors, of which the first has the target's first element.
    passes: [Gather<T>; MOST_PHASES],
    /// The same between the copies of a panel, and where each begins in the target's.
    copied: [Gather<T>; MOST_PHASES],
    places: [usize; MOST_PHASES],
    count: usize,
    /// Whether results go where they belong at once: each pixel's channels lie side by side there.
    in_place: bool,
    bands: Bands,
    panels: usize,
    /// Bands of panels of images of a task, but for the last.
    per_task: usize,
}

impl<T: Element> Panels<T> {
    /// The forward pass.
    pub fn forward(shape: &ConvShape, pass: Gather<T>) -> Self {
        let copied =
            gather::forward::<T>(&shape_of_panel(shape), &[], &[], None, Activation::None, &mut []);
        let target = [shape.out_height, shape.out_width];
        Self::new(shape.layout, 1, target, 1, |_| ([pass, copied], 0))
    }

    /// The backward pass to dx.
    pub fn backward(shape: &ConvShape, pass: &BackwardData<'_, T>, dx: &mut [T]) -> Self {
        let (height, width) = (&shape.height, &shape.width);
        let columns = width.stride.min(width.input);
        let count = height.stride.min(height.input) * columns;
        let of_panel = shape_of_panel(shape);
        let dx = dx.as_mut_ptr();
        Self::new(shape.layout, count, [height.input, width.input], height.stride, |number| {
            let phase = [number / columns, number % columns];
            let plain = BackwardData { relu_output: None, ..BackwardData::of_nothing() };
            let passes = [
                gather::backward_phase(shape, pass, dx, phase),
                gather::backward_phase(&of_panel, &plain, ptr::null_mut(), phase),
            ];
            (passes, (phase[0] * width.input + phase[1]) * CHANNELS)
        })
    }

    fn new(
        layout: Layout,
        count: usize,
        target: [usize; 2],
        target_step: usize,
        phase: impl Fn(usize) -> ([Gather<T>; 2], usize),
    ) -> Self {
        let ([first, copied], _) = phase(0);
        let (mut passes, mut all_copied) = ([first; MOST_PHASES], [copied; MOST_PHASES]);
        let mut places = [0; MOST_PHASES];
        for number in 1..count {
            ([passes[number], all_copied[number]], places[number]) = phase(number);
        }
        let taps = passes[..count].iter().map(|pass| (pass.rows, pass.columns));
        // No phase has a higher or wider grid than the first.
        let grid = [first.grid_height, first.grid_width];
        let bands = Bands::new::<T>(layout, taps, grid, target, target_step);
        let in_place = layout == Layout::Nhwc;
        if in_place {
            all_copied = passes;
            for copy in &mut all_copied {
                copy.relu_output = ptr::null();
                copy.source_strides[3] = CHANNELS;
            }
        }
        for copy in &mut all_copied {
            copy.source_strides[2] = bands.row_len() * CHANNELS;
        }
        let work = passes[..count].iter().map(Gather::row_work).sum::<usize>() * CHANNELS;
        Panels {
            passes,
            copied: all_copied,
            places,
            count,
            in_place,
            bands,
            panels: first.groups.div_ceil(CHANNELS),
            per_task: (TASK_WORK / (work * bands.grid_rows)).max(1),
        }
    }

    fn passes(&self) -> &[Gather<T>] {
        &self.passes[..self.count]
    }

    pub fn scratch_len(&self) -> ScratchLen {
        ScratchLen {
            shared: Filters::len(self.passes()),
            per_slot: self.bands.source_len() + self.bands.target_len(),
        }
    }

    pub fn run(&self, context: &Context) -> Result<()> {
        let scratch = context.scratch::<T>(self.scratch_len())?;
        // SAFETY: the scratch memory has the filters of every pass.
        let filters = unsafe { Filters::pack(context, self.passes(), &scratch) };
        let count = self.passes[0].batch * self.panels * self.bands.count;
        context.run(count.div_ceil(self.per_task), &|slot, index| {
            let first = index * self.per_task;
            let kernel = GatherPanels {
                panels: self,
                filters: &filters,
                first,
                end: count.min(first + self.per_task),
                source: scratch.slot(slot),
                target: scratch.slot(slot).wrapping_add(self.bands.source_len()),
            };
            T::dispatch(context.level(), kernel);
        });
        Ok(())
    }
}

/// Some of the bands of all panels of all images.
struct GatherPanels<'a, T> {
    panels: &'a Panels<T>,
    filters: &'a Filters<T>,
    first: usize,
    end: usize,
    /// Copies of a panel's.
    source: *mut T,
    target: *mut T,
}

impl<T: Element> Kernel<T> for GatherPanels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Panels { passes, places, count, in_place, bands, panels, .. } = self.panels;
        let mut lines = no_lines();
        let pass = &passes[0];
        let mut copied = self.panels.copied;
        let copied = &mut copied[..*count];
        for (copy, place) in copied.iter_mut().zip(places) {
            copy.source = self.source;
            copy.target = self.target.wrapping_add(*place);
        }
        for number in self.first..self.end {
            let (rest, band) = (number / bands.count, bands.band(number % bands.count));
            let (image, first) = (rest / panels, rest % panels * CHANNELS);
            let channels = CHANNELS.min(pass.groups - first);
            for (copy, pass) in copied.iter_mut().zip(passes) {
                [copy.rows, copy.columns] = band.taps(&pass.rows, &pass.columns);
                if *in_place {
                    let [of_image, _, of_row, _] = pass.target_strides;
                    let place = image * of_image + first + band.grid.0 * of_row;
                    copy.target = pass.target.wrapping_add(place);
                    copy.groups = channels;
                    if !pass.bias.is_null() {
                        copy.bias = pass.bias.wrapping_add(first);
                    }
                }
                copy.grid_height = pass.grid_height.min(band.grid.1).saturating_sub(band.grid.0);
            }
            // SAFETY: the tensors have the band, and its target is this task's; there is memory for the
            // copies.
            unsafe {
                self.copy_source(simd, pass, [image, first, channels], &band);
                let rows = (0, band.grid.1 - band.grid.0);
                self.filters.rows(simd, copied, 0, rows, first, &mut lines);
                if !in_place {
                    self.write_target(simd, pass, [image, first, channels], &band);
                }
            }
        }
    }
}

impl<T: Element> GatherPanels<'_, T> {
    /// Copies what a band reads of some channels of an image.
    ///
    /// # Safety
    /// The source has them, and there is memory for the copy.
    #[inline(always)]
    unsafe fn copy_source<S: Lanes<T>>(
        &self,
        simd: S,
        pass: &Gather<T>,
        [image, channel, channels]: [usize; 3],
        band: &Band,
    ) {
        let [of_image, of_channel, of_row, of_column] = pass.source_strides;
        let offset = image * of_image + channel * of_channel + band.source.0 * of_row;
        let (source, width) = (pass.source_at(offset), pass.columns.extent);
        let strides = [of_channel, of_row, of_column];
        // SAFETY: the caller answers for the channels.
        unsafe { band.copy(simd, source, strides, channels, width, self.source) };
    }

    /// Writes the results of a band.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn write_target<S: Lanes<T>>(
        &self,
        simd: S,
        pass: &Gather<T>,
        [image, channel, channels]: [usize; 3],
        band: &Band,
    ) {
        let [of_image, of_channel, ..] = pass.target_strides;
        let width = self.panels.bands.target_width();
        let (first, end) = band.target;
        let offset = image * of_image + channel * of_channel + first * width;
        let (shape, target) = ([channels, (end - first) * width], pass.target.wrapping_add(offset));
        // SAFETY: the caller answers for the target.
        unsafe { from_panel(simd, pass, self.target, shape, channel, (target, of_channel)) };
    }
}
