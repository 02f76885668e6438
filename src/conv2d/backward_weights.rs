//! dw = alpha * (the gradient of the weights) + beta * dw, and db likewise.
//!
//! For few outputs, and for db alone: `direct/filters.rs` has the others. dw is a product of dy and
//! the patches of x, whose depth is the pixels of all images. The batch is cut into parts by the shape
//! alone; each part's sum goes to scratch memory of its own, and the parts are added up in their
//! order. So the order of every sum is the shape's. The bias gradient is summed from the same panels
//! of dy, masked as they were packed.

use super::GradientOptions;
use super::add_parts::PartSums;
use super::fill_by_cell::FillByCell;
use super::forward::input_patches;
use super::gradient::Gradient;
use super::patches::{Block, FillByPixel, Patches};
use crate::context::Context;
use crate::error::Result;
use crate::gemm::ahead::Ahead;
use crate::gemm::blocking::{DEPTH_BLOCK, Grid, block_length, depth_blocks};
use crate::gemm::kernel::{Bias, BlockProduct, Panels, Places, Update};
use crate::gemm::pack::{Depth, PackMatrix, PanelShape, TileShape};
use crate::pool2d::Region;
use crate::scratch::ScratchLen;
use crate::shape::{ConvShape, FilterLayout, Layout};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes, Level};

/// The most parts that the batch is cut into, so that there are tasks enough for a small dw.
const PARTS: usize = 16;
/// All parts' sums together take at most this much memory, or dw's own size.
const PARTS_BYTES: usize = 4 << 20;
/// The largest block of dw that one task computes.
const TASK_OUTPUTS: usize = 256;
const TASK_CELLS: usize = 384;

/// What the pass reads and how it updates.
#[derive(Clone, Copy)]
pub(super) struct BackwardWeights<'a, T> {
    /// Read for dw only.
    pub x: Option<&'a [T]>,
    pub gradient: Gradient<'a, T>,
    pub dw_alpha: T,
    pub dw_beta: T,
    pub db_alpha: T,
    pub db_beta: T,
}

/// How the sums are cut, and how they lie in scratch memory.
struct Plan<'a, T> {
    shape: &'a ConvShape,
    inputs: &'a BackwardWeights<'a, T>,
    /// Of the first image and group; None when dw is not wanted.
    patches: Option<Patches<T>>,
    tile: TileShape,
    /// Pixels of an image.
    pixels: usize,
    /// Cells of a patch; 0 when dw is not wanted.
    cells: usize,
    parts: usize,
    images_of_part: usize,
    /// Images that share a depth block: more than one where they are small.
    images_of_block: usize,
    /// Over (outputs, cells) of a group.
    grid: Grid,
    /// Whether dw's sums lie as `[outputs, cells]`, the cells in the lanes, or the other way round.
    cells_in_lanes: bool,
    output_panels: PanelShape,
    cell_panels: PanelShape,
}

impl<'a, T: Element> Plan<'a, T> {
    fn new(
        level: Level,
        shape: &'a ConvShape,
        inputs: &'a BackwardWeights<'a, T>,
        with_dw: bool,
    ) -> Self {
        let tile = TileShape::of::<T>(level);
        let pixels = shape.out_height * shape.out_width;
        let cells = if with_dw { shape.patch_len() } else { 0 };
        let bytes = shape.out_channels * cells.max(1) * size_of::<T>();
        let parts = parts_of_batch(shape.batch, bytes);
        let images_of_part = shape.batch.div_ceil(parts);
        let parts = shape.batch.div_ceil(images_of_part);
        // The same sums in either way: the one that wastes fewer lanes and rows, or else the one
        // whose sums lie as most filters do.
        let cost = |rows: usize, columns: usize| {
            rows.next_multiple_of(tile.rows) * columns.next_multiple_of(tile.lanes)
        };
        let cells_in_lanes = cost(shape.group_out, cells) / 17 <= cost(cells, shape.group_out) / 16;
        let granules = match cells_in_lanes {
            true => [tile.rows, tile.columns],
            false => [tile.columns, tile.rows],
        };
        let grid = Grid::new(
            [shape.group_out, cells.max(1), shape.batch * pixels],
            parts * shape.groups,
            granules,
            [TASK_OUTPUTS, TASK_CELLS],
        );
        let (output_panels, cell_panels) = match cells_in_lanes {
            true => (PanelShape::rows(grid.task_rows, tile), PanelShape::columns(tile)),
            false => (PanelShape::columns(tile), PanelShape::rows(grid.task_columns, tile)),
        };
        Plan {
            shape,
            inputs,
            patches: inputs.x.filter(|_| with_dw).map(|x| input_patches(shape, x)),
            tile,
            pixels,
            cells,
            parts,
            images_of_part,
            images_of_block: images_of_block(pixels, images_of_part),
            grid,
            cells_in_lanes,
            output_panels,
            cell_panels,
        }
    }

    /// Pixels of the longest depth block.
    fn block_pixels(&self) -> usize {
        block_length(self.pixels) * self.images_of_block
    }

    /// Elements of one part's sums of dw.
    fn part_len(&self) -> usize {
        self.shape.out_channels * self.cells
    }

    /// Whether the sums of dw are dw: there is one part, and what it sums lies as the filters do.
    fn sums_are_dw(&self) -> bool {
        let lie_alike = match self.shape.filter_layout {
            FilterLayout::Oihw => self.cells_in_lanes && self.shape.window() == 1,
            FilterLayout::Ohwi => self.cells_in_lanes,
            FilterLayout::Hwio => !self.cells_in_lanes && self.shape.groups == 1,
        };
        let plain = self.inputs.dw_alpha == T::from_f64(1.0) && self.inputs.dw_beta == T::default();
        self.parts == 1 && lie_alike && plain
    }

    /// All threads have the sums of dw, then those of db.
    fn scratch_len(&self) -> ScratchLen {
        ScratchLen {
            shared: self.parts * (self.part_len() + self.shape.out_channels),
            per_slot: self.slot_lens().iter().sum(),
        }
    }

    /// Elements of a task's panels of dy, of its panels of patches, of its filled patches, and of a
    /// region of dy.
    fn slot_lens(&self) -> [usize; 4] {
        let block = self.block_pixels();
        let cells = if self.patches.is_some() { self.grid.task_columns } else { 0 };
        let filled = match self.shape.layout {
            Layout::Nchw => cells * block_length(self.pixels).next_multiple_of(self.tile.lanes),
            Layout::Nhwc => 0,
        };
        let rows = block_length(self.pixels).div_ceil(self.shape.out_width) + 1;
        [
            self.output_panels.len(self.grid.task_rows, block),
            self.cell_panels.len(cells, block),
            filled,
            self.inputs.gradient.scratch_len(self.grid.task_rows, rows),
        ]
    }

    /// The images, and their pixels, of each depth block of a part, in order.
    fn depth_blocks(&self, part: usize) -> impl Iterator<Item = DepthBlock> {
        let first = part * self.images_of_part;
        let end = self.shape.batch.min(first + self.images_of_part);
        let (pixels, images_of_block) = (self.pixels, self.images_of_block);
        (first..end).step_by(images_of_block).flat_map(move |image| {
            depth_blocks(pixels).map(move |(pixel, count)| DepthBlock {
                image,
                images: images_of_block.min(end - image),
                pixel,
                pixels: count,
            })
        })
    }
}

/// As many images as have about the pixels of a depth block, and in every block of a part as even a number as
/// can be.
fn images_of_block(pixels: usize, images_of_part: usize) -> usize {
    let most = ((DEPTH_BLOCK + pixels / 2) / pixels).clamp(1, images_of_part);
    images_of_part.div_ceil(images_of_part.div_ceil(most))
}

/// Pixels `pixel .. pixel + pixels` of each of `images` images from `image` on.
#[derive(Clone, Copy)]
struct DepthBlock {
    image: usize,
    images: usize,
    pixel: usize,
    pixels: usize,
}

impl<'a, T: Element> BackwardWeights<'a, T> {
    pub fn new(
        x: Option<&'a [T]>,
        gradient: Gradient<'a, T>,
        options: &GradientOptions,
    ) -> BackwardWeights<'a, T> {
        BackwardWeights {
            x,
            gradient,
            dw_alpha: T::from_f64(options.dw_alpha),
            dw_beta: T::from_f64(options.dw_beta),
            db_alpha: T::from_f64(options.db_alpha),
            db_beta: T::from_f64(options.db_beta),
        }
    }

    /// A pass whose shape only is looked at: how much scratch memory it would need.
    fn of_nothing() -> Self {
        BackwardWeights::new(Some(&[]), Gradient::none(), &GradientOptions::default())
    }

    pub fn run(
        &self,
        context: &Context,
        shape: &ConvShape,
        mut dw: Option<&mut [T]>,
        db: Option<&mut [T]>,
    ) -> Result<()> {
        let level = context.level();
        let plan = Plan::new(level, shape, self, dw.is_some());
        let scratch = context.scratch::<T>(plan.scratch_len())?;
        let are_dw = plan.sums_are_dw();
        let direct = dw.as_deref_mut().filter(|_| are_dw).map(SharedMut::new);
        let sums_of_dw = || direct.map_or(scratch.shared(), |dw| dw.at(0));
        let sums_of_db = || scratch.shared().wrapping_add(plan.parts * plan.part_len());
        context.run(plan.parts * shape.groups * plan.grid.len(), &|slot, index| {
            task(level, &plan, [sums_of_dw(), sums_of_db()], scratch.slot(slot), index);
        });
        if let Some(dw) = dw.filter(|_| !are_dw) {
            let parts = PartSums {
                shape,
                sums: scratch.shared(),
                parts: plan.parts,
                part_len: plan.part_len(),
                cells_in_lanes: plan.cells_in_lanes,
                alpha: self.dw_alpha,
                beta: self.dw_beta,
                dw: dw.as_mut_ptr(),
            };
            parts.add_up(context);
        }
        if let Some(db) = db {
            // SAFETY: written by the tasks above.
            let sums = unsafe {
                std::slice::from_raw_parts(sums_of_db(), plan.parts * shape.out_channels)
            };
            for (output, db) in db.iter_mut().enumerate() {
                let parts = sums.iter().skip(output).step_by(shape.out_channels);
                let sum = parts.fold(T::default(), |sum, &part| sum + part);
                *db = updated(self.db_alpha, sum, self.db_beta, *db);
            }
        }
        Ok(())
    }
}

pub(super) fn scratch_len<T: Element>(
    level: Level,
    shape: &ConvShape,
    with_dw: bool,
) -> ScratchLen {
    Plan::new(level, shape, &BackwardWeights::<T>::of_nothing(), with_dw).scratch_len()
}

/// alpha * sum + beta * old; beta = 0 does not read old.
#[inline(always)]
pub(super) fn updated<T: Element>(alpha: T, sum: T, beta: T, old: T) -> T {
    if beta == T::default() { alpha * sum } else { alpha * sum + beta * old }
}

/// How many parts a batch is cut into, of that many images or rows, whose sums take `bytes` each.
pub(super) fn parts_of_batch(units: usize, bytes: usize) -> usize {
    (PARTS_BYTES / bytes).clamp(1, PARTS).min(units)
}

/// One part's sums of some outputs and cells of one group.
fn task<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    [sums_of_dw, sums_of_db]: [*mut T; 2],
    slot: *mut T,
    index: usize,
) {
    let shape = plan.shape;
    let [(output, outputs), (cell, cells)] = plan.grid.task(index % plan.grid.len());
    let group = index / plan.grid.len() % shape.groups;
    let part = index / plan.grid.len() / shape.groups;
    let [dy_len, cells_len, filled_len, _] = plan.slot_lens();
    // SAFETY: the slot has these parts; each part of the sums has the group's dw, row by row, and
    // the db of every output.
    let (cell_target, filled, region, dw, db) = unsafe {
        let cell_target = slot.add(dy_len);
        let filled = cell_target.add(cells_len);
        let group_len = shape.group_out * plan.cells;
        let dw = sums_of_dw.add(part * plan.part_len() + group * group_len);
        let db = sums_of_db.add(part * shape.out_channels);
        let db = db.add(group * shape.group_out + output);
        (cell_target, filled, filled.add(filled_len), dw, db)
    };
    let with_db = cell == 0;
    if with_db {
        // SAFETY: this task's outputs.
        unsafe { db.write_bytes(0, outputs) };
    }
    let mut beta = T::default();
    for block in plan.depth_blocks(part) {
        let depth = block.images * block.pixels;
        pack_gradient(level, plan, block, group, (output, outputs), slot, region);
        if with_db {
            let sum = SumPanels {
                panels: slot,
                shape: plan.output_panels,
                lines: outputs,
                depth,
                sums: db,
            };
            T::dispatch(level, sum);
        }
        let Some(patches) = &plan.patches else { continue };
        pack_patches(level, plan, patches, block, group, (cell, cells), cell_target, filled);
        let product = BlockProduct {
            depth,
            rows: outputs,
            columns: cells,
            row_panels: Panels::packed(slot, plan.output_panels.width, depth),
            column_panels: Panels::packed(cell_target, plan.cell_panels.width, depth),
            target: dw,
            first_row: output,
            first_column: cell,
            row_places: Places::every(if plan.cells_in_lanes { plan.cells } else { 1 }),
            column_places: Places::every(if plan.cells_in_lanes { 1 } else { shape.group_out }),
            update: Update { alpha: T::from_f64(1.0), beta, bias: Bias::None, relu: false },
            ahead: Ahead::none(),
        };
        T::dispatch(level, if plan.cells_in_lanes { product } else { product.transposed() });
        beta = T::from_f64(1.0);
    }
}

/// Packs dy, masked, into panels of outputs with the block's pixels as their depth.
#[allow(clippy::too_many_arguments, reason = "where from and where to")]
fn pack_gradient<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    block: DepthBlock,
    group: usize,
    (output, outputs): (usize, usize),
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
                panel_stride: plan.output_panels.width * block.images * block.pixels,
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
#[allow(clippy::too_many_arguments, reason = "where from and where to")]
fn pack_patches<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    patches: &Patches<T>,
    block: DepthBlock,
    group: usize,
    (cell, cells): (usize, usize),
    target: *mut T,
    filled: *mut T,
) {
    let depth = block.images * block.pixels;
    let panel_stride = plan.cell_panels.width * depth;
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
