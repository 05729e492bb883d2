"""What removed channels are worth on the clock: dense models beside pruned ones.

Time and peak memory of a training step (forward, backward, SGD with momentum) and of inference,
dense and at several weight sparsities (share of conv and linear weights removed). Each round runs
every variant once; gains are ratios within rounds and their median is the result.

* MACs gain: MACs of the dense model over those of the pruned one.
* efficiency: time gain over MACs gain. Target: >= 0.8.
* ours/TP: our time over that of Torch-Pruning's copy with the same channels removed. Its widths
  are the same, so this is 1 but for noise.
* conv share, conv efficiency: from the fastest of some profiled runs; the share of the time that
  conv and linear layers take, and their own time gain over the MACs gain. What else takes time
  (normalisation, activations, additions, pooling, the optimizer) has no MACs and shrinks with the
  widths, while MACs shrink with their square. Left out with --cpu-time: the profiler's clock is the
  wall's.
* peak: weights, buffers and momentum, and what one run makes at most on top.

Detectors run up to the outputs of the head: losses and NMS do not depend on the widths. For
comparison, DemP's authors report that training got 2.45x (ResNet-18) and 3.56x (VGG-16) faster.

On a CPU that other jobs use: --cpu-time --threads 1. Two threads that wait for each other on one
free core measure the waiting (with OMP_WAIT_POLICY=passive, less of it).
"""

import argparse
import copy
import warnings
from pathlib import Path

import indexed_add
import timing
import torch
from norm_overhead import peak_bytes
from pruned_models import CASES, Pruning, weights_of, widths_of
from torch.profiler import ProfilerActivity, profile

from mmpsbn.pruning.forward import call_with, tensors_in
from mmpsbn.pruning.ranking import RANKING_CRITERIA
from mmpsbn.pruning.verification import output_errors, probe_outputs

TARGET = 0.8
PHASES = ('training', 'inference')
FORMATS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
CONV_OPS = ('conv', 'addmm', 'aten::mm')  # parts of names


def formats_of(args):
    return list(FORMATS) if args.channels_last else ['contiguous']


class Variant:
    """A model of the benchmark with its optimizer; its methods are what is timed."""

    def __init__(self, model, images, synchronize):
        self.model, self.images, self.synchronize = model, images, synchronize
        # A rate at which nothing changes: weights that drift to 0 would reach slow denormals.
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-12, momentum=0.9)

    def training(self):
        self.model.train()
        self.optimizer.zero_grad()
        sum(out.square().mean() for out in tensors_in(self.model(self.images))).backward()
        self.optimizer.step()
        self.synchronize()

    def inference(self):
        self.model.eval()
        with torch.inference_mode():
            self.model(self.images)
        self.synchronize()

    def held_bytes(self, phase):
        tensors = list(self.model.state_dict().values())
        if phase == 'training':
            tensors += [v for s in self.optimizer.state.values() for v in tensors_in(s)]
        return sum(tensor.nbytes for tensor in tensors)

    def peak_bytes(self, phase, device):
        self.optimizer.zero_grad()
        return self.held_bytes(phase) + peak_bytes(getattr(self, phase), device)


def conv_seconds(function, device, rounds):
    """Seconds in conv and linear layers, and in everything, of the fastest profiled run."""
    return min((profiled(function, device) for _ in range(rounds)), key=lambda found: found[1])


def profiled(function, device):
    on_gpu = device == 'cuda'
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as found:
        function()
    own = 'self_device_time_total' if on_gpu else 'self_cpu_time_total'
    spent = {event.key: getattr(event, own) / 1e6 for event in found.key_averages()}
    conv = sum(s for key, s in spent.items() if any(part in key for part in CONV_OPS))
    return conv, sum(spent.values())


def build_variants(name, args):
    """Rows without times, and variants by (format, sparsity, round_to, tool)."""
    case = CASES[name]
    torch.manual_seed(args.seed)
    side, batch = args.side or case.side, args.batch or case.batch
    dense = case.build().to(args.device)
    images = torch.randn(batch, 3, side, side, device=args.device)
    pruning = Pruning(dense, images[:1], criterion=args.criterion, seed=args.seed)
    models, rows = {('dense', None, None): dense}, []
    for sparsity in args.sparsity:
        for round_to in args.round_to:
            masks = pruning.keep_masks(weight_sparsity=sparsity, round_to=round_to)
            ours, seconds = pruning.cut(masks)
            theirs, tp_trace, tp_seconds = pruning.cut_by_torch_pruning(masks)
            if widths_of(ours) != widths_of(theirs):
                raise RuntimeError(f'{name}, {sparsity:.0%}: Torch-Pruning cut other widths')
            models['ours', sparsity, round_to] = ours
            models['TP', sparsity, round_to] = theirs
            outputs = (probe_outputs(model, pruning.image, call_with) for model in (ours, theirs))
            rows.append(
                dict(
                    model=name,
                    side=side,
                    batch=batch,
                    sparsity=sparsity,
                    round_to=round_to,
                    params=sum(p.numel() for p in ours.parameters()),
                    weights_removed=1 - weights_of(ours) / weights_of(dense),
                    macs=pruning.macs(ours),
                    macs_gain=pruning.macs(dense) / pruning.macs(ours),
                    error_to_torch_pruning=output_errors(*outputs)[1],
                    seconds=dict(
                        trace=pruning.trace_seconds,
                        surgery=seconds,
                        tp_trace=tp_trace,
                        tp_surgery=tp_seconds,
                    ),
                )
            )
    synchronize = timing.device_synchronizer(args.device)
    return rows, {
        (form, *key): Variant(
            copy.deepcopy(model).to(memory_format=FORMATS[form]),
            images.to(memory_format=FORMATS[form]),
            synchronize,
        )
        for form in formats_of(args)
        for key, model in models.items()
    }


def measure(name, args):
    """The rows of a model: one for each format, sparsity and rounding."""
    rows, variants = build_variants(name, args)
    measured = [dict(row, format=form) for form in formats_of(args) for row in rows]
    for phase in PHASES:
        runs = {key: getattr(variant, phase) for key, variant in variants.items()}
        times = timing.interleave(runs, rounds=args.repeats, warmup=args.warmup, seed=args.seed)
        conv, total, peak = {}, {}, {}
        for key in runs:
            if key[1] != 'TP':
                peak[key] = variants[key].peak_bytes(phase, args.device)
                if not args.cpu_time:
                    conv[key], total[key] = conv_seconds(runs[key], args.device, args.repeats)
        for row in measured:
            at = row['sparsity'], row['round_to']
            dense, ours, theirs = (
                (row['format'], *key) for key in (('dense', None, None), ('ours', *at), ('TP', *at))
            )
            gain = timing.ratio(times, dense, ours)
            row[phase] = dict(
                dense_ms=1e3 * timing.spread(times[dense])['median'],
                ms=1e3 * timing.spread(times[ours])['median'],
                gain=gain,
                efficiency=gain['median'] / row['macs_gain'],
                to_torch_pruning=timing.ratio(times, ours, theirs),
                peak_bytes=[peak[key] for key in (dense, ours)],
            )
            if conv:
                row[phase].update(
                    conv_share=[conv[key] / total[key] for key in (dense, ours)],
                    conv_efficiency=conv[dense] / conv[ours] / row['macs_gain'],
                )
    return measured


def speed_table(rows, phase):
    head = ['model', 'format', 'weights removed', 'round to', 'MACs gain', 'ms', 'time gain']
    head += ['efficiency', 'ours/TP', 'peak MiB']
    with_conv = 'conv_share' in rows[0][phase]
    head += ['conv share', 'conv efficiency'] * with_conv
    table = []
    for row in rows:
        found = row[phase]
        peak = [size / 2**20 for size in found['peak_bytes']]
        efficiency = round(found['efficiency'], 2)
        table.append(
            [
                f'{row["model"]} {row["batch"]}x{row["side"]}x{row["side"]}',
                row['format'],
                f'{row["weights_removed"]:.1%}',
                str(row['round_to']),
                f'{row["macs_gain"]:.2f}',
                '{dense_ms:.1f} -> {ms:.1f}'.format(**found),
                '{median:.2f} [{q1:.2f}, {q3:.2f}]'.format(**found['gain']),
                f'{efficiency:.2f}' + ' (missed)' * (efficiency < TARGET),
                '{median:.2f} [{q1:.2f}, {q3:.2f}]'.format(**found['to_torch_pruning']),
                '{:.0f} -> {:.0f}'.format(*peak),
            ]
        )
        if with_conv:
            share = '{:.0%} -> {:.0%}'.format(*found['conv_share'])
            table[-1] += [share, f'{found["conv_efficiency"]:.2f}']
    return timing.markdown_table(head, table)


def surgery_table(rows):
    """Of the rows' first format: surgery does not depend on it."""
    head = ['model', 'weights removed', 'round to', 'parameters', 'trace, ours / TP, s']
    head += ['surgery, ours / TP, s', 'outputs differ by']
    table = [
        [
            row['model'],
            f'{row["weights_removed"]:.1%}',
            str(row['round_to']),
            f'{row["params"]:,}',
            '{trace:.3f} / {tp_trace:.3f}'.format(**row['seconds']),
            '{surgery:.3f} / {tp_surgery:.3f}'.format(**row['seconds']),
            f'{row["error_to_torch_pruning"]:.0e}',
        ]
        for row in rows
        if row['format'] == rows[0]['format']
    ]
    return timing.markdown_table(head, table)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--models', nargs='*', choices=CASES, default=list(CASES))
    parser.add_argument('--sparsity', nargs='+', type=float, default=[0.5, 0.8, 0.9])
    parser.add_argument('--round-to', nargs='+', type=int, default=[1, 8])
    parser.add_argument('--criterion', choices=RANKING_CRITERIA, default='uniform')
    parser.add_argument('--channels-last', action='store_true', help='measure that format too')
    parser.add_argument('--batch', type=int, help='images; default: by model')
    parser.add_argument('--side', type=int, help='pixels; default: by model')
    parser.add_argument('--repeats', type=int, default=5, help='rounds (default: 5)')
    parser.add_argument('--warmup', type=int, default=1, help='rounds dropped (default: 1)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--indexed-add', action='store_true', help='measure narrow convolutions added by index too'
    )
    parser.add_argument('--out', type=Path, help='write the tables here, as markdown')
    timing.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    timing.set_up(args)
    warnings.simplefilter('ignore')
    machine = timing.describe_machine(args)
    timing.print_machine(machine)
    rows, indexed, sections = [], [], []
    for name in args.models:
        rows += measure(name, args)
        print(f'{name} done', flush=True)
    if rows:
        for phase in PHASES:
            sections.append(f'{phase}:\n\n{speed_table(rows, phase)}')
        sections.append(f'surgery:\n\n{surgery_table(rows)}')
    if args.indexed_add:
        indexed = indexed_add.measure_all(args)
        sections.append(f'indexed add:\n\n{indexed_add.table(indexed)}')
    text = '\n\n'.join(sections)
    print(text)
    if args.out:
        described = ', '.join(f'{key}: {value}' for key, value in machine.items())
        args.out.write_text(f'{described}\n\n{text}\n')
    timing.write_json(args.json, dict(machine=machine, target=TARGET, rows=rows, indexed=indexed))


if __name__ == '__main__':
    main()
