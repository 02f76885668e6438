//! Matrix products, A and B each as it lies (n) and transposed (t).

use std::any::type_name;

use cnnkern::gemm::{GemmBatch, GemmParams, Transpose, gemm_batched};

use crate::number::{Number, values};
use crate::report::{Bench, Work};
use crate::shapes::list;

pub fn run<T: Number>(bench: &mut Bench<'_>) {
    let context = bench.context;
    for (transposes, transa, transb) in [
        ("nn", Transpose::No, Transpose::No),
        ("nt", Transpose::No, Transpose::Yes),
        ("tn", Transpose::Yes, Transpose::No),
        ("tt", Transpose::Yes, Transpose::Yes),
    ] {
        let mut group = bench.group(&format!("gemm/{}/{transposes}", type_name::<T>()));
        for Product { name, count, m, n, k } in products() {
            let row = |transpose, rows, columns| match transpose {
                Transpose::No => columns,
                Transpose::Yes => rows,
            };
            let params = GemmParams {
                transa,
                transb,
                m,
                n,
                k,
                lda: row(transa, m, k),
                ldb: row(transb, k, n),
                ldc: n,
            };
            let batch = GemmBatch { count, stride_a: m * k, stride_b: k * n, stride_c: m * n };
            group.measure(
                name,
                Work::Flops(2 * count * m * n * k),
                || {
                    let [a, b, c] = [m * k, k * n, m * n].map(|len| values::<T>(count * len));
                    (a, b, c)
                },
                |(a, b, c)| {
                    let (one, zero) = (T::new(1.0), T::new(0.0));
                    gemm_batched(context, &params, &batch, one, a, b, zero, c).expect("valid");
                },
            );
        }
    }
}

/// `count` products of `m` x `k` by `k` x `n`.
struct Product {
    name: &'static str,
    count: usize,
    m: usize,
    n: usize,
    k: usize,
}

fn products() -> Vec<Product> {
    list!("gemm").lines().map(|(name, [count, m, n, k])| Product { name, count, m, n, k }).collect()
}
