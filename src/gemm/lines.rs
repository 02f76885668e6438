//! The elements that a register tile reads at each step, one of every line, and what it does with them.

use crate::simd::{Element, Lanes};

/// Lines that share a pointer in tall tiles.
const TOGETHER: usize = 5;
/// Rows from which on a tile is tall: all instruction sets but AVX-512 have fewer.
const TALL: usize = 7;

/// The next element of each of a tile's lines, `stride` apart.
///
/// In tall tiles some lines share a pointer: with one for all, compilers find each address from the one
/// before, and a tile of one vector waits for them twice as long as for its products.
#[derive(Clone, Copy)]
pub(crate) struct Lines<T, const ROWS: usize> {
    first: *const T,
    second: *const T,
    third: *const T,
    stride: usize,
}

impl<T: Element, const ROWS: usize> Lines<T, ROWS> {
    #[inline(always)]
    pub fn new(start: *const T, stride: usize) -> Self {
        let second = opaque(start.wrapping_add(TOGETHER * stride));
        let third = opaque(start.wrapping_add(2 * TOGETHER * stride));
        Lines { first: start, second, third, stride }
    }

    /// One step of the tile: adds the products of each line's element with `lanes` to its sums, and
    /// goes on by `step` elements.
    ///
    /// # Safety
    /// Every line has its element.
    #[inline(always)]
    pub unsafe fn multiply<S: Lanes<T>, const VECTORS: usize>(
        &mut self,
        simd: S,
        lanes: [S::Vector; VECTORS],
        step: isize,
        sums: &mut [[S::Vector; VECTORS]; ROWS],
    ) {
        unrolled::<ROWS>(
            #[inline(always)]
            |line| {
                // SAFETY: the caller answers for the element.
                let factor = simd.splat(unsafe { *self.at(line) });
                for (sum, &lanes) in sums[line].iter_mut().zip(&lanes) {
                    *sum = simd.mul_add(factor, lanes, *sum);
                }
            },
        );
        for start in [&mut self.first, &mut self.second, &mut self.third] {
            *start = start.wrapping_offset(step);
        }
    }

    /// The element of line number `line`.
    #[inline(always)]
    fn at(&self, line: usize) -> *const T {
        let (start, line) = match line / TOGETHER {
            _ if ROWS < TALL => (self.first, line),
            0 => (self.first, line),
            1 => (self.second, line - TOGETHER),
            _ => (self.third, line - 2 * TOGETHER),
        };
        start.wrapping_add(line * self.stride)
    }
}

/// Calls `body` with 0 to `N` - 1, at most 15 of them. It is no loop: compilers leave long ones as they
/// are, and then keep what they index, a tile's sums, in memory; and short ones, hundreds of them nested in
/// others, take a minute to compile, since unrolling each makes LLVM forget what it knows of all.
#[inline(always)]
pub(crate) fn unrolled<const N: usize>(mut body: impl FnMut(usize)) {
    const { assert!(N <= 15, "more than any tile has") };
    macro_rules! calls {
        ($($number:literal)*) => {$(
            if $number < N {
                body($number);
            }
        )*};
    }
    calls!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// The same pointer, of which the compiler does not know where it came from: else it would find it
/// from another. (`black_box` takes it through memory.)
#[inline(always)]
fn opaque<T>(pointer: *const T) -> *const T {
    #[cfg(target_arch = "x86_64")]
    {
        let mut pointer = pointer;
        // SAFETY: there is no instruction, and the register keeps its value.
        unsafe {
            std::arch::asm!(
                "/* {0} */",
                inout(reg) pointer,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        pointer
    }
    #[cfg(not(target_arch = "x86_64"))]
    pointer
}
