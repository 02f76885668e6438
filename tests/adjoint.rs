//! Backward passes are the adjoints of forward passes, and derivatives.
mod common;

use cnnkern::{Activation, Algorithm, Context, Conv2dParams, Pool2dParams};

use common::calls::{self, Places};
use common::cases::{for_each, for_each_seed};
use common::contexts::contexts;
use common::definitions::{Conv, Pool};
use common::guarded::Placement;
use common::random::{Data, Random};
use common::real::Real;
use common::shapes;
use common::sum::{Precision, Sum};

/// The sum of a_i * b_i in double precision; exact for integers below 2^53.
fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.widen() * b.widen()).sum()
}

/// <conv(x, w), g> = <x, dx(g)> = <w, dw(g)>, and <bias, db(g)> is what the bias adds to the first.
/// With integers all of it is exact.
fn check_conv<T: Real>(contexts: &[Context], params: &Conv2dParams, random: &mut Random) {
    let conv = Conv::new(params);
    let mut values = |len: usize| -> Vec<T> { random.values(len, Data::Integers) };
    let (x, w, bias) = (values(conv.x_len()), values(conv.w_len()), values(params.out_channels));
    let g = values(conv.y_len());
    let check = |context: &Context, algorithm: Algorithm| {
        let params = Conv2dParams { algorithm, ..*params };
        let forward = |bias| {
            let activation = Activation::None;
            calls::conv_forward(context, &params, &x, &w, bias, activation, Placement::End)
        };
        let y_dot_g = dot(&forward(None), &g);
        let [dx, dw, db] = calls::conv_gradients(context, &params, &x, &w, &g, None);
        let what = format!("by {algorithm:?} on {}", context.isa());
        assert_eq!(y_dot_g, dot(&x, &dx), "<y, g> and <x, dx> {what}");
        if params.batch == 0 {
            // a call that does nothing: dw and db are what they were
            return;
        }
        assert_eq!(y_dot_g, dot(&w, &dw), "<y, g> and <w, dw> {what}");
        let with_bias = dot(&forward(Some(&bias)), &g);
        assert_eq!(with_bias - y_dot_g, dot(&bias, &db), "<bias, db> {what}");
    };
    for context in contexts {
        // Winograd's transforms round.
        check(context, Algorithm::Gemm);
    }
    check(&contexts[0], Algorithm::Reference);
}

fn conv_edges<T: Real>() {
    let contexts = contexts();
    let cases = shapes::conv_edges().into_iter().flat_map(|params| shapes::in_all_layouts(&params));
    let mut random = Random::new(1);
    for_each(cases, |params| check_conv::<T>(&contexts, params, &mut random));
}

fn conv_random<T: Real>() {
    let contexts = contexts();
    for_each_seed(
        200,
        |random| shapes::random_conv(random, 200_000),
        |params, random| check_conv::<T>(&contexts, params, random),
    );
}

/// <im2col(x), g> = <x, col2im(g)>
fn im2col<T: Real>() {
    let contexts = contexts();
    for_each_seed(
        200,
        |random| shapes::random_im2col(random, 100_000),
        |params, random| {
            let conv = Conv::new(params);
            let x: Vec<T> = random.values(conv.x_len(), Data::Integers);
            let g: Vec<T> = random.values(conv.col_len(), Data::Integers);
            for context in &contexts {
                for col_layout in shapes::COL_LAYOUTS {
                    let end = Placement::End;
                    let col = calls::im2col(context, params, col_layout, &x, end);
                    let sums = calls::col2im(context, params, col_layout, &g, end);
                    assert_eq!(dot(&col, &g), dot(&x, &sums), "{col_layout:?} on {context:?}");
                }
            }
        },
    );
}

fn pool_cases(random: &mut Random) -> Pool2dParams {
    shapes::random_pool(random, 50_000)
}

/// Max-pool selects: <y, g> = <x, dx(g)>, since a padded cell that is selected counts as 0 on both
/// sides.
fn max_pool<T: Real>() {
    let contexts = contexts();
    for_each_seed(200, pool_cases, |params, random| {
        let pool = Pool::new(params);
        let x: Vec<T> = random.values(pool.x_len(), Data::Integers);
        let mut g: Vec<T> = random.values(pool.y_len(), Data::Integers);
        for context in &contexts {
            for &places in Places::of_window(params.kernel_height * params.kernel_width) {
                let end = Placement::End;
                let (mut y, argmax) = calls::max_forward(context, params, &x, places, end);
                for (y, g) in y.iter_mut().zip(&mut g) {
                    // a window that selects nothing
                    if y.widen() == f64::NEG_INFINITY {
                        (*y, *g) = (T::narrow(0.0), T::narrow(0.0));
                    }
                }
                let dx = calls::max_backward(context, params, &g, &argmax, places, end);
                assert_eq!(dot(&y, &g), dot(&x, &dx), "{places:?} on {context:?}");
            }
        }
    });
}

/// <y, g> = <x, dx(g)> within the bounds of both sides: a window's size is not always a power of two.
fn average_pool<T: Real>() {
    let contexts = contexts();
    for_each_seed(200, pool_cases, |params, random| {
        let pool = Pool::new(params);
        let x: Vec<T> = random.values(pool.x_len(), Data::Integers);
        let g: Vec<T> = random.values(pool.y_len(), Data::Integers);
        let weighted = |bounds: &[Sum], weights: &[T]| -> f64 {
            let bound = |sum: &Sum| sum.bound::<T>(Precision::Own);
            bounds.iter().zip(weights).map(|(sum, g)| bound(sum) * g.widen().abs()).sum()
        };
        let magnitude: f64 = pool.mean(&x).iter().map(|sum| sum.magnitude * 4.0).sum();
        let bound = weighted(&pool.mean(&x), &g)
            + weighted(&pool.mean_gradient(&g), &x)
            // of the sums over all elements here
            + 2.0 * (x.len() + g.len()) as f64 * f64::EPSILON * magnitude;
        for context in &contexts {
            let y = calls::avg_forward(context, params, &x, Placement::End);
            let dx = calls::avg_backward(context, params, &g, Placement::End);
            let (one, other) = (dot(&y, &g), dot(&x, &dx));
            assert!(
                (one - other).abs() <= bound,
                "<y, g> is {one}, but <x, dx> is {other} on {context:?}: the bound is {bound:e}"
            );
        }
    });
}

tests_of_f32_and_f64! {
    conv_edges
    conv_random
    im2col
    max_pool
    average_pool
}

/// loss = <g, max_pool(relu(conv(x, w) + bias))>
struct Chain {
    conv: Conv2dParams,
    pool: Pool2dParams,
    g: Vec<f64>,
}

/// What the chain's loss depends on.
#[derive(Clone)]
struct Point {
    x: Vec<f64>,
    w: Vec<f64>,
    bias: Vec<f64>,
}

impl Chain {
    /// y = relu(conv(x, w) + bias), the pooled y, its places, and the loss.
    fn forward(&self, context: &Context, point: &Point) -> (Vec<f64>, Vec<f64>, Vec<usize>, f64) {
        let Point { x, w, bias } = point;
        let (relu, end) = (Activation::Relu, Placement::End);
        let y = calls::conv_forward(context, &self.conv, x, w, Some(bias), relu, end);
        let (pooled, argmax) =
            calls::max_forward(context, &self.pool, &y, Places::I32, Placement::End);
        let loss = dot(&pooled, &self.g);
        (y.to_vec(), pooled.to_vec(), argmax, loss)
    }

    fn gradients(&self, context: &Context, point: &Point) -> [Vec<f64>; 3] {
        let (y, _, argmax, _) = self.forward(context, point);
        let dy =
            calls::max_backward(context, &self.pool, &self.g, &argmax, Places::I32, Placement::End);
        let (x, w) = (&point.x, &point.w);
        calls::conv_gradients(context, &self.conv, x, w, &dy, Some(&y))
            .map(|gradient| gradient.to_vec())
    }

    /// How far the chain's values are from where a ReLU or a maximum changes its mind.
    fn margin(&self, context: &Context, point: &Point) -> f64 {
        let Point { x, w, bias } = point;
        let (none, end) = (Activation::None, Placement::End);
        let u = calls::conv_forward(context, &self.conv, x, w, Some(bias), none, end);
        let nearest_to_zero = u.iter().map(|u| u.abs()).fold(f64::INFINITY, f64::min);
        let pool = Pool::new(&self.pool);
        let mut margin = nearest_to_zero;
        let [images, channels, rows, columns] = pool.y_extents();
        for n in 0..images {
            for c in 0..channels {
                for (row, column) in
                    (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)))
                {
                    let mut values: Vec<f64> = pool
                        .cells([n, c, row, column])
                        .iter()
                        .filter_map(|cell| cell.1.map(|source| u[source].max(0.0)))
                        .collect();
                    values.sort_by(f64::total_cmp);
                    if let [.., second, first] = values[..] {
                        // two zeros tie, but stay zeros
                        if first > 0.0 {
                            margin = margin.min(first - second);
                        }
                    }
                }
            }
        }
        margin
    }
}

/// The loss is linear in each single element as long as no ReLU and no maximum changes its mind,
/// so a central difference errs only by the roundings of the two losses.
#[test]
fn finite_differences_of_a_chain() {
    let conv =
        shapes::stride(1, 2, shapes::pad([1, 0, 1, 2], Conv2dParams::new(2, 3, 6, 9, 4, 3, 3)));
    let convs = [
        conv,
        shapes::dilation(2, 1, shapes::pad([2, 2, 1, 1], Conv2dParams::new(1, 5, 6, 7, 18, 3, 3))),
        shapes::groups(3, shapes::pad([1, 1, 1, 1], Conv2dParams::new(2, 3, 6, 5, 6, 3, 3))),
    ];
    let contexts = contexts();
    for params in convs.iter().flat_map(shapes::in_all_layouts) {
        for_each([params], |params| {
            for context in &contexts {
                check_differences(context, params);
            }
        });
    }
}

fn check_differences(context: &Context, params: &Conv2dParams) {
    const STEP: f64 = 1e-6;
    let conv = Conv::new(params);
    let [batch, channels, rows, columns] = conv.y_extents();
    let pool = Pool2dParams {
        layout: params.layout,
        stride_height: 2,
        stride_width: 1,
        pad_top: 1,
        ..Pool2dParams::new(batch, channels, rows, columns, 3, 2)
    };
    let mut random = Random::new(17);
    let g = random.values(Pool::new(&pool).y_len(), Data::Fractions);
    let chain = Chain { conv: *params, pool, g };
    // A point where a step changes nobody's mind: the values move by less than the step, since
    // they are linear in each element with factors of at most 1.
    let point = loop {
        let mut values = |len: usize| random.values(len, Data::Fractions);
        let point = Point {
            x: values(conv.x_len()),
            w: values(conv.w_len()),
            bias: values(params.out_channels),
        };
        if chain.margin(context, &point) > 4.0 * STEP {
            break point;
        }
    };

    let (_, pooled, _, _) = chain.forward(context, &point);
    let magnitude: f64 = pooled.iter().zip(&chain.g).map(|(y, g)| y.abs() * g.abs()).sum();
    let [_, group_in, kernel_height, kernel_width] = conv.w_extents();
    let products = group_in * kernel_height * kernel_width;
    // Each y is a sum of `products` products and a bias, each of absolute value at most 1.
    let of_y = (products + 1).pow(2) as f64 * f64::EPSILON;
    let total_g: f64 = chain.g.iter().map(|g| g.abs()).sum();
    let of_loss = of_y * total_g + chain.g.len() as f64 * f64::EPSILON * magnitude;
    // Two losses, divided by two steps. Twice that covers what is far smaller: the roundings of
    // the moved element and of the gradient.
    let bound = 2.0 * of_loss / STEP;
    assert!(bound < 1e-3, "the differences would say nothing: {bound:e}");

    let gradients = chain.gradients(context, &point);
    let names = ["dx", "dw", "db"];
    for (which, gradient) in gradients.iter().enumerate() {
        for (index, &derivative) in gradient.iter().enumerate() {
            let loss_at = |step: f64| {
                let mut moved = point.clone();
                let tensor = [&mut moved.x, &mut moved.w, &mut moved.bias];
                tensor[which][index] += step;
                chain.forward(context, &moved).3
            };
            let difference = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
            assert!(
                (difference - derivative).abs() <= bound,
                "{}[{index}] is {derivative}, but the difference quotient {difference} on {context:?} \
                 (bound {bound:e})",
                names[which]
            );
        }
    }
}
