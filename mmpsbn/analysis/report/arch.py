"""Any PyTorch model as the subject of a report: a callable that builds it, and its state dicts."""

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...commands.model_files import read_plain, state_dict_in
from ...pruning import trace_channel_graph
from ...pruning.forward import call_with, observing
from ...pruning.graph import ChannelGraph
from .subject import Loaded, Subject, noise_of


def load_callable(reference: str, option: str) -> Callable:
    """``FILE:CALLABLE`` -> the callable.

    The file finds modules in its own folder, as it does when Python runs it.

    Raises:
        ValueError: not of that form, not Python, or the file has no such callable.
        FileNotFoundError: no such file.
    """
    path, _, name = reference.rpartition(':')
    if not path or not name:
        raise ValueError(f'{option} must be FILE:CALLABLE, got {reference!r}')
    if not Path(path).is_file():
        raise FileNotFoundError(f'{option}: file {path!r} does not exist')
    spec = importlib.util.spec_from_file_location(f'_report_{Path(path).stem}', path)
    if spec is None:
        raise ValueError(f'{option}: {path!r} is not a .py file')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f'{option}: {path} does not load: {error}') from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f'{option}: {path} has no callable {name!r}')
    return found


class ArchSubject(Subject):
    """A model out of ``FILE:CALLABLE``, and optionally data out of another.

    Args:
        arch: the callable takes no argument and returns an nn.Module that takes one tensor.
        data: the callable takes no argument and returns an iterable of (inputs, labels), anew at
            each call; for scores the model gives logits, shape (N, classes).
        input_size: shape of one sample, without the batch; of two numbers, three channels come
            before; by default that of the data.
    """

    forward_fn = staticmethod(call_with)

    def __init__(
        self, arch: str, *, data: str | None, input_size: Sequence[int] | None, device: str
    ):
        self._build = load_callable(arch, '--arch')
        self._loader = None if data is None else load_callable(data, '--data')
        self._input_size = input_size
        self._device = device
        self.title = arch.rpartition(':')[2]
        self.has_data = data is not None

    def load(self, checkpoint: str | None) -> Loaded:
        """The model with the weights of a checkpoint; without one as it was built.

        Raises:
            ValueError: names what does not fit.
        """
        model = self._build()
        if not isinstance(model, nn.Module):
            raise ValueError(f'--arch must return an nn.Module, got {type(model).__name__}')
        if checkpoint is not None:
            state = state_dict_in(read_plain(checkpoint), checkpoint)
            try:  # what older checkpoints lack, num_batches_tracked, torch adds by itself
                model.load_state_dict(state)
            except RuntimeError as error:
                what = textwrap.shorten(str(error).splitlines()[1], 200, placeholder=' ...')
                fault = f'{checkpoint} does not fit the --arch model: {what}'
                raise ValueError(fault) from error
        return Loaded(model.eval().to(self._device), kept={})

    def example(self, model: nn.Module) -> Tensor | None:
        """Noise of the size given, else a sample of the data."""
        if self._input_size is not None:
            return noise_of(self._input_size, self._device)
        if self._loader is None:
            return None
        return next((inputs[:1] for inputs in self.batches(model)), None)

    def trace(self, model: nn.Module, example: Tensor) -> tuple[ChannelGraph, Tensor]:
        return trace_channel_graph(model, example, call_with), example

    def batches(self, model: nn.Module) -> Iterator[Tensor]:
        """Inputs on the device, batch by batch."""
        for inputs, _ in self._pairs():
            yield inputs.to(self._device)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Top-1 accuracy in percent over all the data."""
        right = total = 0
        with observing(model):
            for inputs, labels in self._pairs():
                logits = model(inputs.to(self._device))
                if not isinstance(logits, Tensor) or logits.dim() != 2:
                    raise ValueError(
                        'top-1 accuracy needs logits of shape (N, classes) from the --arch model; '
                        'leave the scores out with --no-score'
                    )
                labels = torch.as_tensor(labels).cpu()
                if labels.shape != logits.shape[:1]:
                    raise ValueError(
                        f'top-1 accuracy needs one label a sample, shape ({len(logits)},), got '
                        f'{tuple(labels.shape)}; leave the scores out with --no-score'
                    )
                right += int((logits.argmax(1).cpu() == labels).sum())
                total += len(labels)
        if not total:
            raise ValueError('the data set is empty: nothing to score; leave out --data')
        return {'accuracy/top1': 100 * right / total}

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader = self._loader()
        if not isinstance(loader, Iterable):
            raise ValueError(
                f'--data must return an iterable of (inputs, labels), got {type(loader).__name__}'
            )
        for batch in loader:
            if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
                raise ValueError(
                    f'--data must yield pairs (inputs, labels), got {type(batch).__name__}'
                )
            if not isinstance(batch[0], Tensor):
                raise ValueError(
                    f'--data must yield inputs as one tensor, got {type(batch[0]).__name__}'
                )
            yield batch
