//! How the sums of dw and db are cut into parts, tasks and depth blocks, and how they lie in scratch memory.

use super::backward_weights::BackwardWeights;
use super::forward::input_patches;
use super::patches::Patches;
use crate::gemm::blocking::{DEPTH_BLOCK, Grid, block_length};
use crate::gemm::pack::{PanelShape, TileShape};
use crate::scratch::ScratchLen;
use crate::shape::{ConvShape, FilterLayout, Layout};
use crate::simd::{CACHE_LINE, Element, Level};

/// The most parts that the depth blocks are dealt out to, so that there are tasks enough for a small dw.
const PARTS: usize = 16;
/// All parts' sums together take at most this much memory, or dw's own size.
const PARTS_BYTES: usize = 4 << 20;
/// The largest block of dw that one task computes.
const TASK_OUTPUTS: usize = 256;
const TASK_CELLS: usize = 384;
/// The longest pixels of NHWC whose channels are multiplied as they lie, not packed: the panels of longer ones
/// would lie in too few sets of the first-level cache, and in too many pages.
const PIXEL_BYTES: usize = 2048;
/// From so many elements of a group's dw on, they are tasks enough without parts, but each packs what others do: the
/// panels of some depth blocks are packed once for all tasks instead.
const SHARED_SUMS: usize = 1 << 19;
/// What these panels take at the most, if they are not those of one block.
const SHARED_BYTES: usize = 4 << 20;

/// How the sums are cut, and how they lie in scratch memory.
pub(super) struct Plan<'a, T> {
    pub shape: &'a ConvShape,
    pub inputs: &'a BackwardWeights<'a, T>,
    /// Of the first image and group; None when dw is not wanted.
    pub patches: Option<Patches<T>>,
    pub tile: TileShape,
    /// Pixels of an image.
    pub pixels: usize,
    /// Cells of a patch; 0 when dw is not wanted.
    pub cells: usize,
    pub parts: usize,
    /// Depth blocks of all images, and of a part.
    pub blocks: usize,
    pub blocks_of_part: usize,
    /// Images that share a depth block: more than one where they are small.
    pub images_of_block: usize,
    /// Depth blocks whose panels are packed at once for all tasks; 0 where each task packs its own.
    pub shared_blocks: usize,
    /// Over (outputs, cells) of a group.
    pub grid: Grid,
    /// Whether dw's sums lie as `[outputs, cells]`, the cells in the lanes, or the other way round.
    pub cells_in_lanes: bool,
    /// Whether the cells are multiplied as they lie in x.
    pub cells_in_place: bool,
    pub output_panels: PanelShape,
    pub cell_panels: PanelShape,
}

impl<'a, T: Element> Plan<'a, T> {
    pub fn new(
        level: Level,
        shape: &'a ConvShape,
        inputs: &'a BackwardWeights<'a, T>,
        with_dw: bool,
    ) -> Self {
        let tile = TileShape::of::<T>(level);
        let pixels = shape.out_height * shape.out_width;
        let cells = if with_dw { shape.patch_len() } else { 0 };
        let bytes = shape.out_channels * cells.max(1) * size_of::<T>();
        let patches = inputs.x.filter(|_| with_dw).map(|x| input_patches(shape, x));
        let long_pixels =
            shape.layout == Layout::Nhwc && shape.in_channels * size_of::<T>() > PIXEL_BYTES;
        let gathered = long_pixels || !patches.as_ref().is_some_and(Patches::are_pixels);
        let shared = gathered && shape.group_out.saturating_mul(cells) >= SHARED_SUMS;
        let images_of_block = images_of_block(pixels, shape.batch);
        let blocks = shape.batch.div_ceil(images_of_block) * pixels.div_ceil(block_length(pixels));
        let parts = if shared { 1 } else { parts_of_batch(blocks, bytes) };
        let blocks_of_part = blocks.div_ceil(parts);
        let parts = blocks.div_ceil(blocks_of_part);
        // The same sums in either way: the one that wastes fewer lanes and rows, or else the one
        // whose sums lie as most filters do.
        let cost = |rows: usize, columns: usize| {
            rows.next_multiple_of(tile.rows) * columns.next_multiple_of(tile.lanes)
        };
        let cells_in_lanes = cost(shape.group_out, cells) / 17 <= cost(cells, shape.group_out) / 16;
        let cells_in_place = cells_in_lanes
            && shape.layout == Layout::Nhwc
            && patches.as_ref().is_some_and(Patches::are_pixels)
            && !long_pixels
            && cells.is_multiple_of(tile.columns);
        let task_cells = if cells_in_place { cells } else { TASK_CELLS };
        let granules = match cells_in_lanes {
            true => [tile.rows, tile.columns],
            false => [tile.columns, tile.rows],
        };
        let grid = Grid::new(
            [shape.group_out, cells.max(1), shape.batch * pixels],
            parts * shape.groups,
            granules,
            [TASK_OUTPUTS, task_cells],
        );
        let (output_panels, cell_panels) = match cells_in_lanes {
            true => (PanelShape::rows(grid.task_rows, tile), PanelShape::columns(tile)),
            false => (PanelShape::columns(tile), PanelShape::rows(grid.task_columns, tile)),
        };
        let mut plan = Plan {
            shape,
            inputs,
            patches,
            tile,
            pixels,
            cells,
            parts,
            blocks,
            blocks_of_part,
            images_of_block,
            shared_blocks: 0,
            grid,
            cells_in_lanes,
            cells_in_place,
            output_panels,
            cell_panels,
        };
        if shared {
            let bytes = plan.shared_block_len() * size_of::<T>();
            plan.shared_blocks = (SHARED_BYTES / bytes).clamp(1, blocks);
        }
        plan
    }

    /// Pixels of the longest depth block.
    pub fn block_pixels(&self) -> usize {
        block_length(self.pixels) * self.images_of_block
    }

    /// Elements of one part's sums of dw.
    pub fn part_len(&self) -> usize {
        self.shape.out_channels * self.cells
    }

    /// Whether the sums of dw are dw: there is one part, and what it sums lies as the filters do.
    pub fn sums_are_dw(&self) -> bool {
        let lie_alike = match self.shape.filter_layout {
            FilterLayout::Oihw => self.cells_in_lanes && self.shape.window() == 1,
            FilterLayout::Ohwi => self.cells_in_lanes,
            FilterLayout::Hwio => !self.cells_in_lanes && self.shape.groups == 1,
        };
        let plain = self.inputs.dw_alpha == T::from_f64(1.0) && self.inputs.dw_beta == T::default();
        self.parts == 1 && lie_alike && plain
    }

    /// All threads have the panels of some blocks, the sums of dw, and those of db.
    pub fn scratch_len(&self) -> ScratchLen {
        ScratchLen {
            shared: self.shared_len() + self.parts * (self.part_len() + self.shape.out_channels),
            per_slot: self.slot_lens().iter().sum(),
        }
    }

    /// Elements of the panels that all tasks read.
    pub fn shared_len(&self) -> usize {
        self.shared_blocks * self.shared_block_len()
    }

    /// Of a block: those of all groups' dy, and of their patches.
    pub fn shared_block_len(&self) -> usize {
        self.shape.groups
            * self.panel_lens([self.shape.group_out, self.cells]).iter().sum::<usize>()
    }

    /// Elements of the panels of some outputs and of some cells: whole cache lines. None of cells that are read in
    /// place.
    pub fn panel_lens(&self, [outputs, cells]: [usize; 2]) -> [usize; 2] {
        let block = self.block_pixels();
        let cells = if self.packs_cells() { cells } else { 0 };
        [self.output_panels.len(outputs, block), self.cell_panels.len(cells, block)]
            .map(|len| len.next_multiple_of(CACHE_LINE / size_of::<T>()))
    }

    pub fn packs_cells(&self) -> bool {
        self.patches.is_some() && !self.cells_in_place
    }

    /// Elements of a task's panels of dy and of patches, if it packs its own, of its filled patches, and of a region
    /// of dy.
    pub fn slot_lens(&self) -> [usize; 4] {
        let Grid { task_rows, task_columns, .. } = self.grid;
        let [dy, cells] = match self.shared_blocks {
            0 => self.panel_lens([task_rows, task_columns]),
            _ => [0, 0],
        };
        let filled = match self.shape.layout {
            Layout::Nchw if self.packs_cells() => {
                task_columns * block_length(self.pixels).next_multiple_of(self.tile.lanes)
            }
            _ => 0,
        };
        let rows = block_length(self.pixels).div_ceil(self.shape.out_width) + 1;
        [dy, cells, filled, self.inputs.gradient.scratch_len(task_rows, rows)]
    }

    /// Tasks of all parts and groups.
    pub fn tasks(&self) -> usize {
        self.parts * self.shape.groups * self.grid.len()
    }

    pub fn task(&self, index: usize) -> Task {
        let [outputs, cells] = self.grid.task(index % self.grid.len());
        let group = index / self.grid.len() % self.shape.groups;
        Task { part: index / self.grid.len() / self.shape.groups, group, outputs, cells }
    }

    /// The depth blocks of a part, in order.
    pub fn depth_blocks(&self, part: usize) -> impl Iterator<Item = DepthBlock> {
        let first = part * self.blocks_of_part;
        (first..self.blocks.min(first + self.blocks_of_part)).map(|block| self.block(block))
    }

    /// Depth block number `block`.
    pub fn block(&self, block: usize) -> DepthBlock {
        let length = block_length(self.pixels);
        let blocks_of_image = self.pixels.div_ceil(length);
        let image = block / blocks_of_image * self.images_of_block;
        let pixel = block % blocks_of_image * length;
        DepthBlock {
            image,
            images: self.images_of_block.min(self.shape.batch - image),
            pixel,
            pixels: length.min(self.pixels - pixel),
        }
    }
}

/// As many images as have about the pixels of a depth block, and in every block as even a number as can be.
fn images_of_block(pixels: usize, batch: usize) -> usize {
    let most = ((DEPTH_BLOCK + pixels / 2) / pixels).clamp(1, batch);
    batch.div_ceil(batch.div_ceil(most))
}

/// One part's sums of some outputs and cells of one group, each as (first, count).
#[derive(Clone, Copy)]
pub(super) struct Task {
    pub part: usize,
    pub group: usize,
    pub outputs: (usize, usize),
    pub cells: (usize, usize),
}

/// Pixels `pixel .. pixel + pixels` of each of `images` images from `image` on.
#[derive(Clone, Copy)]
pub(super) struct DepthBlock {
    pub image: usize,
    pub images: usize,
    pub pixel: usize,
    pub pixels: usize,
}

impl DepthBlock {
    /// Where the first image's first pixel of a channel lies in a tensor of these strides.
    pub fn offset(&self, [of_image, of_channel, _, of_pixel]: [usize; 4], channel: usize) -> usize {
        self.image * of_image + channel * of_channel + self.pixel * of_pixel
    }

    /// Pixels of all its images.
    pub fn depth(&self) -> usize {
        self.images * self.pixels
    }
}

/// How many parts a batch is cut into, of that many images or rows, whose sums take `bytes` each.
pub(super) fn parts_of_batch(units: usize, bytes: usize) -> usize {
    (PARTS_BYTES / bytes).clamp(1, PARTS).min(units)
}
