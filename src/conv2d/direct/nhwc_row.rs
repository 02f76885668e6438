//! One row of the grid of a depthwise pass that gathers, NHWC. Sums run over the taps in the order of the
//! source, row by row, whether pixels are shared or not.

use super::nhwc_window::{Pixels, TapKernel, Tile, Window, WindowKernel, load_taps};
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
        // A block of packed filters has all of the vectors.
        let block = channel / TILE_LANES * self.window.len() * TILE_LANES;
        let filters = self.filters.wrapping_add(block + channel % TILE_LANES);
        let mut kernel = Sums { filters, sums: [[simd.splat(T::default()); N]; V] };
        // SAFETY: the caller answers for the lines and the target; the filters have whole vectors.
        unsafe {
            let channels = (channel, count);
            self.window.for_each_tap::<S, N, STEP, V, WHOLE>(simd, tile, channels, &mut kernel);
            let stride = self.pass.target_strides[3];
            for (v, &sums) in kernel.sums.iter().enumerate() {
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

/// The sums of a tile.
struct Sums<T: Element, S: Lanes<T>, const N: usize, const V: usize> {
    /// Of the next tap.
    filters: *const T,
    sums: [[S::Vector; N]; V],
}

impl<T: Element, S: Lanes<T>, const N: usize, const V: usize> TapKernel<T, S, N, V>
    for Sums<T, S, N, V>
{
    #[inline(always)]
    unsafe fn add<const STEP: usize, const TAPS: usize, const WHOLE: bool>(
        &mut self,
        pixels: &Pixels<T, S>,
        first: usize,
    ) -> usize {
        let (simd, sums) = (pixels.simd, &mut self.sums);
        // SAFETY: the caller answers for the pixels and the filters.
        unsafe {
            let weights = load_taps::<T, S, V, TAPS>(simd, self.filters, TILE_LANES);
            pixels.for_each::<N, STEP, V, TAPS, WHOLE>(
                first,
                #[inline(always)]
                |tap, n, v, pixel| sums[v][n] = simd.mul_add(pixel, weights[tap][v], sums[v][n]),
            );
        }
        self.filters = self.filters.wrapping_add(TAPS * TILE_LANES);
        TAPS
    }
}
