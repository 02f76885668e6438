//! The same inputs give the same bits, whoever computes them: any number of threads, the context's
//! own or the caller's, whatever else runs, in any instruction set.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use cnnkern::{Context, ContextOptions, Isa, ParallelFor};

use common::operations::{self, Operation};
use common::pools::{self, Crew};
use common::real::Real;
use common::{contexts, random};

/// What the results of every context are compared with.
fn expected<T: Real>(operations: &[Operation<T>], isa: Isa) -> Vec<Vec<u64>> {
    let alone = contexts::context(isa, 1);
    operations.iter().map(|operation| operation.bits(&alone)).collect()
}

fn with_callers_pool(isa: Isa, num_threads: usize, parallel_for: ParallelFor) -> Context {
    let parallel_for = Some(parallel_for);
    Context::new(&ContextOptions { num_threads, isa: Some(isa), parallel_for }).expect("valid")
}

/// Panics with the operation's name, not with thousands of numbers.
#[track_caller]
fn assert_same_bits(what: &str, name: &str, actual: &[u64], expected: &[u64]) {
    assert_eq!(actual.len(), expected.len(), "{what}: {name}");
    if let Some(first) = (0..actual.len()).find(|&index| actual[index] != expected[index]) {
        let differing = actual.iter().zip(expected).filter(|(a, b)| a != b).count();
        panic!(
            "{what}: {name}: {differing} of {} elements differ, the first at {first}: {:#x} \
             instead of {:#x}",
            expected.len(),
            actual[first],
            expected[first]
        );
    }
}

fn check<T: Real>(what: &str, context: &Context, operations: &[Operation<T>], bits: &[Vec<u64>]) {
    for (operation, expected) in operations.iter().zip(bits) {
        assert_same_bits(what, &operation.name, &operation.bits(context), expected);
    }
}

/// How work is cut and who runs it is the same code in every instruction set and build: it is tried
/// in all ways in the best one as optimized, in the first way in the others.
fn some_of(isa: Isa, numbers_of_threads: &[usize]) -> &[usize] {
    let all = isa == Isa::best() && !cfg!(debug_assertions);
    if all { numbers_of_threads } else { &numbers_of_threads[..1] }
}

fn own_threads<T: Real>() {
    let operations = operations::all::<T>();
    for isa in contexts::supported_isas() {
        let bits = expected(&operations, isa);
        // No schedule is like the last: two rounds see more of them.
        for &num_threads in some_of(isa, &[3, 1, 2, 7, 2, 7]) {
            let context = contexts::context(isa, num_threads);
            check(&format!("{num_threads} threads on {isa}"), &context, &operations, &bits);
        }
    }
}

fn callers_pools<T: Real>() {
    let operations = operations::all::<T>();
    for isa in contexts::supported_isas() {
        let bits = expected(&operations, isa);
        for (name, pool) in pools::all() {
            for &num_threads in some_of(isa, &[7, 2]) {
                let context = with_callers_pool(isa, num_threads, pool);
                let what = format!("a {name} pool of {num_threads} on {isa}");
                check(&what, &context, &operations, &bits);
            }
        }
        Crew::with(3, |pool| {
            let context = with_callers_pool(isa, 3, pool);
            check(&format!("a crew on {isa}"), &context, &operations, &bits);
        });
    }
}

/// Several threads use one context, so that each gets the context's threads now and then.
fn callers_at_once<T: Real>() {
    let operations = operations::all::<T>();
    let isa = Isa::best();
    let bits = expected(&operations, isa);
    for num_threads in [2, 3] {
        let context = contexts::context(isa, num_threads);
        std::thread::scope(|scope| {
            for caller in 0..3 {
                let (context, operations, bits) = (&context, &operations, &bits);
                scope.spawn(move || {
                    let what = format!("caller {caller} of a context of {num_threads} threads");
                    // Each begins elsewhere, so that different operations meet.
                    let middle = operations.len() * caller / 3;
                    check(&what, context, &operations[middle..], &bits[middle..]);
                    check(&what, context, &operations[..middle], &bits[..middle]);
                });
            }
        });
    }
}

/// One small operation all the time on the same context, and busy threads beside it.
fn a_hammered_context<T: Real>() {
    let operations = operations::all::<T>();
    let isa = Isa::best();
    let bits = expected(&operations, isa);
    let mut random = random::Random::new(1);
    let hammer = operations::relu::<T>(70_000, &mut random).remove(0);
    let hammered = hammer.bits(&contexts::context(isa, 1));
    let context = contexts::context(isa, 2);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        /// Also when an assertion fails, since the scope waits for its threads.
        struct SetOnDrop<'a>(&'a AtomicBool);
        impl Drop for SetOnDrop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let end = SetOnDrop(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let bits = hammer.bits(&context);
                    assert_same_bits("the hammer", &hammer.name, &bits, &hammered);
                    // Else the context's lock, which is not fair, leaves the others waiting.
                    std::thread::yield_now();
                }
            });
        }
        check("a hammered context", &context, &operations, &bits);
        drop(end);
    });
}

tests_of_f32_and_f64! {
    own_threads
    callers_pools
    callers_at_once
    a_hammered_context
}
