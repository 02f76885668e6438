//! Direct convolution: no patch is ever stored.
//!
//! Where there are enough channels they are the lanes, on both layouts. With few outputs the pixels are, and
//! in NCHW with few terms too, as for depthwise convolutions, one input channel per group. NHWC there has the
//! channels of both tensors in the lanes, and so it has those of groups of few. Forward and backward data are
//! one pass each of these: both gather, over taps, from x and from a phase of dy. dw has output channels in
//! the lanes too; where these are few, NHWC has the input channels there, and NCHW the pixels of large planes.

mod band;
mod band_copy;
mod channel_panel;
pub(super) mod channel_weights;
mod channel_weights_parts;
mod channel_weights_tile;
mod channels;
mod depthwise;
mod depthwise_panels;
mod depthwise_phases;
mod depthwise_weights;
pub(super) mod exchanged_weights;
mod nhwc_cells;
mod nhwc_depthwise;
mod nhwc_groups;
mod nhwc_pixels;
mod nhwc_row;
mod nhwc_tap_sums;
mod nhwc_weights;
mod nhwc_window;
mod panel_copies;
mod panels;
mod pixel_lanes;
mod pixels;
mod plane_weights;
mod strip;
pub(super) mod weights;

use std::ptr;

use super::backward_data::BackwardData;
use super::choice::Choice;
use super::gather::{self, Gather};
use crate::context::Context;
use crate::error::Result;
use crate::scratch::ScratchLen;
use crate::shape::{Activation, ConvShape, Layout};
use crate::simd::{Element, Level};
use depthwise_panels::Panels;

pub(super) use band::fits as pixel_lanes_fit;
pub(super) use nhwc_depthwise::fits as nhwc_depthwise_fits;
pub(super) use nhwc_groups::fits as nhwc_groups_fit;
pub(super) use weights::fits_few_outputs as few_outputs_fit;

/// A task has at least this many multiply-adds, where there are so many.
const TASK_WORK: usize = 1 << 17;

/// Phases of dx that are run together: both columns of some rows, where the stride is 2.
const PHASES: usize = 4;

/// Cuts `total` into as few parts of at most `most` as can be, and as even as they can be: a tile with
/// little to do does not fill the processor. Yields (first, count).
#[inline(always)]
fn even_parts(total: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = total.div_ceil(most);
    let (count, longer) = (total / parts.max(1), total % parts.max(1));
    (0..parts)
        .map(move |part| (part * count + part.min(longer), count + usize::from(part < longer)))
}

/// Which of the direct kernels a pass takes.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    choice: Choice,
    layout: Layout,
}

impl Kind {
    pub fn new(choice: Choice, shape: &ConvShape) -> Self {
        Kind { choice, layout: shape.layout }
    }

    /// Runs passes that write to different places of the same rows. False, and nothing written, when
    /// `finite` filters are asked for, some weight is not, and the kernel skips padded taps.
    fn gather<T: Element>(
        self,
        context: &Context,
        passes: &[Gather<T>],
        finite: bool,
    ) -> Result<bool> {
        match (self.choice, self.layout) {
            (Choice::Channels, _) => return channels::gather(context, passes, finite),
            (Choice::Groups, _) | (Choice::Depthwise, Layout::Nhwc) => {
                nhwc_depthwise::gather(context, passes)?;
            }
            _ => pixel_lanes::gather(context, passes)?,
        }
        Ok(true)
    }

    fn scratch_len<T: Element>(self, level: Level, passes: &[Gather<T>]) -> ScratchLen {
        match (self.choice, self.layout) {
            (Choice::Channels, _) => channels::scratch_len(level, passes),
            (Choice::Groups, _) | (Choice::Depthwise, Layout::Nhwc) => {
                nhwc_depthwise::scratch_len(passes)
            }
            _ => pixel_lanes::scratch_len(passes),
        }
    }
}

/// The forward pass. False, and nothing written, when a weight is not finite and the kernel skips
/// padding: it counts as zeros, which would make NaN of that weight.
#[allow(clippy::too_many_arguments, reason = "those of the forward pass")]
pub(super) fn forward<T: Element>(
    context: &Context,
    shape: &ConvShape,
    kind: Kind,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Result<bool> {
    let pass = gather::forward(shape, x, w, bias, activation, y);
    if takes_panels(kind, shape, &pass) {
        Panels::forward(shape, pass).run(context)?;
        return Ok(true);
    }
    kind.gather(context, &[pass], shape.is_padded)
}

pub(super) fn forward_scratch<T: Element>(
    level: Level,
    shape: &ConvShape,
    kind: Kind,
) -> ScratchLen {
    let pass = gather::forward::<T>(shape, &[], &[], None, Activation::None, &mut []);
    if takes_panels(kind, shape, &pass) {
        return Panels::forward(shape, pass).scratch_len();
    }
    kind.scratch_len(level, &[pass])
}

pub(super) fn backward_data<T: Element>(
    context: &Context,
    shape: &ConvShape,
    kind: Kind,
    pass: &BackwardData<'_, T>,
    dx: &mut [T],
) -> Result<()> {
    if kind.choice == Choice::Depthwise && depthwise_phases::fits(shape) {
        depthwise_phases::run(context, shape, pass, dx);
        return Ok(());
    }
    if takes_panels(kind, shape, &first_phase(shape, pass)) {
        return Panels::backward(shape, pass, dx).run(context);
    }
    for_phases(shape, pass, dx, |phases| kind.gather(context, phases, false).map(drop))
}

/// With a ReLU's output, whose masking may take a copy.
pub(super) fn backward_data_scratch<T: Element>(
    level: Level,
    shape: &ConvShape,
    kind: Kind,
) -> Result<ScratchLen> {
    let mut most = ScratchLen::default();
    if kind.choice == Choice::Depthwise && depthwise_phases::fits(shape) {
        return Ok(most);
    }
    let pass = BackwardData::<T>::of_nothing();
    if takes_panels(kind, shape, &first_phase(shape, &pass)) {
        return Ok(Panels::backward(shape, &pass, &mut []).scratch_len());
    }
    for_phases(shape, &pass, &mut [], |phases| {
        most = most.max(kind.scratch_len(level, phases));
        Ok(())
    })?;
    Ok(most)
}

/// Whether passes, of which this is the first, go by panels.
fn takes_panels<T>(kind: Kind, shape: &ConvShape, pass: &Gather<T>) -> bool {
    let unrolled = depthwise::fits(pass);
    let fits = kind.choice == Choice::Depthwise && depthwise_panels::fits(shape);
    fits && panel_copies::pay(shape, pass.grid_width, unrolled)
}

fn first_phase<T: Element>(shape: &ConvShape, pass: &BackwardData<'_, T>) -> Gather<T> {
    gather::backward_phase(shape, pass, ptr::null_mut(), [0, 0])
}

/// Calls `run` with the phases of dx, some at a time.
fn for_phases<T: Element>(
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    dx: &mut [T],
    mut run: impl FnMut(&[Gather<T>]) -> Result<()>,
) -> Result<()> {
    let rows = shape.height.stride.min(shape.height.input);
    let columns = shape.width.stride.min(shape.width.input);
    let dx = dx.as_mut_ptr();
    let phase = |number: usize| {
        gather::backward_phase(shape, pass, dx, [number / columns, number % columns])
    };
    for first in (0..rows * columns).step_by(PHASES) {
        let mut phases = [phase(first); PHASES];
        let count = PHASES.min(rows * columns - first);
        for (number, gather) in phases.iter_mut().enumerate().take(count) {
            *gather = phase(first + number);
        }
        run(&phases[..count])?;
    }
    Ok(())
}
