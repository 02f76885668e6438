//! Seeded random numbers (SplitMix64), the same on every machine.

use std::ops::RangeInclusive;

use super::guarded::Placement;
use super::real::Real;

pub struct Random(u64);

/// Which values tensors are filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// From -1 to 1, with all their digits.
    Fractions,
    /// From -4 to 4: every sum of their products is exact in any order, so that a result has to be
    /// right to the last bit.
    Integers,
    /// -1, 0 and 1: exact in longer sums.
    Signs,
}

impl Data {
    pub const BOTH: [Data; 2] = [Data::Fractions, Data::Integers];
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        let count = (range.end() - range.start() + 1) as u64;
        range.start() + (self.next() % count) as usize
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0..=choices.len() - 1)]
    }

    /// True once in `count` times.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.within(1..=count) == 1
    }

    /// From -1 to 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn value<T: Real>(&mut self, data: Data) -> T {
        T::narrow(match data {
            Data::Fractions => self.fraction(),
            Data::Integers => self.within(0..=8) as f64 - 4.0,
            Data::Signs => self.within(0..=2) as f64 - 1.0,
        })
    }

    pub fn values<T: Real>(&mut self, len: usize, data: Data) -> Vec<T> {
        (0..len).map(|_| self.value(data)).collect()
    }

    pub fn data(&mut self) -> Data {
        self.pick(&Data::BOTH)
    }

    pub fn placement(&mut self) -> Placement {
        self.pick(&Placement::BOTH)
    }
}
