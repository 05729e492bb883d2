"""tools/setup_env.sh against a pip that only pretends (see `pretended_pip.py`)."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from pretended_pip import ROOT, WHEEL, Clone, refused, script

pytestmark = pytest.mark.slow  # half a minute for what few changes touch


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


@pytest.fixture(scope='module')
def ready(tmp_path_factory):
    """A set-up clone; tests may add to it but leave it set up."""
    clone = Clone(tmp_path_factory.mktemp('ready'))
    run = clone.setup('--extras', 'demo')
    assert run.returncode == 0, run.stdout + run.stderr
    return clone


def test_second_run_asks_nothing_and_extras_are_added_and_kept(ready):
    run = ready.setup('--extras', 'demo')
    assert run.returncode == 0 and 'is ready' in run.stdout
    assert ready.pip_calls() == []
    assert ready.setup('--extras', 'onnx').returncode == 0
    both = 'requirements/onnx.txt', 'requirements/demo.txt'
    assert any(all(file in call for file in both) for call in ready.pip_calls())
    assert ready.setup('--extras', 'demo,onnx').returncode == 0
    assert ready.pip_calls() == []


def test_changed_requirements_and_changed_packages_end_the_stamp(ready):
    with (ready.root / 'requirements/default.txt').open('a') as file:
        file.write('# changed\n')
    assert 'is repaired' in ready.setup().stdout
    assert ready.setup().returncode == 0 and ready.pip_calls() == []
    info = next(ready.env.glob('lib/*/site-packages/pycocotools-*.dist-info'))
    shutil.rmtree(info)  # uninstalled or of another version
    assert 'is repaired' in ready.setup().stdout


def test_half_installed_package_is_never_trusted(ready):
    record = next(ready.env.glob('lib/*/site-packages/torch-1.dist-info/RECORD'))
    record.unlink()  # pip writes it last
    ready.stamp.unlink()
    run = ready.setup()
    assert run.returncode == 0 and 'is removed and made anew' in run.stdout
    assert any('torch==' in call for call in ready.pip_calls())


@pytest.mark.parametrize(
    'failure, sentence',
    [
        ('[Errno 28] No space left@torch==', 'the disk was full while installing torch==2.11.0'),
        ('Name or service not known@torch==', 'no package index could be reached while installing'),
        ('Connection refused@torch==', 'no package index could be reached while installing torch'),
        (
            'else@-r ',
            'installing the rest of requirements/default.txt failed; run this again after',
        ),
    ],
)
def test_failed_pip_is_one_sentence_and_no_stamp(clone, failure, sentence):
    assert refused(clone.setup(FAKE_PIP=failure), sentence)
    assert clone.env.exists() and not clone.stamp.exists()


def test_stopped_set_up_stops_pip_and_leaves_no_stamp(clone):
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = subprocess.Popen(**clone.command(FAKE_PIP='sleep@torch=='), **silent)
    pid = clone.log.with_suffix('.pid')
    while not pid.exists() or not pid.read_text():
        assert run.poll() is None
        time.sleep(0.05)
    run.terminate()
    assert run.wait(20) == 143
    state = Path('/proc', pid.read_text(), 'stat')
    deadline = time.monotonic() + 10
    while state.exists() and ' Z ' not in state.read_text():  # a zombie waits for init only
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not clone.stamp.exists()


def test_full_disk_is_told_before_anything_is_made(clone):
    script(clone.bin / 'df', 'echo header; echo "disk 9 9 1048576 9% /"')
    assert refused(clone.setup(), 'the disk is too full', '1 GB are free')
    assert not clone.env.exists()


def test_no_compiler(clone):
    path = clone.root.parent / 'path'
    path.mkdir()
    programs = {p.name: p for folder in ('/usr/bin', '/bin') for p in Path(folder).iterdir()}
    for name, program in programs.items():
        if not name.startswith(('c++', 'g++', 'gcc', 'clang', 'python')):
            (path / name).symlink_to(program)
    (path / 'python3').symlink_to(clone.bin / 'python3')
    run = clone.setup(PATH=path, MMPSBN_WHEELHOUSE='')
    assert refused(run, "no C++ compiler 'c++' found", 'apt install g++', 'MMPSBN_WHEELHOUSE')
    assert not clone.stamp.exists()


def test_mmcv_is_built_once_and_a_wheel_of_another_torch_passed_over(clone):
    (clone.wheels / WHEEL).write_text('raise ImportError("undefined symbol")')
    run = clone.setup(CXX='true')
    assert run.returncode == 0, run.stderr
    assert 'passed over' in run.stdout
    (build,) = [call for call in clone.pip_calls() if call.startswith('wheel')]
    assert '--no-cache-dir --no-build-isolation' in build
    kept = f'mmpsbn/wheels/cp*-torch2.11.0-cudanone-cpu-*-onedl-mmcv==2.3.6/{WHEEL}'
    assert len(list(clone.cache.glob(kept))) == 1
    assert not list(clone.cache.glob('mmpsbn/wheels/.build*'))
    shutil.rmtree(clone.env)
    assert clone.setup(CXX='/nonexistent', MMPSBN_WHEELHOUSE='').returncode == 0
    assert not any(call.startswith('wheel') for call in clone.pip_calls())


def test_wrong_python(clone):
    old = script(clone.bin / 'old', 'echo 3.9.18')
    assert refused(clone.setup(PYTHON=old), f'PYTHON={old} is Python 3.9.18', '3.10 to 3.12')
    new = script(clone.bin / 'new', 'echo 3.12.1')
    assert refused(clone.setup(PYTHON=new, STACK='openmmlab'), 'is Python 3.12.1', '3.10 to 3.11')
    assert refused(clone.setup(PYTHON='/nonexistent'), 'PYTHON=/nonexistent does not run')
    for name in ('python3', 'python3.12', 'python3.11', 'python3.10', 'python'):
        script(clone.bin / name, 'echo 3.14.0')
    assert refused(clone.setup(), 'no Python 3.10 to 3.12 found', 'PYTHON=/path/to/python')
    assert not clone.env.exists()


def test_active_environment_of_the_other_stack_is_left_alone(clone):
    subprocess.run([clone.bin / 'python3', '-m', 'venv', clone.env], check=True)
    info = next(clone.env.glob('lib/*/site-packages')) / 'mmdet-3.3.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mmdet\nVersion: 3.3.0\n')
    run = clone.setup(MMPSBN_ENV='active', PYTHON=clone.env / 'bin/python')
    assert refused(run, 'has mmdet 3.3.0', 'share their import names with the default stack')
    assert clone.pip_calls() == []


def test_unknown_arguments(clone):
    assert refused(clone.setup(STACK='mine'), 'STACK must be default or openmmlab', "'mine'")
    run = clone.setup('--extras', 'demo,all')
    assert refused(run, "unknown extra 'all'", 'demo, test, onnx and compare')
    assert refused(clone.setup('--force'), "unknown argument '--force'")
    run = clone.setup(MMPSBN_MMCV_OPS='gpu')
    assert refused(run, "MMPSBN_MMCV_OPS must be cpu or cuda, got 'gpu'")


@pytest.mark.parametrize('stack, torch', [('default', '2.11'), ('openmmlab', '2.1')])
def test_ci_takes_the_wheels_beside_the_clone(tmp_path, stack, torch):
    clone, beside = tmp_path / 'clone', tmp_path / f'shared/wheels/torch{torch}'
    shutil.copytree(ROOT / '.ci', clone / '.ci')
    (clone / 'tools').mkdir()
    script(clone / 'tools/run_tests.sh', 'echo "$MMPSBN_WHEELHOUSE|$*"')

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
