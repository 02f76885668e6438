//! The panels that dw's products read: dy and the patches of a depth block, packed, and db summed from them.

use super::fill_by_cell::FillByCell;
use super::gradient::Gradient;
use super::patches::{Block, FillByPixel, Patches};
use super::weights_plan::{DepthBlock, Plan, Task};
use crate::gemm::ahead::Ahead;
use crate::gemm::kernel::{Order, Panels};
use crate::gemm::pack::{Depth, PackMatrix, PanelShape};
use crate::pool2d::Region;
use crate::shape::Layout;
use crate::simd::{Element, Kernel, Lanes, Level};

/// Packs dy, masked, into panels of outputs with the block's pixels as their depth.
pub(super) fn pack_gradient<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    block: DepthBlock,
    &Task { group, outputs: (output, outputs), .. }: &Task,
    target: *mut T,
    region: *mut T,
) {
    let shape = plan.shape;
    let channel = group * shape.group_out + output;
    let first_row = block.pixel / shape.out_width;
    let rows = first_row..(block.pixel + block.pixels).div_ceil(shape.out_width);
    for image in 0..block.images {
        let of = Region {
            image: block.image + image,
            channels: channel..channel + outputs,
            rows: rows.clone(),
        };
        // SAFETY: dy has the region, and there is memory for it.
        let view = unsafe { plan.inputs.gradient.view(shape, &of, region) };
        let [image_stride, channel_stride, _, pixel_stride] = view.strides;
        let [source, relu_output] = view.at(of.image * image_stride + channel * channel_stride);
        // Images follow one another in each panel: the panel's lines differ only in the last.
        pack_in_blocks(
            level,
            PackMatrix {
                source,
                relu_output,
                line_stride: channel_stride,
                depth: Depth::every(pixel_stride),
                lines: outputs,
                start: block.pixel,
                count: block.pixels,
                panels: plan.output_panels,
                target,
                panel_stride: plan.output_panels.width * block.depth(),
            },
            image * block.pixels,
        );
    }
}

/// Packs at place `behind` of the panels' depth.
fn pack_in_blocks<T: Element>(level: Level, pack: PackMatrix<T>, behind: usize) {
    let last = pack.lines.div_ceil(pack.panels.width) - 1;
    let whole_lines = last * pack.panels.width;
    if whole_lines > 0 {
        // SAFETY: within the panels.
        let target = unsafe { pack.target.add(behind * pack.panels.width) };
        T::dispatch(level, PackMatrix { lines: whole_lines, target, ..pack });
    }
    let rest = pack.lines - whole_lines;
    let width = pack.panels.lines_of(0, rest);
    // SAFETY: the last panel's lines, within the source and the panels.
    unsafe {
        let offset = whole_lines * pack.line_stride;
        let relu_output = match pack.relu_output.is_null() {
            true => pack.relu_output,
            false => pack.relu_output.add(offset),
        };
        let source = pack.source.add(offset);
        let target = pack.target.add(last * pack.panel_stride + behind * width);
        T::dispatch(level, PackMatrix { source, relu_output, lines: rest, target, ..pack });
    }
}

/// Packs the block's patches into panels of cells with the block's pixels as their depth.
pub(super) fn pack_patches<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    patches: &Patches<T>,
    block: DepthBlock,
    &Task { group, cells: (cell, cells), .. }: &Task,
    target: *mut T,
    filled: *mut T,
) {
    let panel_stride = plan.cell_panels.width * block.depth();
    for image in 0..block.images {
        let mut patches = *patches;
        let offset = (block.image + image) * plan.shape.input_strides[0]
            + group * patches.channels * patches.strides[0];
        // SAFETY: the image's and group's first element.
        patches.source = unsafe { patches.source.add(offset) };
        let fill = Block { pixel: block.pixel, pixels: block.pixels, cell, cells };
        match plan.shape.layout {
            // A matrix in memory already.
            _ if patches.matrix(fill).is_some() => pack_in_blocks(
                level,
                PackMatrix {
                    // SAFETY: the first channel's first pixel.
                    source: unsafe { patches.source.add(cell * patches.strides[0]) },
                    relu_output: std::ptr::null(),
                    line_stride: patches.strides[0],
                    depth: Depth::every(patches.strides[2]),
                    lines: cells,
                    start: block.pixel,
                    count: block.pixels,
                    panels: plan.cell_panels,
                    target,
                    panel_stride,
                },
                image * block.pixels,
            ),
            Layout::Nchw => {
                let stride = block.pixels.next_multiple_of(plan.tile.lanes);
                let lines = PanelShape { width: stride, granule: stride };
                T::dispatch(
                    level,
                    FillByCell {
                        patches,
                        block: fill,
                        panels: lines,
                        target: filled,
                        panel_stride: 0,
                    },
                );
                pack_in_blocks(
                    level,
                    PackMatrix {
                        source: filled.cast_const(),
                        relu_output: std::ptr::null(),
                        line_stride: stride,
                        depth: Depth::every(1),
                        lines: cells,
                        start: 0,
                        count: block.pixels,
                        panels: plan.cell_panels,
                        target,
                        panel_stride,
                    },
                    image * block.pixels,
                );
            }
            Layout::Nhwc => {
                for panel in 0..cells.div_ceil(plan.cell_panels.width) {
                    let first = panel * plan.cell_panels.width;
                    let lines = plan.cell_panels.lines_of(panel, cells);
                    // SAFETY: within the panel.
                    let target =
                        unsafe { target.add(panel * panel_stride + image * block.pixels * lines) };
                    let count = lines.min(cells - first);
                    let fill = Block { cell: cell + first, cells: count, ..fill };
                    let padding = lines - count;
                    T::dispatch(
                        level,
                        FillByPixel { patches, block: fill, target, stride: lines, padding },
                    );
                }
            }
        }
    }
}

/// The block's cells as panels of columns in x itself.
pub(super) fn cells_in_place<T: Element>(
    plan: &Plan<'_, T>,
    patches: &Patches<T>,
    block: DepthBlock,
    &Task { group, cells: (cell, _), .. }: &Task,
) -> Panels<T> {
    let strides = plan.shape.input_strides;
    let [_, of_channel, _, of_pixel] = strides;
    let channel = group * patches.channels + cell;
    Panels {
        start: patches.source.wrapping_add(block.offset(strides, channel)),
        width: plan.cell_panels.width,
        stride: plan.cell_panels.width * of_channel,
        order: Order::InPlace { depth: of_pixel, line: of_channel },
    }
}

/// What of dy and x the block reads, where a patch is just its pixel.
pub(super) fn ahead<T: Element>(
    plan: &Plan<'_, T>,
    block: DepthBlock,
    &Task { group, outputs: (output, outputs), cells: (cell, cells), .. }: &Task,
) -> [Ahead<T>; 2] {
    let shape = plan.shape;
    let (Gradient::Stored { dy, .. }, Some(patches)) = (&plan.inputs.gradient, &plan.patches)
    else {
        return [Ahead::none(); 2];
    };
    if !patches.are_pixels() {
        return [Ahead::none(); 2];
    }
    let region = |start: *const T, strides: [usize; 4], channel: usize, channels: usize| {
        let [_, of_channel, _, of_pixel] = strides;
        let start = start.wrapping_add(block.offset(strides, channel));
        match shape.layout {
            // Of the first image only, where there are more.
            Layout::Nchw => Ahead::new(start, block.pixels, channels, of_channel),
            Layout::Nhwc => Ahead::new(start, channels, block.depth(), of_pixel),
        }
    };
    let channel = group * patches.channels + cell;
    [
        region(dy.as_ptr(), shape.output_strides, group * shape.group_out + output, outputs),
        region(patches.source, shape.input_strides, channel, cells),
    ]
}

/// Adds each line's sum over the depth of packed panels to `sums`.
pub(super) struct SumPanels<T> {
    pub panels: *const T,
    pub shape: PanelShape,
    pub lines: usize,
    pub depth: usize,
    pub sums: *mut T,
}

impl<T: Element> Kernel<T> for SumPanels<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for panel in 0..self.lines.div_ceil(self.shape.width) {
            let first = panel * self.shape.width;
            let width = self.shape.lines_of(panel, self.lines);
            let lines = width.min(self.lines - first);
            for line in (0..lines).step_by(S::LANES) {
                let count = S::LANES.min(lines - line);
                // SAFETY: `count` lines of a packed panel, and their sums.
                unsafe {
                    let start = self.panels.add(first * self.depth + line);
                    let mask = simd.mask_between(0, count);
                    // Several sums: each addition waits for the one before.
                    let mut sums = [simd.splat(T::default()); 4];
                    for place in (0..self.depth).step_by(sums.len()) {
                        for (n, sum) in sums.iter_mut().enumerate() {
                            if place + n < self.depth {
                                let value = start.add((place + n) * width);
                                *sum = simd.add(*sum, simd.load_where(mask, value));
                            }
                        }
                    }
                    let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
                    let target = self.sums.add(first + line);
                    let total = simd.add(simd.load_first(count, target), sum);
                    simd.store_first(count, target, total);
                }
            }
        }
    }
}
