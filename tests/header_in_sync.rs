//! `include/cnnkern.h` is what cbindgen makes of the source.

use std::path::Path;

const REFRESH: &str = "CNNKERN_UPDATE_HEADER=1 cargo test --test header_in_sync";

#[test]
fn the_committed_header_is_the_generated_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut generated = Vec::new();
    cbindgen::generate(root).expect("cbindgen reads the source").write(&mut generated);
    let generated = String::from_utf8(generated).expect("the source is UTF-8");

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
