//! Queries of convolutions: any shape has an answer or an error that names the size.

mod common;

use cnnkern::conv2d::{Pass, query};
use cnnkern::{Algorithm, Conv2dParams, Error, Isa, Layout};

use common::contexts;
use common::random::Random;

const PASSES: [Pass; 3] = [Pass::Forward, Pass::BackwardData, Pass::BackwardWeights];

/// Extents of all magnitudes, most of them in tensors that no memory holds.
fn huge_params(random: &mut Random) -> Conv2dParams {
    let mut extent = |most: usize| {
        let bits = random.within(0..=most);
        random.within(1..=1 << bits)
    };
    let groups = if extent(1) == 1 { 1 } else { extent(20) };
    let mut params = Conv2dParams::new(
        extent(30),
        groups.saturating_mul(extent(20)),
        extent(34),
        extent(34),
        groups.saturating_mul(extent(20)),
        extent(16),
        extent(16),
    );
    params.groups = groups;
    (params.stride_height, params.stride_width) = (extent(3), extent(3));
    (params.dilation_height, params.dilation_width) = (extent(8), extent(8));
    (params.pad_top, params.pad_left) = (extent(30), extent(30));
    params.layout = if extent(1) == 1 { Layout::Nchw } else { Layout::Nhwc };
    params
}

#[test]
fn sizes_never_wrap() {
    let context = contexts::context(Isa::best(), 2);
    let mut random = Random::new(1);
    let (mut answers, mut errors) = (0, 0);
    while answers < 3000 {
        let params = huge_params(&mut random);
        for pass in PASSES {
            match query::<f64>(&context, &params, pass) {
                Ok(query) => {
                    let fast = [Algorithm::Gemm, Algorithm::Winograd];
                    assert!(fast.contains(&query.algorithm), "{query:?} of {params:?}");
                    assert!(query.scratch_bytes <= isize::MAX as usize, "{query:?} of {params:?}");
                    answers += 1;
                }
                Err(Error::SizeOverflow { .. } | Error::InvalidArgument { .. }) => errors += 1,
                Err(error) => panic!("{error} for {params:?}"),
            }
        }
    }
    assert!(errors > 0);
}

#[test]
fn the_reference_needs_no_memory() {
    let context = contexts::context(Isa::best(), 2);
    let params = Conv2dParams {
        algorithm: Algorithm::Reference,
        ..Conv2dParams::new(2, 8, 10, 10, 8, 3, 3)
    };
    for pass in PASSES {
        let query = query::<f32>(&context, &params, pass).unwrap();
        assert_eq!((query.algorithm, query.scratch_bytes), (Algorithm::Reference, 0));
        assert!(query.reason().contains("plain loops"));
    }
}

/// An empty batch is nothing to do; y and dx of the same shape with images are computed in the same way.
#[test]
fn the_way_is_the_same_for_any_batch() {
    let context = contexts::context(Isa::best(), 2);
    for (channels, extent, kernel) in [(64, 56, 3), (512, 7, 3), (64, 14, 5)] {
        let params = Conv2dParams::new(0, channels, extent, extent, channels, kernel, kernel);
        for pass in PASSES {
            let empty = query::<f32>(&context, &params, pass).unwrap();
            let full = query::<f32>(&context, &Conv2dParams { batch: 64, ..params }, pass).unwrap();
            assert_eq!(empty.scratch_bytes, 0);
            assert!(full.scratch_bytes > 0);
            if pass != Pass::BackwardWeights {
                assert_eq!(empty.reason(), full.reason());
            }
        }
    }
}

/// A wide layer of windows of 3 x 3, or 5 x 5, saves products; one whose filters outweigh its pixels does not, nor
/// does one of few channels, and whoever asks for sums of products gets them.
#[test]
fn winograd_is_taken_where_it_pays() {
    let context = contexts::context(Isa::best(), 2);
    let windows = |algorithm: Algorithm, kernel, [channels, extent]: [usize; 2], pass: Pass| {
        let params = Conv2dParams::new(1, channels, extent, extent, channels, kernel, kernel);
        query::<f32>(&context, &Conv2dParams { algorithm, ..params }, pass).unwrap().algorithm
    };
    let by = |algorithm, size, pass| windows(algorithm, 3, size, pass);
    for pass in PASSES {
        assert_eq!(windows(Algorithm::Auto, 5, [64, 56], pass), Algorithm::Winograd);
        assert_eq!(windows(Algorithm::Auto, 7, [64, 56], pass), Algorithm::Gemm);
        assert_eq!(by(Algorithm::Auto, [64, 56], pass), Algorithm::Winograd);
        assert_eq!(by(Algorithm::Auto, [512, 4], pass), Algorithm::Gemm);
        assert_eq!(by(Algorithm::Auto, [8, 56], pass), Algorithm::Gemm);
        assert_eq!(by(Algorithm::Gemm, [64, 56], pass), Algorithm::Gemm);
        assert_eq!(by(Algorithm::Winograd, [8, 5], pass), Algorithm::Winograd);
    }
}
