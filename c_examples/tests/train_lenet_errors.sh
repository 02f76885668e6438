#!/bin/sh
# Foreign files and wrong options get a clear error and its exit status.
. "$(dirname "$0")/common.sh"

# refuses STATUS MESSAGE ARGUMENT...: the program must fail with the status and, among its
# errors, the message.
refuses() {
    expected=$1
    message=$2
    shift 2
    status=0
    "$program" --output "$work/out" "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
    [ "$status" = "$expected" ] || fail "$*: status $status: $(cat "$work/stdout" "$work/stderr")"
    grep -q -e "$message" "$work/stderr" || fail "$*: '$message' expected: $(cat "$work/stderr")"
}

# with_file NAME: a fresh folder in which the named file is to be replaced by what comes in.
subset "$work/good" train 40
subset "$work/good" t10k 10
with_file() {
    rm -rf "$work/bad"
    cp -r "$work/good" "$work/bad"
    cat >"$work/bad/$1"
}
images=train-images-idx3-ubyte
labels=train-labels-idx1-ubyte

head -c 10000 "$work/good/$images" | with_file $images
refuses 1 'train-images-idx3-ubyte: truncated: 31360 bytes .* 9984 found' --data "$work/bad"
head -c 11 "$work/good/$images" | with_file $images
refuses 1 'train-images-idx3-ubyte: truncated.*header' --data "$work/bad"
printf '' | with_file $images
refuses 1 'train-images-idx3-ubyte: truncated.*header' --data "$work/bad"
{ cat "$work/good/$images"; printf 'x'; } | with_file $images
refuses 1 'train-images-idx3-ubyte: too long' --data "$work/bad"
cat "$work/good/$labels" | with_file $images
refuses 1 'train-images-idx3-ubyte: not an IDX file of images' --data "$work/bad"
cat "$work/good/$images" | with_file $labels
refuses 1 'train-labels-idx1-ubyte: not an IDX file of labels' --data "$work/bad"
printf '\037\213\010\000\000\000\000\000\000\000\000\000' | with_file $images
refuses 1 'gzip' --data "$work/bad"
# Sizes that no file could hold.
printf '\000\000\010\003\377\377\377\377\377\377\377\377\377\377\377\377' | with_file $images
refuses 1 'too large' --data "$work/bad"
printf '\000\000\010\003\000\000\000\000\000\000\000\034\000\000\000\034' | with_file $images
refuses 1 'dimensions is 0' --data "$work/bad"
{ printf '\000\000\010\003'; big_endian 40; big_endian 14; big_endian 56
  tail -c +17 "$work/good/$images"; } | with_file $images
refuses 1 'its images are 14x56' --data "$work/bad"
cat "$work/good/t10k-labels-idx1-ubyte" | with_file $labels
refuses 1 '10 labels for the 40 images' --data "$work/bad"
{ head -c 47 "$work/good/$labels"; printf '\012'; } | with_file $labels
refuses 1 'label 39 is 10' --data "$work/bad"
rm "$work/bad/$labels"
refuses 1 'train-labels-idx1-ubyte: No such file' --data "$work/bad"
rm "$work/bad/$images"
mkdir "$work/bad/$images"
refuses 1 'train-images-idx3-ubyte: ' --data "$work/bad"
refuses 1 'No such file' --data "$work/nowhere"

printf 'a file' >"$work/file"
refuses 1 'cannot write to' --data "$work/good" --output "$work/file"
refuses 1 'cannot write to' --data "$work/good" --output "$work/no/such/folder"

refuses 2 'unknown option' --fast
refuses 2 'unknown option' digits
refuses 2 'unknown option' --epoch 3
refuses 2 'a value is missing' --epochs
refuses 2 'a value is missing' --data=
for number in 0 -1 1.5 1001 three 2x ' 2' 0x2 99999999999999999999; do
    refuses 2 'is not a number from 1 to 1000' --epochs "$number"
done
refuses 2 'is not a number from 0 to 1024' --threads=1025
refuses 2 'is not a number from 0 to 18446744073709551615' --seed 18446744073709551616

refuses 2 "'fast' is not auto, gemm, winograd or reference" --algorithm fast

"$program" --help | grep -q -e '--threads N' || fail '--help'
lines=$("$program" --data "$work/good" --output "$work/out" --benchmark | grep -c ' ms a step')
[ "$lines" = 4 ] || fail "--benchmark: $lines lines"

"$program" --data "$work/good" --output "$work/out" --epochs=1 --seed 18446744073709551615 \
    >/dev/null || fail 'the good data were refused'
