# shellcheck shell=bash
# Sourced by the scripts of tools/. Defines functions only.

die() {  # one clear sentence on stderr
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has_gpu() {  # whether training here would run on a GPU
    [[ -z ${CUDA_VISIBLE_DEVICES-unset} || ${CUDA_VISIBLE_DEVICES-} == -1 ]] && return 1
    compgen -G '/dev/nvidia[0-9]*' >/dev/null || [[ -e /dev/kfd ]]
}

num_cpus() {  # the cores this process may use
    nproc 2>/dev/null || getconf _NPROCESSORS_ONLN
}

env_dir() {  # the environment that setup_env.sh makes for a stack
    if [[ $2 == default ]]; then printf '%s/.venv' "$1"; else printf '%s/.venv-%s' "$1" "$2"; fi
}

active_python() {  # the active environment's Python: PYTHON, else the PATH's
    if [[ -n ${PYTHON:-} ]]; then printf '%s' "$PYTHON"; elif command -v python >/dev/null; then printf python; else printf python3; fi
}

env_python() {  # the Python to run a tool with: that of the active environment, else the repository's own, else the PATH's
    local own
    own=$(env_dir "$1" "${STACK:-default}")/bin/python
    if [[ -z ${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $own ]]; then printf '%s' "$own"; else active_python; fi
}

ready_python() {  # the Python of the environment that setup_env.sh has just set up
    if [[ ${MMPSBN_ENV:-} == active ]]; then active_python; else printf '%s/bin/python' "$(env_dir "$1" "${STACK:-default}")"; fi
}
