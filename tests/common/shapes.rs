//! Shapes to test with: at the edges of register tiles, vectors and blocks, and random ones.

use cnnkern::gemm::{GemmParams, Transpose};
use cnnkern::im2col::ColLayout;
use cnnkern::{Algorithm, Conv2dParams, FilterLayout, Layout, Pool2dParams, PoolPadding};

use super::definitions::{Conv, Pool};
use super::random::Random;

pub const LAYOUTS: [Layout; 2] = [Layout::Nchw, Layout::Nhwc];
pub const FILTER_LAYOUTS: [FilterLayout; 3] =
    [FilterLayout::Oihw, FilterLayout::Ohwi, FilterLayout::Hwio];
pub const COL_LAYOUTS: [ColLayout; 3] =
    [ColLayout::PatchRows, ColLayout::PatchColumns, ColLayout::PerImage];
pub const TRANSPOSES: [Transpose; 2] = [Transpose::No, Transpose::Yes];

/// Extents around the edges of vectors (4, 8, 16) and register tiles (6 x 16, 14 x 32, 6 x 8).
pub const EDGES: [usize; 20] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 28, 29, 31, 32, 33];

/// `params` in every combination of layouts.
pub fn in_all_layouts(params: &Conv2dParams) -> Vec<Conv2dParams> {
    let mut all = Vec::new();
    for layout in LAYOUTS {
        for filter_layout in FILTER_LAYOUTS {
            all.push(Conv2dParams { layout, filter_layout, ..*params });
        }
    }
    all
}

/// The algorithms that compute a convolution on vectors.
pub fn algorithms(params: &Conv2dParams) -> Vec<Algorithm> {
    let mut all = vec![Algorithm::Auto, Algorithm::Gemm];
    let kernel = [params.kernel_height, params.kernel_width];
    let steps = [params.stride_height, params.stride_width];
    let dilations = [params.dilation_height, params.dilation_width];
    let square = kernel == [3, 3] || kernel == [5, 5];
    if square && steps == [1, 1] && dilations == [1, 1] {
        all.push(Algorithm::Winograd);
    }
    all
}

pub fn stride(height: usize, width: usize, params: Conv2dParams) -> Conv2dParams {
    Conv2dParams { stride_height: height, stride_width: width, ..params }
}

/// `pads`: top, bottom, left, right.
pub fn pad(pads: [usize; 4], params: Conv2dParams) -> Conv2dParams {
    let [pad_top, pad_bottom, pad_left, pad_right] = pads;
    Conv2dParams { pad_top, pad_bottom, pad_left, pad_right, ..params }
}

pub fn dilation(height: usize, width: usize, params: Conv2dParams) -> Conv2dParams {
    Conv2dParams { dilation_height: height, dilation_width: width, ..params }
}

pub fn groups(groups: usize, params: Conv2dParams) -> Conv2dParams {
    Conv2dParams { groups, ..params }
}

/// Convolutions at an edge in one respect each, NCHW with OIHW.
pub fn conv_edges() -> Vec<Conv2dParams> {
    let new = Conv2dParams::new;
    let mut all = vec![
        // the smallest
        new(0, 3, 5, 5, 4, 3, 3),
        new(1, 1, 1, 1, 1, 1, 1),
        new(2, 1, 1, 1, 3, 1, 1),
        new(1, 1, 3, 3, 1, 3, 3),
        new(1, 1, 1, 7, 1, 1, 7),
        new(1, 1, 7, 1, 1, 7, 1),
        new(3, 1, 5, 4, 1, 2, 2),
        stride(3, 3, new(2, 1, 4, 8, 3, 1, 1)),
        // kernels long in one direction, and large
        pad([0, 0, 3, 3], new(2, 3, 9, 11, 5, 1, 7)),
        pad([3, 3, 0, 0], new(2, 3, 11, 9, 5, 7, 1)),
        stride(4, 4, pad([2, 2, 2, 2], new(1, 3, 39, 35, 6, 11, 11))),
        stride(2, 2, pad([3, 3, 3, 3], new(1, 3, 20, 22, 9, 7, 7))),
        // four different paddings; larger than the kernel; on one side only
        pad([1, 2, 3, 0], new(2, 4, 6, 7, 5, 3, 3)),
        pad([5, 4, 6, 7], new(1, 3, 4, 5, 6, 3, 3)),
        pad([3, 2, 2, 3], new(2, 5, 4, 3, 7, 1, 1)),
        pad([0, 0, 0, 9], new(1, 2, 5, 3, 3, 2, 3)),
        pad([20, 0, 0, 0], new(1, 2, 2, 9, 3, 2, 3)),
        // a pixel each, in an image that padding makes longer; phases of dx longer than dy
        pad([0, 3, 0, 0], new(2, 3, 5, 6, 5, 1, 1)),
        pad([0, 1, 0, 0], new(3, 25, 2, 3, 52, 1, 1)),
        pad([0, 2, 0, 0], new(5, 17, 1, 1, 34, 1, 1)),
        stride(3, 3, new(3, 17, 7, 15, 2, 2, 3)),
        // small images of single pixels: of one depth block and of two, with groups, of a few images
        new(2, 9, 7, 7, 65, 1, 1),
        new(3, 393, 3, 5, 67, 1, 1),
        groups(2, new(2, 134, 2, 5, 130, 1, 1)),
        new(5, 66, 13, 17, 71, 1, 1),
        // of pixels with gaps between them, and with padding
        stride(2, 2, new(2, 259, 9, 9, 66, 1, 1)),
        stride(2, 2, pad([1, 1, 1, 1], new(3, 400, 7, 5, 67, 1, 1))),
        stride(1, 3, new(1, 257, 4, 8, 64, 1, 1)),
        // few outputs of several input channels, on planes that are large enough to be taken one by one
        pad([1, 1, 1, 1], new(2, 5, 23, 25, 1, 3, 3)),
        stride(2, 2, pad([2, 2, 2, 2], new(2, 3, 50, 49, 1, 5, 5))),
        groups(2, pad([2, 0, 1, 3], new(1, 6, 30, 19, 10, 4, 3))),
        new(3, 4, 30, 30, 7, 2, 7),
        // and of many input channels, with padding up to the kernel's size and beyond
        pad([2, 0, 1, 2], new(3, 37, 11, 9, 4, 4, 3)),
        pad([3, 0, 0, 1], new(2, 20, 6, 7, 2, 3, 3)),
        pad([1, 1, 1, 1], new(2, 19, 8, 7, 11, 3, 3)),
        // strides that leave rows and columns over, and that are wider than the kernel
        stride(2, 3, new(2, 3, 10, 12, 4, 3, 3)),
        stride(3, 2, pad([1, 1, 1, 1], new(2, 7, 11, 10, 8, 2, 1))),
        stride(5, 7, new(1, 3, 17, 23, 5, 2, 3)),
        stride(2, 2, new(3, 6, 9, 8, 17, 1, 1)),
        stride(1, 2, pad([2, 2, 2, 2], new(1, 4, 8, 34, 6, 5, 5))),
        // dilation
        dilation(2, 3, pad([2, 2, 3, 3], new(2, 3, 9, 12, 5, 3, 3))),
        dilation(4, 1, new(1, 5, 13, 6, 3, 3, 2)),
        stride(2, 2, dilation(3, 2, pad([4, 1, 0, 3], new(1, 4, 12, 14, 6, 3, 3)))),
        // groups: grouped, depthwise, depthwise with a channel multiplier
        groups(2, pad([1, 1, 1, 1], new(2, 6, 7, 8, 10, 3, 3))),
        groups(4, new(1, 8, 5, 9, 68, 2, 2)),
        groups(7, pad([1, 1, 1, 1], new(2, 7, 9, 10, 7, 3, 3))),
        groups(33, pad([1, 1, 1, 1], new(1, 33, 6, 5, 33, 3, 3))),
        groups(5, stride(2, 2, pad([2, 2, 2, 2], new(1, 5, 9, 12, 10, 5, 5)))),
        groups(3, new(2, 3, 6, 6, 9, 1, 1)),
        groups(16, dilation(2, 2, pad([2, 2, 2, 2], new(1, 16, 8, 8, 48, 3, 3)))),
    ];
    // channels and columns around the edges of vectors and tiles
    for edge in EDGES {
        all.push(new(1, 3, 2, edge, 5, 1, 1));
        all.push(pad([1, 1, 1, 1], new(2, 2, 3, edge, 7, 3, 3)));
        all.push(pad([1, 1, 1, 1], new(1, edge, 4, 5, 6, 3, 3)));
        all.push(pad([1, 1, 1, 1], new(1, 3, 4, 5, edge, 3, 3)));
        all.push(stride(2, 2, new(2, edge, 5, 7, edge, 1, 1)));
    }
    // lengths of sums around blocks of 392: of the forward pass,
    for channels in [255, 391, 392, 393, 783, 784, 785] {
        all.push(new(1, channels, 2, 3, 3, 1, 1));
    }
    all.push(pad([1, 1, 1, 1], new(1, 28, 3, 4, 7, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(1, 57, 3, 4, 7, 3, 3)));
    // of dx,
    for channels in [391, 392, 393, 783, 785] {
        all.push(new(1, 3, 2, 3, channels, 1, 1));
    }
    all.push(pad([1, 1, 1, 1], new(1, 5, 3, 4, 57, 3, 3)));
    // and of dw
    for columns in [391, 392, 393, 783, 785] {
        all.push(new(1, 3, 1, columns, 4, 1, 1));
    }
    all.push(pad([1, 1, 1, 1], new(3, 2, 16, 16, 3, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(5, 3, 9, 19, 2, 3, 3)));
    // tiles: one, cut ones, several segments of a row, blocks of tiles and of both kinds of channels
    all.push(new(2, 3, 6, 6, 5, 3, 3));
    all.push(pad([1, 1, 1, 1], new(3, 18, 9, 14, 70, 3, 3)));
    all.push(pad([0, 2, 1, 3], new(2, 33, 7, 8, 17, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(1, 16, 5, 230, 16, 3, 3)));
    all.push(pad([2, 0, 0, 2], new(1, 130, 4, 5, 65, 3, 3)));
    // more tiles: too many for one task, for one region, enough that each task has its own, and its sums of dw
    all.push(pad([1, 1, 1, 1], new(7, 18, 9, 14, 70, 3, 3)));
    all.push(pad([1, 0, 1, 0], new(1, 130, 50, 45, 3, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(2, 5, 61, 63, 70, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(2, 3, 93, 91, 7, 3, 3)));
    all.push(groups(2, pad([1, 1, 1, 1], new(2, 34, 10, 11, 40, 3, 3))));
    // channels in the lanes: several blocks of terms in either pass, rows longer than what is
    // summed before it is written, and images of more than one band
    all.push(pad([1, 1, 1, 1], new(1, 42, 4, 14, 17, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(2, 43, 5, 7, 86, 3, 3)));
    all.push(stride(2, 2, pad([0, 1, 0, 1], new(1, 86, 7, 8, 33, 3, 3))));
    all.push(stride(2, 2, new(1, 400, 4, 9, 16, 1, 1)));
    all.push(pad([1, 1, 1, 1], new(1, 3, 2, 141, 18, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(1, 40, 21, 70, 16, 3, 3)));
    all.push(groups(2, pad([2, 2, 2, 2], new(1, 34, 6, 13, 36, 5, 5))));
    // images so small that several of them are taken together, the last ones fewer
    all.push(pad([1, 1, 1, 1], new(37, 5, 4, 5, 33, 3, 3)));
    all.push(pad([1, 1, 1, 1], new(33, 43, 3, 3, 17, 3, 3)));
    all.push(groups(2, pad([1, 0, 2, 1], new(33, 34, 3, 8, 40, 3, 3))));
    all.push(stride(2, 2, pad([1, 1, 1, 1], new(35, 18, 8, 7, 40, 3, 3))));
    // images side by side in copies that several tasks read, three in the last one, which are not
    all.push(pad([1, 1, 1, 1], new(11, 9, 3, 4, 256, 3, 3)));
    // filters that one task uses: several tasks, and blocks of terms
    all.push(new(3, 800, 1, 1, 700, 1, 1));
    // windows of 5 x 5 in tiles of 2 x 2: odd extents, segments of tiles, whole blocks and parts of them
    all.push(new(2, 3, 6, 9, 5, 5, 5));
    all.push(pad([2, 2, 2, 2], new(3, 18, 7, 10, 70, 5, 5)));
    all.push(pad([4, 0, 1, 3], new(1, 70, 5, 118, 17, 5, 5)));
    // few channels of which two taps are summed together
    all.push(new(2, 6, 9, 10, 16, 5, 5));
    all.push(groups(2, new(2, 14, 6, 11, 20, 3, 3)));
    // layouts that are the same: one channel each, one pixel each, and windows of which one tap reads it
    all.push(pad([1, 1, 1, 1], new(3, 1, 9, 20, 1, 3, 3)));
    all.push(stride(2, 2, new(2, 1, 8, 9, 1, 2, 2)));
    all.push(new(37, 19, 1, 1, 33, 1, 1));
    all.push(groups(2, new(5, 34, 1, 1, 6, 1, 1)));
    all.push(pad([1, 1, 1, 1], new(5, 20, 1, 1, 17, 3, 3)));
    // images of NHWC that are joined, and single pixels with few outputs
    all.push(new(3, 17, 5, 7, 18, 1, 1));
    all.push(new(2, 40, 6, 9, 1, 1, 1));
    all.push(new(2, 1, 6, 9, 40, 1, 1));
    // dx by columns: more than four phases, windows larger than a block of products, and windows that leave
    // most of the image's taps without a result
    all.push(stride(3, 3, pad([2, 0, 1, 3], new(5, 3, 14, 37, 18, 5, 4))));
    all.push(stride(3, 17, dilation(2, 1, pad([1, 1, 2, 2], new(2, 5, 11, 40, 3, 3, 5)))));
    all.push(stride(1, 20, new(3, 2, 3, 61, 7, 3, 24)));
    all.push(groups(2, stride(4, 4, pad([1, 1, 1, 1], new(3, 6, 9, 13, 20, 3, 3)))));
    all.push(stride(3, 3, new(2, 70, 9, 10, 3, 2, 2)));
    all.push(new(2, 1, 23, 24, 5, 20, 21));
    all.push(pad([1, 0, 0, 2], new(3, 2, 9, 10, 33, 8, 7)));
    // patches of one element whose rows and columns are the same matrix
    all.push(stride(5, 5, new(3, 1, 4, 37, 20, 1, 1)));
    all.push(stride(3, 4, pad([0, 1, 2, 0], new(2, 1, 12, 29, 3, 1, 1))));
    // depthwise kernels that read in place: around the edges of vectors, pairs of them and blocks of
    // rows, and with taps that reach beyond the image on both sides at once
    for columns in EDGES {
        all.push(groups(3, pad([1, 1, 1, 1], new(2, 3, 17, columns, 3, 3, 3))));
        all.push(groups(2, pad([3, 1, 1, 4], new(3, 2, columns, 18, 2, 5, 5))));
        // the same at stride 2, in pairs of rows and columns; the padding odd or even
        let strided = |params| stride(2, 2, params);
        all.push(groups(3, strided(pad([1, 1, 1, 1], new(2, 3, 37, columns, 3, 3, 3)))));
        all.push(groups(3, strided(pad([0, 1, 2, 1], new(2, 3, 8, columns, 3, 3, 3)))));
        all.push(groups(2, strided(pad([3, 2, 1, 4], new(3, 2, columns, 35, 2, 5, 5)))));
        all.push(groups(2, strided(pad([2, 2, 4, 1], new(3, 2, columns, 18, 2, 5, 5)))));
    }
    all.push(groups(2, pad([0, 2, 5, 0], new(2, 2, 3, 1, 2, 3, 3))));
    // depthwise kernels that know their taps, with rows of some vectors and of less than one
    for columns in [3, 21, 70] {
        all.push(groups(4, pad([1, 1, 1, 1], new(2, 4, 9, columns, 4, 3, 3))));
        all.push(groups(3, stride(2, 2, pad([2, 2, 2, 2], new(2, 3, 9, columns, 3, 5, 5)))));
    }
    // depthwise kernels with channels in the lanes: pairs of vectors, single ones and parts of one, every
    // number of columns that no padding touches, and pixels that compete for the cache's sets
    for channels in EDGES {
        all.push(groups(channels, pad([1, 1, 1, 1], new(2, channels, 4, 9, channels, 3, 3))));
        let strided = stride(2, 2, pad([1, 0, 2, 1], new(1, channels, 7, 19, channels, 3, 3)));
        all.push(groups(channels, strided));
    }
    for columns in 1..=15 {
        all.push(groups(17, pad([2, 1, 1, 2], new(1, 17, 3, columns, 17, 3, 3))));
    }
    all.push(groups(512, pad([1, 1, 1, 1], new(1, 512, 3, 7, 512, 3, 3))));
    // and that are copied for dw: some rows of an image at a time, and of a short one
    let tall = new(2, 1024, 17, 20, 1024, 3, 3);
    all.push(groups(1024, pad([1, 1, 0, 2], tall)));
    all.push(groups(1024, stride(2, 2, pad([2, 2, 1, 3], new(3, 1024, 4, 5, 1024, 3, 5)))));
    // dw whose panels are packed once for all tasks, in two depth blocks, and more of them than are packed at once
    all.push(new(6, 1032, 9, 9, 522, 1, 1));
    all.push(stride(2, 2, new(6, 1032, 17, 17, 522, 1, 1)));
    // small images taken together, whose phases of dx are interleaved, and that lie side by side in a copy
    all.push(stride(2, 2, pad([1; 4], new(9, 128, 14, 13, 40, 3, 3))));
    all.push(stride(2, 2, pad([1; 4], new(17, 128, 8, 7, 40, 3, 3))));
    // dx in cells of 2x2 pixels, whole ones and parts at each side
    for columns in 3..=18 {
        for padding in [[1; 4], [0, 1, 0, 1], [2, 0, 2, 2]] {
            all.push(groups(17, stride(2, 2, pad(padding, new(1, 17, 5, columns, 17, 3, 3)))));
        }
    }
    // groups of few channels side by side in the lanes, of y's or of dx's: whole vectors of them and parts of
    // one, tiles of all sizes, strides and dilation
    for (few, many) in [(1, 2), (2, 2), (2, 4), (3, 4), (4, 4), (1, 8), (5, 8), (8, 8)] {
        for count in [16 / many, 9, 35] {
            let (few, many) = (count * few, count * many);
            all.push(groups(count, pad([1; 4], new(2, few, 4, 9, many, 3, 3))));
            all.push(groups(
                count,
                stride(2, 2, pad([1, 0, 2, 1], new(1, many, 7, 12, few, 3, 3))),
            ));
        }
        let (few, many) = (17 * few, 17 * many);
        all.push(groups(17, dilation(2, 1, pad([2, 2, 3, 3], new(1, few, 5, 6, many, 2, 4)))));
        all.push(groups(17, stride(3, 1, pad([0, 1, 1, 0], new(3, many, 6, 5, few, 1, 2)))));
    }
    all.push(groups(40, pad([1; 4], new(3, 160, 11, 15, 320, 3, 3))));
    // single pixels with padding, whose copy begins in memory as far behind the kernel's zeros as the padding is long
    all.push(groups(12, pad([2; 4], new(3, 12, 10, 39, 12, 1, 1))));
    // depthwise kernels on copied panels of channels: a part of one, several, rows of few pixels and of
    // many, phases of every number, windows that lie beyond the image, and several bands
    for channels in [8, 15, 16, 17, 40] {
        let new = |rows, columns, kernel_height, kernel_width| {
            let batch = if channels == 17 { 3 } else { 1 };
            new(batch, channels, rows, columns, channels, kernel_height, kernel_width)
        };
        all.push(groups(channels, pad([3, 3, 3, 3], new(7, 9, 7, 7))));
        all.push(groups(channels, pad([1, 6, 8, 2], new(4, 19, 6, 7))));
        all.push(groups(channels, dilation(2, 3, pad([2, 1, 3, 2], new(6, 17, 3, 3)))));
        all.push(groups(channels, stride(3, 2, pad([1, 2, 2, 0], new(8, 11, 3, 4)))));
        all.push(groups(channels, stride(4, 4, dilation(2, 2, new(9, 34, 3, 2)))));
        all.push(groups(channels, stride(4, 3, new(9, 7, 2, 2))));
        all.push(groups(channels, pad([2, 2, 2, 2], new(5, 8, 5, 5))));
    }
    all.push(groups(9, pad([3, 3, 1, 1], new(2, 9, 100, 70, 9, 7, 3))));
    all.push(groups(20, stride(3, 3, pad([1, 1, 1, 1], new(1, 20, 130, 81, 20, 4, 4)))));
    all.push(groups(20, pad([0, 0, 4, 4], new(1, 20, 130, 30, 20, 3, 9))));
    all
}

/// A random convolution of at most `products` products.
pub fn random_conv(random: &mut Random, products: usize) -> Conv2dParams {
    loop {
        let mut p = random_window(random);
        p.groups = 1;
        (p.in_channels, p.out_channels) = (random.pick(&EDGES), random.pick(&EDGES));
        match random.within(0..=9) {
            0 | 1 => {
                p.groups = random.within(2..=5);
                p.in_channels = p.groups * random.within(1..=9);
                p.out_channels = p.groups * random.within(1..=18);
            }
            2 | 3 => {
                p.groups = p.in_channels;
                p.out_channels = p.in_channels * random.pick(&[1, 1, 1, 2, 3]);
            }
            _ => {}
        }
        p.filter_layout = random.pick(&FILTER_LAYOUTS);
        if !fits(&p) {
            continue;
        }
        let conv = Conv::new(&p);
        let sum_len = p.in_channels / p.groups * p.kernel_height * p.kernel_width;
        if conv.y_len() * sum_len <= products {
            return p;
        }
    }
}

/// Shapes for im2col alone: kernels wider than the taps that are added at a time, windows wide apart, and windows
/// whose rows no cache holds.
pub fn im2col_edges() -> Vec<Conv2dParams> {
    let new = Conv2dParams::new;
    vec![
        pad([0, 0, 3, 2], new(1, 2, 5, 40, 1, 2, 37)),
        stride(1, 2, pad([1, 0, 4, 4], new(2, 3, 4, 45, 1, 2, 35))),
        stride(1, 5, pad([0, 0, 9, 1], new(1, 2, 3, 150, 1, 2, 90))),
        dilation(1, 2, pad([0, 0, 7, 8], new(1, 5, 3, 60, 1, 1, 20))),
        stride(2, 3, dilation(1, 2, pad([0, 0, 7, 8], new(1, 5, 3, 90, 1, 1, 25)))),
        stride(3, 20, new(2, 3, 7, 64, 1, 2, 18)),
        stride(16, 16, new(1, 3, 32, 48, 1, 16, 16)),
        new(1, 1, 39, 60, 1, 20, 20),
        // Small images beside each other, in several tasks.
        pad([1, 1, 1, 1], new(5, 150, 7, 7, 1, 3, 3)),
        stride(2, 2, pad([1, 0, 0, 1], new(3, 70, 8, 9, 1, 3, 3))),
        // Windows of some width, inside x and beyond.
        new(2, 3, 9, 14, 1, 5, 5),
        new(1, 1, 12, 9, 1, 2, 8),
        stride(4, 4, pad([2, 2, 2, 2], new(1, 3, 39, 35, 1, 11, 11))),
        pad([9, 9, 9, 9], new(1, 2, 3, 4, 1, 7, 7)),
        // Much padding between few windows.
        stride(50, 60, pad([60, 60, 70, 70], new(1, 2, 3, 4, 1, 5, 5))),
        stride(1, 900, pad([0, 0, 900, 905], new(1, 2, 6, 4, 1, 5, 6))),
    ]
}

/// A random shape for im2col, of at most `cells` cells.
pub fn random_im2col(random: &mut Random, cells: usize) -> Conv2dParams {
    loop {
        let mut p = random_window(random);
        p.in_channels = random.pick(&EDGES);
        if fits(&p) && Conv::new(&p).col_len() <= cells {
            return p;
        }
    }
}

/// Everything but the channels; it may not fit.
fn random_window(random: &mut Random) -> Conv2dParams {
    let batch = random.pick(&[1, 1, 1, 2, 2, 3, 5]);
    let (in_height, in_width) = (random.within(1..=20), random.within(1..=36));
    let (kernel_height, kernel_width) = random.pick(&[
        (1, 1),
        (1, 1),
        (3, 3),
        (3, 3),
        (3, 3),
        (2, 2),
        (5, 5),
        (1, 7),
        (7, 1),
        (4, 3),
    ]);
    let mut p = Conv2dParams::new(batch, 1, in_height, in_width, 1, kernel_height, kernel_width);
    if random.once_in(2) {
        p = stride(random.within(1..=3), random.within(1..=3), p);
    }
    if random.once_in(4) {
        p = dilation(random.within(1..=3), random.within(1..=3), p);
    }
    match random.within(0..=3) {
        0 => {}
        1 | 2 => p = pad([p.kernel_height / 2; 4], p),
        _ => {
            p = pad([(); 4].map(|()| random.within(0..=p.kernel_height.max(p.kernel_width) + 1)), p)
        }
    }
    p.layout = random.pick(&LAYOUTS);
    p
}

fn fits(p: &Conv2dParams) -> bool {
    (p.kernel_height - 1) * p.dilation_height < p.in_height + p.pad_top + p.pad_bottom
        && (p.kernel_width - 1) * p.dilation_width < p.in_width + p.pad_left + p.pad_right
}

/// Poolings at an edge in one respect each, in both layouts and with both kinds of padding.
pub fn pool_edges() -> Vec<Pool2dParams> {
    let new = Pool2dParams::new;
    let mut all = vec![
        new(0, 3, 4, 4, 2, 2),
        new(1, 1, 1, 1, 1, 1),
        new(2, 3, 5, 4, 5, 4),
        new(1, 2, 7, 9, 3, 1),
        new(1, 2, 7, 9, 1, 3),
        new(1, 3, 20, 17, 16, 16),
        Pool2dParams { ceil_mode: true, ..new(2, 3, 7, 9, 2, 2) },
        Pool2dParams {
            ceil_mode: true,
            stride_height: 2,
            stride_width: 3,
            ..new(1, 5, 8, 9, 3, 4)
        },
        // a window rounded up that would start in the trailing padding does not exist
        Pool2dParams { ceil_mode: true, stride_height: 4, pad_bottom: 1, ..new(1, 2, 4, 5, 2, 2) },
        // padding as large as the window and larger: some windows lie in the padding
        Pool2dParams {
            pad_top: 10,
            pad_bottom: 10,
            pad_left: 10,
            pad_right: 10,
            ..new(2, 5, 9, 8, 5, 5)
        },
        Pool2dParams { pad_left: 4, pad_bottom: 3, ..new(1, 4, 5, 6, 2, 2) },
        Pool2dParams { pad_top: 1, pad_right: 2, dilation_height: 2, ..new(1, 3, 9, 8, 3, 2) },
        Pool2dParams {
            dilation_height: 2,
            dilation_width: 3,
            stride_height: 1,
            stride_width: 2,
            ..new(2, 3, 10, 13, 3, 3)
        },
        Pool2dParams { stride_height: 3, stride_width: 4, ..new(1, 6, 11, 17, 2, 2) },
    ];
    for edge in EDGES {
        let overlapping = |params: Pool2dParams| Pool2dParams {
            stride_height: 2,
            stride_width: 2,
            pad_top: 1,
            pad_bottom: 1,
            pad_left: 1,
            pad_right: 1,
            ..params
        };
        all.push(new(1, 2, 4, 2 * edge, 2, 2));
        all.push(new(2, edge, 4, 5, 2, 2));
        all.push(overlapping(new(1, 3, 7, edge, 3, 3)));
        all.push(overlapping(new(1, edge, 6, 7, 3, 3)));
        all.push(Pool2dParams { stride_width: 1, ..overlapping(new(1, 2, 5, edge, 3, 3)) });
    }
    let mut variants = Vec::new();
    for params in all {
        for layout in LAYOUTS {
            for padding in [PoolPadding::Excluded, PoolPadding::Zero] {
                variants.push(Pool2dParams { layout, padding, ..params });
            }
        }
    }
    variants
}

/// A random pooling of at most `cells` cells in its windows.
pub fn random_pool(random: &mut Random, cells: usize) -> Pool2dParams {
    loop {
        let window = random_window(random);
        if !fits(&window) {
            continue;
        }
        let params = Pool2dParams {
            batch: window.batch,
            channels: random.pick(&EDGES),
            in_height: window.in_height,
            in_width: window.in_width,
            kernel_height: window.kernel_height,
            kernel_width: window.kernel_width,
            stride_height: random.pick(&[window.stride_height, window.kernel_height]),
            stride_width: random.pick(&[window.stride_width, window.kernel_width]),
            pad_top: window.pad_top,
            pad_bottom: window.pad_bottom,
            pad_left: window.pad_left,
            pad_right: window.pad_right,
            dilation_height: window.dilation_height,
            dilation_width: window.dilation_width,
            ceil_mode: random.once_in(2),
            padding: random.pick(&[PoolPadding::Excluded, PoolPadding::Zero]),
            layout: window.layout,
        };
        if Pool::new(&params).y_len() * params.kernel_height * params.kernel_width <= cells {
            return params;
        }
    }
}

/// A pooling of a convolution's output.
pub fn pool_of(params: &Conv2dParams, kernel: usize, stride: usize, pad: usize) -> Pool2dParams {
    let (height, width) = params.output_size().expect("a valid convolution");
    Pool2dParams {
        stride_height: stride,
        stride_width: stride,
        pad_top: pad,
        pad_bottom: pad,
        pad_left: pad,
        pad_right: pad,
        layout: params.layout,
        ..Pool2dParams::new(params.batch, params.out_channels, height, width, kernel, kernel)
    }
}

/// A random one.
pub fn random_pool_of(params: &Conv2dParams, random: &mut Random) -> Pool2dParams {
    loop {
        let mut pool = pool_of(params, 1, 1, 0);
        let usual = random.pick(&[[2, 2, 0], [2, 2, 0], [3, 2, 0], [3, 2, 1], [3, 1, 1]]);
        [pool.kernel_height, pool.stride_height, pool.pad_top] = usual;
        [pool.kernel_width, pool.stride_width, pool.pad_left] = usual;
        [pool.pad_bottom, pool.pad_right] = [pool.pad_top, pool.pad_left];
        if random.once_in(2) {
            (pool.kernel_height, pool.kernel_width) = (random.within(1..=5), random.within(1..=4));
            (pool.stride_height, pool.stride_width) = (random.within(1..=6), random.within(1..=3));
            pool.dilation_height = random.pick(&[1, 1, 2]);
            pool.pad_top = random.within(0..=pool.kernel_height);
            pool.pad_bottom = random.within(0..=pool.kernel_height);
            pool.pad_left = random.within(0..=1);
        }
        pool.ceil_mode = random.once_in(3);
        pool.padding = random.pick(&[PoolPadding::Excluded, PoolPadding::Zero]);
        if pool.output_size().is_ok() {
            return pool;
        }
    }
}

/// Rows and columns as they lie.
pub fn lies(transpose: Transpose, rows: usize, columns: usize) -> [usize; 2] {
    match transpose {
        Transpose::No => [rows, columns],
        Transpose::Yes => [columns, rows],
    }
}

/// A product whose leading dimensions are `slack` elements larger than a row.
pub fn gemm_params(
    transa: Transpose,
    transb: Transpose,
    [m, n, k]: [usize; 3],
    slack: [usize; 3],
) -> GemmParams {
    GemmParams {
        transa,
        transb,
        m,
        n,
        k,
        lda: lies(transa, m, k)[1].max(1) + slack[0],
        ldb: lies(transb, k, n)[1].max(1) + slack[1],
        ldc: n.max(1) + slack[2],
    }
}

/// [m, n, k] at the edges of register tiles and K blocks, and with an extent of 0.
pub fn gemm_edges() -> Vec<[usize; 3]> {
    let mut all = vec![[0, 3, 4], [3, 0, 4], [3, 4, 0], [0, 0, 0]];
    for edge in EDGES {
        all.extend([[edge, 5, 3], [5, edge, 3], [7, 17, edge], [edge, edge, 9]]);
    }
    for k in [255, 391, 392, 393, 783, 784, 785] {
        all.extend([[1, 1, k], [7, 17, k], [15, 33, k]]);
    }
    // several blocks of rows and of columns, and of both with several of the sums
    all.extend([[97, 3, 20], [253, 5, 7], [505, 17, 3], [3, 300, 20], [29, 521, 12], [5, 1025, 2]]);
    all.extend([[61, 130, 300], [145, 33, 257], [255, 9, 255]]);
    // few columns with long sums; parts of the rows that share a panel of columns
    all.extend([[20, 2, 400], [30, 4, 393], [15, 3, 1000], [260, 20, 400], [505, 70, 40]]);
    // vectors, and sums of few products along rows of C: whole vectors, and what is left
    for long in [95, 96, 97, 191, 192, 193, 390] {
        all.extend([[1, long, 21], [long, 1, 21], [3, long, 1], [7, long, 8], [2, long, 9]]);
    }
    // rows of C so long that B is taken in parts
    all.extend([[3, 2901, 4], [9, 1503, 8]]);
    all
}

/// A random [m, n, k] of at most `products` products.
pub fn random_gemm(random: &mut Random, products: usize) -> [usize; 3] {
    loop {
        let mut extent = || match random.within(0..=2) {
            0 => random.pick(&EDGES),
            1 => random.within(1..=40),
            _ => random.within(1..=540),
        };
        let sizes = [extent(), extent(), extent()];
        if sizes.iter().product::<usize>() <= products {
            return sizes;
        }
    }
}
