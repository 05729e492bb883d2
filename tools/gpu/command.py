"""Is everything right on this machine's GPU, and how fast is it?

Writes gpu_check.md and gpu_check.json into a folder, anew after each check. What does not fit into
the time any more is skipped, and says so. A later run in the same folder adds to its page. Nothing
is fetched.
"""

import argparse
import time
import warnings
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from .checks import Setup, perform
from .correct import CORRECT
from .fast import FAST
from .page import Page, machine
from .papers import PAPERS

PARTS = dict(correct=CORRECT, fast=FAST, papers=PAPERS)
MINUTES = dict(quick=3.0, whole=8.0)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', required=True, help='folder; one that was begun is gone on with')
    parser.add_argument('--quick', action='store_true', help='fewer steps, the small models alone')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument(
        '--minutes',
        type=float,
        help='for all of it; default: {whole:g}, {quick:g} with --quick'.format(**MINUTES),
    )
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument(
        '--checks',
        nargs='+',
        metavar='NAME',
        help="of the parts, as in 'two processes'; default: all",
    )
    parser.add_argument('--data', help='folder of CIFAR-10, for the papers; default: without')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('there is no GPU here; --device cpu tries the script itself')
    known = [check.name for part in args.parts for check in PARTS[part]]
    if unknown := set(args.checks or ()) - set(known):
        parser.error(f'--checks: {sorted(unknown)} are none of {known}')
    return args


def main(argv=None):
    args = parse_args(argv)
    minutes = args.minutes or MINUTES['quick' if args.quick else 'whole']
    setup = Setup(
        device=args.device,
        quick=args.quick,
        seed=args.seed,
        folder=Path(args.out).resolve(),
        data=args.data,
        deadline=time.monotonic() + 60 * minutes,
    )
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine').setLevel('ERROR')
    settings = dict(device=args.device, quick=args.quick, minutes=minutes, seed=args.seed)
    try:
        page = Page(setup.folder, machine() | settings)
    except ValueError as other_page:
        raise SystemExit(f'gpu_check.py: error: --out: {other_page}') from None
    failed = False
    for part in args.parts:
        for check in PARTS[part]:
            if args.checks is None or check.name in args.checks:
                page.add(part, outcome := perform(check, setup))
                failed |= outcome.verdict == 'failed'
                print(f'{part}, {check.name}: {outcome.verdict}, {outcome.found.text}', flush=True)
    page.write(ended=True)
    print(f'{page.summary}; {setup.folder / "gpu_check.md"}')
    if failed:
        raise SystemExit(1)
