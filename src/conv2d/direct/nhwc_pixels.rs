//! The pixels of a line that a tile of a depthwise pass reads, NHWC, and what is done with them: some taps at a time,
//! which share what they load.

use crate::conv2d::gather::masked_at;
use crate::gemm::lines::unrolled;
use crate::simd::{Element, Lanes, TILE_LANES};

/// Rows of pixels: a tensor, and what masks it at the same places; null for none.
pub(super) type Masked<T> = [*const T; 2];

/// What is known of the pixels that a tile reads.
pub(super) trait Mode {
    /// All lanes exist.
    const WHOLE_LANES: bool;
    /// How many pixels at each end may not exist.
    const EDGE: usize;
    /// Something masks them.
    const MASKED: bool;
}

/// All of them exist, and nothing masks them.
pub(super) struct Whole;

/// The same, but for some at the ends that may not exist: the padding of most windows.
pub(super) struct Edges;

/// Some may not exist.
pub(super) struct Partial;

/// Some may not exist, and a ReLU's output masks the others.
pub(super) struct PartialMasked;

impl Mode for Whole {
    const WHOLE_LANES: bool = true;
    const EDGE: usize = 0;
    const MASKED: bool = false;
}

impl Edges {
    /// As many pixels as may not exist.
    pub const LACKS: isize = 2;
}

impl Mode for Edges {
    const WHOLE_LANES: bool = true;
    const EDGE: usize = Self::LACKS as usize;
    const MASKED: bool = false;
}

impl Mode for Partial {
    const WHOLE_LANES: bool = false;
    const EDGE: usize = usize::MAX;
    const MASKED: bool = false;
}

impl Mode for PartialMasked {
    const WHOLE_LANES: bool = false;
    const EDGE: usize = usize::MAX;
    const MASKED: bool = true;
}

/// What is done with the taps of a tile of `N` outputs and `V` vectors.
pub(super) trait TapKernel<T: Element, S: Lanes<T>, const N: usize, const V: usize> {
    /// Takes `TAPS` taps of a line, from number `first` on, of outputs that are `STEP` pixels apart where there are
    /// several. Returns `TAPS`.
    ///
    /// # Safety
    /// The pixels that exist can be read, and the kernel has as many taps left.
    unsafe fn add<const STEP: usize, const TAPS: usize, M: Mode, const GROUPED: bool>(
        &mut self,
        pixels: &Pixels<T, S, GROUPED>,
        first: usize,
    ) -> usize;
}

/// Where the vectors of a channel begin that `lines` lines each have, those of `TILE_LANES` channels side by side:
/// lines as long as a pixel would lie in the same sets of the first-level cache as the pixels do.
#[inline(always)]
pub(super) fn vectors_of(lines: usize, channel: usize) -> usize {
    channel / TILE_LANES * lines * TILE_LANES + channel % TILE_LANES
}

/// The vectors of some taps, which `vectors_of` places.
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn load_taps<T: Element, S: Lanes<T>, const V: usize, const TAPS: usize>(
    simd: S,
    source: *const T,
) -> [[S::Vector; V]; TAPS] {
    let mut taps = [[simd.splat(T::default()); V]; TAPS];
    unrolled::<TAPS>(
        #[inline(always)]
        |tap| {
            unrolled::<V>(
                #[inline(always)]
                |v| {
                    let vector = source.wrapping_add(tap * TILE_LANES + v * S::LANES);
                    // SAFETY: the caller answers for the vectors.
                    taps[tap][v] = unsafe { simd.load(vector) };
                },
            );
        },
    );
    taps
}

/// Some channels of the pixels that a tile reads of a line.
pub(super) struct Pixels<T: Element, S: Lanes<T>, const GROUPED: bool> {
    pub simd: S,
    /// Channels, where not all pixels and lanes exist.
    pub mask: S::Mask,
    /// The first output's first tap, and what is read for one that does not exist.
    pub start: Masked<T>,
    pub zeros: *const T,
    pub stride: usize,
    /// The first position that exists, and how many do.
    pub inside: (usize, usize),
    pub step: usize,
    pub dilation: usize,
    /// Of groups, the term's number in each lane.
    pub numbers: S::Vector,
}

impl<T: Element, S: Lanes<T>, const GROUPED: bool> Pixels<T, S, GROUPED> {
    /// Calls `body` with (tap, output, vector, pixel) for `TAPS` taps from number `first` on of `N` outputs: for
    /// several taps, of outputs that are `STEP` pixels apart, loads what these share once. What does not exist is
    /// 0.
    ///
    /// # Safety
    /// The pixels that exist and the zeros can be read.
    #[inline(always)]
    pub unsafe fn for_each<
        const N: usize,
        const STEP: usize,
        const V: usize,
        const TAPS: usize,
        M: Mode,
    >(
        &self,
        first: usize,
        mut body: impl FnMut(usize, usize, usize, S::Vector),
    ) {
        let unit = if TAPS > 1 { 1 } else { self.step };
        let before = (first * self.dilation).wrapping_sub(self.inside.0);
        let mut next = masked_at(self.start, (first * self.dilation).wrapping_mul(self.stride));
        unrolled::<15>(
            #[inline(always)]
            |number| {
                let count = (N - 1) * STEP + TAPS;
                if number >= count {
                    return;
                }
                let at_edge = number < M::EDGE || count - 1 - number < M::EDGE;
                let exists = !at_edge || before.wrapping_add(number * unit) < self.inside.1;
                let start = next;
                next = masked_at(next, unit.wrapping_mul(self.stride));
                unrolled::<V>(
                    #[inline(always)]
                    |v| {
                        let simd = self.simd;
                        // No branch: with sums in registers on both sides, some would be spilled.
                        let or_zeros = |start: *const T| {
                            let start = if exists { start } else { self.zeros };
                            start.wrapping_add(v * S::LANES)
                        };
                        let load = |from: *const T| match M::WHOLE_LANES && !GROUPED {
                            // SAFETY: the caller answers for pixels that exist, and there are zeros for the others.
                            true => unsafe { simd.load(from) },
                            // SAFETY: the same.
                            false => unsafe { simd.load_where(self.mask, from) },
                        };
                        let mut pixel = load(or_zeros(start[0]));
                        if M::MASKED {
                            pixel = simd.relu_gradient(load(or_zeros(start[1])), pixel);
                        }
                        let pixel = if GROUPED { simd.permute(pixel, self.numbers) } else { pixel };
                        unrolled::<TAPS>(
                            #[inline(always)]
                            |tap| {
                                let of_output = number.wrapping_sub(tap);
                                if number >= tap && of_output % STEP == 0 && of_output / STEP < N {
                                    body(tap, of_output / STEP, v, pixel);
                                }
                            },
                        );
                    },
                );
            },
        );
    }
}
