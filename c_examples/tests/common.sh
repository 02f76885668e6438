# For the tests of train_lenet, which are run as: test.sh PROGRAM DATA_FOLDER
set -eu
program=$1
data=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# reads_digits: what comes in, of train_lenet, ends in an accuracy of at least 97 of 100.
reads_digits() {
    tee "$work/log"
    last=$(tail -n 1 "$work/log")
    accuracy=${last#test accuracy }
    case $accuracy in
        0.9[7-9][0-9] | 1.000) ;;
        *) fail "the last line is '$last'" ;;
    esac
}

# A number as four big-endian bytes.
big_endian() {
    for shift in 24 16 8 0; do
        printf "\\$(printf %03o $(($1 >> shift & 255)))"
    done
}

# subset FOLDER NAME COUNT: the first images and labels of the set called NAME, as IDX files.
subset() {
    mkdir -p "$1"
    {
        printf '\000\000\010\003'
        big_endian "$3"
        big_endian 28
        big_endian 28
        tail -c +17 "$data/$2-images-idx3-ubyte" | head -c $(($3 * 28 * 28))
    } >"$1/$2-images-idx3-ubyte"
    {
        printf '\000\000\010\001'
        big_endian "$3"
        tail -c +9 "$data/$2-labels-idx1-ubyte" | head -c "$3"
    } >"$1/$2-labels-idx1-ubyte"
}
