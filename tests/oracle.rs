//! Every operation against its definition.
mod common;

use common::guarded::{Guarded, Placement, page_size};

/// The other tests rely on it: a touch of the bytes next to a slice ends the process, or is noticed
/// when the slice is dropped.
#[test]
fn guards_notice_stray_accesses() {
    for placement in Placement::BOTH {
        let full = page_size() / size_of::<f32>();
        for len in [0, 1, full - 1, full, full + 1] {
            let mut guarded = Guarded::filled(len, placement, 1.0f32);
            let start = guarded.as_mut_ptr();
            let outside = [start.wrapping_sub(1), start.wrapping_add(len)];
            let forbidden: Vec<bool> = outside.iter().map(|&place| faults(place)).collect();
            let expected = match placement {
                Placement::Start => [true, len == full],
                Placement::End => [len == full, true],
            };
            assert_eq!(forbidden, expected, "{placement:?}, {len} elements");
            for (place, _) in outside.into_iter().zip(expected).filter(|(_, faults)| !faults) {
                assert!(guarded.is_intact());
                // SAFETY: on the slice's own page, beside it.
                let kept = unsafe { place.replace(2.0) };
                assert!(!guarded.is_intact(), "{placement:?}, {len} elements");
                // SAFETY: as above.
                unsafe { place.write(kept) };
            }
        }
    }
}

#[test]
fn read_only_slices_cannot_be_written() {
    let guarded = Guarded::copy_of(&[1.0f64; 10], Placement::End).read_only();
    assert_eq!(guarded[..], [1.0; 10]);
    assert!(faults(guarded.as_ptr().cast_mut()));
}

/// Whether writing there ends a process, tried in a child.
fn faults<T: Default>(place: *mut T) -> bool {
    // SAFETY: the child only writes once and exits.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // SAFETY: may fault, which is the question; then the child ends without a word.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            place.write(T::default());
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: our own child.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
}
