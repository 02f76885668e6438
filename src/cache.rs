//! The processor's caches.

use std::sync::OnceLock;

/// Bytes of the last-level cache, where the processor does not say.
const USUAL: usize = 32 << 20;

/// Bytes of the last-level cache.
pub(crate) fn last_level() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| reported().unwrap_or(USUAL))
}

/// What the processor says: cpuid's "deterministic cache parameters" (Intel, Software Developer's Manual, volume 2A,
/// leaf 4) or "cache properties" (AMD, Architecture Programmer's Manual, volume 3, leaf 8000_001D), which are laid out
/// alike.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "safe functions in newer versions of Rust")]
fn reported() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Far more caches than any processor has.
    const MOST: u32 = 16;
    // SAFETY: every x86-64 processor has cpuid; a leaf that it does not know is all zeros, or another leaf's.
    let of_leaf = |leaf: u32| unsafe {
        if __cpuid(leaf & 0x8000_0000).eax < leaf {
            return None;
        }
        let caches = (0..MOST).map(|number| __cpuid_count(leaf, number));
        caches.take_while(|cache| cache.eax & 0x1f != 0).max_by_key(|cache| cache.eax >> 5 & 7)
    };
    let cache = of_leaf(4).or_else(|| of_leaf(0x8000_001d))?;
    let [ways, partitions, line] =
        [cache.ebx >> 22, cache.ebx >> 12 & 0x3ff, cache.ebx & 0xfff].map(|less| less as usize + 1);
    ways.checked_mul(partitions)?.checked_mul(line)?.checked_mul(cache.ecx as usize + 1)
}

#[cfg(not(target_arch = "x86_64"))]
fn reported() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_level_is_a_cache() {
        let size = last_level();
        assert!((1 << 18..1 << 34).contains(&size), "{size} bytes");
    }
}
