//! How a gathering pass is cut into blocks and tasks. By the shape alone.

use super::source::strip_len;
use super::tiles::{Tiles, spread};
use super::transforms::{PLANES, POINTS, outputs_of};
use crate::conv2d::gather::Gather;
use crate::gemm::pack::TileShape;
use crate::scratch::ScratchLen;
use crate::simd::TILE_LANES;

/// Tiles whose products share what they read of the filters: more read it less often, fewer leave more
/// tasks.
const BLOCK_TILES: usize = 56;
const FEWEST_BLOCK_TILES: usize = 28;
/// Target channels of a block, a multiple of every panel.
pub(super) const BLOCK_OUTPUTS: usize = 64;
/// Source channels whose filters are unpacked at a time.
pub(super) const FILTER_TERMS: usize = 16;
/// Tasks from which on threads are kept busy.
const TASKS: usize = 16;

/// The blocks of one group: some segments of tiles, some target channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub tiles: Tiles,
    /// Segments that are transformed together.
    pub segments_together: usize,
    pub block_segments: usize,
    terms: usize,
    outputs: usize,
    /// Columns of a panel of filters.
    pub panel: usize,
}

impl Plan {
    pub fn new<T>(pass: &Gather<T>, tile: TileShape) -> Self {
        let grid = [pass.grid_height, pass.grid_width];
        let tiles = Tiles::new(pass.batch, grid, outputs_of(pass.rows.count));
        let (terms, outputs) = (pass.terms, pass.outputs);
        let segments_together = tiles.together(PLANES * spread(terms) * size_of::<T>());
        // Smaller blocks where there would be too few tasks.
        let together = segments_together * tiles.part_tiles;
        let block_tiles = together.saturating_mul(outputs.div_ceil(BLOCK_OUTPUTS)) / TASKS;
        let block_tiles = block_tiles.clamp(FEWEST_BLOCK_TILES, BLOCK_TILES);
        let most = (block_tiles / tiles.part_tiles).max(1);
        let blocks = segments_together.div_ceil(most);
        let block_segments = segments_together.div_ceil(blocks).max(1);
        Plan { tiles, segments_together, block_segments, terms, outputs, panel: tile.columns }
    }

    /// Elements from tile to tile of the transformed source.
    pub fn term_stride(&self) -> usize {
        spread(self.terms)
    }

    /// Elements from point to point of the transformed source.
    pub fn source_plane(&self) -> usize {
        spread(self.segments_together * self.tiles.part_tiles * self.term_stride())
    }

    /// Blocks of target channels.
    pub fn output_blocks(&self) -> usize {
        self.outputs.div_ceil(BLOCK_OUTPUTS)
    }

    pub fn panels(&self) -> usize {
        self.outputs.div_ceil(self.panel)
    }

    /// Where a panel of the transformed filters begins, and the elements from point to point. The panels
    /// of a block of target channels lie side by side at each point: so products read them in order.
    pub fn filter_place(&self, panel: usize) -> (usize, usize) {
        let in_block = BLOCK_OUTPUTS / self.panel;
        let (block, number) = (panel / in_block, panel % in_block);
        let of_panel = self.terms * self.panel;
        let of_point = |panels: usize| spread(panels * of_panel);
        let before = block * PLANES * of_point(in_block);
        let panels = in_block.min(self.panels() - block * in_block);
        (before + number * of_panel, of_point(panels))
    }

    /// Elements of all transformed filters.
    pub fn filters(&self) -> usize {
        let last_block = (self.panels() - 1) * self.panel / BLOCK_OUTPUTS;
        let (before, of_point) = self.filter_place(last_block * BLOCK_OUTPUTS / self.panel);
        before + PLANES * of_point
    }

    /// Elements from point to point of a block's products.
    pub fn product_plane(&self) -> usize {
        spread(self.block_segments * self.tiles.part_tiles * BLOCK_OUTPUTS)
    }

    /// Columns of a strip of target rows.
    pub fn target_strip_columns(&self) -> usize {
        self.tiles.part_tiles * self.tiles.extent
    }

    /// Elements of the strip: a vector may be read past the last.
    fn target_strip(&self) -> usize {
        (self.tiles.extent * self.target_strip_columns() + TILE_LANES) * TILE_LANES
    }

    /// Where a task's products end and its strip of target rows begins.
    pub fn products(&self) -> usize {
        PLANES * self.product_plane()
    }

    /// The filters, then the source, for all; a strip, unpacked filters or products for each.
    pub fn scratch_len(&self) -> ScratchLen {
        let taps = POINTS + 1 - self.tiles.extent;
        let filters = FILTER_TERMS * taps * taps * self.panel;
        let source = strip_len::<POINTS>(&self.tiles);
        ScratchLen {
            shared: self.filters() + PLANES * self.source_plane(),
            per_slot: (self.products() + self.target_strip()).max(source).max(filters),
        }
    }
}
