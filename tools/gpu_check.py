"""Is everything right on this machine's GPU, and how fast is it? One page says it; docs/gpu.md."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from mmpsbn.experiments.tables import markdown

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # of a check, then it is stopped
SPEED = 'pruned_speed.py --format channels_last --alone --round-to 1 8 16'
# title -> the file under tools/benchmarks and its options, and those that make it small on a CPU
BENCHMARKS = {
    'psBN beside BatchNorm': ('norm_overhead.py', '--shapes 2x8x5x7 --depth 18'),
    'The same in bfloat16 and channels_last': (
        'norm_overhead.py --dtype bfloat16 --format channels_last',
        '--shapes 2x8x5x7 --depth 18',
    ),
    'Hooks in a step, and a prune event': (
        'hook_overhead.py --size 640 640',
        '--size 64 64 --batch-size 2 --event-side 64 --events 1',
    ),
    'Pruned ResNet-18': (f'{SPEED} --models resnet18', '--batch 2'),
    'Pruned VGG-16': (f'{SPEED} --models vgg16', '--batch 2'),
    'Pruned ResNet-50': (f'{SPEED} --models resnet50 --batch 64', '--batch 2 --side 64'),
    # as many pixels as 800x1333 and a tenth more
    'Pruned RetinaNet': (f'{SPEED} --models retinanet --side 1088', '--side 64'),
}
CORRECT = 'Correct'
TESTS = ['-m', 'pytest', 'tests/test_tools/test_on_gpu.py', '-m', '', '-v', '--durations=5']
TESTS += ['--tb=short', '--show-capture=no', '--disable-warnings']
ENVIRONMENT = dict(
    CUBLAS_WORKSPACE_CONFIG=':4096:8',  # for deterministic algorithms
    PYTORCH_NVML_BASED_CUDA_CHECK='1',  # else a process that only asks for a GPU cannot be forked
)


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder of the page')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    args = parser.parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('there is no GPU here; --device cpu tries the script itself')
    return args


def checks_on(device):
    """Title -> the words behind ``python``."""
    commands = {CORRECT: TESTS}
    for title, (command, small) in BENCHMARKS.items():
        name, *options = command.split()
        if device == 'cpu':
            options += f'{small} --rounds 2 --min-seconds 0'.split()
        commands[title] = [f'tools/benchmarks/{name}', *options]
    return commands


def perform(words, environment, log):
    """'passed', or how it ended; what it prints goes into a file. No process of its own
    outlives it: one more on the GPU would spoil the times to come."""
    how = dict(cwd=ROOT, env=environment, stderr=subprocess.STDOUT, start_new_session=True)
    with log.open('w') as file:
        process = subprocess.Popen([sys.executable, *words], stdout=file, **how)
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return f'stopped after {SECONDS} s'
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return 'passed' if code == 0 else f'failed with exit code {code}'


def page_of(rows, sections):
    return '\n'.join(['# GPU check', '', markdown(['check', 'outcome', 's'], *rows), *sections, ''])


def main(argv=None):
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    page = args.out / 'gpu_check.md'
    environment = os.environ | ENVIRONMENT
    if args.device == 'cpu':
        environment['CUDA_VISIBLE_DEVICES'] = ''
    rows, sections = [], []
    for title, words in checks_on(args.device).items():
        log, start = args.out / f'{len(rows)}.log', time.monotonic()
        outcome = perform(words, environment, log)
        said = log.read_text(errors='replace').strip()
        if title == CORRECT or outcome != 'passed':
            said = f'```\n{said}\n```'
        rows.append([title, outcome, f'{time.monotonic() - start:.0f}'])
        sections += ['', f'## {title}', f'`python {shlex.join(words)}`', '', said]
        # anew after each check: a run that is cut off leaves what it has
        page.write_text(page_of(rows, sections))
        print(*rows[-1], sep=', ', flush=True)
    print(page)
    if any(outcome != 'passed' for _, outcome, _ in rows):
        raise SystemExit(1)


if __name__ == '__main__':
    main()
