//! A context: the instruction set, the threads and the scratch memory that calls use.

use std::env;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::error::{Error, Result};
use crate::parallel::{self, MAX_THREADS, ParallelFor, Pool};
use crate::scratch::{Scratch, ScratchLen, ScratchPool};
use crate::simd::{Element, Isa, Level};

/// How a [`Context`] is made; `Default` takes everything from the environment and the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContextOptions {
    /// Threads that a call may use, its caller included. 0 = `CNNKERN_NUM_THREADS`, or else the
    /// cores that this process may use. 1 = the calling thread only.
    pub num_threads: usize,
    /// None = `CNNKERN_ISA`, or else the widest that the processor has.
    pub isa: Option<Isa>,
    /// The caller's own pool, used in place of threads of the context's own.
    pub parallel_for: Option<ParallelFor>,
}

/// What calls share: threads, and scratch memory that is kept from call to call.
///
/// Several threads may use one context at once: the first has the context's threads, the others
/// meanwhile run on their own. Results never depend on it.
///
/// A child process that was forked after its parent used a context can use it: it gets threads and
/// scratch memory of its own at its first call.
pub struct Context {
    level: Level,
    num_threads: usize,
    parallel_for: Option<ParallelFor>,
    /// Never null. What belongs to another process id is left alone, since its threads and locks
    /// stayed in that process.
    process: AtomicPtr<Process>,
    panic_next: AtomicBool,
}

/// The part of a context that does not survive a fork.
struct Process {
    id: i32,
    pool: Option<Pool>,
    scratch: ScratchPool,
}

impl Process {
    fn new(pool: Option<Pool>) -> *mut Process {
        Box::into_raw(Box::new(Process { id: process_id(), pool, scratch: ScratchPool::default() }))
    }
}

fn process_id() -> i32 {
    // SAFETY: always successful, and without preconditions.
    unsafe { libc::getpid() }
}

impl Context {
    /// A context with its threads started.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than 1024 threads, for an instruction set that the
    /// processor lacks, or for a `CNNKERN_ISA` or `CNNKERN_NUM_THREADS` that cannot be used;
    /// [`Error::OutOfMemory`] when the threads cannot be started.
    pub fn new(options: &ContextOptions) -> Result<Context> {
        let isa = match options.isa {
            Some(isa) => isa,
            None => match environment("CNNKERN_ISA")? {
                Some(name) => Isa::from_name(&name)?,
                None => Isa::best(),
            },
        };
        let level = Level::checked(isa)?;
        let num_threads = match options.num_threads {
            0 => default_num_threads()?,
            asked if asked <= MAX_THREADS => asked,
            asked => {
                return Err(Error::invalid(format!(
                    "num_threads must be at most {MAX_THREADS}, but is {asked}"
                )));
            }
        };
        let parallel_for = options.parallel_for;
        let pool = own_pool(num_threads, parallel_for.as_ref())?;
        Ok(Context {
            level,
            num_threads,
            parallel_for,
            process: AtomicPtr::new(Process::new(pool)),
            panic_next: AtomicBool::new(false),
        })
    }

    /// The process-wide context with default options, made at its first use.
    ///
    /// # Errors
    /// Those of [`Context::new`], the same at every call.
    pub fn global() -> Result<&'static Context> {
        // Not a OnceLock: a child that is forked while a thread fills it would wait for ever.
        static GLOBAL: AtomicPtr<Result<Context>> = AtomicPtr::new(std::ptr::null_mut());
        let mut made = GLOBAL.load(Ordering::Acquire);
        if made.is_null() {
            let fresh = Box::into_raw(Box::new(Context::new(&ContextOptions::default())));
            // SAFETY: never freed.
            made = unsafe { publish(&GLOBAL, made, fresh) };
        }
        // SAFETY: not null, and never freed.
        unsafe { &*made }.as_ref().map_err(Clone::clone)
    }

    /// Threads that a call may use, its caller included.
    pub fn num_threads(&self) -> usize {
        self.num_threads
    }

    /// The instruction set that kernels run as.
    pub fn isa(&self) -> Isa {
        self.level.isa()
    }

    /// Makes the next parallel region panic: how the tests reach what only a defect could.
    #[doc(hidden)]
    pub fn panic_in_next_region(&self) {
        self.panic_next.store(true, Ordering::Relaxed);
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Runs `task(slot, index)` for each index below `count`. No two threads have the same slot at
    /// once, and slots are below `num_threads`.
    pub(crate) fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if self.panic_next.load(Ordering::Relaxed) && self.panic_next.swap(false, Ordering::Relaxed)
        {
            return self.distribute(count.max(1), &|_, _| panic!("a panic that a test asked for"));
        }
        self.distribute(count, task);
    }

    fn distribute(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if count <= 1 || self.num_threads == 1 {
            return parallel::run_inline(count, task);
        }
        match (&self.parallel_for, &self.process().pool) {
            (Some(theirs), _) => parallel::run_on(theirs, self.num_threads, count, task),
            (None, Some(pool)) => pool.run(count, task),
            (None, None) => parallel::run_inline(count, task),
        }
    }

    /// Scratch memory for one call.
    pub(crate) fn scratch<T: Element>(&self, len: ScratchLen) -> Result<Scratch<'_, T>> {
        self.process().scratch.take(len, self.num_threads)
    }

    fn process(&self) -> &Process {
        let id = process_id();
        let current = self.process.load(Ordering::Acquire);
        // SAFETY: never null, and freed only when the context is dropped.
        let found = unsafe { &*current };
        if found.id == id {
            return found;
        }
        // The first call in a forked child. Without threads it is slow, but right.
        let pool = own_pool(self.num_threads, self.parallel_for.as_ref()).unwrap_or(None);
        // SAFETY: what it holds from now on is freed only when the context is dropped.
        unsafe { &*publish(&self.process, current, Process::new(pool)) }
    }
}

/// The pool that a context needs, if any.
fn own_pool(num_threads: usize, parallel_for: Option<&ParallelFor>) -> Result<Option<Pool>> {
    (num_threads > 1 && parallel_for.is_none()).then(|| Pool::new(num_threads)).transpose()
}

/// Puts `fresh` in the place of `stale`, unless another thread was faster: then `fresh` is freed.
/// Returns what the place holds.
///
/// # Safety
/// `fresh` was made by `Box::into_raw`, and is the place's from now on.
unsafe fn publish<T>(place: &AtomicPtr<T>, stale: *mut T, fresh: *mut T) -> *mut T {
    match place.compare_exchange(stale, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        Err(faster) => {
            // SAFETY: as the caller promises, and nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
            faster
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("isa", &self.isa())
            .field("num_threads", &self.num_threads)
            .field("parallel_for", &self.parallel_for)
            .finish_non_exhaustive()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let process = *self.process.get_mut();
        // SAFETY: never null, and nobody uses it any more.
        if unsafe { (*process).id } == process_id() {
            // SAFETY: made by Box::into_raw in this process.
            drop(unsafe { Box::from_raw(process) });
        }
    }
}

/// The value of an environment variable; an empty one counts as not set.
fn environment(name: &str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(value)) => {
            Err(Error::invalid(format!("{name} must be UTF-8, but is {value:?}")))
        }
    }
}

fn default_num_threads() -> Result<usize> {
    let Some(text) = environment("CNNKERN_NUM_THREADS")? else {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(cores.min(MAX_THREADS));
    };
    match text.trim().parse() {
        Ok(threads) if (1..=MAX_THREADS).contains(&threads) => Ok(threads),
        _ => Err(Error::invalid(format!(
            "CNNKERN_NUM_THREADS must be a number from 1 to {MAX_THREADS}, but is \"{text}\""
        ))),
    }
}
