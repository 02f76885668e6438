//! The header and the libraries as a C and a C++ program meet them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEADER: &str = include_str!("../include/cnnkern.h");

/// What a program needs beside libcnnkern.a, as the header says.
const STATIC_LIBRARIES: [&str; 3] = ["-lpthread", "-lm", "-ldl"];

#[test]
fn c99_against_the_shared_library() {
    links_and_runs("c99_shared", &C99, shared);
}

#[test]
fn cpp17_against_the_shared_library() {
    links_and_runs("cpp17_shared", &CPP17, shared);
}

#[test]
fn c99_against_the_static_library() {
    links_and_runs("c99_static", &C99, archive);
}

#[test]
fn cpp17_against_the_static_library() {
    links_and_runs("cpp17_static", &CPP17, archive);
}

#[test]
fn the_header_says_how_to_link_the_static_library() {
    let command = format!("libcnnkern.a {}", STATIC_LIBRARIES.join(" "));
    assert!(HEADER.contains(&command), "the header's top should say \"{command}\"");
}

#[test]
fn the_shared_library_has_a_soname_and_needs_only_the_c_runtime() {
    let dynamic = run(Command::new("readelf").args(["-d", "-W"]).arg(library("libcnnkern.so")));
    let entries = |tag: &str| -> Vec<String> {
        let lines = dynamic.lines().filter(|line| line.contains(tag));
        lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.into())).collect()
    };
    assert_eq!(entries("(SONAME)"), ["libcnnkern.so.0"]);
    let c_runtime = ["libc", "libm", "libgcc_s", "libpthread", "libdl", "librt"];
    for needed in entries("(NEEDED)") {
        let name = needed.split('.').next().unwrap_or_default();
        assert!(
            c_runtime.contains(&name) || name.starts_with("ld-"),
            "libcnnkern.so needs {needed}, which is no part of the C runtime"
        );
    }
}

#[test]
fn the_shared_library_exports_what_the_header_declares() {
    let symbols = run(Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(library("libcnnkern.so")));
    let exported: BTreeSet<&str> =
        symbols.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(exported, declared_functions());
}

/// How a language's programs are compiled.
struct Language {
    compiler: (&'static str, &'static str),
    flags: &'static [&'static str],
}

const C99: Language = Language { compiler: ("CC", "cc"), flags: &["-std=c99"] };
const CPP17: Language = Language { compiler: ("CXX", "c++"), flags: &["-x", "c++", "-std=c++17"] };

fn links_and_runs(name: &str, language: &Language, link: impl Fn(&Path, &mut Command)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder can be written to");
    let lines: String = declared_functions().iter().map(|f| format!("NAME({f})\n")).collect();
    fs::write(folder.join("every_function.inc"), lines).expect("as above");

    let (variable, default) = language.compiler;
    let compiler = std::env::var_os(variable).unwrap_or_else(|| default.into());
    let program = folder.join("every_call");
    let mut compile = Command::new(compiler);
    compile
        .args(language.flags)
        .args(["-Wall", "-Wextra", "-pedantic", "-Werror"])
        .arg(concat!("-DEXPECTED_VERSION=\"", env!("CARGO_PKG_VERSION"), "\""))
        .arg("-I")
        .arg(root.join("include"))
        .arg("-I")
        .arg(&folder)
        .arg(root.join("tests/c/every_call.c"))
        .args(["-x", "none"])
        .arg("-o")
        .arg(&program);
    link(&folder, &mut compile);
    run(&mut compile);

    let output = run(Command::new(&program).env("LD_LIBRARY_PATH", &folder));
    assert_eq!(output, "every call did what it says\n");
}

/// As `cc program.c -lcnnkern`, with the library's two names in `folder`.
fn shared(folder: &Path, compile: &mut Command) {
    for name in ["libcnnkern.so", "libcnnkern.so.0"] {
        symlink(library("libcnnkern.so"), folder.join(name)).expect("the folder is new");
    }
    compile.arg("-L").arg(folder).arg("-lcnnkern");
}

fn archive(_: &Path, compile: &mut Command) {
    compile.arg(library("libcnnkern.a")).args(STATIC_LIBRARIES);
}

/// A library that cargo built along with this test, in the same folder.
fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let path = test.with_file_name(name);
    assert!(path.exists(), "cargo should have built {}", path.display());
    path
}

/// The functions that the header declares: names before a parenthesis, outside of comments.
fn declared_functions() -> BTreeSet<&'static str> {
    let code = HEADER.split_once("#define CNNKERN_H").expect("an include guard").1;
    let code = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let calls = code.flat_map(|line| line.match_indices('(').map(move |(at, _)| &line[..at]));
    let names = calls.map(|before| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        &before[before.rfind(|c| !is_name(c)).map_or(0, |at| at + 1)..]
    });
    let functions: BTreeSet<&str> = names.filter(|name| name.starts_with("cnnkern_")).collect();
    assert!(functions.len() >= 37, "only {} functions in the header", functions.len());
    functions
}

/// The standard output of a command that must succeed.
fn run(command: &mut Command) -> String {
    let name = command.get_program().to_owned();
    let needed = "this test needs a C compiler, a C++ compiler and binutils";
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be run ({error}): {needed}", shown(&name)));
    assert!(
        output.status.success(),
        "{} failed with {}:\n{}{}",
        shown(&name),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("plain text")
}

fn shown(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
