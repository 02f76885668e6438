#!/usr/bin/env bash
# Every check of the project. Installs what is missing, stops at the first failure and shows its
# output; all output is kept in target/test-logs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

logs=$PWD/target/test-logs
skipped=()

have() { command -v "$1" >/dev/null 2>&1; }

# The packages that are missing here, by their Debian names.
missing_packages() {
    { have make && have cc && have c++; } || echo build-essential
    have cmake || echo cmake
    have valgrind || echo valgrind
    have python3 || echo python3
    python3 -c 'import numpy' 2>/dev/null || python3 -c 'import ensurepip, venv' 2>/dev/null ||
        echo python3-venv
}

install_missing() {
    local packages as_root=()
    mapfile -t packages < <(missing_packages)
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        # Without a terminal, sudo may not ask for a password.
        if have sudo && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo true; }; }; then
            as_root=(sudo)
        else
            as_root=(false)
        fi
    fi
    if ! have apt-get || [ "${as_root[*]}" = false ]; then
        echo "These are missing, and cannot be installed from here: ${packages[*]}"
        echo "(Debian's names.) Install them, then run this again."
        exit 1
    fi
    echo "Installing ${packages[*]}"
    mkdir -p "$logs"
    if ! { "${as_root[@]}" apt-get update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y "${packages[@]}"
    } >"$logs/install.log" 2>&1; then
        cat "$logs/install.log"
        echo "apt-get could not install ${packages[*]}."
        exit 1
    fi
}

# step HEADING COMMAND...: runs the command; shows its closing lines, or all of it if it fails.
step() {
    local heading=$1 log="$logs/${1//[^a-zA-Z0-9]/-}.log" began=$SECONDS
    shift
    printf '== %s ... ' "$heading"
    if ! "$@" >"$log" 2>&1; then
        printf 'FAILED after %d s\n' $((SECONDS - began))
        cat "$log"
        printf '\n== %s FAILED: %s\n' "$heading" "$*"
        exit 1
    fi
    printf '%d s\n' $((SECONDS - began))
    grep -E '^test result:|tests passed|tests failed|^[0-9]+ passed|^ERROR SUMMARY' "$log" || true
    skip_lines "$log"
}

# What a test left out, since this machine cannot run it, is named at the end.
skip_lines() {
    local line
    while IFS= read -r line; do
        skipped+=("$line")
    done < <(grep -h '^skipped:' "$1" | sort -u)
}

# component NAME: whether cargo has this part of the toolchain.
component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    rustup component add "${2:-$1}" >/dev/null 2>&1 && cargo "$1" --version >/dev/null 2>&1 && return
    echo "== cargo $1 is not installed (rustup component add ${2:-$1}): NOT CHECKED"
    skipped+=("skipped: cargo $1, which is not installed")
    return 1
}

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps; }

c_examples() { # FOLDER CMAKE-OPTION...
    local build=$1
    shift
    cmake -S c_examples -B "$build" -DCNNKERN_WERROR=ON "$@" &&
        cmake --build "$build" --parallel 2 &&
        ctest --test-dir "$build" --output-on-failure --no-tests=error
}

valgrind_on() { # PROGRAM...
    local program
    for program in "$@"; do
        valgrind --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite \
            "$program" || return
    done
}

python_tests() {
    local python=python3
    if ! python3 -c 'import numpy' 2>/dev/null; then
        python=target/python/bin/python
        "$python" -c 'import numpy' 2>/dev/null || {
            python3 -m venv target/python &&
                "$python" -m pip install --disable-pip-version-check numpy
        } || return
    fi
    PYTHONDONTWRITEBYTECODE=1 "$python" tests/python
}

have cargo || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
if ! have cargo; then
    echo "cargo is missing: install a Rust toolchain (the Rust project's install page says how), then run this again."
    exit 1
fi
install_missing
mkdir -p "$logs"

if component fmt rustfmt; then
    step "rustfmt" cargo fmt --check
fi
if component clippy; then
    step "clippy" cargo clippy --all-targets -- -D warnings
fi
step "documentation" documentation
# Unit tests compile the crate once more, so they are built only as they find most: checked.
step "Rust tests, release" cargo test --release --test '*' -- --show-output
step "Rust tests, with debug assertions" cargo test --profile checked -- --show-output
step "release build" cargo build --release
step "C examples" c_examples target/c_examples
step "C examples, sanitized" c_examples target/c_examples_sanitized \
    -DCNNKERN_SANITIZE=address,undefined
step "C examples, under valgrind" valgrind_on target/c_examples/{gemm,maxpool_overlap}
step "Python tests" python_tests

printf '\nAll passed in %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
if [ ${#skipped[@]} -gt 0 ]; then
    printf '%s\n' "${skipped[@]}" | sort -u
fi
