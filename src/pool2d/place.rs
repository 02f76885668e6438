//! Places in a window: integers in memory, numbers in the lanes of a vector.

use super::{Argmax, ArgmaxMut};
use crate::runs::{self, for_each_vector};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes};

/// At least as many as any vector has.
const MAX_LANES: usize = 16;

/// Where places are read.
#[derive(Clone, Copy)]
pub(super) enum Places {
    Nowhere,
    I32(*const i32),
    U8(*const u8),
}

/// Where places are written. In scratch memory they are numbers.
#[derive(Clone, Copy)]
pub(super) enum PlacesMut<T> {
    Nowhere,
    I32(*mut i32),
    U8(*mut u8),
    Numbers(*mut T),
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
    pub fn at<T>(&self, index: usize) -> PlacesMut<T> {
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

impl<T> PlacesMut<T> {
    /// The places from a later one on.
    pub fn at(self, offset: usize) -> PlacesMut<T> {
        match self {
            PlacesMut::Nowhere => PlacesMut::Nowhere,
            PlacesMut::I32(places) => PlacesMut::I32(places.wrapping_add(offset)),
            PlacesMut::U8(places) => PlacesMut::U8(places.wrapping_add(offset)),
            PlacesMut::Numbers(places) => PlacesMut::Numbers(places.wrapping_add(offset)),
        }
    }
}

/// Copies `count` elements of at most `lanes`, by moves of constant sizes.
///
/// # Safety
/// They may be read and written.
#[inline(always)]
unsafe fn copy<P: Copy>(source: *const P, target: *mut P, count: usize, lanes: usize) {
    debug_assert!(count <= lanes && lanes <= MAX_LANES);
    // SAFETY: the caller answers for `count` elements. Two moves may overlap.
    unsafe {
        if count == lanes {
            return target.copy_from_nonoverlapping(source, lanes);
        }
        let ends = |len: usize| {
            target.copy_from_nonoverlapping(source, len);
            let last = count - len;
            target.add(last).copy_from_nonoverlapping(source.add(last), len);
        };
        match count {
            8.. => ends(8),
            4.. => ends(4),
            2.. => ends(2),
            1 => *target = *source,
            0 => {}
        }
    }
}

/// `count` places of at most `lanes`; the others are 0.
///
/// # Safety
/// They may be read.
#[inline(always)]
unsafe fn some<P: Copy + Default>(source: *const P, count: usize, lanes: usize) -> [P; MAX_LANES] {
    let mut all = [P::default(); MAX_LANES];
    // SAFETY: the caller answers for the source; there is room for all lanes.
    unsafe { copy(source, all.as_mut_ptr(), count, lanes) };
    all
}

/// # Safety of these methods
/// Each is sound when the places that it names may be read (written).
impl Places {
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
        // SAFETY: the caller answers for `count` places; the arrays have those of a vector.
        unsafe {
            match self {
                Places::Nowhere => simd.splat(T::default()),
                Places::I32(places) if count == S::LANES => simd.load_numbers(places.add(index)),
                Places::I32(places) => {
                    simd.load_numbers(some(places.add(index), count, S::LANES).as_ptr())
                }
                Places::U8(places) if count == S::LANES => {
                    simd.load_small_numbers(places.add(index))
                }
                Places::U8(places) => {
                    simd.load_small_numbers(some(places.add(index), count, S::LANES).as_ptr())
                }
            }
        }
    }
}

/// # Safety of these methods
/// Each is sound when the places that it names may be written.
impl<T: Element> PlacesMut<T> {
    /// Writes the numbers of the first `count` lanes, from the place at `index` on.
    #[inline(always)]
    pub unsafe fn store<S: Lanes<T>>(
        self,
        simd: S,
        count: usize,
        index: usize,
        numbers: S::Vector,
    ) {
        const { assert!(S::LANES <= MAX_LANES) };
        // SAFETY: the caller answers for `count` places; the arrays have room for a vector.
        unsafe {
            match self {
                PlacesMut::Nowhere => {}
                PlacesMut::Numbers(places) => {
                    runs::store(simd, count, places.add(index), numbers);
                }
                PlacesMut::I32(places) if count == S::LANES => {
                    simd.store_numbers(places.add(index), numbers);
                }
                PlacesMut::I32(places) => {
                    let mut all = [0; MAX_LANES];
                    simd.store_numbers(all.as_mut_ptr(), numbers);
                    copy(all.as_ptr(), places.add(index), count, S::LANES);
                }
                PlacesMut::U8(places) if count == S::LANES => {
                    simd.store_small_numbers(places.add(index), numbers);
                }
                PlacesMut::U8(places) => {
                    let mut all = [0; MAX_LANES];
                    simd.store_small_numbers(all.as_mut_ptr(), numbers);
                    copy(all.as_ptr(), places.add(index), count, S::LANES);
                }
            }
        }
    }
}

/// Runs that follow on from one another are one.
#[inline(always)]
fn one_run([runs, run, stride]: [usize; 3]) -> [usize; 3] {
    if run == stride { [1, runs * run, 0] } else { [runs, run, stride] }
}

/// Copies numbers that lie one behind the other to runs of places.
pub(super) struct FromNumbers<T> {
    pub numbers: *const T,
    /// Their number, the places of each, and those from one to the next in the target.
    pub runs: [usize; 3],
    pub target: PlacesMut<T>,
}

impl<T: Element> Kernel<T> for FromNumbers<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let [runs, run, stride] = one_run(self.runs);
        for number in 0..runs {
            let numbers = self.numbers.wrapping_add(number * run);
            let target = self.target.at(number * stride);
            for_each_vector(
                simd,
                run,
                #[inline(always)]
                |i, count| {
                    // SAFETY: whoever makes one answers for the runs.
                    unsafe {
                        target.store(simd, count, i, runs::load(simd, count, numbers.add(i)))
                    };
                },
            );
        }
    }
}
