//! dw, by F(3x3, 4x4): the gradients of the outputs take the filters' place, tile by tile. db is summed
//! from the same rows.
//!
//! At each point it is a matrix product over all tiles. These are cut by the shape alone and added in
//! their order, so that dw has the same bits on any number of threads.

use std::ops::Range;

use super::source::{CHUNK, Images, TransformTiles, strip_len};
use super::taps::{AddRows, FilterTaps};
use super::tiles::{Tiles, spread};
use super::transforms::{PLANES, POINTS, outputs_of};
use crate::context::Context;
use crate::conv2d::backward_weights::{BackwardWeights, updated};
use crate::conv2d::gradient::Gradient;
use crate::error::Result;
use crate::gemm::in_place::InPlaceProduct;
use crate::gemm::pack::TileShape;
use crate::pool2d::Region;
use crate::scratch::{Scratch, ScratchLen};
use crate::shape::ConvShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Level};

/// Output channels of a product's task.
const TASK_OUTPUTS: usize = 64;
/// Tiles that are summed in registers; the sums of such blocks are then added.
const BLOCK_TILES: usize = 128;
/// Filters of which one task makes the taps, about.
const TASK_FILTERS: usize = 256;
/// Bytes of sums up to which a task has some tiles and their sums for itself, where there are so many tiles for
/// each part of them: both stay in the second-level cache, of the tiles about as many as `OWN_TILES`.
const OWN_SUMS: usize = 3 << 19;
const PART_TILES: usize = 2 * OWN_TILES;
const OWN_TILES: usize = 32;
/// The most parts, and the bytes of the sums of all.
const PARTS: usize = 16;
const SUMS_OF_PARTS: usize = 12 << 20;

/// How the tiles and the sums lie in scratch memory: x at the points, dy at the points, the sums.
#[derive(Clone, Copy)]
struct Plan {
    tiles: Tiles,
    /// Segments that are transformed together.
    segments_together: usize,
    /// Parts of the segments, each summed for itself by one task, if there is more than one.
    parts: usize,
    inputs: usize,
    outputs: usize,
}

impl Plan {
    fn new<T>(shape: &ConvShape) -> Self {
        let extent = outputs_of(shape.height.kernel);
        let tiles = Tiles::new(shape.batch, [shape.out_height, shape.out_width], extent);
        let (inputs, outputs) = (shape.group_in, shape.group_out);
        let mut plan = Plan { tiles, segments_together: 1, parts: 1, inputs, outputs };
        let many = tiles.first_tile(tiles.segments) >= PARTS * PART_TILES;
        let sums = plan.sums_len().saturating_mul(size_of::<T>());
        if many && sums <= OWN_SUMS {
            plan.segments_together = (OWN_TILES / tiles.part_tiles).max(1);
            plan.parts = (SUMS_OF_PARTS / sums).min(PARTS).min(tiles.segments);
        } else {
            let tile = PLANES * (spread(inputs) + spread(outputs));
            plan.segments_together = tiles.together(tile * size_of::<T>());
        }
        plan
    }

    /// The segments of a part.
    fn part(&self, number: usize) -> Range<usize> {
        let segments = self.tiles.segments;
        number * segments / self.parts..(number + 1) * segments / self.parts
    }

    /// Elements from point to point of tiles with so many channels.
    fn tiles_plane(&self, channels: usize) -> usize {
        spread(self.segments_together * self.tiles.part_tiles * spread(channels))
    }

    /// Elements from point to point of the sums, a row of input channels per output channel.
    fn sums_plane(&self) -> usize {
        spread(self.outputs * spread(self.inputs))
    }

    /// Where the tiles of dy begin, behind those of x.
    fn gradient_start(&self) -> usize {
        PLANES * self.tiles_plane(self.inputs)
    }

    /// Elements of the tiles of x and of dy that are transformed together.
    fn tiles_len(&self) -> usize {
        self.gradient_start() + PLANES * self.tiles_plane(self.outputs)
    }

    /// Chunks of the channels of x, and of dy behind them.
    fn chunks(&self) -> usize {
        self.inputs.div_ceil(CHUNK) + self.outputs.div_ceil(CHUNK)
    }

    /// Blocks of outputs.
    fn output_blocks(&self) -> usize {
        self.outputs.div_ceil(TASK_OUTPUTS)
    }

    /// Elements of a part's sums of dw.
    fn sums_len(&self) -> usize {
        PLANES * self.sums_plane()
    }

    /// Where the sums of dw begin in shared memory, behind the tiles where those are shared, and those of db: of
    /// all, and of each part or segment that these are summed with.
    fn places(&self) -> [usize; 2] {
        let sums = if self.parts > 1 { 0 } else { self.tiles_len() };
        [sums, sums + self.parts * self.sums_len()]
    }

    /// A slot has a strip, a region of dy behind it, and then the tiles and the segments' sums of db where those
    /// are its own.
    fn scratch_len<T: Element>(&self, dy: &Gradient<'_, T>) -> ScratchLen {
        let segments = self.segments_together * spread(self.outputs);
        let (own, rows) = match self.parts {
            1 => (0, self.segments_together),
            parts => (self.tiles_len() + segments, parts),
        };
        ScratchLen {
            shared: self.places()[1] + (rows + 1) * spread(self.outputs),
            per_slot: self.own_tiles_start(dy) + own,
        }
    }

    fn own_tiles_start<T: Element>(&self, dy: &Gradient<'_, T>) -> usize {
        // A tile of dy is smaller.
        let strip = strip_len::<POINTS>(&self.tiles);
        strip + dy.scratch_len(CHUNK.min(self.outputs), self.tiles.extent)
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
    let plan = Plan::new::<T>(shape);
    let scratch = context.scratch::<T>(plan.scratch_len(&pass.gradient))?;
    let pads = [shape.height.pad_before, shape.width.pad_before];
    let sources = Images {
        start: x.as_ptr(),
        relu_output: std::ptr::null(),
        strides: shape.input_strides,
        first: pads.map(|pad| -(pad as isize)),
        extents: [shape.height.input, shape.width.input],
    };
    let level = context.level();
    let lanes = TileShape::of::<T>(level).lanes;
    let with_db = db.is_some();
    let sums = Sums { level, lanes, shape, pass, plan, sources, scratch, with_db };
    let (dw, db) = (SharedMut::new(dw), db.map(SharedMut::new));
    for group in 0..shape.groups {
        match plan.parts {
            1 => sums.share::<OUTPUTS>(context, group),
            _ => sums.part::<OUTPUTS>(context, group),
        }
        let (inputs, outputs) = (plan.inputs, plan.outputs);
        let rows = (TASK_FILTERS / inputs).max(1);
        context.run(outputs.div_ceil(rows), &|_, task| {
            let first = task * rows;
            let taps = FilterTaps::<T, TAPS> {
                shape,
                group,
                outputs: (first, rows.min(outputs - first)),
                sums: sums.of_part(0),
                of_output: spread(inputs),
                of_point: plan.sums_plane(),
                parts: (plan.parts, plan.sums_len()),
                target: dw,
                alpha: pass.dw_alpha,
                beta: pass.dw_beta,
            };
            T::dispatch(level, taps);
        });
        for output in 0..db.map_or(0, |_| outputs) {
            let db = db.expect("wanted").at(group * outputs + output);
            // SAFETY: the sums have the outputs, and so has db, which nobody else uses.
            unsafe { *db = updated(pass.db_alpha, *sums.of_db(0).add(output), pass.db_beta, *db) };
        }
    }
    Ok(())
}

/// The sums over tiles, at each point, that filters are made of.
struct Sums<'a, T: Element> {
    level: Level,
    lanes: usize,
    shape: &'a ConvShape,
    pass: &'a BackwardWeights<'a, T>,
    plan: Plan,
    sources: Images<T>,
    scratch: Scratch<'a, T>,
    with_db: bool,
}

impl<T: Element> Sums<'_, T> {
    /// The sums of dw of a part.
    fn of_part(&self, part: usize) -> *mut T {
        let [first, _] = self.plan.places();
        self.scratch.shared().wrapping_add(first + part * self.plan.sums_len())
    }

    /// A row of sums of db: number 0 is for those of all segments, the others are added to it next.
    fn of_db(&self, row: usize) -> *mut T {
        let [_, first] = self.plan.places();
        self.scratch.shared().wrapping_add(first + row * spread(self.plan.outputs))
    }

    /// Sums a group's tiles in parts, each in a task that transforms its own.
    fn part<const OUTPUTS: usize>(&self, context: &Context, group: usize) {
        let plan = &self.plan;
        context.run(plan.parts, &|slot, part| {
            let strip = self.scratch.slot(slot);
            let tiles = strip.wrapping_add(plan.own_tiles_start(&self.pass.gradient));
            let segment_sums = |segment: usize| {
                tiles.wrapping_add(plan.tiles_len() + segment * spread(plan.outputs))
            };
            let segments = plan.part(part);
            for first in segments.clone().step_by(plan.segments_together) {
                let end = segments.end.min(first + plan.segments_together);
                for number in first..end {
                    for chunk in 0..plan.chunks() {
                        let memory = [strip, tiles, segment_sums(number - first)];
                        self.transform::<OUTPUTS>(group, (first, number), chunk, memory);
                    }
                }
                let count = plan.tiles.first_tile(end) - plan.tiles.first_tile(first);
                let begins = first == segments.start;
                for point in 0..PLANES {
                    for block in 0..plan.output_blocks() {
                        self.multiply(point, block, count, begins, tiles, self.of_part(part));
                    }
                }
                if self.with_db {
                    self.add_rows(segment_sums(0), end - first, self.of_db(1 + part), begins);
                }
            }
        });
        if self.with_db {
            self.add_rows(self.of_db(1), plan.parts, self.of_db(0), true);
        }
    }

    /// Sums a group's tiles some segments at a time: all tasks transform them, then each multiplies them at a
    /// point.
    fn share<const OUTPUTS: usize>(&self, context: &Context, group: usize) {
        let plan = &self.plan;
        let (chunks, blocks) = (plan.chunks(), plan.output_blocks());
        for first in (0..plan.tiles.segments).step_by(plan.segments_together) {
            let end = plan.tiles.segments.min(first + plan.segments_together);
            context.run((end - first) * chunks, &|slot, task| {
                let (number, chunk) = (first + task / chunks, task % chunks);
                let of_db = self.of_db(1 + number - first);
                let memory = [self.scratch.slot(slot), self.scratch.shared(), of_db];
                self.transform::<OUTPUTS>(group, (first, number), chunk, memory);
            });
            let count = plan.tiles.first_tile(end) - plan.tiles.first_tile(first);
            let begins = first == 0;
            context.run(PLANES * blocks + usize::from(self.with_db), &|_, task| {
                if task == PLANES * blocks {
                    return self.add_rows(self.of_db(1), end - first, self.of_db(0), begins);
                }
                let (point, block) = (task / blocks, task % blocks);
                self.multiply(point, block, count, begins, self.scratch.shared(), self.of_part(0));
            });
        }
    }

    /// Transforms a chunk of the channels of segment `number` to its place among the tiles from segment `first`
    /// on, and sums dy's pixels for db. `memory`: a strip, the tiles, and a row of sums.
    fn transform<const OUTPUTS: usize>(
        &self,
        group: usize,
        (first, number): (usize, usize),
        chunk: usize,
        [strip, transformed, of_db]: [*mut T; 3],
    ) {
        let Sums { level, shape, ref plan, .. } = *self;
        let tiles = &plan.tiles;
        let segment = tiles.segment(number);
        let tile = segment.first - tiles.first_tile(first);
        let Some(chunk) = chunk.checked_sub(plan.inputs.div_ceil(CHUNK)) else {
            let channel = chunk * CHUNK;
            let transform = TransformTiles::<T, POINTS> {
                images: &self.sources,
                tiles,
                segment,
                group_first: group * plan.inputs,
                channels: (channel, CHUNK.min(plan.inputs - channel)),
                strip,
                target: transformed.wrapping_add(tile * spread(plan.inputs)),
                tile_stride: spread(plan.inputs),
                plane: plan.tiles_plane(plan.inputs),
                channel_sums: std::ptr::null_mut(),
            };
            return T::dispatch(level, transform);
        };
        let channel = chunk * CHUNK;
        let channels = CHUNK.min(plan.outputs - channel);
        let first_channel = group * plan.outputs + channel;
        let region = Region {
            image: segment.image,
            channels: first_channel..first_channel + channels,
            rows: segment.row..shape.out_height.min(segment.row + OUTPUTS),
        };
        // SAFETY: dy has the region, and behind the strip there is memory for it.
        let view = unsafe {
            let memory = strip.add(strip_len::<POINTS>(tiles));
            self.pass.gradient.view(shape, &region, memory)
        };
        let gradients = Images {
            start: view.dy,
            relu_output: view.relu_output,
            strides: view.strides,
            first: [0, 0],
            extents: [shape.out_height, shape.out_width],
        };
        let place = plan.gradient_start() + tile * spread(plan.outputs);
        let transform = TransformTiles::<T, OUTPUTS> {
            images: &gradients,
            tiles,
            segment,
            group_first: group * plan.outputs,
            channels: (channel, channels),
            strip,
            target: transformed.wrapping_add(place),
            tile_stride: spread(plan.outputs),
            plane: plan.tiles_plane(plan.outputs),
            channel_sums: if self.with_db { of_db } else { std::ptr::null_mut() },
        };
        T::dispatch(level, transform);
    }

    /// Adds the products of `count` tiles at a point, of a block of outputs, to a part's sums; or begins these
    /// with them.
    fn multiply(
        &self,
        point: usize,
        block: usize,
        count: usize,
        begins: bool,
        tiles: *const T,
        sums: *mut T,
    ) {
        let plan = &self.plan;
        let (source_stride, gradient_stride) = (spread(plan.inputs), spread(plan.outputs));
        let output = block * TASK_OUTPUTS;
        let source = point * plan.tiles_plane(plan.inputs);
        let gradient = plan.gradient_start() + point * plan.tiles_plane(plan.outputs) + output;
        let sums = sums.wrapping_add(point * plan.sums_plane() + output * source_stride);
        let blocks = count.div_ceil(BLOCK_TILES);
        let together = count.div_ceil(blocks.max(1)).max(1);
        for tile in (0..count).step_by(together) {
            let product = InPlaceProduct {
                m: TASK_OUTPUTS.min(plan.outputs - output),
                n: plan.inputs.next_multiple_of(self.lanes),
                k: together.min(count - tile),
                alpha: T::from_f64(1.0),
                a: tiles.wrapping_add(gradient + tile * gradient_stride),
                a_strides: [1, gradient_stride],
                b: tiles.wrapping_add(source + tile * source_stride),
                ldb: source_stride,
                beta: if begins && tile == 0 { T::default() } else { T::from_f64(1.0) },
                c: sums,
                ldc: source_stride,
            };
            T::dispatch(self.level, product);
        }
    }

    /// Adds `count` rows of sums of db to another, or begins it with them.
    fn add_rows(&self, rows: *const T, count: usize, target: *mut T, begins: bool) {
        let add = AddRows {
            rows,
            count,
            stride: spread(self.plan.outputs),
            len: self.plan.outputs.next_multiple_of(self.lanes),
            target,
            overwrites: begins,
        };
        T::dispatch(self.level, add);
    }
}
