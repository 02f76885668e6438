//! One panel of target channels for some rows of the grid of some images: a register tile of some
//! pixels times the panel's vectors at a time.
//!
//! Taps that lie in the padding are skipped: the grid is cut into regions whose pixels have the same
//! taps. A block of filters passes over a strip of pixels, with a sum for each of them in memory,
//! before the next one does, so that it stays in the first-level cache.

use super::even_parts;
use super::panels::PanelPlan;
use crate::conv2d::gather::Gather;
use crate::gemm::ahead::{Ahead, Requests};
use crate::gemm::lines::Lines;
use crate::gemm::pack::TileShape;
use crate::gemm::update::{Bias, Update};
use crate::runs;
use crate::simd::{CACHE_LINE, Element, Lanes, TileKernel};
use crate::taps::Taps;

/// A panel of a group's channels of some images.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a, T> {
    pub pass: &'a Gather<T>,
    pub plan: PanelPlan,
    /// Its number in the group.
    pub panel: usize,
    /// The group's packed filters.
    pub packed: *const T,
    pub images: usize,
    /// Of the first image.
    pub source: Source<T>,
    /// The panel's first channel at the first pixel of the first image's grid.
    pub target: *mut T,
    /// Strides of the target along (image, channel, grid row, grid column).
    pub target_strides: [usize; 4],
    /// Of the panel's first channel; null for none.
    pub bias: *const T,
    /// Room for `sums_len` elements.
    pub sums: *mut T,
    /// Whether the target's pixels, whole cache lines apart, are written past the caches.
    pub streams: bool,
    /// Where the packed filters are too large for the second-level cache, those that are read when all of this panel's
    /// have been; null elsewhere.
    pub following: *const T,
}

/// Pixels of a strip of one image at the most.
pub(super) const STRIP_PIXELS: usize = 256;

/// Elements of the sums of a strip, of an image or of some images' whole grids.
pub(super) fn sums_len(tile: TileShape, images: usize, grid_pixels: usize) -> usize {
    let pixels = if images == 1 { STRIP_PIXELS } else { images * grid_pixels };
    pixels * tile.columns
}

/// Where the first term of a source pixel lies, and the strides along (image, term, row, column).
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    pub start: *const T,
    pub strides: [usize; 4],
}

/// Positions of one axis of the grid: the first, and the one behind the last.
type Range = (usize, usize);

/// Positions of one axis of the grid that have the same taps.
#[derive(Clone, Copy)]
struct Segment {
    first: usize,
    end: usize,
    first_tap: usize,
    end_tap: usize,
}

impl Segment {
    /// The segment that begins at `first`, up to `end` at most.
    #[inline(always)]
    fn new(taps: &Taps, first: usize, end: usize) -> Self {
        let (first_tap, end_tap) = taps.inside(first);
        let mut next = first + 1;
        if taps.count > 0 && (first_tap, end_tap) == (0, taps.count) {
            // As long as the tap that is ahead of the others is inside.
            let ahead = taps.source(0, 0).max(taps.source(0, taps.count - 1));
            next = ((taps.extent as isize - ahead) as usize).div_ceil(taps.step).min(end);
        }
        while next < end && taps.inside(next) == (first_tap, end_tap) {
            next += 1;
        }
        Segment { first, end: next, first_tap, end_tap }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.first
    }
}

/// A rectangle of the grid, of at most `STRIP_PIXELS` pixels, in each of the images.
#[derive(Clone, Copy)]
struct Strip {
    rows: Range,
    columns: Range,
}

impl Strip {
    #[inline(always)]
    fn height(&self) -> usize {
        self.rows.1 - self.rows.0
    }

    #[inline(always)]
    fn width(&self) -> usize {
        self.columns.1 - self.columns.0
    }

    /// Pixels of an image.
    #[inline(always)]
    fn pixels(&self) -> usize {
        self.height() * self.width()
    }

    /// The number of a pixel of the first image.
    #[inline(always)]
    fn number(&self, row: usize, column: usize) -> usize {
        (row - self.rows.0) * self.width() + column - self.columns.0
    }
}

/// An axis of a region: images, rows or columns.
#[derive(Clone, Copy)]
struct Axis {
    len: usize,
    /// From one to the next in the source, among the sums' pixels and in the target.
    source: usize,
    number: usize,
    target: usize,
}

impl<T: Element> Panel<'_, T> {
    /// Computes some rows of the grid: of several images, all of them.
    #[inline(always)]
    pub fn run<S: Lanes<T>>(&self, simd: S, (first, end): Range) {
        let taps = self.pass.rows.count * self.pass.columns.count;
        if taps == 0 && self.target_strides[3] == 1 && !self.pass.adds() {
            return self.write_empty_sums(simd, (first, end));
        }
        for (column, width) in even_parts(self.pass.grid_width, STRIP_PIXELS) {
            for (row, height) in even_parts(end - first, STRIP_PIXELS / width) {
                let row = first + row;
                let strip = Strip { rows: (row, row + height), columns: (column, column + width) };
                self.strip(simd, strip);
            }
        }
    }

    /// Writes rows that no tap reaches, as a stride larger than the kernel leaves them.
    #[inline(always)]
    fn write_empty_sums<S: Lanes<T>>(&self, simd: S, (first, end): Range) {
        let [of_image, of_channel, of_row, _] = self.target_strides;
        let sum = simd.mul(simd.splat(self.pass.alpha), simd.splat(T::default()));
        let axes = [
            (self.images, of_image),
            (self.plan.channels(self.panel), of_channel),
            (end - first, of_row),
        ];
        // SAFETY: rows of the grid, of the panel's channels.
        unsafe { runs::fill(simd, self.pass.grid_width, sum, self.pixel(first, 0), axes) };
    }

    /// Whether a pixel's channels lie side by side, so that tiles write them: NHWC.
    #[inline(always)]
    fn writes_vectors(&self) -> bool {
        self.target_strides[1] == 1
    }

    /// The panel's first channel of a pixel of the first image's target.
    #[inline(always)]
    fn pixel(&self, row: usize, column: usize) -> *mut T {
        let [.., of_row, of_column] = self.target_strides;
        self.target.wrapping_add(row * of_row + column * of_column)
    }

    #[inline(always)]
    fn strip<S: Lanes<T>>(&self, simd: S, strip: Strip) {
        let mut term = 0;
        loop {
            let terms = self.plan.block_terms.min(self.pass.terms - term);
            let requests = self.requests(&strip, (term, terms), S::TILE_ROWS);
            let mut row = strip.rows.0;
            while row < strip.rows.1 {
                let rows = Segment::new(&self.pass.rows, row, strip.rows.1);
                row = rows.end;
                let mut column = strip.columns.0;
                while column < strip.columns.1 {
                    let columns = Segment::new(&self.pass.columns, column, strip.columns.1);
                    column = columns.end;
                    self.region(simd, &strip, [rows, columns], (term, terms), &requests);
                }
            }
            term += terms;
            if term >= self.pass.terms {
                break;
            }
        }
        if self.writes_vectors() {
            return;
        }
        let [of_image, _, of_row, of_column] = self.target_strides;
        let (lines, pixels) = match of_row == strip.width() * of_column {
            true => (1, strip.pixels()),
            false => (strip.height(), strip.width()),
        };
        for image in 0..self.images {
            for line in 0..lines {
                let number = image * strip.pixels() + line * pixels;
                let sums = self.sums.wrapping_add(number * S::LANES * S::TILE_VECTORS);
                let target = self.pixel(strip.rows.0 + line, strip.columns.0);
                let target = target.wrapping_add(image * of_image);
                // SAFETY: the sums are there; the strip lies within this task's part of the target.
                unsafe { self.finish(simd, pixels, sums, target) };
            }
        }
    }

    /// What the tiles of a block of terms ask for: the next block's filters.
    #[inline(always)]
    fn requests(
        &self,
        strip: &Strip,
        (term, terms): (usize, usize),
        tile_rows: usize,
    ) -> Requests<T> {
        let Panel { pass, plan, panel, following, .. } = *self;
        let of_term = plan.taps() * plan.lanes(panel);
        let next = match term + terms < pass.terms {
            true => self.packed.wrapping_add(plan.offset(panel) + (term + terms) * of_term),
            false => following,
        };
        let ahead = match following.is_null() {
            true => Ahead::none(),
            false => Ahead::new(next, plan.block_terms * of_term, 1, 0),
        };
        let tiles = self.images * strip.pixels() / tile_rows;
        Requests::new([ahead, Ahead::none()], tiles, plan.taps() * terms)
    }

    /// Sums a block of terms for the pixels of a strip that have the same taps.
    #[inline(always)]
    fn region<S: Lanes<T>>(
        &self,
        simd: S,
        strip: &Strip,
        [rows, columns]: [Segment; 2],
        (term, terms): (usize, usize),
        requests: &Requests<T>,
    ) {
        let (row_taps, column_taps) = (&self.pass.rows, &self.pass.columns);
        let [of_image, of_term, of_row, of_column] = self.source.strides;
        let [target_image, _, target_row, target_column] = self.target_strides;
        // Tiles along the longest axis: fewer of them are narrow.
        let mut axes = [
            Axis {
                len: self.images,
                source: of_image,
                number: strip.pixels(),
                target: target_image,
            },
            Axis {
                len: rows.len(),
                source: row_taps.step * of_row,
                number: strip.width(),
                target: target_row,
            },
            Axis {
                len: columns.len(),
                source: column_taps.step * of_column,
                number: 1,
                target: target_column,
            },
        ];
        for axis in [1, 0] {
            if axes[axis].len > axes[2].len {
                axes.swap(axis, 2);
            }
        }
        let [outer, inner, along] = axes;
        let source_row = row_taps.source(rows.first, rows.first_tap);
        let source_column = column_taps.source(columns.first, columns.first_tap);
        let offset = source_row * of_row as isize
            + source_column * of_column as isize
            + (term * of_term) as isize;
        let number = strip.number(rows.first, columns.first);
        let target = self.pixel(rows.first, columns.first);
        let writes = term + terms >= self.pass.terms && self.writes_vectors();
        let lanes = self.plan.lanes(self.panel);
        let width = S::LANES * S::TILE_VECTORS;
        // As even tiles as can be: some of `pixels` + 1 pixels, and then those of `pixels`.
        let tiles = along.len.div_ceil(S::TILE_ROWS);
        let (pixels, longer) = (along.len / tiles, along.len % tiles);
        for line in 0..outer.len * inner.len {
            let (i, j) = (line / inner.len, line % inner.len);
            let mut pixel = 0;
            for (pixels, tiles) in [(pixels + 1, longer), (pixels, tiles - longer)] {
                if tiles == 0 {
                    continue;
                }
                let place =
                    |of: fn(&Axis) -> usize| i * of(&outer) + j * of(&inner) + pixel * of(&along);
                let kernel = Tiles {
                    panel: self,
                    requests,
                    count: tiles,
                    taps: [(rows.first_tap, rows.end_tap), (columns.first_tap, columns.end_tap)],
                    term,
                    terms,
                    // Of no meaning, and not read, where there are no taps.
                    source: self
                        .source
                        .start
                        .wrapping_offset(offset)
                        .wrapping_add(place(|axis| axis.source)),
                    pixel_stride: along.source,
                    sums: self.sums.wrapping_add((number + place(|axis| axis.number)) * width),
                    sums_stride: along.number * width,
                    target: match writes {
                        true => target.wrapping_add(place(|axis| axis.target)),
                        false => std::ptr::null_mut(),
                    },
                    target_stride: along.target,
                };
                simd.tile(pixels, lanes / S::LANES, &kernel);
                pixel += tiles * pixels;
            }
        }
    }

    /// Writes the sums of pixels that follow on from one another, from `target` on, where the channels
    /// of one do not.
    ///
    /// # Safety
    /// The sums are there; nobody else uses the target's pixels.
    #[inline(always)]
    unsafe fn finish<S: Lanes<T>>(&self, simd: S, pixels: usize, sums: *mut T, target: *mut T) {
        let Panel { pass, plan, panel, bias, .. } = *self;
        let width = S::LANES * S::TILE_VECTORS;
        let channels = plan.channels(panel);
        let [_, of_channel, _, of_pixel] = self.target_strides;
        for channel in (0..channels).step_by(S::LANES) {
            let count = S::LANES.min(channels - channel);
            // SAFETY: the biases have the group's channels, the sums the pixels, and the caller
            // answers for the target.
            unsafe {
                let bias = match bias.is_null() {
                    true => simd.splat(T::default()),
                    false => simd.load_first(count, bias.add(channel)),
                };
                let target = target.add(channel * of_channel);
                for pixel in 0..pixels {
                    let sum = sums.add(pixel * width + channel);
                    let target = target.wrapping_add(pixel * of_pixel);
                    let old = match pass.adds() {
                        true => {
                            let mask = simd.mask_between(0, count);
                            simd.gather_where(mask, target, of_channel as isize)
                        }
                        false => bias,
                    };
                    simd.store(sum, pass.result(simd, simd.load(sum), old, bias));
                }
                if of_pixel == 1 && count == S::LANES {
                    for pixel in (0..pixels).step_by(S::LANES) {
                        let source = sums.add(pixel * width + channel);
                        let count = S::LANES.min(pixels - pixel);
                        simd.transpose(
                            [count, S::LANES],
                            source,
                            width,
                            target.add(pixel),
                            of_channel,
                        );
                    }
                    continue;
                }
                for lane in 0..count {
                    for pixel in 0..pixels {
                        let value = *sums.add(pixel * width + channel + lane);
                        *target.add(lane * of_channel + pixel * of_pixel) = value;
                    }
                }
            }
        }
    }
}

/// A block of terms of some register tiles: pixels of one line of a region times a panel of channels.
struct Tiles<'a, T> {
    panel: &'a Panel<'a, T>,
    requests: &'a Requests<T>,
    count: usize,
    /// First row tap and the one behind the last, and the same of columns.
    taps: [Range; 2],
    /// First term.
    term: usize,
    terms: usize,
    /// What the first pixel's first taps read of the first term.
    source: *const T,
    /// From pixel to pixel of the source.
    pixel_stride: usize,
    /// Of the first pixel, and from one to the next.
    sums: *mut T,
    sums_stride: usize,
    /// Of the first pixel, where the tile writes the results, and from one to the next; else null.
    target: *mut T,
    target_stride: usize,
}

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Tiles<'_, T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        let Panel { pass, plan, panel, packed, source: Source { strides, .. }, .. } = *self.panel;
        let Tiles { term, terms, pixel_stride, .. } = *self;
        let width = VECTORS * S::LANES;
        let [_, of_term, of_row, of_column] = strides;
        let row_step = pass.rows.offset_step * of_row as isize;
        let column_step = pass.columns.offset_step * of_column as isize;
        let [(first_row, end_row), (first_column, end_column)] = self.taps;
        // The two inner loops run over terms and column taps, the innermost over the more.
        let taps = end_column - first_column;
        let side_by_side = column_step == (terms * of_term) as isize;
        let (middle, inner, middle_step, inner_step, first, middle_width) = match plan.terms_inside
        {
            true if side_by_side => (1, taps * terms, 0, of_term as isize, first_column * terms, 0),
            true => (taps, terms, column_step, of_term as isize, first_column * terms, terms),
            false => (terms, taps, of_term as isize, column_step, first_column, plan.column_taps),
        };
        // SAFETY: the filters are packed for this panel, the taps lie within the source, and the
        // sums have the tiles' pixels.
        unsafe {
            let block = packed.add(plan.offset(panel) + term * plan.taps() * width);
            for pixel in (0..self.count * ROWS).step_by(ROWS) {
                if !self.target.is_null() {
                    // What the next tile but one will write arrives meanwhile.
                    for r in pixel + 2 * ROWS..pixel + 3 * ROWS {
                        let target = self.target.wrapping_add(r * self.target_stride);
                        for lane in (0..width).step_by(CACHE_LINE / size_of::<T>()) {
                            simd.prefetch(target.wrapping_add(lane));
                        }
                        simd.prefetch(target.wrapping_add(width - 1));
                    }
                }
                let mut sums = [[simd.splat(T::default()); VECTORS]; ROWS];
                let source = self.source.wrapping_add(pixel * pixel_stride);
                for row_tap in first_row..end_row {
                    let source = source.offset((row_tap - first_row) as isize * row_step);
                    let weights = block.add((row_tap * terms * plan.column_taps + first) * width);
                    for number in 0..middle {
                        let source = source.offset(number as isize * middle_step);
                        let mut pixels = Lines::<T, ROWS>::new(source, pixel_stride);
                        let mut weights = weights.add(number * middle_width * width);
                        let mut left_over = inner;
                        while left_over > 0 {
                            self.requests.request(simd);
                            let mut some = left_over.min(self.requests.steps);
                            left_over -= some;
                            while some > 0 {
                                let mut lanes = [simd.splat(T::default()); VECTORS];
                                for (v, lane) in lanes.iter_mut().enumerate() {
                                    *lane = simd.load(weights.add(v * S::LANES));
                                }
                                pixels.multiply(simd, lanes, inner_step, &mut sums);
                                weights = weights.add(width);
                                some -= 1;
                            }
                        }
                    }
                }
                let totals = self.sums.add(pixel * self.sums_stride);
                if term > 0 {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            let total = totals.add(r * self.sums_stride + v * S::LANES);
                            *sum = simd.add(simd.load(total), *sum);
                        }
                    }
                }
                if !self.target.is_null() {
                    self.write(simd, pixel, sums);
                    continue;
                }
                for (r, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        simd.store(totals.add(r * self.sums_stride + v * S::LANES), sum);
                    }
                }
            }
        }
    }
}

impl<T: Element> Tiles<'_, T> {
    /// Writes the results of a tile, from pixel number `pixel` on.
    ///
    /// # Safety
    /// The target has the pixels, and nobody else uses them.
    #[inline(always)]
    unsafe fn write<S: Lanes<T>, const ROWS: usize, const VECTORS: usize>(
        &self,
        simd: S,
        pixel: usize,
        sums: [[S::Vector; VECTORS]; ROWS],
    ) {
        let Panel { pass, plan, panel, bias, streams, .. } = *self.panel;
        let bias = if bias.is_null() { Bias::None } else { Bias::Columns(bias) };
        let Gather { alpha, beta, relu, .. } = *pass;
        let update = Update { alpha, beta, bias, relu, streams };
        let target = self.target.wrapping_add(pixel * self.target_stride);
        let row = |pixel: usize| pixel * self.target_stride;
        // SAFETY: the caller answers for the target; the biases have the group's channels.
        unsafe { update.write(simd, sums, target, plan.channels(panel), row) };
    }
}
