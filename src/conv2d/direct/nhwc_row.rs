//! One row of the grid of a depthwise pass that gathers, NHWC. Sums run over the taps in the order of the
//! source, row by row, whether pixels are shared or not.

use super::nhwc_window::{Pixels, Tile, Window, WindowKernel};
use crate::conv2d::gather::Gather;
use crate::simd::{Element, Lanes, TILE_LANES};

/// One row of the grid of one image.
pub(super) struct Row<'a, T> {
    pub pass: &'a Gather<T>,
    pub window: Window<'a, T>,
    /// Packed.
    pub filters: *const T,
    /// The row's first output.
    pub target: *mut T,
}

impl<T: Element, S: Lanes<T>> WindowKernel<T, S> for Row<'_, T> {
    #[inline(always)]
    unsafe fn run<const N: usize, const STEP: usize, const V: usize, const WHOLE: bool>(
        &self,
        simd: S,
        tile: Tile,
        channel: usize,
        count: usize,
    ) {
        let taps = self.window.taps;
        let shared = self.window.shares(STEP);
        let mut sums = [[simd.splat(T::default()); N]; V];
        // A block of packed filters has all of the vectors.
        let block = channel / TILE_LANES * self.window.lines.len() * taps * TILE_LANES;
        let mut filters = self.filters.wrapping_add(block + channel % TILE_LANES);
        // SAFETY: the caller answers for the lines and the target; the filters have whole vectors.
        unsafe {
            for &line in self.window.lines {
                let pixels = self.window.pixels(simd, line, tile, (channel, count));
                let mut tap = 0;
                while tap < taps {
                    let done = match taps - tap {
                        3.. if shared => {
                            add::<T, S, N, STEP, V, 3, WHOLE>(&pixels, tap, filters, &mut sums)
                        }
                        2 if shared => {
                            add::<T, S, N, STEP, V, 2, WHOLE>(&pixels, tap, filters, &mut sums)
                        }
                        _ => add::<T, S, N, 1, V, 1, WHOLE>(&pixels, tap, filters, &mut sums),
                    };
                    filters = filters.wrapping_add(done * TILE_LANES);
                    tap += done;
                }
            }
            let stride = self.pass.target_strides[3];
            for (v, &sums) in sums.iter().enumerate() {
                let bias = match self.pass.bias.is_null() {
                    true => self.pass.bias,
                    false => self.pass.bias.add(channel + v * S::LANES),
                };
                let target = self.target.add(tile.column * stride + channel + v * S::LANES);
                self.pass.write_vectors(simd, sums, bias, count, (target, stride));
            }
        }
    }
}

/// Adds the products of `TAPS` taps from number `first` on to the sums of the outputs. Returns `TAPS`.
///
/// # Safety
/// The pixels that exist can be read; the filters have the taps' vectors.
#[inline(always)]
unsafe fn add<
    T: Element,
    S: Lanes<T>,
    const N: usize,
    const STEP: usize,
    const V: usize,
    const TAPS: usize,
    const WHOLE: bool,
>(
    pixels: &Pixels<T, S>,
    first: usize,
    filters: *const T,
    sums: &mut [[S::Vector; N]; V],
) -> usize {
    let simd = pixels.simd;
    let mut weights = [[simd.splat(T::default()); V]; TAPS];
    // SAFETY: the caller answers for the pixels and the filters.
    unsafe {
        for (tap, weights) in weights.iter_mut().enumerate() {
            for (v, weight) in weights.iter_mut().enumerate() {
                *weight = simd.load(filters.add(tap * TILE_LANES + v * S::LANES));
            }
        }
        pixels.for_each::<N, STEP, V, TAPS, WHOLE>(
            first,
            #[inline(always)]
            |tap, n, v, pixel| sums[v][n] = simd.mul_add(pixel, weights[tap][v], sums[v][n]),
        );
    }
    TAPS
}
