"""What setup_env.sh asks of an environment; run with that environment's Python.

where      version, prefix and site-packages
broken     the distributions that an interrupted install left incomplete
foreign S  the distributions of the other stack than S, which have the same import names
torch      version, CUDA version or 'none', and this Python's wheel tag
targets    what CUDA extensions are compiled for here: sm_90 is machine code, compute_90 PTX
cuda_files V the folder of the CUDA V headers and libraries that torch brings
mmcv OPS TARGETS...  exit code 0 when mmcv's compiled part loads with this torch, has OPS, cpu or
           cuda, and runs on the TARGETS
imports    exit code 0 when all that the project imports can be imported
"""

import importlib.metadata
import importlib.util
import re
import struct
import sys
import sysconfig
from importlib.metadata import distribution, distributions

STACKS = dict(
    default='onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmpretrain'.split(),
    openmmlab='mmengine mmengine-lite mmcv mmcv-full mmcv-lite mmdet mmpretrain'.split(),
)
CODE_KINDS = {1: 'compute', 2: 'sm'}
MODULES = 'torch torchvision mmengine mmcv.ops mmdet.apis mmpretrain pycocotools.coco'.split()


def where():
    version = '.'.join(map(str, sys.version_info[:3]))
    print(version, sys.prefix, sysconfig.get_paths()['purelib'], sep='\n')


def broken():
    names = []
    for dist in distributions():
        if not str(getattr(dist, '_path', '')).endswith('.dist-info'):
            continue
        files = dist.files  # None where RECORD is missing: pip writes it last
        if files is None or not all(f.locate().exists() for f in files if f.suffix != '.pyc'):
            names.append(dist.metadata['Name'] or dist._path.name)
    print(', '.join(names))


def foreign(stack):
    others = {name for other, names in STACKS.items() if other != stack for name in names}
    found = {
        re.sub(r'[-_.]+', '-', dist.metadata['Name'] or '').lower(): dist.version
        for dist in distributions()
    }
    print(', '.join(f'{name} {version}' for name, version in found.items() if name in others))


def torch():
    import torch

    tag = f'cp{sys.version_info.major}{sys.version_info.minor}'
    print(torch.__version__, torch.version.cuda or 'none', tag)


def targets():
    from torch.utils.cpp_extension import _get_cuda_arch_flags  # it reads TORCH_CUDA_ARCH_LIST

    print(*(flag.rpartition('code=')[2] for flag in _get_cuda_arch_flags()))


def cuda_files(major):
    print(distribution('nvidia-cuda-runtime').locate_file(f'nvidia/cu{major}'))


def mmcv(ops, *targets):
    import torch  # noqa: F401  (its libraries must be there before the extension is loaded)

    for name in ('onedl-mmcv', 'mmcv'):
        try:
            files = distribution(name).files
        except importlib.metadata.PackageNotFoundError:
            continue
        extension = next(file for file in files if file.name.startswith('_ext.')).locate()
        spec = importlib.util.spec_from_file_location('mmcv._ext', extension)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if ops == 'cuda' and module.get_compiling_cuda_version() == 'not available':
            raise SystemExit('mmcv was built without CUDA operations')
        code = gpu_code(extension.read_bytes())
        missing = [target for target in targets if not serves(code, target)]
        if missing:
            raise SystemExit(f'mmcv was built for {sorted(code)}, not for {missing}')
        return
    raise SystemExit('mmcv is not installed')


def gpu_code(library):
    """The architectures that a library has GPU code for, as {('sm', 90), ('compute', 90)}.

    nvcc puts the code into fat binaries: a header (magic number, version, size of the header, size
    of what follows) and entries that begin with their kind (1 is PTX, 2 machine code), version,
    size of the header and of the rest, and have the architecture at byte 28.
    """
    magic, code = struct.pack('<IHH', 0xBA55ED50, 1, 16), set()
    start = library.find(magic)
    while start >= 0:
        entry, end = start + 16, start + 16 + struct.unpack_from('<Q', library, start + 8)[0]
        while entry < end:
            kind, _, header, size = struct.unpack_from('<HHIQ', library, entry)
            architecture = struct.unpack_from('<I', library, entry + 28)[0]
            if kind in CODE_KINDS:
                code.add((CODE_KINDS[kind], architecture))
            entry += header + size
        start = library.find(magic, end)
    return code


def serves(code, target):
    """Whether code does for a target: machine code for its own architecture, or for later ones of
    the same generation (sm_80 on sm_86), PTX for all later ones, and for a target that is PTX (for
    GPUs to come) PTX alone."""
    wanted = int(re.sub(r'\D', '', target))
    return any(
        architecture <= wanted
        and (kind == 'compute' or target.startswith('sm') and architecture // 10 == wanted // 10)
        for kind, architecture in code
    )


def imports():
    for name in MODULES:
        importlib.import_module(name)
    if importlib.util.find_spec('mmpsbn') is None:
        raise SystemExit('mmpsbn is not installed')


if __name__ == '__main__':
    globals()[sys.argv[1]](*sys.argv[2:])
