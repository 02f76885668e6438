//! A gathering pass, task by task.

use std::ops::Range;

use super::filters::TransformFilters;
use super::plan::{FILTER_TERMS, Plan};
use super::source::{CHUNK, Images, TransformTiles};
use super::target::{MultiplyBlock, WriteBlock};
use super::transforms::POINTS;
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::pack::TileShape;
use crate::scratch::Scratch;
use crate::simd::{Element, Level};

/// Runs a pass whose windows have `TAPS` rows, in tiles of `OUTPUTS`.
pub(super) fn run<T: Element, const OUTPUTS: usize, const TAPS: usize>(
    context: &Context,
    pass: &Gather<T>,
) -> Result<()> {
    let level = context.level();
    let plan = Plan::new(pass, TileShape::of::<T>(level));
    let scratch = context.scratch::<T>(plan.scratch_len())?;
    let images = Images::source_of(pass);
    let gathering = Gathering { level, pass, plan, images, scratch };
    for group in 0..pass.groups {
        gathering.run::<OUTPUTS, TAPS>(context, group);
    }
    Ok(())
}

struct Gathering<'a, T: Element> {
    level: Level,
    pass: &'a Gather<T>,
    plan: Plan,
    images: Images<T>,
    scratch: Scratch<'a, T>,
}

impl<T: Element> Gathering<'_, T> {
    fn run<const OUTPUTS: usize, const TAPS: usize>(&self, context: &Context, group: usize) {
        let Gathering { pass, plan, scratch, .. } = self;
        let strides = pass.filter_strides;
        let (panels, chunks) = (plan.panels(), pass.terms.div_ceil(CHUNK));
        let source = |memory: *mut T, tiles: usize| memory.wrapping_add(tiles * plan.term_stride());
        if !plan.own_filters {
            let term_blocks = pass.terms.div_ceil(FILTER_TERMS);
            context.run(panels * term_blocks, &|slot, task| {
                // In the order in which they lie in memory.
                let (panel, block) = match strides.output < strides.term {
                    true => (task % panels, task / panels),
                    false => (task / term_blocks, task % term_blocks),
                };
                let term = block * FILTER_TERMS;
                let terms = term..pass.terms.min(term + FILTER_TERMS);
                let memory = [scratch.slot(slot), scratch.shared()];
                self.transform_filters::<TAPS>(group, panel, terms, 0, memory);
            });
        }
        if plan.own_source {
            let blocks = plan.tiles.segments.div_ceil(plan.block_segments);
            context.run(blocks, &|slot, task| {
                let first = task * plan.block_segments;
                let segments = first..plan.tiles.segments.min(first + plan.block_segments);
                let memory = scratch.slot(slot);
                let tiles = memory.wrapping_add(plan.own_source_start());
                for number in segments.clone() {
                    let before = plan.tiles_of(&(first..number));
                    for chunk in 0..chunks {
                        self.transform_tiles(group, number, chunk, memory, source(tiles, before));
                    }
                }
                for block in 0..plan.output_blocks() {
                    let segments = segments.clone();
                    self.block::<OUTPUTS, TAPS>(group, segments, block, tiles, memory);
                }
            });
            return;
        }
        for first in (0..plan.tiles.segments).step_by(plan.segments_together) {
            let end = plan.tiles.segments.min(first + plan.segments_together);
            let transformed = |segment: usize| {
                let tiles = scratch.shared().wrapping_add(plan.shared_filters());
                source(tiles, plan.tiles_of(&(first..segment)))
            };
            context.run((end - first) * chunks, &|slot, task| {
                let (number, chunk) = (first + task / chunks, task % chunks);
                let (strip, target) = (scratch.slot(slot), transformed(number));
                self.transform_tiles(group, number, chunk, strip, target);
            });
            let blocks = (end - first).div_ceil(plan.block_segments);
            context.run(blocks * plan.output_blocks(), &|slot, task| {
                // One block of filters after another, so that each is read from memory once.
                let start = first + task % blocks * plan.block_segments;
                let segments = start..end.min(start + plan.block_segments);
                let (tiles, memory) = (transformed(start), scratch.slot(slot));
                self.block::<OUTPUTS, TAPS>(group, segments, task / blocks, tiles, memory);
            });
        }
    }

    /// Transforms the filters of some source channels, `first_kept` the first that is kept, to one panel.
    /// `memory`: where they lie as they are, and where all panels that are kept lie.
    fn transform_filters<const TAPS: usize>(
        &self,
        group: usize,
        panel: usize,
        terms: Range<usize>,
        first_kept: usize,
        [unpacked, target]: [*mut T; 2],
    ) {
        let Gathering { pass, plan, .. } = self;
        let transform = TransformFilters::<T, TAPS> {
            pass,
            plan,
            group,
            panel,
            terms,
            first_kept,
            unpacked,
            target,
        };
        T::dispatch(self.level, transform);
    }

    /// Transforms a chunk of the source channels of one segment of tiles.
    fn transform_tiles(
        &self,
        group: usize,
        segment: usize,
        chunk: usize,
        strip: *mut T,
        target: *mut T,
    ) {
        let Gathering { pass, plan, images, .. } = self;
        let term = chunk * CHUNK;
        let transform = TransformTiles::<T, POINTS> {
            images,
            tiles: &plan.tiles,
            segment: plan.tiles.segment(segment),
            group_first: group * pass.terms,
            channels: (term, CHUNK.min(pass.terms - term)),
            strip,
            target,
            tile_stride: plan.term_stride(),
            plane: plan.source_plane(),
            channel_sums: std::ptr::null_mut(),
        };
        T::dispatch(self.level, transform);
    }

    /// Multiplies some segments of tiles, transformed at `source`, with a block of filters, and writes the target
    /// channels of these. `memory` is a slot's.
    fn block<const OUTPUTS: usize, const TAPS: usize>(
        &self,
        group: usize,
        segments: Range<usize>,
        block: usize,
        source: *const T,
        memory: *mut T,
    ) {
        let Gathering { level, pass, ref plan, ref scratch, .. } = *self;
        let tiles = plan.tiles_of(&segments);
        let output = block * plan.block_outputs;
        let outputs = (output, plan.block_outputs.min(pass.outputs - output));
        let products = memory;
        let strip = memory.wrapping_add(plan.products());
        let unpacked = memory.wrapping_add(plan.own_filters_start());
        let filters = match plan.own_filters {
            true => unpacked.wrapping_add(plan.unpacked()),
            false => scratch.shared(),
        };
        for term in (0..pass.terms).step_by(plan.kept_terms()) {
            let terms = term..pass.terms.min(term + plan.kept_terms());
            if plan.own_filters {
                let panel = block * plan.block_panels();
                for panel in panel..plan.panels().min(panel + plan.block_panels()) {
                    for some in terms.clone().step_by(FILTER_TERMS) {
                        let some = some..terms.end.min(some + FILTER_TERMS);
                        let memory = [unpacked, filters];
                        self.transform_filters::<TAPS>(group, panel, some, term, memory);
                    }
                }
            }
            let multiply = MultiplyBlock { plan, tiles, outputs, terms, source, filters, products };
            T::dispatch(level, multiply);
        }
        let write =
            WriteBlock::<T, OUTPUTS> { pass, plan, group, segments, outputs, products, strip };
        T::dispatch(level, write);
    }
}
