//! One matrix product, C = A B in row-major order, by cnnkern and by its peers.

use cnnkern::gemm::{GemmParams, Transpose};
use cnnkern::{Context, gemm::gemm};

use crate::blas::{Blas, BlasElement};

/// C `[m, n]` = A `[m, k]` B `[k, n]`, either of which may lie transposed.
pub struct Product {
    pub name: String,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub transposed: [bool; 2],
}

impl Product {
    pub fn new(name: String, [m, n, k]: [usize; 3], transposed: [bool; 2]) -> Self {
        Product { name, m, n, k, transposed }
    }

    /// Leading dimensions of A and B.
    pub fn leading(&self) -> [usize; 2] {
        let [a, b] = self.transposed;
        [if a { self.m } else { self.k }, if b { self.k } else { self.n }]
    }

    /// Strides of A and B along (row, column).
    fn strides(&self) -> [[isize; 2]; 2] {
        let strides = |leading: usize, transposed: bool| match transposed {
            false => [leading as isize, 1],
            true => [1, leading as isize],
        };
        let ([a, b], leading) = (self.transposed, self.leading());
        [strides(leading[0], a), strides(leading[1], b)]
    }
}

/// An element type that all multiply.
pub trait Multiply: cnnkern::Element + BlasElement {
    /// Half the distance from 1 to the next value.
    const ROUNDOFF: f64;

    /// By the crate `matrixmultiply`.
    ///
    /// # Safety
    /// The matrices have the product's extents.
    unsafe fn matrixmultiply(product: &Product, a: *const Self, b: *const Self, c: *mut Self);
}

macro_rules! multiply {
    ($element:ty, $run:path) => {
        impl Multiply for $element {
            const ROUNDOFF: f64 = <$element>::EPSILON as f64 / 2.0;

            unsafe fn matrixmultiply(
                product: &Product,
                a: *const Self,
                b: *const Self,
                c: *mut Self,
            ) {
                let Product { m, n, k, .. } = *product;
                let [[a_row, a_column], [b_row, b_column]] = product.strides();
                let c_row = n as isize;
                // SAFETY: the caller answers for the matrices.
                unsafe {
                    $run(m, k, n, 1.0, a, a_row, a_column, b, b_row, b_column, 0.0, c, c_row, 1);
                }
            }
        }
    };
}

multiply!(f32, matrixmultiply::sgemm);
multiply!(f64, matrixmultiply::dgemm);

/// What multiplies.
pub enum Multiplier<'a> {
    Cnnkern(&'a Context),
    Gemm(usize),
    /// On one thread only.
    Matrixmultiply,
    OpenBlas(Blas, usize),
}

/// cnnkern, the crates that can use as many threads as the context, and OpenBLAS where it is installed.
pub fn all(context: &Context) -> Vec<Multiplier<'_>> {
    let threads = context.num_threads();
    let mut all = vec![Multiplier::Cnnkern(context), Multiplier::Gemm(threads)];
    if threads == 1 {
        all.push(Multiplier::Matrixmultiply);
    }
    all.extend(Blas::load().map(|blas| Multiplier::OpenBlas(blas, threads)));
    all
}

impl Multiplier<'_> {
    pub fn name(&self) -> &'static str {
        match self {
            Multiplier::Cnnkern(_) => "cnnkern",
            Multiplier::Gemm(_) => "gemm",
            Multiplier::Matrixmultiply => "matrixmultiply",
            Multiplier::OpenBlas(..) => "OpenBLAS",
        }
    }

    pub fn is_crate(&self) -> bool {
        matches!(self, Multiplier::Gemm(_) | Multiplier::Matrixmultiply)
    }

    pub fn threads(&self) -> usize {
        match *self {
            Multiplier::Cnnkern(context) => context.num_threads(),
            Multiplier::Gemm(threads) | Multiplier::OpenBlas(_, threads) => threads,
            Multiplier::Matrixmultiply => 1,
        }
    }

    /// C = A B.
    pub fn run<T: Multiply>(&self, product: &Product, a: &[T], b: &[T], c: &mut [T]) {
        let Product { m, n, k, transposed, .. } = *product;
        assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
        let [lda, ldb] = product.leading();
        match self {
            Multiplier::Cnnkern(context) => {
                let [transa, transb] =
                    transposed.map(|t| if t { Transpose::Yes } else { Transpose::No });
                let params = GemmParams { transa, transb, m, n, k, lda, ldb, ldc: n };
                gemm(context, &params, T::from_f64(1.0), a, b, T::default(), c).expect("valid");
            }
            &Multiplier::Gemm(threads) => {
                let [[a_row, a_column], [b_row, b_column]] = product.strides();
                let parallelism = match threads {
                    1 => gemm::Parallelism::None,
                    _ => gemm::Parallelism::Rayon(threads),
                };
                let (a, b, c, zero, one) =
                    (a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), T::default(), T::from_f64(1.0));
                let c_row = n as isize;
                // SAFETY: the matrices have the product's extents.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        c,
                        1,
                        c_row,
                        false,
                        a,
                        a_column,
                        a_row,
                        b,
                        b_column,
                        b_row,
                        zero,
                        one,
                        false,
                        false,
                        false,
                        parallelism,
                    );
                }
            }
            // SAFETY: the matrices have the product's extents.
            Multiplier::Matrixmultiply => unsafe {
                T::matrixmultiply(product, a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            },
            Multiplier::OpenBlas(blas, threads) => blas.run(product, *threads, a, b, c),
        }
    }
}
