//! Rows of the grid of a depthwise pass that gathers, NHWC: one, or two at a time. Sums run over the taps in
//! the order of the source, row by row, whether pixels are shared or not.

use std::array;

use super::nhwc_pixels::{Mode, Pixels, TapKernel, load_taps, vectors_of};
use super::nhwc_window::{Tile, Window, WindowKernel};
use crate::conv2d::gather::Gather;
use crate::gemm::lines::unrolled;
use crate::simd::{Element, Lanes, TILE_LANES};

/// One row of the grid of one image.
#[derive(Clone, Copy)]
pub(super) struct Row<'a, T> {
    pass: &'a Gather<T>,
    filters: *const T,
    /// The row's first output.
    target: *mut T,
    /// Whether it is written past the caches.
    streams: bool,
}

impl<'a, T: Element> Row<'a, T> {
    /// With packed filters; written past the caches if it `streams`.
    #[inline(always)]
    pub fn new(
        pass: &'a Gather<T>,
        filters: *const T,
        image: usize,
        row: usize,
        streams: bool,
    ) -> Self {
        let [of_image, _, of_row, _] = pass.target_strides;
        let target = pass.target.wrapping_add(image * of_image + row * of_row);
        Row { pass, filters, target, streams }
    }

    /// No sum yet.
    #[inline(always)]
    pub fn sums<S: Lanes<T>, const N: usize, const V: usize>(
        &self,
        simd: S,
        channel: usize,
    ) -> Sums<T, S, N, V> {
        // A block of packed filters has all of the vectors.
        let filters = self.filters.wrapping_add(vectors_of(self.pass.taps_of_output(), channel));
        Sums { filters, sums: [[simd.splat(T::default()); N]; V] }
    }

    /// Writes what becomes of the sums of a tile from a column on.
    ///
    /// # Safety
    /// The caller answers for the target.
    #[inline(always)]
    pub unsafe fn write<S: Lanes<T>, const N: usize, const V: usize>(
        &self,
        simd: S,
        column: usize,
        (channel, count): (usize, usize),
        sums: &[[S::Vector; N]; V],
    ) {
        let stride = self.pass.target_strides[3];
        for (v, &sums) in sums.iter().enumerate() {
            let channel = channel + v * S::LANES;
            let bias = match self.pass.bias.is_null() {
                true => self.pass.bias,
                false => self.pass.bias.wrapping_add(channel),
            };
            let target = self.target.wrapping_add(column * stride + channel);
            // SAFETY: the caller's promise; the biases have the channels.
            unsafe {
                let target = (target, stride);
                self.pass.write_vectors(simd, sums, bias, count, target, self.streams);
            }
        }
    }
}

/// One row, and its window.
pub(super) struct Single<'a, T, const GROUPED: bool> {
    pub window: Window<'a, T, GROUPED>,
    pub row: Row<'a, T>,
}

impl<T: Element, S: Lanes<T>, const GROUPED: bool> WindowKernel<T, S> for Single<'_, T, GROUPED> {
    const TAKES_MASKED: bool = true;

    #[inline(always)]
    unsafe fn run<const N: usize, const STEP: usize, const V: usize, M: Mode>(
        &self,
        simd: S,
        tile: Tile,
        channel: usize,
        count: usize,
    ) {
        let channels = (channel, count);
        let mut sums = [self.row.sums::<S, N, V>(simd, channel)];
        // SAFETY: the caller answers for the lines and the target; the filters have whole vectors.
        unsafe {
            self.window.for_each_tap::<S, N, STEP, V, M>(simd, tile, channels, &mut sums);
            self.row.write(simd, tile.column, channels, &sums[0].sums);
        }
    }
}

/// Two rows, in the order of their lines: each pixel of a line that both have is loaded once. Nothing masks them.
pub(super) struct Pair<'a, T> {
    pub window: Window<'a, T, false>,
    pub rows: [Row<'a, T>; 2],
}

impl<T: Element, S: Lanes<T>> WindowKernel<T, S> for Pair<'_, T> {
    const TAKES_MASKED: bool = false;

    #[inline(always)]
    unsafe fn run<const N: usize, const STEP: usize, const V: usize, M: Mode>(
        &self,
        simd: S,
        tile: Tile,
        channel: usize,
        count: usize,
    ) {
        let channels = (channel, count);
        let [one, other] = &self.rows;
        let mut both = [one.sums::<S, N, V>(simd, channel), other.sums(simd, channel)];
        let [alone, shared, behind] = self.window.of_pair(one.pass.rows.step);
        // SAFETY: the caller answers for the lines and the targets; the filters have whole vectors.
        unsafe {
            let first = array::from_mut(&mut both[0]);
            alone.for_each_tap::<S, N, STEP, V, M>(simd, tile, channels, first);
            shared.for_each_tap::<S, N, STEP, V, M>(simd, tile, channels, &mut both);
            let second = array::from_mut(&mut both[1]);
            behind.for_each_tap::<S, N, STEP, V, M>(simd, tile, channels, second);
            one.write(simd, tile.column, channels, &both[0].sums);
            other.write(simd, tile.column, channels, &both[1].sums);
        }
    }
}

/// The sums of a tile.
pub(super) struct Sums<T: Element, S: Lanes<T>, const N: usize, const V: usize> {
    /// Of the next tap.
    filters: *const T,
    pub sums: [[S::Vector; N]; V],
}

impl<T: Element, S: Lanes<T>, const N: usize, const V: usize> Sums<T, S, N, V> {
    /// Adds a product to the sum of a vector and an output.
    #[inline(always)]
    pub fn add(&mut self, simd: S, [v, n]: [usize; 2], pixel: S::Vector, weight: S::Vector) {
        self.sums[v][n] = simd.mul_add(pixel, weight, self.sums[v][n]);
    }

    /// The weights of the next taps; goes on behind them.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    pub unsafe fn weights<const TAPS: usize>(&mut self, simd: S) -> [[S::Vector; V]; TAPS] {
        let filters = self.filters;
        self.filters = filters.wrapping_add(TAPS * TILE_LANES);
        // SAFETY: the caller's promise; packed filters are whole vectors.
        unsafe { load_taps::<T, S, V, TAPS>(simd, filters) }
    }
}

/// The sums of a tile of one row, or of several that have the same lines.
impl<T: Element, S: Lanes<T>, const N: usize, const V: usize, const ROWS: usize>
    TapKernel<T, S, N, V> for [Sums<T, S, N, V>; ROWS]
{
    #[inline(always)]
    unsafe fn add<const STEP: usize, const TAPS: usize, M: Mode, const GROUPED: bool>(
        &mut self,
        pixels: &Pixels<T, S, GROUPED>,
        first: usize,
    ) -> usize {
        let simd = pixels.simd;
        let mut weights = [[[simd.splat(T::default()); V]; TAPS]; ROWS];
        // SAFETY: the caller answers for the pixels and the filters.
        unsafe {
            unrolled::<ROWS>(
                #[inline(always)]
                |row| weights[row] = self[row].weights::<TAPS>(simd),
            );
            pixels.for_each::<N, STEP, V, TAPS, M>(
                first,
                #[inline(always)]
                |tap, n, v, pixel| {
                    unrolled::<ROWS>(
                        #[inline(always)]
                        |row| self[row].add(simd, [v, n], pixel, weights[row][tap][v]),
                    );
                },
            );
        }
        TAPS
    }
}
