//! AVX-512 F, BW, DQ and VL: 32 registers of 64 bytes, a mask for every operation.
//!
//! The tile is 14 rows of 2 vectors: 28 accumulators, 2 vectors of the lane operand, and the
//! broadcast folds into the multiplication's memory operand. 14 divides the extents of the usual
//! networks (224, 112, 56, 28, 14).

use std::arch::x86_64::*;

use super::lanes::{
    Element, Kernel, Lanes, TileKernel, entries, gather, intrinsics, memory_intrinsics, select_tile,
};

/// Proof that the processor has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        found.then_some(Avx512(()))
    }
}

entries!(Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");

impl Lanes<f32> for Avx512 {
    type Vector = __m512;
    type Mask = __mmask16;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 14;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn tile<K: TileKernel<f32, Self>>(self, rows: usize, vectors: usize, kernel: &K) {
        select_tile!(
            self, kernel, rows, vectors, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2]
        );
    }

    #[inline(always)]
    fn call<K: Kernel<f32>>(self, kernel: K) -> K::Output {
        enter(self, kernel)
    }

    intrinsics! {
        splat(value: f32) -> __m512 = _mm512_set1_ps;
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps;
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps;
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps;
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps;
        less_equal(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LE_OQ>;
        less(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>;
        equal(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>;
    }

    memory_intrinsics! {
        load(source: *const f32) -> __m512 = _mm512_loadu_ps;
        store(target: *mut f32, vector: __m512) -> () = _mm512_storeu_ps;
        store_streaming(target: *mut f32, vector: __m512) -> () = _mm512_stream_ps;
        load_where(mask: __mmask16, source: *const f32) -> __m512 = _mm512_maskz_loadu_ps;
    }

    #[inline(always)]
    fn add_where(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_mask_add_ps(a, mask, a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, if_true: __m512, if_false: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_mask_blend_ps(mask, if_false, if_true) }
    }

    #[inline(always)]
    fn mask_between(self, first: usize, last: usize) -> __mmask16 {
        let below = |lane: usize| (1u32 << lane.min(16)) - 1;
        (below(last) & !below(first)) as __mmask16
    }

    #[inline(always)]
    unsafe fn gather_where(self, mask: __mmask16, source: *const f32, stride: isize) -> __m512 {
        // SAFETY: the caller answers for the lanes of the mask, the token for the feature.
        unsafe {
            let lanes: [f32; 16] = gather(u32::from(mask), source, stride);
            _mm512_loadu_ps(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, target: *mut f32, vector: __m512) {
        let mask = Lanes::<f32>::mask_between(self, 0, count);
        // SAFETY: the caller answers for the first `count` lanes, the token for the feature.
        unsafe { _mm512_mask_storeu_ps(target, mask, vector) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        [rows, columns]: [usize; 2],
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        // SAFETY: reads `rows` rows and writes `columns`, for which the caller answers.
        unsafe {
            let read = Lanes::<f32>::mask_between(self, 0, columns);
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, row) in r.iter_mut().enumerate() {
                if i < rows {
                    *row = _mm512_maskz_loadu_ps(read, source.add(i * source_stride));
                }
            }
            // 2x2 blocks, 4x4 blocks, then the 128-bit quarters.
            let mut t = r;
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..4 {
                let (a, b, c, d) = (t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]);
                r[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                r[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                r[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                r[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                t[i] = _mm512_shuffle_f32x4::<0x88>(r[i], r[i + 4]);
                t[i + 4] = _mm512_shuffle_f32x4::<0xdd>(r[i], r[i + 4]);
                t[i + 8] = _mm512_shuffle_f32x4::<0x88>(r[i + 8], r[i + 12]);
                t[i + 12] = _mm512_shuffle_f32x4::<0xdd>(r[i + 8], r[i + 12]);
            }
            for i in 0..8 {
                r[i] = _mm512_shuffle_f32x4::<0x88>(t[i], t[i + 8]);
                r[i + 8] = _mm512_shuffle_f32x4::<0xdd>(t[i], t[i + 8]);
            }
            let mask = Lanes::<f32>::mask_between(self, 0, rows);
            for (k, row) in r.iter().enumerate() {
                if k < columns {
                    _mm512_mask_storeu_ps(target.add(k * target_stride), mask, *row);
                }
            }
        }
    }

    intrinsics! {
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps;
    }

    #[inline(always)]
    fn exceeds(self, value: __m512, best: __m512) -> __mmask16 {
        // SAFETY: the token proves the feature.
        unsafe {
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(best, best);
            _mm512_mask_cmp_ps_mask::<_CMP_NLE_UQ>(number, value, best)
        }
    }

    #[inline(always)]
    fn has_nan(self, a: __m512, b: __m512) -> bool {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b) != 0 }
    }

    #[inline(always)]
    fn same_bits(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_cmpeq_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b)) }
    }

    #[inline(always)]
    fn add_numbers(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe {
            let sum = _mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(sum)
        }
    }

    #[inline(always)]
    unsafe fn load_numbers(self, source: *const i32) -> __m512 {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe { _mm512_castsi512_ps(_mm512_loadu_si512(source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_small_numbers(self, source: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_numbers(self, target: *mut i32, vector: __m512) {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe { _mm512_storeu_si512(target.cast(), _mm512_castps_si512(vector)) }
    }

    #[inline(always)]
    unsafe fn store_small_numbers(self, target: *mut u8, vector: __m512) {
        // SAFETY: as above.
        unsafe {
            let small = _mm512_cvtepi32_epi8(_mm512_castps_si512(vector));
            _mm_storeu_si128(target.cast(), small);
        }
    }

    #[inline(always)]
    fn permute(self, vector: __m512, numbers: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_permutexvar_ps(_mm512_castps_si512(numbers), vector) }
    }

    #[inline(always)]
    fn deinterleave(self, a: __m512, b: __m512) -> [__m512; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            [_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)]
        }
    }

    #[inline(always)]
    fn interleave(self, a: __m512, b: __m512) -> [__m512; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
        }
    }
}

impl Lanes<f64> for Avx512 {
    type Vector = __m512d;
    type Mask = __mmask8;
    const LANES: usize = 8;
    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 14;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn tile<K: TileKernel<f64, Self>>(self, rows: usize, vectors: usize, kernel: &K) {
        select_tile!(
            self, kernel, rows, vectors, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2]
        );
    }

    #[inline(always)]
    fn call<K: Kernel<f64>>(self, kernel: K) -> K::Output {
        enter(self, kernel)
    }

    intrinsics! {
        splat(value: f64) -> __m512d = _mm512_set1_pd;
        add(a: __m512d, b: __m512d) -> __m512d = _mm512_add_pd;
        sub(a: __m512d, b: __m512d) -> __m512d = _mm512_sub_pd;
        mul(a: __m512d, b: __m512d) -> __m512d = _mm512_mul_pd;
        mul_add(a: __m512d, b: __m512d, c: __m512d) -> __m512d = _mm512_fmadd_pd;
        less_equal(a: __m512d, b: __m512d) -> __mmask8 = _mm512_cmp_pd_mask::<_CMP_LE_OQ>;
        less(a: __m512d, b: __m512d) -> __mmask8 = _mm512_cmp_pd_mask::<_CMP_LT_OQ>;
        equal(a: __m512d, b: __m512d) -> __mmask8 = _mm512_cmp_pd_mask::<_CMP_EQ_OQ>;
    }

    memory_intrinsics! {
        load(source: *const f64) -> __m512d = _mm512_loadu_pd;
        store(target: *mut f64, vector: __m512d) -> () = _mm512_storeu_pd;
        store_streaming(target: *mut f64, vector: __m512d) -> () = _mm512_stream_pd;
        load_where(mask: __mmask8, source: *const f64) -> __m512d = _mm512_maskz_loadu_pd;
    }

    #[inline(always)]
    fn add_where(self, mask: __mmask8, a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_mask_add_pd(a, mask, a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __mmask8, if_true: __m512d, if_false: __m512d) -> __m512d {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_mask_blend_pd(mask, if_false, if_true) }
    }

    #[inline(always)]
    fn mask_between(self, first: usize, last: usize) -> __mmask8 {
        let below = |lane: usize| (1u32 << lane.min(8)) - 1;
        (below(last) & !below(first)) as __mmask8
    }

    #[inline(always)]
    unsafe fn gather_where(self, mask: __mmask8, source: *const f64, stride: isize) -> __m512d {
        // SAFETY: the caller answers for the lanes of the mask, the token for the feature.
        unsafe {
            let lanes: [f64; 8] = gather(u32::from(mask), source, stride);
            _mm512_loadu_pd(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, target: *mut f64, vector: __m512d) {
        let mask = Lanes::<f64>::mask_between(self, 0, count);
        // SAFETY: the caller answers for the first `count` lanes, the token for the feature.
        unsafe { _mm512_mask_storeu_pd(target, mask, vector) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        [rows, columns]: [usize; 2],
        source: *const f64,
        source_stride: usize,
        target: *mut f64,
        target_stride: usize,
    ) {
        // SAFETY: reads `rows` rows and writes `columns`, for which the caller answers.
        unsafe {
            let read = Lanes::<f64>::mask_between(self, 0, columns);
            let mut r = [_mm512_setzero_pd(); 8];
            for (i, row) in r.iter_mut().enumerate() {
                if i < rows {
                    *row = _mm512_maskz_loadu_pd(read, source.add(i * source_stride));
                }
            }
            // 2x2 blocks, then the 128-bit quarters.
            let mut t = r;
            for i in 0..4 {
                t[2 * i] = _mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                r[i] = _mm512_shuffle_f64x2::<0x88>(t[i], t[i + 2]);
                r[i + 2] = _mm512_shuffle_f64x2::<0xdd>(t[i], t[i + 2]);
                r[i + 4] = _mm512_shuffle_f64x2::<0x88>(t[i + 4], t[i + 6]);
                r[i + 6] = _mm512_shuffle_f64x2::<0xdd>(t[i + 4], t[i + 6]);
            }
            for i in 0..4 {
                t[i] = _mm512_shuffle_f64x2::<0x88>(r[i], r[i + 4]);
                t[i + 4] = _mm512_shuffle_f64x2::<0xdd>(r[i], r[i + 4]);
            }
            r = t;
            let mask = Lanes::<f64>::mask_between(self, 0, rows);
            for (k, row) in r.iter().enumerate() {
                if k < columns {
                    _mm512_mask_storeu_pd(target.add(k * target_stride), mask, *row);
                }
            }
        }
    }

    intrinsics! {
        div(a: __m512d, b: __m512d) -> __m512d = _mm512_div_pd;
    }

    #[inline(always)]
    fn exceeds(self, value: __m512d, best: __m512d) -> __mmask8 {
        // SAFETY: the token proves the feature.
        unsafe {
            let number = _mm512_cmp_pd_mask::<_CMP_ORD_Q>(best, best);
            _mm512_mask_cmp_pd_mask::<_CMP_NLE_UQ>(number, value, best)
        }
    }

    #[inline(always)]
    fn has_nan(self, a: __m512d, b: __m512d) -> bool {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(a, b) != 0 }
    }

    #[inline(always)]
    fn same_bits(self, a: __m512d, b: __m512d) -> __mmask8 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_cmpeq_epi64_mask(_mm512_castpd_si512(a), _mm512_castpd_si512(b)) }
    }

    #[inline(always)]
    fn add_numbers(self, a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: the token proves the feature.
        unsafe {
            let sum = _mm512_add_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(b));
            _mm512_castsi512_pd(sum)
        }
    }

    #[inline(always)]
    unsafe fn load_numbers(self, source: *const i32) -> __m512d {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe { _mm512_castsi512_pd(_mm512_cvtepu32_epi64(_mm256_loadu_si256(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_small_numbers(self, source: *const u8) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_pd(_mm512_cvtepu8_epi64(_mm_loadl_epi64(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_numbers(self, target: *mut i32, vector: __m512d) {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe {
            _mm256_storeu_si256(target.cast(), _mm512_cvtepi64_epi32(_mm512_castpd_si512(vector)))
        }
    }

    #[inline(always)]
    unsafe fn store_small_numbers(self, target: *mut u8, vector: __m512d) {
        // SAFETY: as above.
        unsafe {
            let small = _mm512_cvtepi64_epi8(_mm512_castpd_si512(vector));
            _mm_storel_epi64(target.cast(), small);
        }
    }

    #[inline(always)]
    fn permute(self, vector: __m512d, numbers: __m512d) -> __m512d {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_permutexvar_pd(_mm512_castpd_si512(numbers), vector) }
    }

    #[inline(always)]
    fn deinterleave(self, a: __m512d, b: __m512d) -> [__m512d; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
            let odd = _mm512_add_epi64(even, _mm512_set1_epi64(1));
            [_mm512_permutex2var_pd(a, even, b), _mm512_permutex2var_pd(a, odd, b)]
        }
    }

    #[inline(always)]
    fn interleave(self, a: __m512d, b: __m512d) -> [__m512d; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
            let high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
            [_mm512_permutex2var_pd(a, low, b), _mm512_permutex2var_pd(a, high, b)]
        }
    }
}
