#!/usr/bin/env bash
# Builds cnnkern and trains LeNet-5 on handwritten digits:
#
#   bash c_examples/demo.sh [options of train_lenet, such as --epochs 3]
#
# Installs what is missing (cmake, a C compiler, make) if it may.
set -eu

examples=$(cd "$(dirname "$0")" && pwd)
build=$(dirname "$examples")/target/c_examples
log=$build/demo.log

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
command -v cc >/dev/null || missing+=(cc)

# install COMMAND...: as root, or by sudo where a password can be asked for or is not needed.
install() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo "$@"
    else
        return 1
    fi
}

install_missing() {
    if command -v apt-get >/dev/null; then
        # Package lists may be missing or old; a list that cannot be had need not matter.
        install env DEBIAN_FRONTEND=noninteractive apt-get update -q || true
        install env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends cmake make gcc libc6-dev
    elif command -v dnf >/dev/null; then
        install dnf install -y cmake make gcc
    elif command -v apk >/dev/null; then
        install apk add cmake make gcc musl-dev
    elif command -v pacman >/dev/null; then
        install pacman -S --needed --noconfirm cmake make gcc
    elif command -v brew >/dev/null; then
        brew install cmake # make and cc come with the Xcode command line tools
    else
        return 1
    fi
}

mkdir -p "$build"
if [ ${#missing[@]} -gt 0 ]; then
    echo "Installing what is missing: ${missing[*]}"
    if ! install_missing >"$log" 2>&1; then
        cat "$log" >&2
        echo "demo.sh: cannot install ${missing[*]} here. Please install cmake (3.16 or newer)," \
            "make and a C compiler, then run this again." >&2
        exit 1
    fi
fi

# rustup puts cargo where not every shell looks.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
if ! command -v cargo >/dev/null; then
    echo "demo.sh: cargo was not found. Please install the Rust toolchain, as the Rust project's" \
        "install page says, then run this again." >&2
    exit 1
fi

echo "Building cnnkern and train_lenet (a minute or two the first time)"
if ! { cmake -S "$examples" -B "$build" && cmake --build "$build" --target train_lenet; } \
    >"$log" 2>&1; then
    cat "$log" >&2
    echo "demo.sh: the build failed" >&2
    exit 1
fi

exec "$build/train_lenet" "$@"
