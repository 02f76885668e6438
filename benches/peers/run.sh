#!/usr/bin/env bash
# cnnkern beside oneDNN or OpenBLAS: builds the comparison, runs it, and writes a table and a chart.
#
#   benches/peers/run.sh [nchw|nhwc] [SHAPES...]        convolutions
#   benches/peers/run.sh others [nchw|nhwc] [SHAPES...] convolutions of other kinds
#   benches/peers/run.sh pool [nchw|nhwc] [SHAPES...]   pooling
#   benches/peers/run.sh gemm                           beside two crates and OpenBLAS: a table only
#
# Needs a C++ compiler, cargo and python3. ONEDNN_ROOT names an installed oneDNN (its include/ and
# lib/), CNNKERN_OPENBLAS the library of an installed OpenBLAS; without them, they are installed from
# PyPI below target/. SHAPES are lists like those in benches/shapes, which are taken where none are
# named. Leave the machine alone meanwhile: beside other work the times mean nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${CARGO_TARGET_DIR:-target}/peers
results=benches/peers/results
mkdir -p "$build" "$results"

comparison=conv
case "${1:-}" in others | pool | gemm)
    comparison=$1
    shift
    ;;
esac

if [ "$comparison" = gemm ]; then
    if [ -z "${CNNKERN_OPENBLAS:-}" ]; then
        python3 -m venv "$build/venv"
        "$build/venv/bin/pip" install --quiet scipy-openblas32==0.3.34.481.3
        CNNKERN_OPENBLAS=$("$build/venv/bin/python" -c \
            'import scipy_openblas32 as o; print(o.get_lib_dir() + "/" + o.get_library(fullname=True))')
        export CNNKERN_OPENBLAS
    fi
    cargo bench --bench gemm | tee "$results/gemm.txt"
    exit
fi

layout=nchw
case "${1:-}" in nchw | nhwc)
    layout=$1
    shift
    ;;
esac
shapes=("$@")
if [ ${#shapes[@]} = 0 ]; then
    case $comparison in
    conv) shapes=(benches/shapes/{resnet50,vgg16,mobilenet_v1,lenet5}.txt) ;;
    others) shapes=(benches/shapes/others.txt) ;;
    pool) shapes=(benches/shapes/pool.txt) ;;
    esac
fi

onednn=${ONEDNN_ROOT:-}
if [ -z "$onednn" ]; then
    onednn=$build/venv
    if ! [ -e "$onednn/include/dnnl.hpp" ]; then
        python3 -m venv "$onednn"
        "$onednn/bin/pip" install --quiet onednn-devel-cpu-gomp==2023.2.0
    fi
fi
cargo build --release
program=conv
[ "$comparison" = pool ] && program=pool
library=${CARGO_TARGET_DIR:-target}/release
"${CXX:-c++}" -O3 -std=c++17 -Wall -Wextra -o "$build/$program" "benches/peers/$program.cpp" \
    -Iinclude -I"$onednn/include" -L"$library" -lcnnkern -L"$onednn/lib" -ldnnl -pthread \
    -Wl,-rpath,"$(realpath "$library")" -Wl,-rpath,"$(realpath "$onednn/lib")"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
export CNNKERN_NUM_THREADS=${CNNKERN_NUM_THREADS:-$OMP_NUM_THREADS}
"$build/$program" --layout "$layout" "${shapes[@]}" | tee "$build/$comparison.csv"
# Beside those of other instruction sets, which the first line names.
name=$layout-$(sed -n '1s/.* as \([a-z0-9]*\) .*/\1/p' "$build/$comparison.csv")
[ "$comparison" = conv ] || name=$comparison-$name
cp "$build/$comparison.csv" "$results/$name.csv"
python3 benches/peers/chart.py "$results/$name.csv"
echo "See $results/$name.md and $results/$name.svg"
