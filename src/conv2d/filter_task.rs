//! What a task of a product of filters and patches does: it packs some pixels' patches, or reads them in place,
//! and multiplies.

use super::fill_by_cell::FillByCell;
use super::filter_plan::{Plan, pixel_stride};
use super::filter_product::FilterProduct;
use super::patches::{Block, FillByPixel, Patches};
use crate::gemm::ahead::Ahead;
use crate::gemm::kernel::{BlockProduct, Order, Panels, Places};
use crate::gemm::pack::{Depth, PackMatrix};
use crate::gemm::transposed::Transposed;
use crate::gemm::update::{Bias, Update};
use crate::runs::Transpose;
use crate::shape::Layout;
use crate::simd::{CACHE_LINE, Element, Level};

/// Channels a multiple of this apart share one set in sixteen of a cache's, or fewer.
const COMPETING_BYTES: usize = 1024;

/// The deepest products, and the least results in bytes, whose rows are asked for before they are stored. (Of
/// fewer results, or deeper products, the processor sees to that in time.)
const SHORT_DEPTH: usize = 24;
const MANY_RESULTS: usize = 24 << 20;

/// Some outputs of some pixels of one image and group.
pub(super) struct Task<'a, T> {
    pub product: &'a FilterProduct<T>,
    pub level: Level,
    pub plan: &'a Plan,
    pub slot: *mut T,
    /// The image's and group's.
    pub patches: Patches<T>,
    /// First and number.
    pub outputs: (usize, usize),
    pub pixels: (usize, usize),
    /// Where the group's first output of the image's first pixel lies.
    pub target: *mut T,
    pub bias: *const T,
}

impl<T: Element> Task<'_, T> {
    /// Multiplies a depth block with its packed filters, pixels that are read in place and others in turn.
    pub fn multiply(&self, (cell, cells): (usize, usize), filters: *const T, mut ahead: Ahead<T>) {
        let Task { product, plan, pixels: (pixel, pixels), .. } = *self;
        let filters = Panels::packed(filters, plan.filters.width, cells);
        let mut block = Block { pixel, pixels, cell, cells };
        // Up to the first whole cache line of results.
        if !plan.outputs_in_lanes && pixel == 0 && product.lead() > 0 {
            let head = (CACHE_LINE / size_of::<T>() - product.lead()).min(pixels);
            self.multiply_packed(Block { pixels: head, ..block }, filters, Ahead::none());
            block = Block { pixel: head, pixels: pixels - head, ..block };
        }
        if let Some(panels) = in_place(&self.patches, block, plan) {
            // The last pixels, if they do not fill a panel of vectors, are packed.
            let whole = match plan.outputs_in_lanes {
                true => block.pixels,
                false => block.pixels / panels.width * panels.width,
            };
            if whole > 0 {
                self.multiply_panels(Block { pixels: whole, ..block }, filters, panels, ahead);
                ahead = Ahead::none();
            }
            block = Block { pixel: block.pixel + whole, pixels: block.pixels - whole, ..block };
        }
        if block.pixels > 0 {
            self.multiply_packed(block, filters, ahead);
        }
    }

    fn multiply_packed(&self, block: Block, filters: Panels<T>, ahead: Ahead<T>) {
        let panels = match self.patches.layout {
            Layout::Nchw => pack_by_cell(self.level, &self.patches, block, self.plan, self.slot),
            Layout::Nhwc => fill_by_pixel(self.level, &self.patches, block, self.plan, self.slot),
        };
        self.multiply_panels(block, filters, panels, ahead);
    }

    fn multiply_panels(
        &self,
        block: Block,
        filters: Panels<T>,
        patches: Panels<T>,
        ahead: Ahead<T>,
    ) {
        let FilterProduct { alpha, beta, results, relu, .. } = *self.product;
        let plan = self.plan;
        let last = block.cell + block.cells == plan.depth;
        let product = BlockProduct {
            depth: block.cells,
            rows: self.outputs.1,
            columns: block.pixels,
            row_panels: filters,
            column_panels: patches,
            target: self.target,
            first_row: self.outputs.0,
            first_column: block.pixel,
            row_places: results.outputs,
            column_places: results.pixels,
            update: Update {
                alpha,
                beta: if block.cell == 0 { beta } else { T::from_f64(1.0) },
                bias: match last && !self.product.bias.is_null() {
                    true => Bias::Rows(self.bias),
                    false => Bias::None,
                },
                relu: last && relu,
                streams: plan.streams,
            },
            transposed: None,
            ahead: [ahead, Ahead::none()],
            asks_for_rows: block.cells <= SHORT_DEPTH && self.has_many_results() && !plan.streams,
        };
        let mut product = if plan.outputs_in_lanes { product.transposed() } else { product };
        if plan.transposes {
            product.target =
                self.sums().wrapping_sub(self.pixels.0 * self.sums_stride() + self.outputs.0);
            product.row_places = Places::every(self.sums_stride());
            product.column_places = Places::every(1);
            let to = Transposed { target: self.target, stride: results.outputs.inner };
            product.transposed = last.then_some(to);
        }
        T::dispatch(self.level, product);
    }

    /// Whether the product has so many results.
    fn has_many_results(&self) -> bool {
        let FilterProduct { batch, groups, outputs, pixels, .. } = *self.product;
        outputs.saturating_mul(groups * batch * pixels) >= MANY_RESULTS / size_of::<T>()
    }

    /// The sums of results that are going to be transposed: those of a pixel side by side.
    fn sums(&self) -> *mut T {
        let Plan { patches_len, own_filters_len, .. } = self.plan;
        self.slot.wrapping_add(patches_len + own_filters_len)
    }

    /// From pixel to pixel of these.
    fn sums_stride(&self) -> usize {
        self.plan.grid.task_columns
    }

    /// Fills the sums with what the results are before.
    pub fn old_results(&self) -> Transpose<T> {
        let of_output = self.product.results.outputs.inner;
        Transpose {
            extents: [self.outputs.1, self.pixels.1],
            source: self.target.wrapping_add(self.outputs.0 * of_output + self.pixels.0),
            source_stride: of_output,
            target: self.sums(),
            target_stride: self.sums_stride(),
        }
    }
}

/// A block of patches as panels of the image, where they are a matrix in memory that is read as fast as
/// a packed one.
fn in_place<T: Element>(patches: &Patches<T>, block: Block, plan: &Plan) -> Option<Panels<T>> {
    let first = patches.matrix(block)?;
    let [of_channel, _, of_pixel] = patches.strides;
    let start = patches.source.wrapping_add(first + block.cell * of_channel);
    let channel_bytes = of_channel * size_of::<T>();
    // Neither do vectors straddle cache lines, nor all channels' compete for a few sets. (Pixels that are
    // rows are read one at a time.)
    let aligned = (start.addr() | channel_bytes).is_multiple_of(CACHE_LINE);
    let fast = plan.outputs_in_lanes || aligned && !channel_bytes.is_multiple_of(COMPETING_BYTES);
    if !patches.relu_output.is_null() || !fast {
        return None;
    }
    Some(Panels {
        start,
        width: plan.patches.width,
        stride: plan.patches.width * of_pixel,
        order: Order::InPlace { depth: of_channel, line: of_pixel },
    })
}

/// Packs a block of NCHW patches into panels at `slot`.
fn pack_by_cell<T: Element>(
    level: Level,
    patches: &Patches<T>,
    block: Block,
    plan: &Plan,
    slot: *mut T,
) -> Panels<T> {
    let panel_stride = plan.panel_stride(block.cells);
    match patches.matrix(block) {
        // A matrix in memory already: lines of pixels, contiguous at each channel.
        Some(first) => {
            let pack = PackMatrix {
                // SAFETY: the block's first pixel lies within the image.
                source: unsafe { patches.source.add(first) },
                relu_output: match patches.relu_output.is_null() {
                    true => patches.relu_output,
                    // SAFETY: as above.
                    false => unsafe { patches.relu_output.add(first) },
                },
                line_stride: 1,
                depth: Depth::every(patches.strides[0]),
                lines: block.pixels,
                start: block.cell,
                count: block.cells,
                panels: plan.patches,
                target: slot,
                panel_stride,
            };
            T::dispatch(level, pack);
        }
        None => {
            let fill = FillByCell {
                patches: *patches,
                block,
                panels: plan.patches,
                target: slot,
                panel_stride,
            };
            T::dispatch(level, fill);
        }
    }
    let packed = Panels::packed(slot, plan.patches.width, block.cells);
    Panels { stride: panel_stride, ..packed }
}

/// Fills `slot` with a block of NHWC patches, one pixel's after the other's.
fn fill_by_pixel<T: Element>(
    level: Level,
    patches: &Patches<T>,
    block: Block,
    plan: &Plan,
    slot: *mut T,
) -> Panels<T> {
    let stride = pixel_stride::<T>(block.cells);
    let fill = FillByPixel { patches: *patches, block, target: slot, stride, padding: 0 };
    T::dispatch(level, fill);
    Panels {
        start: slot,
        width: plan.patches.width,
        stride: plan.patches.width * stride,
        order: Order::InPlace { depth: 1, line: stride },
    }
}
