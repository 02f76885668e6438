//! The block product alone, on one thread, its operands packed already: register tiles that stay in
//! the first-level cache, and a whole block of a product.

use std::any::type_name;

use cnnkern::bench_support::{LARGEST_BLOCK, PackedProduct, register_tile};

use crate::number::Number;
use crate::report::{Bench, Work};

pub fn run<T: Number>(bench: &mut Bench<'_>) {
    let context = bench.context;
    let [rows, columns] = register_tile::<T>(context);
    let [.., depth] = LARGEST_BLOCK;
    let mut group = bench.group(&format!("microkernel/{}", type_name::<T>()));
    for (name, shape) in [
        ("tile", [rows, columns, depth]),
        ("tile", [rows, columns, 64]),
        ("tile", [rows, columns, 16]),
        ("edge", [rows - 1, columns, depth]),
        ("edge", [rows, columns - 1, depth]),
        ("block", LARGEST_BLOCK),
    ] {
        let [m, n, k] = shape;
        group.measure(
            &format!("{name}_{m}x{n}x{k}"),
            Work::Flops(2 * m * n * k),
            || PackedProduct::<T>::new(context, shape).expect("little memory"),
            PackedProduct::run,
        );
    }
}
