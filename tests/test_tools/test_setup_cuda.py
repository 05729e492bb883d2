"""mmcv with GPU operations, as tools/setup_env.sh builds it: from which compiler, for which GPUs.

The machine's compiler, PyPI's and torch only pretend (`pretended_pip.py`).
"""

import importlib.util
from pathlib import Path

import pytest
from pretended_pip import ROOT, WHEEL, Clone, refused, script

PIN = 'onedl-mmcv==2.3.6'
# What nvcc 13.0 wrote for a kernel, sm_80, sm_90 and PTX of compute_90: all but the code itself,
# as (header, bytes of code).
FAT_BINARY = [
    ('50ed55ba01001000783c000000000000', 0),
    (
        '0200010140000000201b00000000000000000000000000000800010050000000'
        '0000000000000000110000000000000000000000000000000000000000000000',
        6944,
    ),
    (
        '0200010140000000f01d0000000000000000000000000000080001005a000000'
        '0000000000000000110000000000000000000000000000000000000000000000',
        7664,
    ),
    (
        '010001015000000098020000000000009102000040000000000009005a000000'
        '000000000000000011800000000000000000000000000000080d000000000000'
        '48000000000000000000000000000000',
        664,
    ),
]


def fat_binary(*entries):
    """The fat binary of nvcc with these entries only."""
    parts = [bytes.fromhex(FAT_BINARY[i][0]) + bytes(FAT_BINARY[i][1]) for i in entries]
    size = sum(map(len, parts)).to_bytes(8, 'little')
    return bytes.fromhex(FAT_BINARY[0][0])[:8] + size + b''.join(parts)


SM_80, SM_90, PTX_90 = (fat_binary(i) for i in (1, 2, 3))


def extension(code):
    """The source of a compiled part of mmcv with GPU code (its .pyc has the bytes themselves)."""
    return f"CODE = {code!r}\ndef get_compiling_cuda_version(): return '13.0'\n"


@pytest.fixture
def check_env():
    spec = importlib.util.spec_from_file_location('check_env', ROOT / 'tools/setup/check_env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_architectures_are_read_from_the_library(check_env):
    as_compiled = fat_binary(1, 2, 3)
    assert as_compiled[:16].hex() == FAT_BINARY[0][0]  # so the sizes above are right
    code = {('sm', 80), ('sm', 90), ('compute', 90)}
    assert check_env.gpu_code(b'ELF.' + as_compiled + b'.end') == code
    assert check_env.gpu_code(SM_80 + bytes(24) + PTX_90) == {('sm', 80), ('compute', 90)}
    assert check_env.gpu_code(b'no GPU code') == set()


@pytest.mark.parametrize(
    'code, target, answer',
    [
        (('sm', 80), 'sm_80', True),
        (('sm', 80), 'sm_86', True),  # later, of the same generation
        (('sm', 86), 'sm_80', False),
        (('sm', 80), 'sm_90', False),
        (('compute', 80), 'sm_90', True),  # the driver compiles it
        (('compute', 90), 'sm_80', False),
        (('sm', 90), 'compute_90', False),  # later GPUs want PTX
        (('compute', 80), 'compute_90', True),
        (('sm', 90), 'sm_90a', True),
        (('sm', 100), 'sm_90', False),
    ],
)
def test_what_runs_on_which_gpu(check_env, code, target, answer):
    assert check_env.serves({code}, target) is answer


@pytest.mark.parametrize(
    'listed, targets', [('9.0', 'sm_90'), ('8.0;8.6+PTX', 'sm_80 sm_86 compute_86')]
)
def test_targets_of_the_real_torch(check_env, monkeypatch, capsys, listed, targets):
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', listed)
    check_env.targets()
    assert set(capsys.readouterr().out.split()) == set(targets.split())


class GpuClone(Clone):
    """A clone on a machine with a GPU, a C++ compiler and what `toolkit` leaves there."""

    def setup(self, *args, **env):
        gpu = dict(
            MMPSBN_MMCV_OPS='cuda',
            MMPSBN_WHEELHOUSE='',
            CUDA_HOME='/nonexistent',
            CXX='true',
            FAKE_CUDA='13.0',
            FAKE_EXT=extension(SM_90),
            TORCH_CUDA_ARCH_LIST='9.0',
        )
        return super().setup(*args, **gpu | env)

    def toolkit(self, version, headers):
        """The folder of a toolkit, and that of an nvcc that only calls the toolkit's."""
        root = self.root.parent / 'toolkit'
        (root / 'bin').mkdir(parents=True)
        nvcc = f"""
            case $1 in
                --version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;
                --dryrun) echo '#$ TOP={root}/bin/..' >&2 ;;
                -E) {str(headers).lower()} ;;
            esac
        """
        script(root / 'bin/nvcc', nvcc)
        script(self.bin / 'nvcc', f'exec {root}/bin/nvcc "$@"')
        return root, self.bin

    def wheels_kept(self, targets):
        name = f'mmpsbn/wheels/cp*-torch2.11.0-cuda13.0-cuda-{targets}-*-{PIN}/{WHEEL}'
        return len(list(self.cache.glob(name)))


@pytest.fixture
def gpu_clone(tmp_path):
    return GpuClone(tmp_path)


def from_pypi(clone):
    return [call for call in clone.pip_calls() if 'nvidia-cuda-nvcc' in call]


@pytest.mark.slow
@pytest.mark.parametrize(
    'machine, reason',
    [
        (None, 'there is no nvcc'),
        (('12.8', True), 'bin/nvcc is of CUDA 12.8'),
        (('13.0', False), 'bin/nvcc finds no headers of the CUDA libraries'),
    ],
)
def test_compiler_from_pypi(gpu_clone, machine, reason):
    env = {}
    if machine:
        gpu_clone.toolkit(*machine)
        env = dict(CUDA_HOME='')
    script(gpu_clone.bin / 'cp', '/bin/cp "$@" && [[ $1 != -*n* ]]')  # as coreutils 9.2 ended
    run = gpu_clone.setup(**env)
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'taking the compiler of CUDA 13.0 from PyPI, as ' in run.stdout
    assert reason in run.stdout
    (call,) = from_pypi(gpu_clone)
    for name in ('cuda-nvcc', 'nvvm', 'cuda-crt', 'cuda-cccl'):
        assert f'nvidia-{name}==13.0.*' in call
    used = Path(gpu_clone.log.with_suffix('.cuda_home').read_text())
    assert used.is_relative_to(gpu_clone.cache) and not used.exists()  # gone with the build
    toolkit = gpu_clone.log.with_suffix('.toolkit')
    assert (toolkit / 'lib64/libcudart.so').read_text() == 'the runtime'
    assert (toolkit / 'include/cusparse.h').exists() and (toolkit / 'bin/nvcc').exists()
    assert gpu_clone.wheels_kept('sm_90') == 1


@pytest.mark.slow
def test_the_machines_compiler_where_it_fits(gpu_clone):
    root, _ = gpu_clone.toolkit('13.2', True)  # of the same major version
    run = gpu_clone.setup(CUDA_HOME='')
    assert run.returncode == 0, run.stdout + run.stderr
    assert from_pypi(gpu_clone) == []
    assert gpu_clone.log.with_suffix('.cuda_home').read_text() == str(root)


@pytest.mark.slow
def test_refused_before_a_compile(gpu_clone):
    run = gpu_clone.setup(FAKE_CUDA='12.1')
    assert refused(run, 'needs nvcc of CUDA 12.1, but there is no nvcc', 'from CUDA 13 on')
    assert 'MMPSBN_MMCV_OPS=cpu' in run.stderr
    run = gpu_clone.setup(FAKE_CUDA='none')
    assert refused(run, 'is built without CUDA', 'MMPSBN_MMCV_OPS=cpu')
    run = gpu_clone.setup(TORCH_CUDA_ARCH_LIST='')  # and no GPU
    assert refused(run, "cannot compile for TORCH_CUDA_ARCH_LIST=''", 'MMPSBN_MMCV_OPS=cpu')
    failure = 'No matching distribution@nvidia-cuda-nvcc'
    run = gpu_clone.setup(FAKE_PIP=failure)
    assert refused(run, 'taking the compiler of CUDA 13.0 from PyPI, as there is no nvcc failed')
    assert not any(call.startswith('wheel') for call in gpu_clone.pip_calls())
    assert not gpu_clone.stamp.exists()


@pytest.mark.slow
def test_wheel_of_other_gpus_is_passed_over(gpu_clone):
    (gpu_clone.wheels / WHEEL).write_text(extension(SM_90))
    machine = dict(TORCH_CUDA_ARCH_LIST='', FAKE_GPUS='8.6', MMPSBN_WHEELHOUSE=gpu_clone.wheels)
    run = gpu_clone.setup(**machine, FAKE_EXT=extension(SM_80))
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'lacks cuda operations for sm_86, so it is passed over' in run.stdout
    assert gpu_clone.wheels_kept('sm_86') == 1
    run = gpu_clone.setup(TORCH_CUDA_ARCH_LIST='8.0', FAKE_EXT=extension(SM_80))
    assert run.returncode == 0, run.stderr  # other architectures are asked for: not ready
    assert any(call.startswith('wheel') for call in gpu_clone.pip_calls())
    (gpu_clone.wheels / WHEEL).write_text(extension(PTX_90))
    run = gpu_clone.setup(TORCH_CUDA_ARCH_LIST='10.0', MMPSBN_WHEELHOUSE=gpu_clone.wheels)
    assert run.returncode == 0 and 'passed over' not in run.stdout


@pytest.mark.slow
def test_built_wheel_without_code_for_the_gpu_is_an_error(gpu_clone):
    run = gpu_clone.setup(FAKE_EXT=extension(b''))
    assert refused(run, 'installing it failed')
