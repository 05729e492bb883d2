#!/usr/bin/env bash
# Set up everything this project needs, in .venv of the repository:  tools/setup_env.sh [--extras demo,test,onnx,compare]
#
# Run it as often as you like: when all is there it takes a second, and what an interrupted run left is made anew.
#
#   STACK=default|openmmlab    requirements/<STACK>.txt: the maintained distribution on current torch, or, in .venv-openmmlab, the original
#                              packages on torch 2.1
#   PYTHON=/path/to/python     the Python to use (3.10 to 3.12; openmmlab: up to 3.11)
#   MMPSBN_WHEELHOUSE=folder   wheels to prefer; one of mmcv must have been built for this torch
#   MMPSBN_MMCV_OPS=cpu|cuda   which operations mmcv is compiled with (default: cuda where there is a GPU)
#   TORCH_CUDA_ARCH_LIST=9.0   the compute capabilities that GPU operations are compiled for (default: those of the GPUs in this machine)
#   CUDA_HOME=folder           the CUDA toolkit to compile them with (default: PyPI's, from CUDA 13 on)
set -euo pipefail
unset CDPATH PYTHONPATH PYTHONHOME  # what they add would be taken for installed
wheelhouse=${MMPSBN_WHEELHOUSE:+$(realpath -m -- "$MMPSBN_WHEELHOUSE")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=lib/common.sh
source tools/lib/common.sh

pick_python() {  # the first of these that runs and that the stack has wheels for; a name on the PATH may still not run (pyenv)
    local name minor base newest=12
    [[ $STACK == default ]] || newest=11
    for name in "$@"; do
        # of an environment, which may be the one that is to be made anew, what it was made with
        read -r minor base < <("$name" -c 'import sys; print(sys.version_info.minor, sys.base_prefix)' 2>/dev/null) || continue
        if ((minor >= 10 && minor <= newest)); then
            printf '%s' "$base/bin/python3.$minor"
            return
        fi
    done
    die "the $STACK stack needs Python 3.10 to 3.$newest (tried: $*); name one with PYTHON=/path/to/python"
}

pip() { "$python" -m pip --disable-pip-version-check "$@"; }

mmcv_works() {  # with this torch and, where there is one, on this GPU
    "$python" - "$ops" <<'PYTHON'
import sys, torch
from mmcv.ops import get_compiling_cuda_version, nms
if sys.argv[1] == 'cuda' and get_compiling_cuda_version() == 'not available':
    sys.exit('it has no GPU operations')
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
nms(boxes, torch.ones(1), 0.5)
if sys.argv[1] == 'cuda' and torch.cuda.is_available():
    nms(boxes.cuda(), torch.ones(1).cuda(), 0.5)
PYTHON
}

install_mmcv() {  # the first wheel that works, or one that is compiled here and stays in the cache
    local built wheels folder targets=
    if [[ $ops == cuda ]]; then
        targets=$("$python" -c 'from torch.utils.cpp_extension import _get_cuda_arch_flags as of; print(*(f.rpartition("code=")[2] for f in of()))' \
            2>/dev/null) || die "torch cannot compile for TORCH_CUDA_ARCH_LIST='${TORCH_CUDA_ARCH_LIST:-}' (empty: for the GPUs that it sees); set it" \
            "to the compute capabilities of your GPUs, for example '8.0;9.0', or go without the GPU with MMPSBN_MMCV_OPS=cpu"
    fi
    built=$("$python" -c 'import sys, torch; print(f"cp{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}")')
    wheels=$cache/wheels/$built-$ops${targets:+-${targets// /-}}-$mmcv
    for folder in ${wheelhouse:+"$wheelhouse"} "$wheels"; do
        if compgen -G "$folder/*mmcv-*.whl" >/dev/null &&
            pip install --force-reinstall --no-deps --no-index --find-links "$folder" "$mmcv" && mmcv_works; then
            return
        fi
    done
    compile_mmcv "$wheels"
    pip install --force-reinstall --no-deps --no-index --find-links "$wheels" "$mmcv"
    mmcv_works
}

compile_mmcv() {  # compile_mmcv FOLDER: a wheel into it
    local gpu=0 memory_jobs jobs
    command -v "${CXX:-c++}" >/dev/null || die "no C++ compiler '${CXX:-c++}' found, which compiling mmcv needs; install one" \
        "(Debian and Ubuntu: apt install g++ python3-dev), or name a folder that holds a wheel of $mmcv with MMPSBN_WHEELHOUSE"
    if [[ $ops == cuda ]]; then
        gpu=1
        [[ -n ${CUDA_HOME:-} ]] || cuda_from_pypi
    fi
    memory_jobs=$(awk '/MemAvailable/ { print int($2 / 1500000) }' /proc/meminfo 2>/dev/null || true)
    jobs=$(num_cpus)
    ((${memory_jobs:-$jobs} >= jobs)) || jobs=$((memory_jobs > 0 ? memory_jobs : 1))
    echo "* compiling $mmcv for this torch, once for all clones (5 to 10 minutes on 2 cores, much longer with GPU operations)"
    # pip's own cache does not know which torch a wheel was compiled for
    FORCE_CUDA=$gpu MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$jobs} CFLAGS="${CFLAGS:-} -g0 -O2" pip wheel --no-cache-dir \
        --no-build-isolation --no-deps --no-binary "${mmcv%%==*}" --wheel-dir "$1" "$mmcv"
}

cuda_from_pypi() {  # set CUDA_HOME to a toolkit: PyPI's compiler of torch's CUDA beside links to the files of torch's wheels
    local cuda torchs
    cuda=$("$python" -c 'import torch; print(torch.version.cuda or 0)')
    ((${cuda%%.*} >= 13)) || die "compiling mmcv's GPU operations for CUDA $cuda needs its toolkit, which PyPI has from CUDA 13 on; name its" \
        "folder with CUDA_HOME, or go without the GPU with MMPSBN_MMCV_OPS=cpu"
    export CUDA_HOME=$cache/cuda$cuda/nvidia/cu${cuda%%.*}
    torchs=$("$python" -c "from importlib.metadata import distribution as of; print(of('nvidia-cuda-runtime').locate_file('nvidia'))")
    pip install --no-deps --upgrade --target "$cache/cuda$cuda" nvidia-{cuda-nvcc,nvvm,cuda-crt,cuda-cccl}"==$cuda.*"
    cp -rsn "$torchs/${CUDA_HOME##*/}/include/." "$CUDA_HOME/include/" || true  # of coreutils 9.2 to 9.4 it fails over a file that is there
    mkdir -p "$CUDA_HOME/lib64"
    ln -sf "$torchs/${CUDA_HOME##*/}/lib/libcudart.so.${cuda%%.*}" "$CUDA_HOME/lib64/libcudart.so"
}

STACK=${STACK:-default}
[[ $STACK == default || $STACK == openmmlab ]] || die "STACK must be default or openmmlab, got '$STACK'"
[[ -z $wheelhouse || -d $wheelhouse ]] || die "MMPSBN_WHEELHOUSE=$MMPSBN_WHEELHOUSE is no folder"
extras=()
while (($#)); do
    case $1 in
        --extras) [[ -n ${2:-} ]] || die "--extras needs a list, for example --extras demo,test"
                  IFS=, read -ra more <<<"$2"; extras+=("${more[@]}"); shift 2 ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "tools/setup_env.sh"; exit ;;
        *) die "unknown argument '$1'; allowed is --extras demo,test,onnx,compare" ;;
    esac
done
for extra in "${extras[@]}"; do
    [[ $extra =~ ^(demo|test|onnx|compare)$ ]] || die "unknown extra '$extra'; allowed are demo, test, onnx and compare"
done
if CUDA_VISIBLE_DEVICES=0 has_gpu; then ops=cuda; else ops=cpu; fi
ops=${MMPSBN_MMCV_OPS:-$ops}
case $ops in
    cuda) unset CUDA_VISIBLE_DEVICES ;;  # hidden for one run or not, the GPUs are there
    cpu) export CUDA_VISIBLE_DEVICES= ;;  # mmcv compiles for a GPU that it sees
    *) die "MMPSBN_MMCV_OPS must be cpu or cuda, got '$ops'" ;;
esac
candidates=(python3 python3.12 python3.11 python3.10 python)
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
base=$(pick_python "${candidates[@]}")
mmcv=$(grep -E '^(onedl-)?mmcv==' "requirements/$STACK.txt")
env=$(env_dir "$PWD")
python=$env/bin/python
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmpsbn
mkdir -p "$cache"
exec 9>"$cache/setup.lock"  # of two set-ups the second would take away what the first makes
flock -n 9 || { echo "waiting for another set-up to end"; flock 9; }

# What is known of the environment: the Python and the place it was made for, what it was made from (written last), and its extras.
place="$("$base" --version) $PWD"
made_from=$({ cat requirements/*.txt setup.py; echo "$ops ${TORCH_CUDA_ARCH_LIST:-}"; } | sha256sum)
known() { cat "$env/mmpsbn-$1" 2>/dev/null || true; }
mapfile -t extras < <({ printf '%s\n' "${extras[@]}"; known extras; } | sed '/^$/d' | sort -u)  # what was put in stays
runs() { [[ $(known place) == "$place" ]] && "$python" --version >/dev/null 2>&1; }
current=  # whether at most extras are missing
if runs && [[ $(known made-from) == "$made_from" ]]; then current=1; fi
if [[ -n $current && $(known extras) == "$(printf '%s\n' "${extras[@]}")" && -e mmpsbn/.mim/configs ]]; then
    echo "$env is ready"
    exit
fi

echo "Setting up $env: $STACK stack, from nothing about 3 minutes, 3 GB to download, 7 GB of disk; 5 to 10 minutes more where mmcv is compiled"
trap '(($? == 0)) || echo "$env is not finished; what is said above is why. Run this again" >&2' EXIT
trap 'exit 130' INT
if ! runs || [[ -z $(known made-from) ]]; then
    [[ ! -e $env || -f $env/pyvenv.cfg ]] || die "$env is there but is no virtual environment; move it away"
    rm -rf "$env.old"
    [[ ! -e $env ]] || mv "$env" "$env.old"
    rm -rf "$env.old"
    "$base" -m venv "$env"
    echo "$place" >"$env/mmpsbn-place"
fi
save_extras() { printf '%s\n' "${extras[@]}" >"$env/mmpsbn-extras"; }
if [[ -z $current ]]; then  # or extras are added to what goes on to work if that fails
    rm -f "$env/mmpsbn-made-from"
    save_extras
fi
find_links=(${wheelhouse:+"--find-links=$wheelhouse"})
# numpy with torch: an old torch wants an old one. What mmcv imports comes with MMEngine.
mapfile -t first < <(grep -E '^(setuptools|wheel|ninja|psutil|packaging|torch|torchvision|numpy|opencv-python|(onedl-)?mmengine)([<>=]|$)' "requirements/$STACK.txt")
echo "* installing torch (2 to 5 minutes)"
pip install "${find_links[@]}" "${first[@]}"
if [[ -z $current ]]; then
    echo "* installing mmcv"
    install_mmcv
fi
echo "* installing the rest${extras[*]:+, with what ${extras[*]} needs} (1 minute)"
files=(-r "requirements/$STACK.txt")
for extra in "${extras[@]}"; do files+=(-r "requirements/$extra.txt"); done
pip install "${find_links[@]}" "${files[@]}"
if [[ $STACK == openmmlab ]]; then  # it finds an installed package's configs only beside an egg link, which setuptools < 70 still makes
    "$python" setup.py -q develop --no-deps
else
    pip install --no-index --no-build-isolation --no-deps -e .
fi
"$python" -c 'import torchvision, mmcv.ops, mmdet.apis, mmpretrain, pycocotools.coco, mmpsbn'
save_extras
echo "$made_from" >"$env/mmpsbn-made-from"
echo "$env is ready"
