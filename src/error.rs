//! The one error type of the crate.

use std::fmt;

/// What every fallible function of the crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call was refused. The outputs of a refused call are untouched.
///
/// Its `Display` text is one English sentence that names the argument at fault and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A pointer or slice that the call needs is missing.
    NullPointer {
        /// The argument's name.
        argument: &'static str,
    },
    /// An argument has a value that the operation does not accept.
    InvalidArgument {
        /// The whole sentence.
        message: String,
    },
    /// A tensor's size does not fit the address space.
    SizeOverflow {
        /// The whole sentence.
        message: String,
    },
    /// Scratch memory or a thread could not be had.
    OutOfMemory {
        /// The whole sentence.
        message: String,
    },
    /// The arguments are valid, but the algorithm asked for does not cover them.
    Unsupported {
        /// The whole sentence.
        message: String,
    },
    /// A defect of cnnkern: a panic that was caught.
    Internal {
        /// The whole sentence.
        message: String,
    },
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::InvalidArgument { message: message.into() }
    }

    pub(crate) fn overflow(message: impl Into<String>) -> Self {
        Error::SizeOverflow { message: message.into() }
    }

    /// The slice passed for `argument` has `actual` elements where its shape needs `expected`.
    pub(crate) fn length(argument: &'static str, expected: usize, actual: usize) -> Self {
        Error::invalid(format!(
            "{argument} must have {expected} elements, as its shape says, but has {actual}"
        ))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NullPointer { argument } => write!(f, "{argument} must not be NULL"),
            Error::InvalidArgument { message }
            | Error::SizeOverflow { message }
            | Error::OutOfMemory { message }
            | Error::Unsupported { message }
            | Error::Internal { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}
