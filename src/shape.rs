//! Parameters, and the checked shapes made from them once: everything below trusts a shape's sizes.

use std::ops::Range;

use crate::error::{Error, Result};

/// Where the channels of an activation tensor (x, y and their gradients) lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `[batch, channels, height, width]`
    Nchw,
    /// `[batch, height, width, channels]`
    Nhwc,
}

/// How a convolution's weights lie: O = out_channels, I = in_channels / groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterLayout {
    /// `[out_channels, in_channels / groups, kernel_height, kernel_width]`
    Oihw,
    /// `[out_channels, kernel_height, kernel_width, in_channels / groups]`
    Ohwi,
    /// `[kernel_height, kernel_width, in_channels / groups, out_channels]`
    Hwio,
}

/// Which way a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The fastest that fits the shape: it may be Winograd's, which rounds more than the others.
    Auto,
    /// Plain loops with sums in double precision: the oracle that the others are tested against.
    Reference,
    /// A sum of products without a transform: GEMM on patches, or a direct kernel.
    Gemm,
    /// Winograd's minimal filtering of windows of 3 x 3, in tiles of 4 x 4 results, or 5 x 5, in tiles of
    /// 2 x 2, with stride 1 and dilation 1; [`Error::Unsupported`] for others. It has a quarter or a third of
    /// the products, and larger errors: y and dx, sums over C channels, are off by at most 205 (C + 24) u
    /// times the largest |x| (|dy|) times 9 C times the largest |w|; dw, a sum over T tiles, by at most
    /// 232 (T + 24) u times 16 T times the largest |x| times the largest |dy|; for windows of 5 x 5 these are
    /// 277 and 25 C, 187 and 4 T; u is the unit roundoff. `cargo bench --bench accuracy` measures errors. NaN
    /// and infinity spread to whole tiles, in dw to all taps of their channels, from weights to all pixels;
    /// what would be exactly 0 may be a small number.
    Winograd,
}

/// What a convolution's forward pass applies to its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// y = u
    None,
    /// y = max(u, 0); a NaN stays NaN
    Relu,
}

/// The shape of a two-dimensional convolution (cross-correlation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dParams {
    /// Images in the batch; 0 is a valid no-op.
    pub batch: usize,
    /// Channels of x.
    pub in_channels: usize,
    /// Rows of x.
    pub in_height: usize,
    /// Columns of x.
    pub in_width: usize,
    /// Channels of y.
    pub out_channels: usize,
    /// Rows of the filter.
    pub kernel_height: usize,
    /// Columns of the filter.
    pub kernel_width: usize,
    /// Rows of x from one row of y to the next.
    pub stride_height: usize,
    /// Columns of x from one column of y to the next.
    pub stride_width: usize,
    /// Rows of zeros above x.
    pub pad_top: usize,
    /// Rows of zeros below x.
    pub pad_bottom: usize,
    /// Columns of zeros left of x.
    pub pad_left: usize,
    /// Columns of zeros right of x.
    pub pad_right: usize,
    /// Rows of x from one filter row to the next; 1 = dense.
    pub dilation_height: usize,
    /// Columns of x from one filter column to the next; 1 = dense.
    pub dilation_width: usize,
    /// Independent groups that the channels are split into.
    pub groups: usize,
    /// Layout of x, y and their gradients.
    pub layout: Layout,
    /// Layout of w and its gradient.
    pub filter_layout: FilterLayout,
    /// Which way to compute.
    pub algorithm: Algorithm,
}

impl Conv2dParams {
    /// Stride 1, no padding, dense, one group, NCHW, OIHW, [`Algorithm::Auto`].
    pub fn new(
        batch: usize,
        in_channels: usize,
        in_height: usize,
        in_width: usize,
        out_channels: usize,
        kernel_height: usize,
        kernel_width: usize,
    ) -> Self {
        Conv2dParams {
            batch,
            in_channels,
            in_height,
            in_width,
            out_channels,
            kernel_height,
            kernel_width,
            stride_height: 1,
            stride_width: 1,
            pad_top: 0,
            pad_bottom: 0,
            pad_left: 0,
            pad_right: 0,
            dilation_height: 1,
            dilation_width: 1,
            groups: 1,
            layout: Layout::Nchw,
            filter_layout: FilterLayout::Oihw,
            algorithm: Algorithm::Auto,
        }
    }

    /// Rows and columns of y; an error for parameters that no convolution has.
    pub fn output_size(&self) -> Result<(usize, usize)> {
        let shape = ConvShape::new(self, 1)?;
        Ok((shape.out_height, shape.out_width))
    }
}

/// The shape of a two-dimensional pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dParams {
    /// Images in the batch; 0 is a valid no-op.
    pub batch: usize,
    /// Channels of x and y.
    pub channels: usize,
    /// Rows of x.
    pub in_height: usize,
    /// Columns of x.
    pub in_width: usize,
    /// Rows of the window.
    pub kernel_height: usize,
    /// Columns of the window.
    pub kernel_width: usize,
    /// Rows of x from one row of y to the next.
    pub stride_height: usize,
    /// Columns of x from one column of y to the next.
    pub stride_width: usize,
    /// Rows of padding above x.
    pub pad_top: usize,
    /// Rows of padding below x.
    pub pad_bottom: usize,
    /// Columns of padding left of x.
    pub pad_left: usize,
    /// Columns of padding right of x.
    pub pad_right: usize,
    /// Rows of x from one window row to the next; 1 = dense.
    pub dilation_height: usize,
    /// Columns of x from one window column to the next; 1 = dense.
    pub dilation_width: usize,
    /// Round output extents up; a window must still start inside the input or its leading padding.
    pub ceil_mode: bool,
    /// What padded cells count as.
    pub padding: PoolPadding,
    /// Layout of x, y and their gradients.
    pub layout: Layout,
}

/// What a pooling window's cells in the padding count as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolPadding {
    /// Never the maximum, not counted in an average.
    Excluded,
    /// A cell of value 0, as in a zero-padded im2col.
    Zero,
}

impl Pool2dParams {
    /// Stride = window, no padding, dense, extents rounded down, [`PoolPadding::Excluded`], NCHW.
    pub fn new(
        batch: usize,
        channels: usize,
        in_height: usize,
        in_width: usize,
        kernel_height: usize,
        kernel_width: usize,
    ) -> Self {
        Pool2dParams {
            batch,
            channels,
            in_height,
            in_width,
            kernel_height,
            kernel_width,
            stride_height: kernel_height,
            stride_width: kernel_width,
            pad_top: 0,
            pad_bottom: 0,
            pad_left: 0,
            pad_right: 0,
            dilation_height: 1,
            dilation_width: 1,
            ceil_mode: false,
            padding: PoolPadding::Excluded,
            layout: Layout::Nchw,
        }
    }

    /// Rows and columns of y; an error for parameters that no pooling has.
    pub fn output_size(&self) -> Result<(usize, usize)> {
        let shape = PoolShape::new(self, 1)?;
        Ok((shape.out_height, shape.out_width))
    }
}

/// One spatial dimension of a sliding window over a padded extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub pad_before: usize,
    pub pad_after: usize,
}

impl Axis {
    /// Where tap `kernel` of the window at `output` reads, or None in the padding.
    #[inline(always)]
    pub fn source(&self, output: usize, kernel: usize) -> Option<usize> {
        let padded = output * self.stride + kernel * self.dilation;
        padded.checked_sub(self.pad_before).filter(|&position| position < self.input)
    }
}

/// A convolution whose parameters were checked and whose sizes are known not to wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub batch: usize,
    pub groups: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    /// in_channels / groups
    pub group_in: usize,
    /// out_channels / groups
    pub group_out: usize,
    pub height: Axis,
    pub width: Axis,
    pub out_height: usize,
    pub out_width: usize,
    /// Element strides of x along (image, channel, row, column): those of the tensor, of which a shape
    /// of some rows is a part.
    pub input_strides: [usize; 4],
    /// The same of y.
    pub output_strides: [usize; 4],
    /// Whether some windows of the tensor reach into padding.
    pub is_padded: bool,
    pub layout: Layout,
    pub filter_layout: FilterLayout,
    pub algorithm: Algorithm,
}

impl ConvShape {
    /// Checks `params` for tensors whose elements have `element_size` bytes.
    pub fn new(params: &Conv2dParams, element_size: usize) -> Result<Self> {
        let shape = ConvShape::of_windows(params, element_size)?;
        shape.countable()?;
        Ok(shape)
    }

    /// The same convolution of the same tensors as kernels do it best: a matrix product where it is one, and
    /// where both layouts are the same, that which fills the kernels' lanes.
    pub fn simplified(mut self) -> Self {
        self.make_dense();
        let (h, w) = (&self.height, &self.width);
        match (self.in_channels, self.out_channels) {
            (1, 1) => self.with_layout(Layout::Nchw),
            _ if [h.input, w.input, h.output, w.output] == [1; 4] => self.with_layout(Layout::Nhwc),
            _ => self,
        }
    }

    /// The same memory as tensors of a layout, which has their elements in the same order.
    pub fn with_layout(self, layout: Layout) -> Self {
        let (h, w) = (&self.height, &self.width);
        let strides = |channels, height, width| activation_strides(layout, channels, height, width);
        ConvShape {
            layout,
            input_strides: strides(self.in_channels, h.input, w.input),
            output_strides: strides(self.out_channels, h.output, w.output),
            ..self
        }
    }

    /// Takes a window that is all of its image as one pixel, whose channels are the window's cells, where the
    /// filters have them in the same order: then the convolution is a matrix product.
    fn make_dense(&mut self) {
        let whole = |axis: &Axis| axis.kernel == axis.padded() && axis.padded() == axis.input;
        let same_order = match self.layout {
            Layout::Nchw => self.filter_layout == FilterLayout::Oihw,
            Layout::Nhwc => self.filter_layout != FilterLayout::Oihw,
        };
        let dense = whole(&self.height) && whole(&self.width) && self.groups == 1;
        if !(dense && same_order) || self.algorithm == Algorithm::Winograd {
            return;
        }
        let pixels = self.window();
        self.in_channels *= pixels;
        self.group_in *= pixels;
        for axis in [&mut self.height, &mut self.width] {
            (axis.input, axis.kernel, axis.stride, axis.dilation) = (1, 1, 1, 1);
        }
        *self = self.with_layout(self.layout);
    }

    /// The same for im2col and col2im, which multiply nothing.
    pub fn of_windows(params: &Conv2dParams, element_size: usize) -> Result<Self> {
        positive("in_channels", params.in_channels)?;
        positive("out_channels", params.out_channels)?;
        positive("groups", params.groups)?;
        let height = axis_of_conv(&HEIGHT, params.in_height, params, |p| {
            (p.kernel_height, p.stride_height, p.dilation_height, p.pad_top, p.pad_bottom)
        })?;
        let width = axis_of_conv(&WIDTH, params.in_width, params, |p| {
            (p.kernel_width, p.stride_width, p.dilation_width, p.pad_left, p.pad_right)
        })?;
        for (name, channels) in
            [("in_channels", params.in_channels), ("out_channels", params.out_channels)]
        {
            if channels % params.groups != 0 {
                return Err(Error::invalid(format!(
                    "{name} must be divisible by groups, but {channels} is not divisible by {}",
                    params.groups
                )));
            }
        }
        let shape = ConvShape {
            batch: params.batch,
            groups: params.groups,
            in_channels: params.in_channels,
            out_channels: params.out_channels,
            group_in: params.in_channels / params.groups,
            group_out: params.out_channels / params.groups,
            out_height: height.output,
            out_width: width.output,
            input_strides: [0; 4],
            output_strides: [0; 4],
            is_padded: [&height, &width].iter().any(|axis| axis.padded() > axis.input),
            height,
            width,
            layout: params.layout,
            filter_layout: params.filter_layout,
            algorithm: params.algorithm,
        };
        let ConvShape { batch, in_channels, out_channels, height: h, width: w, .. } = shape;
        tensor("x", &[batch, in_channels, h.input, w.input], element_size)?;
        tensor("y", &[batch, out_channels, h.output, w.output], element_size)?;
        tensor("w", &[out_channels, shape.group_in, h.kernel, w.kernel], element_size)?;
        Ok(ConvShape {
            input_strides: activation_strides(shape.layout, in_channels, h.input, w.input),
            output_strides: activation_strides(shape.layout, out_channels, h.output, w.output),
            ..shape
        })
    }

    /// Fails for so many products that plans could not count them: no computer would end them either.
    fn countable(&self) -> Result<()> {
        const MOST: usize = 1 << 56;
        let pixels = [&self.height, &self.width].map(|axis| axis.output.max(axis.input));
        let factors = [self.batch, pixels[0], pixels[1], self.out_channels, self.patch_len()];
        let products = factors.iter().try_fold(1usize, |product, &f| product.checked_mul(f));
        if products.is_none_or(|products| products > MOST) {
            return Err(Error::overflow(format!(
                "the convolution is too large: {} images of {} x {} pixels, {} out_channels and {} \
                 products in each sum",
                self.batch,
                self.height.input,
                self.width.input,
                self.out_channels,
                self.patch_len()
            )));
        }
        Ok(())
    }

    /// Elements of x.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_channels * self.height.input * self.width.input
    }

    /// Elements of y.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_channels * self.height.output * self.width.output
    }

    /// Elements of w.
    pub fn filter_len(&self) -> usize {
        self.out_channels * self.patch_len()
    }

    /// The shape of some rows of y in `batch` of the images, and the first row of x that they read.
    pub fn of_output_rows(&self, batch: usize, rows: Range<usize>) -> (ConvShape, usize) {
        let (height, inputs) = self.height.of_outputs(rows);
        (ConvShape { batch, out_height: height.output, height, ..*self }, inputs.start)
    }

    /// The shape of some rows of x in `batch` of the images, and the rows of y that read them.
    pub fn of_input_rows(&self, batch: usize, rows: Range<usize>) -> (ConvShape, Range<usize>) {
        let (height, outputs) = self.height.of_inputs(rows);
        (ConvShape { batch, out_height: height.output, height, ..*self }, outputs)
    }

    /// Cells of a window.
    pub fn window(&self) -> usize {
        self.height.kernel * self.width.kernel
    }

    /// Products in one sum of the forward pass: (in_channels / groups) * kernel_height * kernel_width.
    pub fn patch_len(&self) -> usize {
        self.group_in * self.height.kernel * self.width.kernel
    }

    /// Element strides of w along (out channel, in channel of the group, kernel row, kernel column).
    pub fn filter_strides(&self) -> [usize; 4] {
        let (i, h, w) = (self.group_in, self.height.kernel, self.width.kernel);
        match self.filter_layout {
            FilterLayout::Oihw => [i * h * w, h * w, w, 1],
            FilterLayout::Ohwi => [h * w * i, 1, w * i, i],
            FilterLayout::Hwio => {
                [1, self.out_channels, w * i * self.out_channels, i * self.out_channels]
            }
        }
    }
}

/// Element strides of an activation tensor along (image, channel, row, column).
pub(crate) fn activation_strides(
    layout: Layout,
    channels: usize,
    height: usize,
    width: usize,
) -> [usize; 4] {
    match layout {
        Layout::Nchw => [channels * height * width, height * width, width, 1],
        Layout::Nhwc => [height * width * channels, 1, width * channels, channels],
    }
}

/// A pooling whose parameters were checked and whose sizes are known not to wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolShape {
    pub batch: usize,
    pub channels: usize,
    pub height: Axis,
    pub width: Axis,
    pub out_height: usize,
    pub out_width: usize,
    /// Pixels from plane to plane of x, and of y: those of the tensor, of which a shape of some rows is
    /// a part.
    pub input_plane: usize,
    pub output_plane: usize,
    pub padding: PoolPadding,
    pub layout: Layout,
}

impl PoolShape {
    /// Checks `params` for tensors whose elements have `element_size` bytes.
    pub fn new(params: &Pool2dParams, element_size: usize) -> Result<Self> {
        positive("channels", params.channels)?;
        let height = Axis::new(
            &HEIGHT,
            params.in_height,
            params.kernel_height,
            params.stride_height,
            params.dilation_height,
            params.pad_top,
            params.pad_bottom,
            params.ceil_mode,
        )?;
        let width = Axis::new(
            &WIDTH,
            params.in_width,
            params.kernel_width,
            params.stride_width,
            params.dilation_width,
            params.pad_left,
            params.pad_right,
            params.ceil_mode,
        )?;
        // argmax holds kh * kernel_width + kw as an i32
        match height.kernel.checked_mul(width.kernel) {
            Some(cells) if i32::try_from(cells).is_ok() => {}
            _ => {
                return Err(Error::overflow(format!(
                    "kernel_height * kernel_width must fit an int32_t, but is {} * {}",
                    height.kernel, width.kernel
                )));
            }
        }
        let shape = PoolShape {
            batch: params.batch,
            channels: params.channels,
            out_height: height.output,
            out_width: width.output,
            input_plane: 0,
            output_plane: 0,
            height,
            width,
            padding: params.padding,
            layout: params.layout,
        };
        // argmax may be wider than the element
        let widest = element_size.max(size_of::<i32>());
        tensor("x", &[shape.batch, shape.channels, height.input, width.input], element_size)?;
        tensor("y", &[shape.batch, shape.channels, height.output, width.output], widest)?;
        Ok(PoolShape {
            input_plane: height.input * width.input,
            output_plane: height.output * width.output,
            ..shape
        })
    }

    /// Elements of x.
    pub fn input_len(&self) -> usize {
        self.batch * self.channels * self.height.input * self.width.input
    }

    /// Elements of y and of argmax.
    pub fn output_len(&self) -> usize {
        self.batch * self.channels * self.height.output * self.width.output
    }

    /// The shape of some rows of y in `batch` of the images, and the rows of x that they read.
    pub fn of_output_rows(&self, batch: usize, rows: Range<usize>) -> (PoolShape, Range<usize>) {
        let (height, inputs) = self.height.of_outputs(rows);
        (PoolShape { batch, out_height: height.output, height, ..*self }, inputs)
    }

    /// The shape of some rows of x in `batch` of the images, and the rows of y that read them.
    pub fn of_input_rows(&self, batch: usize, rows: Range<usize>) -> (PoolShape, Range<usize>) {
        let (height, outputs) = self.height.of_inputs(rows);
        (PoolShape { batch, out_height: height.output, height, ..*self }, outputs)
    }

    /// Cells of a window.
    pub fn window_len(&self) -> usize {
        self.height.kernel * self.width.kernel
    }
}

/// The public names of one axis's parameters, for messages.
struct AxisNames {
    input: &'static str,
    kernel: &'static str,
    stride: &'static str,
    dilation: &'static str,
    pad_before: &'static str,
    pad_after: &'static str,
}

const HEIGHT: AxisNames = AxisNames {
    input: "in_height",
    kernel: "kernel_height",
    stride: "stride_height",
    dilation: "dilation_height",
    pad_before: "pad_top",
    pad_after: "pad_bottom",
};

const WIDTH: AxisNames = AxisNames {
    input: "in_width",
    kernel: "kernel_width",
    stride: "stride_width",
    dilation: "dilation_width",
    pad_before: "pad_left",
    pad_after: "pad_right",
};

fn axis_of_conv(
    names: &AxisNames,
    input: usize,
    params: &Conv2dParams,
    pick: impl Fn(&Conv2dParams) -> (usize, usize, usize, usize, usize),
) -> Result<Axis> {
    let (kernel, stride, dilation, pad_before, pad_after) = pick(params);
    Axis::new(names, input, kernel, stride, dilation, pad_before, pad_after, false)
}

impl Axis {
    #[allow(clippy::too_many_arguments, reason = "the parameters of one axis, in their order")]
    fn new(
        names: &AxisNames,
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pad_before: usize,
        pad_after: usize,
        ceil_mode: bool,
    ) -> Result<Self> {
        positive(names.input, input)?;
        positive(names.kernel, kernel)?;
        positive(names.stride, stride)?;
        positive(names.dilation, dilation)?;
        // No position along an axis may leave isize: kernels compute with signed offsets.
        let limit = isize::MAX as usize / 4;
        let within = |name: &str, value: Option<usize>| match value {
            Some(value) if value <= limit => Ok(value),
            _ => Err(Error::overflow(format!(
                "{name} is too large for the address space: {} {input}, {} {kernel}, {} {stride}, \
                 {} {dilation}, {} {pad_before}, {} {pad_after}",
                names.input,
                names.kernel,
                names.stride,
                names.dilation,
                names.pad_before,
                names.pad_after
            ))),
        };
        within(names.stride, Some(stride))?;
        let window = within(
            names.kernel,
            (kernel - 1).checked_mul(dilation).and_then(|extent| extent.checked_add(1)),
        )?;
        let padded = within(
            names.pad_before,
            input.checked_add(pad_before).and_then(|extent| extent.checked_add(pad_after)),
        )?;
        if window > padded {
            return Err(Error::invalid(format!(
                "{} {kernel} with {} {dilation} makes a window of {window}, larger than the \
                 padded input of {padded} ({} {input}, {} {pad_before}, {} {pad_after})",
                names.kernel, names.dilation, names.input, names.pad_before, names.pad_after
            )));
        }
        let mut output = (padded - window) / stride + 1;
        let ends_inside = (padded - window) % stride == 0;
        if ceil_mode && !ends_inside && output * stride < input + pad_before {
            output += 1;
        }
        Ok(Axis { input, output, kernel, stride, dilation, pad_before, pad_after })
    }
}

fn positive(name: &str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::invalid(format!("{name} must be at least 1, but is 0")));
    }
    Ok(())
}

/// The number of elements of a tensor, refused when it takes more than `PTRDIFF_MAX` bytes.
pub(crate) fn tensor(name: &str, extents: &[usize], element_size: usize) -> Result<usize> {
    // A zero extent makes an empty tensor, but must not hide an overflow among the others.
    let checked = extents
        .iter()
        .map(|&extent| extent.max(1))
        .try_fold(element_size, usize::checked_mul)
        .filter(|&bytes| bytes <= isize::MAX as usize);
    match checked {
        Some(_) => Ok(extents.iter().product()),
        None => {
            let shape: Vec<String> = extents.iter().map(ToString::to_string).collect();
            Err(Error::overflow(format!(
                "{name} of shape [{}] with elements of {element_size} bytes takes more than \
                 PTRDIFF_MAX bytes",
                shape.join(", ")
            )))
        }
    }
}
