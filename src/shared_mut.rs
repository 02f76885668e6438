//! An output that several tasks write at once.

use std::marker::PhantomData;

/// A slice that tasks write through a pointer, each its own elements.
///
/// Sharing it is safe; whoever writes through the pointer answers for it that no two tasks touch
/// the same element, and that none lies outside `len`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    _of: PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out a pointer; whoever writes through it answers for races.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Takes the slice for as long as the tasks run.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len(), _of: PhantomData }
    }

    /// The first element.
    pub fn pointer(&self) -> *mut T {
        self.start
    }

    /// Elements of the slice.
    pub fn len(&self) -> usize {
        self.len
    }
}
