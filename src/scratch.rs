//! Scratch memory: taken by a call, given back when it ends, and kept for the next one.

use std::alloc::{Layout, alloc, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::simd::{CACHE_LINE, Element};

/// Every part begins on a cache line.
const ALIGNMENT: usize = CACHE_LINE;

/// Buffers of at least so many bytes begin on a huge page, and are asked for in such pages: packed filters of
/// some MB are else more pages than the processor keeps the addresses of.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes behind every part that nothing may write to, where they are watched: one part's end is the next one's
/// beginning.
const GUARD: usize = if cfg!(debug_assertions) { CACHE_LINE } else { 0 };

/// What arbitrary memory holds where it is watched: a float of these bytes is a NaN.
const JUNK: u8 = 0xff;

/// Elements of scratch memory that a call needs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScratchLen {
    /// For all threads together.
    pub shared: usize,
    /// For each slot of `Context::run`.
    pub per_slot: usize,
}

impl ScratchLen {
    pub fn for_all(shared: usize) -> Self {
        ScratchLen { shared, per_slot: 0 }
    }

    pub fn for_each(per_slot: usize) -> Self {
        ScratchLen { shared: 0, per_slot }
    }

    /// Enough for either.
    pub fn max(self, other: Self) -> Self {
        ScratchLen {
            shared: self.shared.max(other.shared),
            per_slot: self.per_slot.max(other.per_slot),
        }
    }

    /// The same with every part a whole number of cache lines, guards included.
    fn aligned<T>(self) -> Option<Self> {
        let (line, guard) = (ALIGNMENT / size_of::<T>(), GUARD / size_of::<T>());
        let part = |len: usize| match len {
            0 => Some(0),
            len => len.checked_next_multiple_of(line)?.checked_add(guard),
        };
        Some(ScratchLen { shared: part(self.shared)?, per_slot: part(self.per_slot)? })
    }

    /// Bytes of the buffer that has it for `slots` slots.
    pub fn bytes<T>(self, slots: usize) -> Result<usize> {
        let bytes = || {
            let ScratchLen { shared, per_slot } = self.aligned::<T>()?;
            per_slot.checked_mul(slots)?.checked_add(shared)?.checked_mul(size_of::<T>())
        };
        bytes().ok_or_else(|| {
            Error::overflow(format!(
                "the scratch memory is too large for the address space: {} elements and {} for \
                 each of {slots} threads",
                self.shared, self.per_slot
            ))
        })
    }
}

/// A context's scratch memory: as many buffers as calls have run at once.
#[derive(Default)]
pub(crate) struct ScratchPool {
    free: Mutex<Vec<Buffer>>,
}

struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a buffer is plain memory that it owns.
unsafe impl Send for Buffer {}

impl Buffer {
    fn new(bytes: usize) -> Result<Buffer> {
        let error = || Error::OutOfMemory {
            message: format!("{bytes} bytes of scratch memory could not be allocated"),
        };
        let is_huge = cfg!(target_os = "linux") && bytes >= HUGE_PAGE;
        let alignment = if is_huge { HUGE_PAGE } else { ALIGNMENT };
        let layout = Layout::from_size_align(bytes, alignment).map_err(|_| error())?;
        assert!(bytes > 0, "an empty buffer needs no memory");
        // SAFETY: the size is not 0.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or_else(error)?;
        #[cfg(target_os = "linux")]
        if is_huge {
            // Without them it is as good, but slower: the answer is of no interest.
            // SAFETY: advice on memory that was just allocated.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Buffer { start, layout })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl ScratchPool {
    /// Memory for a call that uses `slots` slots. Its contents are arbitrary.
    pub fn take<T: Element>(&self, len: ScratchLen, slots: usize) -> Result<Scratch<'_, T>> {
        let bytes = len.bytes::<T>(slots)?.max(ALIGNMENT);
        let ScratchLen { shared, per_slot } = len.aligned::<T>().expect("its bytes were counted");
        let buffer = match self.take_kept(bytes) {
            Some(buffer) if buffer.layout.size() >= bytes => buffer,
            // Freed before its successor is allocated.
            small => {
                drop(small);
                Buffer::new(bytes)?
            }
        };
        if cfg!(debug_assertions) {
            // SAFETY: the buffer has at least `bytes` bytes.
            unsafe { buffer.start.as_ptr().write_bytes(JUNK, bytes) };
        }
        Ok(Scratch { pool: self, buffer: Some(buffer), shared, per_slot, slots, _of: PhantomData })
    }

    /// The smallest buffer that has `bytes`, so that a larger one stays for whom it was made; else
    /// the largest, which has the least to grow.
    fn take_kept(&self, bytes: usize) -> Option<Buffer> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = || free.iter().map(|buffer| buffer.layout.size()).enumerate();
        let (index, _) = sizes()
            .filter(|&(_, size)| size >= bytes)
            .min_by_key(|&(_, size)| size)
            .or_else(|| sizes().max_by_key(|&(_, size)| size))?;
        Some(free.swap_remove(index))
    }
}

/// The scratch memory of one call.
pub(crate) struct Scratch<'a, T> {
    pool: &'a ScratchPool,
    buffer: Option<Buffer>,
    shared: usize,
    per_slot: usize,
    slots: usize,
    _of: PhantomData<T>,
}

// SAFETY: it only hands out pointers; whoever writes through them answers for races.
unsafe impl<T: Send> Sync for Scratch<'_, T> {}

impl<T: Element> Scratch<'_, T> {
    /// The part that all threads share.
    pub fn shared(&self) -> *mut T {
        self.buffer.as_ref().expect("given back only on drop").start.as_ptr().cast()
    }

    /// The part that only the thread of that slot uses.
    pub fn slot(&self, slot: usize) -> *mut T {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        // SAFETY: within the buffer, which has `slots` parts of `per_slot` behind `shared`.
        unsafe { self.shared().add(self.shared + slot * self.per_slot) }
    }
}

impl<T> Scratch<'_, T> {
    /// Panics if something wrote past a part's end.
    fn check_guards(&self) {
        let start = self.buffer.as_ref().expect("given back only on drop").start.as_ptr();
        let slots =
            (1..=self.slots).map(|slot| (self.per_slot, self.shared + slot * self.per_slot));
        for (len, end) in slots.chain([(self.shared, self.shared)]) {
            if len == 0 {
                continue;
            }
            // SAFETY: the last bytes of a part of the buffer, that no thread uses any more.
            let guard = unsafe {
                std::slice::from_raw_parts(start.add(end * size_of::<T>() - GUARD), GUARD)
            };
            assert!(
                guard.iter().all(|&byte| byte == JUNK),
                "a write past the end of scratch memory"
            );
        }
    }
}

impl<T> Drop for Scratch<'_, T> {
    fn drop(&mut self) {
        if cfg!(debug_assertions) && !std::thread::panicking() {
            self.check_guards();
        }
        if let Some(buffer) = self.buffer.take() {
            self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}
