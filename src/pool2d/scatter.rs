//! Max-pooling's backward pass as a scatter: each gradient is added to the cell where its window's maximum
//! lay. A cell's gradients come in the order of its windows, so the bits are those of a gather.

use std::ops::Range;

use super::backward::{InputSlices, Inputs};
use super::path;
use super::place::Places;
use crate::context::Context;
use crate::shape::PoolShape;
use crate::shared_mut::SharedMut;
use crate::simd::Element;
use crate::tasks::{GRAIN, Tasks};

/// Writes dx. Places were checked.
pub(super) fn run<T: Element>(
    context: &Context,
    shape: &PoolShape,
    inputs: InputSlices<'_, T>,
    dx: &mut [T],
) {
    let (planes, lanes) = path::planes_and_lanes(shape);
    let dx = SharedMut::new(dx);
    let rows = shape.height.input;
    // Elements that a lane of all rows reads and writes.
    let work = shape.input_plane + shape.output_plane;
    let row_work = (work / rows).max(1) * lanes.min(STEP);
    let some = (BAND / row_work).max(4 * shape.height.window()).min(rows);
    let bands = rows.div_ceil(some);
    let tasks = Tasks::new(planes * bands, lanes, work / bands, STEP);
    context.run(tasks.count(), &|_, index| {
        let (numbers, some_lanes) = tasks.part(index);
        let scatter = |first: usize, planes: usize, rows: Range<usize>| {
            let (part, windows) = shape.of_input_rows(shape.batch, rows.clone());
            let input = first * shape.input_plane + rows.start * shape.width.input;
            let output = first * shape.output_plane + windows.start * shape.width.output;
            let output = output * lanes + some_lanes.start;
            let scatter = Scatter {
                shape: &part,
                inputs: inputs.from(output),
                dx: dx.at(input * lanes + some_lanes.start),
                planes,
                lanes: some_lanes.len(),
                plane_strides: [shape.output_plane * lanes, shape.input_plane * lanes],
                strides: [lanes; 2],
            };
            scatter.run();
        };
        if bands == 1 {
            return scatter(numbers.start, numbers.len(), 0..rows);
        }
        for number in numbers {
            let first = number % bands * some;
            scatter(number / bands, 1, first..rows.min(first + some));
        }
    });
}

/// Lanes that a task takes whole, so that it writes whole cache lines.
const STEP: usize = 64;

/// Planes at a time.
const SEVERAL: usize = 4;

/// Elements of a band of rows, about: windows at its edges are another's, too.
const BAND: usize = 4 * GRAIN;

/// Writes all of dx in some planes, or in some elements of each of their pixels. No vectors: their elements would go
/// to a cell each.
pub(super) struct Scatter<'a, T> {
    pub shape: &'a PoolShape,
    /// From the first window on; the places were checked.
    pub inputs: Inputs<T>,
    pub dx: *mut T,
    pub planes: usize,
    /// Elements of a pixel.
    pub lanes: usize,
    /// Elements from one plane to the next in dy and in dx.
    pub plane_strides: [usize; 2],
    /// Elements from one pixel to the next in these.
    pub strides: [usize; 2],
}

impl<T: Element> Scatter<'_, T> {
    pub fn run(self) {
        match self.inputs.places {
            Places::U8(places) => {
                // SAFETY: whoever makes one answers for the places.
                self.add(|at| usize::from(unsafe { *places.add(at) }));
            }
            // SAFETY: as above.
            Places::I32(places) => self.add(|at| unsafe { *places.add(at) } as usize),
            Places::Nowhere => unreachable!("max-pooling has places"),
        }
    }

    #[inline(always)]
    fn add(&self, place: impl Fn(usize) -> usize) {
        let cells = Divided { shape: self.shape, stride: self.strides[1] };
        if self.shape.window_len() <= TABLE {
            self.add_all(&Table::new(&cells), place);
        } else {
            self.add_all(&cells, place);
        }
    }

    #[inline(always)]
    fn add_all(&self, cells: &impl Cells, place: impl Fn(usize) -> usize) {
        // The processor waits for a cell that neighbouring windows share, so that it had better have others meanwhile:
        // those of a pixel's other elements, or of other planes.
        let together = if self.lanes == 1 { SEVERAL } else { 1 };
        for first in (0..self.planes).step_by(together) {
            let some = together.min(self.planes - first);
            let [before, dx] = self.plane_strides.map(|stride| first * stride);
            let dx = self.dx.wrapping_add(dx);
            for plane in 0..some {
                self.clear(dx.wrapping_add(plane * self.plane_strides[1]));
            }
            match self.lanes {
                1 => {
                    let lanes = Lanes { count: some, strides: self.plane_strides };
                    self.add_lanes(before, cells, &place, dx, lanes);
                }
                count => {
                    let lanes = Lanes { count, strides: [1; 2] };
                    self.add_lanes(before, cells, &place, dx, lanes);
                }
            }
        }
    }

    #[inline(always)]
    fn clear(&self, dx: *mut T) {
        let pixels = self.shape.height.input * self.shape.width.input;
        let stride = self.strides[1];
        let runs = if self.lanes == stride { [1, pixels * stride] } else { [pixels, self.lanes] };
        for run in 0..runs[0] {
            // SAFETY: elements of a plane of dx, for which whoever makes one answers.
            unsafe { std::slice::from_raw_parts_mut(dx.add(run * stride), runs[1]) }
                .fill(T::default());
        }
    }

    /// Adds the gradients of some lanes of all pixels, the first of which has so many elements of dy before it.
    #[inline(always)]
    fn add_lanes(
        &self,
        before: usize,
        cells: &impl Cells,
        place: &impl Fn(usize) -> usize,
        dx: *mut T,
        lanes: Lanes,
    ) {
        let [dy_stride, stride] = self.strides;
        let (height, width) = (&self.shape.height, &self.shape.width);
        let (full_rows, full_columns) = (height.full_outputs(false), width.full_outputs(false));
        let add = |cell: usize, at: usize| {
            // SAFETY: a cell of dx.
            unsafe { *dx.add(cell) = *dx.add(cell) + self.inputs.gradient(at) };
        };
        for row in 0..height.output {
            let top = (row * height.stride).wrapping_sub(height.pad_before);
            let left = |column: usize| (column * width.stride).wrapping_sub(width.pad_before);
            let at = |column: usize| before + (row * width.output + column) * dy_stride;
            // Some of the cells of these lie outside the input.
            let clipped = |column: usize| {
                for lane in 0..lanes.count {
                    let at = at(column) + lane * lanes.strides[0];
                    let [down, right] = cells.coordinates(place(at));
                    let (y, x) = (top.wrapping_add(down), left(column).wrapping_add(right));
                    if y < height.input && x < width.input {
                        add((y * width.input + x) * stride + lane * lanes.strides[1], at);
                    }
                }
            };
            let full = if full_rows.contains(&row) { full_columns.clone() } else { 0..0 };
            (0..full.start).for_each(clipped);
            for column in full.clone() {
                let first = (top * width.input + left(column)) * stride;
                for lane in 0..lanes.count {
                    let at = at(column) + lane * lanes.strides[0];
                    add(first + lane * lanes.strides[1] + cells.offset(place(at)), at);
                }
            }
            (full.end..width.output).for_each(clipped);
        }
    }
}

/// Windows at the same place, in dy and dx so many elements from one to the next.
#[derive(Clone, Copy)]
struct Lanes {
    count: usize,
    strides: [usize; 2],
}

/// Where a place in a window lies from its first cell on.
trait Cells {
    /// In rows and columns.
    fn coordinates(&self, place: usize) -> [usize; 2];
    /// In elements of dx.
    fn offset(&self, place: usize) -> usize;
}

/// Places that are looked up.
const TABLE: usize = 256;

struct Table {
    coordinates: [[u32; 2]; TABLE],
    offsets: [usize; TABLE],
}

impl Table {
    #[inline(always)]
    fn new(divided: &Divided<'_>) -> Table {
        let mut table = Table { coordinates: [[0; 2]; TABLE], offsets: [0; TABLE] };
        for place in 0..divided.shape.window_len() {
            // What does not fit lies outside any input.
            table.coordinates[place] =
                divided.coordinates(place).map(|c| u32::try_from(c).unwrap_or(u32::MAX));
            table.offsets[place] = divided.offset(place);
        }
        table
    }
}

impl Cells for Table {
    #[inline(always)]
    fn coordinates(&self, place: usize) -> [usize; 2] {
        self.coordinates[usize::from(place as u8)].map(|c| c as usize)
    }

    #[inline(always)]
    fn offset(&self, place: usize) -> usize {
        self.offsets[usize::from(place as u8)]
    }
}

struct Divided<'a> {
    shape: &'a PoolShape,
    /// Elements from one pixel of dx to the next.
    stride: usize,
}

impl Cells for Divided<'_> {
    #[inline(always)]
    fn coordinates(&self, place: usize) -> [usize; 2] {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let [down, right] = [place / width.kernel, place % width.kernel];
        [down.wrapping_mul(height.dilation), right.wrapping_mul(width.dilation)]
    }

    #[inline(always)]
    fn offset(&self, place: usize) -> usize {
        let [down, right] = self.coordinates(place);
        down.wrapping_mul(self.shape.width.input).wrapping_add(right).wrapping_mul(self.stride)
    }
}
