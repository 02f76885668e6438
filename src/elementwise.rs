//! ReLU, forward and backward.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::runs::{self, for_each_vector};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::Tasks;

/// y = max(u, 0); a NaN stays NaN.
///
/// # Errors
/// [`Error::InvalidArgument`] for slices of different lengths.
///
/// ```
/// let context = cnnkern::Context::global()?;
/// let mut y = [0.0f32; 3];
/// cnnkern::elementwise::relu_forward(context, &[-1.0, 0.5, 2.0], &mut y)?;
/// assert_eq!(y, [0.0, 0.5, 2.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn relu_forward<T: Element>(context: &Context, u: &[T], y: &mut [T]) -> Result<()> {
    T::relu_forward(context, u, y)
}

/// [`relu_forward`], compiled by `Operations` for each element type.
pub(crate) fn run_relu_forward<T: Element>(context: &Context, u: &[T], y: &mut [T]) -> Result<()> {
    same_length("y", u.len(), y.len())?;
    forward(context, Some(u), SharedMut::new(y));
    Ok(())
}

/// [`relu_forward`] in place.
///
/// # Errors
/// None as yet.
pub fn relu_forward_in_place<T: Element>(context: &Context, u: &mut [T]) -> Result<()> {
    T::relu_forward_in_place(context, u)
}

/// [`relu_forward_in_place`], compiled by `Operations` for each element type.
pub(crate) fn run_relu_forward_in_place<T: Element>(context: &Context, u: &mut [T]) -> Result<()> {
    forward(context, None, SharedMut::new(u));
    Ok(())
}

/// dx = dy, but 0 where `u_or_y`, the forward pass's input or its output, is <= 0.
///
/// # Errors
/// [`Error::InvalidArgument`] for slices of different lengths.
///
/// ```
/// let context = cnnkern::Context::global()?;
/// let mut dx = [0.0f32; 3];
/// let (u, dy) = ([-1.0, 0.5, 2.0], [10.0, 20.0, 30.0]);
/// cnnkern::elementwise::relu_backward(context, &u, &dy, &mut dx)?;
/// assert_eq!(dx, [0.0, 20.0, 30.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
pub fn relu_backward<T: Element>(
    context: &Context,
    u_or_y: &[T],
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    T::relu_backward(context, u_or_y, dy, dx)
}

/// [`relu_backward`], compiled by `Operations` for each element type.
pub(crate) fn run_relu_backward<T: Element>(
    context: &Context,
    u_or_y: &[T],
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    same_length("dy", u_or_y.len(), dy.len())?;
    same_length("dx", u_or_y.len(), dx.len())?;
    backward(context, u_or_y, Some(dy), SharedMut::new(dx));
    Ok(())
}

/// [`relu_backward`] in place of dy.
///
/// # Errors
/// [`Error::InvalidArgument`] for slices of different lengths.
pub fn relu_backward_in_place<T: Element>(
    context: &Context,
    u_or_y: &[T],
    dy: &mut [T],
) -> Result<()> {
    T::relu_backward_in_place(context, u_or_y, dy)
}

/// [`relu_backward_in_place`], compiled by `Operations` for each element type.
pub(crate) fn run_relu_backward_in_place<T: Element>(
    context: &Context,
    u_or_y: &[T],
    dy: &mut [T],
) -> Result<()> {
    same_length("dy", u_or_y.len(), dy.len())?;
    backward(context, u_or_y, None, SharedMut::new(dy));
    Ok(())
}

fn same_length(argument: &'static str, expected: usize, actual: usize) -> Result<()> {
    if actual != expected {
        return Err(Error::length(argument, expected, actual));
    }
    Ok(())
}

/// Tasks begin on a cache line where the slice does.
const STEP: usize = 64;

/// In place where `u` is None.
fn forward<T: Element>(context: &Context, u: Option<&[T]>, y: SharedMut<'_, T>) {
    let tasks = Tasks::new(1, y.len(), 1, STEP);
    let streamed = u.is_some() && runs::streams::<T>(2 * y.len());
    context.run(tasks.count(), &|_, index| {
        let (_, range) = tasks.part(index);
        let target = y.at(range.start);
        let source = u.map_or(target.cast_const(), |u| u[range.clone()].as_ptr());
        let len = range.len();
        T::dispatch(context.level(), Forward { len, u: source, y: target, streamed });
    });
}

/// In place where `dy` is None.
fn backward<T: Element>(context: &Context, u_or_y: &[T], dy: Option<&[T]>, dx: SharedMut<'_, T>) {
    let tasks = Tasks::new(1, dx.len(), 1, STEP);
    let streamed = dy.is_some() && runs::streams::<T>(3 * dx.len());
    context.run(tasks.count(), &|_, index| {
        let (_, range) = tasks.part(index);
        let target = dx.at(range.start);
        let source = dy.map_or(target.cast_const(), |dy| dy[range.clone()].as_ptr());
        let gate = u_or_y[range.clone()].as_ptr();
        let len = range.len();
        let kernel = Backward { len, u_or_y: gate, dy: source, dx: target, streamed };
        T::dispatch(context.level(), kernel);
    });
}

/// `u` and `y` are `len` elements each, and may be the same ones.
struct Forward<T> {
    len: usize,
    u: *const T,
    y: *mut T,
    streamed: bool,
}

impl<T: Element> Kernel<T> for Forward<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Forward { len, u, y, streamed } = self;
        write(
            simd,
            len,
            y,
            streamed,
            #[inline(always)]
            |at, count| {
                // SAFETY: within the `len` elements.
                simd.relu(unsafe { runs::load(simd, count, u.add(at)) })
            },
        );
    }
}

/// All are `len` elements, and `dy` and `dx` may be the same ones.
struct Backward<T> {
    len: usize,
    u_or_y: *const T,
    dy: *const T,
    dx: *mut T,
    streamed: bool,
}

impl<T: Element> Kernel<T> for Backward<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Backward { len, u_or_y, dy, dx, streamed } = self;
        write(
            simd,
            len,
            dx,
            streamed,
            #[inline(always)]
            |at, count| {
                // SAFETY: within the `len` elements.
                unsafe {
                    let gate = runs::load(simd, count, u_or_y.add(at));
                    simd.relu_gradient(gate, runs::load(simd, count, dy.add(at)))
                }
            },
        );
    }
}

/// Writes `len` elements, which `value` may give twice: in place, what is masked twice is masked once.
#[inline(always)]
fn write<T: Element, S: Lanes<T>>(
    simd: S,
    len: usize,
    target: *mut T,
    streamed: bool,
    value: impl Fn(usize, usize) -> S::Vector,
) {
    if streamed {
        // SAFETY: the elements of a task.
        unsafe { runs::stream(simd, len, target, value) };
        return runs::end_stream();
    }
    for_each_vector(
        simd,
        len,
        #[inline(always)]
        |at, count| {
            // SAFETY: within the elements of a task.
            unsafe { runs::store(simd, count, target.add(at), value(at, count)) };
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_same_bits, contexts, guarded, values};

    /// Around a vector, around a task, and what a cut leaves over.
    const LENGTHS: [usize; 12] = [0, 1, 3, 7, 8, 9, 16, 31, 100, 32_768, 32_769, 100_003];

    fn relu<T: Element>(u: T) -> T {
        if u <= T::default() { T::default() } else { u }
    }

    fn gated<T: Element>(u: T, dy: T) -> T {
        if u <= T::default() { T::default() } else { dy }
    }

    fn with_specials<T: Element>(seed: u64, len: usize) -> Vec<T> {
        let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-310, -1e-40];
        let mut all: Vec<T> = values(seed, len);
        for (index, value) in all.iter_mut().enumerate().filter(|(index, _)| index % 5 == 2) {
            *value = T::from_f64(specials[index % specials.len()]);
        }
        all
    }

    fn check<T: Element>() {
        for context in contexts() {
            for len in LENGTHS {
                let (u, dy): (Vec<T>, Vec<T>) = (with_specials(1, len), with_specials(2, len));
                let forward: Vec<T> = u.iter().map(|&u| relu(u)).collect();
                let backward: Vec<T> = u.iter().zip(&dy).map(|(&u, &dy)| gated(u, dy)).collect();

                guarded(len, |y| relu_forward(&context, &u, y).unwrap(), &forward);
                guarded(len, |dx| relu_backward(&context, &u, &dy, dx).unwrap(), &backward);
                guarded(len, |dx| relu_backward(&context, &forward, &dy, dx).unwrap(), &backward);

                let mut in_place = u.clone();
                relu_forward_in_place(&context, &mut in_place).unwrap();
                assert_same_bits(&in_place, &forward);
                let mut in_place = dy.clone();
                relu_backward_in_place(&context, &u, &mut in_place).unwrap();
                assert_same_bits(&in_place, &backward);
            }
        }
    }

    #[test]
    fn every_length_and_special_value() {
        check::<f32>();
        check::<f64>();
    }

    #[test]
    fn lengths_must_agree() {
        let context = Context::global().unwrap();
        let error = relu_forward(context, &[1.0f32; 3], &mut [0.0; 2]).unwrap_err();
        assert_eq!(error.to_string(), "y must have 3 elements, as its shape says, but has 2");
        let error = relu_backward(context, &[1.0f32; 3], &[0.0; 4], &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "dy must have 3 elements, as its shape says, but has 4");
        let error = relu_backward_in_place(context, &[1.0f32; 3], &mut [0.0; 4]).unwrap_err();
        assert_eq!(error.to_string(), "dy must have 3 elements, as its shape says, but has 4");
    }
}
