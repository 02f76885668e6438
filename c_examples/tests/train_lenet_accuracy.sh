#!/bin/sh
# As it comes, train_lenet reads 97 of 100 digits, and says so in its last line.
. "$(dirname "$0")/common.sh"

"$program" --output "$work" | tee "$work/log"
last=$(tail -n 1 "$work/log")
accuracy=${last#test accuracy }
case $accuracy in
    0.9[7-9][0-9] | 1.000) ;;
    *) fail "the last line is '$last'" ;;
esac
