//! Pointers from C, checked before they become slices.

use std::ops::Range;
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// An array of the caller's: checked, but not a slice yet, since one that is written must first be
/// known to overlap no other.
pub(super) struct Array<T> {
    argument: &'static str,
    start: NonNull<T>,
    len: usize,
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Array<T> {}

impl<T> Array<T> {
    /// `len` elements at `pointer`. Where `len` is 0 any pointer will do.
    pub fn new(argument: &'static str, pointer: *const T, len: usize) -> Result<Array<T>> {
        if len == 0 {
            return Ok(Array { argument, start: NonNull::dangling(), len });
        }
        let start = NonNull::new(pointer.cast_mut()).ok_or(Error::NullPointer { argument })?;
        if !pointer.is_aligned() {
            return Err(Error::invalid(format!(
                "{argument} must be aligned to {} bytes, but is {pointer:p}",
                align_of::<T>()
            )));
        }
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        if bytes.and_then(|bytes| pointer.addr().checked_add(bytes)).is_none() {
            return Err(Error::overflow(format!(
                "{argument} with {len} elements of {} bytes at {pointer:p} is too large for the \
                 address space",
                size_of::<T>()
            )));
        }
        Ok(Array { argument, start, len })
    }

    /// None where the pointer is NULL or there is no element.
    pub fn optional(
        argument: &'static str,
        pointer: *const T,
        len: usize,
    ) -> Result<Option<Array<T>>> {
        if pointer.is_null() || len == 0 {
            return Ok(None);
        }
        Array::new(argument, pointer, len).map(Some)
    }

    /// Where it lies, as `no_overlap` takes it.
    pub fn extent(self) -> Option<Extent> {
        let start = self.start.as_ptr().addr();
        let end = start + self.len * size_of::<T>();
        Some(Extent { argument: self.argument, bytes: start..end })
    }

    pub fn is_same_as(&self, other: &Array<T>) -> bool {
        self.start == other.start && self.len == other.len
    }

    /// # Safety
    /// The caller's pointer is good for reads of `len` elements while the slice lives, and nobody
    /// writes to them.
    pub unsafe fn slice<'a>(self) -> &'a [T] {
        // SAFETY: not null, aligned, and within the address space; the rest is the caller's.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// # Safety
    /// The caller's pointer is good for writes of `len` elements while the slice lives, and no other
    /// slice overlaps it.
    pub unsafe fn slice_mut<'a>(self) -> &'a mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Writes the first element.
    ///
    /// # Safety
    /// The array has one, and the caller's pointer is good for writing it.
    pub unsafe fn write(self, value: T) {
        // SAFETY: not null and aligned; the rest is the caller's.
        unsafe { self.start.write(value) };
    }
}

/// The struct at `pointer`, copied.
///
/// # Safety
/// The caller's pointer, where it is not NULL, is good for reading a T, and any bytes are a valid T.
pub(super) unsafe fn read<T: Copy>(argument: &'static str, pointer: *const T) -> Result<T> {
    let array = Array::new(argument, pointer, 1)?;
    // SAFETY: not null and aligned; the rest is the caller's.
    Ok(unsafe { *array.start.as_ptr() })
}

/// Writes to an output of one element.
///
/// # Safety
/// The caller's pointer, where it is not NULL, is good for writing a T.
pub(super) unsafe fn write<T>(argument: &'static str, pointer: *mut T, value: T) -> Result<()> {
    let array = Array::new(argument, pointer, 1)?;
    // SAFETY: one element, the caller's.
    unsafe { array.write(value) };
    Ok(())
}

/// Writes the extents of an output.
///
/// # Safety
/// As for [`write`].
pub(super) unsafe fn write_output_size(
    (height, width): (usize, usize),
    out_height: *mut usize,
    out_width: *mut usize,
) -> Result<()> {
    let height_place = Array::new("out_height", out_height, 1)?;
    let width_place = Array::new("out_width", out_width, 1)?;
    no_overlap(&[height_place.extent(), width_place.extent()], &[])?;
    // SAFETY: one element each, the caller's.
    unsafe {
        height_place.write(height);
        width_place.write(width);
    }
    Ok(())
}

/// The bytes of an argument.
pub(super) struct Extent {
    argument: &'static str,
    bytes: Range<usize>,
}

impl Extent {
    fn apart_from(&self, other: &Extent) -> Result<()> {
        if self.bytes.start.max(other.bytes.start) < self.bytes.end.min(other.bytes.end) {
            return Err(Error::invalid(format!(
                "{0} must not overlap {1}, but {0} is at {2:#x} to {3:#x} and {1} at {4:#x} to \
                 {5:#x}",
                self.argument,
                other.argument,
                self.bytes.start,
                self.bytes.end,
                other.bytes.start,
                other.bytes.end
            )));
        }
        Ok(())
    }
}

/// Fails when an output overlaps an input or another output. None overlaps nothing.
pub(super) fn no_overlap(outputs: &[Option<Extent>], inputs: &[Option<Extent>]) -> Result<()> {
    for (number, output) in outputs.iter().enumerate() {
        for other in outputs[number + 1..].iter().chain(inputs) {
            if let (Some(output), Some(other)) = (output, other) {
                output.apart_from(other)?;
            }
        }
    }
    Ok(())
}
