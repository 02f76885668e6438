//! Packs lines of a matrix into the panels that the block product reads.

use crate::runs;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// How the lines of one operand are cut into panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PanelShape {
    /// Lines of a panel.
    pub width: usize,
    /// The last panel's lines are rounded up to a multiple of this, with zeros.
    pub granule: usize,
}

impl PanelShape {
    /// Panels for the rows of a block: the broadcast operand. As even as the tile's height allows.
    pub fn rows(rows: usize, tile: TileShape) -> Self {
        let panels = rows.div_ceil(tile.rows).max(1);
        PanelShape { width: rows.div_ceil(panels).max(1), granule: 1 }
    }

    /// Panels for the columns of a block: the operand in vectors.
    pub fn columns(tile: TileShape) -> Self {
        PanelShape { width: tile.columns, granule: tile.lanes }
    }

    /// Lines of panel `panel` when there are `lines` in all, the zeros included.
    #[inline(always)]
    pub fn lines_of(&self, panel: usize, lines: usize) -> usize {
        (lines - panel * self.width).next_multiple_of(self.granule).min(self.width)
    }

    /// Elements that `lines` lines of `depth` take.
    pub fn len(&self, lines: usize, depth: usize) -> usize {
        lines.div_ceil(self.width) * self.width * depth
    }
}

/// The register tile of an instruction set, in elements of one type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileShape {
    pub rows: usize,
    pub columns: usize,
    pub lanes: usize,
}

impl TileShape {
    pub fn of<T: Element>(level: crate::simd::Level) -> Self {
        struct Describe;
        impl<T: Element> Kernel<T> for Describe {
            type Output = TileShape;
            #[inline(always)]
            fn run<S: Lanes<T>>(self, _: S) -> TileShape {
                let columns = S::LANES * S::TILE_VECTORS;
                TileShape { rows: S::TILE_ROWS, columns, lanes: S::LANES }
            }
        }
        T::dispatch(level, Describe)
    }
}

/// A depth of up to three nested loops, the last one innermost: place k lies at
/// `k / (e1 * e2) * s0 + k / e2 % e1 * s1 + k % e2 * s2`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Extents of the two inner loops.
    pub extents: [usize; 2],
    pub strides: [isize; 3],
}

impl Depth {
    /// Places `stride` apart.
    pub fn every(stride: usize) -> Self {
        Depth { extents: [1, usize::MAX], strides: [0, 0, stride as isize] }
    }

    /// Three nested loops; those that follow on from one another become one.
    pub fn nested(extents: [usize; 3], strides: [isize; 3]) -> Self {
        let [outer, middle, inner] = extents;
        let [outer_stride, middle_stride, inner_stride] = strides;
        let inner_joins = middle == 1 || middle_stride == inner as isize * inner_stride;
        let middle_stride = if middle == 1 { inner as isize * inner_stride } else { middle_stride };
        let outer_joins = outer == 1 || outer_stride == middle as isize * middle_stride;
        match (outer_joins, inner_joins) {
            (true, true) => Depth { extents: [1, usize::MAX], strides: [0, 0, inner_stride] },
            (false, true) => Depth {
                extents: [1, (middle * inner).max(1)],
                strides: [outer_stride, 0, inner_stride],
            },
            _ => Depth { extents: [middle.max(1), inner.max(1)], strides },
        }
    }

    /// The longest run of the innermost loop from place `start` on, of at most `count` places: the
    /// offset of its first place, and its length. (An iterator or a callback would read better, but
    /// a closure is compiled without the instruction set's features.)
    #[inline(always)]
    fn run(&self, start: usize, count: usize) -> (isize, usize) {
        let [middle, inner] = self.extents;
        let (rest, c) = (start / inner, start % inner);
        let (a, b) = (rest / middle, rest % middle);
        let [outer_stride, middle_stride, inner_stride] = self.strides;
        let offset =
            a as isize * outer_stride + b as isize * middle_stride + c as isize * inner_stride;
        (offset, count.min(inner - c))
    }
}

/// Packs lines of a matrix in memory: line i at place k of the depth lies at
/// `source + i * line_stride + depth(k)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackMatrix<T> {
    pub source: *const T,
    /// Elements whose signs mask the source's, at the same places: see `Lanes::relu_gradient`.
    /// Null for none.
    pub relu_output: *const T,
    pub line_stride: usize,
    pub depth: Depth,
    /// The lines to pack.
    pub lines: usize,
    /// The places to pack.
    pub start: usize,
    pub count: usize,
    pub panels: PanelShape,
    /// Where place `start` of line 0 goes.
    pub target: *mut T,
    /// Elements from panel to panel.
    pub panel_stride: usize,
}

impl<T: Element> Kernel<T> for PackMatrix<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // Memory is read in long runs: along the depth where that is contiguous, else across the
        // lines, a few places of all panels at a time.
        let places = if self.depth.strides[2] == 1 { self.count.max(1) } else { PLACES };
        let mut place = 0;
        while place < self.count {
            let most = places.min(self.count - place);
            let (offset, count) = self.depth.run(self.start + place, most);
            if self.line_stride == 1 {
                self.prefetch(simd, offset + (count as isize) * self.depth.strides[2]);
            }
            for panel in 0..self.lines.div_ceil(self.panels.width) {
                // SAFETY: the caller answers for the source's lines and places and for the
                // target's panels; the panel and its places lie within them.
                unsafe { self.pack_panel(simd, panel, offset, (place, count)) };
            }
            place += count;
        }
    }
}

/// Places packed at a time of lines that are contiguous.
const PLACES: usize = 8;

impl<T: Element> PackMatrix<T> {
    /// Asks for the places that are packed next, contiguous lines from `offset` on: panels read small
    /// parts of them in turn, which no processor foresees.
    #[inline(always)]
    fn prefetch<S: Lanes<T>>(&self, simd: S, offset: isize) {
        for place in 0..PLACES as isize {
            let start = self.source.wrapping_offset(offset + place * self.depth.strides[2]);
            runs::fetch(simd, start, self.lines);
        }
    }

    /// Packs a run of `count` places of one panel, which lie from `offset` on and go to `place`.
    ///
    /// # Safety
    /// The source has these lines and places, the target the panel.
    #[inline(always)]
    unsafe fn pack_panel<S: Lanes<T>>(
        &self,
        simd: S,
        panel: usize,
        offset: isize,
        (place, count): (usize, usize),
    ) {
        let first = panel * self.panels.width;
        let width = self.panels.lines_of(panel, self.lines);
        let lines = width.min(self.lines - first);
        // SAFETY: the caller answers for the lines and places, and for the panel.
        unsafe {
            let target = self.target.add(panel * self.panel_stride + place * width);
            let copied = self.line_stride == 1 && self.depth.strides[2] != 1;
            if lines < width && !copied {
                for place in 0..count {
                    for line in lines..width {
                        *target.add(place * width + line) = T::default();
                    }
                }
            }
            let offset = offset + (first * self.line_stride) as isize;
            let behind = self.lines - first - lines;
            let run = Run { pack: self, offset, lines, behind, count, target, width };
            if self.depth.strides[2] == 1 {
                run.transpose(simd);
            } else if copied {
                run.copy(simd);
            } else {
                run.gather(simd);
            }
        }
    }
}

/// Some lines over a run of places with one stride.
struct Run<'a, T> {
    pack: &'a PackMatrix<T>,
    /// Of the first line's first place.
    offset: isize,
    lines: usize,
    /// Lines of the source behind these.
    behind: usize,
    count: usize,
    target: *mut T,
    width: usize,
}

impl<T: Element> Run<'_, T> {
    /// The lanes of `mask`, or all, of what lies at an offset, masked by the ReLU's output.
    #[inline(always)]
    unsafe fn load<S: Lanes<T>>(&self, simd: S, offset: isize, mask: Option<S::Mask>) -> S::Vector {
        // SAFETY: these elements are the source's, for which the caller answers.
        unsafe {
            let load = |source: *const T| match mask {
                None => simd.load(source.offset(offset)),
                Some(mask) => simd.load_where(mask, source.offset(offset)),
            };
            match self.pack.relu_output.is_null() {
                true => load(self.pack.source),
                false => simd.relu_gradient(load(self.pack.relu_output), load(self.pack.source)),
            }
        }
    }

    /// Places contiguous along the depth: blocks are transposed in registers.
    #[inline(always)]
    unsafe fn transpose<S: Lanes<T>>(&self, simd: S) {
        let stride = self.pack.line_stride;
        // SAFETY: within the lines and places of `self`, for which the caller answers.
        unsafe {
            if self.pack.relu_output.is_null() {
                let (source, extents) =
                    (self.pack.source.offset(self.offset), [self.lines, self.count]);
                return runs::transpose(simd, extents, source, stride, self.target, self.width);
            }
            for first in (0..self.lines).step_by(S::LANES) {
                let lines = S::LANES.min(self.lines - first);
                let offset = self.offset + (first * stride) as isize;
                for place in (0..self.count).step_by(S::LANES) {
                    let places = S::LANES.min(self.count - place);
                    let mask = (places < S::LANES).then(|| simd.mask_between(0, places));
                    let mut block = [T::default(); TILE_LANES * TILE_LANES];
                    for line in 0..lines {
                        let offset = offset + (place + line * stride) as isize;
                        simd.store(
                            block.as_mut_ptr().add(line * S::LANES),
                            self.load(simd, offset, mask),
                        );
                    }
                    let target = self.target.add(place * self.width + first);
                    simd.transpose([lines, places], block.as_ptr(), S::LANES, target, self.width);
                }
            }
        }
    }

    /// Lines contiguous at each place; writes the zeros behind them too.
    #[inline(always)]
    unsafe fn copy<S: Lanes<T>>(&self, simd: S) {
        let step = self.pack.depth.strides[2];
        let vectors = self.lines.next_multiple_of(S::LANES);
        // Where more lines follow, vectors may be whole: what is too much goes where the next place
        // will be written, but for the last place.
        let whole = self.lines == self.width && self.lines + self.behind >= vectors;
        let whole = if whole { self.count.saturating_sub(1) } else { 0 };
        let rest = self.lines % S::LANES;
        let mask = simd.mask_between(0, rest);
        // Then the lanes behind the lines are zeros.
        let rounded = self.width == vectors;
        // SAFETY: within the lines and places of `self`, for which the caller answers.
        unsafe {
            for place in 0..whole {
                let offset = self.offset + place as isize * step;
                let target = self.target.add(place * self.width);
                for line in (0..vectors).step_by(S::LANES) {
                    let value = self.load(simd, offset + line as isize, None);
                    simd.store(target.add(line), value);
                }
            }
            for place in whole..self.count {
                let offset = self.offset + place as isize * step;
                let target = self.target.add(place * self.width);
                let mut line = 0;
                while line + S::LANES <= self.lines {
                    let value = self.load(simd, offset + line as isize, None);
                    simd.store(target.add(line), value);
                    line += S::LANES;
                }
                if line < self.lines {
                    let value = self.load(simd, offset + line as isize, Some(mask));
                    match rounded {
                        true => simd.store(target.add(line), value),
                        false => simd.store_first(rest, target.add(line), value),
                    }
                }
            }
        }
    }

    /// Neither: element by element.
    #[inline(always)]
    unsafe fn gather<S: Lanes<T>>(&self, _: S) {
        let step = self.pack.depth.strides[2];
        let masked = !self.pack.relu_output.is_null();
        // SAFETY: within the lines and places of `self`, for which the caller answers.
        unsafe {
            for line in 0..self.lines {
                let offset = self.offset + (line * self.pack.line_stride) as isize;
                for place in 0..self.count {
                    let offset = offset + place as isize * step;
                    let dead = masked && *self.pack.relu_output.offset(offset) <= T::default();
                    let value = if dead { T::default() } else { *self.pack.source.offset(offset) };
                    *self.target.add(place * self.width + line) = value;
                }
            }
        }
    }
}
