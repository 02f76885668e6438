//! Rows of x, read from one end to the other before their windows are: memory gives them as fast as it can, and the
//! windows find them in the caches.

use std::ops::Range;

use super::forward::Pixels;
use crate::runs::for_each_vector;
use crate::shape::PoolShape;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, Level};

/// Cache lines that are asked for ahead.
const LINES_AHEAD: usize = 64;

/// How far a plane of x was read.
pub(super) struct RowsRead {
    /// The row behind the last one, and behind the last one with a NaN.
    end: usize,
    nan_end: usize,
}

impl RowsRead {
    /// Nothing yet.
    pub fn new() -> Self {
        RowsRead { end: 0, nan_end: 0 }
    }

    /// Whether windows read all of the rows between those that they begin and end with.
    pub fn suits(shape: &PoolShape) -> bool {
        [&shape.height, &shape.width]
            .iter()
            .all(|axis| axis.dilation == 1 && axis.stride <= axis.kernel)
    }

    /// Reads what windows in `rows` of y need, and says whether a cell of them may be a NaN.
    ///
    /// # Safety
    /// `pixels` has the plane's rows.
    pub unsafe fn has_nan<T: Element>(
        &mut self,
        level: Level,
        shape: &PoolShape,
        rows: Range<usize>,
        pixels: Pixels<T>,
    ) -> bool {
        let height = &shape.height;
        let first = (rows.start * height.stride).saturating_sub(height.pad_before);
        let end = (rows.end - 1) * height.stride + height.kernel;
        let end = end.saturating_sub(height.pad_before).min(height.input);
        let new = first.max(self.end)..end;
        if !new.is_empty() {
            let has_nan =
                T::dispatch(level, HasNan { new: new.clone(), width: shape.width.input, pixels });
            self.end = new.end;
            if has_nan {
                self.nan_end = new.end;
            }
        }
        first < self.nan_end
    }
}

/// Whether there is a NaN in some rows.
struct HasNan<T> {
    new: Range<usize>,
    width: usize,
    pixels: Pixels<T>,
}

impl<T: Element> Kernel<T> for HasNan<T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) -> bool {
        let Pixels { stride, lanes, x } = self.pixels;
        let pixels = self.new.len() * self.width;
        let first = x.wrapping_add(self.new.start * self.width * stride);
        let (runs, len) = if lanes == stride { (1, pixels * lanes) } else { (pixels, lanes) };
        let mut has = false;
        for run in 0..runs {
            // SAFETY: whoever makes one answers for the rows.
            has |= unsafe { has_nan(simd, first.wrapping_add(run * stride), len) };
        }
        has
    }
}

/// Whether there is one in a run of elements.
///
/// # Safety
/// They may be read.
#[inline(always)]
unsafe fn has_nan<T: Element, S: Lanes<T>>(simd: S, run: *const T, len: usize) -> bool {
    const VECTORS: usize = 4;
    let line = CACHE_LINE / size_of::<T>();
    let step = VECTORS * S::LANES;
    let whole = len - len % step;
    let mut has = false;
    for at in (0..whole).step_by(step) {
        for ahead in (0..step).step_by(line) {
            simd.prefetch(run.wrapping_add(at + ahead + LINES_AHEAD * line));
        }
        for pair in (at..at + step).step_by(2 * S::LANES) {
            // SAFETY: the caller answers for the run.
            let (a, b) = unsafe { (simd.load(run.add(pair)), simd.load(run.add(pair + S::LANES))) };
            has |= simd.has_nan(a, b);
        }
    }
    for_each_vector(
        simd,
        len - whole,
        #[inline(always)]
        |at, count| {
            // SAFETY: as above.
            let vector = unsafe { crate::runs::load(simd, count, run.add(whole + at)) };
            has |= simd.has_nan(vector, vector);
        },
    );
    has
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Layout, Pool2dParams};
    use crate::simd::Isa;

    /// In every place, a NaN is seen by the windows whose rows it is in, and in other channels by none.
    fn sees_each_nan<T: Element>(isa: Isa) {
        let Some(level) = Level::new(isa) else { return println!("skipped: no {}", isa.name()) };
        for (channels, lanes) in [(3, 0..3), (40, 0..40), (40, 16..33), (80, 8..80)] {
            let params = Pool2dParams {
                layout: Layout::Nhwc,
                pad_top: 1,
                pad_bottom: 1,
                stride_height: 1,
                stride_width: 1,
                ..Pool2dParams::new(1, channels, 7, 5, 3, 3)
            };
            let shape = PoolShape::new(&params, size_of::<T>()).unwrap();
            let mut x = vec![T::from_f64(1.0); shape.input_len()];
            for at in 0..x.len() {
                let before = std::mem::replace(&mut x[at], T::from_f64(f64::NAN));
                let (row, lane) = (at / channels / 5, at % channels);
                let pixels =
                    Pixels { stride: channels, lanes: lanes.len(), x: x[lanes.start..].as_ptr() };
                let mut read = RowsRead::new();
                for windows in [0..2, 2..3, 3..7] {
                    // Rows of x, and those that the last windows had, too.
                    let rows = windows.start.max(1) - 1..(windows.end + 1).min(7);
                    // SAFETY: x has them.
                    let found = unsafe { read.has_nan(level, &shape, windows.clone(), pixels) };
                    if lanes.contains(&lane) {
                        assert!(found || !rows.contains(&row), "row {row} in {windows:?}");
                        // A NaN in rows that were read together says nothing of those behind them.
                        assert!(!found || row < rows.end, "row {row} in {windows:?}");
                    } else {
                        assert!(!found);
                    }
                }
                x[at] = before;
            }
        }
    }

    #[test]
    fn a_nan_is_seen_wherever_it_is() {
        for isa in Isa::ALL {
            sees_each_nan::<f32>(isa);
            sees_each_nan::<f64>(isa);
        }
    }
}
