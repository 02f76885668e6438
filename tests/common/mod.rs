//! What the test files share: seeded data, guarded memory, contexts of every instruction set, each
//! operation by its definition, and error bounds.
//!
//! `CNNKERN_TEST_SEED=17` runs the random cases of that seed alone.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of this")]

pub mod calls;
pub mod cases;
pub mod contexts;
pub mod definitions;
pub mod guarded;
pub mod operations;
pub mod pools;
pub mod random;
pub mod real;
pub mod shapes;
pub mod sum;

/// Makes a test of `name::<f32>` and one of `name::<f64>` of each generic function named.
#[macro_export]
macro_rules! tests_of_f32_and_f64 {
    ($($name:ident)*) => {
        mod single {
            $(#[test] fn $name() { super::$name::<f32>() })*
        }
        mod double {
            $(#[test] fn $name() { super::$name::<f64>() })*
        }
    };
}
