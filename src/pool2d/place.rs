//! Places in a window: integers in memory, numbers in the lanes of a vector.

use super::{Argmax, ArgmaxMut};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Lanes};

/// At least as many as any vector has.
const MAX_LANES: usize = 16;

/// Where places are read.
#[derive(Clone, Copy)]
pub(super) enum Places {
    Nowhere,
    I32(*const i32),
    U8(*const u8),
}

/// Where places are written.
#[derive(Clone, Copy)]
pub(super) enum PlacesMut {
    Nowhere,
    I32(*mut i32),
    U8(*mut u8),
}

/// [`ArgmaxMut`] as the tasks of a region share it.
#[derive(Clone, Copy)]
pub(super) enum SharedPlaces<'a> {
    Nowhere,
    I32(SharedMut<'a, i32>),
    U8(SharedMut<'a, u8>),
}

impl<'a> SharedPlaces<'a> {
    pub fn new(argmax: Option<ArgmaxMut<'a>>) -> Self {
        match argmax {
            None => SharedPlaces::Nowhere,
            Some(ArgmaxMut::I32(places)) => SharedPlaces::I32(SharedMut::new(places)),
            Some(ArgmaxMut::U8(places)) => SharedPlaces::U8(SharedMut::new(places)),
        }
    }

    /// The places from `index` on.
    pub fn at(&self, index: usize) -> PlacesMut {
        match self {
            SharedPlaces::Nowhere => PlacesMut::Nowhere,
            SharedPlaces::I32(places) => PlacesMut::I32(places.at(index)),
            SharedPlaces::U8(places) => PlacesMut::U8(places.at(index)),
        }
    }
}

impl Argmax<'_> {
    /// The places from `index` on.
    pub(super) fn from(&self, index: usize) -> Places {
        match self {
            Argmax::I32(places) => Places::I32(places[index..].as_ptr()),
            Argmax::U8(places) => Places::U8(places[index..].as_ptr()),
        }
    }
}

impl Places {
    /// The places from a later one on.
    pub fn at(self, offset: usize) -> Places {
        match self {
            Places::Nowhere => Places::Nowhere,
            Places::I32(places) => Places::I32(places.wrapping_add(offset)),
            Places::U8(places) => Places::U8(places.wrapping_add(offset)),
        }
    }
}

/// # Safety of these methods
/// Each is sound when the places that it names may be read (written).
impl Places {
    /// `runs` runs of `run` places, `stride` apart, one behind the other in `memory`, which has room for
    /// as many as for i32.
    pub unsafe fn gathered<T: Element>(
        self,
        [runs, run, stride]: [usize; 3],
        memory: *mut T,
    ) -> Places {
        // SAFETY: the caller answers for the places, and for memory that is aligned as T is.
        unsafe {
            match self {
                Places::Nowhere => Places::Nowhere,
                Places::I32(places) => {
                    let target = memory.cast::<i32>();
                    for number in 0..runs {
                        let source = places.add(number * stride);
                        source.copy_to_nonoverlapping(target.add(number * run), run);
                    }
                    Places::I32(target)
                }
                Places::U8(places) => {
                    let target = memory.cast::<u8>();
                    for number in 0..runs {
                        let source = places.add(number * stride);
                        source.copy_to_nonoverlapping(target.add(number * run), run);
                    }
                    Places::U8(target)
                }
            }
        }
    }

    /// `count` places from the one at `index` on, as the numbers of a vector; the other lanes are
    /// arbitrary. A negative place is a number that no window has.
    #[inline(always)]
    pub unsafe fn load<T: Element, S: Lanes<T>>(
        self,
        simd: S,
        count: usize,
        index: usize,
    ) -> S::Vector {
        const { assert!(S::LANES <= MAX_LANES) };
        let mut lanes = [T::default(); MAX_LANES];
        // The compiler makes one widening load of each loop.
        // SAFETY: the caller answers for `count` places, and `lanes` has room for a vector.
        unsafe {
            match self {
                Places::Nowhere => {}
                Places::I32(places) => {
                    let places = places.add(index);
                    for (lane, number) in lanes.iter_mut().enumerate().take(count) {
                        *number = T::from_number(*places.add(lane) as u32);
                    }
                }
                Places::U8(places) => {
                    let places = places.add(index);
                    for (lane, number) in lanes.iter_mut().enumerate().take(count) {
                        *number = T::from_number(u32::from(*places.add(lane)));
                    }
                }
            }
            simd.load(lanes.as_ptr())
        }
    }

    /// Places of the same type in `memory`, and their transpose: `[columns, pitch]` there from
    /// `[rows, columns]` here.
    pub unsafe fn transposed<T: Element>(
        self,
        [rows, columns]: [usize; 2],
        memory: *mut T,
        pitch: usize,
    ) -> Places {
        // SAFETY: the caller answers for the places, and for memory that is aligned as T is.
        unsafe {
            match self {
                Places::Nowhere => Places::Nowhere,
                Places::I32(places) => {
                    let target = memory.cast::<i32>();
                    transpose([rows, columns], places, columns, target, pitch);
                    Places::I32(target)
                }
                Places::U8(places) => {
                    let target = memory.cast::<u8>();
                    transpose([rows, columns], places, columns, target, pitch);
                    Places::U8(target)
                }
            }
        }
    }
}

/// # Safety of these methods
/// Each is sound when the places that it names may be written.
impl PlacesMut {
    /// Writes the numbers of the first `count` lanes, from the place at `index` on.
    #[inline(always)]
    pub unsafe fn store<T: Element, S: Lanes<T>>(
        self,
        simd: S,
        count: usize,
        index: usize,
        numbers: S::Vector,
    ) {
        const { assert!(S::LANES <= MAX_LANES) };
        let mut lanes = [T::default(); MAX_LANES];
        // The compiler makes one narrowing store of each loop.
        // SAFETY: `lanes` has room for a vector, and the caller answers for `count` places.
        unsafe {
            simd.store(lanes.as_mut_ptr(), numbers);
            match self {
                PlacesMut::Nowhere => {}
                PlacesMut::I32(places) => {
                    let places = places.add(index);
                    for (lane, number) in lanes.iter().enumerate().take(count) {
                        *places.add(lane) = number.to_number() as i32;
                    }
                }
                PlacesMut::U8(places) => {
                    let places = places.add(index);
                    for (lane, number) in lanes.iter().enumerate().take(count) {
                        *places.add(lane) = number.to_number() as u8;
                    }
                }
            }
        }
    }

    /// Places of the same type in `memory`, which has room for as many as for i32.
    pub fn in_memory<T: Element>(self, memory: *mut T) -> PlacesMut {
        match self {
            PlacesMut::Nowhere => PlacesMut::Nowhere,
            PlacesMut::I32(_) => PlacesMut::I32(memory.cast()),
            PlacesMut::U8(_) => PlacesMut::U8(memory.cast()),
        }
    }

    /// Writes the transpose of `block`, `rows` by `columns`, to `[columns, rows]` here. The pitches are
    /// the elements from line to line, there and here.
    pub unsafe fn take_transposed(
        self,
        block: PlacesMut,
        [rows, columns]: [usize; 2],
        [pitch, target_pitch]: [usize; 2],
    ) {
        // SAFETY: the caller answers for the places.
        unsafe {
            match (self, block) {
                (PlacesMut::I32(target), PlacesMut::I32(block)) => {
                    transpose([rows, columns], block, pitch, target, target_pitch);
                }
                (PlacesMut::U8(target), PlacesMut::U8(block)) => {
                    transpose([rows, columns], block, pitch, target, target_pitch);
                }
                _ => {}
            }
        }
    }
}

unsafe fn transpose<P: Copy>(
    [rows, columns]: [usize; 2],
    source: *const P,
    source_stride: usize,
    target: *mut P,
    target_stride: usize,
) {
    for column in 0..columns {
        for row in 0..rows {
            // SAFETY: elements of the matrices, for which the caller answers.
            unsafe {
                *target.add(column * target_stride + row) =
                    *source.add(row * source_stride + column);
            }
        }
    }
}
