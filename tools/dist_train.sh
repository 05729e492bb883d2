#!/usr/bin/env bash
# Train on several GPUs (or CPU ranks) of one machine, or of NNODES machines:
#   tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 PORT=29500 tools/dist_train.sh CONFIG 8     (the same on host1 with NODE_RANK=1)
set -euo pipefail
# shellcheck source=lib/dist.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/dist.sh"

[[ $# -ge 2 ]] || die "usage: $0 CONFIG GPUS [arguments of train.py]"
dist_run train.py "$2" "$1" "${@:3}"
