//! What a kernel may ask of a vector.

use std::ops::{Add, Mul, Sub};

use super::Level;
use crate::operations::Operations;

/// An element type of the numeric interface: f32 or f64.
pub trait Element:
    private::Sealed
    + Operations
    + Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Send
    + Sync
    + std::fmt::Debug
    + 'static
{
    /// Runs `kernel` as `level`.
    #[doc(hidden)]
    fn dispatch<K: Kernel<Self>>(level: Level, kernel: K) -> K::Output;

    /// The exact value in double precision.
    #[doc(hidden)]
    fn to_f64(self) -> f64;

    /// The nearest value.
    #[doc(hidden)]
    fn from_f64(value: f64) -> Self;

    /// The element whose bits are `number`: how vectors carry indices beside values. Only to be
    /// moved, selected and compared by `Lanes::same_bits`.
    #[doc(hidden)]
    fn from_number(number: u32) -> Self;

    /// The number that `from_number` put in.
    #[doc(hidden)]
    fn to_number(self) -> u32;
}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A kernel: its fields are its arguments. `run` must be `#[inline(always)]`.
pub trait Kernel<T: Element> {
    type Output;
    fn run<S: Lanes<T>>(self, simd: S) -> Self::Output;
}

/// A kernel over a register tile of `ROWS` x `VECTORS` vectors, the size that an instruction set
/// fills its registers with: see [`Lanes::tile`].
pub trait TileKernel<T: Element, S: Lanes<T>> {
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S);
}

/// Lanes that a sum across lanes has whatever the instruction set: a narrower one uses several
/// vectors. So such a sum gets the same bits from each.
pub const TILE_LANES: usize = 16;

/// Bytes of a cache line.
pub const CACHE_LINE: usize = 64;

/// A vector of elements of one instruction set. `self` is the instruction set's token, whose
/// existence proves that the processor has it, so what touches no memory is safe.
///
/// # Safety of the memory operations
/// A load (store) is sound when every lane that it names may be read (written) at the pointer plus
/// the lane's number; lanes that a mask leaves out are not touched. No alignment is needed beyond
/// the element's own.
pub trait Lanes<T: Element>: Copy {
    type Vector: Copy;
    type Mask: Copy;

    /// Elements of a vector.
    const LANES: usize;
    /// Vectors that the registers hold.
    const REGISTERS: usize;
    /// Rows of the register tile: see `tile`.
    const TILE_ROWS: usize;
    /// Vectors in a row of the register tile.
    const TILE_VECTORS: usize;

    /// Runs `kernel` with `rows` (1 to `TILE_ROWS`) and `vectors` (1 to `TILE_VECTORS`) as constants. (By
    /// reference: a copy, read again in larger pieces than it was written in, stalls every tile.)
    fn tile<K: TileKernel<T, Self>>(self, rows: usize, vectors: usize, kernel: &K);

    /// Runs `kernel` as a function of its own: what several kernels share is compiled once.
    fn call<K: Kernel<T>>(self, kernel: K) -> K::Output;

    fn splat(self, value: T) -> Self::Vector;
    unsafe fn load(self, source: *const T) -> Self::Vector;
    unsafe fn store(self, target: *mut T, vector: Self::Vector);
    /// The lanes of `mask` from memory, zero in the others.
    unsafe fn load_where(self, mask: Self::Mask, source: *const T) -> Self::Vector;
    /// Lane l of `mask` from `source + l * stride`, zero in the others, whose pointers may be anything.
    unsafe fn gather_where(self, mask: Self::Mask, source: *const T, stride: isize)
    -> Self::Vector;
    /// Writes past the caches where the instruction set can, to an address that is a multiple of the vector's size.
    /// Whoever reads it on another thread needs a fence before: see `runs::stream`.
    unsafe fn store_streaming(self, target: *mut T, vector: Self::Vector);
    /// Writes the first `count` lanes only.
    unsafe fn store_first(self, count: usize, target: *mut T, vector: Self::Vector);

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a * b + c: rounded once by AVX2 and AVX-512, twice by the portable lanes.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// Lanes `first..last`.
    fn mask_between(self, first: usize, last: usize) -> Self::Mask;
    /// Lanes where a <= b; false for a NaN.
    fn less_equal(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// Lanes where a < b; false for a NaN.
    fn less(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// Lanes where a == b; false for a NaN.
    fn equal(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    fn select(
        self,
        mask: Self::Mask,
        if_true: Self::Vector,
        if_false: Self::Vector,
    ) -> Self::Vector;

    /// a + b in the lanes of `mask`, a in the others. There, -0 may become 0.
    #[inline(always)]
    fn add_where(self, mask: Self::Mask, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        self.add(a, self.select(mask, b, self.splat(T::default())))
    }

    /// Transposes a block: `target[k * target_stride + i] = source[i * source_stride + k]`
    /// for i < rows <= LANES and k < columns <= LANES.
    unsafe fn transpose(
        self,
        extents: [usize; 2],
        source: *const T,
        source_stride: usize,
        target: *mut T,
        target_stride: usize,
    );

    /// `vector` where it is > 0 or NaN, 0 elsewhere.
    #[inline(always)]
    fn relu(self, vector: Self::Vector) -> Self::Vector {
        let zero = self.splat(T::default());
        self.select(self.less_equal(vector, zero), zero, vector)
    }

    /// `gradient`, but 0 where `output` <= 0.
    #[inline(always)]
    fn relu_gradient(self, output: Self::Vector, gradient: Self::Vector) -> Self::Vector {
        let zero = self.splat(T::default());
        self.select(self.less_equal(output, zero), zero, gradient)
    }

    /// Asks for the cache line at `address`, which need not be readable, for the first-level cache.
    #[inline(always)]
    fn prefetch(self, address: *const T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE, which every x86-64 processor has; a prefetch does not fault.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// The same for the second-level cache.
    #[inline(always)]
    fn prefetch_second(self, address: *const T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `prefetch`.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// The first `count` lanes from memory, zero in the others.
    #[inline(always)]
    unsafe fn load_first(self, count: usize, source: *const T) -> Self::Vector {
        // SAFETY: the caller answers for the first `count` lanes.
        unsafe { self.load_where(self.mask_between(0, count), source) }
    }

    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Lanes where a maximum `best` that keeps the first NaN moves on to `value`: `value` is
    /// greater or a NaN, and `best` is no NaN.
    fn exceeds(self, value: Self::Vector, best: Self::Vector) -> Self::Mask;
    /// Whether a lane of `a` or `b` is a NaN.
    fn has_nan(self, a: Self::Vector, b: Self::Vector) -> bool;
    /// Lanes whose bits are equal.
    fn same_bits(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// The sums of the numbers that `from_number` put in.
    fn add_numbers(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// All lanes' numbers, as `from_number` puts them in; a negative one as it is without a sign.
    unsafe fn load_numbers(self, source: *const i32) -> Self::Vector;
    /// The same of numbers below 256.
    unsafe fn load_small_numbers(self, source: *const u8) -> Self::Vector;
    /// Writes the numbers that `from_number` put in, all lanes.
    unsafe fn store_numbers(self, target: *mut i32, vector: Self::Vector);
    /// The same for numbers below 256.
    unsafe fn store_small_numbers(self, target: *mut u8, vector: Self::Vector);
    /// In each lane that of `vector` whose number, below `LANES`, is in the same lane of `numbers`: see `from_number`.
    fn permute(self, vector: Self::Vector, numbers: Self::Vector) -> Self::Vector;
    /// The even lanes of `a` then `b`, and the odd ones.
    fn deinterleave(self, a: Self::Vector, b: Self::Vector) -> [Self::Vector; 2];
    /// `a` in the even lanes and `b` in the odd ones: the inverse of `deinterleave`.
    fn interleave(self, a: Self::Vector, b: Self::Vector) -> [Self::Vector; 2];
}

/// [`Lanes::gather_where`] into an array: lanes of the mask's bits that are set.
///
/// # Safety
/// These can be read.
#[inline(always)]
pub(super) unsafe fn gather<T: Element, const N: usize>(
    mask: u32,
    source: *const T,
    stride: isize,
) -> [T; N] {
    let mut lanes = [T::default(); N];
    for (lane, value) in lanes.iter_mut().enumerate() {
        if mask >> lane & 1 != 0 {
            let place = (lane as isize).wrapping_mul(stride);
            // SAFETY: a lane of the mask, for which the caller answers.
            *value = unsafe { *source.wrapping_offset(place) };
        }
    }
    lanes
}

/// Calls `$kernel.run_tile::<rows, vectors>($simd)` for run-time `rows` and `vectors` in the lists given.
/// `run_tile` is not inlined: a function with all of the tiles in it takes minutes to compile.
macro_rules! select_tile {
    ($simd:ident, $kernel:ident, $rows:ident, $vectors:ident, [$($r:literal)*], $v:tt) => {
        match $rows {
            $($r => select_tile!(@vectors $simd, $kernel, $vectors, $r, $v),)*
            _ => unreachable!("a tile of {} rows", $rows),
        }
    };
    (@vectors $simd:ident, $kernel:ident, $vectors:ident, $r:literal, [$($v:literal)*]) => {
        match $vectors {
            $($v => $kernel.run_tile::<$r, $v>($simd),)*
            _ => unreachable!("a tile of {} vectors", $vectors),
        }
    };
}
pub(super) use select_tile;

/// Makes the compiler align the stack of the function that this is inlined in to cache lines. Where it finds only late
/// that vectors have to be spilled, it is content with 16 bytes, and most of what is spilled lies across two lines.
#[inline(always)]
pub(super) fn align_stack() {
    #[repr(align(64))]
    struct Line(#[allow(dead_code, reason = "what is aligned")] u8);
    std::hint::black_box(&mut Line(0));
}

/// `enter` and `run_tile` of an instruction set: where code compiled with its features is called. Methods of the
/// kernels, and not inlined: the compiler puts a method beside its type, and so finds parts of much the same size that
/// it can compile side by side.
macro_rules! entries {
    ($token:ident $(, $features:literal)?) => {
        trait Enter<T: Element>: Kernel<T>
        where
            $token: Lanes<T>,
        {
            /// # Safety
            /// The processor has the features, as `simd` proves.
            #[inline(never)]
            $(#[target_feature(enable = $features)])?
            unsafe fn enter(self, simd: $token) -> Self::Output
            where
                Self: Sized,
            {
                super::lanes::align_stack();
                self.run(simd)
            }
        }

        impl<T: Element, K: Kernel<T>> Enter<T> for K where $token: Lanes<T> {}

        /// Runs `kernel` compiled for the instruction set.
        #[inline(always)]
        pub(super) fn enter<T: Element, K: Kernel<T>>(simd: $token, kernel: K) -> K::Output
        where
            $token: Lanes<T>,
        {
            // SAFETY: `simd` proves that the processor has the features.
            unsafe { kernel.enter(simd) }
        }

        trait RunTile<T: Element>: TileKernel<T, $token>
        where
            $token: Lanes<T>,
        {
            /// # Safety
            /// As for `enter`.
            $(#[target_feature(enable = $features)])?
            unsafe fn enter_tile<const ROWS: usize, const VECTORS: usize>(&self, simd: $token) {
                self.run::<ROWS, VECTORS>(simd);
            }

            /// Runs one size of a tile, compiled for the instruction set. (`inline(never)` has no effect on
            /// a function with features, but such a function is not inlined in one without.)
            #[inline(never)]
            fn run_tile<const ROWS: usize, const VECTORS: usize>(&self, simd: $token) {
                // SAFETY: `simd` proves that the processor has the features.
                unsafe { self.enter_tile::<ROWS, VECTORS>(simd) }
            }
        }

        impl<T: Element, K: TileKernel<T, $token>> RunTile<T> for K where $token: Lanes<T> {}
    };
}
pub(super) use entries;

/// Methods of [`Lanes`] that are one intrinsic each and touch no memory.
macro_rules! intrinsics {
    ($($method:ident($($arg:ident: $type:ty),*) -> $output:ty = $intrinsic:path;)*) => {$(
        #[inline(always)]
        fn $method(self, $($arg: $type),*) -> $output {
            // SAFETY: the token proves that the processor has the instruction.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}
pub(super) use intrinsics;

/// Methods of [`Lanes`] that are one intrinsic each and read or write memory.
macro_rules! memory_intrinsics {
    ($($method:ident($($arg:ident: $type:ty),*) -> $output:ty = $intrinsic:path;)*) => {$(
        #[inline(always)]
        unsafe fn $method(self, $($arg: $type),*) -> $output {
            // SAFETY: the caller answers for the memory, the token for the instruction.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}
pub(super) use memory_intrinsics;
