//! `cargo bench --bench gemm`: matrix products beside the crates `gemm` and `matrixmultiply`, and beside
//! OpenBLAS where it is installed (`CNNKERN_OPENBLAS` names the library; else the system's is taken).
//!
//! On one thread, then on all; `CNNKERN_ISA` and `CNNKERN_NUM_THREADS` choose cnnkern's. All take turns,
//! and of each the fastest of some rounds counts. The per cent are of the multiply-adds that the machine
//! did in the same run. `cargo bench --bench gemm -- square` measures the products whose name contains
//! that.

#[path = "peers/blas.rs"]
mod blas;
#[path = "peers/multiply.rs"]
mod multiply;
mod multiply_add;
mod number;
mod peak;
mod random;

use std::any::type_name;
use std::time::Instant;

use cnnkern::{Context, ContextOptions};

use multiply::{Multiplier, Product};
use number::{Number, values};
use peak::{Effort, Machine};

const SQUARES: [usize; 16] =
    [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048];
const SKINNY: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// The other sides of a skinny product.
const LONG: usize = 768;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // As `cargo test` calls it, it only tries whether everything runs.
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let filter = arguments.iter().find(|argument| !argument.starts_with("--"));
    let effort = if measuring { Effort::Full } else { Effort::Trial };
    let all = Context::new(&ContextOptions::default()).expect("a context");
    let options = ContextOptions { num_threads: 1, ..ContextOptions::default() };
    let one = Context::new(&options).expect("a context");
    let machine = Machine::measure(&all, effort);
    println!("{machine}");

    let mut products = products();
    products.retain(|product| filter.is_none_or(|filter| product.name.contains(filter.as_str())));
    if !measuring {
        products.retain(|product| product.m * product.n * product.k <= 32 * 32 * 32);
    }
    let rounds = if measuring { 7 } else { 1 };
    let peaks = &machine.one_thread;
    compare::<f32>(&products, &multiply::all(&one), f32::flops(peaks), rounds);
    compare::<f64>(&products, &multiply::all(&one), f64::flops(peaks), rounds);
    if all.num_threads() > 1 {
        let peaks = &machine.all_threads;
        compare::<f32>(&products, &multiply::all(&all), f32::flops(peaks), rounds);
        compare::<f64>(&products, &multiply::all(&all), f64::flops(peaks), rounds);
    }
}

fn products() -> Vec<Product> {
    let square = |n: usize| Product::new(format!("square_{n}"), [n, n, n], [false, false]);
    let mut products: Vec<Product> = SQUARES.into_iter().map(square).collect();
    for (transposes, name) in [([false, true], "nt"), ([true, false], "tn"), ([true, true], "tt")] {
        for n in [64, 512] {
            products.push(Product::new(format!("square_{n}_{name}"), [n, n, n], transposes));
        }
    }
    for n in SKINNY {
        for (side, sizes) in
            [("m", [n, LONG, LONG]), ("n", [LONG, n, LONG]), ("k", [LONG, LONG, n])]
        {
            products.push(Product::new(format!("{side}_{n}"), sizes, [false, false]));
        }
    }
    products
}

/// What became of a product: GFLOP/s of each multiplier, cnnkern first.
struct Line<'a> {
    product: &'a Product,
    rates: Vec<f64>,
}

impl Line<'_> {
    /// cnnkern's speed over the fastest crate's: those are the multipliers in the middle.
    fn ratio(&self, crates: usize) -> f64 {
        self.rates[0] / self.rates[1..=crates].iter().copied().fold(0.0, f64::max)
    }
}

/// Measures every product, and prints a table and what is slowest.
fn compare<T: Number + multiply::Multiply>(
    products: &[Product],
    multipliers: &[Multiplier<'_>],
    peak: f64,
    rounds: usize,
) {
    let crates = multipliers.iter().filter(|multiplier| multiplier.is_crate()).count();
    let threads = multipliers[0].threads();
    println!("\n{}, threads: {threads}; GFLOP/s", type_name::<T>());
    print!("{:14}{:>16}{:>16}", "product", "m x n x k", "% of peak");
    for multiplier in multipliers {
        print!("{:>16}", multiplier.name());
    }
    println!("{:>16}", "to best crate");
    let mut lines = Vec::new();
    for product in products {
        let line = Line { product, rates: measure::<T>(product, multipliers, rounds) };
        let Product { name, m, n, k, .. } = product;
        print!("{name:14}{:>16}", format!("{m}x{n}x{k}"));
        print!("{:>16.0}", 100.0 * line.rates[0] * 1e9 / peak);
        for rate in &line.rates {
            print!("{rate:>16.1}");
        }
        println!("{:>16.2}", line.ratio(crates));
        lines.push(line);
    }
    let logs = lines.iter().map(|line| line.ratio(crates).ln()).sum::<f64>();
    println!("geometric mean to the best crate: {:.2}", (logs / lines.len() as f64).exp());
    lines.sort_by(|a, b| a.ratio(crates).total_cmp(&b.ratio(crates)));
    let slowest = lines.iter().take(10);
    let slowest = slowest.map(|line| format!("{} {:.2}", line.product.name, line.ratio(crates)));
    println!("slowest: {}", slowest.collect::<Vec<_>>().join(", "));
}

/// GFLOP/s of each multiplier at its fastest, all of which must agree.
fn measure<T: Number + multiply::Multiply>(
    product: &Product,
    multipliers: &[Multiplier<'_>],
    rounds: usize,
) -> Vec<f64> {
    let Product { m, n, k, .. } = *product;
    let (a, b) = (values::<T>(m * k), values::<T>(k * n));
    let mut expected = vec![T::new(0.0); m * n];
    let mut c = expected.clone();
    let flops = 2 * m * n * k;
    // Small products are repeated for about 2 ms.
    let repeats = if rounds > 1 { (100_000_000 / flops).max(1) } else { 1 };
    let mut fastest = vec![f64::INFINITY; multipliers.len()];
    for round in 0..=rounds {
        for (number, (multiplier, fastest)) in multipliers.iter().zip(&mut fastest).enumerate() {
            let start = Instant::now();
            for _ in 0..repeats {
                multiplier.run(product, &a, &b, &mut c);
            }
            let time = start.elapsed().as_secs_f64() / repeats as f64;
            if round > 0 {
                *fastest = fastest.min(time);
            } else if number == 0 {
                expected.copy_from_slice(&c);
            } else {
                check(product, multiplier, &expected, &c);
            }
            c.fill(T::new(f64::NAN));
        }
    }
    fastest.iter().map(|time| flops as f64 / time / 1e9).collect()
}

/// Stops where two results differ by more than sums of `k` rounded products can.
fn check<T: Number + multiply::Multiply>(
    product: &Product,
    multiplier: &Multiplier<'_>,
    expected: &[T],
    c: &[T],
) {
    let bound = 2.0 * (product.k + 2) as f64 * product.k as f64 * T::ROUNDOFF;
    for (expected, c) in expected.iter().zip(c) {
        let difference = (expected.to_f64() - c.to_f64()).abs();
        let name = multiplier.name();
        assert!(difference <= bound, "{name} differs by {difference} in {}", product.name);
    }
}
