//! A vector of neighbouring outputs of a row, and the pixels that its column taps read from a row of the
//! source: in place, and masked only where some of them lie in the padding.

use crate::simd::{Element, Lanes};

/// The most vectors that a strip reads from a row: those of five taps, in pairs at stride 2.
const MOST_LOADS: usize = 6;

/// `K` taps side by side, outputs `STEP` pixels apart, 1 or 2. At 2 a pair of vectors is parted into two
/// taps' pixels.
#[derive(Clone, Copy)]
pub(super) struct Strip<M, const K: usize, const STEP: usize> {
    /// The first output, and how many there are.
    pub column: usize,
    pub count: usize,
    /// Of the outputs.
    pub mask: M,
    /// The column of the source that the first output's first tap reads.
    first: isize,
    /// Of each vector that is read: whether pixels are left out, and which are read.
    partial: [bool; MOST_LOADS],
    masks: [M; MOST_LOADS],
}

impl<M: Copy, const K: usize, const STEP: usize> Strip<M, K, STEP> {
    /// The vector from `column` on, of `width`; the first tap of output 0 is at `first_column` of the
    /// source, which has `extent`.
    #[inline(always)]
    pub fn new<T: Element, S: Lanes<T, Mask = M>>(
        simd: S,
        column: usize,
        width: usize,
        first_column: isize,
        extent: usize,
    ) -> Self {
        let count = S::LANES.min(width - column);
        let mask = simd.mask_between(0, count);
        let first = (column * STEP) as isize + first_column;
        let mut strip = Strip {
            column,
            count,
            mask,
            first,
            partial: [false; MOST_LOADS],
            masks: [mask; MOST_LOADS],
        };
        // Of the taps, and of the vectors that they are read in.
        let reach = (K.next_multiple_of(STEP) + STEP * S::LANES - STEP) as isize;
        if first < 0 || first + reach > extent as isize || count < S::LANES {
            for load in 0..K.next_multiple_of(STEP) {
                let start = first + Self::offset::<T, S>(load);
                // Nothing behind what the last output reads.
                let wanted = (STEP * count).saturating_sub(load % STEP * S::LANES).min(S::LANES);
                let begin = (-start).clamp(0, wanted as isize);
                let end = (extent as isize - start).clamp(begin, wanted as isize);
                strip.partial[load] = begin > 0 || end < S::LANES as isize;
                strip.masks[load] = simd.mask_between(begin as usize, end as usize);
            }
        }
        strip
    }

    /// Whether all pixels of all taps are there.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.partial == [false; MOST_LOADS]
    }

    /// Where a vector begins, from the first one on.
    #[inline(always)]
    fn offset<T: Element, S: Lanes<T>>(load: usize) -> isize {
        (load - load % STEP + load % STEP * S::LANES) as isize
    }

    /// The pixels of the `STEP` taps from `tap` on, a multiple of `STEP`; `EDGE` where some may lie in
    /// the padding, `MASKED` where a ReLU's output masks them. (Of a tap behind the last they have no
    /// meaning.)
    ///
    /// # Safety
    /// `row` is the first pixel in a row of the source, and of what masks it.
    #[inline(always)]
    pub unsafe fn pixels<
        T: Element,
        S: Lanes<T, Mask = M>,
        const EDGE: bool,
        const MASKED: bool,
    >(
        &self,
        simd: S,
        [row, relu_output]: [*const T; 2],
        tap: usize,
    ) -> [S::Vector; STEP] {
        let mut pixels = [simd.splat(T::default()); STEP];
        for (number, pixels) in pixels.iter_mut().enumerate() {
            let load = tap + number;
            let start = self.first + Self::offset::<T, S>(load);
            let vector = |row: *const T| match EDGE && self.partial[load] {
                // SAFETY: the row has what the mask leaves.
                true => unsafe { simd.load_where(self.masks[load], row.wrapping_offset(start)) },
                // SAFETY: the row has all of the vector.
                false => unsafe { simd.load(row.wrapping_offset(start)) },
            };
            *pixels = match MASKED {
                true => simd.relu_gradient(vector(relu_output), vector(row)),
                false => vector(row),
            };
        }
        if STEP == 2 {
            let [even, odd] = simd.deinterleave(pixels[0], pixels[STEP - 1]);
            (pixels[0], pixels[STEP - 1]) = (even, odd);
        }
        pixels
    }
}
