//! The forward pass of every pooling: the cells of each window in their order, a vector of windows
//! at a time.

use std::ops::Range;

use super::path::{self, BLOCK, Path, by_plane};
use crate::context::Context;
use crate::error::Result;
use crate::phases::Phases;
use crate::runs::{self, for_each_vector};
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::Tasks;

/// What a pooling makes of the cells of its windows, and where the results go.
///
/// Its unsafe methods write results at element offsets of y, for which their caller answers.
pub(super) trait Reduction<T: Element>: Copy {
    /// What is kept of a vector of windows while their cells pass.
    type State<V: Copy>: Copy;

    /// A value that never changes a result.
    fn nothing() -> T;

    /// Whether cells in the padding take part, with the value 0.
    fn padding_takes_part(self) -> bool;

    /// A number of the window that `start` and `finish` need.
    fn number(self, window: &Window) -> T;

    /// The state before the first cell.
    fn start<S: Lanes<T>>(self, simd: S, numbers: S::Vector) -> Self::State<S::Vector>;

    /// The cell at `place` of each window of the vector.
    fn cell<S: Lanes<T>>(
        self,
        simd: S,
        state: &mut Self::State<S::Vector>,
        value: S::Vector,
        place: usize,
    );

    /// After the last cell of a row of the window.
    fn end_row<S: Lanes<T>>(self, simd: S, state: &mut Self::State<S::Vector>);

    /// Writes `count` results at offset `at`.
    unsafe fn finish<S: Lanes<T>>(
        self,
        simd: S,
        state: Self::State<S::Vector>,
        numbers: S::Vector,
        at: usize,
        count: usize,
    );

    /// Elements of scratch memory that hold `len` results.
    fn block_len(len: usize) -> usize;

    /// The same with its results in `memory`, which holds `len` of them.
    unsafe fn in_block(self, memory: *mut T, len: usize) -> Self;

    /// Moves `[windows, BLOCK]` results, of which `planes` in a row count, from `block` to where
    /// they belong as `[planes, windows]`.
    unsafe fn take_block<S: Lanes<T>>(self, simd: S, block: Self, planes: usize, windows: usize);
}

/// The cells of a window that lie in the input, and in the padded input.
pub(super) struct Window {
    /// Window rows that read the input; empty ones say where it lies: see [`Axis::taps`].
    rows: Range<usize>,
    columns: Range<usize>,
    rows_end: usize,
    columns_end: usize,
    kernel_width: usize,
}

impl Window {
    #[inline(always)]
    fn new(shape: &PoolShape, row: usize, column: usize) -> Window {
        Window {
            rows: shape.height.taps(row),
            columns: shape.width.taps(column),
            rows_end: shape.height.taps_end(row),
            columns_end: shape.width.taps_end(column),
            kernel_width: shape.width.kernel,
        }
    }

    /// The place of the first cell in the input; 0 where there is none.
    #[inline(always)]
    pub fn first_place(&self) -> usize {
        let empty = self.rows.is_empty() || self.columns.is_empty();
        if empty { 0 } else { self.rows.start * self.kernel_width + self.columns.start }
    }

    /// Cells in the input.
    #[inline(always)]
    pub fn cells(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Cells in the padded input.
    #[inline(always)]
    pub fn padded_cells(&self) -> usize {
        self.rows_end * self.columns_end
    }

    #[inline(always)]
    fn is_full(&self, [kernel_height, kernel_width]: [usize; 2]) -> bool {
        self.rows == (0..kernel_height) && self.columns == (0..kernel_width)
    }
}

/// Columns of y that are computed at a time: they and what they read fit the first-level cache.
const TILE: usize = 512;

/// Runs the pooling of x. `results(at)` is the reduction that writes from offset `at` of y on.
pub(super) fn run<T: Element, R: Reduction<T>>(
    context: &Context,
    shape: &PoolShape,
    x: &[T],
    results: &(impl Fn(usize) -> R + Sync),
) -> Result<()> {
    let level = context.level();
    let (input, output) = (path::input_plane(shape), path::output_plane(shape));
    let (rows, columns) = (shape.height.output, shape.width.output);
    // Elements that a column of y reads and writes.
    let work = (input / rows).div_ceil(columns) + 1;
    let ring = Ring::new(shape);
    match Path::new(shape, ring.scratch_len()) {
        Path::Channels { planes, lanes } => {
            let tasks = Tasks::new(planes * rows, lanes, work.saturating_mul(columns), 64);
            context.run(tasks.count(), &|_, index| {
                let (rows_of_all, part) = tasks.part(index);
                for (plane, rows) in by_plane(rows_of_all, rows) {
                    let x = x[plane * input * lanes + part.start..].as_ptr();
                    let reduction = results(plane * output * lanes + part.start);
                    let pixels = Pixels { stride: lanes, lanes: part.len(), x };
                    T::dispatch(level, Channels { shape, reduction, rows, pixels });
                }
            });
        }
        Path::Columns { planes } => {
            let tasks = Tasks::new(planes * rows, columns, work, 64);
            let scratch = context.scratch::<T>(0, ring.scratch_len())?;
            context.run(tasks.count(), &|slot, index| {
                let (rows, columns) = tasks.part(index);
                let kernel = Columns {
                    shape,
                    reduction: results(0),
                    rows,
                    columns,
                    x: x.as_ptr(),
                    ring,
                    memory: scratch.slot(slot),
                };
                T::dispatch(level, kernel);
            });
        }
        Path::Blocks { planes } => {
            let tasks = Tasks::new(planes.div_ceil(BLOCK), 1, (input + output) * BLOCK, 1);
            let scratch_len = input * BLOCK + R::block_len(output * BLOCK);
            let scratch = context.scratch::<T>(0, scratch_len)?;
            context.run(tasks.count(), &|slot, index| {
                for first in tasks.part(index).0.map(|block| block * BLOCK) {
                    let kernel = Block {
                        shape,
                        reduction: results(first * output),
                        planes: BLOCK.min(planes - first),
                        x: x[first * input..].as_ptr(),
                        memory: scratch.slot(slot),
                    };
                    T::dispatch(level, kernel);
                }
            });
        }
    }
    Ok(())
}

/// The pixels of a plane of x, and of y likewise: `stride` elements from one to the next, of which
/// `lanes` are this task's.
#[derive(Clone, Copy)]
struct Pixels<T> {
    stride: usize,
    lanes: usize,
    x: *const T,
}

/// Rows of y in one plane, the lanes along a pixel's elements.
struct Channels<'a, R, T> {
    shape: &'a PoolShape,
    reduction: R,
    rows: Range<usize>,
    pixels: Pixels<T>,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Channels<'_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // The common windows with their extents as constants.
        match [self.shape.height.kernel, self.shape.width.kernel] {
            [2, 2] => self.rows(simd, [2, 2]),
            [3, 3] => self.rows(simd, [3, 3]),
            kernel => self.rows(simd, kernel),
        }
    }
}

impl<T: Element, R: Reduction<T>> Channels<'_, R, T> {
    #[inline(always)]
    fn rows<S: Lanes<T>>(&self, simd: S, kernel: [usize; 2]) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let pixel = self.pixels.stride;
        let steps = [height.dilation * width.input * pixel, width.dilation * pixel];
        for row in self.rows.clone() {
            for column in 0..width.output {
                let window = Window::new(self.shape, row, column);
                let numbers = simd.splat(self.reduction.number(&window));
                let at = (row * width.output + column) * pixel;
                let mut first = self.pixels.x;
                if window.cells() > 0 {
                    let y = row * height.stride + window.rows.start * height.dilation;
                    let x = column * width.stride + window.columns.start * width.dilation;
                    let cell = (y - height.pad_before) * width.input + x - width.pad_before;
                    // SAFETY: a cell of the input.
                    first = unsafe { first.add(cell * pixel) };
                }
                let full = window.is_full(kernel);
                for_each_vector(
                    simd,
                    self.pixels.lanes,
                    #[inline(always)]
                    |lane, count| {
                        // SAFETY: the lanes of a pixel, of which `count` are from `lane` on.
                        unsafe {
                            let first = first.add(lane);
                            let mut state = self.reduction.start(simd, numbers);
                            if full {
                                self.full(simd, &mut state, kernel, first, steps, count);
                            } else {
                                self.clipped(simd, &mut state, &window, first, steps, count);
                            }
                            self.reduction.finish(simd, state, numbers, at + lane, count);
                        }
                    },
                );
            }
        }
    }

    /// All cells of a window that lies in the input.
    #[inline(always)]
    unsafe fn full<S: Lanes<T>>(
        &self,
        simd: S,
        state: &mut R::State<S::Vector>,
        [kernel_height, kernel_width]: [usize; 2],
        first: *const T,
        [row_step, column_step]: [usize; 2],
        count: usize,
    ) {
        for kh in 0..kernel_height {
            for kw in 0..kernel_width {
                // SAFETY: a cell of the input, of which the caller has `count` lanes.
                let value =
                    unsafe { runs::load(simd, count, first.add(kh * row_step + kw * column_step)) };
                self.reduction.cell(simd, state, value, kh * kernel_width + kw);
            }
            self.reduction.end_row(simd, state);
        }
    }

    /// The cells of a window of which some lie outside the input; `first` is the first inside.
    #[inline(always)]
    unsafe fn clipped<S: Lanes<T>>(
        &self,
        simd: S,
        state: &mut R::State<S::Vector>,
        window: &Window,
        first: *const T,
        [row_step, column_step]: [usize; 2],
        count: usize,
    ) {
        let Window { rows, columns, rows_end, columns_end, kernel_width } = window;
        let zero = simd.splat(T::default());
        let padding = self.reduction.padding_takes_part();
        let all_rows = if padding { 0..*rows_end } else { rows.clone() };
        for kh in all_rows {
            // Of cells in the padding that follow each other, the first speaks for all.
            let place = kh * kernel_width;
            if !rows.contains(&kh) {
                self.reduction.cell(simd, state, zero, place);
                continue;
            }
            if padding && columns.start > 0 {
                self.reduction.cell(simd, state, zero, place);
            }
            for kw in columns.clone() {
                let cell = (kh - rows.start) * row_step + (kw - columns.start) * column_step;
                // SAFETY: a cell of the input, of which the caller has `count` lanes.
                let value = unsafe { runs::load(simd, count, first.add(cell)) };
                self.reduction.cell(simd, state, value, place + kw);
            }
            if padding && columns.end < *columns_end {
                self.reduction.cell(simd, state, zero, place + columns.end);
            }
            self.reduction.end_row(simd, state);
        }
    }
}

/// Scratch memory for `Columns`: the rows of x that the windows of a row of y read, padded and
/// dealt out by the stride, each at its padded row's number modulo `rows`.
#[derive(Clone, Copy)]
struct Ring {
    rows: usize,
    /// Elements from phase to phase.
    pitch: usize,
    /// Elements from row to row.
    row: usize,
}

impl Ring {
    fn new(shape: &PoolShape) -> Ring {
        let tile = shape.width.output.min(TILE);
        let pitch = (tile + Phases::reach(&shape.width)).next_multiple_of(BLOCK);
        let row = pitch.saturating_mul(Phases::count(&shape.width));
        Ring { rows: shape.height.window(), pitch, row }
    }

    /// The rows, and a number for each window of a row of y.
    fn scratch_len(&self) -> usize {
        self.rows.saturating_mul(self.row).saturating_add(self.pitch)
    }
}

/// Rows of y, counted through all planes, and a range of their columns; the lanes along the row.
struct Columns<'a, R, T> {
    shape: &'a PoolShape,
    reduction: R,
    rows: Range<usize>,
    columns: Range<usize>,
    x: *const T,
    ring: Ring,
    memory: *mut T,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Columns<'_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        // The common windows with their extents and strides as constants.
        match ([height.kernel, width.kernel], width.stride, width.dilation) {
            ([2, 2], 2, 1) => self.tiles(simd, [2, 2], [2, 1]),
            ([3, 3], 2, 1) => self.tiles(simd, [3, 3], [2, 1]),
            ([3, 3], 1, 1) => self.tiles(simd, [3, 3], [1, 1]),
            (kernel, stride, dilation) => self.tiles(simd, kernel, [stride, dilation]),
        }
    }
}

impl<T: Element, R: Reduction<T>> Columns<'_, R, T> {
    #[inline(always)]
    fn tiles<S: Lanes<T>>(&self, simd: S, kernel: [usize; 2], steps: [usize; 2]) {
        for first in self.columns.clone().step_by(TILE) {
            let tile = first..(first + TILE).min(self.columns.end);
            // The rows of a window that the numbers in scratch memory belong to.
            let mut numbers_of = None;
            for (plane, rows) in by_plane(self.rows.clone(), self.shape.height.output) {
                self.plane(simd, kernel, steps, plane, rows, tile.clone(), &mut numbers_of);
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the loop's variables")]
    fn plane<S: Lanes<T>>(
        &self,
        simd: S,
        kernel: [usize; 2],
        steps: [usize; 2],
        plane: usize,
        rows: Range<usize>,
        tile: Range<usize>,
        numbers_of: &mut Option<(Range<usize>, usize)>,
    ) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let Ring { rows: ring_rows, pitch, row: ring_row } = self.ring;
        let numbers = self.memory.wrapping_add(ring_rows * ring_row);
        let [stride, dilation] = steps;
        let axis = Axis { kernel: kernel[1], stride, dilation, ..*width };
        let phases =
            Phases { axis, first: tile.start, len: tile.len() + Phases::reach(width), pitch };
        let padding = self.reduction.padding_takes_part();
        let outside = R::nothing();
        let fillers = [if padding { T::default() } else { outside }, outside];
        let mut dealt = 0;
        for row in rows {
            let taps = height.taps(row);
            let taps_end = height.taps_end(row);
            if numbers_of.as_ref() != Some(&(taps.clone(), taps_end)) {
                for (i, column) in tile.clone().enumerate() {
                    let number = self.reduction.number(&Window::new(self.shape, row, column));
                    // SAFETY: scratch memory has a number for each column of a tile.
                    unsafe { *numbers.add(i) = number };
                }
                *numbers_of = Some((taps.clone(), taps_end));
            }
            // Rows between the taps of a dilated window are dealt out as well: others read them.
            let top = row * height.stride;
            if !taps.is_empty() {
                let end = top + (taps.end - 1) * height.dilation + 1;
                dealt = dealt.max(top + taps.start * height.dilation);
                while dealt < end {
                    // SAFETY: a row of the input, and the ring's place for it.
                    unsafe {
                        let input = plane * height.input + dealt - height.pad_before;
                        let source = self.x.add(input * width.input);
                        let target = self.memory.add(dealt % ring_rows * ring_row);
                        phases.split(simd, source, fillers, target);
                    }
                    dealt += 1;
                }
            }
            let at = (plane * height.output + row) * width.output + tile.start;
            let window = RingWindow {
                memory: self.memory,
                ring: self.ring,
                top: top % ring_rows,
                dilation: height.dilation,
                stride: axis.stride,
                phase_step: axis.dilation % axis.stride,
                skip_step: axis.dilation / axis.stride,
            };
            let full = taps == (0..kernel[0]);
            let clipped = if padding { 0..taps_end } else { taps.clone() };
            for_each_vector(
                simd,
                tile.len(),
                #[inline(always)]
                |i, count| {
                    // SAFETY: `count` columns of the tile, from its i-th on.
                    unsafe {
                        let numbers = runs::load(simd, count, numbers.add(i));
                        let mut state = self.reduction.start(simd, numbers);
                        if full {
                            for kh in 0..kernel[0] {
                                self.row(simd, &mut state, &window, [kh, kernel[1]], i, count);
                            }
                        } else {
                            for kh in clipped.clone() {
                                if taps.contains(&kh) {
                                    self.row(simd, &mut state, &window, [kh, kernel[1]], i, count);
                                } else {
                                    let zero = simd.splat(T::default());
                                    self.reduction.cell(simd, &mut state, zero, kh * kernel[1]);
                                }
                            }
                        }
                        self.reduction.finish(simd, state, numbers, at + i, count);
                    }
                },
            );
        }
    }

    /// Row `kh` of the windows of `count` columns, from the tile's i-th on.
    #[inline(always)]
    unsafe fn row<S: Lanes<T>>(
        &self,
        simd: S,
        state: &mut R::State<S::Vector>,
        window: &RingWindow<T>,
        [kh, kernel_width]: [usize; 2],
        i: usize,
        count: usize,
    ) {
        let row = window.row(kh);
        let (mut phase, mut skip) = (0, i);
        for kw in 0..kernel_width {
            // SAFETY: the phases reach as far as the taps of the tile's last window do.
            let value =
                unsafe { runs::load(simd, count, row.add(phase * window.ring.pitch + skip)) };
            self.reduction.cell(simd, state, value, kh * kernel_width + kw);
            phase += window.phase_step;
            skip += window.skip_step;
            if phase >= window.stride {
                phase -= window.stride;
                skip += 1;
            }
        }
        self.reduction.end_row(simd, state);
    }
}

/// The ring as the windows of one row of y see it.
struct RingWindow<T> {
    memory: *const T,
    ring: Ring,
    /// The ring's place of the windows' first row.
    top: usize,
    dilation: usize,
    /// Along the row: what a tap adds to the phase and to the element in it, the former modulo
    /// `stride`.
    stride: usize,
    phase_step: usize,
    skip_step: usize,
}

impl<T> RingWindow<T> {
    #[inline(always)]
    fn row(&self, kh: usize) -> *const T {
        let mut place = self.top + kh * self.dilation;
        if place >= self.ring.rows {
            place -= self.ring.rows;
        }
        self.memory.wrapping_add(place * self.ring.row)
    }
}

/// Up to [`BLOCK`] planes, the lanes across them.
struct Block<'a, R, T> {
    shape: &'a PoolShape,
    reduction: R,
    planes: usize,
    x: *const T,
    memory: *mut T,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Block<'_, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Block { shape, reduction, planes, x, memory } = self;
        let (input, output) = (path::input_plane(shape), path::output_plane(shape));
        // SAFETY: x has the planes, scratch memory a block of x and one of the results.
        unsafe {
            runs::transpose(simd, [planes, input], x, input, memory, BLOCK);
            let block = reduction.in_block(memory.add(input * BLOCK), output * BLOCK);
            let pixels = Pixels { stride: BLOCK, lanes: planes, x: memory.cast_const() };
            Channels { shape, reduction: block, rows: 0..shape.height.output, pixels }.run(simd);
            reduction.take_block(simd, block, planes, output);
        }
    }
}
