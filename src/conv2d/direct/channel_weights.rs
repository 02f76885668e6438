//! dw and db with output channels in the lanes: dy is packed, x is broadcast from where it lies.
//!
//! The register tile is that of the channel kernel, with other roles: some input channels at one tap
//! (or, where those are few, some column taps of one channel or of all) times a panel of output
//! channels, summed over pixels. What x has no pixel for is skipped. The blocks of rows of all images
//! are cut into parts by the shape alone; each part sums its blocks in order, and the parts are added up
//! in theirs.

use super::channel_weights_parts::AddUp;
use super::channel_weights_tile::{Fetching, Products, TwoTaps};
use super::even_parts;
use crate::context::Context;
use crate::conv2d::are_finite;
use crate::conv2d::backward_weights::{BackwardWeights, updated};
use crate::conv2d::gradient::Gradient;
use crate::conv2d::weights_panels::SumPanels;
use crate::conv2d::weights_plan::parts_of_batch;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASK_WORK, TASKS};
use crate::gemm::pack::{Depth, PackMatrix, PanelShape, TileShape};
use crate::pool2d::Region;
use crate::scratch::{Scratch, ScratchLen};
use crate::shape::{ConvShape, FilterLayout};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes, Level};
use crate::taps::Taps;

/// Output and input channels of a task: its rows of x and dy stay in the second-level cache.
const TASK_OUTPUTS: usize = 64;
const TASK_INPUTS: usize = 64;

/// Input channels that alone would be a low tile, which waits for its own sums.
const FEW_INPUTS: usize = 6;

/// How the pass is cut. By the shape alone, but for the panels' width.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub panels: PanelShape,
    pub parts: usize,
    blocks_of_part: usize,
    /// Rows of y that are packed at a time, and how many such blocks an image has.
    block_rows: usize,
    blocks: usize,
    /// Of a task, but for the last.
    outputs: usize,
    inputs: usize,
    /// Elements of a part's sums: those of dw, `[groups, panels, weights, outputs of a panel]` with an output's
    /// weights as they lie in dw, and those of db behind them.
    dw_len: usize,
    pub part_len: usize,
    /// Elements of a group's dw.
    pub group_len: usize,
    /// Weights from input channel to input channel, and from tap to tap.
    weight_strides: [usize; 2],
}

impl Plan {
    fn new<T: Element>(shape: &ConvShape, tile: TileShape) -> Self {
        let taps = shape.height.kernel * shape.width.kernel;
        let panels = PanelShape::columns(tile);
        let group_len = shape.group_out.next_multiple_of(panels.width) * shape.group_in * taps;
        // Of the sums that every instruction set has, so that the parts are the same.
        let sums = shape.out_channels * shape.group_in * taps;
        let blocks = shape.out_height.div_ceil((DEPTH_BLOCK / shape.out_width).max(1));
        let block_rows = shape.out_height.div_ceil(blocks);
        let blocks = shape.out_height.div_ceil(block_rows);
        let parts = parts_of_batch(shape.batch * blocks, sums * size_of::<T>());
        // Where there are many channels, they are tasks enough.
        let chunks = shape.group_out.div_ceil(TASK_OUTPUTS) * shape.group_in.div_ceil(TASK_INPUTS);
        let parts = parts.min(TASKS.div_ceil(chunks * shape.groups));
        let blocks_of_part = (shape.batch * blocks).div_ceil(parts);
        let parts = (shape.batch * blocks).div_ceil(blocks_of_part);
        let pixels = shape.batch * shape.out_height * shape.out_width;
        let work = pixels.saturating_mul(sums);
        let wanted = (work / TASK_WORK).clamp(1, TASKS).div_ceil(parts * shape.groups);
        let mut outputs = TASK_OUTPUTS.min(shape.group_out.next_multiple_of(panels.width));
        let mut inputs = TASK_INPUTS.min(shape.group_in);
        let tasks = |outputs: usize, inputs: usize| {
            shape.group_out.div_ceil(outputs) * shape.group_in.div_ceil(inputs)
        };
        while tasks(outputs, inputs) < wanted && outputs > panels.width {
            outputs = (outputs / 2).next_multiple_of(panels.width);
        }
        while tasks(outputs, inputs) < wanted && inputs > tile.rows {
            inputs = (inputs / 2).next_multiple_of(tile.rows);
        }
        let dw_len = shape.groups * group_len;
        Plan {
            panels,
            parts,
            blocks_of_part,
            block_rows,
            blocks,
            outputs,
            inputs,
            dw_len,
            part_len: dw_len + shape.out_channels,
            group_len,
            weight_strides: match shape.filter_layout {
                FilterLayout::Oihw => [taps, 1],
                FilterLayout::Ohwi | FilterLayout::Hwio => [1, shape.group_in],
            },
        }
    }

    /// Elements of a block's panels of dy.
    fn gradient_len(&self, shape: &ConvShape) -> usize {
        self.outputs * self.block_rows * shape.out_width
    }

    /// All parts' sums, and a block's panels of dy.
    fn scratch_len<T: Element>(&self, shape: &ConvShape, dy: &Gradient<'_, T>) -> ScratchLen {
        let region = dy.scratch_len(self.outputs.min(shape.group_out), self.block_rows);
        ScratchLen {
            shared: self.parts * self.part_len,
            per_slot: self.gradient_len(shape) + region,
        }
    }

    /// Output channels of a panel, rounded up to whole vectors.
    #[inline(always)]
    pub fn lanes(&self, shape: &ConvShape, panel: usize) -> usize {
        self.panels.lines_of(panel, shape.group_out)
    }
}

pub(in crate::conv2d) fn scratch_len<T: Element>(level: Level, shape: &ConvShape) -> ScratchLen {
    Plan::new::<T>(shape, TileShape::of::<T>(level)).scratch_len(shape, &Gradient::<T>::none())
}

/// Runs the pass. False, and nothing written, when some dy may not be finite and there is padding:
/// it counts as zeros, which would make NaN of it, but is skipped here.
pub(in crate::conv2d) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    x: &[T],
    dw: &mut [T],
    db: Option<&mut [T]>,
) -> Result<bool> {
    let (plan, scratch) = sum_parts(context, shape, pass, x)?;
    let sums_at = |offset: usize| scratch.shared().wrapping_add(offset);

    if shape.is_padded {
        let finite = |part: usize| {
            // SAFETY: the sums of db, behind those of dw, which the tasks wrote.
            let sums = unsafe {
                let start = sums_at(part * plan.part_len + plan.dw_len);
                std::slice::from_raw_parts(start, shape.out_channels)
            };
            // A sum with an infinity or a NaN is one of them.
            are_finite(sums)
        };
        if !(0..plan.parts).all(finite) {
            return Ok(false);
        }
    }

    let panels = shape.group_out.div_ceil(plan.panels.width);
    let alpha_beta = (pass.dw_alpha, pass.dw_beta);
    let dw = SharedMut::new(dw);
    context.run(shape.groups * panels, &|_, index| {
        let (group, panel) = (index / panels, index % panels);
        let add = AddUp { shape, plan, group, panel, sums: sums_at(0), alpha_beta, dw: dw.at(0) };
        T::dispatch(context.level(), add);
    });
    if let Some(db) = db {
        for (output, db) in db.iter_mut().enumerate() {
            let mut sum = T::default();
            for part in 0..plan.parts {
                // SAFETY: the sums of db, behind those of dw, which the tasks wrote.
                sum = sum + unsafe { *sums_at(part * plan.part_len + plan.dw_len + output) };
            }
            *db = updated(pass.db_alpha, sum, pass.db_beta, *db);
        }
    }
    Ok(true)
}

/// Sums the parts of dw and db, which the plan says where to find in the scratch memory.
pub(super) fn sum_parts<'a, T: Element>(
    context: &'a Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    x: &[T],
) -> Result<(Plan, Scratch<'a, T>)> {
    let level = context.level();
    let plan = Plan::new::<T>(shape, TileShape::of::<T>(level));
    let scratch = context.scratch::<T>(plan.scratch_len(shape, &pass.gradient))?;
    let output_chunks = shape.group_out.div_ceil(plan.outputs);
    let input_chunks = shape.group_in.div_ceil(plan.inputs);
    context.run(plan.parts * shape.groups * output_chunks * input_chunks, &|slot, index| {
        let (rest, chunk) = (index / input_chunks, index % input_chunks);
        let input = chunk * plan.inputs;
        let (rest, chunk) = (rest / output_chunks, rest % output_chunks);
        let output = chunk * plan.outputs;
        let (part, group) = (rest / shape.groups, rest % shape.groups);
        let first_block = part * plan.blocks_of_part;
        let kernel = SumPart {
            shape,
            pass,
            x: x.as_ptr(),
            plan,
            group,
            blocks: (
                first_block,
                (shape.batch * plan.blocks).min(first_block + plan.blocks_of_part),
            ),
            outputs: (output, shape.group_out.min(output + plan.outputs)),
            inputs: (input, shape.group_in.min(input + plan.inputs)),
            sums: scratch.shared().wrapping_add(part * plan.part_len),
            gradient: scratch.slot(slot),
            region: scratch.slot(slot).wrapping_add(plan.gradient_len(shape)),
        };
        T::dispatch(level, kernel);
    });
    Ok((plan, scratch))
}

/// One part's sums of some output and input channels of a group.
struct SumPart<'a, T> {
    shape: &'a ConvShape,
    pass: &'a BackwardWeights<'a, T>,
    x: *const T,
    plan: Plan,
    group: usize,
    /// First and end, of the blocks of all images.
    blocks: (usize, usize),
    outputs: (usize, usize),
    inputs: (usize, usize),
    /// The part's.
    sums: *mut T,
    /// Room for a block's panels of dy.
    gradient: *mut T,
    /// And for a block of dy.
    region: *mut T,
}

/// Rows of y, and the columns of each of them.
#[derive(Clone, Copy)]
struct Pixels {
    rows: (usize, usize),
    columns: (usize, usize),
}

impl<T: Element> Kernel<T> for SumPart<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (shape, plan) = (self.shape, self.plan);
        let with_db = self.inputs.0 == 0;
        let first_panel = self.outputs.0 / plan.panels.width;
        let end_panel = self.outputs.1.div_ceil(plan.panels.width);
        // SAFETY: this task's sums, in the part's.
        unsafe {
            for panel in first_panel..end_panel {
                let inputs = self.inputs.1 - self.inputs.0;
                // Side by side lie all taps of these inputs, or the inputs at a tap.
                let (runs, run) = match plan.weight_strides {
                    [_, 1] => (1, inputs * shape.window()),
                    _ => (shape.window(), inputs),
                };
                for tap in 0..runs {
                    let sums = self.sum(panel, self.inputs.0, tap);
                    sums.write_bytes(0, run * plan.lanes(shape, panel));
                }
            }
            if with_db {
                self.bias_sum().write_bytes(0, self.outputs.1 - self.outputs.0);
            }
        }
        for block in self.blocks.0..self.blocks.1 {
            let (image, row) = (block / plan.blocks, block % plan.blocks * plan.block_rows);
            let rows = (row, shape.out_height.min(row + plan.block_rows));
            let pixels = (rows.1 - rows.0) * shape.out_width;
            self.pack(simd, image, rows.0 * shape.out_width, pixels);
            if with_db {
                let sum = SumPanels {
                    panels: self.gradient,
                    shape: plan.panels,
                    lines: self.outputs.1 - self.outputs.0,
                    depth: pixels,
                    sums: self.bias_sum(),
                };
                sum.run(simd);
            }
            for panel in first_panel..end_panel {
                self.block(simd, image, rows, panel, panel - first_panel);
            }
        }
    }
}

impl<T: Element> SumPart<'_, T> {
    /// A panel's sums of a weight, an input channel's at a tap.
    #[inline(always)]
    fn sum(&self, panel: usize, input: usize, tap: usize) -> *mut T {
        let plan = &self.plan;
        let weights = self.shape.patch_len();
        let panel_start = self.group * plan.group_len + panel * plan.panels.width * weights;
        let [of_input, of_tap] = plan.weight_strides;
        let weight = input * of_input + tap * of_tap;
        self.sums.wrapping_add(panel_start + weight * plan.lanes(self.shape, panel))
    }

    /// The sums of this task's db.
    #[inline(always)]
    fn bias_sum(&self) -> *mut T {
        let output = self.group * self.shape.group_out + self.outputs.0;
        self.sums.wrapping_add(self.plan.dw_len + output)
    }

    /// Packs dy, masked, for the pixels of some whole rows of an image.
    #[inline(always)]
    fn pack<S: Lanes<T>>(&self, simd: S, image: usize, start: usize, count: usize) {
        let (shape, outputs) = (self.shape, self.outputs.1 - self.outputs.0);
        let channel = self.group * shape.group_out + self.outputs.0;
        let first_row = start / shape.out_width;
        let region = Region {
            image,
            channels: channel..channel + outputs,
            rows: first_row..first_row + count / shape.out_width,
        };
        // SAFETY: dy has the region, and there is memory for it.
        let view = unsafe { self.pass.gradient.view(shape, &region, self.region) };
        let [of_image, of_channel, _, of_pixel] = view.strides;
        let [source, relu_output] = view.at(image * of_image + channel * of_channel);
        let pack = PackMatrix {
            source,
            relu_output,
            line_stride: of_channel,
            depth: Depth::every(of_pixel),
            lines: outputs,
            start,
            count,
            panels: self.plan.panels,
            target: self.gradient,
            panel_stride: self.plan.panels.width * count,
        };
        pack.run(simd);
    }

    /// Adds some rows of an image to the sums of a panel, packed as number `packed`.
    #[inline(always)]
    fn block<S: Lanes<T>>(
        &self,
        simd: S,
        image: usize,
        rows: (usize, usize),
        panel: usize,
        packed: usize,
    ) {
        let shape = self.shape;
        let (row_taps, column_taps) = (Taps::forward(&shape.height), Taps::forward(&shape.width));
        let [of_image, of_channel, _, of_column] = shape.input_strides;
        let depth = (rows.1 - rows.0) * shape.out_width;
        let gradient = self.gradient.wrapping_add(packed * self.plan.panels.width * depth);
        let channel = self.group * shape.group_in;
        let tile = Tile {
            task: self,
            source: self.x.wrapping_add(image * of_image + channel * of_channel),
            gradient,
            first_row: rows.0,
            width: self.plan.lanes(shape, panel),
            panel,
            rows: row_taps,
            columns: column_taps,
            item_stride: 0,
            sum_stride: 0,
        };
        let width = shape.out_width;
        let taps = shape.width.kernel;
        let along_rows = self.lies_along_rows();
        for row_tap in 0..shape.height.kernel {
            let valid = row_taps.positions(row_tap, shape.out_height);
            let rows = (rows.0.max(valid.0), rows.1.min(valid.1));
            if rows.0 >= rows.1 {
                continue;
            }
            if shape.group_in >= taps && !along_rows {
                // Neighbouring input channels at one tap.
                let sum_stride = self.plan.weight_strides[0];
                let tile = Tile { item_stride: of_channel, sum_stride, ..tile };
                let (input, end) = self.inputs;
                let mut column_tap = 0;
                while column_tap < taps {
                    let of_tap = |tap: usize| column_taps.positions(tap, width);
                    let (columns, next) = (of_tap(column_tap), column_tap + 1);
                    // Few sums would wait for each other.
                    let is_followed = next < taps && of_tap(next) == columns;
                    let two_taps = is_followed && self.takes_two_taps::<S>(tile.width);
                    if columns.0 < columns.1 {
                        for (first, count) in even_parts(end - input, S::TILE_ROWS) {
                            let pixels = Pixels { rows, columns };
                            let place = [input + first, row_tap, column_tap];
                            tile.run_at(simd, pixels, place, count, two_taps);
                        }
                    }
                    column_tap += if two_taps { 2 } else { 1 };
                }
                continue;
            }
            // Neighbouring column taps of one channel, or of all where they are side by side: the columns that
            // all of them read, and the others one by one.
            let ([of_item, of_sum], inputs, items_of_tap) = match along_rows {
                true => ([1, 1], (0, 1), shape.group_in),
                false => {
                    let of_tap = shape.width.dilation * of_column;
                    ([of_tap, self.plan.weight_strides[1]], self.inputs, 1)
                }
            };
            let tile = Tile { item_stride: of_item, sum_stride: of_sum, ..tile };
            let last = column_taps.positions(taps - 1, width);
            let all = (column_taps.positions(0, width).0, last.1);
            let all = if all.0 < all.1 { all } else { (0, 0) };
            for input in inputs.0..inputs.1 {
                let mut column = 0;
                while column < width {
                    let columns =
                        if column == all.0 && all.1 > 0 { all } else { (column, column + 1) };
                    column = columns.1;
                    let (tap, end) = column_taps.inside(columns.0);
                    for (first, count) in even_parts((end - tap) * items_of_tap, S::TILE_ROWS) {
                        let pixels = Pixels { rows, columns };
                        let (tap, input) =
                            (tap + first / items_of_tap, input + first % items_of_tap);
                        tile.run_at(simd, pixels, [input, row_tap, tap], count, false);
                    }
                }
            }
        }
    }

    /// Whether the input channels are few, and so are the lanes of a panel, so that a tile has two column taps of
    /// theirs: see [`TwoTaps`].
    #[inline(always)]
    fn takes_two_taps<S: Lanes<T>>(&self, width: usize) -> bool {
        let [_, _, _, of_column] = self.shape.input_strides;
        let are_neighbours = self.shape.width.dilation * of_column == 1;
        let few = 2 * (self.inputs.1 - self.inputs.0) <= S::TILE_ROWS && width == S::LANES;
        few && are_neighbours
    }

    /// Whether few input channels of all column taps are side by side, in x and among the sums.
    #[inline(always)]
    fn lies_along_rows(&self) -> bool {
        let shape = self.shape;
        shape.input_strides[3] == shape.group_in
            && shape.width.dilation == 1
            && self.plan.weight_strides == [1, shape.group_in]
            && shape.group_in <= FEW_INPUTS
    }
}

/// The sums of some neighbouring items, input channels or column taps, and a panel of outputs.
#[derive(Clone, Copy)]
struct Tile<'a, T> {
    task: &'a SumPart<'a, T>,
    /// The image's first channel of the group.
    source: *const T,
    /// The panel of dy, from row `first_row` of y on.
    gradient: *const T,
    first_row: usize,
    /// Lanes of the panel.
    width: usize,
    panel: usize,
    rows: Taps,
    columns: Taps,
    /// From item to item, in x and among the sums.
    item_stride: usize,
    sum_stride: usize,
}

impl<T: Element> Tile<'_, T> {
    /// Adds the products of some pixels to the sums of `count` items from the one of input channel,
    /// row tap and column tap on, and at the column tap behind that one too if `two_taps`.
    #[inline(always)]
    fn run_at<S: Lanes<T>>(
        &self,
        simd: S,
        pixels: Pixels,
        [input, row_tap, column_tap]: [usize; 3],
        count: usize,
        two_taps: bool,
    ) {
        let shape = self.task.shape;
        let [_, of_channel, of_row, of_column] = shape.input_strides;
        let row = self.rows.source(pixels.rows.0, row_tap) as usize;
        let column = self.columns.source(pixels.columns.0, column_tap) as usize;
        let offset = input * of_channel + row * of_row + column * of_column;
        let pixel = (pixels.rows.0 - self.first_row) * shape.out_width + pixels.columns.0;
        let tap = row_tap * shape.width.kernel + column_tap;
        let sums = self.task.sum(self.panel, input, tap);
        let source_steps = [self.rows.step * of_row, self.columns.step * of_column];
        let mut counts = [pixels.rows.1 - pixels.rows.0, pixels.columns.1 - pixels.columns.0];
        if counts[1] == shape.out_width && source_steps[0] == counts[1] * source_steps[1] {
            // Rows that follow on from one another are one.
            counts = [1, counts[0] * counts[1]];
        }
        let products = Products {
            source: self.source.wrapping_add(offset),
            item_stride: self.item_stride,
            source_steps,
            gradient: self.gradient.wrapping_add(pixel * self.width),
            gradient_row: shape.out_width * self.width,
            counts,
            sums,
            sum_stride: self.sum_stride * self.width,
        };
        let vectors = self.width / S::LANES;
        if two_taps {
            let next_tap = self.task.sum(self.panel, input, tap + 1);
            simd.tile(count, vectors, &TwoTaps { products, next_tap });
        } else if self.item_stride == 1 && tap == 0 {
            // In NHWC pixels lie apart, and the first tap meets them first.
            simd.tile(count, vectors, &Fetching(products));
        } else {
            simd.tile(count, vectors, &products);
        }
    }
}
