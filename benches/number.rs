//! The element types, as the benchmarks use them.

use cnnkern::Element;

use crate::peak::Peaks;
use crate::random::Random;

/// f32 or f64.
pub trait Number: Element {
    fn new(value: f64) -> Self;

    /// Its floating-point operations a second among the peaks.
    fn flops(peaks: &Peaks) -> f64;
}

impl Number for f32 {
    fn new(value: f64) -> Self {
        value as f32
    }

    fn flops(peaks: &Peaks) -> f64 {
        peaks.f32_flops
    }
}

impl Number for f64 {
    fn new(value: f64) -> Self {
        value
    }

    fn flops(peaks: &Peaks) -> f64 {
        peaks.f64_flops
    }
}

/// `len` values between -1 and 1 in no order, the same at each call.
pub fn values<T: Number>(len: usize) -> Vec<T> {
    let mut random = Random::new(0);
    (0..len).map(|_| T::new(random.value())).collect()
}
