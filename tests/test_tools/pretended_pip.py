"""A clone whose tools/setup_env.sh meets a pip that only pretends.

With it (see `FAKE_PIP`) no network, no disk space and no minutes are needed.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEEL = 'onedl_mmcv-2.3.6-cp{0}{1}-cp{0}{1}-linux_{2}.whl'.format(
    *sys.version_info[:2], os.uname().machine
)

# A pip that writes down what it was asked, fails where FAKE_PIP says so, and leaves importable
# stubs with dist-info folders.
FAKE_PIP = """
import os, py_compile, re, shutil, sys, time
from pathlib import Path
args = sys.argv[1:]
site = Path(__file__).parents[1]
with open(os.environ['PIP_LOG'], 'a') as log:
    log.write(' '.join(args) + '\\n')
failure, _, trigger = os.environ.get('FAKE_PIP', '').partition('@')
if failure and trigger in ' '.join(args):
    if failure == 'sleep':
        Path(os.environ['PIP_LOG']).with_suffix('.pid').write_text(str(os.getpid()))
        time.sleep(60)
    sys.exit('ERROR: ' + failure)

def dist(name, module, files):
    info = site / (re.sub('[-_.]+', '_', name) + '-1.dist-info')
    info.mkdir(exist_ok=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n')
    for file, text in files.items():
        (site / module / file).parent.mkdir(exist_ok=True, parents=True)
        (site / module / file).write_text(text)
    (info / 'RECORD').write_text(''.join(f'{module}/{file},,\\n' for file in files))

def fake_nvcc(toolkit):
    (toolkit / 'bin').mkdir(parents=True)
    nvcc = toolkit / 'bin/nvcc'
    nvcc.write_text('#!/bin/bash\\n[[ -f ${0%/bin/nvcc}/include/cusparse.h ]]')
    nvcc.chmod(0o755)

if args[0] == 'wheel':
    if os.environ['FORCE_CUDA'] == '1':
        built_with = os.environ['CUDA_HOME']
        Path(os.environ['PIP_LOG']).with_suffix('.cuda_home').write_text(built_with)
        copy = Path(os.environ['PIP_LOG']).with_suffix('.toolkit')
        shutil.copytree(built_with, copy, dirs_exist_ok=True)
    text = os.environ.get('FAKE_EXT', '')
    (Path(args[args.index('--wheel-dir') + 1]) / os.environ['WHEEL']).write_text(text)
elif '--target' in args:
    fake_nvcc(Path(args[args.index('--target') + 1]) / 'nvidia/cu13')
elif args[0] == 'install':
    names = [a for a in args[1:] if not a.startswith('-') and '/' not in a]
    if '-r' in args:
        names += ['onedl-mmengine', 'onedl-mmdetection', 'onedl-mmpretrain', 'pycocotools']
    if '-e' in args:
        dist('mmpsbn', 'mmpsbn', {'__init__.py': ''})
        Path(args[args.index('-e') + 1], 'mmpsbn/.mim/configs').mkdir(parents=True, exist_ok=True)
    for name in names:
        name = re.split('[<>=]', name)[0]
        module = name.replace('onedl-', '').replace('mmdetection', 'mmdet').replace('-', '_')
        files = {'__init__.py': '', 'apis.py': '', 'coco.py': ''}
        if name == 'torch':
            files['__init__.py'] = (
                "from types import SimpleNamespace\\n__version__ = '2.11.0'\\n"
                f"version = SimpleNamespace(cuda={os.environ.get('FAKE_CUDA')!r})\\n"
            )
            files['utils/cpp_extension.py'] = (
                "import os\\n"
                "def _get_cuda_arch_flags():\\n"
                "    archs = os.environ.get('TORCH_CUDA_ARCH_LIST') or os.environ['FAKE_GPUS']\\n"
                "    return ['-gencode=code=sm_' + a.replace('.', '') for a in archs.split(';')]\\n"
            )
            cuda = {'cu13/include/cusparse.h': '', 'cu13/lib/libcudart.so.13': 'the runtime'}
            dist('nvidia-cuda-runtime', 'nvidia', cuda)
        dist(name, module, files)
    for wheel in (a for a in args if a.endswith('.whl')):
        source = Path(wheel).with_suffix('.py')
        source.write_text(Path(wheel).read_text())
        dist('onedl-mmcv', 'mmcv', {'__init__.py': '', 'ops.py': '', '_ext.pyc': ''})
        py_compile.compile(str(source), str(site / 'mmcv/_ext.pyc'), doraise=True)
"""


def script(path, text):
    path.write_text('#!/bin/bash\n' + textwrap.dedent(text))
    path.chmod(0o755)
    return path


class Clone:
    """A copy of the files setup_env.sh reads, with a Python whose environments have FAKE_PIP."""

    def __init__(self, folder):
        self.root, self.env = folder / 'clone', folder / 'clone/.venv'
        self.log, self.cache, self.wheels, self.bin = (
            folder / name for name in ('pip.log', 'cache', 'wheels', 'bin')
        )
        self.wheels.mkdir(), self.bin.mkdir()
        for name in ('tools', 'requirements'):
            no_cache = shutil.ignore_patterns('__pycache__')
            shutil.copytree(ROOT / name, self.root / name, ignore=no_cache)
        shutil.copy(ROOT / 'setup.py', self.root)
        (folder / 'pip.py').write_text(FAKE_PIP)
        make_env = f'''
            if [[ "$1 $2" == "-m venv" ]]; then
                "{sys.executable}" -m venv --without-pip "$3" || exit
                site=$(echo "$3"/lib/python3*/site-packages)
                mkdir -p "$site/pip" && touch "$site/pip/__init__.py" &&
                    cp "{folder}/pip.py" "$site/pip/__main__.py"
                exit
            fi
            exec "{sys.executable}" "$@"
        '''
        script(self.bin / 'python3', make_env)
        (self.wheels / WHEEL).touch()
        self.stamp = self.env / 'mmpsbn-setup.stamp'

    def command(self, *args, **env):
        self.log.write_text('')
        base = {k: v for k, v in os.environ.items() if k not in ('PYTHON', 'STACK', 'MMPSBN_ENV')}
        base |= dict(
            PATH=f'{self.bin}:{os.environ["PATH"]}',
            PIP_LOG=self.log,
            WHEEL=WHEEL,
            XDG_CACHE_HOME=self.cache,
            TMPDIR=self.root.parent,
            MMPSBN_WHEELHOUSE=self.wheels,
            MMPSBN_MMCV_OPS='cpu',
        )
        env = {key: str(value) for key, value in (base | env).items()}
        return dict(args=['bash', self.root / 'tools/setup_env.sh', *args], env=env, text=True)

    def setup(self, *args, **env):
        return subprocess.run(**self.command(*args, **env), capture_output=True, timeout=60)

    def pip_calls(self):
        return self.log.read_text().splitlines()


def refused(run, *parts):
    """Failed with one sentence on stderr that has all parts."""
    assert run.returncode != 0
    assert run.stderr.startswith('error: ') and run.stderr.count('\n') == 1, run.stderr
    for part in parts:
        assert part in run.stderr, run.stderr
    return True
