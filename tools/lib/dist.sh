# shellcheck shell=bash
# Sourced by dist_train.sh and dist_test.sh.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# dist_run TOOL RANKS ARGUMENTS...: run tools/TOOL on RANKS processes of this machine, one of NNODES machines
dist_run() {
    local tool=$1 ranks=$2 tools_dir python nodes=${NNODES:-1}
    shift 2
    tools_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
    [[ $ranks =~ ^[1-9][0-9]*$ ]] || die "the number of GPUs (or CPU ranks) must be a positive integer, got '$ranks'"
    [[ $nodes =~ ^[1-9][0-9]*$ ]] || die "NNODES must be a positive integer, got '$nodes'"
    python=$(env_python "$tools_dir/..")

    local where=(--nproc-per-node="$ranks" --nnodes="$nodes")
    if ((nodes > 1)); then
        [[ -n ${MASTER_ADDR:-} ]] || die "NNODES=$nodes needs MASTER_ADDR, the address of the machine with NODE_RANK=0, the same on every machine"
        where+=(--node-rank="${NODE_RANK:-0}" --master-addr="$MASTER_ADDR" --master-port="${PORT:-29500}")
    elif [[ -n ${PORT:-} ]]; then
        where+=(--master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="$PORT")
    else  # torchrun takes a free port itself, so that two jobs on one machine do not meet
        where+=(--standalone --local-addr=127.0.0.1)
    fi
    if ! has_gpu; then  # CPU ranks share the cores; on GPUs one thread a rank (MMEngine's default) leaves the cores to the data loaders
        local threads=$(($(num_cpus) / ranks))
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
        export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
    fi
    PYTHONPATH="$tools_dir/..${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m torch.distributed.run "${where[@]}" \
        "$tools_dir/$tool" "$@" --launcher pytorch
}
