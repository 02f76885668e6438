//! Vector lanes: the trait that kernels are generic over, and the instruction sets behind it.
//!
//! A kernel is a [`Kernel`]: a value that holds its arguments and whose `run` is generic over
//! [`Lanes`]. [`Element::dispatch`] runs it as one of the instruction sets, each entered through
//! one `#[target_feature]` function. Every method on the way is `#[inline(always)]`, so the
//! whole kernel is compiled with the instruction set's features.

#[cfg(test)]
mod bits_tests;
mod lanes;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::fmt;

use crate::error::{Error, Result};

pub use lanes::Element;
pub use lanes::{CACHE_LINE, Kernel, Lanes, TILE_LANES, TileKernel};

/// An instruction set that kernels can run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every processor of the target has: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// All of them, the narrowest first.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The name that `CNNKERN_ISA` and `cnnkern_context_isa` use.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this processor has it.
    pub fn is_supported(self) -> bool {
        Level::new(self).is_some()
    }

    /// The widest that this processor has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_supported()).unwrap_or(Isa::Portable)
    }

    /// The instruction set of that name; an error when there is none or the processor lacks it.
    pub fn from_name(name: &str) -> Result<Isa> {
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "CNNKERN_ISA must be portable, avx2 or avx512, but is \"{name}\""
            ))
        })?;
        if !isa.is_supported() {
            return Err(Error::invalid(format!(
                "CNNKERN_ISA must be one that this processor has, but is \"{name}\""
            )));
        }
        Ok(isa)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An instruction set that was found on this processor: the tokens inside cannot be made otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl Level {
    /// The token for `isa`, or None where the processor lacks it.
    pub fn new(isa: Isa) -> Option<Level> {
        match isa {
            Isa::Portable => Some(Level::Portable(portable::Portable)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::detect().map(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Avx512::detect().map(Level::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
        }
    }

    /// The token for `isa`, or an error that says that the processor lacks it.
    pub fn checked(isa: Isa) -> Result<Level> {
        Level::new(isa).ok_or_else(|| {
            Error::invalid(format!("the instruction set {isa} is not one that this processor has"))
        })
    }

    pub fn isa(self) -> Isa {
        match self {
            Level::Portable(_) => Isa::Portable,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => Isa::Avx512,
        }
    }
}

/// Runs `kernel` as `level`. A macro, since `T: Element` alone does not say that a token has lanes
/// of T: each element type expands it once.
macro_rules! dispatch {
    ($level:expr, $kernel:expr) => {
        match $level {
            Level::Portable(simd) => portable::enter(simd, $kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => avx2::enter(simd, $kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => avx512::enter(simd, $kernel),
        }
    };
}

impl Element for f32 {
    fn dispatch<K: Kernel<f32>>(level: Level, kernel: K) -> K::Output {
        dispatch!(level, kernel)
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn from_number(number: u32) -> Self {
        f32::from_bits(number)
    }

    #[inline(always)]
    fn to_number(self) -> u32 {
        self.to_bits()
    }
}

impl Element for f64 {
    fn dispatch<K: Kernel<f64>>(level: Level, kernel: K) -> K::Output {
        dispatch!(level, kernel)
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn from_number(number: u32) -> Self {
        f64::from_bits(u64::from(number))
    }

    #[inline(always)]
    fn to_number(self) -> u32 {
        self.to_bits() as u32
    }
}
