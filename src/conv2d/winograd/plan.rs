//! How a gathering pass is cut into blocks and tasks. By the shape alone.

use std::ops::Range;

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
/// Target channels of a block, a multiple of every panel, and where there would be few blocks.
const BLOCK_OUTPUTS: usize = 64;
const FEW_BLOCKS_OUTPUTS: usize = 32;
/// Tiles up to which a task has all of them, and so its filters for itself: its products stay in the
/// second-level cache beside them.
const OWN_TILES: usize = 64;
/// Source channels up to which a task has its tiles for itself, where there are enough tasks of the fewest: they
/// stay in the second-level cache beside the filters.
const OWN_TERMS: usize = 128;
/// Source channels that are summed in registers; the sums of such blocks are then added, which halves the
/// error of long sums.
const BLOCK_TERMS: usize = 64;
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
    /// Target channels of a block.
    pub block_outputs: usize,
    /// Whether each task transforms the filters that it multiplies by, a block of source channels at a time:
    /// where no other task needs them, they never leave its caches.
    pub own_filters: bool,
    /// Whether each task transforms the tiles that it multiplies, for all target channels.
    pub own_source: bool,
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
        let all_tiles = tiles.first_tile(tiles.segments);
        let own_filters = segments_together == tiles.segments && all_tiles <= OWN_TILES;
        let few_blocks = 2 * outputs.div_ceil(BLOCK_OUTPUTS) < TASKS;
        let block_outputs = match own_filters && few_blocks {
            true => FEW_BLOCKS_OUTPUTS,
            false => BLOCK_OUTPUTS,
        };
        let own_source = terms <= OWN_TERMS && all_tiles >= TASKS * FEWEST_BLOCK_TILES;
        let block_segments = if own_filters {
            tiles.segments
        } else if own_source {
            tiles.block(tiles.segments, FEWEST_BLOCK_TILES)
        } else {
            // Smaller blocks where there would be too few tasks.
            let together = segments_together * tiles.part_tiles;
            let block_tiles = together.saturating_mul(outputs.div_ceil(BLOCK_OUTPUTS)) / TASKS;
            let block_tiles = block_tiles.clamp(FEWEST_BLOCK_TILES, BLOCK_TILES);
            tiles.block(segments_together, block_tiles)
        };
        let panel = tile.columns;
        Plan {
            tiles,
            segments_together,
            block_segments,
            block_outputs,
            own_filters,
            own_source,
            terms,
            outputs,
            panel,
        }
    }

    /// Source channels that are summed at a time.
    pub fn block_terms(&self) -> usize {
        self.terms.div_ceil(self.terms.div_ceil(BLOCK_TERMS).max(1))
    }

    /// Source channels whose transformed filters are kept at a time.
    pub fn kept_terms(&self) -> usize {
        if self.own_filters { self.block_terms() } else { self.terms }
    }

    /// Elements from tile to tile of the transformed source.
    pub fn term_stride(&self) -> usize {
        spread(self.terms)
    }

    /// Elements from point to point of the transformed source, of all that is transformed together.
    pub fn source_plane(&self) -> usize {
        let segments = if self.own_source { self.block_segments } else { self.segments_together };
        spread(segments * self.tiles.part_tiles * self.term_stride())
    }

    /// Tiles of some segments.
    pub fn tiles_of(&self, segments: &Range<usize>) -> usize {
        self.tiles.first_tile(segments.end) - self.tiles.first_tile(segments.start)
    }

    /// Blocks of target channels.
    pub fn output_blocks(&self) -> usize {
        self.outputs.div_ceil(self.block_outputs)
    }

    pub fn panels(&self) -> usize {
        self.outputs.div_ceil(self.panel)
    }

    /// Panels of a block of target channels, but for the last one.
    pub fn block_panels(&self) -> usize {
        self.block_outputs / self.panel
    }

    /// Where a panel of the transformed filters begins, and the elements from point to point. The panels
    /// of a block of target channels lie side by side at each point: so products read them in order.
    pub fn filter_place(&self, panel: usize) -> (usize, usize) {
        let in_block = self.block_panels();
        let (block, number) = (panel / in_block, panel % in_block);
        let of_panel = self.kept_terms() * self.panel;
        let of_point = |panels: usize| spread(panels * of_panel);
        let before = if self.own_filters { 0 } else { block * PLANES * of_point(in_block) };
        let panels = in_block.min(self.panels() - block * in_block);
        (before + number * of_panel, of_point(panels))
    }

    /// Elements of the transformed filters that are kept, by all tasks or by each.
    fn filters(&self) -> usize {
        let in_block = self.block_panels();
        let last = if self.own_filters { 0 } else { (self.panels() - 1) / in_block * in_block };
        let (before, of_point) = self.filter_place(last);
        before + PLANES * of_point
    }

    /// Elements of shared memory before the transformed source.
    pub fn shared_filters(&self) -> usize {
        if self.own_filters { 0 } else { self.filters() }
    }

    /// Elements from point to point of a block's products.
    pub fn product_plane(&self) -> usize {
        spread(self.block_segments * self.tiles.part_tiles * self.block_outputs)
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

    /// Where the strip ends and a task's own filters begin: as they are, then transformed.
    pub fn own_filters_start(&self) -> usize {
        self.products() + self.target_strip()
    }

    /// Elements of filters as they are.
    pub fn unpacked(&self) -> usize {
        let taps = POINTS + 1 - self.tiles.extent;
        FILTER_TERMS * taps * taps * self.panel
    }

    /// Where a task's own tiles begin, behind the strip that they are read from as well.
    pub fn own_source_start(&self) -> usize {
        self.own_filters_start().max(strip_len::<POINTS>(&self.tiles))
    }

    /// The filters, then the source, for all; for each a strip, unpacked filters or products, and what is its own.
    pub fn scratch_len(&self) -> ScratchLen {
        let own_filters = if self.own_filters { self.unpacked() + self.filters() } else { 0 };
        let source = PLANES * self.source_plane();
        let (shared_source, own_source) = if self.own_source { (0, source) } else { (source, 0) };
        ScratchLen {
            shared: self.shared_filters() + shared_source,
            per_slot: (self.own_filters_start() + own_filters)
                .max(self.own_source_start() + own_source)
                .max(self.unpacked()),
        }
    }
}
