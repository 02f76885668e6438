//! Convolution, ReLU and max-pooling as one step: what lies between them is never stored whole.
//!
//! The forward pass convolves some images, or some rows of one, into scratch memory that the caches
//! hold, and pools them from there. The backward pass makes the gradient of the convolution's output
//! likewise: some rows at a time for dx, and for dw and db each block where it is packed. Every sum has
//! the order that it has in the separate calls, so the bits are the same.

use std::ops::Range;

use super::backward_data::BackwardData;
use super::backward_weights::BackwardWeights;
use super::choice::{Choice, Pass, choose};
use super::gradient::Gradient;
use super::{BackwardInputs, GradientOptions, Gradients, backward_data_as, backward_weights};
use super::{check, check_gradients, check_inputs, forward_as};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::pool2d::{self, Argmax, ArgmaxMut, Region, Unpool};
use crate::reference;
use crate::scratch::ScratchLen;
use crate::shape::{
    Activation, Conv2dParams, ConvShape, Layout, Pool2dParams, PoolShape, activation_strides,
};
use crate::shared_mut::SharedMut;
use crate::simd::Element;
use crate::tasks::GRAIN;

/// What lies between the convolution and the pooling takes so much a thread, which its second-level
/// cache may hold, or as much as the weights, so that preparing these is worth it.
/// (Tests with debug assertions cut small tensors, too.)
const SLAB_BYTES: usize = if cfg!(debug_assertions) { 1 << 11 } else { 1 << 20 };

/// Rows of a slab are a multiple of this: of the outputs of every transformed tile.
const SLAB_ROWS: usize = 4;

/// y = maxpool(activation(conv(x, w) + bias)), argmax = the place of each maximum in its window.
///
/// `pool` is a pooling of the convolution's output: its batch, channels, extents and layout are those.
/// y and argmax are the pooling's. Bit for bit what [`super::forward`] and
/// [`crate::pool2d::max_forward`] give.
///
/// ```
/// use cnnkern::pool2d::ArgmaxMut;
/// use cnnkern::{Activation, Context, ContextOptions, Conv2dParams, Pool2dParams, conv2d};
/// let context = Context::new(&ContextOptions::default())?;
/// // one image of 3 x 3 with one channel, one filter of 2 x 2, one window of 2 x 2
/// let params = Conv2dParams::new(1, 1, 3, 3, 1, 2, 2);
/// let pool = Pool2dParams::new(1, 1, 2, 2, 2, 2);
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0f32];
/// let w = [1.0, 0.0, 0.0, 1.0];
/// let (mut y, mut argmax) = ([0.0], [0u8]);
/// let places = Some(ArgmaxMut::U8(&mut argmax));
/// conv2d::maxpool::forward(
///     &context, &params, &pool, &x, &w, None, Activation::Relu, &mut y, places,
/// )?;
/// assert_eq!((y, argmax), ([14.0], [3]));
/// # Ok::<(), cnnkern::Error>(())
/// ```
#[allow(clippy::too_many_arguments, reason = "those of both operations")]
pub fn forward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    pool: &Pool2dParams,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
    argmax: Option<ArgmaxMut<'_>>,
) -> Result<()> {
    T::conv2d_maxpool2d_forward(context, params, pool, x, w, bias, activation, y, argmax)
}

/// The backward pass of [`forward`], from the gradient of the pooled output to any of dx, dw and db.
///
/// `inputs.dy` and `argmax` are shaped as the pooling's output, and so is `inputs.relu_output`: where
/// the activation was a ReLU, the pooled output y, else None. Bit for bit what
/// [`crate::pool2d::max_backward`] and [`super::backward`] give.
///
/// # Errors
/// [`Error::InvalidArgument`] for a place outside its window; the gradients are untouched then.
pub fn backward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    pool: &Pool2dParams,
    inputs: &BackwardInputs<'_, T>,
    argmax: Argmax<'_>,
    options: &GradientOptions,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    T::conv2d_maxpool2d_backward(context, params, pool, inputs, argmax, options, gradients)
}

/// [`forward`], compiled by `Operations` for each element type.
#[allow(clippy::too_many_arguments, reason = "those of both operations")]
pub(crate) fn run_forward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    pool: &Pool2dParams,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
    mut argmax: Option<ArgmaxMut<'_>>,
) -> Result<()> {
    let (conv, pool) = shapes::<T>(params, pool)?;
    check_inputs(&conv, x, w, bias)?;
    check("y", y, pool.output_len())?;
    if let Some(argmax) = &argmax {
        argmax.check(&pool)?;
    }
    let choice = choose(&conv, Pass::Forward)?;
    if conv.batch == 0 {
        return Ok(());
    }
    let cuttable = !conv.height.has_windows_in_padding() && !pool.height.has_windows_in_padding();
    let cut = Cut::new::<T>(context, &conv, pool.out_height, pool.height.stride, cuttable);
    let slabs = || cut.slabs(conv.batch, pool.out_height);
    let parts = |(images, rows): &(Range<usize>, Range<usize>)| {
        ForwardSlab::new(&conv, &pool, images.len(), rows)
    };
    let most = slabs().map(|slab| parts(&slab).len()).max().unwrap_or(0);
    let scratch = context.scratch::<T>(ScratchLen::for_all(most))?;
    for slab in slabs() {
        let part = parts(&slab);
        let (images, rows) = slab;
        // SAFETY: the scratch memory has the longest of the slabs, and nobody else uses it.
        let between = unsafe { std::slice::from_raw_parts_mut(scratch.shared(), part.len()) };
        let [of_image, _, of_row, _] = conv.input_strides;
        let x = &x[images.start * of_image + part.input_row * of_row..];
        forward_as(context, &part.conv, choice, x, w, bias, activation, between)?;
        let [of_image, _, of_row, _] = pooled_strides(&pool);
        let place = images.start * of_image + rows.start * of_row;
        let between = &between[part.skipped_rows * part.conv.output_strides[2]..];
        let argmax = argmax.as_mut().map(|argmax| argmax.from(place));
        pool2d::max_of(context, &part.pool, between, &mut y[place..], argmax)?;
    }
    Ok(())
}

/// [`backward`], compiled by `Operations` for each element type.
pub(crate) fn run_backward<T: Element>(
    context: &Context,
    params: &Conv2dParams,
    pool: &Pool2dParams,
    inputs: &BackwardInputs<'_, T>,
    argmax: Argmax<'_>,
    options: &GradientOptions,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    let (conv, pool) = shapes::<T>(params, pool)?;
    check("dy", inputs.dy, pool.output_len())?;
    if let Some(relu_output) = inputs.relu_output {
        check("relu_output", relu_output, pool.output_len())?;
    }
    check_gradients(&conv, inputs.x, inputs.w, &gradients)?;
    argmax.check::<T>(context, &pool)?;
    let choice = choose(&conv, Pass::BackwardData)?;
    if conv.batch == 0 {
        return Ok(());
    }
    let unpool = Unpool::new(context.level(), &pool, inputs.dy, argmax, inputs.relu_output);
    if choice == Choice::Reference {
        return backward_reference(context, &conv, &unpool, inputs, options, gradients);
    }
    if let (Some(dx), Some(w)) = (gradients.dx, inputs.w) {
        backward_data(context, &conv, choice, &unpool, w, options, dx)?;
    }
    let pass = BackwardWeights::new(inputs.x, Gradient::Pooled(unpool), options);
    backward_weights(context, &conv, &pass, gradients.dw, gradients.db)
}

/// dx, some rows at a time.
fn backward_data<T: Element>(
    context: &Context,
    conv: &ConvShape,
    choice: Choice,
    unpool: &Unpool<'_, T>,
    w: &[T],
    options: &GradientOptions,
    dx: &mut [T],
) -> Result<()> {
    let stride = conv.height.stride;
    let rows_step = conv.height.input.div_ceil(stride);
    let cut = Cut::new::<T>(context, conv, rows_step, 1, true);
    let slabs = || {
        cut.slabs(conv.batch, rows_step).map(|(images, rows)| {
            let rows = rows.start * stride..conv.height.input.min(rows.end * stride);
            let (mut part, outputs) = conv.of_input_rows(images.len(), rows.clone());
            part.output_strides =
                activation_strides(conv.layout, conv.out_channels, outputs.len(), conv.out_width);
            (images, rows, part, outputs)
        })
    };
    let most = slabs().map(|(_, _, part, _)| part.output_len()).max().unwrap_or(0);
    let scratch = context.scratch::<T>(ScratchLen::for_all(most))?;
    for (images, rows, part, outputs) in slabs() {
        // SAFETY: the scratch memory has the longest of the slabs, and nobody else uses it.
        let dy = unsafe { std::slice::from_raw_parts_mut(scratch.shared(), part.output_len()) };
        unpool_rows(context, unpool, &images, &outputs, dy)?;
        let pass = BackwardData {
            w,
            dy,
            relu_output: None,
            alpha: T::from_f64(options.dx_alpha),
            beta: T::from_f64(options.dx_beta),
        };
        let [of_image, _, of_row, _] = conv.input_strides;
        let dx = &mut dx[images.start * of_image + rows.start * of_row..];
        backward_data_as(context, &part, choice, &pass, dx)?;
    }
    Ok(())
}

/// The oracle, on the whole gradient of the convolution's output.
fn backward_reference<T: Element>(
    context: &Context,
    conv: &ConvShape,
    unpool: &Unpool<'_, T>,
    inputs: &BackwardInputs<'_, T>,
    options: &GradientOptions,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    let scratch = context.scratch::<T>(ScratchLen::for_all(conv.output_len()))?;
    // SAFETY: the scratch memory has them, and nobody else uses it.
    let dy = unsafe { std::slice::from_raw_parts_mut(scratch.shared(), conv.output_len()) };
    unpool_rows(context, unpool, &(0..conv.batch), &(0..conv.out_height), dy)?;
    let inputs = BackwardInputs { dy, relu_output: None, ..*inputs };
    reference::conv2d_backward(conv, &inputs, options, gradients);
    Ok(())
}

/// Writes the gradient of some rows of some images, laid out as a tensor of them alone.
fn unpool_rows<T: Element>(
    context: &Context,
    unpool: &Unpool<'_, T>,
    images: &Range<usize>,
    rows: &Range<usize>,
    target: &mut [T],
) -> Result<()> {
    let PoolShape { channels, layout, .. } = *unpool.shape;
    let image_len = unpool.region_len(channels, rows.len());
    // Tasks have whole channels, or rows, so that what they write lies side by side.
    let units = if layout == Layout::Nchw { channels } else { rows.len() };
    let unit_len = image_len / units;
    let together = (GRAIN / unit_len).clamp(1, units);
    let tasks = units.div_ceil(together);
    let region = |index: usize| {
        let first = index % tasks * together;
        let some = first..units.min(first + together);
        let image = images.start + index / tasks;
        match layout {
            Layout::Nchw => Region { image, channels: some, rows: rows.clone() },
            Layout::Nhwc => {
                let rows = rows.start + some.start..rows.start + some.end;
                Region { image, channels: 0..channels, rows }
            }
        }
    };
    let scratch = context.scratch::<T>(ScratchLen::for_each(unpool.scratch_len()))?;
    let target = SharedMut::new(target);
    context.run(images.len() * tasks, &|slot, index| {
        let place = index / tasks * image_len + index % tasks * together * unit_len;
        // SAFETY: the pooling has the region; the target has its place, which is this task's.
        unsafe { unpool.run(&region(index), target.at(place), scratch.slot(slot)) };
    });
    Ok(())
}

/// The checked shapes of both, the second being the first's output.
fn shapes<T>(params: &Conv2dParams, pool: &Pool2dParams) -> Result<(ConvShape, PoolShape)> {
    let conv = ConvShape::new(params, size_of::<T>())?;
    let pool = PoolShape::new(pool, size_of::<T>())?;
    check_match(&conv, &pool)?;
    let conv = conv.simplified();
    // Pooling takes the convolution's layout where the results lie the same way in both.
    let one_pixel = pool.out_height * pool.out_width == 1;
    if pool.channels == 1 || one_pixel {
        return Ok((conv, PoolShape { layout: conv.layout, ..pool }));
    }
    Ok((conv.with_layout(pool.layout), pool))
}

/// An error for a pooling of something else.
pub(crate) fn check_match(conv: &ConvShape, pool: &PoolShape) -> Result<()> {
    for (name, found, expected) in [
        ("batch", pool.batch, conv.batch),
        ("channels", pool.channels, conv.out_channels),
        ("in_height", pool.height.input, conv.out_height),
        ("in_width", pool.width.input, conv.out_width),
    ] {
        if found != expected {
            return Err(Error::invalid(format!(
                "the pooling's {name} must be that of the convolution's output, {expected}, but is \
                 {found}"
            )));
        }
    }
    if pool.layout != conv.layout {
        return Err(Error::invalid(
            "the pooling's layout must be that of the convolution, but is the other",
        ));
    }
    Ok(())
}

/// Strides of the pooling's output along (image, channel, row, column).
fn pooled_strides(pool: &PoolShape) -> [usize; 4] {
    activation_strides(pool.layout, pool.channels, pool.out_height, pool.out_width)
}

/// How the work is cut into slabs: several images, or some rows of one. No result depends on it.
struct Cut {
    images: usize,
    rows: usize,
}

impl Cut {
    /// For `rows` rows of an image, each of which takes `reach` rows of the convolution's output.
    fn new<T>(
        context: &Context,
        conv: &ConvShape,
        rows: usize,
        reach: usize,
        cuttable: bool,
    ) -> Cut {
        let row_bytes = conv.out_channels * conv.out_width * size_of::<T>();
        let image_bytes = conv.out_height * row_bytes;
        let weights = conv.filter_len() * size_of::<T>();
        let most = (SLAB_BYTES * context.num_threads()).max(weights);
        if image_bytes <= most || !cuttable {
            return Cut { images: (most / image_bytes).max(1), rows };
        }
        let fitting = most / row_bytes.saturating_mul(reach) / SLAB_ROWS;
        Cut { images: 1, rows: fitting.max(1) * SLAB_ROWS }
    }

    /// The images and the rows of each slab.
    fn slabs(
        &self,
        batch: usize,
        height: usize,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<> {
        let Cut { images, rows } = *self;
        (0..batch).step_by(images).flat_map(move |image| {
            (0..height).step_by(rows).map(move |row| {
                (image..batch.min(image + images), row..height.min(row.saturating_add(rows)))
            })
        })
    }
}

/// A slab of the forward pass: the convolution to scratch memory, and the pooling from there.
struct ForwardSlab {
    conv: ConvShape,
    /// The first row of x that the convolution reads.
    input_row: usize,
    pool: PoolShape,
    /// Rows of the convolution's output that the pooling does not read.
    skipped_rows: usize,
}

impl ForwardSlab {
    /// For some rows of the pooling's output in so many images.
    fn new(conv: &ConvShape, pool: &PoolShape, images: usize, rows: &Range<usize>) -> Self {
        let (pool_part, inputs, between, (conv_part, input_row)) =
            match rows.len() == pool.out_height {
                true => {
                    let all = 0..conv.out_height;
                    let conv = ConvShape { batch: images, ..*conv };
                    (PoolShape { batch: images, ..*pool }, all.clone(), all, (conv, 0))
                }
                false => {
                    let (part, inputs) = pool.of_output_rows(images, rows.clone());
                    // Whole tiles, whose sums depend on all of their rows.
                    let first = inputs.start / SLAB_ROWS * SLAB_ROWS;
                    let end = inputs.end.next_multiple_of(SLAB_ROWS).min(conv.out_height);
                    (part, inputs, first..end, conv.of_output_rows(images, first..end))
                }
            };
        let strides =
            activation_strides(conv.layout, conv.out_channels, between.len(), conv.out_width);
        ForwardSlab {
            conv: ConvShape { output_strides: strides, ..conv_part },
            input_row,
            pool: PoolShape { input_plane: between.len() * conv.out_width, ..pool_part },
            skipped_rows: inputs.start - between.start,
        }
    }

    /// Elements between the convolution and the pooling.
    fn len(&self) -> usize {
        self.conv.output_len()
    }
}
