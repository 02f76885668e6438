//! Numbers in no order, the same in each run.

/// A stream of them.
pub struct Random(u32);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u32) -> Random {
        Random(seed)
    }

    /// Between -1 and 1.
    pub fn value(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0) / f64::from(1u32 << 31) - 1.0
    }
}
