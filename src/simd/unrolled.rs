//! Loops over the rows of a register tile.

/// Calls `body` with 0 to `N` - 1, at most 14 of them. It is no loop: compilers leave long ones as they
/// are, and then keep what they index, a tile's sums, in memory.
#[inline(always)]
pub fn unrolled<const N: usize>(mut body: impl FnMut(usize)) {
    const { assert!(N <= 14, "more rows than any tile has") };
    macro_rules! calls {
        ($($number:literal)*) => {$(
            if $number < N {
                body($number);
            }
        )*};
    }
    calls!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
}
