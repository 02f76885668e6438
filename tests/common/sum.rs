//! Sums with what their error bounds are made of.

use super::real::Real;

/// An exact result as far as double precision gives it, with a bound on the error of computing it.
///
/// Let a result be a sum of products a_i * b_i, in any order and cut into blocks in any way, each
/// product and each addition rounded (or both at once). A term then goes through at most one
/// rounding of its product and one per addition, so through `n` = the number of terms in all, and
/// |error| <= gamma(n) * sum |a_i * b_i| with gamma(n) = n * u / (1 - n * u), u the unit roundoff
/// (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). A bias is one more term.
/// `alpha * sum + beta * old` adds to each term at most three roundings: of the factor itself (it
/// may come as a double), of the product with it, and of the addition.
/// A division by a count adds one, or two when it is a product with the rounded reciprocal.
/// A rounding near zero errs by up to half the smallest positive number instead.
/// The double-precision sum here errs by the same formula with its own u.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    pub value: f64,
    /// The sum of the terms' absolute values.
    pub magnitude: f64,
    /// The most roundings that a term goes through.
    pub roundings: usize,
}

/// How the result that is compared with a [`Sum`] was computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Precision {
    /// In the element type.
    Own,
    /// In double precision, then rounded once: what `Algorithm::Reference` promises.
    Double,
    /// From integers and factors that are multiples of one half, so without any rounding.
    Exact,
    /// By Winograd's minimal filtering: see [`Precision::tiles`].
    Tiles { terms: usize, amplified: f64 },
}

impl Precision {
    /// That of tiles with so many results along an axis, of sums of so many terms at each point; all products
    /// together have at most this magnitude.
    pub fn tiles(results: usize, magnitude: f64, terms: usize) -> Precision {
        Precision::Tiles { terms, amplified: amplification(results as i32).powi(2) * magnitude }
    }
}

/// How much larger than its result the numbers are of which F(results, taps), with six points, adds up a
/// result, at most: the sum, over its points p, of |p^i / f| for the result i, of |coefficients| of the
/// polynomial that is zero at the other points (the input), and of |p^k| for the tap k; f is that
/// polynomial at p. An error in any step is at most so many times larger, along both axes.
fn amplification(results: i32) -> f64 {
    let taps = 7 - results;
    let points = [0.0, 5.0 / 8.0, -5.0 / 8.0, 1.5, -1.5f64];
    let zero_at = |others: &[f64]| {
        let mut coefficients = vec![1.0];
        for point in others {
            let mut product = vec![0.0; coefficients.len() + 1];
            for (power, coefficient) in coefficients.iter().enumerate() {
                product[power + 1] += coefficient;
                product[power] -= point * coefficient;
            }
            coefficients = product;
        }
        coefficients
    };
    let sum = |coefficients: &[f64]| coefficients.iter().map(|number| number.abs()).sum::<f64>();
    let of_result = |i: i32| {
        let finite = points.iter().map(|&p| {
            let others: Vec<f64> = points.iter().copied().filter(|&other| other != p).collect();
            let f: f64 = others.iter().map(|other| p - other).product();
            (p.powi(i) / f).abs() * sum(&zero_at(&others)) * p.abs().powi(taps - 1).max(1.0)
        });
        // the last result has the point at infinity
        finite.sum::<f64>() + if i == results - 1 { sum(&zero_at(&points)) } else { 0.0 }
    };
    (0..results).map(of_result).fold(0.0, f64::max)
}

impl Sum {
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
        self.roundings += 1;
    }

    /// `alpha * self + beta * old`, where a beta of 0 does not read `old`.
    pub fn update(self, alpha: f64, beta: f64, old: f64) -> Sum {
        let kept = if beta == 0.0 { 0.0 } else { beta * old };
        Sum {
            value: alpha * self.value + kept,
            magnitude: (alpha * self.magnitude).abs() + kept.abs(),
            roundings: self.roundings + 3,
        }
    }

    /// The mean of `count` terms.
    pub fn divided(self, count: usize) -> Sum {
        let count = count as f64;
        Sum { value: self.value / count, magnitude: self.magnitude / count, ..self }
            .with_roundings(2)
    }

    /// The same, where each term goes through `more` roundings more.
    pub fn with_roundings(self, more: usize) -> Sum {
        Sum { roundings: self.roundings + more, ..self }
    }

    pub fn bound<T: Real>(&self, precision: Precision) -> f64 {
        let double = error_of::<f64>(self.roundings, self.magnitude);
        match precision {
            Precision::Own => error_of::<T>(self.roundings, self.magnitude) + double,
            Precision::Double => 2.0 * double + error_of::<T>(1, self.value.abs() + double),
            Precision::Exact => {
                // In units of one half, every partial sum is an integer below 1 / u.
                assert!(
                    self.magnitude * 2.0 < 1.0 / T::ROUNDOFF,
                    "too large to be exact: {self:?}"
                );
                0.0
            }
            Precision::Tiles { terms, amplified } => {
                // Two steps of each transform along each axis, the sum of the products.
                let roundings = terms + 24;
                self.bound::<T>(Precision::Own) + error_of::<T>(roundings, amplified)
            }
        }
    }
}

fn error_of<T: Real>(roundings: usize, magnitude: f64) -> f64 {
    let (n, u) = (roundings as f64, T::ROUNDOFF);
    assert!(n * u < 0.5, "no bound for {n} roundings");
    let bound = n * u / (1.0 - n * u) * magnitude;
    // Where it makes no difference it is not computed: denormal numbers take processors a hundred times as long.
    if bound > n * (T::TINIEST / f64::EPSILON) { bound } else { bound + near_zero::<T>(n) }
}

/// The largest error of so many roundings near zero. (Not inline, or it would be computed in any case.)
#[inline(never)]
fn near_zero<T: Real>(roundings: f64) -> f64 {
    roundings * T::TINIEST
}

/// Each element of `results` is its sum: within the bound, or the same infinity, or also a NaN.
#[track_caller]
pub fn assert_sums<T: Real>(what: &str, results: &[T], sums: &[Sum], precision: Precision) {
    assert_eq!(results.len(), sums.len(), "{what}: number of elements");
    for (index, (result, sum)) in results.iter().zip(sums).enumerate() {
        assert_sum(&format_args!("{what}[{index}]"), *result, sum, precision);
    }
}

#[track_caller]
pub fn assert_sum<T: Real>(
    what: &dyn std::fmt::Display,
    result: T,
    sum: &Sum,
    precision: Precision,
) {
    let (result, expected) = (result.widen(), sum.value);
    if !expected.is_finite() {
        let same = result == expected || result.is_nan() && expected.is_nan();
        assert!(same, "{what} is {result:e}, but should be {expected}");
        return;
    }
    let bound = sum.bound::<T>(precision);
    let error = (result - expected).abs();
    assert!(
        error <= bound,
        "{what} is {result:e}, but should be {expected:e}: an error of {error:e} where {bound:e} is \
         the bound ({sum:?}, {precision:?})"
    );
}
