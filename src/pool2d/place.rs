//! Places in a window: integers in memory, numbers in the lanes of a vector.

use super::{Argmax, ArgmaxMut};
use crate::runs::{self, for_each_vector};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes};

/// At least as many as any vector has.
const MAX_LANES: usize = 16;

/// Where places are read. In scratch memory they are numbers.
#[derive(Clone, Copy)]
pub(super) enum Places<T> {
    Nowhere,
    I32(*const i32),
    U8(*const u8),
    Numbers(*const T),
}

/// Where places are written.
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
    pub(super) fn from<T>(&self, index: usize) -> Places<T> {
        match self {
            Argmax::I32(places) => Places::I32(places[index..].as_ptr()),
            Argmax::U8(places) => Places::U8(places[index..].as_ptr()),
        }
    }
}

impl<T> Places<T> {
    /// The places from a later one on.
    pub fn at(self, offset: usize) -> Places<T> {
        match self {
            Places::Nowhere => Places::Nowhere,
            Places::I32(places) => Places::I32(places.wrapping_add(offset)),
            Places::U8(places) => Places::U8(places.wrapping_add(offset)),
            Places::Numbers(places) => Places::Numbers(places.wrapping_add(offset)),
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

/// # Safety of these methods
/// Each is sound when the places that it names may be read (written).
impl<T: Element> Places<T> {
    /// `count` places from the one at `index` on, as the numbers of a vector; the other lanes are
    /// arbitrary. A negative place is a number that no window has.
    #[inline(always)]
    pub unsafe fn load<S: Lanes<T>>(self, simd: S, count: usize, index: usize) -> S::Vector {
        const { assert!(S::LANES <= MAX_LANES) };
        let mut lanes = [T::default(); MAX_LANES];
        // The compiler makes one widening load of each loop.
        // SAFETY: the caller answers for `count` places, and `lanes` has room for a vector.
        unsafe {
            match self {
                Places::Nowhere => {}
                Places::Numbers(places) => return runs::load(simd, count, places.add(index)),
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
        let mut lanes = [T::default(); MAX_LANES];
        // The compiler makes one narrowing store of each loop.
        // SAFETY: `lanes` has room for a vector, and the caller answers for `count` places.
        unsafe {
            simd.store(lanes.as_mut_ptr(), numbers);
            match self {
                PlacesMut::Nowhere => {}
                PlacesMut::Numbers(places) => {
                    runs::store(simd, count, places.add(index), numbers);
                }
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
}

/// Runs that follow on from one another are one.
#[inline(always)]
pub(super) fn one_run([runs, run, stride]: [usize; 3]) -> [usize; 3] {
    if run == stride { [1, runs * run, 0] } else { [runs, run, stride] }
}

/// Copies runs of places one behind the other, as numbers.
pub(super) struct ToNumbers<T> {
    pub places: Places<T>,
    /// Their number, the places of each, and those from one to the next.
    pub runs: [usize; 3],
    pub target: *mut T,
}

impl<T: Element> Kernel<T> for ToNumbers<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let [runs, run, stride] = one_run(self.runs);
        for number in 0..runs {
            let places = self.places.at(number * stride);
            let target = self.target.wrapping_add(number * run);
            for_each_vector(
                simd,
                run,
                #[inline(always)]
                |i, count| {
                    // SAFETY: whoever makes one answers for the runs.
                    unsafe { runs::store(simd, count, target.add(i), places.load(simd, count, i)) };
                },
            );
        }
    }
}

/// The other way: runs one behind the other to where places are written.
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
