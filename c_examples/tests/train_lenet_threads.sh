#!/bin/sh
# The same seed gives the same weights on any number of threads; and the pictures are all there.
. "$(dirname "$0")/common.sh"

subset "$work/data" train 330 # not a multiple of the batch
subset "$work/data" t10k 70

# train THREADS SEED: prints the line with the checksum.
train() {
    "$program" --data "$work/data" --output "$work/out" --epochs 2 --threads "$1" --seed="$2" \
        >"$work/log" || fail "train_lenet --threads $1 --seed $2"
    grep '^weights checksum [0-9a-f]\{16\}' "$work/log" || fail "no checksum: $(cat "$work/log")"
}

one=$(train 1 5)
for threads in 0 2 3 7; do
    other=$(train "$threads" 5)
    [ "$one" = "$other" ] || fail "1 thread: $one; $threads threads: $other"
done
[ "$one" != "$(train 1 6)" ] || fail "another seed gave the same weights"

train 2 5
tail -n 1 "$work/log" | grep -q '^test accuracy [01]\.[0-9]\{3\}$' ||
    fail "the last line is '$(tail -n 1 "$work/log")'"

for picture in training mistakes; do
    head -c 5 "$work/out/$picture.svg" | grep -q '<svg ' || fail "$picture.svg does not begin"
    tail -n 1 "$work/out/$picture.svg" | grep -q '^</svg>$' || fail "$picture.svg does not end"
done
misread=$(sed -n 's|.*<title>\([0-9]*\) of 70 digits misread.*|\1|p' "$work/out/mistakes.svg")
pictured=$(grep -c '<g transform="translate' "$work/out/mistakes.svg") || true
[ "$misread" = "$pictured" ] || fail "$misread misread digits, $pictured pictured"
