//! What a test needs to know of f32 and f64.

use cnnkern::Element;

use super::guarded::Cell;

/// An element type as the tests see it.
pub trait Real: Element + Cell {
    /// Half the distance from 1 to the next value: the largest relative error of one rounding.
    const ROUNDOFF: f64;
    /// The smallest positive value: the largest absolute error of a rounding near zero is below it.
    const TINIEST: f64;
    const NAN: Self;
    const INFINITY: Self;

    fn narrow(value: f64) -> Self;
    fn widen(self) -> f64;
    /// For comparisons bit by bit.
    fn bits(self) -> u64;
}

impl Real for f32 {
    const ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;
    const TINIEST: f64 = f32::from_bits(1) as f64;
    const NAN: f32 = f32::NAN;
    const INFINITY: f32 = f32::INFINITY;

    fn narrow(value: f64) -> f32 {
        value as f32
    }

    fn widen(self) -> f64 {
        f64::from(self)
    }

    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Real for f64 {
    const ROUNDOFF: f64 = f64::EPSILON / 2.0;
    const TINIEST: f64 = f64::from_bits(1);
    const NAN: f64 = f64::NAN;
    const INFINITY: f64 = f64::INFINITY;

    fn narrow(value: f64) -> f64 {
        value
    }

    fn widen(self) -> f64 {
        self
    }

    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// The bits of each element.
pub fn bits<T: Real>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.bits()).collect()
}
