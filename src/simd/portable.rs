//! What every processor of the target has, by way of `wide`, which chooses at compile time:
//! SSE2 (16 registers of 16 bytes, no FMA) on x86-64, NEON on aarch64.
//!
//! The tile is 6 rows of 2 vectors, as for AVX2: 12 accumulators of 16 registers.

use wide::{f32x4, f64x2, u32x4, u64x2};

use super::lanes::{Element, Kernel, Lanes, TileKernel, entries, gather, select_tile};

/// No proof is needed: the compiler assumes the instructions everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

entries!(Portable);

/// [`gather`], which is long, as a function of its own: kernels' edges are full of it.
///
/// # Safety
/// As for `gather`.
#[inline(never)]
unsafe fn gather_apart<T: Element, const N: usize>(
    mask: u32,
    source: *const T,
    stride: isize,
) -> [T; N] {
    // SAFETY: passed on to the caller.
    unsafe { gather(mask, source, stride) }
}

macro_rules! portable_lanes {
    ($element:ty, $vector:ident, $bits:ident, $lanes:literal) => {
        impl Lanes<$element> for Portable {
            type Vector = $vector;
            type Mask = $vector;
            const LANES: usize = $lanes;
            const REGISTERS: usize = 16;
            const TILE_ROWS: usize = 6;
            const TILE_VECTORS: usize = 2;

            #[inline(always)]
            fn tile<K: TileKernel<$element, Self>>(self, rows: usize, vectors: usize, kernel: &K) {
                select_tile!(self, kernel, rows, vectors, [1 2 3 4 5 6], [1 2]);
            }

            #[inline(always)]
            fn call<K: Kernel<$element>>(self, kernel: K) -> K::Output {
                enter(self, kernel)
            }

            #[inline(always)]
            fn splat(self, value: $element) -> $vector {
                $vector::splat(value)
            }

            #[inline(always)]
            unsafe fn load(self, source: *const $element) -> $vector {
                // SAFETY: the caller answers for the memory.
                $vector::new(unsafe { source.cast::<[$element; $lanes]>().read_unaligned() })
            }

            #[inline(always)]
            unsafe fn store(self, target: *mut $element, vector: $vector) {
                let lanes = vector.to_array();
                // SAFETY: the caller answers for the memory.
                unsafe { target.cast::<[$element; $lanes]>().write_unaligned(lanes) }
            }

            #[inline(always)]
            unsafe fn load_where(self, mask: $vector, source: *const $element) -> $vector {
                // SAFETY: the caller answers for the lanes of the mask.
                unsafe { Lanes::<$element>::gather_where(self, mask, source, 1) }
            }

            #[inline(always)]
            unsafe fn gather_where(
                self,
                mask: $vector,
                source: *const $element,
                stride: isize,
            ) -> $vector {
                // SAFETY: the caller answers for the lanes of the mask.
                $vector::new(unsafe { gather_apart(mask.to_bitmask(), source, stride) })
            }

            #[inline(always)]
            unsafe fn store_streaming(self, target: *mut $element, vector: $vector) {
                // SAFETY: the caller answers for the memory.
                unsafe { self.store(target, vector) }
            }

            #[inline(always)]
            unsafe fn store_first(self, count: usize, target: *mut $element, vector: $vector) {
                for (lane, value) in vector.to_array().into_iter().enumerate() {
                    if lane < count {
                        // SAFETY: one of the first `count` lanes, for which the caller answers.
                        unsafe { *target.add(lane) = value };
                    }
                }
            }

            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                a + b
            }

            #[inline(always)]
            fn sub(self, a: $vector, b: $vector) -> $vector {
                a - b
            }

            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                a * b
            }

            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                a.mul_add(b, c)
            }

            #[inline(always)]
            fn mask_between(self, first: usize, last: usize) -> $vector {
                let mut lane_numbers = [0.0; $lanes];
                for (lane, number) in lane_numbers.iter_mut().enumerate() {
                    *number = lane as $element;
                }
                let lane = $vector::new(lane_numbers);
                let from = $vector::splat(first.min($lanes) as $element);
                let to = $vector::splat(last.min($lanes) as $element);
                $vector::simd_le(from, lane) & $vector::simd_lt(lane, to)
            }

            #[inline(always)]
            fn less_equal(self, a: $vector, b: $vector) -> $vector {
                a.simd_le(b)
            }

            #[inline(always)]
            fn less(self, a: $vector, b: $vector) -> $vector {
                a.simd_lt(b)
            }

            #[inline(always)]
            fn equal(self, a: $vector, b: $vector) -> $vector {
                a.simd_eq(b)
            }

            #[inline(always)]
            fn select(self, mask: $vector, if_true: $vector, if_false: $vector) -> $vector {
                mask.bitselect(if_true, if_false)
            }

            #[inline(always)]
            unsafe fn transpose(
                self,
                [rows, columns]: [usize; 2],
                source: *const $element,
                source_stride: usize,
                target: *mut $element,
                target_stride: usize,
            ) {
                for i in 0..rows {
                    for k in 0..columns {
                        // SAFETY: within the blocks for which the caller answers.
                        unsafe {
                            *target.add(k * target_stride + i) = *source.add(i * source_stride + k);
                        }
                    }
                }
            }

            #[inline(always)]
            fn div(self, a: $vector, b: $vector) -> $vector {
                a / b
            }

            #[inline(always)]
            fn exceeds(self, value: $vector, best: $vector) -> $vector {
                !value.simd_le(best) & best.simd_eq(best)
            }

            #[inline(always)]
            fn has_nan(self, a: $vector, b: $vector) -> bool {
                !(a.simd_eq(a) & b.simd_eq(b)).all()
            }

            #[inline(always)]
            fn same_bits(self, a: $vector, b: $vector) -> $vector {
                let bits = |vector: $vector| $bits::new(vector.to_array().map(<$element>::to_bits));
                let equal = $bits::simd_eq(bits(a), bits(b));
                $vector::new(equal.to_array().map(<$element>::from_bits))
            }

            #[inline(always)]
            fn add_numbers(self, a: $vector, b: $vector) -> $vector {
                let bits = |vector: $vector| $bits::new(vector.to_array().map(<$element>::to_bits));
                $vector::new((bits(a) + bits(b)).to_array().map(<$element>::from_bits))
            }

            #[inline(always)]
            unsafe fn load_numbers(self, source: *const i32) -> $vector {
                // SAFETY: the caller answers for the memory.
                let numbers = unsafe { source.cast::<[i32; $lanes]>().read_unaligned() };
                $vector::new(numbers.map(|number| Element::from_number(number as u32)))
            }

            #[inline(always)]
            unsafe fn load_small_numbers(self, source: *const u8) -> $vector {
                // SAFETY: the caller answers for the memory.
                let numbers = unsafe { source.cast::<[u8; $lanes]>().read_unaligned() };
                $vector::new(numbers.map(|number| Element::from_number(u32::from(number))))
            }

            #[inline(always)]
            unsafe fn store_numbers(self, target: *mut i32, vector: $vector) {
                let numbers = vector.to_array().map(|number| number.to_number() as i32);
                // SAFETY: the caller answers for the memory.
                unsafe { target.cast::<[i32; $lanes]>().write_unaligned(numbers) };
            }

            #[inline(always)]
            unsafe fn store_small_numbers(self, target: *mut u8, vector: $vector) {
                let numbers = vector.to_array().map(|number| number.to_number() as u8);
                // SAFETY: the caller answers for the memory.
                unsafe { target.cast::<[u8; $lanes]>().write_unaligned(numbers) };
            }

            #[inline(always)]
            fn permute(self, vector: $vector, numbers: $vector) -> $vector {
                let lanes = vector.to_array();
                $vector::new(numbers.to_array().map(|number| lanes[number.to_number() as usize % $lanes]))
            }

            #[inline(always)]
            fn deinterleave(self, a: $vector, b: $vector) -> [$vector; 2] {
                let lane = |lane| if lane < $lanes { a.to_array()[lane] } else { b.to_array()[lane - $lanes] };
                [0, 1].map(|odd| $vector::new(std::array::from_fn(|i| lane(2 * i + odd))))
            }

            #[inline(always)]
            fn interleave(self, a: $vector, b: $vector) -> [$vector; 2] {
                let lane = |lane: usize| [a, b][lane % 2].to_array()[lane / 2];
                [0, $lanes].map(|first| $vector::new(std::array::from_fn(|i| lane(first + i))))
            }
        }
    };
}

portable_lanes!(f32, f32x4, u32x4, 4);
portable_lanes!(f64, f64x2, u64x2, 2);
