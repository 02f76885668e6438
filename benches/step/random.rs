//! Numbers in no order, the same in each run.

pub struct Random(u32);

impl Random {
    pub fn new(seed: u32) -> Random {
        Random(seed)
    }

    /// Between -1 and 1.
    pub fn value(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(self.0) / f64::from(1u32 << 31) - 1.0) as f32
    }

    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        // Of magnitudes, 1 is one.
        (self.value().abs() * bound as f32) as usize % bound
    }
}
