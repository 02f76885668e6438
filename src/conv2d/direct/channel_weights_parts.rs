//! dw from its sums: those of all parts are added up in their order, and lie as dw does then.

use super::channel_weights::Plan;
use crate::runs;
use crate::shape::{ConvShape, FilterLayout};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Adds up the parts of a panel of dw.
pub(super) struct AddUp<'a, T> {
    pub shape: &'a ConvShape,
    pub plan: Plan,
    pub group: usize,
    pub panel: usize,
    /// Of all parts.
    pub sums: *const T,
    pub alpha_beta: (T, T),
    pub dw: *mut T,
}

impl<T: Element> Kernel<T> for AddUp<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (shape, plan) = (self.shape, self.plan);
        let width = plan.lanes(shape, self.panel);
        let first = self.panel * plan.panels.width;
        let outputs = width.min(shape.group_out - first);
        let weights = shape.patch_len();
        // From output to output, and from weight to weight.
        let [w_out, w_weight] = match shape.filter_layout {
            FilterLayout::Hwio => [1, shape.filter_strides()[1]],
            FilterLayout::Oihw | FilterLayout::Ohwi => [weights, 1],
        };
        let start = self.group * plan.group_len + first * weights;
        let dw = self.dw.wrapping_add((self.group * shape.group_out + first) * w_out);
        for weight in (0..weights).step_by(S::LANES) {
            let count = S::LANES.min(weights - weight);
            let sums = self.sums.wrapping_add(start + weight * width);
            for lane in (0..width).step_by(S::LANES) {
                // SAFETY: the parts have the panel's sums, dw the outputs' weights, which no other
                // task writes.
                unsafe {
                    let dw = dw.add(lane * w_out + weight * w_weight);
                    let outputs = S::LANES.min(outputs - lane);
                    self.block(
                        simd,
                        (sums.add(lane), width),
                        (count, outputs),
                        (dw, [w_out, w_weight]),
                    );
                }
            }
        }
    }
}

impl<T: Element> AddUp<'_, T> {
    /// Adds up the parts of some weights, a vector of outputs each, `sum_stride` apart, and updates dw: outputs
    /// and weights lie that far apart, and one of them side by side.
    ///
    /// # Safety
    /// The parts and dw have them, and nobody else uses those of dw.
    #[inline(always)]
    unsafe fn block<S: Lanes<T>>(
        &self,
        simd: S,
        (sums, sum_stride): (*const T, usize),
        (weights, outputs): (usize, usize),
        (dw, [w_out, w_weight]): (*mut T, [usize; 2]),
    ) {
        let (alpha, beta) = self.alpha_beta;
        let mut values = [T::default(); TILE_LANES * TILE_LANES];
        let mut transposed = [T::default(); TILE_LANES * TILE_LANES];
        // SAFETY: the caller answers for the sums and for dw.
        unsafe {
            for (weight, values) in values.chunks_exact_mut(S::LANES).enumerate().take(weights) {
                let mut sum = simd.splat(T::default());
                for part in 0..self.plan.parts {
                    let place = part * self.plan.part_len + weight * sum_stride;
                    sum = simd.add(sum, simd.load(sums.add(place)));
                }
                simd.store(values.as_mut_ptr(), simd.mul(simd.splat(alpha), sum));
            }
            if outputs == S::LANES && w_out > 1 && beta == T::default() {
                simd.transpose([weights, S::LANES], values.as_ptr(), S::LANES, dw, w_out);
                return;
            }
            // Lines of dw: of outputs where those lie side by side, else of weights.
            let (lines, count, stride) = match w_out {
                1 => (weights, outputs, w_weight),
                _ => (outputs, weights, w_out),
            };
            if w_out > 1 {
                let target = transposed.as_mut_ptr();
                simd.transpose([weights, S::LANES], values.as_ptr(), S::LANES, target, S::LANES);
                values = transposed;
            }
            for line in 0..lines {
                let mut value = simd.load(values.as_ptr().add(line * S::LANES));
                let dw = dw.add(line * stride);
                if beta != T::default() {
                    let old = runs::load(simd, count, dw);
                    value = simd.mul_add(simd.splat(beta), old, value);
                }
                runs::store(simd, count, dw, value);
            }
        }
    }
}
