"""Prune a trained checkpoint once, and write it as a checkpoint again."""

import itertools
import logging
import os.path as osp
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn

from ..engine.checkpoints.pruned_structure import META_KEY
from ..engine.demp.settings import PruneSettings
from ..engine.input_size import count_at_one_size
from ..engine.openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ..pruning import prune_dead_channels
from ..pruning.cost import model_cost
from ..pruning.graph import ChannelGraph
from ..pruning.lossless import LOSSLESS_CRITERIA
from ..pruning.plan import compose_plans
from ..pruning.prune import prune_channels
from ..pruning.ranking import (
    LIKED_MULTIPLES,
    RANKING_CRITERIA,
    is_near,
    keep_masks_for_budget,
)
from ..pruning.reconstruction import NOT_TAKEN_OVER
from .model_files import file_name, load_model, refuse_to_overwrite, save_weights
from .recalibration import recalibrate_batch_norms
from .training_look import look, training_images

# Criteria that remove live channels, down to a budget.
BUDGET_CRITERIA = ('fisher', *RANKING_CRITERIA)


@dataclass(frozen=True)
class PruneOptions:
    """What to remove: the options of ``mmpsbn prune``, under their names, which the command's help
    explains. Raises ValueError for one out of range."""

    criterion: str = 'fisher'
    target_flops: float | None = None
    num_samples: int = PruneSettings.num_samples
    round_to: int | None = None  # of a budget LIKED_MULTIPLES, else 1
    tolerance: float = PruneSettings.tolerance
    fold_padding: bool = False
    reconstruct: bool = True
    recalibrate: int = 0
    seed: int = 0

    def __post_init__(self):
        criterion, target_flops = self.criterion, self.target_flops
        if criterion in LOSSLESS_CRITERIA and target_flops is not None:
            raise ValueError(
                f'criterion {criterion!r} removes what does nothing, however much that is; '
                f'--target-flops goes with {", ".join(BUDGET_CRITERIA)}'
            )
        if criterion in BUDGET_CRITERIA and target_flops is None:
            raise ValueError(f'criterion {criterion!r} needs a budget: give --target-flops')
        if target_flops is not None and not 0 < target_flops < 1:
            raise ValueError(f'--target-flops must be in (0, 1), got {target_flops}')
        for name, least in (
            ('recalibrate', 0),
            ('num_samples', 1),
            ('round_to', 1),
            ('tolerance', 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                option = '--' + name.replace('_', '-')
                raise ValueError(f'{option} must be >= {least}, got {value}')

    @property
    def multiples(self) -> tuple[int, ...]:
        """Of which widths may be, the first that will do."""
        if self.round_to is not None:
            return (self.round_to,)
        return (1,) if self.criterion in LOSSLESS_CRITERIA else LIKED_MULTIPLES


@dataclass(frozen=True)
class PrunedCheckpoint:
    """What was pruned. Pairs are before and after.

    ``relative_error`` is that of the outputs on one image, relative to their maximum: against those
    before for ``'dead'`` and ``'collapsed'``, else against those of a model in which no reader sees
    the channels that went.
    """

    path: str  # of the file written
    input_size: tuple[int, ...]  # of the image that MACs are of
    params: tuple[int, int]
    macs: tuple[int, int]
    dense_macs: int  # of the config's model
    channels: dict[str, tuple[int, int]]  # by group
    skipped: dict[str, str]  # layer -> why its channels were left whole
    round_to: int  # the multiple that was taken
    relative_error: float

    def table(self) -> str:
        """Channels by group, then totals, one line each."""
        size = 'x'.join(map(str, self.input_size))
        total = tuple(map(sum, zip(*self.channels.values())))
        rows = [
            *self.channels.items(),
            ('all prunable channels', total),
            ('parameters', self.params),
            (f'MACs at {size}', self.macs),
        ]
        column = max(len(name) for name, _ in rows)
        return '\n'.join(
            [f'{"channels of":<{column}} {"before":>15} {"after":>15}    left']
            + [
                f'{name:<{column}} {before:>15,} {after:>15,} {after / before:>7.1%}'
                for name, (before, after) in rows
            ]
        )


def prune_checkpoint(
    cfg: Config,
    checkpoint_path: str,
    options: PruneOptions,
    *,
    out_dir: str,
    device: str,
    force: bool,
) -> PrunedCheckpoint:
    """Prune a checkpoint and write ``out_dir/<name>_<criterion>.pth``, for the same config.

    A checkpoint that is pruned already is pruned further.

    Raises:
        ValueError: a checkpoint that does not fit the config, a budget out of reach,
            ``'bn_scale'`` without a norm layer, or nothing to prune.
        FileExistsError: there is such a file, and not ``force``.
        RuntimeError: the model cannot be traced, or failed verification.
    """
    if cfg.get('train_dataloader') is None:
        raise ValueError(
            f'{cfg.filename} has no train_dataloader, and pruning looks at training data'
        )
    path = osp.join(out_dir, f'{file_name(checkpoint_path)}_{options.criterion}.pth')
    if not force:
        refuse_to_overwrite(path)
    loaded = load_model(cfg, checkpoint_path)
    model = loaded.model.to(device)
    set_random_seed(options.seed)  # augmentations draw from the global generators
    loader = partial(Runner.build_dataloader, cfg.train_dataloader, seed=options.seed)
    # one iterator for the first batch and the look: a sampler that never ends has no second one
    batches = iter(loader())
    head = next(batches, None)
    data = itertools.chain([head], batches)
    first = example_inputs(model, head, 1)
    graph, probe = trace_at_any_size(model, first)
    if not graph.groups:
        raise ValueError(
            f'{type(model).__name__} has no channels that can be pruned: {graph.left_whole}'
        )
    positions, input_size = count_at_one_size(model, cfg, probe)
    dense_macs = model_cost(model, positions, loaded.plan.shapes).macs
    before = model_cost(model, positions)
    round_to = options.multiples[0]
    if options.criterion in LOSSLESS_CRITERIA:
        removal = prune_dead_channels(
            model,
            itertools.chain([probe], training_images(model, data, options.num_samples)),
            criterion=options.criterion,
            forward_fn=forward_tensors,
            tolerance=options.tolerance,
            fold_padding=options.fold_padding,
            round_to=round_to,
        )
        skipped = removal.skipped
    else:
        if before.macs <= options.target_flops * dense_macs:
            raise ValueError(
                f'{before.macs / dense_macs:.2%} of the dense MACs are left already, no more than '
                f'the {options.target_flops:.2%} asked for; ask for less'
            )
        skipped = graph.skipped
        scores, moments = look(
            model,
            graph,
            data,
            criterion=options.criterion,
            reconstruct=options.reconstruct,
            num_samples=options.num_samples,
            seed=options.seed,
        )
        keep_masks, round_to = _masks_for_budget(
            model, graph, scores, positions, (before.macs, dense_macs), options
        )
        with moments.reconstructed([model], keep_masks) as unchanged:
            if unchanged:
                said = NOT_TAKEN_OVER.format(', '.join(unchanged))
                print_log(said, logger='current', level=logging.WARNING)
            removal = prune_channels(
                model,
                graph.groups,
                keep_masks,
                batch=probe,
                forward_fn=forward_tensors,
                tolerance=options.tolerance,
                live=True,
            )
    if not removal.plan:
        refused = [f'; {name}: {skipped[name]}' for name in graph.groups if name in skipped]
        raise ValueError(
            f'criterion {options.criterion!r} finds nothing to remove (widths in multiples of '
            f'{round_to}); nothing was written{"".join(refused)}'
        )
    if options.recalibrate:
        epochs = itertools.chain.from_iterable(loader() for _ in itertools.count())
        batches = itertools.islice(epochs, options.recalibrate)
        recalibrate_batch_norms(
            model, (example_inputs(model, batch, len(batch['inputs'])) for batch in batches)
        )
    after = model_cost(model, positions)
    save_weights(
        model,
        path,
        cfg=cfg.pretty_text,
        **loaded.marks,
        **{META_KEY: dict(plan=compose_plans(loaded.plan, removal.plan).to_dict())},
    )
    return PrunedCheckpoint(
        path=path,
        input_size=input_size,
        params=(before.params, after.params),
        macs=(before.macs, after.macs),
        dense_macs=dense_macs,
        channels={
            name: (group.channels, group.channels - removal.channels_removed.get(name, 0))
            for name, group in graph.groups.items()
        },
        skipped=skipped,
        round_to=round_to,
        relative_error=removal.relative_error,
    )


def _masks_for_budget(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    positions: Mapping[str, float],
    macs: tuple[int, int],
    options: PruneOptions,
) -> tuple[dict[str, Tensor], int]:
    """And the multiple of which widths are. ``macs``: now, and of the dense model."""
    now, dense = macs
    target = options.target_flops * dense
    keep_masks, left, multiple = keep_masks_for_budget(
        model,
        graph.groups,
        scores,
        positions,
        measure='macs',
        target=target,
        min_channels=1,
        multiples=options.multiples,
    )
    asked = f'{options.target_flops:.2%} of the dense MACs'
    finer = ', or for a smaller --round-to'
    if not is_near(left, target):
        untried = finer if min(options.multiples) > 1 else ''
        raise ValueError(
            f'{asked} cannot be reached: {now / dense:.2%} are left now, and the nearest is '
            f'{left / dense:.2%} (widths in multiples of {multiple}, at least one channel a '
            f'layer); ask for that{untried}'
        )
    if left == now:
        raise ValueError(
            f'{now / dense:.2%} of the dense MACs are left already, which is near enough to '
            f'{asked} (widths in multiples of {multiple}); ask for less{finer * (multiple > 1)}'
        )
    return keep_masks, multiple
