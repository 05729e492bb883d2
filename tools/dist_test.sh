#!/usr/bin/env bash
# Test on several GPUs (or CPU ranks) of one machine, or of NNODES machines (see dist_train.sh):
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
set -euo pipefail
# shellcheck source=lib/dist.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/dist.sh"

[[ $# -ge 3 ]] || die "usage: $0 CONFIG CHECKPOINT GPUS [arguments of test.py]"
dist_run test.py "$3" "$1" "$2" "${@:4}"
