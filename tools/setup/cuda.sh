# shellcheck shell=bash
# Sourced by env.sh: the CUDA compiler that builds mmcv's GPU operations, and what it compiles for. Defines functions only.

FIRST_CUDA_ON_PYPI=13  # the wheels of earlier ones have parts of the compiler, but no nvcc
TORCH_HEADERS=(cublas_v2.h cusolverDn.h cusparse.h)  # what torch's own headers include

cuda_targets() {  # cuda_targets TORCH: the architectures to build for, as sm_90 (machine code) and compute_90 (PTX, for later ones)
    # hidden for one run or not, the GPUs are there
    env -u CUDA_VISIBLE_DEVICES "$ENV_PYTHON" "$TOOLS/setup/check_env.py" targets 2>/dev/null ||
        die "torch $1 cannot compile for TORCH_CUDA_ARCH_LIST='${TORCH_CUDA_ARCH_LIST:-}' (empty: for the GPUs of this machine that it sees);" \
            "set it to the compute capabilities of your GPUs, for example TORCH_CUDA_ARCH_LIST='8.0;9.0', or go without the GPU with MMPSBN_MMCV_OPS=cpu"
}

machine_nvcc() {  # the nvcc of CUDA_HOME, of the PATH or of /usr/local/cuda, there or not
    if [[ -n ${CUDA_HOME:-} ]]; then printf '%s/bin/nvcc' "$CUDA_HOME"; else command -v nvcc || printf /usr/local/cuda/bin/nvcc; fi
}

toolkit_fault() {  # toolkit_fault NVCC CUDA_VERSION_OF_TORCH: why this machine's toolkit cannot be built with; nothing if it can
    local found
    [[ -x $1 ]] || { printf 'there is no nvcc'; return; }
    found=$("$1" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
    if [[ ${found%%.*} != "${2%%.*}" ]]; then
        printf '%s is of CUDA %s' "$1" "$found"
    elif ! "$1" -E -x cu "${TORCH_HEADERS[@]/#/--pre-include=}" /dev/null >/dev/null 2>&1; then
        printf '%s finds no headers of the CUDA libraries (%s)' "$1" "${TORCH_HEADERS[*]}"
    fi
}

toolkit_root() {  # toolkit_root NVCC: its folder, which is another than nvcc's where that is a wrapper
    realpath "$("$1" --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')"
}

cuda_from_pypi() {  # cuda_from_pypi CUDA_VERSION FOLDER: FOLDER/nvidia/cu13 becomes a toolkit: PyPI's compiler beside links to the files of torch's wheels
    local home=$2/nvidia/cu${1%%.*} torchs
    pip_install --no-deps --target "$2" nvidia-{cuda-nvcc,nvvm,cuda-crt,cuda-cccl}"==$1.*" &&
        torchs=$("$ENV_PYTHON" "$TOOLS/setup/check_env.py" cuda_files "${1%%.*}") &&
        { cp -rsn "$torchs/include/." "$home/include/" || true; } && # of coreutils 9.2 to 9.4 it fails over a file that is there; nvcc finds what is missing
        mkdir -p "$home/lib64" && ln -s "$torchs/lib/libcudart.so.${1%%.*}" "$home/lib64/libcudart.so" &&
        "$home/bin/nvcc" -E -x cu "${TORCH_HEADERS[@]/#/--pre-include=}" /dev/null >/dev/null
}

choose_toolkit() {  # choose_toolkit CUDA_VERSION_OF_TORCH FOLDER: set CUDA_HOME to this machine's toolkit, else to one from PyPI in FOLDER
    local nvcc fault
    [[ $1 != none ]] || die "the torch in $ENV_DIR is built without CUDA, so mmcv's GPU operations cannot be;" \
        "install a torch with CUDA there, or go without the GPU with MMPSBN_MMCV_OPS=cpu"
    nvcc=$(machine_nvcc)
    fault=$(toolkit_fault "$nvcc" "$1")
    if [[ -z $fault ]]; then
        CUDA_HOME=$(toolkit_root "$nvcc")
        return
    fi
    [[ ${1%%.*} -ge $FIRST_CUDA_ON_PYPI ]] || die "building mmcv's GPU operations needs nvcc of CUDA $1, but $fault, and PyPI has nvcc only" \
        "from CUDA $FIRST_CUDA_ON_PYPI on; install the CUDA $1 toolkit, name a folder that holds a wheel of $MMCV_PIN for it with" \
        "MMPSBN_WHEELHOUSE, or go without the GPU with MMPSBN_MMCV_OPS=cpu"
    step "taking the compiler of CUDA $1 from PyPI, as $fault" "20 s, 100 MB to download" cuda_from_pypi "$1" "$2"
    CUDA_HOME=$2/nvidia/cu${1%%.*}
}
