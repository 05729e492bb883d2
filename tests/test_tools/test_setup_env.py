"""tools/setup_env.sh with a Python that only pretends, so that it takes no network and no minutes.

It writes down what pip is asked, fails where FAIL says so, and says that mmcv works where its wheel
does not say otherwise.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from mmcv.ops import get_compiling_cuda_version

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/bash
[[ -z ${PYTHONPATH:-} ]] || exit 1  # what is there would be taken for installed
minor=$(cat "${0%/*}/../minor" 2>/dev/null || echo "${MINOR:-11}")
case $* in
    *base_prefix*) echo "$minor $BASE" ;;
    --version) echo "Python 3.$minor.9" ;;
    '-m venv '*)
        mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"
        cp "$0" "$3/bin/python"; echo "$minor" >"$3/minor" ;;
    '-m pip '*)
        echo "$*" >>"$BASE/pip.log"
        [[ -z ${FAIL:-} || $* != *"$FAIL"* ]] || exit 1
        for of in "$@"; do
            case $last in
                --find-links) cp "$of"/*mmcv-*.whl "$BASE/mmcv" ;;
                --wheel-dir) mkdir -p "$of"; echo "$CUDA_HOME" >"$of/onedl_mmcv-2.3.6-any.whl" ;;
                --target) mkdir -p "$of/nvidia/cu13/include" ;;
                -e) mkdir -p mmpsbn/.mim/configs ;;
            esac
            last=$of
        done ;;
    '- '*) [[ $(<"$BASE/mmcv") != broken ]] ;;
    *cpp_extension*) [[ -n ${TORCH_CUDA_ARCH_LIST:-} ]] && echo "sm_${TORCH_CUDA_ARCH_LIST/./}" ;;
    *torch.version.cuda*) echo "${CUDA:-13.0}" ;;
    *nvidia-cuda-runtime*) echo "$BASE/nvidia" ;;
    *'import sys, torch'*) echo cp311-torch2.11.0 ;;
    'setup.py '*) echo "$*" >>"$BASE/pip.log"; mkdir -p mmpsbn/.mim/configs ;;
esac
"""


class Clone:
    def __init__(self, folder):
        self.root, self.env, self.base = folder / 'clone', folder / 'clone/.venv', folder / 'base'
        self.wheels, self.cache, self.log = (
            folder / 'wheels',
            folder / 'cache',
            self.base / 'pip.log',
        )
        for name in ('tools', 'requirements'):
            shutil.copytree(ROOT / name, self.root / name)
        shutil.copy(ROOT / 'setup.py', self.root)
        self.wheels.mkdir(), (self.base / 'bin').mkdir(parents=True)
        (self.wheels / 'onedl_mmcv-2.3.6-any.whl').touch()
        for name in ('python3', 'python3.10', 'python3.11', 'python3.12', 'python', 'c++'):
            path = self.base / 'bin' / name
            path.write_text(PYTHON)
            path.chmod(0o755)

    def setup(self, *args, timeout=60, **env):
        self.log.unlink(missing_ok=True)
        env = (
            dict(
                PATH=f'{self.base}/bin:{os.environ["PATH"]}',
                BASE=self.base,
                PYTHONPATH='/elsewhere',
                XDG_CACHE_HOME=self.cache,
                MMPSBN_WHEELHOUSE=self.wheels,
                MMPSBN_MMCV_OPS='cpu',
            )
            | env
        )
        return subprocess.run(
            ['bash', self.root / 'tools/setup_env.sh', *args],
            env={key: str(value) for key, value in env.items()},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def ready(self, *args, **env):
        """Set it up; what pip was asked."""
        run = self.setup(*args, **env)
        assert run.returncode == 0 and run.stdout.endswith(' is ready\n'), run.stderr
        return self.log.read_text().splitlines() if self.log.exists() else []

    def refused(self, *args, **env):
        """Why it was not set up."""
        run = self.setup(*args, **env)
        assert run.returncode == 1 and run.stderr.startswith('error: '), run.stderr
        return run.stderr

    def kept(self):
        """The wheels of mmcv that were compiled."""
        return sorted(path.relative_to(self.cache) for path in self.cache.glob('mmpsbn/wheels/*/*'))


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_again_nothing_is_asked_and_extras_are_added_and_kept(clone):
    calls = clone.ready('--extras', 'demo')
    order = ('torch==', 'mmcv==', '-e .')
    found = [next(n for n, call in enumerate(calls) if of in call) for of in order]
    assert found == sorted(found)
    assert clone.ready('--extras', 'demo') == clone.ready() == []
    calls = clone.ready('--extras', 'onnx')
    assert any('-r requirements/demo.txt -r requirements/onnx.txt' in call for call in calls)
    assert not any('mmcv==' in call for call in calls)
    assert clone.ready('--extras', 'demo', '--extras', 'onnx') == []


def test_an_extra_that_could_not_be_added_leaves_what_was_there(clone):
    clone.ready('--extras', 'demo')
    assert clone.setup('--extras', 'onnx', FAIL='requirements/onnx.txt').returncode
    assert clone.ready() == []
    assert any('requirements/onnx.txt' in call for call in clone.ready('--extras', 'onnx'))


def test_changed_requirements_are_installed_into_what_is_there(clone):
    clone.ready()
    (clone.env / 'mine').touch()
    with (clone.root / 'requirements/default.txt').open('a') as file:
        file.write('# changed\n')
    assert any('mmcv==' in call for call in clone.ready()) and (clone.env / 'mine').exists()


def lose_python(clone):
    (clone.env / 'bin/python').unlink()


def move(clone):
    clone.root = clone.root.rename(clone.root.with_name('moved'))
    clone.env = clone.root / '.venv'


def ask_for_another_python(clone):
    return dict(MINOR=12)


def use_the_python_that_goes(clone):
    (clone.env / 'mmpsbn-made-from').unlink()
    return dict(PYTHON=clone.env / 'bin/python')


@pytest.mark.parametrize(
    'change', [lose_python, move, ask_for_another_python, use_the_python_that_goes]
)
def test_what_cannot_go_on_is_made_anew_with_its_extras(clone, change):
    clone.ready('--extras', 'demo')
    (clone.env / 'mine').touch()
    calls = clone.ready(**change(clone) or {})
    assert any('torch==' in call for call in calls) and not (clone.env / 'mine').exists()
    assert any('requirements/demo.txt' in call for call in calls)


@pytest.mark.parametrize('fails', ['torch==', '-r requirements', '-e .'])
def test_what_was_interrupted_is_made_anew(clone, fails):
    run = clone.setup(FAIL=fails)
    assert run.returncode and 'is not finished' in run.stderr and 'Run this again' in run.stderr
    (clone.env / 'half').touch()
    assert any('torch==' in call for call in clone.ready())
    assert not (clone.env / 'half').exists()


def test_a_folder_that_is_no_environment_stays(clone):
    clone.env.mkdir()
    (clone.env / 'mine').touch()
    assert 'is no virtual environment; move it away' in clone.refused()
    assert (clone.env / 'mine').exists()


def test_two_at_a_time_wait_for_one_another(clone):
    clone.cache.joinpath('mmpsbn').mkdir(parents=True)
    with FileLock(clone.cache / 'mmpsbn/setup.lock'), pytest.raises(subprocess.TimeoutExpired):
        clone.setup(timeout=2)
    assert clone.ready()


def test_the_original_stack(clone):
    calls = clone.ready(STACK='openmmlab')
    assert calls[-1] == 'setup.py -q develop --no-deps'
    assert any('torch==2.1.2' in call and ' mmengine==0.10.7' in call for call in calls)


def test_mmcv_without_gpu_operations_does_not_do_for_a_gpu():
    def works(ops):
        function = r"sed -n '/^mmcv_works/,/^}/p' tools/setup_env.sh"
        command = f'source <({function}); python={sys.executable} ops={ops} mmcv_works'
        return subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True)

    assert works('cpu').returncode == 0
    if get_compiling_cuda_version() == 'not available':
        assert works('cuda').stderr.endswith('it has no GPU operations\n')


def test_mmcv_is_compiled_once_and_a_wheel_that_does_not_work_passed_over(clone):
    (clone.wheels / 'onedl_mmcv-2.3.6-any.whl').write_text('broken\n')
    (build,) = [call for call in clone.ready() if '--wheel-dir' in call]
    assert '--no-cache-dir --no-build-isolation' in build
    (wheel,) = clone.kept()
    assert wheel.parent.name == 'cp311-torch2.11.0-cpu-onedl-mmcv==2.3.6'
    shutil.rmtree(clone.env)
    assert not any('--wheel-dir' in call for call in clone.ready(MMPSBN_WHEELHOUSE=''))


def test_gpu_operations_are_compiled_with_the_toolkit_of_pypi_or_a_named_one(clone):
    gpu = dict(MMPSBN_MMCV_OPS='cuda', MMPSBN_WHEELHOUSE='', TORCH_CUDA_ARCH_LIST='9.0')
    calls = clone.ready(**gpu)
    (compiler,) = [call for call in calls if '--target' in call]
    for name in ('cuda-nvcc', 'nvvm', 'cuda-crt', 'cuda-cccl'):
        assert f'nvidia-{name}==13.0.*' in compiler
    (wheel,) = clone.kept()
    assert 'cuda-sm_90' in wheel.parent.name
    toolkit = clone.cache / 'mmpsbn/cuda13.0/nvidia/cu13'
    assert (clone.cache / wheel).read_text() == f'{toolkit}\n'
    assert (toolkit / 'lib64/libcudart.so').is_symlink()
    calls = clone.ready(**gpu | dict(TORCH_CUDA_ARCH_LIST='8.6', CUDA_HOME='/cuda'))
    assert not any('--target' in call for call in calls)
    assert [(clone.cache / w).read_text() for w in clone.kept() if 'sm_86' in str(w)] == ['/cuda\n']
    why = clone.refused(**gpu | dict(TORCH_CUDA_ARCH_LIST=''))
    assert "cannot compile for TORCH_CUDA_ARCH_LIST=''" in why and 'MMPSBN_MMCV_OPS=cpu' in why
    why = clone.refused(**gpu | dict(TORCH_CUDA_ARCH_LIST='8.0', CUDA='12.1'))
    assert 'for CUDA 12.1 needs its toolkit' in why and 'MMPSBN_MMCV_OPS=cpu' in why


def test_no_compiler(clone):
    why = clone.refused(CXX='/nonexistent', MMPSBN_WHEELHOUSE='')
    assert "no C++ compiler '/nonexistent' found" in why and 'apt install g++' in why


def test_wrong_python(clone):
    assert 'needs Python 3.10 to 3.12 (tried: python3 ' in clone.refused(MINOR=14)
    why = clone.refused(MINOR=12, STACK='openmmlab')
    assert 'the openmmlab stack needs Python 3.10 to 3.11' in why and 'PYTHON=' in why
    assert '(tried: /nonexistent)' in clone.refused(PYTHON='/nonexistent')
    assert not clone.env.exists()


def test_unknown_arguments(clone):
    assert "STACK must be default or openmmlab, got 'mine'" in clone.refused(STACK='mine')
    assert "unknown extra 'all'; allowed are demo" in clone.refused('--extras', 'demo,all')
    assert "unknown argument '--force'" in clone.refused('--force')
    assert '--extras needs a list' in clone.refused('--extras')
    assert "must be cpu or cuda, got 'gpu'" in clone.refused(MMPSBN_MMCV_OPS='gpu')
    why = clone.refused(MMPSBN_WHEELHOUSE='/nonexistent/wheels')
    assert 'MMPSBN_WHEELHOUSE=/nonexistent/wheels is no folder' in why


@pytest.mark.parametrize('stack, torch', [('default', '2.11'), ('openmmlab', '2.1')])
def test_ci_takes_the_wheels_beside_the_clone(tmp_path, stack, torch):
    clone, beside = tmp_path / 'clone', tmp_path / f'shared/wheels/torch{torch}'
    shutil.copytree(ROOT / '.ci', clone / '.ci')
    (clone / 'tools').mkdir()
    (clone / 'tools/run_tests.sh').write_text('echo "$MMPSBN_WHEELHOUSE|$*"')

    def wheelhouse(**env):
        env = {'PATH': os.environ['PATH'], 'STACK': stack, 'MMPSBN_WHEELHOUSE': ''} | env
        run = subprocess.run([clone / '.ci/run', '-x'], env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        folder, _, arguments = run.stdout.strip().partition('|')
        assert arguments == '-x'
        return folder and Path(folder).resolve()

    assert not wheelhouse()
    beside.mkdir(parents=True)
    assert wheelhouse() == beside
    assert wheelhouse(MMPSBN_WHEELHOUSE=str(tmp_path)) == tmp_path
