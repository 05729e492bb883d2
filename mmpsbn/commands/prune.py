"""Prune a trained checkpoint once, and write it as a checkpoint again."""

import itertools
import logging
import os.path as osp
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn

from ..engine.checkpoints.pruned_structure import META_KEY
from ..engine.demp.settings import PruneSettings
from ..engine.input_size import count_at_one_size
from ..engine.openmmlab import batch_loss, example_inputs, forward_tensors, trace_at_any_size
from ..engine.random_numbers import frozen_random_numbers
from ..pruning import prune_dead_channels
from ..pruning.cost import model_cost
from ..pruning.graph import ChannelGraph
from ..pruning.lossless import LOSSLESS_CRITERIA
from ..pruning.plan import compose_plans
from ..pruning.prune import prune_channels
from ..pruning.ranking import (
    LIKED_MULTIPLES,
    RANKING_CRITERIA,
    fisher_scores,
    is_near,
    keep_masks_for_budget,
    rank_channels,
)
from ..pruning.reconstruction import InputMoments
from ..pruning.saliency import GateSaliency
from ..pruning.sparsity import scale_layers
from ..upstream import DropoutBase, NormBase
from .model_files import file_name, load_model, refuse_to_overwrite, save_weights
from .recalibration import recalibrate_batch_norms

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
            itertools.chain([probe], _images(model, data, options.num_samples)),
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
        scores, moments = _look(model, graph, data, options)
        keep_masks, round_to = _masks_for_budget(
            model, graph, scores, positions, (before.macs, dense_macs), options
        )
        with moments.reconstructed([model], keep_masks) as unchanged:
            if unchanged:
                print_log(
                    f'{", ".join(unchanged)} read NaN or infinity, or no number but 0: what is '
                    'removed before them is not taken over',
                    logger='current',
                    level=logging.WARNING,
                )
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


def _look(
    model: nn.Module, graph: ChannelGraph, data: Iterable[dict], options: PruneOptions
) -> tuple[dict[str, Tensor], InputMoments]:
    """The scores of a criterion; and the moments of what is read, where readers take over."""
    criterion = options.criterion
    if criterion == 'bn_scale' and not scale_layers(model):
        raise ValueError(
            'bn_scale ranks by the scales of normalisation layers, and '
            f'{type(model).__name__} has none; rank by l1'
        )
    moments = InputMoments(model, graph.groups if options.reconstruct else {}, taps=True)
    scored = _written_by(model, graph) if criterion == 'fisher' else []
    with closing(moments), _in_training(model, scored):
        if criterion == 'fisher':
            with closing(GateSaliency(model, graph.groups, graph.norm_of)) as saliency:
                for loss in _losses(model, data, options.num_samples):
                    loss.backward()
                    saliency.add()
            return fisher_scores(_scores_of(saliency, model)), moments
        if options.reconstruct:
            try:
                with torch.no_grad():
                    deque(_losses(model, data, options.num_samples), maxlen=0)
            except Exception as error:
                raise RuntimeError(
                    f'{type(model).__name__} cannot be trained on a batch of the train_dataloader '
                    f'({type(error).__name__}: {error}), which shows what its layers read; without '
                    'that: --no-reconstruct'
                ) from error
    return rank_channels(model, graph.groups, criterion=criterion, seed=options.seed), moments


@contextmanager
def _in_training(model: nn.Module, scored: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, the model is in training mode, but for its normalisation, which is that of the
    statistics that it has, and for dropout and stochastic depth, which are off. The ``scored``
    parameters require gradients, also those that a training would freeze."""
    trains = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with frozen_random_numbers(model):
        try:
            model.train()
            for module in model.modules():
                if isinstance(module, (NormBase, DropoutBase, DropPath)):
                    module.eval()
            for parameter in scored:
                parameter.requires_grad_(True)
            yield
        finally:
            model.zero_grad(set_to_none=True)
            model.eval()
            for parameter, before in trains.items():
                parameter.requires_grad_(before)


def _written_by(model: nn.Module, graph: ChannelGraph) -> list[nn.Parameter]:
    """The parameters of the layers that write the channels of groups, or normalise them."""
    members = [m for group in graph.groups.values() for m in (*group.writers, *group.channelwise)]
    layers = {member.layer for member in members}.union(*graph.norm_of.values())
    parameters = (p for name in layers for p in model.get_submodule(name).parameters(recurse=False))
    return [parameter for parameter in parameters if parameter.is_floating_point()]


def _losses(model: nn.Module, data: Iterable[dict], num_samples: int) -> Iterator[Tensor]:
    """Of batches of training pictures with their labels, until there are ``num_samples`` or an
    epoch has ended."""
    for data_batch in data:
        num_samples -= len(data_batch['inputs'])
        model.zero_grad(set_to_none=True)
        yield batch_loss(model, data_batch)
        if num_samples <= 0:
            break


def _scores_of(saliency: GateSaliency, model: nn.Module) -> dict[str, Tensor]:
    """Raises ValueError where no batch had finite gradients."""
    if not saliency.steps:
        raise ValueError(
            f'fisher chooses by gradients, and none of {saliency.seen} batches of '
            f'{type(model).__name__} has finite ones; rank by l1'
        )
    if saliency.steps < saliency.seen:
        print_log(
            f'{saliency.seen - int(saliency.steps)} of {saliency.seen} batches had gradients that '
            'are NaN or infinite, and count for nothing',
            logger='current',
            level=logging.WARNING,
        )
    return saliency.scores()


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


def _images(model: nn.Module, data: Iterable[dict], num_samples: int) -> Iterator[Tensor]:
    """Batches that make up ``num_samples`` training images, or one epoch if that is less."""
    for data_batch in data:
        images = example_inputs(model, data_batch, num_samples)
        num_samples -= len(images)
        yield images
        if num_samples <= 0:
            return
