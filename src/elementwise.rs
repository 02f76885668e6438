//! ReLU, forward and backward.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::simd::Element;

/// y = max(u, 0); a NaN stays NaN.
pub fn relu_forward<T: Element>(context: &Context, u: &[T], y: &mut [T]) -> Result<()> {
    same_length("y", u.len(), y.len())?;
    let _ = context;
    for (y, &u) in y.iter_mut().zip(u) {
        *y = relu(u);
    }
    Ok(())
}

/// [`relu_forward`] in place.
pub fn relu_forward_in_place<T: Element>(context: &Context, u: &mut [T]) -> Result<()> {
    let _ = context;
    for u in u {
        *u = relu(*u);
    }
    Ok(())
}

/// dx = dy, but 0 where `u_or_y`, the forward pass's input or its output, is <= 0.
pub fn relu_backward<T: Element>(
    context: &Context,
    u_or_y: &[T],
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    same_length("dy", u_or_y.len(), dy.len())?;
    same_length("dx", u_or_y.len(), dx.len())?;
    let _ = context;
    for ((dx, &dy), &u) in dx.iter_mut().zip(dy).zip(u_or_y) {
        *dx = if u <= T::default() { T::default() } else { dy };
    }
    Ok(())
}

/// [`relu_backward`] in place of dy.
pub fn relu_backward_in_place<T: Element>(
    context: &Context,
    u_or_y: &[T],
    dy: &mut [T],
) -> Result<()> {
    same_length("dy", u_or_y.len(), dy.len())?;
    let _ = context;
    for (dy, &u) in dy.iter_mut().zip(u_or_y) {
        *dy = if u <= T::default() { T::default() } else { *dy };
    }
    Ok(())
}

fn relu<T: Element>(u: T) -> T {
    if u <= T::default() { T::default() } else { u }
}

fn same_length(argument: &'static str, expected: usize, actual: usize) -> Result<()> {
    if actual != expected {
        return Err(Error::length(argument, expected, actual));
    }
    Ok(())
}
