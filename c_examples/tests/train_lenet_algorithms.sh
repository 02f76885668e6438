#!/bin/sh
# Winograd's minimal filtering learns as well as sums of products do, and other weights.
. "$(dirname "$0")/common.sh"

"$program" --output "$work" --algorithm winograd | reads_digits

for algorithm in gemm winograd; do
    "$program" --output "$work" --epochs 1 --algorithm "$algorithm" |
        grep checksum >"$work/$algorithm"
done
if cmp -s "$work/gemm" "$work/winograd"; then
    fail "the same weights, so the same algorithm"
fi
