//! The windows of one row of the grid of a depthwise pass, NHWC, and how kernels pass over them: a tile of
//! neighbouring outputs times some vectors of channels at a time.
//!
//! Where the windows of neighbours share pixels, a kernel loads each once for three taps. `GROUPED` kernels spread
//! the channels of groups over the lanes, and take the terms of a line one after the other.

use std::ptr;

use super::nhwc_groups::Groups;
use super::nhwc_pixels::{Edges, Masked, Mode, Partial, PartialMasked, Pixels, TapKernel, Whole};
use crate::conv2d::gather::masked_at;
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::simd::{Element, Lanes, TILE_LANES};
use crate::taps::Taps;

/// The lines of a window, or of two that share some. (Cleared once a task: it is long.)
pub(super) type Lines<T> = [Masked<T>; DEPTH_BLOCK];

/// None of them yet.
pub(super) fn no_lines<T>() -> Lines<T> {
    [[ptr::null(); 2]; DEPTH_BLOCK]
}

/// Where an image's channels lie.
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    /// The first pixel at the first channel.
    pub start: Masked<T>,
    /// Strides along (row, column).
    pub strides: [usize; 2],
}

/// Where the windows of a row of the grid lie.
#[derive(Clone, Copy)]
pub(super) struct Window<'a, T, const GROUPED: bool> {
    /// For each row of taps, the first pixel of the first output's window, or null in the padding.
    lines: &'a [Masked<T>],
    /// Zeros for all channels, which stand for the pixels of the padding.
    zeros: *const T,
    /// From pixel to pixel of a line.
    pixel: usize,
    /// How many pixels of the first output's window lie in front of the line's first, negative where it
    /// begins behind that one, and how many in front of the line's end.
    inside: (isize, isize),
    /// Whether something masks the pixels.
    masked: bool,
    /// Taps of a line.
    taps: usize,
    /// Pixels from output to output, and from tap to tap.
    step: usize,
    dilation: usize,
    groups: &'a Groups<T>,
}

/// Whether there are registers for more sums than those of four outputs: 32, not 16. (Asked in a `const` block, what
/// needs them is not even compiled for others.)
pub(super) const fn has_many_registers<T: Element, S: Lanes<T>>() -> bool {
    S::TILE_ROWS > 6
}

/// Whether neighbouring rows read some of the same lines, and `Window::of_pair` finds them.
pub(super) fn shares_lines(rows: &Taps) -> bool {
    let dense = rows.offset_step.unsigned_abs() == 1;
    dense && rows.count > rows.step && rows.count + rows.step <= DEPTH_BLOCK
}

/// What is done with the tiles of one or more rows.
pub(super) trait Tiles<T: Element, const GROUPED: bool> {
    /// Takes outputs `first..end` of the rows, which are whole tiles of `N` that are `STEP` pixels apart where they
    /// share pixels.
    ///
    /// # Safety
    /// As for `for_each_size`.
    unsafe fn run<S: Lanes<T>, const N: usize, const STEP: usize>(
        &mut self,
        simd: S,
        columns: (usize, usize),
    );
}

/// Cuts rows of `width` outputs into tiles, the widest first.
///
/// # Safety
/// The tiles may run.
#[inline(always)]
pub(super) unsafe fn for_each_size<T: Element, S: Lanes<T>, const GROUPED: bool>(
    simd: S,
    taps: &Taps,
    width: usize,
    tiles: &mut impl Tiles<T, GROUPED>,
) {
    #[inline(always)]
    unsafe fn run<
        T: Element,
        S: Lanes<T>,
        const GROUPED: bool,
        const N: usize,
        const STEP: usize,
    >(
        simd: S,
        (first, width): (usize, usize),
        tiles: &mut impl Tiles<T, GROUPED>,
    ) -> usize {
        let end = first + (width - first) / N * N;
        // SAFETY: passed on to the caller.
        unsafe { tiles.run::<S, N, STEP>(simd, (first, end)) };
        end
    }
    // Of groups, sizes that share all of their pixels will do.
    let dense = !GROUPED && taps.offset_step.unsigned_abs() == 1;
    let mut column = 0;
    while column < width {
        let columns = (column, width);
        // SAFETY: passed on to the caller.
        column = unsafe {
            match (taps.step, width - column) {
                // As wide as many an image, and sooner than 4, 2 and 1; where there are more, 4 are.
                (2, 7) if const { has_many_registers::<T, S>() } && dense => {
                    run::<T, S, GROUPED, 7, 2>(simd, columns, tiles)
                }
                (2, 4..) if dense => run::<T, S, GROUPED, 4, 2>(simd, columns, tiles),
                (2, 2..) if dense => run::<T, S, GROUPED, 2, 2>(simd, columns, tiles),
                (_, 7..) if const { GROUPED || has_many_registers::<T, S>() } => {
                    run::<T, S, GROUPED, 7, 1>(simd, columns, tiles)
                }
                (_, 4..) => run::<T, S, GROUPED, 4, 1>(simd, columns, tiles),
                (_, 2..) if !GROUPED => run::<T, S, GROUPED, 2, 1>(simd, columns, tiles),
                _ => run::<T, S, GROUPED, 1, 1>(simd, columns, tiles),
            }
        };
    }
}

impl<'a, T: Element, const GROUPED: bool> Window<'a, T, GROUPED> {
    /// Of row `row`; lists its lines, and as many more as there is room for.
    #[inline(always)]
    pub fn new(
        (rows, columns): (&Taps, &Taps),
        row: usize,
        source: &Source<T>,
        zeros: *const T,
        groups: &'a Groups<T>,
        lines: &'a mut [Masked<T>],
    ) -> Self {
        let [of_row, of_column] = source.strides;
        let masked = !source.start[1].is_null();
        let first = columns.source(0, columns.in_order(0));
        for (tap, line) in lines.iter_mut().enumerate() {
            let y = rows.source(row, tap);
            // Of no meaning, and of any size, in the padding.
            let place = y.wrapping_mul(of_row as isize);
            let place = place.wrapping_add(first.wrapping_mul(of_column as isize));
            *line = match rows.outside(y) {
                true => [ptr::null(); 2],
                false => masked_at(source.start, place as usize),
            };
        }
        let Taps { count: taps, step, offset_step, extent, .. } = *columns;
        let inside = (-first, extent as isize - first);
        let dilation = offset_step.unsigned_abs();
        Window { lines, zeros, pixel: of_column, inside, masked, taps, step, dilation, groups }
    }

    /// Runs a kernel for outputs `first..end` of the row, which are whole tiles of `N`, times `count` channels.
    ///
    /// # Safety
    /// The lines have what these read, and the kernel may run.
    #[inline(always)]
    pub unsafe fn for_each_tile<S: Lanes<T>, const N: usize, const STEP: usize>(
        &self,
        simd: S,
        (first, end): (usize, usize),
        count: usize,
        kernel: &impl WindowKernel<T, S>,
    ) {
        for column in (first..end).step_by(N) {
            // SAFETY: the caller answers for the outputs.
            unsafe { self.tile::<S, _, N, STEP>(simd, column, count, kernel) };
        }
    }

    /// `N` outputs from `column` on.
    ///
    /// # Safety
    /// As for `for_each_tile`.
    #[inline(always)]
    unsafe fn tile<S: Lanes<T>, K: WindowKernel<T, S>, const N: usize, const STEP: usize>(
        &self,
        simd: S,
        column: usize,
        count: usize,
        kernel: &K,
    ) {
        let skipped = (column * self.step) as isize;
        let (before, behind) = (self.inside.0 - skipped, self.inside.1 - skipped);
        let reach = (N - 1) * self.step + self.taps.saturating_sub(1) * self.dilation;
        let lacks = before.max(reach as isize + 1 - behind);
        let first = before.max(0) as usize;
        let tile = Tile { column, inside: (first, (behind.max(0) as usize).saturating_sub(first)) };
        let mut channel = 0;
        // SAFETY: the caller answers for the outputs.
        unsafe {
            // Whole cache lines.
            let pairs = !GROUPED && 2 * S::LANES <= TILE_LANES;
            while pairs && channel + 2 * S::LANES <= count {
                self.run::<S, K, N, STEP, 2>(simd, tile, lacks, channel, S::LANES, kernel);
                channel += 2 * S::LANES;
            }
            while channel < count {
                let lanes = S::LANES.min(count - channel);
                let lacks = if pairs || lanes < S::LANES { isize::MAX } else { lacks };
                self.run::<S, K, N, STEP, 1>(simd, tile, lacks, channel, lanes, kernel);
                channel += lanes;
            }
        }
    }

    /// Runs a kernel for `V` vectors of channels of a tile.
    ///
    /// # Safety
    /// As for `for_each_tile`.
    #[inline(always)]
    unsafe fn run<
        S: Lanes<T>,
        K: WindowKernel<T, S>,
        const N: usize,
        const STEP: usize,
        const V: usize,
    >(
        &self,
        simd: S,
        tile: Tile,
        lacks: isize,
        channel: usize,
        count: usize,
        kernel: &K,
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            match lacks {
                _ if self.masked && K::TAKES_MASKED => {
                    kernel.run::<N, STEP, V, PartialMasked>(simd, tile, channel, count);
                }
                ..=0 => kernel.run::<N, STEP, V, Whole>(simd, tile, channel, count),
                ..=Edges::LACKS if !GROUPED => {
                    kernel.run::<N, STEP, V, Edges>(simd, tile, channel, count);
                }
                _ => kernel.run::<N, STEP, V, Partial>(simd, tile, channel, count),
            }
        }
    }

    /// Of the lines of two rows, the second of which begins `step` lines behind the first: those that the first
    /// has alone, those that both have, and those that the second has alone.
    #[inline(always)]
    pub fn of_pair(&self, step: usize) -> [Self; 3] {
        let end = self.lines.len();
        // (Not by an array's `map`, whose closure would be a call.)
        [self.part(0, step), self.part(step, end - step), self.part(end - step, end)]
    }

    /// Of some of its lines.
    #[inline(always)]
    fn part(&self, first: usize, end: usize) -> Self {
        Window { lines: &self.lines[first..end], ..*self }
    }

    /// Runs a kernel for the taps of a tile in the order of the source, line by line, some together where the
    /// tile's outputs share pixels.
    ///
    /// # Safety
    /// The lines have what the tile reads, and the kernel as many taps.
    #[inline(always)]
    pub unsafe fn for_each_tap<
        S: Lanes<T>,
        const N: usize,
        const STEP: usize,
        const V: usize,
        M: Mode,
    >(
        &self,
        simd: S,
        tile: Tile,
        channels: (usize, usize),
        kernel: &mut impl TapKernel<T, S, N, V>,
    ) {
        let shared = self.dilation == 1 && self.step == STEP;
        // The lines of the commonest windows without a loop: the processor gets to the next tile sooner, whose
        // pixels it waits for.
        if M::WHOLE_LANES && !GROUPED && shared {
            // SAFETY: passed on to the caller.
            unsafe {
                match (self.taps, self.lines) {
                    (2, &[a]) => {
                        return self.taps::<S, N, STEP, V, M, 2>(simd, [a], tile, channels, kernel);
                    }
                    (3, &[a]) => {
                        return self.taps::<S, N, STEP, V, M, 3>(simd, [a], tile, channels, kernel);
                    }
                    (3, &[a, b]) => {
                        let lines = [a, b];
                        return self
                            .taps::<S, N, STEP, V, M, 3>(simd, lines, tile, channels, kernel);
                    }
                    (3, &[a, b, c]) => {
                        let lines = [a, b, c];
                        return self
                            .taps::<S, N, STEP, V, M, 3>(simd, lines, tile, channels, kernel);
                    }
                    _ => {}
                }
            }
        }
        let terms = if GROUPED { self.groups.terms } else { 1 };
        for &line in self.lines {
            for term in 0..terms {
                let pixels = self.pixels(simd, line, tile, channels, term);
                let mut tap = 0;
                while tap < self.taps {
                    // SAFETY: the caller answers for the pixels and the kernel.
                    tap += unsafe {
                        match self.taps - tap {
                            3.. if shared => kernel.add::<STEP, 3, M, GROUPED>(&pixels, tap),
                            2 if shared => kernel.add::<STEP, 2, M, GROUPED>(&pixels, tap),
                            _ => kernel.add::<1, 1, M, GROUPED>(&pixels, tap),
                        }
                    };
                }
            }
        }
    }

    /// Runs a kernel for the `TAPS` taps of each of some lines, which a tile's outputs share.
    ///
    /// # Safety
    /// As for `for_each_tap`.
    #[inline(always)]
    unsafe fn taps<
        S: Lanes<T>,
        const N: usize,
        const STEP: usize,
        const V: usize,
        M: Mode,
        const TAPS: usize,
    >(
        &self,
        simd: S,
        lines: impl IntoIterator<Item = Masked<T>>,
        tile: Tile,
        channels: (usize, usize),
        kernel: &mut impl TapKernel<T, S, N, V>,
    ) {
        for line in lines {
            let pixels = self.pixels(simd, line, tile, channels, 0);
            // SAFETY: passed on to the caller.
            unsafe { kernel.add::<STEP, TAPS, M, GROUPED>(&pixels, 0) };
        }
    }

    /// What a tile reads of a line for one term of `count` channels of each vector from `channel` on.
    #[inline(always)]
    fn pixels<S: Lanes<T>>(
        &self,
        simd: S,
        line: Masked<T>,
        tile: Tile,
        (channel, count): (usize, usize),
        term: usize,
    ) -> Pixels<T, S, GROUPED> {
        let groups = self.groups;
        let (channel, count) = match GROUPED {
            true => (groups.source::<S>(channel, term), groups.count::<S>(count)),
            false => (channel, count),
        };
        let (line, place, stride) = match line[0].is_null() {
            true => ([self.zeros, if self.masked { self.zeros } else { ptr::null() }], 0, 0),
            false => (line, (tile.column * self.step).wrapping_mul(self.pixel), self.pixel),
        };
        Pixels {
            simd,
            mask: simd.mask_between(0, count),
            start: masked_at(line, place.wrapping_add(channel)),
            zeros: self.zeros.wrapping_add(channel),
            stride,
            inside: tile.inside,
            step: self.step,
            dilation: self.dilation,
            numbers: match GROUPED {
                true => groups.numbers(simd, term),
                false => simd.splat(T::default()),
            },
        }
    }
}

/// Some neighbouring outputs: the first, and which of the pixels from its first tap on exist: the first of these,
/// and how many.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub column: usize,
    inside: (usize, usize),
}

/// What is done with each tile of a row.
pub(super) trait WindowKernel<T: Element, S: Lanes<T>> {
    /// Whether something may mask the pixels.
    const TAKES_MASKED: bool;

    /// `N` outputs, `STEP` pixels apart where they share pixels, times `V` vectors of channels from `channel`
    /// on, the last one of `count` channels.
    ///
    /// # Safety
    /// As for `Window::for_each_tile`.
    unsafe fn run<const N: usize, const STEP: usize, const V: usize, M: Mode>(
        &self,
        simd: S,
        tile: Tile,
        channel: usize,
        count: usize,
    );
}
