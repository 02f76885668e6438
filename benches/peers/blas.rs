//! OpenBLAS, loaded while running: nothing is linked to it.

use std::ffi::{CString, c_int, c_void};

use crate::multiply::Product;

/// cblas_sgemm() or cblas_dgemm().
type Gemm<T> = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    T,
    *const T,
    c_int,
    *const T,
    c_int,
    T,
    *mut T,
    c_int,
);

/// The library's functions.
pub struct Blas {
    sgemm: Gemm<f32>,
    dgemm: Gemm<f64>,
    set_num_threads: unsafe extern "C" fn(c_int),
}

/// f32 or f64.
pub trait BlasElement: Copy {
    fn gemm(blas: &Blas) -> Gemm<Self>;
    fn number(value: u8) -> Self;
}

impl BlasElement for f32 {
    fn gemm(blas: &Blas) -> Gemm<f32> {
        blas.sgemm
    }

    fn number(value: u8) -> f32 {
        value.into()
    }
}

impl BlasElement for f64 {
    fn gemm(blas: &Blas) -> Gemm<f64> {
        blas.dgemm
    }

    fn number(value: u8) -> f64 {
        value.into()
    }
}

impl Blas {
    /// The library that CNNKERN_OPENBLAS names, or the system's; None without one.
    pub fn load() -> Option<Blas> {
        let name = std::env::var("CNNKERN_OPENBLAS").unwrap_or_else(|_| "libopenblas.so.0".into());
        let name = CString::new(name).ok()?;
        // SAFETY: a string that ends in NUL. Loading runs the library's own initialization.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return None;
        }
        let [sgemm, dgemm, set_num_threads] =
            ["cblas_sgemm", "cblas_dgemm", "openblas_set_num_threads"]
                .map(|name| find(library, name));
        // SAFETY: these functions have these types in every OpenBLAS with 32-bit integers.
        unsafe {
            Some(Blas {
                sgemm: std::mem::transmute::<*mut c_void, Gemm<f32>>(sgemm?),
                dgemm: std::mem::transmute::<*mut c_void, Gemm<f64>>(dgemm?),
                set_num_threads: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int)>(
                    set_num_threads?,
                ),
            })
        }
    }

    /// C = A B, all in row-major order.
    pub fn run<T: BlasElement>(
        &self,
        product: &Product,
        threads: usize,
        a: &[T],
        b: &[T],
        c: &mut [T],
    ) {
        const ROW_MAJOR: c_int = 101;
        let int = |value: usize| c_int::try_from(value).expect("a small extent");
        let transpose = |transposed| if transposed { 112 } else { 111 };
        let [transa, transb] = product.transposed.map(transpose);
        let [lda, ldb] = product.leading().map(int);
        let [m, n, k] = [product.m, product.n, product.k].map(int);
        let (one, zero) = (T::number(1), T::number(0));
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        let gemm = T::gemm(self);
        // SAFETY: the matrices have the product's extents: `Multiplier::run` checked their lengths.
        unsafe {
            (self.set_num_threads)(int(threads));
            gemm(ROW_MAJOR, transa, transb, m, n, k, one, a, lda, b, ldb, zero, c, n);
        }
    }
}

/// A function of the library, by its name or the name that PyPI's builds give it.
fn find(library: *mut c_void, name: &str) -> Option<*mut c_void> {
    [name.to_owned(), format!("scipy_{name}")].into_iter().find_map(|name| {
        let name = CString::new(name).ok()?;
        // SAFETY: an open library, and a string that ends in NUL.
        let function = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!function.is_null()).then_some(function)
    })
}
