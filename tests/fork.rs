//! A process that forks after using the library can use it in the child.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cnnkern::{Context, Isa};

use common::contexts;
use common::operations::{self, Operation};

/// Long enough for a slow machine, short enough to be told apart from a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `child` in a forked process; panics unless it returns true within `PATIENCE`.
fn in_child(what: &str, child: impl FnOnce() -> bool) {
    // SAFETY: the child calls nothing of the test harness, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(if matches!(result, Ok(true)) { 0 } else { 1 }) };
    }
    let start = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: our own child.
        if unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == pid {
            assert!(libc::WIFEXITED(status), "{what}: the child died of status {status}");
            assert_eq!(libc::WEXITSTATUS(status), 0, "{what}: the child's results differ");
            return;
        }
        if start.elapsed() > PATIENCE {
            // SAFETY: our own child, reaped right after.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, &mut status, 0);
            }
            panic!("{what}: the child hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A few operations that are cut into tasks, and their bits.
fn work() -> Vec<(Operation<f32>, Vec<u64>)> {
    let alone = contexts::context(Isa::best(), 1);
    let all = operations::all::<f32>().into_iter().step_by(7).take(8);
    all.map(|operation| (operation.bits(&alone), operation)).map(|(b, o)| (o, b)).collect()
}

fn agrees(context: &Context, work: &[(Operation<f32>, Vec<u64>)]) -> bool {
    work.iter().all(|(operation, bits)| operation.bits(context) == *bits)
}

/// One test, since a fork copies whatever another test's threads hold at that moment.
#[test]
fn a_child_uses_what_its_parent_used() {
    let work = work();
    let context = contexts::context(Isa::best(), 3);
    assert!(agrees(&context, &work));
    assert!(agrees(Context::global().unwrap(), &work));

    in_child("the parent's context", || agrees(&context, &work));
    in_child("the global context", || agrees(Context::global().unwrap(), &work));
    in_child("a context of its own", || agrees(&contexts::context(Isa::best(), 2), &work));
    in_child("destroying the parent's context", || {
        // SAFETY: the child never looks at its copy again.
        drop(unsafe { std::ptr::read(&context) });
        agrees(Context::global().unwrap(), &work)
    });
    in_child("a child of a child", || {
        agrees(&context, &work) && {
            in_child("the grandchild", || agrees(&context, &work));
            true
        }
    });

    // While another thread of the parent is inside a call, which may hold locks.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(agrees(&context, &work[..1]));
            }
        });
        for round in 0..10 {
            in_child(&format!("while the context is in use, {round}"), || agrees(&context, &work));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(agrees(&context, &work), "the parent goes on");
}
