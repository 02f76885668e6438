//! The one-dimensional transforms of F(4, 3) and F(2, 5), and of F(3, 4) and F(5, 2) for the gradient of
//! the filters, which the two-dimensional ones apply along both axes.
//!
//! The outputs of some taps are read off a polynomial product that is evaluated at six points: 0, +-5/8,
//! +-3/2 and infinity (Winograd, Arithmetic Complexity of Computations, 1980; for convolutions Lavin and
//! Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4). Outputs and taps together are
//! one more than the points. Among points with few bits these have the smallest error, less than half of
//! that of Lavin's 0, +-1, +-2; their powers are exact numbers. What the filters would be divided by is
//! moved to the results.

use std::array;

use crate::simd::{Element, Lanes};

/// Points along an axis, and inputs of a tile.
pub(super) const POINTS: usize = 6;
/// Points of a tile.
pub(super) const PLANES: usize = POINTS * POINTS;
/// The most taps along an axis.
pub(super) const MOST_TAPS: usize = 5;

/// Outputs of a tile along an axis.
pub(super) fn outputs_of(taps: usize) -> usize {
    POINTS + 1 - taps
}

/// The points are 0, +-A, +-B and infinity.
const A: f64 = 5.0 / 8.0;
const B: f64 = 3.0 / 2.0;
const A2: f64 = A * A;
const B2: f64 = B * B;
/// The values of the product over the other points, by which Lagrange's interpolation divides: of point
/// 0, of both A's, of both B's.
const AT_0: f64 = 1.0 / (A2 * B2);
const AT_A: f64 = 1.0 / (2.0 * A2 * (A2 - B2));
const AT_B: f64 = 1.0 / (2.0 * B2 * (B2 - A2));

/// Six inputs at the six points.
#[inline(always)]
fn source<T: Element, S: Lanes<T>>(simd: S, d: [S::Vector; POINTS]) -> [S::Vector; POINTS] {
    let number = |value: f64| simd.splat(T::from_f64(value));
    let (product, sum) = (number(A2 * B2), number(-(A2 + B2)));
    let even_a = simd.mul_add(number(-B2), d[2], d[4]);
    let odd_a = simd.mul_add(number(-B2), d[1], d[3]);
    let even_b = simd.mul_add(number(-A2), d[2], d[4]);
    let odd_b = simd.mul_add(number(-A2), d[1], d[3]);
    [
        simd.mul_add(product, d[0], simd.mul_add(sum, d[2], d[4])),
        simd.mul_add(number(A), odd_a, even_a),
        simd.mul_add(number(-A), odd_a, even_a),
        simd.mul_add(number(B), odd_b, even_b),
        simd.mul_add(number(-B), odd_b, even_b),
        simd.mul_add(product, d[1], simd.mul_add(sum, d[3], d[5])),
    ]
}

/// Some taps, or gradients of outputs, the coefficients of a polynomial, at the six points.
#[inline(always)]
pub(super) fn evaluate<T: Element, S: Lanes<T>, const N: usize>(
    simd: S,
    g: [S::Vector; N],
) -> [S::Vector; POINTS] {
    let number = |value: f64| simd.splat(T::from_f64(value));
    let [even_a, odd_a] = halves(simd, g, A2);
    let [even_b, odd_b] = halves(simd, g, B2);
    [
        g[0],
        simd.mul_add(number(A), odd_a, even_a),
        simd.mul_add(number(-A), odd_a, even_a),
        simd.mul_add(number(B), odd_b, even_b),
        simd.mul_add(number(-B), odd_b, even_b),
        g[N - 1],
    ]
}

/// The polynomials of a polynomial's even and odd coefficients at a point's square: Horner's scheme.
#[inline(always)]
fn halves<T: Element, S: Lanes<T>, const N: usize>(
    simd: S,
    g: [S::Vector; N],
    square: f64,
) -> [S::Vector; 2] {
    let square = simd.splat(T::from_f64(square));
    let [mut even, mut odd] = [g[(N - 1) / 2 * 2], g[N / 2 * 2 - 1]];
    for place in (0..(N - 1) / 2).rev() {
        even = simd.mul_add(square, even, g[2 * place]);
    }
    for place in (0..N / 2 - 1).rev() {
        odd = simd.mul_add(square, odd, g[2 * place + 1]);
    }
    [even, odd]
}

/// Some outputs, or gradients of taps, of the products at the six points.
#[inline(always)]
pub(super) fn interpolate<T: Element, S: Lanes<T>, const N: usize>(
    simd: S,
    m: [S::Vector; POINTS],
) -> [S::Vector; N] {
    let number = |value: f64| simd.splat(T::from_f64(value));
    let of_a = [simd.add(m[1], m[2]), simd.sub(m[1], m[2])];
    let of_b = [simd.add(m[3], m[4]), simd.sub(m[3], m[4])];
    let (mut at_a, mut at_b) = (AT_A, AT_B);
    let mut results = [m[0]; N];
    for (power, result) in results.iter_mut().enumerate() {
        let mut sum = match power == N - 1 {
            true => simd.mul_add(number(at_a), of_a[power % 2], m[5]),
            false => simd.mul(number(at_a), of_a[power % 2]),
        };
        sum = simd.mul_add(number(at_b), of_b[power % 2], sum);
        if power == 0 {
            sum = simd.mul_add(number(AT_0), m[0], sum);
        }
        *result = sum;
        (at_a, at_b) = (at_a * A, at_b * B);
    }
    results
}

/// A tile's numbers along an axis, of the source or of the gradient of the outputs, at the six points.
#[inline(always)]
pub(super) fn tile<T: Element, S: Lanes<T>, const INPUTS: usize>(
    simd: S,
    d: [S::Vector; INPUTS],
) -> [S::Vector; POINTS] {
    match INPUTS {
        POINTS => source(simd, array::from_fn(|input| d[input])),
        _ => evaluate(simd, d),
    }
}
