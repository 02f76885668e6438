//! The floating-point mode that tasks run in.
//!
//! A program may have set its threads to flush denormals to zero or to round upwards, a thread
//! inherits that from the one that started it, and any thread may run any task. So that results
//! depend on no thread, every task runs in the default mode.

use std::marker::PhantomData;

/// While it lives, this thread rounds to nearest, keeps denormals and traps nothing.
pub(crate) struct DefaultMode {
    /// What to go back to, where it was anything else.
    found: Option<register::Value>,
    _this_thread_only: PhantomData<*const ()>,
}

impl DefaultMode {
    pub fn enter() -> DefaultMode {
        let found = register::read();
        let found = (found & register::MODE != register::DEFAULT).then_some(found);
        if found.is_some() {
            register::write(register::DEFAULT);
        }
        DefaultMode { found, _this_thread_only: PhantomData }
    }
}

impl Drop for DefaultMode {
    fn drop(&mut self) {
        if let Some(found) = self.found {
            register::write(found);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    pub type Value = u32;
    /// All exceptions masked, nothing else.
    pub const DEFAULT: Value = 0x1f80;
    /// Without the flags, which only tell of exceptions that there were.
    pub const MODE: Value = !0x3f;

    pub fn read() -> Value {
        let mut value = 0;
        // SAFETY: stores MXCSR, which every x86-64 processor has, in a place of its size.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        value
    }

    pub fn write(value: Value) {
        // SAFETY: the value is the default, or one that the processor gave.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags))
        };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    pub type Value = u64;
    pub const DEFAULT: Value = 0;
    pub const MODE: Value = !0;

    pub fn read() -> Value {
        let value;
        // SAFETY: FPCR may be read at any time.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nostack, preserves_flags)) };
        value
    }

    pub fn write(value: Value) {
        // SAFETY: the value is the default, or one that the processor gave.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

/// Elsewhere the mode is left as it is.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    pub type Value = u32;
    pub const DEFAULT: Value = 0;
    pub const MODE: Value = !0;

    pub fn read() -> Value {
        DEFAULT
    }

    pub fn write(_: Value) {}
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    const FLUSH_TO_ZERO: register::Value = 1 << 15;

    #[test]
    fn denormals_are_kept_within_and_the_mode_restored_after() {
        let halved = || std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5);
        register::write(register::DEFAULT | FLUSH_TO_ZERO);
        let before = halved();
        let mode = DefaultMode::enter();
        let within = halved();
        drop(mode);
        let after = halved();
        let flushing = register::read() & FLUSH_TO_ZERO != 0;
        register::write(register::DEFAULT);
        assert_eq!([before, within, after], [0.0, f32::MIN_POSITIVE / 2.0, 0.0]);
        assert!(flushing);
    }
}
