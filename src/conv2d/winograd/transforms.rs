//! The one-dimensional transforms of F(4, 3), and of F(3, 4) for the gradient of the filters, which the
//! two-dimensional ones apply along both axes.
//!
//! Four outputs of three taps, or three of four, are read off a polynomial product that is evaluated at six points: 0,
//! +-5/8, +-3/2 and infinity (Winograd, Arithmetic Complexity of Computations, 1980; for convolutions
//! Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4). Among points with
//! few bits these have the smallest error, less than half of that of Lavin's 0, +-1, +-2; their powers
//! are exact numbers. What the filters would be divided by is moved to the results.

use std::array;

use crate::simd::{Element, Lanes};

/// Outputs of a tile along an axis.
pub(super) const OUTPUTS: usize = 4;
/// Points along an axis, and inputs of a tile.
pub(super) const POINTS: usize = 6;
/// Points of a tile.
pub(super) const PLANES: usize = POINTS * POINTS;
/// Taps along an axis.
pub(super) const TAPS: usize = 3;

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
    let odd_a = simd.mul(number(A), simd.mul_add(number(-B2), d[1], d[3]));
    let even_b = simd.mul_add(number(-A2), d[2], d[4]);
    let odd_b = simd.mul(number(B), simd.mul_add(number(-A2), d[1], d[3]));
    [
        simd.mul_add(product, d[0], simd.mul_add(sum, d[2], d[4])),
        simd.add(even_a, odd_a),
        simd.sub(even_a, odd_a),
        simd.add(even_b, odd_b),
        simd.sub(even_b, odd_b),
        simd.mul_add(product, d[1], simd.mul_add(sum, d[3], d[5])),
    ]
}

/// Three taps at the six points.
#[inline(always)]
pub(super) fn filter<T: Element, S: Lanes<T>>(
    simd: S,
    g: [S::Vector; TAPS],
) -> [S::Vector; POINTS] {
    let number = |value: f64| simd.splat(T::from_f64(value));
    let even_a = simd.mul_add(number(A2), g[2], g[0]);
    let odd_a = simd.mul(number(A), g[1]);
    let even_b = simd.mul_add(number(B2), g[2], g[0]);
    let odd_b = simd.mul(number(B), g[1]);
    [
        g[0],
        simd.add(even_a, odd_a),
        simd.sub(even_a, odd_a),
        simd.add(even_b, odd_b),
        simd.sub(even_b, odd_b),
        g[2],
    ]
}

/// Four results of the products at the six points.
#[inline(always)]
pub(super) fn result<T: Element, S: Lanes<T>>(
    simd: S,
    m: [S::Vector; POINTS],
) -> [S::Vector; OUTPUTS] {
    let number = |value: f64| simd.splat(T::from_f64(value));
    let (even_a, odd_a) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (even_b, odd_b) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    let first = simd.mul(number(AT_A), even_a);
    let second = simd.mul(number(AT_A * A), odd_a);
    let third = simd.mul(number(AT_A * A2), even_a);
    let fourth = simd.mul_add(number(AT_A * A2 * A), odd_a, m[5]);
    [
        simd.mul_add(number(AT_0), m[0], simd.mul_add(number(AT_B), even_b, first)),
        simd.mul_add(number(AT_B * B), odd_b, second),
        simd.mul_add(number(AT_B * B2), even_b, third),
        simd.mul_add(number(AT_B * B2 * B), odd_b, fourth),
    ]
}

/// Four gradients of outputs, the taps of F(3, 4), at the six points.
#[inline(always)]
fn gradient<T: Element, S: Lanes<T>>(simd: S, g: [S::Vector; OUTPUTS]) -> [S::Vector; POINTS] {
    let number = |value: f64| simd.splat(T::from_f64(value));
    let even_a = simd.mul_add(number(A2), g[2], g[0]);
    let odd_a = simd.mul(number(A), simd.mul_add(number(A2), g[3], g[1]));
    let even_b = simd.mul_add(number(B2), g[2], g[0]);
    let odd_b = simd.mul(number(B), simd.mul_add(number(B2), g[3], g[1]));
    [
        g[0],
        simd.add(even_a, odd_a),
        simd.sub(even_a, odd_a),
        simd.add(even_b, odd_b),
        simd.sub(even_b, odd_b),
        g[3],
    ]
}

/// A tile's numbers along an axis, of the source or of the gradient of the outputs, at the six points.
#[inline(always)]
pub(super) fn tile<T: Element, S: Lanes<T>, const INPUTS: usize>(
    simd: S,
    d: [S::Vector; INPUTS],
) -> [S::Vector; POINTS] {
    match INPUTS {
        POINTS => source(simd, array::from_fn(|input| d[input])),
        _ => gradient(simd, array::from_fn(|input| d[input])),
    }
}

/// Three gradients of taps, the results of F(3, 4), of the products at the six points.
#[inline(always)]
pub(super) fn tap_gradient<T: Element, S: Lanes<T>>(
    simd: S,
    m: [S::Vector; POINTS],
) -> [S::Vector; TAPS] {
    let number = |value: f64| simd.splat(T::from_f64(value));
    let (even_a, odd_a) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (even_b, odd_b) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    let first = simd.mul(number(AT_A), even_a);
    let second = simd.mul(number(AT_A * A), odd_a);
    let third = simd.mul_add(number(AT_A * A2), even_a, m[5]);
    [
        simd.mul_add(number(AT_0), m[0], simd.mul_add(number(AT_B), even_b, first)),
        simd.mul_add(number(AT_B * B), odd_b, second),
        simd.mul_add(number(AT_B * B2), even_b, third),
    ]
}
