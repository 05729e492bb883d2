# shellcheck shell=bash
# Sourced by setup_env.sh: its parts, as functions that know nothing of the order they are called in.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=cuda.sh
source "$(dirname "${BASH_SOURCE[0]}")/cuda.sh"

say() { printf '%s\n' "$*"; }

# --- Python ---------------------------------------------------------------------------------------------------------

python_version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

newest_python() { if [[ $1 == openmmlab ]]; then printf 11; else printf 12; fi; }  # torch 2.1 has no wheels for 3.12

supported_python() {  # supported_python VERSION STACK
    [[ $1 =~ ^3\.([0-9]+)\. && ${BASH_REMATCH[1]} -ge 10 && ${BASH_REMATCH[1]} -le $(newest_python "$2") ]]
}

# pick_python STACK CANDIDATES...: the first candidate that runs and has a supported version. A name on the PATH may still not run (pyenv).
pick_python() {
    local stack=$1 candidate version range
    range="3.10 to 3.$(newest_python "$stack")"
    shift
    if [[ -n ${PYTHON:-} ]]; then
        version=$(python_version "$PYTHON") || die "PYTHON=$PYTHON does not run; name a Python $range"
        supported_python "$version" "$stack" || die "PYTHON=$PYTHON is Python $version, but the $stack stack needs Python $range"
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in "$@"; do
        version=$(python_version "$candidate") || continue
        if supported_python "$version" "$stack"; then
            printf '%s' "$candidate"
            return
        fi
    done
    die "no Python $range found for the $stack stack (tried: $*); install one, or name it with PYTHON=/path/to/python"
}

# --- running commands -----------------------------------------------------------------------------------------------

free_kb() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }'; }

existing_parent() {  # the nearest folder above a path that exists
    local dir=$1
    while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
    printf '%s' "$dir"
}

need_disk() {  # need_disk FOLDER GIGABYTES
    local free
    free=$(free_kb "$(existing_parent "$1")")
    [[ -z $free || $free -ge $(($2 * 1024 * 1024)) ]] ||
        die "the disk is too full: setting up takes $2 GB in $1, where $((free / 1024 / 1024)) GB are free; free some space there"
}

disk_full() {  # disk_full LOG FOLDERS...: whether that is why a command failed
    local log=$1 dir free
    shift
    grep -qiE 'No space left on device|Errno 28|Disk quota exceeded' "$log" && return
    for dir in "$@"; do
        free=$(free_kb "$(existing_parent "$dir")")
        [[ -z $free || $free -ge 102400 ]] || return 0
    done
    return 1
}

no_network() {
    grep -qE 'NewConnectionError|NameResolutionError|[Nn]ame (resolution|or service not known)|Network is unreachable|ProxyError|'\
'Connection refused|[Tt]imed out|ConnectTimeout|Max retries exceeded|from versions: none' "$1"
}

# step WHAT HOW_LONG COMMAND...: announce, run with output to $LOG, say how long it took; on failure one sentence that says why
step() {
    local what=$1 how_long=$2 start=$SECONDS minutes=0
    shift 2
    say "* $what ($how_long)"
    : >"$LOG" || die "cannot write $LOG; free some space in its folder, or name another with TMPDIR"
    set -m  # a process group of its own, so that an interrupt can end the compilers too
    "$@" >>"$LOG" 2>&1 </dev/null &
    JOB=$!
    set +m
    while kill -0 "$JOB" 2>/dev/null; do
        sleep 0.1
        if [[ $(((SECONDS - start) / 60)) -gt $minutes ]]; then
            minutes=$(((SECONDS - start) / 60))
            say "  ... still at it after $minutes min"
        fi
    done
    if wait "$JOB"; then
        JOB=
        say "  done in $((SECONDS - start)) s"
        return
    fi
    JOB=
    KEEP_LOG=1
    if disk_full "$LOG" "$ENV_DIR" "$CACHE" "${TMPDIR:-/tmp}"; then
        die "the disk was full while $what; free some space in $ENV_DIR, $CACHE or ${TMPDIR:-/tmp} and run this again (log: $LOG)"
    elif no_network "$LOG"; then
        die "no package index could be reached while $what; connect to the network, name a mirror with PIP_INDEX_URL," \
            "or a folder of wheels with MMPSBN_WHEELHOUSE (log: $LOG)"
    fi
    die "$what failed; run this again after reading the end of $LOG"
}

end_job() {  # on every exit
    if [[ -n ${JOB:-} ]]; then
        kill -- "-$JOB" 2>/dev/null || true
        wait "$JOB" 2>/dev/null || true
    fi
    [[ -z ${BUILD_DIR:-} ]] || rm -rf "$BUILD_DIR"
    [[ -n ${KEEP_LOG:-} || -z ${LOG:-} ]] || rm -f "$LOG"
}

pip_install() {
    "$ENV_PYTHON" -m pip install --disable-pip-version-check ${MMPSBN_WHEELHOUSE:+--find-links "$MMPSBN_WHEELHOUSE"} "$@"
}

# --- the stamp: written last, read first ----------------------------------------------------------------------------

stamp_key() {  # stamp_key STACK PYTHON_VERSION MMCV_OPS: what the environment was made from
    { cat "$ROOT"/requirements/*.txt "$ROOT/setup.py" && printf '%s\n' "$@" "$ROOT"; } | sha256sum | cut -d' ' -f1
}

stamp_valid() {  # stamp_valid STAMP KEY SITE EXTRAS...: made from KEY, with EXTRAS, and every distribution is still the one installed then
    local stamp=$1 key=$2 site=$3 extra dist
    shift 3
    [[ -f $stamp ]] && grep -qxF "key $key" "$stamp" || return 1
    for extra in "$@"; do grep -qxF "extra $extra" "$stamp" || return 1; done
    while read -r _ dist; do [[ -d $site/$dist ]] || return 1; done < <(grep '^dist ' "$stamp")
}

stamp_extras() { [[ ! -f $1 ]] || sed -n 's/^extra //p' "$1"; }

write_stamp() {  # write_stamp STAMP KEY SITE EXTRAS...
    local stamp=$1 key=$2 site=$3
    shift 3
    if ! {
        printf 'key %s\n' "$key" &&
            { [[ $# -eq 0 ]] || printf 'extra %s\n' "$@"; } &&
            (cd "$site" && printf 'dist %s\n' *.dist-info)
    } >"$stamp.new" || ! mv "$stamp.new" "$stamp"; then
        die "cannot write $stamp; free some space there and run this again"
    fi
}

# --- mmcv -----------------------------------------------------------------------------------------------------------

mmcv_ops() {  # cuda where this machine has a GPU, else cpu
    if [[ -n ${MMPSBN_MMCV_OPS:-} ]]; then
        [[ $MMPSBN_MMCV_OPS == cpu || $MMPSBN_MMCV_OPS == cuda ]] || die "MMPSBN_MMCV_OPS must be cpu or cuda, got '$MMPSBN_MMCV_OPS'"
        printf '%s' "$MMPSBN_MMCV_OPS"
    elif CUDA_VISIBLE_DEVICES=0 has_gpu; then  # hidden for one run or not, it is there
        printf cuda
    else
        printf cpu
    fi
}

need_compiler() {
    local cxx=${CXX:-c++} headers
    command -v "$cxx" >/dev/null || die "no C++ compiler '$cxx' found, which building mmcv needs; install one" \
        "(Debian and Ubuntu: apt install g++), name it with CXX, or name a folder that holds a wheel of $MMCV_PIN with MMPSBN_WHEELHOUSE"
    headers=$("$ENV_PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    [[ -f $headers/Python.h ]] || die "no Python.h in $headers, which building mmcv needs; install Python's headers" \
        "(Debian and Ubuntu: apt install python3-dev)"
}

mmcv_wheels() {  # mmcv_wheels CP_TAG CACHE_DIR: wheels of MMCV_PIN that may fit, best first
    local name=${MMCV_PIN%%==*} version=${MMCV_PIN##*==} dir
    for dir in ${MMPSBN_WHEELHOUSE:+"$MMPSBN_WHEELHOUSE"} "$2"; do
        compgen -G "$dir/${name//-/_}-$version-$1-$1-*$(uname -m).whl" || true
    done
}

build_mmcv() {  # build_mmcv OPS CACHE_DIR: into the cache, in one move
    local memory_jobs jobs
    memory_jobs=$(awk '/MemAvailable/ { print int($2 / 1500000) }' /proc/meminfo 2>/dev/null || true)
    jobs=$(num_cpus)
    [[ -z $memory_jobs || $memory_jobs -ge $jobs ]] || jobs=$((memory_jobs > 0 ? memory_jobs : 1))
    if [[ $1 == cuda ]]; then
        unset CUDA_VISIBLE_DEVICES  # as cuda_targets looked
        export FORCE_CUDA=1 CUDA_HOME
    else
        export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
    fi
    # pip's own cache does not know which torch a wheel was built for, so it is left out both ways
    MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$jobs} CFLAGS="${CFLAGS:-} -g0 -O2" "$ENV_PYTHON" -m pip wheel --disable-pip-version-check \
        --no-cache-dir --no-build-isolation --no-deps --no-binary "${MMCV_PIN%%==*}" --wheel-dir "$BUILD_DIR" "$MMCV_PIN" &&
        mkdir -p "$2" && mv -f "$BUILD_DIR"/*.whl "$2/"
}

install_wheel() {  # install_wheel WHEEL OPS TARGETS...
    pip_install --no-cache-dir --no-index --no-deps --force-reinstall "$1" && "$ENV_PYTHON" "$TOOLS/setup/check_env.py" mmcv "${@:2}"
}

install_mmcv() {  # reuse the first wheel that loads with this torch and serves the GPUs, else build one
    local ops=$1 torch cuda tag found targets=() cache_dir wheel build='5 to 10 minutes on 2 cores'
    read -r torch cuda tag < <("$ENV_PYTHON" "$TOOLS/setup/check_env.py" torch) || die "torch was installed but does not import in $ENV_DIR; remove that folder and run this again"
    if [[ $ops == cuda ]]; then
        found=$(cuda_targets "$torch")
        read -ra targets <<<"$found"
    fi
    cache_dir=$CACHE/wheels/$tag-torch$torch-cuda$cuda-$ops$(printf '%s' "${targets[@]/#/-}")-$(uname -m)-$MMCV_PIN
    while read -r wheel; do
        say "* installing mmcv from $wheel (a few seconds)"
        if install_wheel "$wheel" "$ops" "${targets[@]}" >"$LOG" 2>&1 </dev/null; then return; fi
        say "  it does not fit this torch or lacks $ops operations${targets[*]:+ for ${targets[*]}}, so it is passed over"
    done < <(mmcv_wheels "$tag" "$cache_dir")
    need_compiler
    if ! mkdir -p "$CACHE/wheels" || ! BUILD_DIR=$(mktemp -d "$CACHE/wheels/.build.XXXXXX"); then
        die "cannot write to $CACHE; free some space there, or name another folder with XDG_CACHE_HOME"
    fi
    if [[ $ops == cuda ]]; then
        choose_toolkit "$cuda" "$BUILD_DIR/cuda"
        build='much longer with its GPU operations'
    fi
    step "building $MMCV_PIN for torch $torch${targets[*]:+ and ${targets[*]}}, once for all clones" "$build" build_mmcv "$ops" "$cache_dir"
    step "installing it" "a few seconds" install_wheel "$cache_dir"/*.whl "$ops" "${targets[@]}"
}
