//! The machine: what it is, and how fast it multiplies, reads and copies at best.

use std::fmt;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use cnnkern::{Context, Isa};

use crate::multiply_add;

/// How hard to try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Everything once and small, to see that it runs.
    Trial,
    /// For figures that mean something.
    Full,
}

/// The processor, and its peaks for the instruction set and the threads of a context.
pub struct Machine {
    processor: String,
    cores: usize,
    isa: Isa,
    pub one_thread: Peaks,
    pub all_threads: Peaks,
}

impl Machine {
    pub fn measure(context: &Context, effort: Effort) -> Machine {
        let isa = context.isa();
        Machine {
            processor: processor(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            isa,
            one_thread: Peaks::measure(isa, 1, effort),
            all_threads: Peaks::measure(isa, context.num_threads(), effort),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores, isa, one_thread, all_threads } = self;
        writeln!(
            f,
            "cnnkern {} as {isa} on {processor}, {cores} cores",
            env!("CARGO_PKG_VERSION")
        )?;
        writeln!(f, "measured peak  f32 GFLOP/s  f64 GFLOP/s  read GB/s  copy GB/s")?;
        writeln!(f, "{one_thread}")?;
        if all_threads.threads > 1 {
            writeln!(f, "{all_threads}")?;
        }
        Ok(())
    }
}

/// The name of the processor.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(
        || format!("an unnamed {} processor", std::env::consts::ARCH),
        |(_, name)| name.trim().to_owned(),
    )
}

/// What a number of threads reach together.
pub struct Peaks {
    threads: usize,
    /// Floating-point operations a second, two for a multiply-add.
    pub f32_flops: f64,
    pub f64_flops: f64,
    /// Bytes a second read from memory larger than any cache.
    pub read: f64,
    /// Bytes a second read and written there.
    pub copy: f64,
}

impl Peaks {
    fn measure(isa: Isa, threads: usize, effort: Effort) -> Peaks {
        let (rounds, bytes) = match effort {
            Effort::Trial => (1000, 1 << 20),
            Effort::Full => (4_000_000, 256 << 20),
        };
        let words = bytes / size_of::<u64>() / threads;
        Peaks {
            threads,
            f32_flops: best_rate(threads, || (), |()| multiply_add::f32(isa, rounds)),
            f64_flops: best_rate(threads, || (), |()| multiply_add::f64(isa, rounds)),
            read: best_rate(threads, || vec![1; words], |source| read(source)),
            copy: best_rate(
                threads,
                || (vec![1; words], vec![2; words]),
                |(source, target)| copy(source, target),
            ),
        }
    }
}

impl fmt::Display for Peaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peaks { threads, f32_flops, f64_flops, read, copy } = self;
        let noun = if *threads == 1 { "thread" } else { "threads" };
        let [f32_flops, f64_flops, read, copy] =
            [f32_flops, f64_flops, read, copy].map(|rate| rate / 1e9);
        write!(f, "{threads:>5} {noun:7}  {f32_flops:>11.1}  {f64_flops:>11.1}")?;
        write!(f, "  {read:>9.1}  {copy:>9.1}")
    }
}

/// The most that `threads` threads do in a second, where each makes a state of its own and `work`
/// returns how much it did: the best of ten rounds, since others may use the machine too.
fn best_rate<S>(
    threads: usize,
    setup: impl Fn() -> S + Sync,
    work: impl Fn(&mut S) -> usize + Sync,
) -> f64 {
    let barrier = Barrier::new(threads);
    let member = || {
        let mut state = setup();
        let mut best = 0.0f64;
        for _ in 0..10 {
            // Before the others may start: the rate must not come out too high.
            let start = Instant::now();
            barrier.wait();
            let amount = work(&mut state) * threads;
            barrier.wait();
            best = best.max(amount as f64 / start.elapsed().as_secs_f64());
        }
        best
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(member);
        }
        member()
    })
}

/// Reads every byte; returns their number.
fn read(source: &[u64]) -> usize {
    black_box(source.iter().fold(0u64, |sum, &word| sum.wrapping_add(word)));
    size_of_val(source)
}

/// Copies every byte; returns the number of those read and written.
fn copy(source: &[u64], target: &mut [u64]) -> usize {
    target.copy_from_slice(source);
    black_box(target);
    2 * size_of_val(source)
}
