//! One row of the grid of a depthwise pass, NHWC: some neighbouring outputs of a vector of channels at a
//! time.
//!
//! Where the windows of neighbours share pixels, each is loaded once for three taps. Sums run over the taps
//! in the order of the source, row by row, whatever is shared.

use super::nhwc_band::{NhwcBand, Source};
use crate::conv2d::gather::Gather;
use crate::gemm::lines::unrolled;
use crate::simd::{Element, Lanes, TILE_LANES};

/// Where the windows of a row of the grid lie.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// From pixel to pixel of a line.
    pixel: usize,
    /// Pixels of a line in front of the first that the first output reads, negative where it begins behind
    /// that one; and pixels from that one on.
    inside: (isize, isize),
    /// Pixels from output to output, and from tap to tap.
    step: usize,
    dilation: usize,
}

impl Window {
    /// In place; lists where the first output's windows begin in the source's rows.
    #[inline(always)]
    pub fn in_place<T: Element>(
        pass: &Gather<T>,
        row: usize,
        source: &Source<T>,
        zeros: *const T,
        lines: &mut [*const T],
    ) -> Self {
        let (rows, columns) = (&pass.rows, &pass.columns);
        let [of_row, of_column] = source.strides;
        let first = columns.source(0, columns.in_order(0));
        for (tap, line) in lines.iter_mut().enumerate() {
            let y = rows.source(row, tap);
            let place = (y * of_row as isize).wrapping_add(first * of_column as isize);
            *line = match rows.outside(y) {
                true => zeros,
                false => source.start.wrapping_offset(place),
            };
        }
        let inside = (-first, columns.extent as isize - first);
        Window::new(pass, of_column, inside)
    }

    /// In the ring; lists where they begin there.
    #[inline(always)]
    pub fn copied<T: Element>(
        pass: &Gather<T>,
        row: usize,
        ring: &NhwcBand,
        start: *const T,
        lines: &mut [*const T],
    ) -> Self {
        let first = pass.columns.in_order(0);
        for (tap, line) in lines.iter_mut().enumerate() {
            let offset = ring.start((&pass.rows, tap), (&pass.columns, first), row);
            *line = start.wrapping_add(offset);
        }
        Window::new(pass, ring.channels, (0, isize::MAX))
    }

    fn new<T>(pass: &Gather<T>, pixel: usize, inside: (isize, isize)) -> Self {
        let dilation = pass.columns.offset_step.unsigned_abs();
        Window { pixel, inside, step: pass.columns.step, dilation }
    }
}

/// A block of channels of one row of the grid of one image.
pub(super) struct Row<'a, T> {
    pub pass: &'a Gather<T>,
    pub window: Window,
    /// For each row of taps, the first pixel of the first output's window, or `zeros`.
    pub lines: &'a [*const T],
    /// As many as the block has channels.
    pub zeros: *const T,
    /// The block's first channel, and how many there are.
    pub channels: (usize, usize),
    /// Of all channels, packed.
    pub filters: *const T,
    /// The row's first output.
    pub target: *mut T,
}

/// Taps of a row that share the pixels they load.
const SHARED_TAPS: usize = 3;

/// Some neighbouring outputs: the first, and which of the pixels from its first tap on exist.
#[derive(Clone, Copy)]
struct Tile {
    column: usize,
    inside: (usize, usize),
}

impl<T: Element> Row<'_, T> {
    /// Computes the row.
    ///
    /// # Safety
    /// The lines have what the row reads; the target has the row, and nobody else uses it.
    #[inline(always)]
    pub unsafe fn run<S: Lanes<T>>(&self, simd: S) {
        let dense = self.window.dilation == 1;
        let (mut column, width) = (0, self.pass.grid_width);
        while column < width {
            // SAFETY: the caller answers for the outputs.
            column += unsafe {
                match (self.window.step, width - column) {
                    (2, 4..) if dense => self.outputs::<S, 4, 2>(simd, column),
                    (2, 2..) if dense => self.outputs::<S, 2, 2>(simd, column),
                    (_, 7..) if S::TILE_ROWS > 6 => self.outputs::<S, 7, 1>(simd, column),
                    (_, 4..) => self.outputs::<S, 4, 1>(simd, column),
                    (_, 2..) => self.outputs::<S, 2, 1>(simd, column),
                    _ => self.outputs::<S, 1, 1>(simd, column),
                }
            };
        }
    }

    /// `N` neighbouring outputs from `column` on, `STEP` pixels apart where they share pixels. Returns `N`.
    ///
    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn outputs<S: Lanes<T>, const N: usize, const STEP: usize>(
        &self,
        simd: S,
        column: usize,
    ) -> usize {
        let Window { inside: (before, behind), step, dilation, .. } = self.window;
        let skipped = (column * step) as isize;
        let inside = (before - skipped, behind - skipped);
        let reach = self.pass.columns.count.saturating_sub(1) * dilation;
        let last = ((N - 1) * step + reach) as isize;
        let all_inside = inside.0 <= 0 && last < inside.1;
        let tile = Tile { column, inside: (inside.0.max(0) as usize, inside.1.max(0) as usize) };
        let count = self.channels.1;
        let mut channel = 0;
        // SAFETY: the caller answers for the outputs.
        unsafe {
            // Whole cache lines.
            while 2 * S::LANES <= TILE_LANES && channel + 2 * S::LANES <= count {
                match all_inside {
                    true => self.vectors::<S, N, STEP, 2, true>(simd, tile, channel, S::LANES),
                    false => self.vectors::<S, N, STEP, 2, false>(simd, tile, channel, S::LANES),
                }
                channel += 2 * S::LANES;
            }
            while 2 * S::LANES > TILE_LANES && all_inside && channel + S::LANES <= count {
                self.vectors::<S, N, STEP, 1, true>(simd, tile, channel, S::LANES);
                channel += S::LANES;
            }
            while channel < count {
                let lanes = S::LANES.min(count - channel);
                self.vectors::<S, N, STEP, 1, false>(simd, tile, channel, lanes);
                channel += lanes;
            }
        }
        N
    }

    /// `V` vectors of channels from `channel` on, the last one of `count` channels; where the tile is `WHOLE`, all
    /// its pixels and lanes exist.
    ///
    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn vectors<
        S: Lanes<T>,
        const N: usize,
        const STEP: usize,
        const V: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        tile: Tile,
        channel: usize,
        count: usize,
    ) {
        let Window { pixel, step, dilation, .. } = self.window;
        let taps = self.pass.columns.count;
        let shared = dilation == 1 && step == STEP;
        let mask = simd.mask_between(0, count);
        let mut sums = [[simd.splat(T::default()); N]; V];
        // A block of packed filters has all of the vectors.
        let place = self.channels.0 + channel;
        let block = place / TILE_LANES * self.lines.len() * taps * TILE_LANES;
        let mut filters = self.filters.wrapping_add(block + place % TILE_LANES);
        // SAFETY: the caller answers for the lines and the target; the filters have whole vectors.
        unsafe {
            for &line in self.lines {
                let mut pixels = match line == self.zeros {
                    true => Pixels { start: line, stride: 0, first: 0, tile },
                    false => {
                        let start = line.wrapping_add(tile.column * step * pixel);
                        Pixels { start, stride: pixel, first: 0, tile }
                    }
                };
                pixels.start = pixels.start.wrapping_add(channel);
                let mut tap = 0;
                while shared && tap + SHARED_TAPS <= taps {
                    pixels.first = tap;
                    pixels.taps::<S, N, STEP, V, SHARED_TAPS, WHOLE>(
                        simd, mask, 1, filters, &mut sums,
                    );
                    filters = filters.wrapping_add(SHARED_TAPS * TILE_LANES);
                    tap += SHARED_TAPS;
                }
                while tap < taps {
                    pixels.first = tap * dilation;
                    pixels.taps::<S, N, 1, V, 1, WHOLE>(simd, mask, step, filters, &mut sums);
                    filters = filters.wrapping_add(TILE_LANES);
                    tap += 1;
                }
            }
            let stride = self.pass.target_strides[3];
            for (v, &sums) in sums.iter().enumerate() {
                let bias = match self.pass.bias.is_null() {
                    true => self.pass.bias,
                    false => self.pass.bias.add(place + v * S::LANES),
                };
                let target = self.target.add(tile.column * stride + channel + v * S::LANES);
                self.pass.write_vectors(simd, sums, bias, count, (target, stride));
            }
        }
    }
}

/// Some channels of the pixels that a tile reads of a line.
#[derive(Clone, Copy)]
struct Pixels<T> {
    /// The first output's first tap.
    start: *const T,
    stride: usize,
    /// The pixel of the tap in question.
    first: usize,
    tile: Tile,
}

impl<T: Element> Pixels<T> {
    /// Adds the products of `TAPS` neighbouring taps to the sums of outputs that are `STEP` units of some
    /// pixels apart; with several taps, of one.
    ///
    /// # Safety
    /// The pixels that exist can be read; the filters have the taps' vectors.
    #[inline(always)]
    unsafe fn taps<
        S: Lanes<T>,
        const N: usize,
        const STEP: usize,
        const V: usize,
        const TAPS: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        mask: S::Mask,
        unit: usize,
        filters: *const T,
        sums: &mut [[S::Vector; N]; V],
    ) {
        let mut weights = [[simd.splat(T::default()); V]; TAPS];
        for (tap, weights) in weights.iter_mut().enumerate() {
            for (v, weight) in weights.iter_mut().enumerate() {
                // SAFETY: the caller answers for the filters.
                *weight = unsafe { simd.load(filters.add(tap * TILE_LANES + v * S::LANES)) };
            }
        }
        unrolled::<14>(
            #[inline(always)]
            |number| {
                if number >= (N - 1) * STEP + TAPS {
                    return;
                }
                let position = self.first + number * unit;
                let (first, end) = self.tile.inside;
                let pixel = self.start.wrapping_add(position * self.stride);
                for (v, sums) in sums.iter_mut().enumerate() {
                    let pixel = pixel.wrapping_add(v * S::LANES);
                    // SAFETY: the caller answers for pixels that exist.
                    let pixel = unsafe {
                        match WHOLE {
                            true => simd.load(pixel),
                            false if position < first || position >= end => {
                                simd.splat(T::default())
                            }
                            false => simd.load_where(mask, pixel),
                        }
                    };
                    for (tap, weights) in weights.iter().enumerate() {
                        if number >= tap && (number - tap) % STEP == 0 && (number - tap) / STEP < N
                        {
                            let sum = &mut sums[(number - tap) / STEP];
                            *sum = simd.mul_add(pixel, weights[v], *sum);
                        }
                    }
                }
            },
        );
    }
}
