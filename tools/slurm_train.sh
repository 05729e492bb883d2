#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
# GPUS (8) in all, GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS and PORT come from the environment.
# For CPU ranks: NO_GPU=1, where GPUS counts the ranks.
set -euo pipefail
# shellcheck source=lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

[[ $# -ge 4 ]] || die "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]"
tools_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ranks=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
((per_node <= ranks)) || per_node=$ranks
cpus=${CPUS_PER_TASK:-5}

resources=(--ntasks="$ranks" --ntasks-per-node="$per_node" --cpus-per-task="$cpus")
if [[ -n ${NO_GPU:-} ]]; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
else
    resources+=(--gres="gpu:$per_node")
fi
[[ -z ${PORT:-} ]] || export MASTER_PORT=$PORT
export PYTHONPATH="$tools_dir/..${PYTHONPATH:+:$PYTHONPATH}"

# SRUN_ARGS is a list of options in one variable, as MMDetection has it
# shellcheck disable=SC2086
exec srun -p "$1" --job-name="$2" "${resources[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "$(env_python "$tools_dir/..")" -u "$tools_dir/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}"
