//! Runs the tasks of one operation on a context's threads: the only file that names rayon.
//!
//! An operation cuts its work into tasks by its shape alone and says "run task i of n". Each thread
//! begins with a share of its own, the same in each region of as many tasks: what it wrote in one,
//! it finds in its cache in the next. Then it takes tasks from the shares of others, so a slow or
//! preempted thread runs fewer, and no result depends on it.
//!
//! The threads are those of a rayon pool of the context's own, never of rayon's global pool. Each
//! runs [`Team::serve`] for the pool's whole life: it joins regions that callers open, and sleeps
//! between them. Entering a rayon pool from outside allocates, and costs 20 to 70 microseconds; a
//! region here allocates nothing.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::float_mode::DefaultMode;

/// The name that the pool's threads begin with.
const THREAD_NAME: &str = "cnnkern";

/// The most threads that a context may have.
pub(crate) const MAX_THREADS: usize = 1024;

/// The type of a task handed to the caller's own pool.
pub type TaskFunction = unsafe extern "C" fn(task_data: *mut c_void, index: usize);

/// The caller's own pool: it runs `task(task_data, i)` once for each `i < count`, on any threads,
/// and returns when all are done.
#[derive(Debug, Clone, Copy)]
pub struct ParallelFor {
    /// Called once per region, with `user_data` as its first argument.
    pub function: unsafe extern "C" fn(
        user_data: *mut c_void,
        count: usize,
        task: TaskFunction,
        task_data: *mut c_void,
    ),
    /// Passed through.
    pub user_data: *mut c_void,
}

// SAFETY: whoever makes one promises that its function may be called from any thread.
unsafe impl Send for ParallelFor {}
// SAFETY: as above.
unsafe impl Sync for ParallelFor {}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is the library's own affair, which nobody should print.
pub(crate) fn is_quiet() -> bool {
    QUIET.try_with(Cell::get).unwrap_or(false)
}

/// Runs `call`, its panics caught, and quiet where `quiet` says so.
pub(crate) fn catch_panic<R>(quiet: bool, call: impl FnOnce() -> R) -> std::thread::Result<R> {
    let before = is_quiet();
    let set = |quiet| {
        let _ = QUIET.try_with(|cell| cell.set(quiet));
    };
    set(quiet);
    let result = catch_unwind(AssertUnwindSafe(call));
    set(before);
    result
}

/// The most shares that tasks are divided into; of more threads, some begin with the same.
const SHARES: usize = 64;

/// The tasks of one region, as the threads that run it see them.
struct Region<'a> {
    /// `task(slot, index)`: slot is a number below the thread count that no other thread has.
    task: &'a (dyn Fn(usize, usize) + Sync),
    count: usize,
    shares: usize,
    /// Of each share, the number of tasks that were taken.
    taken: [AtomicUsize; SHARES],
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// As on the thread that opened it.
    quiet: bool,
}

impl<'a> Region<'a> {
    fn new(threads: usize, count: usize, task: &'a (dyn Fn(usize, usize) + Sync)) -> Self {
        Region {
            task,
            count,
            shares: threads.min(SHARES),
            taken: [const { AtomicUsize::new(0) }; SHARES],
            panic: Mutex::new(None),
            quiet: is_quiet(),
        }
    }

    /// The first task of a share.
    fn first(&self, share: usize) -> usize {
        let (each, rest) = (self.count / self.shares, self.count % self.shares);
        share * each + share.min(rest)
    }

    /// Runs tasks until none is left. A panic is kept for the caller and ends the region early.
    fn work(&self, slot: usize) {
        let _mode = DefaultMode::enter();
        let result = catch_panic(self.quiet, || {
            for number in slot..slot + self.shares {
                let share = number % self.shares;
                let (first, end) = (self.first(share), self.first(share + 1));
                loop {
                    let index = first + self.taken[share].fetch_add(1, Ordering::Relaxed);
                    if index >= end {
                        break;
                    }
                    (self.task)(slot, index);
                }
            }
        });
        if let Err(payload) = result {
            for taken in &self.taken[..self.shares] {
                taken.store(self.count, Ordering::Relaxed);
            }
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
    }

    /// Raises again what a task panicked with.
    fn finish(self) {
        if let Some(payload) = self.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }
}

/// Runs the region on the calling thread alone.
pub(crate) fn run_inline(count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
    let _mode = DefaultMode::enter();
    for index in 0..count {
        task(0, index);
    }
}

/// Runs the region on the caller's own pool, `threads` of its tasks at a time at the most.
pub(crate) fn run_on(
    pool: &ParallelFor,
    threads: usize,
    count: usize,
    task: &(dyn Fn(usize, usize) + Sync),
) {
    /// What the caller's pool carries to each of its tasks.
    struct Shared<'a> {
        region: Region<'a>,
        slots: usize,
        /// A bit per slot: whether it was run.
        started: [AtomicU64; MAX_THREADS / 64],
    }

    unsafe extern "C" fn enter(task_data: *mut c_void, slot: usize) {
        // SAFETY: `task_data` is the `shared` below, which outlives the caller's loop.
        let shared = unsafe { &*task_data.cast::<Shared<'_>>() };
        // An index out of range, or one that was run before, is the pool's mistake: no work in it.
        let bit = 1 << (slot % 64);
        if slot < shared.slots
            && shared.started[slot / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            shared.region.work(slot);
        }
    }

    let slots = threads.min(count);
    let shared = Shared {
        region: Region::new(slots, count, task),
        slots,
        started: [const { AtomicU64::new(0) }; MAX_THREADS / 64],
    };
    // SAFETY: the function is the caller's, who promises what `ParallelFor` says.
    unsafe {
        (pool.function)(pool.user_data, slots, enter, std::ptr::from_ref(&shared) as *mut c_void);
    }
    // Nothing is left where the pool kept its promise.
    shared.region.work(0);
    shared.region.finish();
}

/// How long a thread looks for the next region before it sleeps. Longer than the gaps between the
/// calls of a training step, even in an interpreter, and shorter than what an idle process would
/// notice. Waking costs far more than the ten microseconds that it takes: some systems wake a thread
/// on the caller's own core, and move it to an idle one only at a tick of their clock, milliseconds
/// later. A thread does not yield meanwhile: beside a busy neighbour that gives away a whole time
/// slice, and the caller ends up working alone.
const HOT: Duration = Duration::from_micros(400);

/// In `Team::state`: the number of threads inside the region, then a flag, then a count of regions.
const INSIDE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const ONE_REGION: u64 = 1 << 17;

/// The threads of a context, and the region that they work on.
struct Team {
    state: AtomicU64,
    /// Valid while the region is open or a thread is inside: it points to the caller's stack.
    region: UnsafeCell<*const Region<'static>>,
    asleep: Vec<AtomicBool>,
    /// How long a thread spins: [`HOT`], or not at all when it would take a core from another.
    hot: Duration,
    quit: AtomicBool,
}

// SAFETY: `region` is written only by the thread that holds `Pool::busy`, while the region is
// closed and no thread is inside; `state` orders that before every read.
unsafe impl Send for Team {}
// SAFETY: as above.
unsafe impl Sync for Team {}

impl Team {
    /// The life of the pool's thread number `member`, whose slot is `member + 1`.
    fn serve(&self, member: usize) {
        let mut seen = 0;
        loop {
            let mut state = self.wait_for_region(member, seen);
            if self.quit.load(Ordering::Acquire) {
                return;
            }
            seen = state / ONE_REGION;
            // Joining fails when the region was closed meanwhile: then there is nothing to do.
            while state & OPEN != 0 && state / ONE_REGION == seen {
                match self.state.compare_exchange(
                    state,
                    state + 1,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => {
                        // SAFETY: the caller that opened the region waits for us to leave it.
                        let region = unsafe { &**self.region.get() };
                        region.work(member + 1);
                        self.state.fetch_sub(1, Ordering::Release);
                        break;
                    }
                    Err(now) => state = now,
                }
            }
        }
    }

    /// Looks for a region after number `seen`, then sleeps until one is opened or it is over.
    fn wait_for_region(&self, member: usize, seen: u64) -> u64 {
        let ready = || {
            let state = self.state.load(Ordering::SeqCst);
            let new = state & OPEN != 0 && state / ONE_REGION != seen;
            (new || self.quit.load(Ordering::SeqCst)).then_some(state)
        };
        loop {
            // After a sleep too: a region that was over too soon is seldom the last.
            let start = Instant::now();
            while start.elapsed() < self.hot {
                for _ in 0..64 {
                    if let Some(state) = ready() {
                        return state;
                    }
                    std::hint::spin_loop();
                }
            }
            self.asleep[member].store(true, Ordering::SeqCst);
            if let Some(state) = ready() {
                self.asleep[member].store(false, Ordering::SeqCst);
                return state;
            }
            std::thread::park();
        }
    }
}

/// A context's own threads: `threads - 1` of them, since the caller works too.
pub(crate) struct Pool {
    team: Arc<Team>,
    /// Held by the caller whose region it is.
    busy: AtomicBool,
    threads: Vec<JoinHandle<()>>,
    rayon: Option<rayon::ThreadPool>,
}

impl Pool {
    /// A pool for regions of `threads` threads, the caller's included.
    pub fn new(threads: usize) -> Result<Pool> {
        let members = threads - 1;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let team = Arc::new(Team {
            state: AtomicU64::new(0),
            region: UnsafeCell::new(std::ptr::null()),
            asleep: (0..members).map(|_| AtomicBool::new(false)).collect(),
            hot: if threads > cores { Duration::ZERO } else { HOT },
            quit: AtomicBool::new(false),
        });
        let mut handles = Vec::with_capacity(members);
        let built = rayon::ThreadPoolBuilder::new()
            .num_threads(members)
            .spawn_handler(|thread| {
                let name = format!("{THREAD_NAME}-{}", thread.index());
                handles.push(std::thread::Builder::new().name(name).spawn(|| thread.run())?);
                Ok(())
            })
            .build();
        let rayon = match built {
            Ok(rayon) => rayon,
            Err(error) => {
                // rayon has told those that did start to end.
                join(handles);
                return Err(Error::OutOfMemory {
                    message: format!("{members} threads could not be started: {error}"),
                });
            }
        };
        // Waited for, so that no thread is still starting, and allocating, when calls come.
        let started = Arc::new(Barrier::new(threads));
        let (serving, arrived) = (Arc::clone(&team), Arc::clone(&started));
        rayon.spawn_broadcast(move |thread| {
            arrived.wait();
            serving.serve(thread.index());
        });
        started.wait();
        Ok(Pool { team, busy: AtomicBool::new(false), threads: handles, rayon: Some(rayon) })
    }

    /// Runs tasks `0..count`. On the calling thread alone when another caller's region is running.
    pub fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if count <= 1 || self.busy.swap(true, Ordering::Acquire) {
            return run_inline(count, task);
        }
        let region = Region::new(self.threads.len() + 1, count, task);
        // SAFETY: only the lifetime changes, and the region is left by all before it ends, below.
        let shared = unsafe {
            std::mem::transmute::<*const Region<'_>, *const Region<'static>>(&raw const region)
        };
        // SAFETY: we hold `busy`, the region before is closed, and nobody is inside.
        unsafe { *self.team.region.get() = shared };
        let number = self.team.state.load(Ordering::Relaxed) / ONE_REGION + 1;
        self.team.state.store(number * ONE_REGION + OPEN, Ordering::SeqCst);
        for (thread, asleep) in self.threads.iter().zip(&self.team.asleep).take(count - 1) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        region.work(0);
        self.team.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while self.team.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            // A thread inside may be waiting for the very core that we spin on.
            if spins.is_multiple_of(256) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        self.busy.store(false, Ordering::Release);
        region.finish();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.team.quit.store(true, Ordering::SeqCst);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        drop(self.rayon.take());
        join(std::mem::take(&mut self.threads));
    }
}

/// Waits until the threads have ended, so that the library may be unloaded right after.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // An error would be a panic of the thread, which has no say here.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests;
