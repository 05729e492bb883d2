"""What one checkpoint holds: its channels, what was seen of them, and what it scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from torch import Tensor, nn

from ...commands.launch import first_line
from ...engine.sparsity.growth import Growth
from ...functional.checks import is_count, is_number
from ...functional.statistics import collapsed_mask
from ...layers import PostShift
from ...pruning.census import LayerChannels, map_channels, take_census
from ...pruning.cost import Cost, count_positions, model_cost
from ...pruning.graph import ChannelGraph
from ...pruning.observation import observe_channels
from ...pruning.sparsity import scale_layers, scales_clamped
from .subject import Loaded, Subject, progress

_EMPTY = 'the data set is empty: no sample to look at; leave out --data'


@dataclass(frozen=True)
class Settings:
    """What counts as small, and how much is looked at."""

    thresholds: tuple[float, ...]  # on |gamma|, > 0; the first is what "collapsed" means in words
    eps: float  # max |a| up to it is dead, >= 0
    num_samples: int  # samples of the data that activations are taken of, >= 1
    score: bool  # on the whole data set, as it is and with the filters under each threshold clamped

    def __post_init__(self):
        if not self.thresholds or not all(is_number(t) and t > 0 for t in self.thresholds):
            raise ValueError(f'--thresholds must be numbers > 0, got {list(self.thresholds)}')
        # by six digits, as the columns are called
        if len({f'{t:g}' for t in self.thresholds}) < len(self.thresholds):
            raise ValueError(f'--thresholds must differ, got {list(self.thresholds)}')
        if not (is_number(self.eps) and self.eps >= 0):
            raise ValueError(f'--eps must be a finite number >= 0, got {self.eps}')
        if not is_count(self.num_samples):
            raise ValueError(f'--num-samples must be an int >= 1, got {self.num_samples}')


@dataclass
class Snapshot:
    """One checkpoint.

    ``not_grown`` is threshold -> layer whose gamma began at 0 -> which of its channels are below
    the threshold and had not grown before, shape (C,), bool; by SparsityHook's record in the
    checkpoint, without which all of them count as collapsed.
    """

    name: str
    settings: Settings
    layers: dict[str, LayerChannels] = field(default_factory=dict)  # the census
    kept: dict[str, tuple[int, ...]] = field(default_factory=dict)  # see :class:`.Loaded`
    graph: ChannelGraph | None = None  # None where the model was not traced
    cost: Cost | None = None
    input_shape: tuple[int, ...] | None = None  # of the sample that MACs are counted on
    untraced: str | None = None  # why it was not traced
    samples: int = 0  # that activations were taken of
    scores: dict[str, float] = field(default_factory=dict)  # of the model as it is
    clamped_scores: dict[float, dict[str, float]] = field(default_factory=dict)  # by threshold
    has_psbn: bool = False  # or other layers that are shifted
    not_grown: dict[float, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """What "collapsed" means."""
        return self.settings.thresholds[0]


def take_snapshots(
    subject: Subject, checkpoints: Sequence[str], settings: Settings
) -> list[Snapshot]:
    """Look at one checkpoint after the other; without any, at the subject as it is built.

    Raises:
        ValueError: a checkpoint that does not fit, or an empty data set.
    """
    names = checkpoint_names(checkpoints) or ['as built']
    return [
        take_snapshot(subject, subject.load(path), name=name, settings=settings)
        for name, path in zip(names, checkpoints or [None])
    ]


def checkpoint_names(paths: Sequence[str]) -> list[str]:
    """File names, with as many folders before each as it takes to tell them apart."""
    parts = [PurePath(path).parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = [str(PurePath(*part[-count:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def take_snapshot(subject: Subject, loaded: Loaded, *, name: str, settings: Settings) -> Snapshot:
    """Look at a loaded model. It is not changed.

    Raises:
        ValueError: the data set is empty.
    """
    model, example = loaded.model, subject.example(loaded.model)
    found = Snapshot(name, settings, kept=loaded.kept)
    found.has_psbn = any(isinstance(module, PostShift) for module in model.modules())
    if loaded.growth:
        growth = Growth()
        growth.restore(loaded.growth)
        scales = scale_layers(model).items()
        gammas = {name: layer.weight.detach().float().cpu() for name, layer in scales}
        growth.update(gammas, loaded.kept)
        found.not_grown = {t: growth.not_grown(threshold=t) for t in settings.thresholds}
    channel_map = observed = None
    sizes: list[int] = []
    if example is None and subject.has_data:
        raise ValueError(_EMPTY)
    if example is None:
        found.untraced = 'no input size is known: give --input-size'
    else:
        try:
            found.graph, example = subject.trace(model, example)
        except RuntimeError as error:
            found.untraced = first_line(error)
    if found.graph is not None:
        found.input_shape = tuple(example.shape)
        found.cost = model_cost(model, count_positions(model, example, subject.forward_fn))
        channel_map = map_channels(model, found.graph, example, subject.forward_fn)
    if subject.has_data and channel_map is not None and channel_map.readers:
        batches = _first(subject.batches(model), settings.num_samples, sizes)
        batches = progress(batches, f'{name}: activations')
        observed = observe_channels(model, channel_map.readers, batches, subject.forward_fn)
        found.samples = sum(sizes)
    found.layers = take_census(model, channel_map, observed)
    if subject.has_data and settings.score:
        found.scores = dict(subject.score(model))
        found.clamped_scores = _clamped_scores(
            model, subject.score, found.scores, settings.thresholds
        )
    return found


def _clamped_scores(
    model: nn.Module,
    score: Callable[[nn.Module], Mapping[str, float]],
    scores: Mapping[str, float],
    thresholds: Iterable[float],
) -> dict[float, dict[str, float]]:
    """Scores with the filters below each threshold clamped. The same filters are scored once,
    and none at all like the model as it is."""
    gammas = [layer.weight.detach() for layer in scale_layers(model).values()]
    known = {0: dict(scores)}
    found = {}
    for threshold in sorted(thresholds):
        below = sum(int(collapsed_mask(g, threshold=threshold).sum()) for g in gammas)
        if below not in known:
            with scales_clamped(model, threshold=threshold):
                known[below] = dict(score(model))
        found[threshold] = known[below]
    return found


def _first(batches: Iterable[Tensor], num_samples: int, sizes: list[int]) -> Iterator[Tensor]:
    """The first samples, by batch; how many each has goes to ``sizes``."""
    for batch in batches:
        batch = batch[: num_samples - sum(sizes)]
        sizes.append(len(batch))
        if len(batch):
            yield batch
        if sum(sizes) >= num_samples:
            return
    if not sum(sizes):
        raise ValueError(_EMPTY)
