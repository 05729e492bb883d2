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

env_dir() {  # the environment that setup_env.sh makes in the repository
    if [[ ${STACK:-default} == default ]]; then printf '%s/.venv' "$1"; else printf '%s/.venv-%s' "$1" "$STACK"; fi
}

env_python() {  # the Python to run a tool with: PYTHON, that of the active environment, the repository's own, else the PATH's
    local own
    own=$(env_dir "$1")/bin/python
    if [[ -n ${PYTHON:-} ]]; then
        printf '%s' "$PYTHON"
    elif [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $own ]]; then
        printf '%s' "$own"
    elif command -v python >/dev/null; then
        printf python
    else
        printf python3
    fi
}
