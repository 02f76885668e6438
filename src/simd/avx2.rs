//! AVX2 and FMA: 16 registers of 32 bytes.
//!
//! The tile is 6 rows of 2 vectors: 12 accumulators, 2 vectors of the lane operand and a broadcast
//! leave one register spare, and 12 chains cover 2 FMA a cycle of 4 or 5 cycles' latency.

use std::arch::x86_64::*;

use super::lanes::{
    Element, Kernel, Lanes, TileKernel, entries, gather, intrinsics, memory_intrinsics, select_tile,
};

/// Proof that the processor has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        found.then_some(Avx2(()))
    }
}

entries!(Avx2, "avx2,fma");

impl Lanes<f32> for Avx2 {
    type Vector = __m256;
    type Mask = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn tile<K: TileKernel<f32, Self>>(self, rows: usize, vectors: usize, kernel: &K) {
        select_tile!(self, kernel, rows, vectors, [1 2 3 4 5 6], [1 2]);
    }

    #[inline(always)]
    fn call<K: Kernel<f32>>(self, kernel: K) -> K::Output {
        enter(self, kernel)
    }

    intrinsics! {
        splat(value: f32) -> __m256 = _mm256_set1_ps;
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps;
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps;
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps;
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
        less_equal(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LE_OQ>;
        less(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>;
        equal(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_EQ_OQ>;
    }

    memory_intrinsics! {
        load(source: *const f32) -> __m256 = _mm256_loadu_ps;
        store(target: *mut f32, vector: __m256) -> () = _mm256_storeu_ps;
        store_streaming(target: *mut f32, vector: __m256) -> () = _mm256_stream_ps;
    }

    #[inline(always)]
    fn select(self, mask: __m256, if_true: __m256, if_false: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_blendv_ps(if_false, if_true, mask) }
    }

    #[inline(always)]
    unsafe fn load_where(self, mask: __m256, source: *const f32) -> __m256 {
        // SAFETY: the caller answers for the lanes of the mask, the token for the feature.
        unsafe { _mm256_maskload_ps(source, _mm256_castps_si256(mask)) }
    }

    #[inline(always)]
    unsafe fn gather_where(self, mask: __m256, source: *const f32, stride: isize) -> __m256 {
        // SAFETY: the caller answers for the lanes of the mask, the token for the feature.
        unsafe {
            let lanes: [f32; 8] = gather(_mm256_movemask_ps(mask) as u32, source, stride);
            _mm256_loadu_ps(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, target: *mut f32, vector: __m256) {
        // Halves instead of a masked store, which Zen processors before Zen 4 run as microcode.
        // SAFETY: each store is within the first `count` lanes, for which the caller answers.
        unsafe {
            if count >= 8 {
                return _mm256_storeu_ps(target, vector);
            }
            let mut target = target;
            let mut rest = _mm256_castps256_ps128(vector);
            if count & 4 != 0 {
                _mm_storeu_ps(target, rest);
                target = target.add(4);
                rest = _mm256_extractf128_ps::<1>(vector);
            }
            if count & 2 != 0 {
                _mm_storel_pd(target.cast(), _mm_castps_pd(rest));
                target = target.add(2);
                rest = _mm_movehl_ps(rest, rest);
            }
            if count & 1 != 0 {
                _mm_store_ss(target, rest);
            }
        }
    }

    #[inline(always)]
    fn mask_between(self, first: usize, last: usize) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe {
            let lane = _mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
            let from = _mm256_set1_ps(first.min(8) as f32);
            let to = _mm256_set1_ps(last.min(8) as f32);
            let started = _mm256_cmp_ps::<_CMP_LE_OQ>(from, lane);
            _mm256_and_ps(started, _mm256_cmp_ps::<_CMP_LT_OQ>(lane, to))
        }
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
        // SAFETY: passed on to the caller.
        unsafe {
            if [rows, columns] == [8; 2] {
                self.transpose_f32::<true>([8; 2], source, source_stride, target, target_stride);
            } else {
                let extents = [rows, columns];
                self.transpose_f32::<false>(extents, source, source_stride, target, target_stride);
            }
        }
    }

    intrinsics! {
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps;
    }

    #[inline(always)]
    fn exceeds(self, value: __m256, best: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe {
            let number = _mm256_cmp_ps::<_CMP_ORD_Q>(best, best);
            _mm256_and_ps(number, _mm256_cmp_ps::<_CMP_NLE_UQ>(value, best))
        }
    }

    #[inline(always)]
    fn has_nan(self, a: __m256, b: __m256) -> bool {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, b)) != 0 }
    }

    #[inline(always)]
    fn same_bits(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe {
            let equal = _mm256_cmpeq_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(equal)
        }
    }

    #[inline(always)]
    fn add_numbers(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe {
            let sum = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(sum)
        }
    }

    #[inline(always)]
    unsafe fn load_numbers(self, source: *const i32) -> __m256 {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe { _mm256_castsi256_ps(_mm256_loadu_si256(source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_small_numbers(self, source: *const u8) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_castsi256_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_numbers(self, target: *mut i32, vector: __m256) {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe { _mm256_storeu_si256(target.cast(), _mm256_castps_si256(vector)) }
    }

    #[inline(always)]
    unsafe fn store_small_numbers(self, target: *mut u8, vector: __m256) {
        // SAFETY: as above.
        unsafe {
            let numbers = _mm256_castps_si256(vector);
            let high = _mm256_extracti128_si256::<1>(numbers);
            let small = _mm_packus_epi32(_mm256_castsi256_si128(numbers), high);
            _mm_storel_epi64(target.cast(), _mm_packus_epi16(small, small));
        }
    }

    #[inline(always)]
    fn permute(self, vector: __m256, numbers: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_permutevar8x32_ps(vector, _mm256_castps_si256(numbers)) }
    }

    #[inline(always)]
    fn deinterleave(self, a: __m256, b: __m256) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            // Within the halves, which then hold pairs of a, b, a, b.
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(a, b));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0xdd>(a, b));
            [
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(even)),
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(odd)),
            ]
        }
    }

    #[inline(always)]
    fn interleave(self, a: __m256, b: __m256) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        }
    }
}

impl Lanes<f64> for Avx2 {
    type Vector = __m256d;
    type Mask = __m256d;
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn tile<K: TileKernel<f64, Self>>(self, rows: usize, vectors: usize, kernel: &K) {
        select_tile!(self, kernel, rows, vectors, [1 2 3 4 5 6], [1 2]);
    }

    #[inline(always)]
    fn call<K: Kernel<f64>>(self, kernel: K) -> K::Output {
        enter(self, kernel)
    }

    intrinsics! {
        splat(value: f64) -> __m256d = _mm256_set1_pd;
        add(a: __m256d, b: __m256d) -> __m256d = _mm256_add_pd;
        sub(a: __m256d, b: __m256d) -> __m256d = _mm256_sub_pd;
        mul(a: __m256d, b: __m256d) -> __m256d = _mm256_mul_pd;
        mul_add(a: __m256d, b: __m256d, c: __m256d) -> __m256d = _mm256_fmadd_pd;
        less_equal(a: __m256d, b: __m256d) -> __m256d = _mm256_cmp_pd::<_CMP_LE_OQ>;
        less(a: __m256d, b: __m256d) -> __m256d = _mm256_cmp_pd::<_CMP_LT_OQ>;
        equal(a: __m256d, b: __m256d) -> __m256d = _mm256_cmp_pd::<_CMP_EQ_OQ>;
    }

    memory_intrinsics! {
        load(source: *const f64) -> __m256d = _mm256_loadu_pd;
        store(target: *mut f64, vector: __m256d) -> () = _mm256_storeu_pd;
        store_streaming(target: *mut f64, vector: __m256d) -> () = _mm256_stream_pd;
    }

    #[inline(always)]
    fn select(self, mask: __m256d, if_true: __m256d, if_false: __m256d) -> __m256d {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_blendv_pd(if_false, if_true, mask) }
    }

    #[inline(always)]
    unsafe fn load_where(self, mask: __m256d, source: *const f64) -> __m256d {
        // SAFETY: the caller answers for the lanes of the mask, the token for the feature.
        unsafe { _mm256_maskload_pd(source, _mm256_castpd_si256(mask)) }
    }

    #[inline(always)]
    unsafe fn gather_where(self, mask: __m256d, source: *const f64, stride: isize) -> __m256d {
        // SAFETY: the caller answers for the lanes of the mask, the token for the feature.
        unsafe {
            let lanes: [f64; 4] = gather(_mm256_movemask_pd(mask) as u32, source, stride);
            _mm256_loadu_pd(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, target: *mut f64, vector: __m256d) {
        // Halves instead of a masked store, which Zen processors before Zen 4 run as microcode.
        // SAFETY: each store is within the first `count` lanes, for which the caller answers.
        unsafe {
            if count >= 4 {
                return _mm256_storeu_pd(target, vector);
            }
            let mut target = target;
            let mut rest = _mm256_castpd256_pd128(vector);
            if count & 2 != 0 {
                _mm_storeu_pd(target, rest);
                target = target.add(2);
                rest = _mm256_extractf128_pd::<1>(vector);
            }
            if count & 1 != 0 {
                _mm_store_sd(target, rest);
            }
        }
    }

    #[inline(always)]
    fn mask_between(self, first: usize, last: usize) -> __m256d {
        // SAFETY: the token proves the feature.
        unsafe {
            let lane = _mm256_setr_pd(0.0, 1.0, 2.0, 3.0);
            let from = _mm256_set1_pd(first.min(4) as f64);
            let to = _mm256_set1_pd(last.min(4) as f64);
            let started = _mm256_cmp_pd::<_CMP_LE_OQ>(from, lane);
            _mm256_and_pd(started, _mm256_cmp_pd::<_CMP_LT_OQ>(lane, to))
        }
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
        // SAFETY: passed on to the caller.
        unsafe {
            if [rows, columns] == [4; 2] {
                self.transpose_f64::<true>([4; 2], source, source_stride, target, target_stride);
            } else {
                let extents = [rows, columns];
                self.transpose_f64::<false>(extents, source, source_stride, target, target_stride);
            }
        }
    }

    intrinsics! {
        div(a: __m256d, b: __m256d) -> __m256d = _mm256_div_pd;
    }

    #[inline(always)]
    fn exceeds(self, value: __m256d, best: __m256d) -> __m256d {
        // SAFETY: the token proves the feature.
        unsafe {
            let number = _mm256_cmp_pd::<_CMP_ORD_Q>(best, best);
            _mm256_and_pd(number, _mm256_cmp_pd::<_CMP_NLE_UQ>(value, best))
        }
    }

    #[inline(always)]
    fn has_nan(self, a: __m256d, b: __m256d) -> bool {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_UNORD_Q>(a, b)) != 0 }
    }

    #[inline(always)]
    fn same_bits(self, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: the token proves the feature.
        unsafe {
            let equal = _mm256_cmpeq_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(b));
            _mm256_castsi256_pd(equal)
        }
    }

    #[inline(always)]
    fn add_numbers(self, a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: the token proves the feature.
        unsafe {
            let sum = _mm256_add_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(b));
            _mm256_castsi256_pd(sum)
        }
    }

    #[inline(always)]
    unsafe fn load_numbers(self, source: *const i32) -> __m256d {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe { _mm256_castsi256_pd(_mm256_cvtepu32_epi64(_mm_loadu_si128(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_small_numbers(self, source: *const u8) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_castsi256_pd(_mm256_cvtepu8_epi64(_mm_loadu_si32(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_numbers(self, target: *mut i32, vector: __m256d) {
        // SAFETY: the caller answers for the memory, the token for the feature.
        unsafe { _mm_storeu_si128(target.cast(), low_halves(vector)) }
    }

    #[inline(always)]
    unsafe fn store_small_numbers(self, target: *mut u8, vector: __m256d) {
        // SAFETY: as above.
        unsafe {
            let small = _mm_packus_epi32(low_halves(vector), low_halves(vector));
            _mm_storeu_si32(target.cast(), _mm_packus_epi16(small, small));
        }
    }

    #[inline(always)]
    fn permute(self, vector: __m256d, numbers: __m256d) -> __m256d {
        // SAFETY: the token proves the feature.
        unsafe {
            // A lane is two of four bytes.
            let low = _mm256_slli_epi64::<1>(_mm256_castpd_si256(numbers));
            let high = _mm256_slli_epi64::<32>(_mm256_add_epi64(low, _mm256_set1_epi64x(1)));
            let halves = _mm256_or_si256(low, high);
            let vector = _mm256_castpd_ps(vector);
            _mm256_castps_pd(_mm256_permutevar8x32_ps(vector, halves))
        }
    }

    #[inline(always)]
    fn deinterleave(self, a: __m256d, b: __m256d) -> [__m256d; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            [
                _mm256_permute4x64_pd::<0xd8>(_mm256_unpacklo_pd(a, b)),
                _mm256_permute4x64_pd::<0xd8>(_mm256_unpackhi_pd(a, b)),
            ]
        }
    }

    #[inline(always)]
    fn interleave(self, a: __m256d, b: __m256d) -> [__m256d; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
            [_mm256_permute2f128_pd::<0x20>(low, high), _mm256_permute2f128_pd::<0x31>(low, high)]
        }
    }
}

impl Avx2 {
    /// `Lanes::transpose`, of a whole block or a part of it.
    #[inline(always)]
    unsafe fn transpose_f32<const WHOLE: bool>(
        self,
        [rows, columns]: [usize; 2],
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        let read = Lanes::<f32>::mask_between(self, 0, columns);
        // SAFETY: reads `rows` rows and writes `columns`, for which the caller answers.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, row) in r.iter_mut().enumerate() {
                if i < rows {
                    let source = source.add(i * source_stride);
                    *row = match WHOLE {
                        true => Lanes::<f32>::load(self, source),
                        false => Lanes::<f32>::load_where(self, read, source),
                    };
                }
            }
            // 2x2 blocks, then 4x4, then the halves.
            let mut t = r;
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                let (a, b, c, d) = (t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]);
                r[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
                r[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                r[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                t[i] = _mm256_permute2f128_ps::<0x20>(r[i], r[i + 4]);
                t[i + 4] = _mm256_permute2f128_ps::<0x31>(r[i], r[i + 4]);
            }
            for (k, row) in t.iter().enumerate() {
                if k < columns {
                    Lanes::<f32>::store_first(self, rows, target.add(k * target_stride), *row);
                }
            }
        }
    }

    /// `Lanes::transpose`, of a whole block or a part of it.
    #[inline(always)]
    unsafe fn transpose_f64<const WHOLE: bool>(
        self,
        [rows, columns]: [usize; 2],
        source: *const f64,
        source_stride: usize,
        target: *mut f64,
        target_stride: usize,
    ) {
        let read = Lanes::<f64>::mask_between(self, 0, columns);
        // SAFETY: reads `rows` rows and writes `columns`, for which the caller answers.
        unsafe {
            let mut r = [_mm256_setzero_pd(); 4];
            for (i, row) in r.iter_mut().enumerate() {
                if i < rows {
                    let source = source.add(i * source_stride);
                    *row = match WHOLE {
                        true => Lanes::<f64>::load(self, source),
                        false => Lanes::<f64>::load_where(self, read, source),
                    };
                }
            }
            let t = [
                _mm256_unpacklo_pd(r[0], r[1]),
                _mm256_unpackhi_pd(r[0], r[1]),
                _mm256_unpacklo_pd(r[2], r[3]),
                _mm256_unpackhi_pd(r[2], r[3]),
            ];
            for i in 0..2 {
                r[i] = _mm256_permute2f128_pd::<0x20>(t[i], t[i + 2]);
                r[i + 2] = _mm256_permute2f128_pd::<0x31>(t[i], t[i + 2]);
            }
            for (k, row) in r.iter().enumerate() {
                if k < columns {
                    Lanes::<f64>::store_first(self, rows, target.add(k * target_stride), *row);
                }
            }
        }
    }
}

/// The lower half of each lane.
#[inline(always)]
unsafe fn low_halves(vector: __m256d) -> __m128i {
    // SAFETY: the caller answers for the feature.
    unsafe {
        let even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
        let halves = _mm256_permutevar8x32_epi32(_mm256_castpd_si256(vector), even);
        _mm256_castsi256_si128(halves)
    }
}
