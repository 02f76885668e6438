#!/bin/sh
# As it comes, train_lenet reads 97 of 100 digits, and says so in its last line.
. "$(dirname "$0")/common.sh"

"$program" --output "$work" | reads_digits
