//! A slice that the tasks of one region write together.

use std::marker::PhantomData;

/// A mutable slice borrowed by all tasks of a region at once.
///
/// Handing out pointers is safe; each write through one is `unsafe`, and its reason is always the
/// same: tasks of one region write disjoint elements, and nothing else uses the slice meanwhile,
/// since it is borrowed mutably for `'a`. What a task wrote is seen by whoever runs after the
/// region: its end orders the memory of all threads.
#[derive(Debug)]
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

impl<T> Clone for SharedMut<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedMut<'_, T> {}

// SAFETY: like a `&mut [T]`, but whoever writes through its pointers answers for races.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len(), _slice: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// A pointer to the element at `index`, which may be one past the last.
    #[inline(always)]
    pub fn at(&self, index: usize) -> *mut T {
        assert!(index <= self.len, "element {index} of {}", self.len);
        // SAFETY: within the slice, or one past its end.
        unsafe { self.start.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, ContextOptions};

    #[test]
    fn tasks_write_their_parts() {
        for num_threads in [1, 3] {
            let options = ContextOptions { num_threads, ..ContextOptions::default() };
            let context = Context::new(&options).unwrap();
            let mut slice = vec![0usize; 103];
            let shared = SharedMut::new(&mut slice);
            context.run(11, &|_, index| {
                for element in index * 10..(index * 10 + 10).min(103) {
                    // SAFETY: tasks have disjoint ranges.
                    unsafe { *shared.at(element) = element };
                }
            });
            assert!(slice.iter().enumerate().all(|(index, &element)| index == element));
        }
    }

    #[test]
    #[should_panic(expected = "element 4 of 3")]
    fn a_pointer_past_the_end_is_refused() {
        SharedMut::new(&mut [1, 2, 3]).at(4);
    }
}
