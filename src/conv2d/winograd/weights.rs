//! dw, by F(3x3, 4x4): the gradients of the outputs take the filters' place, tile by tile. db is summed
//! from the same rows.
//!
//! At each point it is a matrix product over all tiles. These are cut by the shape alone and added in
//! their order, so that dw has the same bits on any number of threads.

use super::source::{CHUNK, Images, TransformTiles, strip_len};
use super::tiles::{Tiles, spread};
use super::transforms::{self, MOST_TAPS, PLANES, POINTS, outputs_of};
use crate::context::Context;
use crate::conv2d::backward_weights::{BackwardWeights, updated};
use crate::conv2d::gradient::Gradient;
use crate::error::Result;
use crate::gemm::in_place::InPlaceProduct;
use crate::gemm::pack::TileShape;
use crate::pool2d::Region;
use crate::runs;
use crate::scratch::ScratchLen;
use crate::shape::ConvShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Output channels of a product's task.
const TASK_OUTPUTS: usize = 64;
/// Tiles that are summed in registers; the sums of such blocks are then added.
const BLOCK_TILES: usize = 128;
/// Filters of which one task makes the taps, about.
const TASK_FILTERS: usize = 256;

/// How the tiles and the sums lie in scratch memory: x at the points, dy at the points, the sums.
#[derive(Clone, Copy)]
struct Plan {
    tiles: Tiles,
    segments_together: usize,
    inputs: usize,
    outputs: usize,
}

impl Plan {
    fn new<T>(shape: &ConvShape) -> Self {
        let extent = outputs_of(shape.height.kernel);
        let tiles = Tiles::new(shape.batch, [shape.out_height, shape.out_width], extent);
        let (inputs, outputs) = (shape.group_in, shape.group_out);
        let tile_bytes = PLANES * (spread(inputs) + spread(outputs)) * size_of::<T>();
        Plan { tiles, segments_together: tiles.together(tile_bytes), inputs, outputs }
    }

    /// Elements from point to point of tiles with so many channels.
    fn tiles_plane(&self, channels: usize) -> usize {
        spread(self.segments_together * self.tiles.part_tiles * spread(channels))
    }

    /// Elements from point to point of the sums, a row of input channels per output channel.
    fn sums_plane(&self) -> usize {
        spread(self.outputs * spread(self.inputs))
    }

    /// Where the tiles of dy and the sums of dw begin, those of db, and where these end: for each segment,
    /// and in all, a row of channels.
    fn parts(&self) -> [usize; 4] {
        let gradient = PLANES * self.tiles_plane(self.inputs);
        let sums = gradient + PLANES * self.tiles_plane(self.outputs);
        let channel_sums = sums + PLANES * self.sums_plane();
        [
            gradient,
            sums,
            channel_sums,
            channel_sums + (self.segments_together + 1) * spread(self.outputs),
        ]
    }

    /// A slot has a strip, and a region of dy behind it.
    fn scratch_len<T: Element>(&self, dy: &Gradient<'_, T>) -> ScratchLen {
        let region = dy.scratch_len(CHUNK.min(self.outputs), self.tiles.extent);
        // A tile of dy is smaller.
        let strip = strip_len::<POINTS>(&self.tiles);
        ScratchLen { shared: self.parts()[3], per_slot: strip + region }
    }
}

pub(in crate::conv2d) fn scratch_len<T: Element>(shape: &ConvShape) -> ScratchLen {
    Plan::new::<T>(shape).scratch_len(&Gradient::<T>::none())
}

/// Computes dw, and db where it is wanted, of windows that fit.
pub(in crate::conv2d) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    x: &[T],
    dw: &mut [T],
    db: Option<&mut [T]>,
) -> Result<()> {
    match shape.height.kernel {
        3 => run_tiles::<T, 4, 3>(context, shape, pass, x, dw, db),
        _ => run_tiles::<T, 2, 5>(context, shape, pass, x, dw, db),
    }
}

fn run_tiles<T: Element, const OUTPUTS: usize, const TAPS: usize>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    x: &[T],
    dw: &mut [T],
    db: Option<&mut [T]>,
) -> Result<()> {
    let level = context.level();
    let plan = Plan::new::<T>(shape);
    let scratch = context.scratch::<T>(plan.scratch_len(&pass.gradient))?;
    let tiles = &plan.tiles;
    let pads = [shape.height.pad_before, shape.width.pad_before];
    let sources = Images {
        start: x.as_ptr(),
        relu_output: std::ptr::null(),
        strides: shape.input_strides,
        first: pads.map(|pad| -(pad as isize)),
        extents: [shape.height.input, shape.width.input],
    };
    let (dw, db) = (SharedMut::new(dw), db.map(SharedMut::new));
    let (inputs, outputs) = (plan.inputs, plan.outputs);
    let (source_stride, gradient_stride) = (spread(inputs), spread(outputs));
    let [gradient_start, sums_start, channels_start, _] = plan.parts();
    let source_chunks = inputs.div_ceil(CHUNK);
    let chunks = source_chunks + outputs.div_ceil(CHUNK);
    let output_blocks = outputs.div_ceil(TASK_OUTPUTS);
    let lanes = TileShape::of::<T>(level).lanes;
    let columns = inputs.next_multiple_of(lanes);
    // A segment's sums of db; number 0 is for those of all segments.
    let channel_sums =
        |row: usize| scratch.shared().wrapping_add(channels_start + row * gradient_stride);
    for group in 0..shape.groups {
        for first in (0..tiles.segments).step_by(plan.segments_together) {
            let segments = plan.segments_together.min(tiles.segments - first);
            let first_tile = tiles.first_tile(first);
            context.run(segments * chunks, &|slot, task| {
                let (number, chunk) = (first + task / chunks, task % chunks);
                let segment = tiles.segment(number);
                let tile = segment.first - first_tile;
                let strip = scratch.slot(slot);
                match chunk.checked_sub(source_chunks) {
                    None => {
                        let channel = chunk * CHUNK;
                        let transform = TransformTiles::<T, POINTS> {
                            images: &sources,
                            tiles,
                            segment,
                            group_first: group * inputs,
                            channels: (channel, CHUNK.min(inputs - channel)),
                            strip,
                            target: scratch.shared().wrapping_add(tile * source_stride),
                            tile_stride: source_stride,
                            plane: plan.tiles_plane(inputs),
                            channel_sums: std::ptr::null_mut(),
                        };
                        T::dispatch(level, transform);
                    }
                    Some(chunk) => {
                        let channel = chunk * CHUNK;
                        let place = gradient_start + tile * gradient_stride;
                        let sums = db.map(|_| channel_sums(1 + number - first));
                        let channels = CHUNK.min(outputs - channel);
                        let first_channel = group * outputs + channel;
                        let region = Region {
                            image: segment.image,
                            channels: first_channel..first_channel + channels,
                            rows: segment.row..shape.out_height.min(segment.row + OUTPUTS),
                        };
                        // SAFETY: dy has the region, and behind the strip there is memory for it.
                        let view = unsafe {
                            let memory = strip.add(strip_len::<POINTS>(tiles));
                            pass.gradient.view(shape, &region, memory)
                        };
                        let gradients = Images {
                            start: view.dy,
                            relu_output: view.relu_output,
                            strides: view.strides,
                            first: [0, 0],
                            extents: [shape.out_height, shape.out_width],
                        };
                        let transform = TransformTiles::<T, OUTPUTS> {
                            images: &gradients,
                            tiles,
                            segment,
                            group_first: group * outputs,
                            channels: (channel, channels),
                            strip,
                            target: scratch.shared().wrapping_add(place),
                            tile_stride: gradient_stride,
                            plane: plan.tiles_plane(outputs),
                            channel_sums: sums.unwrap_or(std::ptr::null_mut()),
                        };
                        T::dispatch(level, transform);
                    }
                }
            });
            let count = tiles.first_tile(first + segments) - first_tile;
            let blocks = count.div_ceil(BLOCK_TILES);
            let block = count.div_ceil(blocks.max(1)).max(1);
            context.run(PLANES * output_blocks + usize::from(db.is_some()), &|_, task| {
                if task == PLANES * output_blocks {
                    let add = AddRows {
                        rows: channel_sums(1),
                        count: segments,
                        stride: gradient_stride,
                        len: outputs.next_multiple_of(lanes),
                        target: channel_sums(0),
                        overwrites: first == 0,
                    };
                    T::dispatch(level, add);
                    return;
                }
                let (point, output) = (task / output_blocks, task % output_blocks * TASK_OUTPUTS);
                let source = point * plan.tiles_plane(inputs);
                let gradient = gradient_start + point * plan.tiles_plane(outputs) + output;
                let sums = sums_start + point * plan.sums_plane() + output * source_stride;
                for tile in (0..count).step_by(block) {
                    let is_first = first + tile == 0;
                    let product = InPlaceProduct {
                        m: TASK_OUTPUTS.min(outputs - output),
                        n: columns,
                        k: block.min(count - tile),
                        alpha: T::from_f64(1.0),
                        a: scratch.shared().wrapping_add(gradient + tile * gradient_stride),
                        a_strides: [1, gradient_stride],
                        b: scratch.shared().wrapping_add(source + tile * source_stride),
                        ldb: source_stride,
                        beta: if is_first { T::default() } else { T::from_f64(1.0) },
                        c: scratch.shared().wrapping_add(sums),
                        ldc: source_stride,
                    };
                    T::dispatch(level, product);
                }
            });
        }
        let rows = (TASK_FILTERS / inputs).max(1);
        context.run(outputs.div_ceil(rows), &|_, task| {
            let first = task * rows;
            let taps = FilterTaps::<T, TAPS> {
                plan: &plan,
                shape,
                group,
                outputs: (first, rows.min(outputs - first)),
                sums: scratch.shared().wrapping_add(sums_start),
                target: dw,
                alpha: pass.dw_alpha,
                beta: pass.dw_beta,
            };
            T::dispatch(level, taps);
        });
        for output in 0..db.map_or(0, |_| outputs) {
            let db = db.expect("wanted").at(group * outputs + output);
            // SAFETY: the sums have the outputs, and so has db, which nobody else uses.
            unsafe {
                let value = pass.db_alpha * *channel_sums(0).add(output);
                *db = match pass.db_beta == T::default() {
                    true => value,
                    false => value + pass.db_beta * *db,
                };
            }
        }
    }
    Ok(())
}

/// Adds rows, `stride` apart, up in their order, and to the target or instead of it.
struct AddRows<T> {
    rows: *const T,
    count: usize,
    stride: usize,
    /// Whole vectors.
    len: usize,
    target: *mut T,
    overwrites: bool,
}

impl<T: Element> Kernel<T> for AddRows<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for place in (0..self.len).step_by(S::LANES) {
            // SAFETY: the rows and the target have `len` elements.
            unsafe {
                let target = self.target.add(place);
                let mut sum = simd.splat(T::default());
                if !self.overwrites {
                    sum = simd.load(target);
                }
                for row in 0..self.count {
                    sum = simd.add(sum, simd.load(self.rows.add(row * self.stride + place)));
                }
                simd.store(target, sum);
            }
        }
    }
}

/// Makes the taps of some output channels' filters, and updates dw with them.
struct FilterTaps<'a, T, const TAPS: usize> {
    plan: &'a Plan,
    shape: &'a ConvShape,
    group: usize,
    /// First and number, in the group.
    outputs: (usize, usize),
    sums: *const T,
    target: SharedMut<'a, T>,
    alpha: T,
    beta: T,
}

impl<T: Element, const TAPS: usize> Kernel<T> for FilterTaps<'_, T, TAPS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let plan = self.plan;
        let [w_out, w_in, w_row, w_column] = self.shape.filter_strides();
        let mut by_tap = [T::default(); MOST_TAPS * MOST_TAPS * TILE_LANES];
        let mut by_filter = by_tap;
        for output in self.outputs.0..self.outputs.0 + self.outputs.1 {
            let filters = (self.group * plan.outputs + output) * w_out;
            for input in (0..plan.inputs).step_by(S::LANES) {
                let count = S::LANES.min(plan.inputs - input);
                // SAFETY: the sums have these channels, rounded up to vectors; dw has the filters, and
                // this task alone uses those of its outputs.
                unsafe {
                    let sums = self.sums.add(output * spread(plan.inputs) + input);
                    transform::<T, S, TAPS>(simd, sums, plan.sums_plane(), by_tap.as_mut_ptr());
                    if [w_in, w_row, w_column] == [TAPS * TAPS, TAPS, 1] {
                        let extents = [TAPS * TAPS, count];
                        let (source, target) = (by_tap.as_ptr(), by_filter.as_mut_ptr());
                        runs::transpose(simd, extents, source, TILE_LANES, target, w_in);
                        let target = self.target.at(filters + input * w_in);
                        self.update(simd, by_filter.as_ptr(), target, 1, count * w_in);
                        continue;
                    }
                    for tap in 0..TAPS * TAPS {
                        let (row, column) = (tap / TAPS, tap % TAPS);
                        let place = filters + input * w_in + row * w_row + column * w_column;
                        let source = by_tap.as_ptr().add(tap * TILE_LANES);
                        self.update(simd, source, self.target.at(place), w_in, count);
                    }
                }
            }
        }
    }
}

impl<T: Element, const TAPS: usize> FilterTaps<'_, T, TAPS> {
    /// Updates `count` elements of dw, `stride` apart, with as many sums.
    ///
    /// # Safety
    /// There are as many of both, and nobody else uses dw's.
    #[inline(always)]
    unsafe fn update<S: Lanes<T>>(
        &self,
        simd: S,
        sums: *const T,
        target: *mut T,
        stride: usize,
        count: usize,
    ) {
        let overwrites = self.beta == T::default();
        // SAFETY: as the caller answers for.
        unsafe {
            if stride > 1 {
                for place in 0..count {
                    let target = target.add(place * stride);
                    *target = updated(self.alpha, *sums.add(place), self.beta, *target);
                }
                return;
            }
            let [alpha, beta] = [self.alpha, self.beta].map(|factor| simd.splat(factor));
            for place in (0..count).step_by(S::LANES) {
                let count = S::LANES.min(count - place);
                let target = target.add(place);
                let mut value = simd.mul(alpha, runs::load(simd, count, sums.add(place)));
                if !overwrites {
                    let old = runs::load(simd, count, target);
                    value = simd.add(value, simd.mul(beta, old));
                }
                runs::store(simd, count, target, value);
            }
        }
    }
}

/// Transforms the sums of one output and a vector of input channels to its taps, `TILE_LANES` apart.
///
/// # Safety
/// The source has POINTS * POINTS vectors, `of_point` apart; the target has TAPS * TAPS.
#[inline(always)]
unsafe fn transform<T: Element, S: Lanes<T>, const TAPS: usize>(
    simd: S,
    source: *const T,
    of_point: usize,
    target: *mut T,
) {
    let mut rows = [[simd.splat(T::default()); POINTS]; TAPS];
    // SAFETY: as the caller answers for.
    unsafe {
        for column in 0..POINTS {
            let mut products = [simd.splat(T::default()); POINTS];
            for (row, product) in products.iter_mut().enumerate() {
                *product = simd.load(source.add((row * POINTS + column) * of_point));
            }
            let results = transforms::interpolate::<T, S, TAPS>(simd, products);
            for (row, result) in rows.iter_mut().zip(results) {
                row[column] = result;
            }
        }
        for (row, &products) in rows.iter().enumerate() {
            let results = transforms::interpolate::<T, S, TAPS>(simd, products);
            for (column, &result) in results.iter().enumerate() {
                simd.store(target.add((row * TAPS + column) * TILE_LANES), result);
            }
        }
    }
}
