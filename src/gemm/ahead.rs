//! What a block product asks memory for while it computes. All at once, the lines on their way would take every
//! buffer that the processor has for them, and the products would wait for one: so a few are asked for at a time.

use std::cell::Cell;

use crate::simd::{CACHE_LINE, Element, Lanes};

/// Memory that is going to be read: `runs` runs of `run` elements, `stride` apart. It is fetched into
/// the second-level cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead<T> {
    start: *const T,
    run: usize,
    runs: usize,
    stride: usize,
    /// Elements of the first run that were asked for.
    requested: usize,
}

impl<T> Ahead<T> {
    /// `runs` runs of `run` elements.
    pub fn new(start: *const T, run: usize, runs: usize, stride: usize) -> Self {
        Ahead { start, run, runs, stride, requested: 0 }
    }

    /// Nothing.
    pub fn none() -> Self {
        Ahead::new(std::ptr::null(), 0, 0, 0)
    }

    /// Cache lines of it.
    fn lines(&self) -> usize {
        self.runs * self.run.div_ceil(CACHE_LINE / size_of::<T>())
    }
}

impl<T: Element> Ahead<T> {
    /// Asks for the next line, if one is left.
    #[inline(always)]
    fn request<S: Lanes<T>>(&mut self, simd: S) {
        if self.runs == 0 {
            return;
        }
        simd.prefetch_second(self.start.wrapping_add(self.requested));
        self.requested += CACHE_LINE / size_of::<T>();
        if self.requested >= self.run {
            *self = Ahead {
                start: self.start.wrapping_add(self.stride),
                runs: self.runs - 1,
                requested: 0,
                ..*self
            };
        }
    }
}

/// Steps of a tile's depth from one request to the next, at the most, and requests of a tile, at the least. For
/// each, there is a loop to leave and to enter.
const MOST_STEPS: usize = 16;
const FEWEST_REQUESTS: usize = 4;

/// How the tiles of a block share in asking for what is read next.
pub(crate) struct Requests<T> {
    /// Steps of the depth from one request to the next: all, where there is nothing to ask for.
    pub steps: usize,
    /// Lines of a request.
    lines: usize,
    left: Cell<Ahead<T>>,
    /// When nothing is left. (Apart, not in one array with what is left: that would be copied at each request.)
    then: Cell<Ahead<T>>,
}

impl<T: Element> Requests<T> {
    #[inline(always)]
    pub fn new([first, then]: [Ahead<T>; 2], tiles: usize, depth: usize) -> Self {
        let lines = first.lines() + then.lines();
        // No more requests than lines.
        let steps = match lines {
            0 => depth,
            _ => depth.div_ceil(FEWEST_REQUESTS).min(MOST_STEPS).max(tiles * depth / lines),
        };
        let steps = steps.clamp(1, depth.max(1));
        let requests = tiles * depth.div_ceil(steps);
        let lines = lines.div_ceil(requests.max(1));
        Requests { steps, lines, left: Cell::new(first), then: Cell::new(then) }
    }

    /// Asks for some lines.
    #[inline(always)]
    pub fn request<S: Lanes<T>>(&self, simd: S) {
        if self.lines == 0 {
            return;
        }
        let mut left = self.left.get();
        for _ in 0..self.lines {
            if left.runs == 0 {
                left = self.then.replace(Ahead::none());
            }
            left.request(simd);
        }
        self.left.set(left);
    }
}

/// The rows of a tile's results that are still to be asked for, so that stores need not wait for their lines.
pub(super) struct Results<T> {
    /// In the next row, the first and the last number.
    pub first: *const T,
    pub last: *const T,
    /// From row to row. (An array of places would be read from memory, behind all that was stored before.)
    pub stride: usize,
    pub rows: usize,
}

impl<T: Element> Results<T> {
    /// Asks for some rows.
    #[inline(always)]
    pub fn request<S: Lanes<T>>(&mut self, simd: S, count: usize) {
        for _ in 0..count.min(self.rows) {
            simd.prefetch(self.first);
            simd.prefetch(self.last);
            self.first = self.first.wrapping_add(self.stride);
            self.last = self.last.wrapping_add(self.stride);
            self.rows -= 1;
        }
    }
}
