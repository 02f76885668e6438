//! What the unit tests of the memory-bound operations share.

use crate::simd::{Element, Isa};
use crate::{Context, ContextOptions};

/// A context with 1 thread and one with 3, for each instruction set that the processor has.
pub(crate) fn contexts() -> Vec<Context> {
    let mut all = Vec::new();
    for isa in Isa::ALL {
        if !isa.is_supported() {
            println!("not tested: this processor has no {isa}");
            continue;
        }
        for num_threads in [1, 3] {
            let options = ContextOptions { num_threads, isa: Some(isa), parallel_for: None };
            all.push(Context::new(&options).unwrap());
        }
    }
    all
}

/// A stream of numbers that `seed` fixes (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in `range`.
    pub fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + (self.next() % (range.end() - range.start() + 1) as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// Numbers in -1..1.
pub(crate) fn values<T: Element>(seed: u64, len: usize) -> Vec<T> {
    let mut random = Random(seed);
    let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    (0..len).map(|_| T::from_f64(unit(random.next()))).collect()
}

/// Runs `write` on `len` NaNs between guards, and compares what it wrote with `expected`.
pub(crate) fn guarded<T: Element>(len: usize, write: impl FnOnce(&mut [T]), expected: &[T]) {
    assert_same_bits(&written(len, write), expected);
}

/// What `write` makes of `len` NaNs; panics when it writes around them.
pub(crate) fn written<T: Element>(len: usize, write: impl FnOnce(&mut [T])) -> Vec<T> {
    const GUARD: usize = 64;
    let guard = T::from_f64(1234.5);
    let mut buffer = vec![guard; len + 2 * GUARD];
    buffer[GUARD..GUARD + len].fill(T::from_f64(f64::NAN));
    write(&mut buffer[GUARD..GUARD + len]);
    let around = buffer[..GUARD].iter().chain(&buffer[GUARD + len..]);
    assert!(around.copied().all(|value| value == guard), "written outside");
    buffer[GUARD..GUARD + len].to_vec()
}

/// Panics unless the elements are the same, bit for bit; any NaN is as good as another.
pub(crate) fn assert_same_bits<T: Element>(found: &[T], expected: &[T]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (a, b) = (found.to_f64(), expected.to_f64());
        assert!(
            a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
            "element {index} is {a}, but must be {b}"
        );
    }
}
