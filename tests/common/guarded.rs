//! Slices between pages that may not be touched.

use std::fs::File;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Mutex;

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

/// Memory that can be seen at two addresses: at one it may be written, at the other only read. A forbidden
/// page lies before and behind each.
struct Pages {
    writable: NonNull<u8>,
    readable: NonNull<u8>,
    /// Bytes, a multiple of a page.
    len: usize,
}

// SAFETY: memory that only whoever has the `Pages` knows of.
unsafe impl Send for Pages {}

/// Small pages that nobody uses, to be used again: to map new ones takes longer than most calls take over
/// what lies there. (To protect them anew does too, so they have two addresses.)
static UNUSED: Mutex<Vec<Pages>> = Mutex::new(Vec::new());
const SMALL: usize = 1 << 18;
const MOST_UNUSED: usize = 256;

impl Pages {
    /// For so many bytes; what they hold is of no meaning.
    fn new(bytes: usize) -> Pages {
        let page = page_size();
        let len = bytes.next_multiple_of(page).max(page);
        let mut unused = UNUSED.lock().expect("no panic while it is locked");
        match unused.iter().rposition(|pages| pages.len == len) {
            Some(index) => unused.swap_remove(index),
            None => Pages::mapped(len),
        }
    }

    fn mapped(len: usize) -> Pages {
        let page = page_size();
        let reserved = map(None, Pages::reserved(len), libc::PROT_NONE, None);
        // SAFETY: a name for debuggers, and no flags.
        let memory = unsafe { libc::memfd_create(c"guarded".as_ptr(), 0) };
        // SAFETY: an open file that nobody else has.
        let memory = unsafe { File::from_raw_fd(memory) };
        memory.set_len(len as u64).expect("so many bytes of memory");
        // SAFETY: within what is reserved, as is a page behind each.
        let addresses = unsafe { [reserved.add(page), reserved.add(2 * page + len)] };
        let protections = [libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ];
        for (address, protection) in addresses.into_iter().zip(protections) {
            map(Some(address), len, protection, Some(&memory));
        }
        let [writable, readable] = addresses;
        Pages { writable, readable, len }
    }

    /// Bytes of addresses for two views and the pages around them.
    fn reserved(len: usize) -> usize {
        2 * len + 3 * page_size()
    }

    fn give_back(self) {
        if self.len > SMALL {
            return self.unmap();
        }
        let mut unused = UNUSED.lock().expect("no panic while it is locked");
        unused.push(self);
        if unused.len() > MOST_UNUSED {
            unused.swap_remove(0).unmap();
        }
    }

    fn unmap(self) {
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe {
            let start = self.writable.sub(page_size());
            libc::munmap(start.as_ptr().cast(), Pages::reserved(self.len));
        }
    }
}

/// Maps memory, nobody's or a file's, anywhere or in place of addresses that are reserved.
fn map(
    address: Option<NonNull<u8>>,
    len: usize,
    protection: libc::c_int,
    memory: Option<&File>,
) -> NonNull<u8> {
    let (at, fixed) = match address {
        Some(address) => (address.as_ptr().cast(), libc::MAP_FIXED),
        None => (ptr::null_mut(), 0),
    };
    let (kind, fd) = match memory {
        Some(memory) => (libc::MAP_SHARED, memory.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: placed by the system, or where callers have reserved addresses and nothing lies.
    let mapping = unsafe { libc::mmap(at, len, protection, kind | fixed, fd, 0) };
    assert_ne!(mapping, libc::MAP_FAILED, "mmap of {len} bytes");
    NonNull::new(mapping.cast()).expect("mmap does not return NULL")
}

/// A slice in pages of its own, between forbidden ones.
pub struct Guarded<T: Cell> {
    /// None once they are given back.
    pages: Option<Pages>,
    /// Bytes from their start.
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Cell> Guarded<T> {
    pub fn filled(len: usize, placement: Placement, value: T) -> Self {
        let mut guarded = Self::of_any_values(len, placement);
        guarded.fill(value);
        guarded
    }

    pub fn copy_of(values: &[T], placement: Placement) -> Self {
        let mut guarded = Self::of_any_values(values.len(), placement);
        guarded.copy_from_slice(values);
        guarded
    }

    fn of_any_values(len: usize, placement: Placement) -> Self {
        let bytes = len * size_of::<T>();
        let pages = Pages::new(bytes);
        let offset = match placement {
            Placement::Start => 0,
            Placement::End => pages.len - bytes,
        };
        // SAFETY: offset + bytes <= pages.len, and the pages are ours. (The slice itself holds what the
        // system or the last to have the pages wrote there.)
        unsafe {
            pages.writable.write_bytes(PATTERN, offset);
            pages.writable.add(offset + bytes).write_bytes(PATTERN, pages.len - offset - bytes);
        }
        Guarded { pages: Some(pages), offset, len, element: PhantomData }
    }

    fn pages(&self) -> &Pages {
        self.pages.as_ref().expect("given back by drop alone")
    }

    /// From here on a write to the slice is a fault.
    pub fn read_only(self) -> ReadOnly<T> {
        ReadOnly(self)
    }

    /// Whether the bytes between the slice and the forbidden pages still hold the pattern.
    pub fn is_intact(&self) -> bool {
        let pages = self.pages();
        // SAFETY: all of the pages, not written to while `self` is borrowed.
        let all = unsafe { slice::from_raw_parts(pages.readable.as_ptr(), pages.len) };
        let end = self.offset + self.len * size_of::<T>();
        all[..self.offset].iter().chain(&all[end..]).all(|&byte| byte == PATTERN)
    }
}

pub fn page_size() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

impl<T: Cell> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements, aligned as a page offset by a multiple of the size is, initialised.
        unsafe {
            let start = self.pages().writable.add(self.offset).cast();
            slice::from_raw_parts(start.as_ptr(), self.len)
        }
    }
}

impl<T: Cell> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and writable.
        unsafe {
            let start = self.pages().writable.add(self.offset).cast();
            slice::from_raw_parts_mut(start.as_ptr(), self.len)
        }
    }
}

impl<T: Cell> Drop for Guarded<T> {
    fn drop(&mut self) {
        let intact = self.is_intact();
        self.pages.take().expect("dropped once").give_back();
        assert!(intact || std::thread::panicking(), "a write outside a slice, within its page");
    }
}

/// A [`Guarded`] slice for reading.
pub struct ReadOnly<T: Cell>(Guarded<T>);

impl<T: Cell> Deref for ReadOnly<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the same place in the other view of the pages.
        unsafe {
            let start = self.0.pages().readable.add(self.0.offset).cast();
            slice::from_raw_parts(start.as_ptr(), self.0.len)
        }
    }
}
