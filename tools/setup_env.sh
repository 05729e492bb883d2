#!/usr/bin/env bash
# Set up everything this project needs:  tools/setup_env.sh [--extras demo,test,onnx,compare]
#
# Makes .venv in the repository (.venv-openmmlab for STACK=openmmlab), or uses the active environment with MMPSBN_ENV=active.
# Run it as often as you like: when all is there it takes a second; what an interrupted run left is repaired.
#
#   STACK=default|openmmlab    requirements/<STACK>.txt: the maintained distribution on current torch, or the original packages on torch 2.1
#   PYTHON=/path/to/python     the Python to use (3.10 to 3.12; openmmlab: up to 3.11)
#   MMPSBN_WHEELHOUSE=folder   wheels to prefer, for machines without a network; one of mmcv must have been built for this torch
#   MMPSBN_MMCV_OPS=cpu|cuda   which operations mmcv is built with (default: cuda where there is a GPU)
#   TORCH_CUDA_ARCH_LIST=9.0   the compute capabilities that GPU operations are compiled for (default: those of the GPUs in this machine)
#   CUDA_HOME=folder           the CUDA toolkit to compile them with (default: that of the nvcc on the PATH; where it does not fit, PyPI's)
set -euo pipefail
unset PYTHONPATH PYTHONHOME  # what they add would be taken for installed

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(dirname "$TOOLS")
# shellcheck source=setup/env.sh
source "$TOOLS/setup/env.sh"

STACK=${STACK:-default}
EXTRAS=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --extras) [[ $# -ge 2 ]] || die "--extras needs a list, for example --extras demo,test"
                  IFS=, read -ra EXTRAS <<<"$2"; shift 2 ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit ;;
        *) die "unknown argument '$1'; allowed is --extras demo,test,onnx,compare" ;;
    esac
done
[[ $STACK == default || $STACK == openmmlab ]] || die "STACK must be default or openmmlab, got '$STACK'"
for extra in "${EXTRAS[@]}"; do
    [[ $extra =~ ^(demo|test|onnx|compare)$ ]] || die "unknown extra '$extra'; allowed are demo, test, onnx and compare"
    [[ $extra != test ]] || EXTRAS+=(demo compare)  # the tests run the demo, and compare
done

REQUIREMENTS=$ROOT/requirements/$STACK.txt
CACHE=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmpsbn
MMCV_PIN=$(grep -E '^(onedl-)?mmcv==' "$REQUIREMENTS")
ENV_DIR=$(env_dir "$ROOT" "$STACK")
OPS=$(mmcv_ops)
PYTHONS=(python3 python3.12 python3.11 python3.10 python)

find_env() {  # set PYTHON_BASE, and, where the environment is there, ENV_PYTHON, VERSION, SITE, STAMP and KEY
    ENV_PYTHON=
    if [[ ${MMPSBN_ENV:-} == active ]]; then
        PYTHON_BASE=$(pick_python "$STACK" "$(active_python)")
        ENV_PYTHON=$PYTHON_BASE
    else
        PYTHON_BASE=$(pick_python "$STACK" "$ENV_DIR/bin/python" "${PYTHONS[@]}")
        [[ ! -x $ENV_DIR/bin/python ]] || ENV_PYTHON=$ENV_DIR/bin/python
    fi
    [[ -n $ENV_PYTHON ]] || return 0
    { read -r VERSION && read -r ENV_DIR_REAL && read -r SITE; } < <("$ENV_PYTHON" "$TOOLS/setup/check_env.py" where 2>/dev/null) || { ENV_PYTHON=; return 0; }
    [[ ${MMPSBN_ENV:-} != active ]] || ENV_DIR=$ENV_DIR_REAL
    STAMP=$ENV_DIR_REAL/mmpsbn-setup.stamp
    KEY=$(stamp_key "$STACK" "$VERSION" "$OPS${TORCH_CUDA_ARCH_LIST:+ for $TORCH_CUDA_ARCH_LIST}")
}

is_ready() {
    [[ -n $ENV_PYTHON ]] || return 1
    [[ -z ${PYTHON:-} || $(python_version "$PYTHON") == "$VERSION" ]] || return 1  # a Python was asked for that is not this one
    [[ -e $ROOT/mmpsbn/.mim/configs ]] || return 1  # gone with `git clean`, for one
    stamp_valid "$STAMP" "$KEY" "$SITE" "${EXTRAS[@]}"
}

lock() {  # two set-ups of one environment at a time would trip over each other
    command -v flock >/dev/null || return 0
    mkdir -p "$CACHE" || die "cannot write to $CACHE; name another folder with XDG_CACHE_HOME"
    exec 9>"$CACHE/$(printf '%s' "$ENV_DIR" | sha256sum | cut -c1-16).lock"
    flock -n 9 || { say "waiting for another set-up of $ENV_DIR to end"; flock 9; }
}

make_env() {  # a fresh environment, or the old one where it is whole
    if [[ ${MMPSBN_ENV:-} == active ]]; then
        local foreign broken
        foreign=$("$ENV_PYTHON" "$TOOLS/setup/check_env.py" foreign "$STACK")
        [[ -z $foreign ]] || die "the active environment $ENV_DIR has $foreign, which share their import names with the $STACK stack;" \
            "use another environment, another STACK, or only add this package to it with pip install"
        broken=$("$ENV_PYTHON" "$TOOLS/setup/check_env.py" broken)
        [[ -z $broken ]] || die "the active environment $ENV_DIR has incomplete installations ($broken); reinstall them, or use another environment"
        return
    fi
    if [[ -n $ENV_PYTHON && $VERSION == "$(python_version "$PYTHON_BASE")" ]] && "$ENV_PYTHON" -m pip --version >/dev/null 2>&1 &&
        [[ -z $("$ENV_PYTHON" "$TOOLS/setup/check_env.py" broken) ]]; then
        say "* $ENV_DIR is there but not complete or not up to date: it is repaired"
        return
    fi
    if [[ -e $ENV_DIR ]]; then
        [[ -f $ENV_DIR/pyvenv.cfg || -z $(ls -A "$ENV_DIR") ]] || die "$ENV_DIR is there but is no virtual environment; move it away"
        say "* $ENV_DIR is incomplete or of another Python: it is removed and made anew"
        PYTHON_BASE=$(pick_python "$STACK" "${PYTHONS[@]}")  # its own cannot outlive it
        rm -rf "$ENV_DIR"
    fi
    need_disk "$ENV_DIR" 7
    step "making $ENV_DIR with Python $(python_version "$PYTHON_BASE")" "5 s" "$PYTHON_BASE" -m venv "$ENV_DIR"
}

editable() {  # the original MMEngine finds an installed package's configs only beside an egg link, which setuptools < 70 still makes
    if [[ $STACK == openmmlab ]]; then
        (cd "$ROOT" && "$ENV_PYTHON" setup.py develop --no-deps)
    else
        pip_install --no-index --no-build-isolation --no-deps -e "$ROOT"
    fi
}

main() {
    local start=$SECONDS builders torches files=() extra
    find_env
    if is_ready; then
        say "$ENV_DIR is ready ($STACK stack, Python $VERSION)"
        return
    fi
    lock
    find_env
    if is_ready; then return; fi
    LOG=$(mktemp "${TMPDIR:-/tmp}/mmpsbn-setup.XXXXXX") || die "cannot write to ${TMPDIR:-/tmp}; free some space there, or name another folder with TMPDIR"
    trap end_job EXIT
    trap 'KEEP_LOG=; exit 130' INT
    trap 'KEEP_LOG=; exit 143' TERM
    say "Setting up $ENV_DIR: $STACK stack, from nothing about 3 minutes, and 5 to 10 more where mmcv must be built"

    make_env
    find_env
    mapfile -t EXTRAS < <({ printf '%s\n' "${EXTRAS[@]}"; stamp_extras "$STAMP"; } | sed '/^$/d' | sort -u)  # never take away what an earlier run put in
    rm -f "$STAMP"
    mapfile -t builders < <(grep -E '^(setuptools|wheel|ninja|psutil|packaging)([<>=]|$)' "$REQUIREMENTS")
    mapfile -t torches < <(grep -E '^(torch|torchvision|numpy)[<>=]' "$REQUIREMENTS")  # numpy with torch: an old torch wants an old one
    for extra in "${EXTRAS[@]}"; do files+=(-r "$ROOT/requirements/$extra.txt"); done

    step "installing build tools" "10 s" pip_install "${builders[@]}"
    step "installing ${torches[*]}" "2 to 5 minutes, 3 GB to download" pip_install "${torches[@]}"
    install_mmcv "$OPS"
    step "installing the rest of requirements/$STACK.txt${EXTRAS[*]:+ and of ${EXTRAS[*]}}" "1 minute" pip_install -r "$REQUIREMENTS" "${files[@]}"
    step "installing this project, editable" "5 s" editable
    step "checking that everything imports" "20 s" "$ENV_PYTHON" "$TOOLS/setup/check_env.py" imports
    find_env
    write_stamp "$STAMP" "$KEY" "$SITE" "${EXTRAS[@]}"
    say "$ENV_DIR is ready after $((SECONDS - start)) s ($STACK stack, Python $VERSION)"
}

main
