//! A network for images of ten classes, and a step of its training.

use std::time::Instant;

use cnnkern::{Context, Conv2dParams, Pool2dParams, Result};

use crate::layers::{Convolution, Layer, Linear, Pool, Relu};
use crate::random::Random;

pub const CLASSES: usize = 10;

/// A layer without the sizes that follow from those before it.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A convolution and its ReLU.
    Convolution {
        channels: usize,
        kernel: usize,
        pad: usize,
    },
    /// The maxima of 2 x 2.
    Pool,
    /// To so many outputs.
    Linear(usize),
    Relu,
}

/// The layers and all that a step writes, allocated once.
pub struct Network {
    layers: Vec<Box<dyn Layer>>,
    /// The input of each layer, then the scores of the classes.
    values: Vec<Vec<f32>>,
    /// Of the output of each layer.
    gradients: Vec<Vec<f32>>,
    labels: Vec<usize>,
}

/// The mean loss of a step's images, and the seconds of its phases.
#[derive(Clone, Copy)]
pub struct Step {
    pub loss: f32,
    pub forward: f64,
    pub backward: f64,
    pub update: f64,
}

impl Step {
    pub fn seconds(&self) -> f64 {
        self.forward + self.backward + self.update
    }
}

impl Network {
    /// For a batch of square images, which it learns by heart.
    pub fn new(kinds: &[Kind], batch: usize, [mut channels, mut extent]: [usize; 2]) -> Network {
        let mut random = Random::new(1);
        let len = batch * channels * extent * extent;
        let images: Vec<f32> = (0..len).map(|_| random.value() as f32).collect();
        let mut values = vec![images];
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        for &kind in kinds {
            let features = values[values.len() - 1].len() / batch;
            let layer: Box<dyn Layer> = match kind {
                Kind::Convolution { channels: out, kernel, pad } => {
                    let params = Conv2dParams {
                        pad_top: pad,
                        pad_bottom: pad,
                        pad_left: pad,
                        pad_right: pad,
                        ..Conv2dParams::new(batch, channels, extent, extent, out, kernel, kernel)
                    };
                    (channels, extent) = (out, extent + 2 * pad - kernel + 1);
                    Box::new(Convolution::new(params, &mut random))
                }
                Kind::Pool => {
                    let params = Pool2dParams::new(batch, channels, extent, extent, 2, 2);
                    extent /= 2;
                    Box::new(Pool::new(params))
                }
                Kind::Linear(outputs) => {
                    Box::new(Linear::new([batch, features, outputs], &mut random))
                }
                Kind::Relu => Box::new(Relu { len: batch * features }),
            };
            values.push(vec![0.0; layer.output_len()]);
            layers.push(layer);
        }
        let gradients = values[1..].to_vec();
        // Of magnitudes, 1 is one.
        let class = |magnitude: f64| (magnitude * CLASSES as f64) as usize % CLASSES;
        let labels = (0..batch).map(|_| class(random.value().abs())).collect();
        Network { layers, values, gradients, labels }
    }

    /// A step of gradient descent.
    pub fn step(&mut self, context: &Context) -> Result<Step> {
        let start = Instant::now();
        let loss = self.forward(context)?;
        let forward = start.elapsed().as_secs_f64();
        self.backward(context)?;
        let backward = start.elapsed().as_secs_f64() - forward;
        self.layers.iter_mut().for_each(|layer| layer.update());
        let update = start.elapsed().as_secs_f64() - forward - backward;
        Ok(Step { loss, forward, backward, update })
    }

    /// Returns the loss and leaves the gradient of the scores.
    fn forward(&mut self, context: &Context) -> Result<f32> {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let (inputs, outputs) = self.values.split_at_mut(index + 1);
            layer.forward(context, &inputs[index], &mut outputs[0])?;
        }
        let [.., scores] = &self.values[..] else { unreachable!("the images at least") };
        let [.., gradient] = &mut self.gradients[..] else { unreachable!("a layer at least") };
        Ok(cross_entropy(scores, &self.labels, gradient))
    }

    fn backward(&mut self, context: &Context) -> Result<()> {
        for (index, layer) in self.layers.iter_mut().enumerate().rev() {
            let (before, after) = self.gradients.split_at_mut(index);
            // Nobody asks for the gradient of the images.
            let dx = before.last_mut().map(Vec::as_mut_slice);
            layer.backward(context, &self.values[index], &self.values[index + 1], &after[0], dx)?;
        }
        Ok(())
    }
}

/// The mean cross-entropy of the classes' probabilities, softmax(scores), and its gradient.
fn cross_entropy(scores: &[f32], labels: &[usize], gradient: &mut [f32]) -> f32 {
    let count = labels.len() as f32;
    let mut loss = 0.0;
    let rows = scores.chunks_exact(CLASSES).zip(gradient.chunks_exact_mut(CLASSES));
    for ((scores, gradient), &label) in rows.zip(labels) {
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = scores.iter().map(|score| (score - most).exp()).sum();
        for (gradient, score) in gradient.iter_mut().zip(scores) {
            *gradient = (score - most).exp() / sum / count;
        }
        gradient[label] -= 1.0 / count;
        loss += (most - scores[label] + sum.ln()) / count;
    }
    loss
}
