//! A call that must be refused: its status, its message, and memory that stays as it was.

use std::ffi::CStr;

use cnnkern::ffi::*;

pub const INVALID: cnnkern_status = CNNKERN_STATUS_INVALID_ARGUMENT;
pub const NULL: cnnkern_status = CNNKERN_STATUS_NULL_POINTER;
pub const OVERFLOW: cnnkern_status = CNNKERN_STATUS_SIZE_OVERFLOW;

pub const UNSUPPORTED: cnnkern_status = CNNKERN_STATUS_UNSUPPORTED;

/// SIZE_MAX, as messages spell it.
pub const SIZE_MAX: &str = "18446744073709551615";

/// A way to spoil arguments, the status that it gives, and words that the message must have.
pub type Case<C> = (fn(&mut C), cnnkern_status, &'static [&'static str]);

/// The arguments of a function. They point into a [`Memory`], and as they are made they are good.
pub trait Call {
    fn new(memory: &mut Memory) -> Self;
    fn call(&self) -> cnnkern_status;
}

/// Refuses `C` spoiled in each of these ways.
pub fn refuse<C: Call>(cases: &[Case<C>]) {
    let mut memory = Memory::new();
    assert_ok(C::new(&mut memory).call());
    for &(spoil, status, words) in cases {
        let mut memory = Memory::new();
        let mut arguments = C::new(&mut memory);
        spoil(&mut arguments);
        refuse_once(&memory, &arguments, status, words);
    }
}

/// Refuses `arguments`, which point into `memory`.
pub fn refuse_once<C: Call>(
    memory: &Memory,
    arguments: &C,
    status: cnnkern_status,
    words: &[&str],
) {
    let before = memory.0.clone();
    assert_refused(arguments.call(), status, words);
    assert!(memory.0 == before, "memory was written to, but {:?}", last_error());
}

/// Arguments with a struct of parameters.
pub trait Params<P>: Call {
    fn params(&mut self) -> *mut P;
}

/// Refuses `C` with its parameters spoiled in each of these ways.
pub fn refuse_params<P, C: Params<P>>(cases: &[Case<P>]) {
    for &(spoil, status, words) in cases {
        let mut memory = Memory::new();
        let mut arguments = C::new(&mut memory);
        // SAFETY: arguments as they are made point to parameters.
        spoil(unsafe { &mut *arguments.params() });
        refuse_once(&memory, &arguments, status, words);
    }
}

/// Accepts `C` changed in each of these ways.
pub fn accept<C: Call>(changes: &[fn(&mut C)]) {
    for (number, change) in changes.iter().enumerate() {
        let mut memory = Memory::new();
        let mut arguments = C::new(&mut memory);
        change(&mut arguments);
        let status = arguments.call();
        assert_eq!(status, CNNKERN_STATUS_OK, "change {number}: {}", last_error());
    }
}

pub fn assert_ok(status: cnnkern_status) {
    assert_eq!(status, CNNKERN_STATUS_OK, "{}: {}", status_name(status), last_error());
}

pub fn assert_refused(got: cnnkern_status, status: cnnkern_status, words: &[&str]) {
    let message = last_error();
    assert_eq!(status_name(got), status_name(status), "for {words:?}, with {message:?}");
    for word in words {
        assert!(has_word(&message, word), "no {word:?} in {message:?}");
    }
}

/// Whether `word` stands in `text`, and is not merely a part of a longer name or number.
fn has_word(text: &str, word: &str) -> bool {
    let in_a_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(in_a_name) && !text[at + word.len()..].starts_with(in_a_name)
    })
}

pub fn last_error() -> String {
    string(cnnkern_last_error())
}

pub fn status_name(status: cnnkern_status) -> String {
    string(cnnkern_status_name(status))
}

pub fn string(text: *const std::ffi::c_char) -> String {
    assert!(!text.is_null());
    // SAFETY: the library's strings end with a NUL, and live at least until the next call.
    unsafe { CStr::from_ptr(text) }.to_str().expect("messages are UTF-8").to_owned()
}

/// What arguments point into: slots of 8 KB, each byte with the same odd value.
pub struct Memory(Vec<u64>);

impl Memory {
    const SLOT: usize = 1024;

    fn new() -> Self {
        Memory(vec![u64::from_ne_bytes([0x5a; 8]); 11 * Self::SLOT])
    }

    pub fn slot<T>(&mut self, number: usize) -> *mut T {
        self.0[number * Self::SLOT..][..Self::SLOT].as_mut_ptr().cast()
    }

    /// A slot that begins with `value`.
    pub fn slot_with<T>(&mut self, number: usize, value: T) -> *mut T {
        assert!(size_of::<T>() <= 8 * Self::SLOT && align_of::<T>() <= 8);
        let place: *mut T = self.slot(number);
        // SAFETY: it fits, as asserted.
        unsafe { place.write(value) };
        place
    }
}
