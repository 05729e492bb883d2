"""What the hooks cost in a training loop, and how long a prune event takes.

Part 1, "hooks": MMEngine runners over the same small RetinaNet (configs/bccd, half-width R18, norm
layers everywhere) and the same synthetic 320x240 batches, held in memory. Targets: SparsityHook
<= 0.5 % at its default interval, DemPHook <= 3 % between prune events.

Two measurements, from the same steps:

* own: the seconds inside the hook's callbacks, its optimizer-step hooks and its forward hooks, per
  iteration, over the time of a plain iteration. It is the result. An iteration lasts hundreds of
  times longer than a hook, so the difference of two training loops drowns in what else the machine
  does; a stopwatch around the hook's own work is disturbed in proportion to that work only. Penalty
  and noise cost time per parameter, an iteration costs it per image: the share halves where the
  batch doubles.
* block: short blocks of iterations of all runners in turn, their ratios taken within a round. It
  sees what the stopwatch cannot (caches that a hook empties), and as much noise as the machine
  makes.

Part 2, "event": one prune event on RetinaNet-R50 (configs/retinanet) with planted dead channels, on
a new model each time, by stage; the stages indented under another are part of it. Target: <= 3 s on
a 2-core CPU.
"""

import argparse
import contextlib
import functools
import itertools
import logging
import random
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import timing
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import LOOPS, init_default_scope
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.structures import InstanceData
from torch import nn
from torch.utils.data import Dataset

import mmpsbn.pruning.graph
import mmpsbn.pruning.prune
from mmpsbn.engine import DemPHook, SparsityHook
from mmpsbn.engine.demp import online_pruner, prune_event

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TARGETS = dict(SparsityHook=0.005, DemPHook=0.03, event_seconds=3.0)
SPARSITY_INTERVAL = SparsityHook().interval
LOOK_EVERY = SparsityHook().activations.epochs_between(1)  # iterations, where epochs are short
PRUNE = DemPHook().pruner.settings
# Samples in a batch of the default setting, over which the cost of the statistics is spread.
WINDOW_BATCH = 16
# Penalty and noise act at every step, too weak to lead this model away from the plain one.
ACTIVE = dict(penalty=dict(peak=1e-9), noise=dict(peak_std=1e-9), schedule=dict(type='constant'))

EVENT_STAGES = {  # in the order of the event; a leading blank: part of the one above
    'probe activations and outputs': (online_pruner, 'probe_outputs'),
    'cut and verify': (prune_event, 'prune_what_holds'),
    ' plan': (mmpsbn.pruning.prune, 'plan_from_keep_masks'),
    ' probe outputs again': (mmpsbn.pruning.prune, 'probe_outputs'),
    ' surgery': (mmpsbn.pruning.prune, 'apply_plan'),
    'trace the pruned model': (online_pruner, 'trace_channel_graph'),
    ' run it': (mmpsbn.pruning.graph.ChannelTrace, 'run'),
    ' build the graph': (mmpsbn.pruning.graph._GraphBuilder, 'build'),
    'count parameters and MACs': (online_pruner, 'model_cost'),
}

_RUNS = itertools.count()  # MMEngine wants each runner of a process under its own name


class SyntheticDetections(Dataset):
    """Noise images with boxes, in memory, the same for the same seed."""

    def __init__(self, length, size, num_classes, seed):
        generator = torch.Generator().manual_seed(seed)
        width, height = size
        self.items = []
        for _ in range(length):
            image = torch.randint(
                0, 256, (3, height, width), dtype=torch.uint8, generator=generator
            )
            corner = torch.rand(8, 2, generator=generator) * torch.tensor(
                [0.7 * width, 0.7 * height]
            )
            extent = 8 + torch.rand(8, 2, generator=generator) * torch.tensor(
                [0.25 * width, 0.25 * height]
            )
            sample = DetDataSample(
                metainfo=dict(
                    img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0)
                ),
                gt_instances=InstanceData(
                    bboxes=torch.cat([corner, corner + extent], 1),
                    labels=torch.randint(0, num_classes, (8,), generator=generator),
                ),
            )
            self.items.append(dict(inputs=image, data_samples=sample))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@LOOPS.register_module(force=True)
class SteppedLoop(IterBasedTrainLoop):
    """A training loop that prepares training and leaves the steps to its caller."""

    def run(self):
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')

    def step(self):
        self.runner.model.train()
        self.run_iter(next(self.dataloader_iterator))


def build_runner(config, *, hooks, size, batch_size, seed, work_dir, max_iters=10**6):
    """A runner whose training has begun, before its first step."""
    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None  # no download
    torch.manual_seed(seed)
    runner = Runner(
        model=cfg.model,
        work_dir=str(work_dir),
        default_scope='mmdet',
        log_level='ERROR',
        experiment_name=f'overhead{next(_RUNS)}',
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
            dataset=SyntheticDetections(
                4 * batch_size, size, cfg.model.bbox_head.num_classes, seed
            ),
        ),
        train_cfg=dict(type='SteppedLoop', max_iters=max_iters),
        # so small a rate that every runner trains on the same weights, near enough, to its end
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=1e-6, momentum=0.9, weight_decay=1e-4),
            clip_grad=dict(max_norm=10),
        ),
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=10**9)),
        custom_hooks=hooks,
        visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
        randomness=dict(seed=seed),
    )
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    runner.train()
    return runner


@contextlib.contextmanager
def timed_attributes(places, watch):
    """Within it the functions at ``name -> (object, attribute)`` are timed."""
    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in places.items():
            stack.enter_context(
                mock.patch.object(owner, attribute, watch.timed(name, getattr(owner, attribute)))
            )
        yield


# --- part 1: hooks --------------------------------------------------------------------


class TimedTraining:
    """A runner that trains with one hook, or none, and the seconds the hook took in each step."""

    def __init__(self, hook, *, device, **kwargs):
        self.watch = timing.Stopwatch(timing.device_synchronizer(device))
        self.laps = []
        watch = self.watch

        class TimedWindow(online_pruner.ActivationWindow):
            def _watch(self, name):
                return watch.timed('forward hooks', super()._watch(name))

        self._patch = functools.partial(
            mock.patch.object, online_pruner, 'ActivationWindow', TimedWindow
        )
        self.runner = build_runner(hooks=[hook] if hook else [], **kwargs)
        if hook:
            built = next(h for h in self.runner.hooks if type(h).__name__ == hook['type'])
            for callback in ('before_train_iter', 'after_train_iter'):
                setattr(built, callback, watch.timed(callback, getattr(built, callback)))
            optimizer = self.runner.optim_wrapper.optimizer
            for register in ('register_step_pre_hook', 'register_step_post_hook'):
                setattr(
                    optimizer, register, self._time_what_registers(getattr(optimizer, register))
                )

    def _time_what_registers(self, register):
        return lambda function: register(self.watch.timed('optimizer step', function))

    def steps(self, count):
        with self._patch():
            for _ in range(count):
                self.runner.train_loop.step()
                self.laps.append(self.watch.lap())


def trainings(sparsity_interval, batch_size):
    """name -> hook config.

    SparsityHook reports once a block; its cost is put down to the default interval later.
    """
    always = dict(num_samples=10**12)  # the window opens at the first iteration and stays open
    return {
        'plain': None,
        'SparsityHook': dict(type='SparsityHook', interval=sparsity_interval),
        'DemPHook between events': dict(
            type='DemPHook', prune=dict(interval=10**6 - 1, num_samples=batch_size), **ACTIVE
        ),
        'DemPHook in the window': dict(
            type='DemPHook', prune=dict(interval=10**6 - 1, **always), **ACTIVE
        ),
    }


def own_seconds(laps, interval=1):
    """Median own seconds of a step, by callback and in all.

    With an interval, those in all are of the steps that end one (``at``) and of the others.
    """
    totals = [sum(lap.values()) for lap in laps]
    at = totals[interval - 1 :: interval]
    off = [total for i, total in enumerate(totals, 1) if i % interval]
    names = sorted({name for lap in laps for name in lap})
    return dict(
        at=timing.spread(at)['median'],
        off=timing.spread(off)['median'] if off else 0.0,
        by_part={
            name: timing.spread([lap.get(name, 0.0) for lap in laps])['median'] for name in names
        },
    )


def sparsity_share(report, idle, look, iteration, interval=SPARSITY_INTERVAL, between=LOOK_EVERY):
    """Share of the training time: one report an interval, else the idle callbacks, and one look
    at the activations every so many iterations."""
    return (report + (interval - 1) * idle) / (interval * iteration) + look / (between * iteration)


def demp_shares(between, window, iteration):
    """Shares of the iteration time.

    Between events, inside the window, and the window's own part spread over the default interval.
    """
    window_iters = -(-PRUNE.num_samples // WINDOW_BATCH)
    return dict(
        between=between / iteration,
        window=window / iteration,
        statistics=(window - between) / iteration * window_iters / PRUNE.interval,
        amortised=(between + (window - between) * window_iters / PRUNE.interval) / iteration,
    )


def measure_hooks(args, device, work_dir):
    hooks = trainings(args.block, args.batch_size)
    runs = {
        name: TimedTraining(
            hook,
            device=device,
            config=args.config,
            size=args.size,
            batch_size=args.batch_size,
            seed=args.seed,
            work_dir=Path(work_dir) / str(i),
        )
        for i, (name, hook) in enumerate(hooks.items())
    }
    synchronize = timing.device_synchronizer(device)

    def block(run):
        run.steps(args.block)
        synchronize()

    block(runs['SparsityHook'])  # the first report of a model traces it
    first_report = sum(runs['SparsityHook'].laps[-1].values())
    for name in ('plain', 'DemPHook between events', 'DemPHook in the window'):
        block(runs[name])  # the first step of a DemP run traces the model
    for run in runs.values():
        run.laps.clear()
    watching = runs['SparsityHook'].runner
    sparsity_hook = next(h for h in watching.hooks if isinstance(h, SparsityHook))
    times = timing.interleave(
        {name: functools.partial(block, run) for name, run in runs.items()}
        | dict(look=functools.partial(sparsity_hook._read, watching, with_data=True)),
        rounds=args.rounds,
        warmup=0,
        seed=args.seed,
    )
    iteration = timing.spread(times['plain'])['median'] / args.block
    look = timing.spread(times['look'])['median']
    own = {
        name: own_seconds(run.laps, args.block if name == 'SparsityHook' else 1)
        for name, run in runs.items()
        if name != 'plain'
    }
    sparsity, between, window = (own[name] for name in own)
    demp = demp_shares(between['at'], window['at'], iteration)
    shares = {
        'SparsityHook': sparsity_share(sparsity['at'], sparsity['off'], look, iteration),
        'DemPHook between events': demp['between'],
        'DemPHook in the window': demp['window'],
    }
    return dict(
        iteration_ms=1e3 * iteration,
        batch_size=args.batch_size,
        size=list(args.size),
        parameters=count_parameters(runs['plain'].runner.model),
        report_ms=1e3 * sparsity['at'],
        look_ms=1e3 * look,
        first_report_ms=1e3 * first_report,
        statistics_share=demp['statistics'],
        amortised_share=demp['amortised'],
        rows=[
            dict(
                name=name,
                own_ms=1e3 * own[name]['at'],
                own_ms_by_part={k: 1e3 * s for k, s in own[name]['by_part'].items()},
                share=shares[name],
                block_ratio=timing.ratio(times, name, 'plain'),
            )
            for name in shares
        ],
    )


def print_hooks(found, block):
    width, height = found['size']
    print(
        f'\nhooks: {found["parameters"] / 1e6:.2f} M parameters, {width}x{height}, '
        f'batch {found["batch_size"]}, plain iteration {found["iteration_ms"]:.1f} ms'
    )
    timing.print_table(
        ['hook', 'own ms', 'share of an iteration', 'block ratio [quartiles]'],
        [
            [
                row['name'],
                f'{row["own_ms"]:.3f}',
                f'{row["share"]:.3%}',
                '{median:.3f} [{q1:.3f}, {q3:.3f}]'.format(**row['block_ratio']),
            ]
            for row in found['rows']
        ],
    )
    for row in found['rows'][1:]:
        parts = ', '.join(f'{name} {ms:.3f}' for name, ms in row['own_ms_by_part'].items())
        print(f'{row["name"]}, own ms: {parts}')
    print(
        f'SparsityHook: one report {found["report_ms"]:.2f} ms '
        f'(the first, which traces the model, {found["first_report_ms"]:.0f} ms); '
        f'a look at the activations of {SparsityHook().activations.num_batches} batches '
        f'{found["look_ms"]:.1f} ms; own ms is a report, the share is at interval '
        f'{SPARSITY_INTERVAL} and a look every {LOOK_EVERY} iterations, '
        f'the block ratio at interval {block}; target {TARGETS["SparsityHook"]:.1%}'
    )
    print(
        f'DemPHook: between events target {TARGETS["DemPHook"]:.0%}; '
        f'statistics of {PRUNE.num_samples} samples in batches of {WINDOW_BATCH} '
        f'every {PRUNE.interval} iterations: {found["statistics_share"]:.4%} more, '
        f'{found["amortised_share"]:.3%} in all'
    )


# --- part 2: one prune event --------------------------------------------------------


def kill_channels(model, fraction, seed):
    """Make a share of the channels inside the residual blocks dead.

    gamma 0 and a negative bias, before a ReLU.
    """
    draw = random.Random(seed)
    inner = ('bn1', 'bn2') if hasattr(model.backbone.layer1[0], 'bn3') else ('bn1',)
    with torch.no_grad():
        for name, layer in model.backbone.named_modules():
            if (
                isinstance(layer, nn.modules.batchnorm._BatchNorm)
                and '.' in name
                and name.rpartition('.')[2] in inner
            ):
                dead = draw.sample(range(layer.num_features), int(fraction * layer.num_features))
                layer.weight[dead] = 0
                layer._parameters['bias'][dead] = -1.0


def measure_event(args, device, work_dir):
    """Seconds by stage of the first prune event of a new model, and what it did."""
    watch = timing.Stopwatch(timing.device_synchronizer(device))
    hook = dict(type='DemPHook', prune=dict(interval=1, num_samples=1), **ACTIVE)
    runner = build_runner(
        args.event_config,
        hooks=[hook],
        size=(args.event_side, args.event_side),
        batch_size=2,
        seed=args.seed,
        work_dir=work_dir,
    )
    kill_channels(runner.model, args.dead, args.seed)
    pruner = next(h for h in runner.hooks if isinstance(h, DemPHook)).pruner
    prune = watch.timed('event', pruner.prune)

    def prune_by_stage(*hook_args):  # here only, for the model is traced before the first step too
        with timed_attributes(EVENT_STAGES, watch):
            prune(*hook_args)

    pruner.prune = prune_by_stage
    facts = dict(params_before=count_parameters(runner.model))
    runner.train_loop.step()
    if not pruner.left['channels'] < 1:
        raise RuntimeError(
            'the planted dead channels were not removed: this is not the event to measure'
        )
    facts.update(params_after=count_parameters(runner.model), channels_left=pruner.left['channels'])
    return watch.lap(), facts


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


def measure_events(args, device, work_dir):
    laps, facts = zip(
        *(measure_event(args, device, Path(work_dir) / f'event{i}') for i in range(args.events))
    )
    stages = {
        name: timing.spread([lap.get(name, 0.0) for lap in laps])
        for name in ('event', *EVENT_STAGES)
    }
    return dict(facts[0], config=str(args.event_config), events=args.events, seconds=stages)


def print_event(found):
    seconds = found['seconds']
    print(
        f'\nprune event of {found["config"]}: '
        f'{found["params_before"]:,} -> {found["params_after"]:,} parameters, '
        f'{found["channels_left"]:.1%} of the prunable channels left; {found["events"]} events'
    )
    timing.print_table(
        ['stage', 'seconds [quartiles]', 'share'],
        [
            [
                name,
                '{median:.3f} [{q1:.3f}, {q3:.3f}]'.format(**spent),
                f'{spent["median"] / seconds["event"]["median"]:.1%}',
            ]
            for name, spent in seconds.items()
        ],
    )


def print_verdicts(hooks, event):
    found = {row['name']: row['share'] for row in hooks['rows']} if hooks else {}
    if event:
        found['prune event'] = event['seconds']['event']['median']
    print()
    for name, target, form in (
        ('SparsityHook', TARGETS['SparsityHook'], '{:.3%}'),
        ('DemPHook between events', TARGETS['DemPHook'], '{:.2%}'),
        ('prune event', TARGETS['event_seconds'], '{:.2f} s'),
    ):
        if name in found:
            outcome = 'ok' if found[name] <= target else 'MISSED'
            print(f'{name}: {form.format(found[name])}, target {form.format(target)}: {outcome}')


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--parts', nargs='+', choices=['hooks', 'event'], default=['hooks', 'event']
    )
    parser.add_argument(
        '--config', default=str(CONFIGS / 'bccd/retinanet_r18_bn_bccd.py'), help='model of part 1'
    )
    parser.add_argument(
        '--size', nargs=2, type=int, default=(320, 240), metavar=('WIDTH', 'HEIGHT')
    )
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument(
        '--rounds', type=int, default=6, help='of one block of every runner (default: 6)'
    )
    parser.add_argument('--block', type=int, default=3, help='iterations in a block (default: 3)')
    parser.add_argument(
        '--event-config',
        default=str(CONFIGS / 'retinanet/retinanet_r50_bn_demp.py'),
        help='model of part 2',
    )
    parser.add_argument(
        '--event-side',
        type=int,
        default=256,
        help='its image size; an event crops to 256 (default: 256)',
    )
    parser.add_argument('--events', type=int, default=3)
    parser.add_argument(
        '--dead', type=float, default=0.1, help='share of dead channels to plant (default: 0.1)'
    )
    timing.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    timing.set_up(args)
    device = get_device()
    machine = dict(timing.describe_machine(args), device=device)
    timing.print_machine(machine)
    hooks = event = None
    with tempfile.TemporaryDirectory() as work_dir, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if 'hooks' in args.parts:
            hooks = measure_hooks(args, device, work_dir)
            print_hooks(hooks, args.block)
        if 'event' in args.parts:
            event = measure_events(args, device, work_dir)
            print_event(event)
    print_verdicts(hooks, event)
    timing.write_json(args.json, dict(machine=machine, targets=TARGETS, hooks=hooks, event=event))


if __name__ == '__main__':
    main()
