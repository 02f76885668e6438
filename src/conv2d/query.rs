//! What a call will do and need, without doing it.

use std::ffi::CStr;

use super::choice::{Choice, Pass, choose};
use super::direct::{self, Kind};
use super::{backward_weights, columns, forward, gather, winograd};
use crate::context::Context;
use crate::conv2d::backward_data::BackwardData;
use crate::error::Result;
use crate::scratch::ScratchLen;
use crate::shape::{Activation, Algorithm, Conv2dParams, ConvShape};
use crate::simd::{Element, Level};

/// How a pass of a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// What the pass takes: never [`Algorithm::Auto`].
    pub algorithm: Algorithm,
    /// Scratch memory that the call takes from its context, in bytes, at most. The context keeps it for
    /// later calls, which share it.
    pub scratch_bytes: usize,
    pub(crate) reason: &'static CStr,
}

impl Query {
    /// The way, and why, in words.
    pub fn reason(&self) -> &'static str {
        self.reason.to_str().expect("ASCII")
    }
}

/// What a pass on elements of type T will do and need in this context.
///
/// ```
/// use cnnkern::conv2d::{Pass, query};
/// use cnnkern::{Algorithm, Context, ContextOptions, Conv2dParams};
/// let context = Context::new(&ContextOptions::default())?;
/// let params = Conv2dParams::new(8, 64, 56, 56, 64, 3, 3);
/// let query = query::<f32>(&context, &params, Pass::Forward)?;
/// assert_ne!(query.algorithm, Algorithm::Auto);
/// println!("{}; {} bytes of scratch memory", query.reason(), query.scratch_bytes);
/// # Ok::<(), cnnkern::Error>(())
/// ```
///
/// # Errors
/// Those that the pass has for these parameters.
pub fn query<T: Element>(context: &Context, params: &Conv2dParams, pass: Pass) -> Result<Query> {
    let shape = ConvShape::new(params, size_of::<T>())?.simplified();
    let choice = choose(&shape, pass)?;
    let needed = match shape.batch {
        0 => ScratchLen::default(),
        _ => scratch_len::<T>(context.level(), &shape, pass, choice)?,
    };
    Ok(Query {
        algorithm: choice.algorithm(),
        reason: choice.reason(),
        scratch_bytes: needed.bytes::<T>(context.num_threads())?,
    })
}

/// Of everything that the call may turn out to be.
fn scratch_len<T: Element>(
    level: Level,
    shape: &ConvShape,
    pass: Pass,
    choice: Choice,
) -> Result<ScratchLen> {
    let kind = Kind::new(choice, shape);
    // What takes over where padded taps may not be skipped, since some number is not finite.
    let product = |pass: Pass| match (choice, shape.is_padded) {
        (Choice::Channels, true) => scratch_len::<T>(level, shape, pass, Choice::Product),
        _ => Ok(ScratchLen::default()),
    };
    Ok(match (pass, choice) {
        (_, Choice::Reference) => ScratchLen::default(),
        (Pass::Forward, Choice::Winograd) => {
            let pass = gather::forward::<T>(shape, &[], &[], None, Activation::None, &mut []);
            winograd::scratch_len(level, &pass)
        }
        (Pass::BackwardWeights, Choice::Winograd) => {
            let db_alone = backward_weights::scratch_len::<T>(level, shape, false);
            winograd::weights::scratch_len::<T>(shape).max(db_alone)
        }
        (Pass::BackwardData, Choice::Winograd) => {
            let pass = BackwardData::<T>::of_nothing();
            let pass = gather::backward_phase(shape, &pass, std::ptr::null_mut(), [0, 0]);
            winograd::scratch_len(level, &pass)
        }
        (Pass::Forward, Choice::Product) => forward::scratch_len::<T>(level, shape),
        (Pass::Forward, _) => direct::forward_scratch::<T>(level, shape, kind).max(product(pass)?),
        (Pass::BackwardData, Choice::Product) => {
            BackwardData::<T>::of_nothing().scratch_len(level, shape)
        }
        (Pass::BackwardData, Choice::Columns) => columns::scratch_len::<T>(level, shape),
        (Pass::BackwardData, _) => direct::backward_data_scratch::<T>(level, shape, kind)?,
        (Pass::BackwardWeights, Choice::Product) => {
            let of = |with_dw| backward_weights::scratch_len::<T>(level, shape, with_dw);
            of(true).max(of(false))
        }
        (Pass::BackwardWeights, Choice::Depthwise | Choice::Groups | Choice::Pixels) => {
            let of = |with_dw| direct::weights::scratch_len::<T>(shape, with_dw);
            of(true).max(of(false))
        }
        (Pass::BackwardWeights, _) => {
            let db_alone = backward_weights::scratch_len::<T>(level, shape, false);
            direct::channel_weights::scratch_len::<T>(level, shape)
                .max(direct::exchanged_weights::scratch_len::<T>(level, shape))
                .max(db_alone)
                .max(product(pass)?)
        }
    })
}
