"""An mmdet or mmpretrain config as the subject of a report."""

import copy
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, redirect_stdout

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import EVALUATOR
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...commands.data_paths import check_data_paths
from ...commands.model_files import file_name, load_model
from ...engine.input_size import noise_images, pipeline_size
from ...engine.openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ...pruning.forward import observing
from ...pruning.graph import ChannelGraph
from ...pruning.sparsity import scale_layers
from .subject import Loaded, Subject, noise_of, progress


class ConfigSubject(Subject):
    """A config and its test data.

    Args:
        cfg: as ``launch.load_config`` gives it.
        use_data: whether the test data is looked at.
        input_size: height and width, or a whole sample's shape, to trace at; by default what
            the test pipeline resizes to.
    """

    forward_fn = staticmethod(forward_tensors)

    def __init__(
        self, cfg: Config, *, use_data: bool, input_size: Sequence[int] | None, device: str
    ):
        self._cfg = cfg
        self._device = device
        self._input_size = input_size
        self.has_data = use_data
        self.title = file_name(cfg.filename)
        MMLogger.get_instance('report', log_level='ERROR')  # the page says it all
        if use_data:
            if cfg.get('test_dataloader') is None:
                raise ValueError(f'{cfg.filename} has no test_dataloader; leave out --data')
            check_data_paths(cfg, splits=('test',))

    def load(self, checkpoint: str) -> Loaded:
        """Raises ValueError for a checkpoint that does not fit; names the first tensor."""
        loaded = load_model(self._cfg, checkpoint)
        if loaded.unused:
            raise ValueError(
                f'{checkpoint} holds {min(loaded.unused)}, which the model of '
                f'{self._cfg.filename} lacks: use the config that belongs to the checkpoint'
            )
        return Loaded(
            loaded.model.to(self._device),
            kept={
                name: loaded.plan.kept[f'{name}.weight'][0]
                for name in scale_layers(loaded.model)
                if 0 in loaded.plan.kept.get(f'{name}.weight', {})
            },
            growth=loaded.growth,
        )

    def example(self, model: nn.Module) -> Tensor | None:
        """Noise of the size that the test pipeline gives an image; None where it says none."""
        size = self._input_size
        if size is None:
            try:
                size = pipeline_size(self._cfg)
            except ValueError:
                if not self.has_data:
                    return None
                return next((batch[:1] for batch in self.batches(model)), None)
        return noise_images(model, 1, size) if len(size) == 2 else noise_of(size, self._device)

    def trace(self, model: nn.Module, example: Tensor) -> tuple[ChannelGraph, Tensor]:
        return trace_at_any_size(model, example)

    def batches(self, model: nn.Module) -> Iterator[Tensor]:
        """Test images as the model sees them."""
        for data_batch in self._loader():
            yield example_inputs(model, data_batch, len(data_batch['inputs']))

    def score(self, model: nn.Module) -> dict[str, float]:
        """The metrics of the config's test evaluator."""
        if self._cfg.get('test_evaluator') is None:
            raise ValueError(f'{self._cfg.filename} has no test_evaluator; give --no-score')
        settings = copy.deepcopy(self._cfg.test_evaluator)
        if not (isinstance(settings, dict) and 'metrics' in settings):
            settings = dict(metrics=settings)
        loader = self._loader()
        with observing(model), _silent():
            evaluator = EVALUATOR.build(dict(type='Evaluator') | settings)
            evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
            for data_batch in progress(loader, 'score'):
                samples = model.test_step(data_batch)
                evaluator.process(data_samples=samples, data_batch=data_batch)
            metrics = evaluator.evaluate(len(loader.dataset))
        return {name: float(value) for name, value in metrics.items() if _is_scalar(value)}

    def _loader(self) -> DataLoader:
        with _silent():
            return Runner.build_dataloader(self._cfg.test_dataloader, seed=0)


def _silent() -> AbstractContextManager:
    """Within, nothing is printed: pycocotools does, tables too, for each score anew."""
    return redirect_stdout(io.StringIO())


def _is_scalar(value) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
