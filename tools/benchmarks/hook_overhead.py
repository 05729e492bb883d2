"""What SparsityHook and DemPHook cost in a training loop, and how long a prune event takes.

MMEngine runners over the same small RetinaNet (configs/bccd) and the same batches, held in memory.
Targets: SparsityHook <= 0.5 % at its default intervals, DemPHook <= 3 % between prune events, a
prune event of RetinaNet-R50 <= 3 s on a 2-core CPU. Two measurements, from the same steps:

* own: the seconds inside the hook's callbacks and inside all that it registers (step hooks of the
  optimizer, forward hooks), per iteration, over a plain iteration. It is the result: an iteration
  lasts hundreds of times longer than a hook, so that the difference of two loops drowns in what
  else the machine does. Penalty and noise cost time per parameter, an iteration costs it per
  image: the share halves where the batch doubles.
* step: the iteration with the hook over the plain one. It sees what the stopwatch cannot (caches
  that a hook empties), and as much noise as the machine makes.
"""

import contextlib
import functools
import itertools
import logging
import random
import statistics
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from unittest import mock

import timing
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import LOOPS, init_default_scope
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mmpsbn.engine import DemPHook, SparsityHook

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
WEIGHTS_ONLY = ('collapsed', 'flops_sparsity')  # what a report needs no activations for
# at its defaults: iterations from report to report, and from look at activations to look
REPORT_EVERY = SparsityHook().interval
LOOK_EVERY = SparsityHook().activations.interval(None)
NEVER = 10**6  # iterations
# Penalty and noise act at every step, too weak to lead this model away from the plain one.
ACTIVE = dict(penalty=dict(peak=1e-9), noise=dict(peak_std=1e-9), schedule=dict(type='constant'))
HOOKS = {
    'SparsityHook, idle': dict(type='SparsityHook', interval=NEVER, measures=WEIGHTS_ONLY),
    'SparsityHook, report': dict(type='SparsityHook', interval=1, measures=WEIGHTS_ONLY),
    'SparsityHook, report and look': dict(
        type='SparsityHook', interval=1, activations=dict(interval_epochs=1)
    ),
    'DemPHook between events': dict(
        type='DemPHook', prune=dict(interval=NEVER // 2, num_samples=1), **ACTIVE
    ),
    # the window of as many samples opens at the first iteration
    'DemPHook in the window': dict(
        type='DemPHook', prune=dict(interval=NEVER // 2, num_samples=10**12), **ACTIVE
    ),
    # the sums of what the loss misses, from the first step on; its cuts never come
    'DemPHook before a cut to a budget': dict(
        type='DemPHook', budget=dict(flops=0.5, begin=0.5, end=0.9)
    ),
}
_RUNS = itertools.count()  # MMEngine wants each runner of a process under its own name


@LOOPS.register_module(force=True)
class SteppedLoop(IterBasedTrainLoop):
    """A training loop that prepares training and leaves the steps to its caller."""

    def run(self):
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')

    def step(self):
        self.runner.model.train()
        self.run_iter(next(self.dataloader_iterator))


class Training:
    """A runner whose training has begun, with one hook or none.

    Attributes:
        laps: the seconds the hook took in each step, in its callbacks and in all that it
            registers, by name; of those that call one another only the outermost counts.
    """

    def __init__(self, config, hook, *, size, batch_size, bench, work_dir):
        self._clock, self._inside = bench.clock, False
        self.laps = [defaultdict(float)]
        cfg = Config.fromfile(config)
        init_default_scope('mmdet')
        cfg.model.backbone.init_cfg = None  # no download
        torch.manual_seed(bench.seed)
        batch = demo_mm_inputs(
            batch_size,
            image_shapes=[(3, *reversed(size))] * batch_size,
            num_items=[8] * batch_size,
            num_classes=cfg.model.bbox_head.num_classes,
        )
        images = [dict(zip(batch, image)) for image in zip(*batch.values())]
        self.runner = Runner(
            model=cfg.model,
            work_dir=work_dir,
            default_scope='mmdet',
            log_level='ERROR',
            experiment_name=f'overhead{next(_RUNS)}',
            train_dataloader=DataLoader(
                images,
                batch_size,
                # at the end of the data MMEngine waits for two seconds
                sampler=InfiniteSampler(images, shuffle=False),
                collate_fn=pseudo_collate,
            ),
            train_cfg=dict(type='SteppedLoop', max_iters=NEVER),
            # so small a rate that every runner trains on the same weights, near enough
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=1e-6, momentum=0.9, weight_decay=1e-4),
                clip_grad=dict(max_norm=10),
            ),
            default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=NEVER)),
            custom_hooks=[hook] if hook else [],
            visualizer=dict(type='DetLocalVisualizer', vis_backends=[]),
            randomness=dict(seed=bench.seed),
        )
        logging.getLogger('mmengine').setLevel(logging.ERROR)
        self.runner.train()
        for built in self.runner.hooks:
            if isinstance(built, (SparsityHook, DemPHook)):
                for stage in Hook.stages:
                    setattr(built, stage, self._timed(stage, getattr(built, stage)))

    def _timed(self, name, function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.laps[-1][name] += self._clock() - start
                self._inside = False

        return wrapper

    def step(self):
        """An iteration; hooks of modules and optimizers are wrapped as they are registered."""

        def patch(owner, method):
            register = getattr(owner, method)

            def registered(this, function, *args, **kwargs):
                return register(this, self._timed(method, function), *args, **kwargs)

            return mock.patch.object(owner, method, registered)

        self.laps.append(defaultdict(float))
        with contextlib.ExitStack() as stack:
            for method in ('register_forward_pre_hook', 'register_forward_hook'):
                stack.enter_context(patch(nn.Module, method))
            for method in ('register_step_pre_hook', 'register_step_post_hook'):
                stack.enter_context(patch(Optimizer, method))
            self.runner.train_loop.step()


def measure_hooks(config, *, bench, **how):
    """Trainings by hook, and the seconds of their iterations by round. ``how`` is of Training."""
    how |= dict(bench=bench)
    runs = {name: Training(config, hook, **how) for name, hook in HOOKS.items()}
    plain = Training(config, None, **how)
    for run in (plain, *runs.values()):
        run.step()  # the first step traces the model
        run.laps.clear()
    steps = {name: run.step for name, run in runs.items()} | dict(plain=plain.step)
    return runs, bench.side_by_side(steps)


def report_hooks(runs, seconds):
    iteration = statistics.median(seconds['plain'])
    own = {name: statistics.median(sum(s.values()) for s in r.laps) for name, r in runs.items()}
    rows = [
        [name, f'{1e3 * s:.3f}', f'{s / iteration:.2%}', timing.ratio(seconds, name, 'plain')]
        for name, s in own.items()
    ]
    print(f'plain iteration {1e3 * iteration:.1f} ms')
    timing.print_table(['hook', 'own ms', 'own / iteration', 'step / plain step'], rows)
    idle, report, look, between, *_ = own.values()
    watching = idle + (report - idle) / REPORT_EVERY + (look - report) / LOOK_EVERY
    print(f'SparsityHook at its default intervals: {watching / iteration:.3%}, target 0.5 %')
    print(f'DemPHook between events: {between / iteration:.2%}, target 3 %')


def kill_channels(model, fraction, seed):
    """Make a share of the channels inside the residual blocks dead: gamma 0 and a negative bias,
    before a ReLU."""
    draw = random.Random(seed)
    inner = ('bn1', 'bn2') if hasattr(model.backbone.layer1[0], 'bn3') else ('bn1',)
    for name, layer in model.backbone.named_modules():
        if '.' in name and name.rpartition('.')[2] in inner:
            dead = draw.sample(range(layer.num_features), int(fraction * layer.num_features))
            with torch.no_grad():
                layer.weight[dead], layer.bias[dead] = 0, -1.0


def measure_event(config, *, side, bench, work_dir):
    """Seconds of the first prune event of a new model; parameters before and after."""
    hook = dict(type='DemPHook', prune=dict(interval=1, num_samples=1), **ACTIVE)
    how = dict(size=(side, side), batch_size=2, bench=bench, work_dir=work_dir)
    training = Training(config, hook, **how)
    model = training.runner.model
    kill_channels(model, fraction=0.1, seed=bench.seed)
    before = sum(p.numel() for p in model.parameters())
    training.step()
    after = sum(p.numel() for p in model.parameters())
    if not after < before:
        raise RuntimeError('the planted dead channels were not removed: this is no event to time')
    return training.laps[-1]['after_train_iter'], before, after


def parse_args(argv):
    parser = timing.parser(__doc__, rounds=6)
    parser.add_argument('--config', default=str(CONFIGS / 'bccd/retinanet_r18_bn_bccd.py'))
    size = dict(nargs=2, type=int, default=(320, 240), metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--size', **size, help='pixels; default: 320 240')
    parser.add_argument('--batch-size', type=int, default=4, help='default: 4')
    event = str(CONFIGS / 'retinanet/retinanet_r50_bn_demp.py')
    parser.add_argument('--event-config', default=event, help='the model of the prune event')
    parser.add_argument('--event-side', type=int, default=256, help='its image; default: 256')
    parser.add_argument('--events', type=int, default=3)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    bench = timing.begin(args)
    with tempfile.TemporaryDirectory() as work_dir, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        how = dict(bench=bench, work_dir=work_dir)
        sizes = dict(size=args.size, batch_size=args.batch_size)
        report_hooks(*measure_hooks(args.config, **sizes, **how))
        events = [
            measure_event(args.event_config, side=args.event_side, **how)
            for _ in range(args.events)
        ]
    seconds, before, after = (statistics.median(column) for column in zip(*events))
    print(f'prune event, {before:,} -> {after:,} parameters: {seconds:.2f} s, target 3 s')


if __name__ == '__main__':
    main()
