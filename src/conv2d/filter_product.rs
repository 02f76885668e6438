//! Filters times patches: what the forward pass and the backward pass to the data both are.
//!
//! The filters are packed once per call, or by the one task that uses them. Each task packs some pixels'
//! patches straight from the image, or reads them there where a patch is just its pixel, and multiplies:
//! NCHW has the pixels in the lanes and the filters' outputs as rows of the tile, NHWC the other way
//! round, so that results are written as they lie.

use super::fill_by_cell::FillByCell;
use super::patches::{Block, FillByPixel, Patches};
use crate::context::Context;
use crate::gemm::ahead::Ahead;
use crate::gemm::blocking::{Grid, block_length, depth_blocks};
use crate::gemm::kernel::{Bias, BlockProduct, Order, Panels, Places, Update};
use crate::gemm::pack::{Depth, PackMatrix, PanelShape, TileShape};
use crate::scratch::{Scratch, ScratchLen};
use crate::shape::Layout;
use crate::simd::{CACHE_LINE, Element, Level};

/// Pixels of a task at the most: their patches of one depth block take 256 KB in f32, beside the
/// filters' panels in the second-level cache.
const TASK_PIXELS: usize = 256;
/// The same for NHWC, whose patches, if packed, are first filled and then transposed into panels.
const TASK_PIXELS_NHWC: usize = 126;

/// Channels a multiple of this apart share one set in sixteen of a cache's, or fewer.
const COMPETING_BYTES: usize = 1024;

/// Images are joined where more than a pixel is missing from the panels for every so many that there
/// are: vectors that straddle images take longer.
const WORTH_JOINING: usize = 4;

/// The filters as a matrix in memory, a line per output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filters<T> {
    /// The first group's first output at the first tap of each axis.
    pub start: *const T,
    /// From group to group.
    pub group_stride: usize,
    /// From output to output.
    pub line_stride: usize,
    /// Along the cells of a patch.
    pub depth: Depth,
}

/// Where the results lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Results<T> {
    pub start: *mut T,
    pub image_stride: usize,
    pub group_stride: usize,
    pub outputs: Places,
    pub pixels: Places,
}

/// outputs = activation(alpha * filters * patches + beta * outputs + bias), for every image and group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterProduct<T> {
    pub batch: usize,
    pub groups: usize,
    /// Outputs of a group.
    pub outputs: usize,
    /// Pixels of an image's grid.
    pub pixels: usize,
    /// The first image's and group's.
    pub patches: Patches<T>,
    pub image_stride: usize,
    pub filters: Filters<T>,
    pub results: Results<T>,
    pub alpha: T,
    pub beta: T,
    /// An element per output of all groups; null for none.
    pub bias: *const T,
    pub relu: bool,
}

// SAFETY: tasks read the sources, and write disjoint parts of the results.
unsafe impl<T: Element> Sync for FilterProduct<T> {}

/// How a product is cut and where a task's parts lie in scratch memory.
struct Plan {
    depth: usize,
    grid: Grid,
    filters: PanelShape,
    patches: PanelShape,
    /// Elements of the packed filters of all groups; 0 where each task packs its own.
    filters_len: usize,
    /// Of a task's own, of one depth block.
    own_filters_len: usize,
    patches_len: usize,
    /// Elements of the patches before they are transposed: NHWC only.
    filled_len: usize,
}

impl Plan {
    /// From panel to panel of packed patches. One step more than they have: panels of a power of
    /// two would all compete for the same few sets of the first-level cache.
    fn panel_stride(&self, depth: usize) -> usize {
        self.patches.width * (depth + 1)
    }
}

/// Pixels of a panel, in the instruction sets with the widest ones.
const PANEL_PIXELS: usize = 32;

/// The deepest products, and the least results in bytes, whose rows are asked for before they are stored. (Of
/// fewer results, or deeper products, the processor sees to that in time.)
const SHORT_DEPTH: usize = 24;
const MANY_RESULTS: usize = 24 << 20;

impl<T: Element> FilterProduct<T> {
    /// Whether there are so many results.
    fn has_many_results(&self) -> bool {
        let results = self.outputs.saturating_mul(self.groups * self.batch * self.pixels);
        results >= MANY_RESULTS / size_of::<T>()
    }

    /// Takes the images as one, where a patch is just its pixel and each image's pixels would leave some of
    /// their last tile empty. What is summed for a pixel stays the same.
    pub fn joined(self) -> Self {
        let one_row = self.patches.are_pixels() && self.patches.rows.extent == 1;
        // Padding can make more patches than there are pixels.
        let one_row = one_row && self.patches.columns.extent == self.pixels;
        let side_by_side = self.results.pixels.width == usize::MAX;
        if !(one_row && side_by_side && self.batch > 1) {
            return self;
        }
        match self.patches.layout {
            Layout::Nchw => self.joined_rows(),
            Layout::Nhwc => self.joined_pixels(),
        }
    }

    /// The images as the rows of one.
    fn joined_rows(self) -> Self {
        let empty = self.pixels.next_multiple_of(PANEL_PIXELS) - self.pixels;
        if empty * WORTH_JOINING <= self.pixels {
            return self;
        }
        let mut joined = self;
        joined.patches.rows.extent = self.batch;
        joined.patches.strides[1] = self.image_stride;
        joined.results.pixels = Places {
            width: self.pixels,
            outer: self.results.image_stride,
            inner: self.results.pixels.inner,
        };
        joined.pixels = self.batch * self.pixels;
        joined.batch = 1;
        joined
    }

    /// The images as one row, where they follow on from one another. (Groups share the pixels of an image,
    /// which stay in the cache from one group to the next.)
    fn joined_pixels(self) -> Self {
        let Results { image_stride, pixels: Places { inner, .. }, .. } = self.results;
        let source_follows = self.image_stride == self.pixels * self.patches.strides[2];
        let target_follows = image_stride == self.pixels * inner;
        if !(source_follows && target_follows && self.groups == 1) {
            return self;
        }
        let mut joined = self;
        joined.pixels = self.batch * self.pixels;
        joined.patches.columns.extent = joined.pixels;
        joined.patches.grid_width = joined.pixels;
        joined.batch = 1;
        joined
    }

    /// Whether the rows of results, of every image and channel, begin at the same place of a cache line.
    fn lines_up(&self) -> bool {
        let Results { image_stride, outputs, pixels, .. } = self.results;
        let of_line = |stride: usize| (stride * size_of::<T>()).is_multiple_of(CACHE_LINE);
        let in_rows = pixels.inner == 1 && pixels.width == usize::MAX;
        in_rows && of_line(outputs.inner) && of_line(image_stride)
    }

    /// Pixels that a cache line of results has before the first one.
    fn lead(&self) -> usize {
        match self.lines_up() {
            true => self.results.start.addr() % CACHE_LINE / size_of::<T>(),
            false => 0,
        }
    }

    /// The pixels of a task, from its part of the grid's columns, which count from the line's beginning.
    fn after_lead(&self, (first, count): (usize, usize)) -> (usize, usize) {
        let lead = self.lead();
        let start = first.saturating_sub(lead);
        (start, self.pixels.min(first + count - lead).saturating_sub(start))
    }

    fn plan(&self, level: Level) -> Plan {
        let tile = TileShape::of::<T>(level);
        let depth = self.patches.len();
        let copies = self.batch * self.groups;
        let block = block_length(depth);
        let (grid, filters, patches, pixel_parts, task_pixels, filled_len) = match self
            .patches
            .layout
        {
            Layout::Nchw => {
                let lead = if self.lines_up() { CACHE_LINE / size_of::<T>() - 1 } else { 0 };
                let grid = Grid::new(
                    [self.outputs, self.pixels + lead, depth],
                    copies,
                    [tile.rows, tile.columns],
                    [usize::MAX, TASK_PIXELS],
                );
                let filters = PanelShape::rows(grid.task_rows.min(self.outputs), tile);
                let patches = PanelShape::columns(tile);
                (grid, filters, patches, grid.tasks()[1], grid.task_columns, 0)
            }
            Layout::Nhwc => {
                let grid = Grid::new(
                    [self.pixels, self.outputs, depth],
                    copies,
                    [tile.rows, tile.columns],
                    [TASK_PIXELS_NHWC, usize::MAX],
                );
                let filters = PanelShape::columns(tile);
                let patches = PanelShape::rows(grid.task_rows, tile);
                (grid, filters, patches, grid.tasks()[0], grid.task_rows, grid.task_rows * block)
            }
        };
        // What is packed for the one task that uses it stays in the cache.
        let (filters_len, own_filters_len) = match self.batch == 1 && pixel_parts == 1 {
            true => (0, filters.len(self.task_outputs(&grid), block)),
            false => (self.groups * self.filters_len(&grid, filters, depth), 0),
        };
        Plan {
            depth,
            grid,
            filters,
            patches,
            filters_len,
            own_filters_len,
            patches_len: patches.len(task_pixels, block + 1),
            filled_len,
        }
    }

    /// Outputs of a task, but for the last: those are packed together.
    fn task_outputs(&self, grid: &Grid) -> usize {
        match self.patches.layout {
            Layout::Nchw => grid.task_rows,
            Layout::Nhwc => grid.task_columns,
        }
    }

    /// Elements of one group's packed filters.
    fn filters_len(&self, grid: &Grid, panels: PanelShape, depth: usize) -> usize {
        let parts = self.outputs.div_ceil(self.task_outputs(grid));
        parts * panels.len(self.task_outputs(grid), depth)
    }

    pub fn scratch_len(&self, level: Level) -> ScratchLen {
        let plan = self.plan(level);
        let per_slot = plan.patches_len + plan.filled_len + plan.own_filters_len;
        ScratchLen { shared: plan.filters_len, per_slot }
    }

    /// Computes all results, with scratch memory of `scratch_len`.
    pub fn run(&self, context: &Context, scratch: &Scratch<'_, T>) {
        let level = context.level();
        let plan = self.plan(level);
        if plan.filters_len > 0 {
            self.pack_filters(context, &plan, scratch);
        }
        let tasks = self.batch * self.groups * plan.grid.len();
        context.run(tasks, &|slot, index| {
            // What this thread does next, but for the end of its share.
            let next = Some(index + 1).filter(|&next| next < tasks);
            self.task(level, &plan, scratch.shared(), scratch.slot(slot), index, next);
        });
    }

    /// The pixels' elements of a depth block, where the patches are a matrix in memory.
    fn ahead(&self, plan: &Plan, index: usize, (start, count): (usize, usize)) -> Ahead<T> {
        if !(self.patches.are_pixels() && self.patches.rows.extent == 1) {
            return Ahead::none();
        }
        let [rows, columns] = plan.grid.task(index % plan.grid.len());
        let image = index / plan.grid.len() / self.groups;
        let group = index / plan.grid.len() % self.groups;
        let [of_channel, _, of_pixel] = self.patches.strides;
        let channel = group * self.patches.channels + start;
        let (pixel, run, runs, stride) = match self.patches.layout {
            // Stores that end within a cache line wait for it behind all that was asked for: measured, where the
            // results do not stay in the cache, up to three times as long.
            Layout::Nchw if !self.lines_up() => return Ahead::none(),
            Layout::Nchw => {
                let (pixel, pixels) = self.after_lead(columns);
                (pixel, pixels, count, of_channel)
            }
            // Parts of pixels are long, and foreseen by the processor.
            Layout::Nhwc if count < plan.depth => return Ahead::none(),
            Layout::Nhwc => (rows.0, count, rows.1, of_pixel),
        };
        let offset = image * self.image_stride + channel * of_channel + pixel * of_pixel;
        let start = self.patches.source.wrapping_add(offset);
        Ahead::new(start, run, runs, stride)
    }

    /// Packs the filters of every group, task part and depth block.
    fn pack_filters(&self, context: &Context, plan: &Plan, scratch: &Scratch<'_, T>) {
        let part_outputs = self.task_outputs(&plan.grid);
        let parts = self.outputs.div_ceil(part_outputs);
        let (blocks, level) = (depth_blocks(plan.depth).count(), context.level());
        context.run(self.groups * parts * blocks, &|_, index| {
            let (start, count) = depth_blocks(plan.depth).nth(index % blocks).expect("a block");
            let part = index / blocks % parts;
            let group = index / blocks / parts;
            let place = self.packed_offset(plan, group, part, start);
            let target = scratch.shared().wrapping_add(place);
            self.pack_part(level, plan, (group, part), (start, count), target);
        });
    }

    /// Packs a depth block of a task part's filters.
    fn pack_part(
        &self,
        level: Level,
        plan: &Plan,
        (group, part): (usize, usize),
        (start, count): (usize, usize),
        target: *mut T,
    ) {
        let part_outputs = self.task_outputs(&plan.grid);
        let first = part * part_outputs;
        let pack = PackMatrix {
            // SAFETY: the part's first output lies within the filters.
            source: unsafe {
                let group = self.filters.start.add(group * self.filters.group_stride);
                group.add(first * self.filters.line_stride)
            },
            relu_output: std::ptr::null(),
            line_stride: self.filters.line_stride,
            depth: self.filters.depth,
            lines: part_outputs.min(self.outputs - first),
            start,
            count,
            panels: plan.filters,
            target,
            panel_stride: plan.filters.width * count,
        };
        T::dispatch(level, pack);
    }

    /// Where the packed filters of a group, task part and depth block begin.
    fn packed_offset(&self, plan: &Plan, group: usize, part: usize, start: usize) -> usize {
        let part_outputs = self.task_outputs(&plan.grid);
        let parts = self.outputs.div_ceil(part_outputs);
        let place_len = plan.filters.len(part_outputs, 1);
        ((group * parts + part) * plan.depth + start) * place_len
    }

    /// Some outputs of some pixels of one image and group.
    fn task(
        &self,
        level: Level,
        plan: &Plan,
        packed: *const T,
        slot: *mut T,
        index: usize,
        next: Option<usize>,
    ) {
        let [rows, columns] = plan.grid.task(index % plan.grid.len());
        let image = index / plan.grid.len() / self.groups;
        let group = index / plan.grid.len() % self.groups;
        let (outputs, pixels) = match self.patches.layout {
            Layout::Nchw => (rows, self.after_lead(columns)),
            Layout::Nhwc => (columns, rows),
        };
        if pixels.1 == 0 {
            return;
        }
        let mut patches = self.patches;
        let offset = image * self.image_stride + group * patches.channels * patches.strides[0];
        // SAFETY: the image's and group's first elements lie within the tensors.
        let target = unsafe {
            patches.source = patches.source.add(offset);
            if !patches.relu_output.is_null() {
                patches.relu_output = patches.relu_output.add(offset);
            }
            let offset = image * self.results.image_stride + group * self.results.group_stride;
            self.results.start.add(offset)
        };
        let part = outputs.0 / self.task_outputs(&plan.grid);
        let task = Task {
            product: self,
            level,
            plan,
            slot,
            patches,
            outputs,
            pixels,
            target,
            // The group's; no element where there are none.
            bias: self.bias.wrapping_add(group * self.outputs),
        };
        let multiply = |start: usize, count: usize| {
            let following = depth_blocks(plan.depth).find(|block| block.0 > start);
            let ahead = match (following, next, depth_blocks(plan.depth).next()) {
                (Some(block), ..) => self.ahead(plan, index, block),
                (None, Some(next), Some(block)) => self.ahead(plan, next, block),
                _ => Ahead::none(),
            };
            let filters = match plan.own_filters_len {
                0 => packed.wrapping_add(self.packed_offset(plan, group, part, start)),
                _ => {
                    let own = slot.wrapping_add(plan.patches_len + plan.filled_len);
                    self.pack_part(level, plan, (group, part), (start, count), own);
                    own
                }
            };
            task.multiply((start, count), filters, ahead);
        };
        if plan.depth == 0 {
            // No tap reaches these pixels: their sums are empty.
            return multiply(0, 0);
        }
        for (start, count) in depth_blocks(plan.depth) {
            multiply(start, count);
        }
    }
}

/// Some outputs of some pixels of one image and group.
struct Task<'a, T> {
    product: &'a FilterProduct<T>,
    level: Level,
    plan: &'a Plan,
    slot: *mut T,
    /// The image's and group's.
    patches: Patches<T>,
    /// First and number.
    outputs: (usize, usize),
    pixels: (usize, usize),
    /// Where the group's first output of the image's first pixel lies.
    target: *mut T,
    bias: *const T,
}

impl<T: Element> Task<'_, T> {
    /// Multiplies a depth block with its packed filters, pixels that are read in place and others in turn.
    fn multiply(&self, (cell, cells): (usize, usize), filters: *const T, mut ahead: Ahead<T>) {
        let Task { product, plan, pixels: (pixel, pixels), .. } = *self;
        let filters = Panels::packed(filters, plan.filters.width, cells);
        let mut block = Block { pixel, pixels, cell, cells };
        // Up to the first whole cache line of results.
        if pixel == 0 && product.lead() > 0 {
            let head = (CACHE_LINE / size_of::<T>() - product.lead()).min(pixels);
            self.multiply_packed(Block { pixels: head, ..block }, filters, Ahead::none());
            block = Block { pixel: head, pixels: pixels - head, ..block };
        }
        if let Some(panels) = in_place(&self.patches, block, plan) {
            // The last pixels, if they do not fill a panel of vectors, are packed.
            let whole = match self.patches.layout {
                Layout::Nchw => block.pixels / panels.width * panels.width,
                Layout::Nhwc => block.pixels,
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
        pack_patches(self.level, &self.patches, block, self.plan, self.slot);
        let patches = Panels {
            stride: self.plan.panel_stride(block.cells),
            ..Panels::packed(self.slot, self.plan.patches.width, block.cells)
        };
        self.multiply_panels(block, filters, patches, ahead);
    }

    fn multiply_panels(
        &self,
        block: Block,
        filters: Panels<T>,
        patches: Panels<T>,
        ahead: Ahead<T>,
    ) {
        let FilterProduct { alpha, beta, results, relu, .. } = *self.product;
        let last = block.cell + block.cells == self.plan.depth;
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
            },
            ahead: [ahead, Ahead::none()],
            asks_for_rows: block.cells <= SHORT_DEPTH && self.product.has_many_results(),
        };
        let product = match self.patches.layout {
            Layout::Nchw => product,
            Layout::Nhwc => product.transposed(),
        };
        T::dispatch(self.level, product);
    }
}

/// A block of patches as panels of the image, where they are a matrix in memory that is read as fast as
/// a packed one.
fn in_place<T: Element>(patches: &Patches<T>, block: Block, plan: &Plan) -> Option<Panels<T>> {
    let first = patches.matrix(block)?;
    let [of_channel, _, of_pixel] = patches.strides;
    let start = patches.source.wrapping_add(first + block.cell * of_channel);
    let channel_bytes = of_channel * size_of::<T>();
    let fast = match patches.layout {
        // Neither do vectors straddle cache lines, nor all channels' compete for a few sets.
        Layout::Nchw => {
            let aligned = (start.addr() | channel_bytes).is_multiple_of(CACHE_LINE);
            aligned && !channel_bytes.is_multiple_of(COMPETING_BYTES)
        }
        // Pixels are read one at a time.
        Layout::Nhwc => true,
    };
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

/// Packs a block of patches into panels at `slot`; NHWC fills them behind the panels first.
fn pack_patches<T: Element>(
    level: Level,
    patches: &Patches<T>,
    block: Block,
    plan: &Plan,
    slot: *mut T,
) {
    match patches.layout {
        // A matrix in memory already: lines of pixels, contiguous at each channel.
        Layout::Nchw => {
            if let Some(first) = patches.matrix(block) {
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
                    panel_stride: plan.panel_stride(block.cells),
                };
                return T::dispatch(level, pack);
            }
            let fill = FillByCell {
                patches: *patches,
                block,
                panels: plan.patches,
                target: slot,
                panel_stride: plan.panel_stride(block.cells),
            };
            T::dispatch(level, fill);
        }
        Layout::Nhwc => {
            // SAFETY: the slot has room for the filled patches behind its panels.
            let filled = unsafe { slot.add(plan.patches_len) };
            let stride = block.cells;
            let fill = FillByPixel { patches: *patches, block, target: filled, stride, padding: 0 };
            T::dispatch(level, fill);
            let pack = PackMatrix {
                source: filled.cast_const(),
                relu_output: std::ptr::null(),
                line_stride: stride,
                depth: Depth::every(1),
                lines: block.pixels,
                start: 0,
                count: block.cells,
                panels: plan.patches,
                target: slot,
                panel_stride: plan.panel_stride(block.cells),
            };
            T::dispatch(level, pack);
        }
    }
}
