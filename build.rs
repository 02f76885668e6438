//! Gives `libcnnkern.so` its SONAME, which plain cargo does not set.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR").expect("cargo sets it");
    let soname = format!("libcnnkern.so.{major}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    link_soname(&soname);
}

/// The loader looks for a library by its SONAME, so programs linked against
/// `target/release/libcnnkern.so` need a file of that name beside it.
fn link_soname(soname: &str) {
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    // OUT_DIR is <profile folder>/build/cnnkern-<hash>/out.
    if let Some(profile_dir) = out_dir.ancestors().nth(3) {
        let link = profile_dir.join(soname);
        #[cfg(unix)]
        if link.symlink_metadata().is_err() {
            // Only a convenience for programs run from the build folder: a folder
            // that cannot be written to is no reason to fail the build.
            let _ = std::os::unix::fs::symlink(Path::new("libcnnkern.so"), link);
        }
    }
}
