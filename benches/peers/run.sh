#!/usr/bin/env bash
# cnnkern beside oneDNN: builds the comparison, runs it, and writes a table and a chart.
#
#   benches/peers/run.sh [nchw|nhwc] [SHAPES...]
#
# Needs a C++ compiler, cargo and python3. ONEDNN_ROOT names an installed oneDNN (its include/ and
# lib/); without it, one is installed from PyPI below target/. SHAPES are lists like those in
# benches/shapes, which are taken where none are named. Leave the machine alone meanwhile: beside other
# work the times mean nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

layout=nchw
case "${1:-}" in nchw | nhwc)
    layout=$1
    shift
    ;;
esac
shapes=("$@")
if [ ${#shapes[@]} = 0 ]; then
    for network in resnet50 vgg16 mobilenet_v1 lenet5; do
        shapes+=("benches/shapes/$network.txt")
    done
fi

build=${CARGO_TARGET_DIR:-target}/peers
results=benches/peers/results
mkdir -p "$build" "$results"
onednn=${ONEDNN_ROOT:-}
if [ -z "$onednn" ]; then
    onednn=$build/venv
    if ! [ -e "$onednn/include/dnnl.hpp" ]; then
        python3 -m venv "$onednn"
        "$onednn/bin/pip" install --quiet onednn-devel-cpu-gomp==2023.2.0
    fi
fi
cargo build --release
library=${CARGO_TARGET_DIR:-target}/release
"${CXX:-c++}" -O3 -std=c++17 -Wall -Wextra -o "$build/conv" benches/peers/conv.cpp \
    -Iinclude -I"$onednn/include" -L"$library" -lcnnkern -L"$onednn/lib" -ldnnl -pthread \
    -Wl,-rpath,"$(realpath "$library")" -Wl,-rpath,"$(realpath "$onednn/lib")"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
export CNNKERN_NUM_THREADS=${CNNKERN_NUM_THREADS:-$OMP_NUM_THREADS}
"$build/conv" --layout "$layout" "${shapes[@]}" | tee "$results/$layout.csv"
python3 benches/peers/chart.py "$results/$layout.csv"
echo "See $results/$layout.md and $results/$layout.svg"
