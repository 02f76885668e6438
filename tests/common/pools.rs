//! Pools as a caller of the library may bring them.

use std::ffi::c_void;
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread::Scope;

use cnnkern::{ParallelFor, TaskFunction};

unsafe extern "C" fn serial(_: *mut c_void, count: usize, task: TaskFunction, data: *mut c_void) {
    for index in 0..count {
        // SAFETY: each index once, as promised.
        unsafe { task(data, index) };
    }
}

unsafe extern "C" fn reversed(_: *mut c_void, count: usize, task: TaskFunction, data: *mut c_void) {
    for index in (0..count).rev() {
        // SAFETY: each index once, as promised.
        unsafe { task(data, index) };
    }
}

unsafe extern "C" fn threaded(_: *mut c_void, count: usize, task: TaskFunction, data: *mut c_void) {
    let data = data as usize;
    std::thread::scope(|scope| {
        for index in 0..count {
            // SAFETY: each index once, as promised.
            scope.spawn(move || unsafe { task(data as *mut c_void, index) });
        }
    });
}

unsafe extern "C" fn twice(_: *mut c_void, count: usize, task: TaskFunction, data: *mut c_void) {
    for index in (0..count).chain(0..count) {
        // SAFETY: a broken promise, but one that the library says it bears.
        unsafe { task(data, index) };
    }
}

unsafe extern "C" fn never(_: *mut c_void, _: usize, _: TaskFunction, _: *mut c_void) {}

fn pool(
    function: unsafe extern "C" fn(*mut c_void, usize, TaskFunction, *mut c_void),
) -> ParallelFor {
    ParallelFor { function, user_data: std::ptr::null_mut() }
}

/// Every kind of pool that needs nothing kept, by name; the last two break the rules.
pub fn all() -> [(&'static str, ParallelFor); 5] {
    [
        ("serial", pool(serial)),
        ("reversed", pool(reversed)),
        ("threaded", pool(threaded)),
        ("twice", pool(twice)),
        ("never", pool(never)),
    ]
}

/// A serial pool that remembers the largest number of tasks that it was asked to run.
#[derive(Default)]
pub struct CountingPool {
    largest: Mutex<usize>,
}

impl CountingPool {
    /// Must not be used after `self` is gone.
    pub fn parallel_for(&self) -> ParallelFor {
        unsafe extern "C" fn count_and_run(
            user_data: *mut c_void,
            count: usize,
            task: TaskFunction,
            data: *mut c_void,
        ) {
            // SAFETY: the pool that `parallel_for` was called on.
            let pool = unsafe { &*user_data.cast::<CountingPool>() };
            let mut largest = pool.largest.lock().unwrap_or_else(PoisonError::into_inner);
            *largest = count.max(*largest);
            drop(largest);
            // SAFETY: passed on.
            unsafe { serial(user_data, count, task, data) };
        }
        ParallelFor { function: count_and_run, user_data: std::ptr::from_ref(self) as *mut c_void }
    }

    pub fn take_largest(&self) -> usize {
        std::mem::take(&mut *self.largest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A pool of threads that are started once and allocate nothing when they run.
pub struct Crew {
    threads: usize,
    /// One caller at a time.
    calling: Mutex<()>,
    job: Mutex<Option<Job>>,
    begin: Barrier,
    end: Barrier,
}

#[derive(Clone, Copy)]
struct Job {
    count: usize,
    task: TaskFunction,
    data: *mut c_void,
}

// SAFETY: the data belongs to a task that may run on any thread.
unsafe impl Send for Job {}

impl Crew {
    /// Runs `body` with a crew of `threads` threads.
    pub fn with<R>(threads: usize, body: impl FnOnce(ParallelFor) -> R) -> R {
        let crew = Crew {
            threads,
            calling: Mutex::new(()),
            job: Mutex::new(None),
            begin: Barrier::new(threads + 1),
            end: Barrier::new(threads + 1),
        };
        std::thread::scope(|scope| {
            for number in 0..threads {
                crew.start(scope, number);
            }
            /// Ends the threads, whether `body` returns or panics.
            struct Dismiss<'a>(&'a Crew);
            impl Drop for Dismiss<'_> {
                fn drop(&mut self) {
                    self.0.run(None);
                }
            }
            let _dismiss = Dismiss(&crew);
            body(ParallelFor {
                function: run_by_crew,
                user_data: std::ptr::from_ref(&crew) as *mut c_void,
            })
        })
    }

    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, number: usize) {
        scope.spawn(move || {
            loop {
                self.begin.wait();
                let job = *self.job.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(Job { count, task, data }) = job {
                    for index in (number..count).step_by(self.threads) {
                        // SAFETY: each index once, as promised.
                        unsafe { task(data, index) };
                    }
                }
                self.end.wait();
                if job.is_none() {
                    break;
                }
            }
        });
    }

    fn run(&self, job: Option<Job>) {
        let _calling = self.calling.lock().unwrap_or_else(PoisonError::into_inner);
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = job;
        self.begin.wait();
        self.end.wait();
    }
}

unsafe extern "C" fn run_by_crew(
    user_data: *mut c_void,
    count: usize,
    task: TaskFunction,
    data: *mut c_void,
) {
    // SAFETY: the crew of `Crew::with`, which outlives its body.
    let crew = unsafe { &*user_data.cast::<Crew>() };
    crew.run(Some(Job { count, task, data }));
}
