//! The kernels as compiled: the sums of register tiles stay in registers, and instructions are no calls.
//!
//! A compiler that runs out of registers keeps some sums on the stack, and the loop takes up to twice
//! as long, with the same results. It compiles a closure that it does not inline without the instruction
//! set's features, so that each of its instructions becomes a call: up to twenty times as long. So the
//! machine code of the optimized library is read.
#![cfg(all(target_arch = "x86_64", not(debug_assertions)))]

use std::process::Command;

/// The machine code of one function: addresses and instructions.
type Function<'a> = Vec<(u64, &'a str)>;

fn functions<'a>(listing: &'a str, name: &str) -> Vec<Function<'a>> {
    let mut functions = Vec::new();
    let mut inside = false;
    for line in listing.lines() {
        if line.ends_with(">:") {
            inside = line.contains(name);
            if inside {
                functions.push(Vec::new());
            }
        } else if let (true, Some((address, instruction))) = (inside, line.split_once(":\t")) {
            let address = u64::from_str_radix(address.trim(), 16).expect("an address");
            functions.last_mut().expect("begun").push((address, instruction));
        }
    }
    functions
}

/// The loops that contain no other: from where a jump goes back to, up to that jump.
fn inner_loops<'a>(function: &Function<'a>) -> Vec<Function<'a>> {
    let place = |address| function.binary_search_by_key(&address, |&(at, _)| at).ok();
    let mut loops = Vec::new();
    for (end, &(_, instruction)) in function.iter().enumerate() {
        let mut words = instruction.split_whitespace();
        if !words.next().is_some_and(|word| word.starts_with('j')) {
            continue;
        }
        let target = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        if let Some(start) = target.and_then(place).filter(|&start| start <= end) {
            loops.push(start..=end);
        }
    }
    let holds_another = |outer: &std::ops::RangeInclusive<usize>| {
        loops.iter().any(|inner| {
            inner != outer && inner.start() >= outer.start() && inner.end() <= outer.end()
        })
    };
    let inner = loops.iter().filter(|range| !holds_another(range));
    inner.map(|range| function[range.clone()].to_vec()).collect()
}

/// What objdump prints of the library.
fn listing(arguments: &[&str]) -> String {
    let library = std::env::current_exe().expect("a path").with_file_name("libcnnkern.so");
    let output = Command::new("objdump")
        .args(arguments)
        .arg(&library)
        .output()
        .expect("this test needs objdump, of the binutils");
    assert!(output.status.success(), "objdump cannot read {}", library.display());
    String::from_utf8(output.stdout).expect("plain text")
}

fn sums_stay_in_registers(isa: &str) {
    let listing = listing(&["-d", "-C", "--no-show-raw-insn", "-M", "intel"]);
    let mut tiles = 0;
    for function in functions(&listing, &format!("::{isa}::RunTile::")) {
        // Without a frame, rbp is a pointer like any other.
        let has_frame = function.iter().any(|(_, i)| i.contains("rbp,rsp"));
        for body in inner_loops(&function) {
            // Those along the depth: no branch, pixels or rows of A are broadcast, and multiplied.
            let has = |wanted: &dyn Fn(&str) -> bool| body.iter().any(|(_, i)| wanted(i));
            let broadcasts = has(&|i| i.starts_with("vbroadcast") || i.contains("{1to"));
            let multiplies = has(&|i| i.starts_with("vfmadd") && !i.contains("xmm"));
            let branches = body.iter().filter(|(_, i)| i.starts_with('j')).count();
            if branches > 1 || !broadcasts || !multiplies {
                continue;
            }
            tiles += 1;
            let on_stack = |instruction: &str| {
                let framed = has_frame && instruction.contains("[rbp-");
                instruction.starts_with('v') && (instruction.contains("[rsp") || framed)
            };
            let spilled: Vec<_> = body.iter().filter(|(_, i)| on_stack(i)).collect();
            assert!(
                spilled.is_empty(),
                "an inner loop of {isa} keeps vectors on the stack: {spilled:#x?}\nin {body:#x?}"
            );
        }
    }
    // Four kinds of tiles, of two element types and a dozen sizes at least.
    assert!(tiles >= 96, "only {tiles} inner loops were found in the tiles of {isa}");
}

#[test]
fn avx2_tiles_stay_in_registers() {
    sums_stay_in_registers("avx2");
}

#[test]
fn avx512_tiles_stay_in_registers() {
    sums_stay_in_registers("avx512");
}

#[test]
fn instructions_are_no_calls() {
    let symbols = listing(&["-t", "-C"]);
    let is_function = |line: &&str| line.contains(" F .text");
    assert!(symbols.lines().filter(is_function).any(|line| line.contains("::avx2::Enter::")));
    // Which features there are is asked once.
    let called: Vec<_> = symbols
        .lines()
        .filter(is_function)
        .filter(|line| line.contains("core_arch::x86") && !line.contains("_xgetbv"))
        .collect();
    assert!(called.is_empty(), "closures were compiled without features, and call {called:#?}");
}
