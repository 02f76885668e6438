//! Multiply-adds and nothing else, as fast as an instruction set does them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;

use cnnkern::Isa;
use wide::{f32x4, f64x2};

/// Runs `rounds` multiply-adds of f32 in each of several independent chains, enough of them to hide
/// the latency. Returns the number of floating-point operations.
pub fn f32(isa: Isa, rounds: usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a context runs as this instruction set, so the processor has it.
        Isa::Avx2 => unsafe { avx2_f32(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512_f32(rounds) },
        _ => portable_f32(rounds),
    }
}

/// [`f32()`] in f64.
pub fn f64(isa: Isa, rounds: usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a context runs as this instruction set, so the processor has it.
        Isa::Avx2 => unsafe { avx2_f64(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512_f64(rounds) },
        _ => portable_f64(rounds),
    }
}

macro_rules! chains {
    ($name:ident, $chains:literal of $lanes:literal, $splat:path, $multiply_add:path
     $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        fn $name(rounds: usize) -> usize {
            let (factor, addend) = ($splat(black_box(0.999)), $splat(black_box(1e-6)));
            // Not known to be equal, or the compiler might keep only one.
            let mut chains = [$splat(0.0); $chains];
            black_box(&mut chains);
            for _ in 0..rounds {
                for chain in &mut chains {
                    *chain = $multiply_add(*chain, factor, addend);
                }
            }
            black_box(chains);
            2 * $chains * $lanes * rounds
        }
    };
}

chains!(portable_f32, 12 of 4, f32x4::splat, f32x4::mul_add);
chains!(portable_f64, 12 of 2, f64x2::splat, f64x2::mul_add);
#[cfg(target_arch = "x86_64")]
chains!(avx2_f32, 12 of 8, _mm256_set1_ps, _mm256_fmadd_ps, "avx2,fma");
#[cfg(target_arch = "x86_64")]
chains!(avx2_f64, 12 of 4, _mm256_set1_pd, _mm256_fmadd_pd, "avx2,fma");
#[cfg(target_arch = "x86_64")]
chains!(avx512_f32, 24 of 16, _mm512_set1_ps, _mm512_fmadd_ps, "avx512f");
#[cfg(target_arch = "x86_64")]
chains!(avx512_f64, 24 of 8, _mm512_set1_pd, _mm512_fmadd_pd, "avx512f");
