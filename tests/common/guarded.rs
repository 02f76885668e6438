//! Slices between pages that may not be touched.

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

/// Which end of the slice touches a forbidden page. The other end may lie within a page: the bytes
/// up to the forbidden page there are filled with a pattern that is checked at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The slice begins right after a forbidden page.
    Start,
    /// The slice ends right before a forbidden page; so it may begin at any multiple of the
    /// element's size.
    End,
}

impl Placement {
    pub const BOTH: [Placement; 2] = [Placement::Start, Placement::End];
}

/// Element types for which every pattern of bits is a value.
pub trait Cell: Copy {}
impl Cell for f32 {}
impl Cell for f64 {}
impl Cell for i32 {}
impl Cell for u8 {}

const PATTERN: u8 = 0xa5;

/// A slice in a mapping of its own with a forbidden page at either end.
pub struct Guarded<T: Cell> {
    mapping: NonNull<u8>,
    mapping_len: usize,
    page: usize,
    slice: NonNull<T>,
    len: usize,
}

impl<T: Cell> Guarded<T> {
    pub fn filled(len: usize, placement: Placement, value: T) -> Self {
        let mut guarded = Self::zeroed(len, placement);
        guarded.fill(value);
        guarded
    }

    pub fn copy_of(values: &[T], placement: Placement) -> Self {
        let mut guarded = Self::zeroed(values.len(), placement);
        guarded.copy_from_slice(values);
        guarded
    }

    fn zeroed(len: usize, placement: Placement) -> Self {
        let page = page_size();
        let bytes = len * size_of::<T>();
        let inner_len = bytes.next_multiple_of(page).max(page);
        let mapping_len = inner_len + 2 * page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, placed by the system.
        let mapping =
            unsafe { libc::mmap(ptr::null_mut(), mapping_len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(mapping, libc::MAP_FAILED, "mmap of {mapping_len} bytes");
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("mmap does not return NULL");
        // SAFETY: all offsets below lie within the mapping.
        let inner = unsafe { mapping.add(page) };
        protect(inner, inner_len, libc::PROT_READ | libc::PROT_WRITE);
        let offset = match placement {
            Placement::Start => 0,
            Placement::End => inner_len - bytes,
        };
        // SAFETY: offset + bytes <= inner_len, and the inner pages are ours and writable.
        let slice = unsafe { inner.add(offset) };
        // SAFETY: as above; the slice itself is zeros, as all new pages are.
        unsafe { inner.write_bytes(PATTERN, offset) };
        // SAFETY: as above.
        unsafe { slice.add(bytes).write_bytes(PATTERN, inner_len - offset - bytes) };
        Guarded { mapping, mapping_len, page, slice: slice.cast(), len }
    }

    /// From here on a write to the slice is a fault.
    pub fn read_only(self) -> ReadOnly<T> {
        // SAFETY: within the mapping.
        let inner = unsafe { self.mapping.add(self.page) };
        protect(inner, self.mapping_len - 2 * self.page, libc::PROT_READ);
        ReadOnly(self)
    }

    /// Whether the bytes between the slice and the forbidden pages still hold the pattern.
    pub fn is_intact(&self) -> bool {
        // SAFETY: the inner pages, readable and not written to while `self` is borrowed.
        let inner = unsafe {
            slice::from_raw_parts(
                self.mapping.add(self.page).as_ptr(),
                self.mapping_len - 2 * self.page,
            )
        };
        let start = self.slice.addr().get() - self.mapping.addr().get() - self.page;
        let end = start + self.len * size_of::<T>();
        inner[..start].iter().chain(&inner[end..]).all(|&byte| byte == PATTERN)
    }
}

pub fn page_size() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

fn protect(start: NonNull<u8>, len: usize, protection: libc::c_int) {
    // SAFETY: callers pass whole pages of their own mapping.
    let status = unsafe { libc::mprotect(start.as_ptr().cast(), len, protection) };
    assert_eq!(status, 0, "mprotect");
}

impl<T: Cell> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements, aligned as a page offset by a multiple of the size is, initialised.
        unsafe { slice::from_raw_parts(self.slice.as_ptr(), self.len) }
    }
}

impl<T: Cell> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and writable until `read_only` takes `self`.
        unsafe { slice::from_raw_parts_mut(self.slice.as_ptr(), self.len) }
    }
}

impl<T: Cell> Drop for Guarded<T> {
    fn drop(&mut self) {
        let intact = self.is_intact();
        // SAFETY: our own mapping, not used any more.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_len) };
        assert!(intact || std::thread::panicking(), "a write outside a slice, within its page");
    }
}

/// A [`Guarded`] slice for reading.
pub struct ReadOnly<T: Cell>(Guarded<T>);

impl<T: Cell> Deref for ReadOnly<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}
