//! Says which case was running when a test failed, even when it died of a fault.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::Debug;
use std::mem;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::random::Random;

/// The cases that the threads of this process are running; null where free.
static RUNNING: [AtomicPtr<c_char>; 64] = [const { AtomicPtr::new(ptr::null_mut()) }; 64];

/// While it lives, its text is the running case of this thread: printed on a panic or a fault.
pub struct Case {
    text: CString,
    place: Option<&'static AtomicPtr<c_char>>,
}

impl Case {
    pub fn new(text: String) -> Case {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install_handler);
        let text = CString::new(text).expect("no NUL in a case's text");
        let pointer = text.as_ptr().cast_mut();
        let place = RUNNING.iter().find(|place| {
            place
                .compare_exchange(ptr::null_mut(), pointer, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        });
        Case { text, place }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.store(ptr::null_mut(), Ordering::SeqCst);
        }
        if std::thread::panicking() {
            eprintln!("failed case: {}", self.text.to_string_lossy());
        }
    }
}

/// Calls `run` once per case, named by its number and its own `Debug` text.
pub fn for_each<C: Debug>(cases: impl IntoIterator<Item = C>, mut run: impl FnMut(&C)) {
    for (number, case) in cases.into_iter().enumerate() {
        let _case = Case::new(format!("number {number}: {case:?}"));
        run(&case);
    }
}

/// Makes a case of each seed below `count`, or half that, and runs it; `run` gets the rest of the seed's numbers.
pub fn for_each_seed<C: Debug>(
    count: u64,
    make: impl Fn(&mut Random) -> C,
    mut run: impl FnMut(&C, &mut Random),
) {
    let chosen: Option<u64> = std::env::var("CNNKERN_TEST_SEED")
        .ok()
        .map(|text| text.parse().expect("CNNKERN_TEST_SEED must be a number"));
    // The other half of the cases is left to the optimized build.
    let count = if cfg!(debug_assertions) { count.div_ceil(2) } else { count };
    for seed in chosen.map_or(0..count, |seed| seed..seed + 1) {
        let mut random = Random::new(seed);
        let case = make(&mut random);
        let _case = Case::new(format!("CNNKERN_TEST_SEED={seed}: {case:?}"));
        run(&case, &mut random);
    }
}

fn install_handler() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: all zeros is a valid sigaction.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = report as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: `report` only does what a signal handler may.
        unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    }
}

/// Prints the running cases and returns to the faulting instruction, which then ends the process.
extern "C" fn report(_signal: c_int) {
    let print = |bytes: &[u8]| {
        // SAFETY: write(2) may be called here.
        unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    };
    print(b"\nmemory fault; the running cases were:\n");
    for place in &RUNNING {
        let text = place.load(Ordering::SeqCst);
        if !text.is_null() {
            // SAFETY: it is not freed before its place is null; the process is about to end anyway.
            print(unsafe { CStr::from_ptr(text) }.to_bytes());
            print(b"\n");
        }
    }
}
