//! The lanes' comparisons, numbers and shuffles against plain loops.

use super::lanes::{Element, Kernel, Lanes};
use super::{Isa, Level};

/// What the operations make of vectors of `a` and `b`.
struct Outcome<T> {
    quotients: Vec<T>,
    exceeds: Vec<bool>,
    same_bits: Vec<bool>,
    number_sums: Vec<T>,
    stored: [Vec<u32>; 2],
    loaded: [Vec<T>; 2],
    deinterleaved: Vec<T>,
    interleaved: Vec<T>,
    permuted: Vec<T>,
}

struct AllOf<'a, T> {
    a: &'a [T],
    b: &'a [T],
}

impl<T: Element> Kernel<T> for AllOf<'_, T> {
    type Output = Outcome<T>;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) -> Outcome<T> {
        let list = |vector: S::Vector| {
            let mut lanes = vec![T::default(); S::LANES];
            // SAFETY: LANES elements.
            unsafe { simd.store(lanes.as_mut_ptr(), vector) };
            lanes
        };
        let truth = |mask: S::Mask| {
            let one = T::from_f64(1.0);
            let chosen = simd.select(mask, simd.splat(one), simd.splat(T::default()));
            list(chosen).into_iter().map(|lane| lane == one).collect::<Vec<_>>()
        };
        assert!(self.a.len() >= S::LANES && self.b.len() >= S::LANES);
        // SAFETY: as asserted.
        let (a, b) = unsafe { (simd.load(self.a.as_ptr()), simd.load(self.b.as_ptr())) };
        Outcome {
            quotients: list(simd.div(a, b)),
            exceeds: truth(simd.exceeds(a, b)),
            same_bits: truth(simd.same_bits(a, b)),
            stored: stored(simd),
            loaded: loaded(simd).map(list),
            number_sums: list(
                simd.add_numbers(
                    simd.splat(T::from_number(300)),
                    simd.splat(T::from_number(1 << 30)),
                ),
            ),
            deinterleaved: simd.deinterleave(a, b).map(list).concat(),
            interleaved: simd.interleave(a, b).map(list).concat(),
            permuted: list(simd.permute(a, mixed(simd))),
        }
    }
}

/// Numbers by lane, stored as either integer.
#[inline(always)]
fn stored<T: Element, S: Lanes<T>>(simd: S) -> [Vec<u32>; 2] {
    let by_lane = |step: usize| -> [T; 16] {
        std::array::from_fn(|lane| T::from_number((step * lane) as u32))
    };
    let (mut wide, mut small) = ([0i32; 16], [0u8; 16]);
    // SAFETY: 16 elements are at least a vector.
    unsafe {
        simd.store_numbers(wide.as_mut_ptr(), simd.load(by_lane(70_000).as_ptr()));
        simd.store_small_numbers(small.as_mut_ptr(), simd.load(by_lane(17).as_ptr()));
    }
    [wide.map(|number| number as u32).to_vec(), small.map(u32::from).to_vec()]
}

/// Numbers by lane, loaded from either integer.
#[inline(always)]
fn loaded<T: Element, S: Lanes<T>>(simd: S) -> [S::Vector; 2] {
    let wide: [i32; 16] = std::array::from_fn(|lane| 70_000 * lane as i32 - 1);
    let small: [u8; 16] = std::array::from_fn(|lane| 255 - 17 * lane as u8);
    // SAFETY: 16 elements are at least a vector.
    unsafe { [simd.load_numbers(wide.as_ptr()), simd.load_small_numbers(small.as_ptr())] }
}

/// Which lane `mixed` names in each: some twice, some never.
fn mixed_lane(lane: usize, lanes: usize) -> usize {
    (5 * lane * lane + 3) % lanes
}

#[inline(always)]
fn mixed<T: Element, S: Lanes<T>>(simd: S) -> S::Vector {
    let numbers: [T; 16] =
        std::array::from_fn(|lane| T::from_number(mixed_lane(lane, S::LANES) as u32));
    // SAFETY: 16 elements are at least a vector.
    unsafe { simd.load(numbers.as_ptr()) }
}

fn check<T: Element>(level: Level) {
    let values = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e-40, // a denormal in f32
        3.0,
    ];
    let numbers = [0, 1, 2, 0x7f80_0001, 0x7fff_ffff];
    let all: Vec<T> =
        values.map(T::from_f64).into_iter().chain(numbers.map(T::from_number)).collect();
    // The NaN has no order, so compare by bits.
    let bits = |value: T| (value.to_number(), value.to_f64().to_bits() >> 32);
    let is_nan = |value: T| value.to_f64().is_nan();
    for shift in 0..all.len() {
        let a: Vec<T> = all.iter().cycle().copied().take(16).collect();
        let b: Vec<T> = all.iter().cycle().skip(shift).copied().take(16).collect();
        let found = T::dispatch(level, AllOf { a: &a, b: &b });
        let lanes = found.quotients.len();
        for lane in 0..lanes {
            let (a, b) = (a[lane], b[lane]);
            let quotient = T::from_f64(a.to_f64() / b.to_f64());
            assert!(
                quotient == found.quotients[lane]
                    || (is_nan(quotient) && is_nan(found.quotients[lane])),
                "{a:?} / {b:?}"
            );
            let moves_on = !is_nan(b) && (is_nan(a) || a > b);
            assert_eq!(found.exceeds[lane], moves_on, "{a:?} exceeds {b:?}");
            assert_eq!(found.number_sums[lane].to_number(), (1 << 30) + 300);
            assert_eq!(
                found.stored.each_ref().map(|all| all[lane] as usize),
                [70_000 * lane, 17 * lane]
            );
            let numbers = [(70_000 * lane as u32).wrapping_sub(1), 255 - 17 * lane as u32];
            assert_eq!(
                found.loaded.each_ref().map(|all| bits(all[lane])),
                numbers.map(|number| bits(T::from_number(number)))
            );
            assert_eq!(found.same_bits[lane], bits(a) == bits(b), "{a:?} same bits as {b:?}");
        }
        for (lane, &value) in found.permuted.iter().enumerate() {
            assert_eq!(bits(value), bits(a[mixed_lane(lane, lanes)]));
        }
        let joined: Vec<T> = a[..lanes].iter().chain(&b[..lanes]).copied().collect();
        for (index, &value) in joined.iter().enumerate() {
            let even_then_odd = index / 2 + index % 2 * lanes;
            assert_eq!(bits(found.deinterleaved[even_then_odd]), bits(value));
            let alternating = index % lanes * 2 + index / lanes;
            assert_eq!(bits(found.interleaved[alternating]), bits(value));
        }
    }
}

#[test]
fn every_instruction_set_agrees_with_plain_loops() {
    for isa in Isa::ALL {
        let Some(level) = Level::new(isa) else {
            println!("not tested: this processor has no {isa}");
            continue;
        };
        check::<f32>(level);
        check::<f64>(level);
    }
}

#[test]
fn numbers_come_back() {
    for number in [0, 1, 255, 256, 0x7f80_0001, u32::MAX] {
        assert_eq!(f32::from_number(number).to_number(), number);
        assert_eq!(f64::from_number(number).to_number(), number);
    }
}
