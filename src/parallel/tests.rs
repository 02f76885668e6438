use super::*;

use std::collections::HashSet;
use std::thread::ThreadId;

/// Waits for `done`, and fails the test rather than hang it.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long for {what}");
        std::thread::yield_now();
    }
}

/// Tasks that each wait until all of them run: `count` threads must take part.
fn meet(pool: &Pool, count: usize) {
    let arrived = AtomicUsize::new(0);
    pool.run(count, &|_, _| {
        arrived.fetch_add(1, Ordering::SeqCst);
        wait_until("every thread to join the region", || arrived.load(Ordering::SeqCst) == count);
    });
}

/// Runs `count` tasks by `run` and checks that each ran once, in a slot that it had to itself.
fn check_region(slots: usize, count: usize, run: impl FnOnce(&(dyn Fn(usize, usize) + Sync))) {
    let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
    let taken: Vec<AtomicBool> = (0..slots).map(|_| AtomicBool::new(false)).collect();
    run(&|slot, index| {
        assert!(!taken[slot].swap(true, Ordering::SeqCst), "slot {slot} is in use");
        runs[index].fetch_add(1, Ordering::SeqCst);
        std::hint::spin_loop();
        taken[slot].store(false, Ordering::SeqCst);
    });
    for (index, runs) in runs.iter().enumerate() {
        assert_eq!(runs.load(Ordering::SeqCst), 1, "runs of task {index} of {count}");
    }
}

/// Panics without the hook's report on stderr, which the test harness does not catch from the
/// pool's threads.
fn panic_quietly(message: String) -> ! {
    resume_unwind(Box::new(message))
}

/// The payload of the panic that `run` ends with.
fn panic_of(run: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("a panic was expected");
    *payload.downcast().expect("the task's own payload")
}

#[test]
fn every_task_runs_once_in_a_slot_of_its_own() {
    for threads in [2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        for count in [0, 1, 2, 3, 6, 7, 8, 100] {
            for _ in 0..50 {
                check_region(threads, count, |task| pool.run(count, task));
            }
        }
    }
}

#[test]
fn all_threads_take_part_and_no_wake_up_is_lost() {
    for threads in [2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        for round in 0..300 {
            // Around the moment when the threads go to sleep.
            let gap = HOT * (round % 30) / 15;
            let start = Instant::now();
            while start.elapsed() < gap {
                std::hint::spin_loop();
            }
            meet(&pool, threads);
        }
        std::thread::sleep(Duration::from_millis(5));
        meet(&pool, threads);
    }
}

#[test]
fn a_panic_on_any_thread_reaches_the_caller_and_the_pool_works_on() {
    for threads in [2, 3] {
        let pool = Pool::new(threads).unwrap();
        for guilty in 0..threads {
            for _ in 0..10 {
                let arrived = AtomicUsize::new(0);
                let message = panic_of(|| {
                    pool.run(threads, &|slot, _| {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        wait_until("every thread to join the region", || {
                            arrived.load(Ordering::SeqCst) == threads
                        });
                        if slot == guilty {
                            panic_quietly(format!("slot {slot}"));
                        }
                    });
                });
                assert_eq!(message, format!("slot {guilty}"));
                meet(&pool, threads);
            }
        }
    }
}

#[test]
fn a_panic_ends_the_region_early() {
    let pool = Pool::new(2).unwrap();
    let runs = AtomicUsize::new(0);
    panic_of(|| {
        pool.run(1_000_000, &|_, _| {
            runs.fetch_add(1, Ordering::SeqCst);
            panic_quietly("once".to_string());
        });
    });
    assert!(runs.load(Ordering::SeqCst) <= 2, "each thread ends at its first panic");
}

#[test]
fn a_second_caller_runs_on_its_own_thread() {
    let pool = Pool::new(2).unwrap();
    let (entered, release) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pool.run(2, &|_, _| {
                entered.fetch_add(1, Ordering::SeqCst);
                wait_until("the second caller", || release.load(Ordering::SeqCst));
            });
        });
        wait_until("the first caller", || entered.load(Ordering::SeqCst) > 0);
        let me = std::thread::current().id();
        check_region(1, 100, |task| {
            pool.run(100, &|slot, index| {
                assert_eq!((slot, std::thread::current().id()), (0, me));
                task(slot, index);
            });
        });
        release.store(true, Ordering::SeqCst);
    });
    meet(&pool, 2);
}

#[test]
fn callers_that_race_for_the_threads_all_get_their_tasks_done() {
    let pool = Pool::new(3).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for count in 0..500 {
                    check_region(3, count % 9, |task| pool.run(count % 9, task));
                }
            });
        }
    });
}

#[test]
fn a_region_within_a_task_runs_on_that_tasks_thread() {
    let pool = Pool::new(2).unwrap();
    pool.run(8, &|_, _| {
        let me = std::thread::current().id();
        check_region(1, 5, |task| {
            pool.run(5, &|slot, index| {
                assert_eq!(std::thread::current().id(), me);
                task(slot, index);
            });
        });
    });
}

#[test]
fn a_pool_may_be_dropped_at_any_moment() {
    for threads in [2, 7] {
        for round in 0..40 {
            let pool = Pool::new(threads).unwrap();
            if round % 2 == 0 {
                meet(&pool, threads);
            }
            if round % 4 < 2 {
                std::thread::sleep(HOT * (round % 8));
            }
            drop(pool);
        }
    }
}

mod callers_pool {
    use super::*;

    type Loop = unsafe extern "C" fn(*mut c_void, usize, TaskFunction, *mut c_void);

    unsafe extern "C" fn serial(
        _: *mut c_void,
        count: usize,
        task: TaskFunction,
        data: *mut c_void,
    ) {
        for index in 0..count {
            // SAFETY: called as `ParallelFor` says.
            unsafe { task(data, index) };
        }
    }

    unsafe extern "C" fn reversed(
        _: *mut c_void,
        count: usize,
        task: TaskFunction,
        data: *mut c_void,
    ) {
        for index in (0..count).rev() {
            // SAFETY: called as `ParallelFor` says.
            unsafe { task(data, index) };
        }
    }

    unsafe extern "C" fn threaded(
        _: *mut c_void,
        count: usize,
        task: TaskFunction,
        data: *mut c_void,
    ) {
        let data = data as usize;
        std::thread::scope(|scope| {
            for index in 0..count {
                // SAFETY: called as `ParallelFor` says.
                scope.spawn(move || unsafe { task(data as *mut c_void, index) });
            }
        });
    }

    unsafe extern "C" fn twice(
        _: *mut c_void,
        count: usize,
        task: TaskFunction,
        data: *mut c_void,
    ) {
        for index in (0..count).chain(0..count) {
            // SAFETY: the wrong number of times, which a task has to bear.
            unsafe { task(data, index) };
        }
    }

    /// Twice, and both at the same time.
    unsafe extern "C" fn doubled(
        _: *mut c_void,
        count: usize,
        task: TaskFunction,
        data: *mut c_void,
    ) {
        let data = data as usize;
        std::thread::scope(|scope| {
            for index in (0..count).chain(0..count) {
                // SAFETY: the wrong number of times, which a task has to bear.
                scope.spawn(move || unsafe { task(data as *mut c_void, index) });
            }
        });
    }

    unsafe extern "C" fn never(_: *mut c_void, _: usize, _: TaskFunction, _: *mut c_void) {}

    unsafe extern "C" fn beyond(
        _: *mut c_void,
        count: usize,
        task: TaskFunction,
        data: *mut c_void,
    ) {
        for index in [count, count + 1, usize::MAX] {
            // SAFETY: indices that do not exist, which a task has to bear.
            unsafe { task(data, index) };
        }
    }

    const LOOPS: [(&str, Loop); 7] = [
        ("serial", serial),
        ("reversed", reversed),
        ("threaded", threaded),
        ("twice", twice),
        ("doubled", doubled),
        ("never", never),
        ("beyond", beyond),
    ];

    fn pool(function: Loop) -> ParallelFor {
        ParallelFor { function, user_data: std::ptr::null_mut() }
    }

    #[test]
    fn every_task_runs_once_whatever_the_pool_does() {
        for (name, function) in LOOPS {
            for threads in [2, 3, 7, 64, 65, MAX_THREADS] {
                if threads > 7 && (name == "threaded" || name == "doubled") {
                    continue; // a thousand threads prove nothing more
                }
                for count in [2, 3, 8, 100, 2000] {
                    check_region(threads, count, |task| {
                        run_on(&pool(function), threads, count, task);
                    });
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        for (_, function) in LOOPS {
            let message = panic_of(|| {
                run_on(&pool(function), 3, 5, &|_, index| {
                    if index == 1 {
                        panic_quietly(format!("index {index}"));
                    }
                });
            });
            assert_eq!(message, "index 1");
        }
    }

    #[test]
    fn its_threads_are_the_ones_that_work() {
        let seen = Mutex::new(HashSet::<ThreadId>::new());
        let arrived = AtomicUsize::new(0);
        run_on(&pool(threaded), 3, 3, &|_, _| {
            seen.lock().unwrap().insert(std::thread::current().id());
            arrived.fetch_add(1, Ordering::SeqCst);
            wait_until("three threads", || arrived.load(Ordering::SeqCst) == 3);
        });
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 3);
        assert!(!seen.contains(&std::thread::current().id()));
    }
}
