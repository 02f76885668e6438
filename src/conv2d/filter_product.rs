//! Filters times patches: what the forward pass and the backward pass to the data both are.
//!
//! The filters are packed once per call, or by the one task that uses them. Each task packs some pixels'
//! patches straight from the image, or reads them there where a patch is just its pixel, and multiplies:
//! NCHW has the pixels in the lanes and the filters' outputs as rows of the tile, NHWC the other way
//! round, so that results are written as they lie. Small images of NCHW, whose rows would leave lanes empty
//! or straddle cache lines, are multiplied as NHWC is, and their tiles transposed as they are written.

use std::ops::RangeInclusive;

use super::fill_by_cell::FillByCell;
use super::patches::{Block, FillByPixel, Patches};
use crate::context::Context;
use crate::gemm::ahead::Ahead;
use crate::gemm::blocking::{Grid, block_length, depth_blocks};
use crate::gemm::kernel::{Bias, BlockProduct, Order, Panels, Places, Update};
use crate::gemm::pack::{Depth, PackMatrix, PanelShape, TileShape};
use crate::gemm::transposed::Transposed;
use crate::runs;
use crate::scratch::{Scratch, ScratchLen};
use crate::shape::Layout;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, Level};

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
    /// Whether the lanes are outputs, and the rows of a tile pixels.
    outputs_in_lanes: bool,
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
    /// Whether results are transposed as they are written, and the sums of a task before that.
    transposes: bool,
    sums_len: usize,
}

impl Plan {
    /// Outputs of a task, but for the last.
    fn task_outputs(&self) -> usize {
        match self.outputs_in_lanes {
            true => self.grid.task_columns,
            false => self.grid.task_rows,
        }
    }

    /// From panel to panel of packed patches. One step more than they have: panels of a power of
    /// two would all compete for the same few sets of the first-level cache.
    fn panel_stride(&self, depth: usize) -> usize {
        self.patches.width * (depth + 1)
    }
}

/// Pixels of a panel, in the instruction sets with the widest ones.
const PANEL_PIXELS: usize = 32;

/// Images of so many pixels, with at least so many outputs, have these in the lanes where one lane is missing
/// for every so many pixels, or there are at most so many images, or at least so many products in a sum.
const SMALL_IMAGE: RangeInclusive<usize> = 7..=256;
const MANY_OUTPUTS: usize = 64;
const WORTH_TRANSPOSING: usize = 8;
const FEW_IMAGES: usize = 4;
const DEEP: usize = 512;
/// Elements of the filters of a task then: they stay in the second-level cache from image to image.
const TASK_FILTERS: usize = 1 << 18;

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

    /// Whether the patches are a matrix in memory, of one row of pixels, and the results too.
    fn is_matrix(&self) -> bool {
        let one_row = self.patches.are_pixels() && self.patches.rows.extent == 1;
        // Padding can make more patches than there are pixels.
        let one_row = one_row && self.patches.columns.extent == self.pixels;
        one_row && self.results.pixels.width == usize::MAX
    }

    /// Whether the lanes are outputs.
    fn has_outputs_in_lanes(&self) -> bool {
        match self.patches.layout {
            Layout::Nchw => self.has_small_images() && self.outputs >= MANY_OUTPUTS,
            Layout::Nhwc => true,
        }
    }

    /// Whether pixels in the lanes would leave many of them empty, or be packed for few images or at a cost that
    /// grows with the depth, unlike that of transposing results.
    fn has_small_images(&self) -> bool {
        let in_columns = self.is_matrix() && self.results.outputs.width == usize::MAX;
        if !(in_columns && SMALL_IMAGE.contains(&self.pixels)) || self.lines_up() {
            return false;
        }
        let lanes = CACHE_LINE / size_of::<T>();
        let empty = self.pixels.next_multiple_of(lanes) - self.pixels;
        let few = self.batch * self.groups <= FEW_IMAGES;
        empty * WORTH_TRANSPOSING >= self.pixels || few || self.patches.len() >= DEEP
    }

    /// Takes the images as one, where a patch is just its pixel and each image's pixels would leave some of
    /// their last tile empty. What is summed for a pixel stays the same.
    pub fn joined(self) -> Self {
        if !(self.is_matrix() && self.batch > 1) {
            return self;
        }
        match self.patches.layout {
            Layout::Nchw if self.has_outputs_in_lanes() => self,
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
        let outputs_in_lanes = self.has_outputs_in_lanes();
        let (grid, filters, patches, pixel_parts, task_pixels, filled_len);
        if outputs_in_lanes {
            let (most_outputs, filled) = match self.patches.layout {
                Layout::Nchw => (TASK_FILTERS / depth.max(1), 0),
                Layout::Nhwc => (usize::MAX, block),
            };
            grid = Grid::new(
                [self.pixels, self.outputs, depth],
                copies,
                [tile.rows, tile.columns],
                [TASK_PIXELS_NHWC, most_outputs.max(tile.columns)],
            );
            filters = PanelShape::columns(tile);
            patches = PanelShape::rows(grid.task_rows.min(self.pixels), tile);
            (pixel_parts, task_pixels) = (grid.tasks()[0], grid.task_rows);
            filled_len = grid.task_rows * filled;
        } else {
            let lead = if self.lines_up() { CACHE_LINE / size_of::<T>() - 1 } else { 0 };
            grid = Grid::new(
                [self.outputs, self.pixels + lead, depth],
                copies,
                [tile.rows, tile.columns],
                [usize::MAX, TASK_PIXELS],
            );
            filters = PanelShape::rows(grid.task_rows.min(self.outputs), tile);
            patches = PanelShape::columns(tile);
            (pixel_parts, task_pixels) = (grid.tasks()[1], grid.task_columns);
            filled_len = 0;
        }
        // Those of a task are packed together.
        let task_outputs = if outputs_in_lanes { grid.task_columns } else { grid.task_rows };
        // What is packed for the one task that uses it stays in the cache.
        let (filters_len, own_filters_len) = match self.batch == 1 && pixel_parts == 1 {
            true => (0, filters.len(task_outputs, block)),
            false => (
                self.groups
                    * self.outputs.div_ceil(task_outputs)
                    * filters.len(task_outputs, depth),
                0,
            ),
        };
        let transposes = outputs_in_lanes && self.patches.layout == Layout::Nchw;
        Plan {
            depth,
            outputs_in_lanes,
            transposes,
            sums_len: if transposes { grid.task_rows * grid.task_columns } else { 0 },
            grid,
            filters,
            patches,
            filters_len,
            own_filters_len,
            patches_len: patches.len(task_pixels, block + 1),
            filled_len,
        }
    }

    pub fn scratch_len(&self, level: Level) -> ScratchLen {
        let plan = self.plan(level);
        let per_slot = plan.patches_len + plan.filled_len + plan.own_filters_len + plan.sums_len;
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

    /// What task `index` computes.
    fn part(&self, plan: &Plan, index: usize) -> Part {
        let cells = plan.grid.len();
        // The images of NCHW follow one another where they share a part of the filters.
        let (copy, cell) = match plan.transposes {
            true => {
                let parts = plan.grid.tasks()[0];
                let of_group = self.batch * cells;
                let (group, rest) = (index / of_group, index % of_group);
                let (part, rest) = (rest / (self.batch * parts), rest % (self.batch * parts));
                (rest / parts * self.groups + group, part * parts + rest % parts)
            }
            false => (index / cells, index % cells),
        };
        let [rows, columns] = plan.grid.task(cell);
        let (outputs, pixels) = match plan.outputs_in_lanes {
            true => (columns, rows),
            false => (rows, self.after_lead(columns)),
        };
        Part { image: copy / self.groups, group: copy % self.groups, outputs, pixels }
    }

    /// The pixels' elements of a depth block, where the patches are a matrix in memory.
    fn ahead(&self, plan: &Plan, index: usize, (start, count): (usize, usize)) -> Ahead<T> {
        if !(self.patches.are_pixels() && self.patches.rows.extent == 1) {
            return Ahead::none();
        }
        let Part { image, group, outputs: _, pixels } = self.part(plan, index);
        let [of_channel, _, of_pixel] = self.patches.strides;
        let channel = group * self.patches.channels + start;
        let (pixel, run, runs, stride) = match self.patches.layout {
            Layout::Nchw if plan.transposes => (pixels.0, pixels.1, count, of_channel),
            // Stores that end within a cache line wait for it behind all that was asked for: measured, where the
            // results do not stay in the cache, up to three times as long.
            Layout::Nchw if !self.lines_up() => return Ahead::none(),
            Layout::Nchw => (pixels.0, pixels.1, count, of_channel),
            // Parts of pixels are long, and foreseen by the processor.
            Layout::Nhwc if count < plan.depth => return Ahead::none(),
            Layout::Nhwc => (pixels.0, count, pixels.1, of_pixel),
        };
        let offset = image * self.image_stride + channel * of_channel + pixel * of_pixel;
        let start = self.patches.source.wrapping_add(offset);
        Ahead::new(start, run, runs, stride)
    }

    /// Packs the filters of every group, task part and depth block.
    fn pack_filters(&self, context: &Context, plan: &Plan, scratch: &Scratch<'_, T>) {
        let part_outputs = plan.task_outputs();
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
        let part_outputs = plan.task_outputs();
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
        let part_outputs = plan.task_outputs();
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
        let Part { image, group, outputs, pixels } = self.part(plan, index);
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
        let part = outputs.0 / plan.task_outputs();
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
        if plan.transposes && self.beta != T::default() {
            T::dispatch(level, task.old_results());
        }
        if plan.depth == 0 {
            // No tap reaches these pixels: their sums are empty.
            return multiply(0, 0);
        }
        for (start, count) in depth_blocks(plan.depth) {
            multiply(start, count);
        }
    }
}

/// Some outputs of some pixels of one image and group, each as (first, count).
struct Part {
    image: usize,
    group: usize,
    outputs: (usize, usize),
    pixels: (usize, usize),
}

/// The same as a task computes it.
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
        let plan = self.plan;
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
            transposed: None,
            ahead: [ahead, Ahead::none()],
            asks_for_rows: block.cells <= SHORT_DEPTH && self.product.has_many_results(),
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

    /// The sums of results that are going to be transposed: those of a pixel side by side.
    fn sums(&self) -> *mut T {
        let Plan { patches_len, filled_len, own_filters_len, .. } = self.plan;
        self.slot.wrapping_add(patches_len + filled_len + own_filters_len)
    }

    /// From pixel to pixel of these.
    fn sums_stride(&self) -> usize {
        self.plan.grid.task_columns
    }

    /// Fills the sums with what the results are before.
    fn old_results(&self) -> Transpose<T> {
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

/// Copies `[rows, columns]` of a matrix, whose rows are contiguous, to the rows of its transpose.
struct Transpose<T> {
    extents: [usize; 2],
    source: *const T,
    source_stride: usize,
    target: *mut T,
    target_stride: usize,
}

impl<T: Element> Kernel<T> for Transpose<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Transpose { extents, source, source_stride, target, target_stride } = self;
        // SAFETY: whoever makes one answers for the matrices.
        unsafe { runs::transpose(simd, extents, source, source_stride, target, target_stride) }
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
