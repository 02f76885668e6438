//! Where a product's results go, where their rows lie side by side and their columns apart.

use crate::runs::Transpose;

/// Number (row, column) goes to `column * stride + row`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transposed<T> {
    pub target: *mut T,
    pub stride: usize,
}

impl<T> Transposed<T> {
    /// What copies values there, whose rows lie `stride` apart and whose first one has these numbers.
    #[inline(always)]
    pub(super) fn copy(
        &self,
        [row, column]: [usize; 2],
        extents: [usize; 2],
        values: *const T,
        stride: usize,
    ) -> Transpose<T> {
        let target = self.target.wrapping_add(column * self.stride + row);
        let (source, source_stride, target_stride) = (values, stride, self.stride);
        Transpose { extents, source, source_stride, target, target_stride }
    }
}
