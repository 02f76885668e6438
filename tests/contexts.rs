//! What a context is made of: its instruction set, its threads, and what is left of them when it is
//! idle or gone.
//!
//! Environment variables, affinity and CPU time are a process's own, so most tests run a part of
//! themselves as a child process.

mod common;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cnnkern::{Context, ContextOptions, Error, Isa};

use common::operations::{self, Operation};
use common::pools;
use common::random::Random;

/// What names the part that a child process runs.
const PART: &str = "CNNKERN_TEST_PART";

/// The parts that run in a child process, by name. What they print is what the tests look at.
const PARTS: [(&str, fn()); 7] = [
    ("default", describe_default),
    ("global", describe_global),
    ("named threads", name_threads),
    ("no threads", make_contexts_without_threads),
    ("failing threads", fail_to_start_threads),
    ("idle", idle),
    ("busy neighbours", work_beside_busy_neighbours),
];

#[test]
#[ignore = "other tests run it, in a process of its own"]
fn child() {
    let wanted = std::env::var(PART).expect("the parent says which part");
    let (_, part) = PARTS.iter().find(|(name, _)| *name == wanted).expect("a part's name");
    part();
}

/// This program again, with `child` as its only test and no variable of ours but those it is given.
fn command(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows where it is"));
    command.args(["--ignored", "--exact", "--nocapture", "--test-threads=1", "child"]);
    command.env_remove("CNNKERN_ISA").env_remove("CNNKERN_NUM_THREADS").env(PART, part);
    command
}

/// What the part says, each line that begins with "> ".
fn output(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("a test can be run again");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.lines().filter_map(|line| line.strip_prefix("> ")).map(str::to_owned).collect()
}

/// Says a line to the parent.
fn say(line: impl std::fmt::Display) {
    // Behind what the harness has left on the line.
    println!("\n> {line}");
}

fn describe(context: cnnkern::Result<impl std::borrow::Borrow<Context>>) {
    say(match context {
        Ok(context) => {
            let context = context.borrow();
            format!("{} threads, {}", context.num_threads(), context.isa())
        }
        Err(Error::InvalidArgument { message }) => format!("invalid: {message}"),
        Err(error) => format!("{error:?}"),
    });
}

// The instruction set and the number of threads

fn describe_default() {
    describe(Context::new(&ContextOptions::default()));
    let options =
        ContextOptions { num_threads: 2, isa: Some(Isa::Portable), ..ContextOptions::default() };
    describe(Context::new(&options));
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn nothing_set_means_every_core_and_the_widest_instruction_set() {
    let best = format!("{} threads, {}", cores(), Isa::best());
    assert_eq!(output(&mut command("default"))[0], best);
    let emptied = &mut command("default");
    emptied.env("CNNKERN_ISA", "").env("CNNKERN_NUM_THREADS", "");
    assert_eq!(output(emptied)[0], best, "an empty variable counts as not set");
}

#[test]
fn one_core_means_one_thread() {
    let mut command = command("default");
    // SAFETY: sched_setaffinity may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let mut allowed: libc::cpu_set_t = std::mem::zeroed();
            let size = size_of_val(&allowed);
            if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &allowed));
            libc::CPU_ZERO(&mut allowed);
            libc::CPU_SET(first.unwrap_or(0), &mut allowed);
            match libc::sched_setaffinity(0, size, &allowed) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let lines = output(&mut command);
    assert_eq!(lines[0], format!("1 threads, {}", Isa::best()));
    assert_eq!(lines[1], "2 threads, portable", "asked for all the same");
}

#[test]
fn cnnkern_num_threads_is_the_default() {
    for (value, threads) in [("1", 1), ("3", 3), (" 5 ", 5), ("1024", 1024)] {
        let lines = output(command("default").env("CNNKERN_NUM_THREADS", value));
        assert_eq!(lines[0], format!("{threads} threads, {}", Isa::best()));
        assert_eq!(lines[1], "2 threads, portable", "what the caller asks for is what counts");
    }
    for value in ["0", "-1", "1.5", "1025", "two", "99999999999999999999"] {
        let lines = output(command("default").env("CNNKERN_NUM_THREADS", value));
        assert!(lines[0].starts_with("invalid: CNNKERN_NUM_THREADS"), "{}", lines[0]);
        assert!(lines[0].contains(&format!("\"{value}\"")), "{}", lines[0]);
        assert_eq!(lines[1], "2 threads, portable", "not read where it is not needed");
    }
}

#[test]
fn cnnkern_isa_lowers_the_instruction_set() {
    for isa in Isa::ALL {
        let lines = output(command("default").env("CNNKERN_ISA", isa.name()));
        if isa.is_supported() {
            assert_eq!(lines[0], format!("{} threads, {isa}", cores()));
        } else {
            assert!(lines[0].starts_with("invalid: CNNKERN_ISA"), "{}", lines[0]);
            assert!(lines[0].contains(isa.name()), "{}", lines[0]);
        }
        assert_eq!(lines[1], "2 threads, portable", "what the caller asks for is what counts");
    }
    for value in ["sse9", "AVX2", " avx2", "portable,avx2"] {
        let lines = output(command("default").env("CNNKERN_ISA", value));
        assert!(lines[0].starts_with("invalid: CNNKERN_ISA"), "{}", lines[0]);
        assert!(lines[0].contains(&format!("\"{value}\"")), "{}", lines[0]);
    }
}

#[test]
fn an_instruction_set_that_the_processor_lacks_is_refused() {
    for isa in Isa::ALL {
        let options =
            ContextOptions { num_threads: 1, isa: Some(isa), ..ContextOptions::default() };
        match Context::new(&options) {
            Ok(context) => assert_eq!((context.isa(), isa.is_supported()), (isa, true)),
            Err(Error::InvalidArgument { message }) => {
                assert!(!isa.is_supported() && message.contains(isa.name()), "{message}");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn too_many_threads_are_refused() {
    for num_threads in [1025, usize::MAX] {
        for parallel_for in [None, Some(pools::all()[0].1)] {
            let options = ContextOptions { num_threads, isa: None, parallel_for };
            let Err(Error::InvalidArgument { message }) = Context::new(&options) else {
                panic!("{num_threads} threads are not an invalid argument");
            };
            assert!(message.contains("num_threads"), "{message}");
            assert!(message.contains(&num_threads.to_string()), "{message}");
        }
    }
}

fn describe_global() {
    describe(Context::global());
    let (first, others) = (Context::global(), std::thread::spawn(Context::global).join().unwrap());
    match (first, others) {
        (Ok(first), Ok(other)) => assert!(std::ptr::eq(first, other), "one context for all"),
        (first, other) => assert_eq!(first.unwrap_err(), other.unwrap_err()),
    }
    describe(Context::global());
}

#[test]
fn the_global_context_has_the_defaults() {
    let best = format!("{} threads, {}", cores(), Isa::best());
    assert_eq!(output(&mut command("global")), [best.clone(), best]);
    let chosen = &mut command("global");
    chosen.env("CNNKERN_ISA", "portable").env("CNNKERN_NUM_THREADS", "3");
    assert_eq!(output(chosen), ["3 threads, portable", "3 threads, portable"]);
    let lines = output(command("global").env("CNNKERN_ISA", "mmx"));
    assert!(lines[0].starts_with("invalid: CNNKERN_ISA") && lines[0] == lines[1], "{lines:?}");
}

// Threads

/// The names of this process's threads, all but this one's.
fn other_threads() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: always succeeds.
    let this = unsafe { libc::gettid() }.to_string();
    for thread in std::fs::read_dir("/proc/self/task").expect("Linux").flatten() {
        if thread.file_name() == this.as_str() {
            continue;
        }
        // A thread may end between the two.
        if let Ok(name) = std::fs::read_to_string(thread.path().join("comm")) {
            names.push(name.trim().to_owned());
        }
    }
    names
}

/// Waits until the process has `expected` other threads: one that was joined is listed for a
/// moment longer. Returns their names.
fn settle(expected: usize) -> Vec<String> {
    let start = Instant::now();
    loop {
        let names = other_threads();
        if names.len() == expected {
            return names;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{names:?} instead of {expected}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn small_work() -> Vec<Operation<f32>> {
    let mut random = Random::new(5);
    let mut operations = operations::relu(300_000, &mut random);
    let params = cnnkern::Conv2dParams::new(3, 16, 28, 28, 16, 3, 3);
    operations.push(operations::conv_forward(params, &mut random));
    operations.push(operations::conv_backward(params, operations::Gradient::All, &mut random));
    operations
}

fn use_it(context: &Context) {
    for operation in small_work() {
        operation.bits(context);
    }
}

fn of(num_threads: usize) -> Context {
    Context::new(&ContextOptions { num_threads, ..ContextOptions::default() }).expect("valid")
}

fn name_threads() {
    let before = other_threads().len();
    let named = |count: usize| {
        let names = settle(before + count).into_iter();
        names.filter(|name| name.starts_with("cnnkern")).collect::<BTreeSet<_>>()
    };
    assert!(named(0).is_empty());
    let three = of(3);
    let expected = BTreeSet::from(["cnnkern-0".to_owned(), "cnnkern-1".to_owned()]);
    assert_eq!(named(2), expected);
    use_it(&three);
    // Also: no thread of rayon's global pool.
    assert_eq!(named(2), expected);
    let two = of(2);
    use_it(&two);
    named(3);
    drop(three);
    assert_eq!(named(1), BTreeSet::from(["cnnkern-0".to_owned()]));
    use_it(&two);
    drop(two);
    assert!(named(0).is_empty());
    say("done");
}

#[test]
fn threads_have_names_and_end_with_their_context() {
    assert_eq!(output(&mut command("named threads")), ["done"]);
}

fn make_contexts_without_threads() {
    let before = other_threads().len();
    let mut contexts = vec![of(1)];
    for num_threads in [1, 2, 7] {
        let parallel_for = Some(pools::all()[0].1);
        let options = ContextOptions { num_threads, isa: None, parallel_for };
        contexts.push(Context::new(&options).expect("valid"));
    }
    for context in &contexts {
        use_it(context);
        assert_eq!(settle(before).len(), before);
    }
    drop(contexts);
    say("done");
}

#[test]
fn one_thread_or_the_callers_pool_means_no_thread_of_ours() {
    assert_eq!(output(&mut command("no threads")), ["done"]);
}

fn fail_to_start_threads() {
    let before = other_threads().len();
    // Address space for what there is and the stacks of a few more threads.
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = pages.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    // SAFETY: always succeeds.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    let limit = pages * page + (256 << 20);
    let limits = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid struct.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limits) }, 0);
    let Err(Error::OutOfMemory { message }) =
        Context::new(&ContextOptions { num_threads: 1000, ..ContextOptions::default() })
    else {
        panic!("a thousand threads were started");
    };
    settle(before);
    use_it(&of(3));
    say(message);
}

#[test]
fn threads_that_cannot_be_started_are_an_error_and_none_is_left() {
    let lines = output(&mut command("failing threads"));
    assert!(lines[0].contains("999 threads"), "{lines:?}");
}

// Time

/// CPU time of this process, in user and kernel mode.
fn cpu_time() -> Duration {
    // SAFETY: zeros are a valid rusage, which getrusage fills in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn idle() {
    let contexts = [of(2), of(3), of(7)];
    for context in &contexts {
        use_it(context);
    }
    // Threads look for work for a moment before they sleep.
    std::thread::sleep(Duration::from_millis(5));
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(100));
    say((cpu_time() - before).as_micros());
}

#[test]
fn an_idle_context_takes_no_time() {
    let micros: u64 = output(&mut command("idle"))[0].parse().expect("a number");
    // One spinning thread would take 100 ms.
    assert!(micros < 5000, "{micros} microseconds of CPU time in 100 ms");
}

fn work_beside_busy_neighbours() {
    // As many busy threads as cores, and a context with more threads than that.
    let operations = small_work();
    let alone = of(1);
    let expected: Vec<_> = operations.iter().map(|operation| operation.bits(&alone)).collect();
    for num_threads in [2, 2 * cores() + 3] {
        let context = of(num_threads);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..cores() {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            for _ in 0..20 {
                let found: Vec<_> = operations.iter().map(|o| o.bits(&context)).collect();
                if found != expected {
                    say(format!("{num_threads} threads: other bits"));
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
    say("done");
}

#[test]
fn a_busy_machine_does_no_harm() {
    assert_eq!(output(&mut command("busy neighbours")), ["done"]);
}

// Several contexts

#[test]
fn contexts_do_not_disturb_each_other() {
    let operations = small_work();
    let alone = of(1);
    let expected: Vec<_> = operations.iter().map(|operation| operation.bits(&alone)).collect();
    let contexts = [of(2), of(3)];
    std::thread::scope(|scope| {
        for context in &contexts {
            let (operations, expected) = (&operations, &expected);
            scope.spawn(move || {
                for _ in 0..20 {
                    for (operation, expected) in operations.iter().zip(expected) {
                        assert!(operation.bits(context) == *expected, "{}", operation.name);
                    }
                }
            });
        }
        // And contexts that come and go meanwhile.
        for round in 0..20 {
            use_it(&of(2 + round % 3));
        }
    });
}
