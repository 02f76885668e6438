//! dx as a matrix product and the adjoint of im2col: the filters times dy are the cells of every window's
//! patch, and each element of dx is the sum of the cells that lie on it (col2im). What no window covers is
//! neither multiplied nor added, however far apart the windows are, and however few of them there are.
//! (Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
//! Processing", 2006, section 2.1, backward.)

use std::ptr;

use super::backward_data::BackwardData;
use super::filter_product::{FilterProduct, Filters, Results};
use super::patches::Patches;
use crate::context::Context;
use crate::error::Result;
use crate::gemm::kernel::Places;
use crate::gemm::pack::Depth;
use crate::im2col::{AddCells, ColLayout};
use crate::scratch::ScratchLen;
use crate::shape::{ConvShape, FilterLayout, Layout};
use crate::simd::{CACHE_LINE, Element, Level};
use crate::taps::Taps;

/// Cells that are made before they are added, where one image has no more: some megabytes. (Small in debug
/// builds, so that tests have several parts of a batch.)
const CELLS: usize = if cfg!(debug_assertions) { 1 << 12 } else { 1 << 21 };

/// Cells of an image beyond which they are not stored.
const MOST_CELLS: usize = 1 << 22;

/// Cells of an image's patches.
fn cells(shape: &ConvShape) -> usize {
    let pixels = shape.out_height * shape.out_width;
    shape.in_channels.saturating_mul(shape.window()).saturating_mul(pixels)
}

/// Whether an image's cells can be stored.
pub(super) fn fits(shape: &ConvShape) -> bool {
    cells(shape) <= MOST_CELLS
}

/// Images whose cells are stored together.
fn images(shape: &ConvShape) -> usize {
    (CELLS / cells(shape)).clamp(1, shape.batch.max(1))
}

/// What adds cells, which lie as the layout has them in im2col's patches.
fn add_cells<T>(shape: &ConvShape, beta: T) -> AddCells<'_, T> {
    let col_layout = match shape.layout {
        Layout::Nchw => ColLayout::PerImage,
        Layout::Nhwc => ColLayout::PatchRows,
    };
    AddCells { shape, col_layout, beta }
}

/// Where the cells lie in the shared memory, behind what any part's product uses there, and what a slot needs.
fn product_len<T: Element>(level: Level, shape: &ConvShape) -> ScratchLen {
    let of_part = |batch: usize| {
        let part = ConvShape { batch, ..*shape };
        product(&part, &BackwardData::<T>::of_nothing(), ptr::null_mut()).scratch_len(level)
    };
    // The last part may have fewer images, and be cut otherwise.
    let images = images(shape);
    let most = of_part(images).max(of_part((shape.batch - 1) % images + 1));
    let line = CACHE_LINE / size_of::<T>();
    ScratchLen { shared: most.shared.next_multiple_of(line), ..most }
}

pub(super) fn scratch_len<T: Element>(level: Level, shape: &ConvShape) -> ScratchLen {
    let ScratchLen { shared, per_slot } = product_len::<T>(level, shape);
    let memory = add_cells::<T>(shape, T::default()).memory_len();
    ScratchLen { shared: shared + images(shape) * cells(shape), per_slot: per_slot.max(memory) }
}

pub(super) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    dx: &mut [T],
) -> Result<()> {
    let level = context.level();
    let scratch = context.scratch::<T>(scratch_len::<T>(level, shape))?;
    // SAFETY: behind what products use.
    let col = unsafe { scratch.shared().add(product_len::<T>(level, shape).shared) };
    let (of_dy, of_dx) = (shape.output_strides[0], shape.input_strides[0]);
    for image in (0..shape.batch).step_by(images(shape)) {
        let some = ConvShape { batch: images(shape).min(shape.batch - image), ..*shape };
        let of_images = BackwardData {
            dy: &pass.dy[image * of_dy..],
            relu_output: pass.relu_output.map(|output| &output[image * of_dy..]),
            ..*pass
        };
        product(&some, &of_images, col).run(context, &scratch);
        // SAFETY: what the product wrote.
        let cells = unsafe { std::slice::from_raw_parts(col, some.batch * cells(shape)) };
        let dx = &mut dx[image * of_dx..];
        add_cells(&some, pass.beta).run(context, cells, dx, |slot| scratch.slot(slot));
    }
    Ok(())
}

/// What makes the cells of all images at `col`.
fn product<T: Element>(
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    col: *mut T,
) -> FilterProduct<T> {
    let [w_out, w_in, ..] = shape.filter_strides();
    let [dy_image, dy_channel, dy_row, dy_column] = shape.output_strides;
    let (taps, channels, pixels) =
        (shape.window(), shape.group_in, shape.out_height * shape.out_width);
    let patch = shape.in_channels * taps;
    // From pixel to pixel, from tap to tap and from channel to channel of an image's cells.
    let (of_pixel, of_tap, of_channel) = match shape.layout {
        Layout::Nchw => (1, pixels, taps * pixels),
        Layout::Nhwc => (patch, shape.in_channels, 1),
    };
    // The filters' cells in their own order.
    let (line_stride, outputs) = match shape.filter_layout {
        FilterLayout::Oihw => (1, nested(of_channel, (taps, of_tap))),
        _ => (w_in, nested(of_tap, (channels, of_channel))),
    };
    let pixel = |extent: usize| Taps {
        count: 1,
        step: 1,
        first_offset: 0,
        offset_step: 1,
        first_kernel: 0,
        kernel_step: 1,
        extent,
    };
    let patches = Patches {
        layout: shape.layout,
        source: pass.dy.as_ptr(),
        relu_output: pass.relu_output.map_or(ptr::null(), <[T]>::as_ptr),
        channels: shape.group_out,
        strides: [dy_channel, dy_row, dy_column],
        rows: pixel(shape.out_height),
        columns: pixel(shape.out_width),
        grid_width: shape.out_width,
    };
    FilterProduct {
        batch: shape.batch,
        groups: shape.groups,
        outputs: channels * taps,
        pixels,
        patches: patches.flattened(),
        image_stride: dy_image,
        filters: Filters {
            start: pass.w.as_ptr(),
            group_stride: shape.group_out * w_out,
            line_stride,
            depth: Depth::every(w_out),
        },
        results: Results {
            start: col,
            image_stride: pixels * patch,
            group_stride: channels * of_channel,
            outputs,
            pixels: Places::every(of_pixel),
        },
        alpha: pass.alpha,
        beta: T::default(),
        bias: ptr::null(),
        relu: false,
    }
}

/// Places `inner` apart, and `outer` apart every `width` of them.
fn nested(outer: usize, (width, inner): (usize, usize)) -> Places {
    match outer == width * inner {
        true => Places::every(inner),
        false => Places { width, outer, inner },
    }
}
