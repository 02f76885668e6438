//! The gradient of a max-pooling's input a region at a time, for whoever reads it once and never stores
//! it whole.

use std::ops::Range;

use super::Argmax;
use super::backward::{self, Inputs};
use super::max::ToMaximum;
use super::place::{Places, ToNumbers, one_run};
use crate::runs::{self, for_each_vector};
use crate::shape::{Layout, PoolShape};
use crate::simd::{Element, Kernel, Lanes, Level};

/// A max-pooling's backward pass, yet to be run.
#[derive(Clone, Copy)]
pub(crate) struct Unpool<'a, T> {
    pub level: Level,
    pub shape: &'a PoolShape,
    pub dy: &'a [T],
    /// Checked to lie in the windows.
    pub argmax: Argmax<'a>,
    /// The pooling's output, where its input was a ReLU's: gradients count as 0 where it is <= 0. It is
    /// the ReLU's output at the maximum, so that is where they would be dropped.
    pub relu_output: Option<&'a [T]>,
}

/// Some channels of some rows of one image of the pooling's input.
#[derive(Clone)]
pub(crate) struct Region {
    pub image: usize,
    pub channels: Range<usize>,
    pub rows: Range<usize>,
}

impl<T: Element> Unpool<'_, T> {
    /// Elements of a region.
    pub fn region_len(&self, channels: usize, rows: usize) -> usize {
        channels * rows * self.shape.width.input
    }

    /// Elements of scratch memory for a region of at most so many channels and rows.
    pub fn scratch_len(&self, channels: usize, rows: usize) -> usize {
        let some = PoolShape { batch: 1, channels, ..*self.shape };
        let most = backward::most_windows(&some, rows);
        backward::scratch_len_alone(&most, true) + 2 * most.output_len()
    }

    /// Writes the gradient of a region to `target`, laid out as a tensor of it alone.
    ///
    /// # Safety
    /// The pooling has the region; the target has `region_len`, and `memory` `scratch_len`.
    pub unsafe fn run(&self, region: &Region, target: *mut T, memory: *mut T) {
        let Region { image, channels, rows } = region;
        let (part, windows) = self.shape.of_input_rows(1, rows.clone());
        let part = PoolShape {
            channels: channels.len(),
            input_plane: rows.len() * self.shape.width.input,
            output_plane: windows.len() * self.shape.width.output,
            ..part
        };
        let (height, width) = (self.shape.height.output, self.shape.width.output);
        let all = self.shape.channels;
        // The region of y: runs of elements that lie side by side.
        let (first, [runs, run, stride]) = match self.shape.layout {
            Layout::Nchw => (
                ((image * all + channels.start) * height + windows.start) * width,
                [channels.len(), windows.len() * width, height * width],
            ),
            Layout::Nhwc => (
                (image * height + windows.start) * width * all + channels.start,
                [windows.len() * width, channels.len(), all],
            ),
        };
        let len = runs * run;
        // SAFETY: the caller answers for the region and the memory, which has two copies of it first.
        unsafe {
            let copy = CopyMasked {
                source: self.dy[first..].as_ptr(),
                relu_output: self.relu_output.map(|output| output[first..].as_ptr()),
                runs: [runs, run, stride],
                target: memory,
            };
            T::dispatch(self.level, copy);
            let numbers = memory.add(len);
            let runs = [runs, run, stride];
            T::dispatch(
                self.level,
                ToNumbers { places: self.argmax.from(first), runs, target: numbers },
            );
            let places = Places::Numbers(numbers.cast_const());
            let inputs = Inputs { dy: memory.cast_const(), places };
            let rest = memory.add(2 * len);
            backward::run_alone(self.level, &part, ToMaximum, inputs, target, rest);
        }
    }
}

/// Copies runs of elements one behind the other, 0 where the ReLU's output is not positive.
struct CopyMasked<T> {
    source: *const T,
    relu_output: Option<*const T>,
    /// Their number, the elements of each, and those from one to the next.
    runs: [usize; 3],
    target: *mut T,
}

impl<T: Element> Kernel<T> for CopyMasked<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let [runs, run, stride] = one_run(self.runs);
        for number in 0..runs {
            for_each_vector(
                simd,
                run,
                #[inline(always)]
                |i, count| {
                    let place = number * stride + i;
                    // SAFETY: whoever makes one answers for the runs.
                    unsafe {
                        let mut value = runs::load(simd, count, self.source.add(place));
                        if let Some(output) = self.relu_output {
                            let output = runs::load(simd, count, output.add(place));
                            value = simd.relu_gradient(output, value);
                        }
                        runs::store(simd, count, self.target.add(number * run + i), value);
                    }
                },
            );
        }
    }
}
