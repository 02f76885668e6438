//! Forward and backward data as one kind of pass: both gather, over taps, from x or from dy.

use crate::conv2d::backward_data::BackwardData;
use crate::gemm::lines::unrolled;
use crate::runs;
use crate::shape::{Activation, ConvShape};
use crate::simd::{Element, Lanes};
use crate::taps::Taps;

/// What a gathering pass computes: target = activation(alpha * sum + beta * target + bias), where
/// the sum runs over the terms, the source channels of a group, and the taps.
#[derive(Debug, Clone, Copy)]
pub struct Gather<T> {
    pub batch: usize,
    pub groups: usize,
    /// Target channels of a group.
    pub outputs: usize,
    /// Source channels of a group.
    pub terms: usize,
    pub source: *const T,
    /// Masks the source; null for none.
    pub relu_output: *const T,
    /// Strides of the source along (image, channel, row, column).
    pub source_strides: [usize; 4],
    pub rows: Taps,
    pub columns: Taps,
    pub grid_height: usize,
    pub grid_width: usize,
    /// At the first tap of each axis.
    pub filters: *const T,
    pub filter_strides: FilterStrides,
    pub target: *mut T,
    /// Strides of the target along (image, channel, grid row, grid column).
    pub target_strides: [usize; 4],
    pub alpha: T,
    pub beta: T,
    /// Per target channel; null for none.
    pub bias: *const T,
    pub relu: bool,
}

/// Strides of the filters of a gathering pass.
#[derive(Debug, Clone, Copy)]
pub struct FilterStrides {
    pub group: usize,
    pub output: usize,
    pub term: usize,
    pub row_tap: usize,
    pub column_tap: usize,
}

// SAFETY: tasks read the sources, and write disjoint parts of the target.
unsafe impl<T: Sync> Sync for Gather<T> {}

impl<T: Element> Gather<T> {
    /// Multiply-adds of one row of one group.
    pub fn row_work(&self) -> usize {
        let products = self.outputs * self.taps_of_output();
        (self.grid_width * products).max(1)
    }

    /// Products of one target element.
    #[inline(always)]
    pub fn taps_of_output(&self) -> usize {
        self.terms * self.rows.count * self.columns.count
    }

    /// Whether the source and the targets of some passes from it lie in memory rather than in the caches.
    pub fn exceed_caches(passes: &[Self]) -> bool {
        let Gather { batch, groups, outputs, terms, rows, columns, .. } = &passes[0];
        let pixels = passes.iter().map(|pass| pass.grid_height * pass.grid_width).sum::<usize>();
        let source = rows.extent * columns.extent * groups * terms;
        let target = pixels * groups * outputs;
        runs::exceeds_caches::<T>(batch.saturating_mul(source + target))
    }

    /// Whether the target can be written past the caches: pixels of whole cache lines, which are not read.
    pub fn can_stream(&self) -> bool {
        let contiguous = self.target_strides[1] == 1;
        contiguous && !self.adds() && runs::are_lines(self.target, self.groups * self.outputs)
    }

    /// The source at an offset, and what masks it there, if anything does.
    #[inline(always)]
    pub fn source_at(&self, offset: usize) -> [*const T; 2] {
        masked_at([self.source, self.relu_output], offset)
    }

    /// Writes the results of `N` sums of the first `count` lanes, target channels that lie side by side,
    /// `stride` apart from `target` on; past the caches if `streams`. `bias` is theirs; null for none.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them; the biases have the channels. What streams is a whole vector
    /// at a multiple of its size.
    #[inline(always)]
    pub unsafe fn write_vectors<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        sums: [S::Vector; N],
        bias: *const T,
        count: usize,
        (target, stride): (*mut T, usize),
        streams: bool,
    ) {
        // SAFETY: the caller answers for the target and the biases.
        unsafe {
            let mut old = sums;
            if self.adds() {
                unrolled::<N>(
                    #[inline(always)]
                    |n| old[n] = runs::load(simd, count, target.add(n * stride)),
                );
            }
            let bias = match bias.is_null() {
                true => simd.splat(T::default()),
                false => runs::load(simd, count, bias),
            };
            let values = self.results(simd, sums, old, bias);
            // (Not asked for each of them.)
            match (streams, count == S::LANES) {
                (true, _) => {
                    unrolled::<N>(
                        #[inline(always)]
                        |n| simd.store_streaming(target.add(n * stride), values[n]),
                    );
                }
                (_, true) => {
                    unrolled::<N>(
                        #[inline(always)]
                        |n| simd.store(target.add(n * stride), values[n]),
                    );
                }
                _ => {
                    unrolled::<N>(
                        #[inline(always)]
                        |n| simd.store_first(count, target.add(n * stride), values[n]),
                    );
                }
            }
        }
    }

    /// What becomes of a sum, given the target's value before (read where beta is not 0) and the bias
    /// (where there is one).
    #[inline(always)]
    pub fn result<S: Lanes<T>>(
        &self,
        simd: S,
        sum: S::Vector,
        old: S::Vector,
        bias: S::Vector,
    ) -> S::Vector {
        let [value] = self.results(simd, [sum], [old], bias);
        value
    }

    /// The same for several sums of one target channel, or of a vector of them.
    #[inline(always)]
    pub fn results<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        sums: [S::Vector; N],
        old: [S::Vector; N],
        bias: S::Vector,
    ) -> [S::Vector; N] {
        let mut values = sums;
        unrolled::<N>(
            #[inline(always)]
            |n| values[n] = simd.mul(simd.splat(self.alpha), values[n]),
        );
        if self.adds() {
            unrolled::<N>(
                #[inline(always)]
                |n| values[n] = simd.mul_add(simd.splat(self.beta), old[n], values[n]),
            );
        }
        if !self.bias.is_null() {
            unrolled::<N>(
                #[inline(always)]
                |n| values[n] = simd.add(values[n], bias),
            );
        }
        if self.relu {
            unrolled::<N>(
                #[inline(always)]
                |n| values[n] = simd.relu(values[n]),
            );
        }
        values
    }

    /// Whether the target's value before counts.
    #[inline(always)]
    pub fn adds(&self) -> bool {
        self.beta != T::default()
    }
}

/// Elements and what masks them, null for nothing, at an offset.
#[inline(always)]
pub fn masked_at<T>([source, relu_output]: [*const T; 2], offset: usize) -> [*const T; 2] {
    let relu_output = match relu_output.is_null() {
        true => relu_output,
        false => relu_output.wrapping_add(offset),
    };
    [source.wrapping_add(offset), relu_output]
}

/// The forward pass as a gathering one.
pub fn forward<T: Element>(
    shape: &ConvShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Gather<T> {
    let [w_out, w_in, w_row, w_column] = shape.filter_strides();
    Gather {
        batch: shape.batch,
        groups: shape.groups,
        outputs: shape.group_out,
        terms: shape.group_in,
        source: x.as_ptr(),
        relu_output: std::ptr::null(),
        source_strides: shape.input_strides,
        rows: Taps::forward(&shape.height),
        columns: Taps::forward(&shape.width),
        grid_height: shape.out_height,
        grid_width: shape.out_width,
        filters: w.as_ptr(),
        filter_strides: FilterStrides {
            group: shape.group_out * w_out,
            output: w_out,
            term: w_in,
            row_tap: w_row,
            column_tap: w_column,
        },
        target: y.as_mut_ptr(),
        target_strides: shape.output_strides,
        alpha: T::from_f64(1.0),
        beta: T::default(),
        bias: bias.map_or(std::ptr::null(), <[T]>::as_ptr),
        relu: activation == Activation::Relu,
    }
}

/// The backward pass to the elements of dx at (`row`, `column`) plus multiples of the strides.
pub fn backward_phase<T: Element>(
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    dx: *mut T,
    [row, column]: [usize; 2],
) -> Gather<T> {
    let (height, width) = (&shape.height, &shape.width);
    let [w_out, w_in, w_row, w_column] = shape.filter_strides();
    let [dx_image, dx_channel, dx_row, dx_column] = shape.input_strides;
    let rows = Taps::backward(height, row);
    let columns = Taps::backward(width, column);
    let first_tap = rows.first_kernel * w_row + columns.first_kernel * w_column;
    Gather {
        batch: shape.batch,
        groups: shape.groups,
        outputs: shape.group_in,
        terms: shape.group_out,
        source: pass.dy.as_ptr(),
        relu_output: pass.relu_output.map_or(std::ptr::null(), <[T]>::as_ptr),
        source_strides: shape.output_strides,
        rows,
        columns,
        grid_height: (height.input - row).div_ceil(height.stride),
        grid_width: (width.input - column).div_ceil(width.stride),
        filters: pass.w.as_ptr().wrapping_add(first_tap),
        filter_strides: FilterStrides {
            group: shape.group_out * w_out,
            output: w_in,
            term: w_out,
            row_tap: rows.kernel_step * w_row,
            column_tap: columns.kernel_step * w_column,
        },
        target: dx.wrapping_add(row * dx_row + column * dx_column),
        // Of no meaning, and of any size, where the grid has one row or column.
        target_strides: [
            dx_image,
            dx_channel,
            height.stride.wrapping_mul(dx_row),
            width.stride.wrapping_mul(dx_column),
        ],
        alpha: pass.alpha,
        beta: pass.beta,
        bias: std::ptr::null(),
        relu: false,
    }
}
