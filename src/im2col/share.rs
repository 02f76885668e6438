//! What a task of col2im writes, and from what.

use std::ops::Range;

use super::places::Places;
use crate::shape::ConvShape;

/// Some rows of an image of x, in some channels, and the cells that may lie on them.
pub(super) struct Share<'a, T> {
    pub shape: &'a ConvShape,
    pub rows: Range<usize>,
    /// All of them for NHWC.
    pub channels: Range<usize>,
    /// The image's part of the column matrix.
    pub col: *const T,
    pub places: Places,
    /// The image, and what its elements count before their cells are added.
    pub x: *mut T,
    pub beta: T,
}
