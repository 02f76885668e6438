//! The check of places that a caller gives.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Argmax;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::Tasks;

/// An error for the first of `places` that no window of `window_len` cells has.
pub(super) fn run<T: Element>(
    context: &Context,
    argmax: Argmax<'_>,
    window_len: usize,
) -> Result<()> {
    if matches!(argmax, Argmax::U8(_)) && window_len > usize::from(u8::MAX) {
        return Ok(());
    }
    let tasks = Tasks::new(1, argmax.len(), 1, 64);
    let first_bad = AtomicUsize::new(usize::MAX);
    context.run(tasks.count(), &|_, index| {
        let (_, range) = tasks.part(index);
        if T::dispatch(context.level(), Largest { argmax, range: range.clone() }) >= window_len {
            let bad = range.into_iter().find(|&index| argmax.at(index) >= window_len);
            first_bad.fetch_min(bad.unwrap_or(usize::MAX), Ordering::Relaxed);
        }
    });
    let index = first_bad.into_inner();
    if index == usize::MAX {
        return Ok(());
    }
    let place = match argmax {
        Argmax::I32(places) => i64::from(places[index]),
        Argmax::U8(places) => i64::from(places[index]),
    };
    Err(Error::invalid(format!(
        "argmax must lie in the window of {window_len} cells, but is {place} at index {index}"
    )))
}

/// The largest place in a range, a negative one counting as larger than any other: a plain loop
/// that the compiler vectorises.
struct Largest<'a> {
    argmax: Argmax<'a>,
    range: Range<usize>,
}

impl<T: Element> Kernel<T> for Largest<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, _: S) -> usize {
        match self.argmax {
            Argmax::I32(places) => {
                places[self.range].iter().fold(0, |most, &place| most.max(place as u32)) as usize
            }
            Argmax::U8(places) => {
                usize::from(places[self.range].iter().fold(0, |most, &place| most.max(place)))
            }
        }
    }
}
