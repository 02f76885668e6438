//! How a product of filters and patches is cut, and which of the two the lanes hold: by its shape alone.

use std::ops::RangeInclusive;

use super::filter_product::{FilterProduct, Results};
use crate::gemm::blocking::{DEPTH_BLOCK, Grid, block_length};
use crate::gemm::kernel::Places;
use crate::gemm::pack::{PanelShape, TileShape};
use crate::runs;
use crate::shape::Layout;
use crate::simd::{CACHE_LINE, Element, Level};

/// Pixels of a task at the most: their patches of one depth block take 256 KB in f32, beside the
/// filters' panels in the second-level cache.
const TASK_PIXELS: usize = 256;
/// The same for NHWC, whose patches are filled one pixel's after the other's, or read in place.
const TASK_PIXELS_NHWC: usize = 126;

/// Images are joined where more than a pixel is missing from the panels for every so many that there
/// are: vectors that straddle images take longer.
const WORTH_JOINING: usize = 4;

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
/// The same where each task packs its patches, of so many products at least: then it has more filters, to pack less.
const TASK_FILTERS_PACKED: usize = 1 << 20;
const DEEP_PACKED: usize = 256;

/// How a product is cut and where a task's parts lie in scratch memory.
pub(super) struct Plan {
    pub depth: usize,
    /// Whether the lanes are outputs, and the rows of a tile pixels.
    pub outputs_in_lanes: bool,
    pub grid: Grid,
    pub filters: PanelShape,
    pub patches: PanelShape,
    /// Elements of the packed filters of all groups; 0 where each task packs its own.
    pub filters_len: usize,
    /// Of a task's own, of one depth block.
    pub own_filters_len: usize,
    pub patches_len: usize,
    /// Whether results are transposed as they are written, and the sums of a task before that.
    pub transposes: bool,
    pub sums_len: usize,
    /// Whether results are written past the caches.
    pub streams: bool,
}

impl Plan {
    /// Outputs of a task, but for the last.
    pub fn task_outputs(&self) -> usize {
        match self.outputs_in_lanes {
            true => self.grid.task_columns,
            false => self.grid.task_rows,
        }
    }

    /// From panel to panel of packed patches. One step more than they have: panels of a power of
    /// two would all compete for the same few sets of the first-level cache.
    pub fn panel_stride(&self, depth: usize) -> usize {
        self.patches.width * (depth + 1)
    }
}

/// From pixel to pixel of filled patches: an odd number of cache lines, so that the pixels of a tile spread over the
/// sets of the first-level cache.
pub(super) fn pixel_stride<T>(depth: usize) -> usize {
    let line = CACHE_LINE / size_of::<T>();
    (depth.div_ceil(line) | 1) * line
}

/// Some outputs of some pixels of one image and group, each as (first, count).
pub(super) struct Part {
    pub image: usize,
    pub group: usize,
    pub outputs: (usize, usize),
    pub pixels: (usize, usize),
}

impl<T: Element> FilterProduct<T> {
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
    /// grows with the depth, unlike that of transposing results. (Patches that are no matrix are packed either way.)
    fn has_small_images(&self) -> bool {
        let Results { outputs, pixels, .. } = self.results;
        let in_columns = outputs.width == usize::MAX && pixels.width == usize::MAX;
        if !(in_columns && SMALL_IMAGE.contains(&self.pixels)) || self.lines_up() {
            return false;
        }
        let (in_place, depth) = (self.is_matrix(), self.patches.len());
        let lanes = CACHE_LINE / size_of::<T>();
        let empty = self.pixels.next_multiple_of(lanes) - self.pixels;
        let many_empty = empty * WORTH_TRANSPOSING >= self.pixels;
        match in_place {
            true => many_empty || self.batch * self.groups <= FEW_IMAGES || depth >= DEEP,
            false => many_empty && depth >= DEEP_PACKED,
        }
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
    pub(super) fn lines_up(&self) -> bool {
        let Results { image_stride, outputs, pixels, .. } = self.results;
        let of_line = |stride: usize| (stride * size_of::<T>()).is_multiple_of(CACHE_LINE);
        let in_rows = pixels.inner == 1 && pixels.width == usize::MAX;
        in_rows && of_line(outputs.inner) && of_line(image_stride)
    }

    /// Pixels that a cache line of results has before the first one.
    pub(super) fn lead(&self) -> usize {
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

    pub(super) fn plan(&self, level: Level) -> Plan {
        let tile = TileShape::of::<T>(level);
        let depth = self.patches.len();
        let copies = self.batch * self.groups;
        let block = block_length(depth);
        let outputs_in_lanes = self.has_outputs_in_lanes();
        let (grid, filters, patches, pixel_parts, patches_len);
        if outputs_in_lanes {
            let most_outputs = match self.patches.layout {
                Layout::Nchw if self.is_matrix() => TASK_FILTERS / depth.max(1),
                Layout::Nchw => TASK_FILTERS_PACKED / depth.max(1),
                Layout::Nhwc => usize::MAX,
            };
            grid = Grid::new(
                [self.pixels, self.outputs, depth],
                copies,
                [tile.rows, tile.columns],
                [TASK_PIXELS_NHWC, most_outputs.max(tile.columns)],
            );
            filters = PanelShape::columns(tile);
            patches = PanelShape::rows(grid.task_rows.min(self.pixels), tile);
            pixel_parts = grid.tasks()[0];
            patches_len = match self.patches.layout {
                Layout::Nchw => patches.len(grid.task_rows, block + 1),
                Layout::Nhwc => grid.task_rows * pixel_stride::<T>(block),
            };
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
            pixel_parts = grid.tasks()[1];
            patches_len = patches.len(grid.task_columns, block + 1);
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
            streams: outputs_in_lanes && !transposes && self.streams(depth),
            sums_len: if transposes { grid.task_rows * grid.task_columns } else { 0 },
            grid,
            filters,
            patches,
            filters_len,
            own_filters_len,
            patches_len,
        }
    }

    /// Whether sums of so many products, outputs in the lanes, are written past the caches: in one go, to pixels of
    /// whole cache lines, which would not stay there. (Of rows of planes, each line would be alone: measured, that is
    /// no faster.)
    fn streams(&self, depth: usize) -> bool {
        let Places { inner, outer, .. } = self.results.pixels;
        let line = CACHE_LINE / size_of::<T>();
        let pixels = self.batch * self.groups * self.pixels;
        let elements = pixels.saturating_mul(self.outputs + self.patches.channels);
        self.beta == T::default()
            && (1..=DEPTH_BLOCK).contains(&depth)
            && inner.is_multiple_of(line)
            && outer.is_multiple_of(line)
            && runs::exceeds_caches::<T>(elements)
    }

    /// What task `index` computes.
    pub(super) fn part(&self, plan: &Plan, index: usize) -> Part {
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
}
