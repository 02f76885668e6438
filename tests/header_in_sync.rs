//! `include/cnnkern.h` is what cbindgen makes of the source.

use std::path::Path;

const REFRESH: &str = "CNNKERN_UPDATE_HEADER=1 cargo test --test header_in_sync";

/// The header, made from the modules of src/ffi in their order. The rest of the crate has no part in
/// it, so that cbindgen cannot find constants there.
fn generated_header(root: &Path) -> String {
    let folder = root.join("src/ffi");
    let modules = std::fs::read_to_string(folder.join("mod.rs")).expect("src/ffi/mod.rs is there");
    let names = modules.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a good config");
    let builder = names.fold(cbindgen::Builder::new().with_config(config), |builder, name| {
        builder.with_src(folder.join(name).with_extension("rs"))
    });
    let mut header = Vec::new();
    builder.generate().expect("cbindgen reads the source").write(&mut header);
    String::from_utf8(header).expect("the source is UTF-8")
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generated = generated_header(root);
    let path = root.join("include/cnnkern.h");
    if std::env::var_os("CNNKERN_UPDATE_HEADER").is_some() {
        std::fs::write(&path, &generated).expect("include/cnnkern.h can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if committed != generated {
        let line = committed.lines().zip(generated.lines()).take_while(|(a, b)| a == b).count();
        panic!(
            "include/cnnkern.h is stale from line {} on; refresh it with\n    {REFRESH}\n\
             committed: {:?}\ngenerated: {:?}",
            line + 1,
            committed.lines().nth(line).unwrap_or("the file's end"),
            generated.lines().nth(line).unwrap_or("the file's end"),
        );
    }
}

#[test]
fn every_name_in_the_header_has_the_prefix() {
    let header = include_str!("../include/cnnkern.h");
    for line in header.lines() {
        let prefix = match line.split(' ').next() {
            Some("#define") => "CNNKERN_",
            Some("typedef") => "cnnkern_",
            Some("}") if line.ends_with(';') => "cnnkern_",
            _ => continue,
        };
        let mut names = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        assert!(names.any(|name| name.starts_with(prefix)), "{line}");
    }
}
