//! A context for each instruction set of this processor.

use std::io::Write;
use std::sync::Once;

use cnnkern::{Context, ContextOptions, Isa};

/// The instruction sets that this processor has. Those that it lacks are named on stderr, once.
pub fn supported_isas() -> Vec<Isa> {
    static SAY_ONCE: Once = Once::new();
    SAY_ONCE.call_once(|| {
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_supported()) {
            // not eprintln: the test harness would swallow it
            let _ = writeln!(std::io::stderr(), "skipped: {isa} is not on this processor");
        }
    });
    Isa::ALL.into_iter().filter(|isa| isa.is_supported()).collect()
}

pub fn context(isa: Isa, num_threads: usize) -> Context {
    let options = ContextOptions { num_threads, isa: Some(isa), parallel_for: None };
    Context::new(&options).expect("a context of a supported instruction set")
}

/// A context of two threads for each instruction set of this processor.
pub fn contexts() -> Vec<Context> {
    supported_isas().into_iter().map(|isa| context(isa, 2)).collect()
}
