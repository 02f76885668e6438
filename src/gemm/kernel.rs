//! The block product, the one body that all matrix products and convolutions end in: panels of both
//! operands in, packed or in place, a block of C out.
//!
//! The register tile is the one of Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), as BLIS has it: each step of the depth multiplies a column of the row
//! panel, one element after another, with a row of the column panel, held in vectors.
//!
//! Every element of C is one chain of multiply-adds in the order of the depth, whatever the tile's
//! size. That is why AVX2 and AVX-512 give the same bits.

use super::ahead::{Ahead, Requests, Results};
use super::lines::Lines;
use super::transposed::Transposed;
use super::update::{Bias, Update};
use crate::runs;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, TILE_LANES, TileKernel};

/// Where the rows or the columns of C lie: number i at `i / width * outer + i % width * inner`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub width: usize,
    pub outer: usize,
    pub inner: usize,
}

impl Places {
    /// Number i at `i * stride`.
    pub fn every(stride: usize) -> Self {
        Places { width: usize::MAX, outer: 0, inner: stride }
    }

    #[inline(always)]
    fn at(&self, number: usize) -> usize {
        if self.width == usize::MAX {
            return number * self.inner;
        }
        number / self.width * self.outer + number % self.width * self.inner
    }

    /// Where `count` numbers from `first` on lie.
    #[inline(always)]
    fn run<const N: usize>(&self, first: usize, count: usize) -> [usize; N] {
        let mut places = [0; N];
        if self.width == usize::MAX {
            for (number, place) in places[..count].iter_mut().enumerate() {
                *place = self.at(first + number);
            }
            return places;
        }
        // One division, not one per number.
        let (mut quotient, mut remainder) = (first / self.width, first % self.width);
        for place in &mut places[..count] {
            *place = quotient * self.outer + remainder * self.inner;
            remainder += 1;
            if remainder == self.width {
                (quotient, remainder) = (quotient + 1, 0);
            }
        }
        places
    }

    /// How many numbers from `number` on lie `inner` apart.
    #[inline(always)]
    fn left(&self, number: usize) -> usize {
        match self.width {
            usize::MAX => usize::MAX,
            width => width - number % width,
        }
    }

    /// Whether `count` numbers from `first` on lie side by side.
    #[inline(always)]
    fn contiguous(&self, first: usize, count: usize) -> bool {
        self.inner == 1 && count <= self.left(first)
    }
}

/// Lines of one operand: panel p holds lines `p * width ..` and lies `p * stride` behind the first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels<T> {
    pub start: *const T,
    pub width: usize,
    pub stride: usize,
    pub order: Order,
}

impl<T> Panels<T> {
    /// Packed panels of `depth` steps, one behind the other.
    pub fn packed(start: *const T, width: usize, depth: usize) -> Self {
        Panels { start, width, stride: width * depth, order: Order::Packed }
    }
}

/// Where line i of a panel lies at depth k.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// At `k * (lines of the panel) + i`.
    Packed,
    /// At `k * depth + i * line`, as in the matrix. Columns have `line` 1, and fill whole panels.
    InPlace { depth: usize, line: usize },
}

impl Order {
    /// Strides along (depth, line) in a panel of some lines.
    #[inline(always)]
    fn strides(self, lines: usize) -> [usize; 2] {
        match self {
            Order::Packed => [lines, 1],
            Order::InPlace { depth, line } => [depth, line],
        }
    }
}

/// The product of `rows` x `depth` and `depth` x `columns` into C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockProduct<T> {
    pub depth: usize,
    pub rows: usize,
    pub columns: usize,
    /// Panels of at most `TILE_ROWS` lines; the last one is as narrow as its lines.
    pub row_panels: Panels<T>,
    /// Panels of `TILE_VECTORS` vectors; the last one is cut to whole vectors.
    pub column_panels: Panels<T>,
    /// Where C's number (0, 0) lies.
    pub target: *mut T,
    /// The numbers, in the places below, of the block's first row and column.
    pub first_row: usize,
    pub first_column: usize,
    pub row_places: Places,
    pub column_places: Places,
    pub update: Update<T>,
    /// Where C's new values go too, if its rows and columns are to be exchanged; C's columns lie side by side then.
    pub transposed: Option<Transposed<T>>,
    /// What to ask memory for meanwhile, one after the other.
    pub ahead: [Ahead<T>; 2],
    /// Whether C is so large, and the depth so short, that stores of rows written in order would wait: the lines of
    /// the next row panel are asked for then.
    pub asks_for_rows: bool,
}

impl<T> BlockProduct<T> {
    /// The same sums with rows and columns exchanged: the panels trade places too.
    pub fn transposed(self) -> Self {
        let Update { bias, .. } = self.update;
        let bias = match bias {
            Bias::None => Bias::None,
            Bias::Rows(bias) => Bias::Columns(bias),
            Bias::Columns(bias) => Bias::Rows(bias),
        };
        BlockProduct {
            rows: self.columns,
            columns: self.rows,
            row_panels: self.column_panels,
            column_panels: self.row_panels,
            first_row: self.first_column,
            first_column: self.first_row,
            row_places: self.column_places,
            column_places: self.row_places,
            update: Update { bias, ..self.update },
            ..self
        }
    }

    /// Where a number of C lies.
    #[inline(always)]
    fn place(&self, [row, column]: [usize; 2]) -> *const T {
        let place = self.row_places.at(row) + self.column_places.at(column);
        self.target.wrapping_add(place).cast_const()
    }

    /// Whether all columns of some rows are computed before the next rows are: C is then written in order, which the
    /// processor foresees, so that nothing is asked for. Not with tiles as narrow as a cache line, each of which
    /// would begin as many lines anew as it has rows: measured, that costs more.
    #[inline(always)]
    fn finishes_rows(&self) -> bool {
        let in_place = matches!(self.row_panels.order, Order::InPlace { .. });
        let is_wide = self.column_panels.width * size_of::<T>() > CACHE_LINE;
        let column_bytes = self.columns * self.depth * size_of::<T>();
        let in_rows = in_place && is_wide && self.transposed.is_none();
        in_rows && column_bytes <= COLUMN_BLOCK_BYTES
    }
}

/// Row panels that are kept in the second-level cache while the column panels pass.
const ROW_BLOCK_BYTES: usize = 128 * 1024;

/// Column panels that may pass anew for each row panel, likewise.
const COLUMN_BLOCK_BYTES: usize = 256 * 1024;

impl<T: Element> Kernel<T> for BlockProduct<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let width = S::LANES * S::TILE_VECTORS;
        assert!(self.row_panels.width <= S::TILE_ROWS, "a row panel wider than the tile");
        assert!(self.column_panels.width == width, "a column panel of another instruction set");
        let packed = matches!(self.column_panels.order, Order::Packed);
        assert!(packed || self.columns.is_multiple_of(width), "a part of a panel in place");
        let in_rows =
            self.column_places.contiguous(0, usize::MAX) && self.row_places.width == usize::MAX;
        assert!(self.transposed.is_none() || in_rows, "C is no matrix of rows, and transposed");
        let panel_bytes = self.row_panels.width * self.depth * size_of::<T>();
        let panels_in_block = match self.finishes_rows() {
            true => 1,
            false => (ROW_BLOCK_BYTES / panel_bytes.max(1)).max(1),
        };
        let rows_in_block = panels_in_block * self.row_panels.width;
        let tiles = self.rows.div_ceil(self.row_panels.width) * self.columns.div_ceil(width);
        let requests = Requests::new(self.ahead, tiles, self.depth);
        let mut block = 0;
        while block < self.rows {
            let block_end = (block + rows_in_block).min(self.rows);
            for column in (0..self.columns).step_by(width) {
                let columns = width.min(self.columns - column);
                for row in (block..block_end).step_by(self.row_panels.width) {
                    let rows = self.row_panels.width.min(self.rows - row);
                    let tile = Tile { block: &self, row, column, columns, requests: &requests };
                    simd.tile(rows, columns.div_ceil(S::LANES), &tile);
                    if let Some(to) = self.transposed {
                        let numbers = [self.first_row + row, self.first_column + column];
                        let values = self.place(numbers);
                        // Fresh in the first-level cache.
                        let stride = self.row_places.inner;
                        simd.call(to.copy(numbers, [rows, columns], values, stride));
                    }
                }
            }
            block = block_end;
        }
    }
}

/// One register tile of a block, from number (`row`, `column`) of the block on.
struct Tile<'a, T> {
    block: &'a BlockProduct<T>,
    row: usize,
    column: usize,
    /// Columns of C; those of the panel are rounded up to whole vectors.
    columns: usize,
    requests: &'a Requests<T>,
}

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Tile<'_, T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        let block = self.block;
        let row_panel = self.row / block.row_panels.width;
        let column_panel = self.column / block.column_panels.width;
        let first_column = block.first_column + self.column;
        let contiguous = block.column_places.contiguous(first_column, self.columns);
        let rows: [usize; ROWS] = block.row_places.run(block.first_row + self.row, ROWS);
        let target = block.target.wrapping_add(block.column_places.at(first_column));
        // C's lines arrive while the sums are computed: else each store would wait for its own.
        let last = block.column_places.at(first_column + self.columns - 1);
        let last = block.target.wrapping_add(last);
        let is_requested = block.column_places.inner == 1 && !block.finishes_rows();
        let few_at_a_time = self.requests_few_rows();
        let results = Results {
            first: target.wrapping_add(rows[0]),
            last: last.wrapping_add(rows[0]),
            stride: block.row_places.inner,
            rows: if is_requested && few_at_a_time { ROWS } else { 0 },
        };
        if is_requested && !few_at_a_time {
            for row in rows {
                simd.prefetch(target.wrapping_add(row));
                simd.prefetch(last.wrapping_add(row));
            }
        }
        if block.asks_for_rows && block.finishes_rows() && block.column_places.inner == 1 {
            let next = ROWS * block.row_places.inner;
            for row in rows {
                simd.prefetch(target.wrapping_add(row + next));
                simd.prefetch(last.wrapping_add(row + next));
            }
        }
        let [right_step, _] = block.column_panels.order.strides(VECTORS * S::LANES);
        // SAFETY: the panels hold `depth` steps of ROWS lines and of VECTORS vectors: whoever
        // made them gave the same numbers of rows and columns to this block. C has the tile's
        // elements, and nobody else uses them.
        unsafe {
            let left = block.row_panels.start.add(row_panel * block.row_panels.stride);
            let right = block.column_panels.start.add(column_panel * block.column_panels.stride);
            // Apart, so that the lines of a packed step are found without arithmetic.
            let sums = match block.row_panels.order {
                Order::Packed => {
                    self.sums(simd, left, Order::Packed.strides(ROWS), right, right_step, results)
                }
                in_place => {
                    // All were asked for: the loops need not know of them.
                    let results = Results { rows: 0, ..results };
                    self.sums(simd, left, in_place.strides(ROWS), right, right_step, results)
                }
            };
            if contiguous {
                let update = block.update.of_tile(block.first_row + self.row, first_column);
                update.write(simd, sums, target, self.columns, |row| rows[row]);
            } else {
                self.write_scattered::<S, ROWS, VECTORS>(simd, &sums, &rows);
            }
        }
    }
}

/// At least the rows and columns of any register tile.
const MOST_ROWS: usize = 14;
pub(crate) const MOST_COLUMNS: usize = 32;

impl<T: Element> Tile<'_, T> {
    /// Whether the results are asked for a few rows at a time, not all at once. Not where the products read
    /// rows in place: the lines of those begin together, and would wait again and again.
    #[inline(always)]
    fn requests_few_rows(&self) -> bool {
        let packed = matches!(self.block.row_panels.order, Order::Packed);
        packed && self.block.row_places.width == usize::MAX
    }

    /// The sums along the depth.
    ///
    /// # Safety
    /// `left` has ROWS lines, with these strides along (depth, line), and `right` VECTORS vectors
    /// at each step of the depth.
    #[inline(always)]
    unsafe fn sums<S: Lanes<T>, const ROWS: usize, const VECTORS: usize>(
        &self,
        simd: S,
        left: *const T,
        [left_step, left_line]: [usize; 2],
        mut right: *const T,
        right_step: usize,
        mut results: Results<T>,
    ) -> [[S::Vector; VECTORS]; ROWS] {
        let mut lines = Lines::<T, ROWS>::new(left, left_line);
        let mut sums = [[simd.splat(T::default()); VECTORS]; ROWS];
        let (depth, steps) = (self.block.depth, self.requests.steps);
        let rows_together = ROWS.div_ceil(depth.div_ceil(steps).max(1));
        let mut left_over = depth;
        while left_over > 0 {
            results.request(simd, rows_together);
            self.requests.request(simd);
            let mut some = left_over.min(steps);
            left_over -= some;
            while some > 0 {
                // SAFETY: the caller answers for the lines and vectors of each step.
                unsafe {
                    let mut lanes = [simd.splat(T::default()); VECTORS];
                    for (v, lane) in lanes.iter_mut().enumerate() {
                        *lane = simd.load(right.add(v * S::LANES));
                    }
                    lines.multiply(simd, lanes, left_step as isize, &mut sums);
                }
                right = right.wrapping_add(right_step);
                some -= 1;
            }
        }
        sums
    }

    /// Updates a tile whose columns are scattered.
    ///
    /// # Safety
    /// C has the tile's elements, and nobody else uses them.
    #[inline(always)]
    unsafe fn write_scattered<S: Lanes<T>, const ROWS: usize, const VECTORS: usize>(
        &self,
        simd: S,
        sums: &[[S::Vector; VECTORS]; ROWS],
        rows: &[usize; ROWS],
    ) {
        // A vector from any of its places on stays inside.
        let mut buffer = [T::default(); MOST_ROWS * MOST_COLUMNS + TILE_LANES];
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let place = r * MOST_COLUMNS + v * S::LANES;
                // SAFETY: a tile is no larger than the buffer.
                unsafe { simd.store(buffer.as_mut_ptr().add(place), sum) };
            }
        }
        let block = self.block;
        let Update { alpha, beta, bias, relu, .. } = block.update;
        let first_row = block.first_row + self.row;
        let first_column = block.first_column + self.column;
        let column_places: [usize; MOST_COLUMNS] =
            block.column_places.run(first_column, self.columns);
        // Columns side by side are written together.
        let side_by_side = block.column_places.inner == 1;
        let mut first = 0;
        while first < self.columns {
            let column = first_column + first;
            let mut count = S::LANES.min(self.columns - first);
            if side_by_side {
                count = count.min(block.column_places.left(column));
            }
            let column_places = &column_places[first..first + count];
            for (r, &row_place) in rows.iter().enumerate() {
                let row = first_row + r;
                // SAFETY: the caller answers for `count` elements of C in that row; the bias has
                // an element per row or column of C.
                unsafe {
                    let target = block.target.add(row_place);
                    let sum = simd.load(buffer.as_ptr().add(r * MOST_COLUMNS + first));
                    let mut value = simd.mul(simd.splat(alpha), sum);
                    let mut lanes = [T::default(); TILE_LANES];
                    if beta != T::default() {
                        let old = if side_by_side {
                            runs::load(simd, count, target.add(column_places[0]))
                        } else {
                            for (old, &place) in lanes.iter_mut().zip(column_places) {
                                *old = *target.add(place);
                            }
                            simd.load(lanes.as_ptr())
                        };
                        value = simd.mul_add(simd.splat(beta), old, value);
                    }
                    match bias {
                        Bias::None => {}
                        Bias::Rows(bias) => value = simd.add(value, simd.splat(*bias.add(row))),
                        Bias::Columns(bias) => {
                            value = simd.add(value, simd.load_first(count, bias.add(column)));
                        }
                    }
                    if relu {
                        value = simd.relu(value);
                    }
                    if side_by_side {
                        runs::store(simd, count, target.add(column_places[0]), value);
                    } else {
                        simd.store(lanes.as_mut_ptr(), value);
                        for (&new, &place) in lanes.iter().zip(column_places) {
                            *target.add(place) = new;
                        }
                    }
                }
            }
            first += count;
        }
    }
}
