"""An mmdet or mmpretrain config as the subject of a report."""

import copy
import io
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, redirect_stdout

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import EVALUATOR
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from ...commands.data_paths import check_data_paths
from ...commands.launch import first_line, type_name
from ...commands.model_files import draw_untrained, file_name, load_model
from ...engine.input_size import pipeline_size
from ...engine.openmmlab import batch_loss, example_inputs, forward_tensors, trace_at_any_size
from ...engine.runner_parts import epoch_length
from ...engine.sparsity.forecast import collapse_forecast, gamma_lrs
from ...engine.sparsity.settings import ActivationSettings
from ...engine.sparsity.sparsity_hook import DEFAULT_MEASURES
from ...pruning.forward import observing
from ...pruning.graph import ChannelGraph
from ...pruning.sparsity import layers_at_zero, scale_layers
from .subject import Course, Loaded, Subject, noise_of, progress
from .theorem import gradient_noise

# Batches that the variance of a gradient is estimated from: its relative error is that of a
# chi-square over (batches - 1) x channels degrees of freedom, a few percent.
_NOISE_BATCHES = 16


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
        done = loaded.iterations
        return Loaded(
            loaded.model.to(self._device),
            kept={
                name: loaded.plan.kept[f'{name}.weight'][0]
                for name in scale_layers(loaded.model)
                if 0 in loaded.plan.kept.get(f'{name}.weight', {})
            },
            step=None if done is None else done // self._accumulated(),
            epoch_length=loaded.epoch_length,
            growth=loaded.growth,
        )

    def begins_at_zero(self) -> dict[str, int]:
        """Layer whose gamma is 0 in a training from scratch -> its channels; none in a part of the
        model that begins with pretrained weights, and none where the initialisation fails."""
        try:
            return layers_at_zero(draw_untrained(self._cfg))
        except Exception:  # whatever a model's own init_weights asks for: no report ends over it
            return {}

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
        return noise_of(size, self._device)

    def trace(self, model: nn.Module, example: Tensor) -> tuple[ChannelGraph, Tensor]:
        return trace_at_any_size(model, example)

    def batches(self, model: nn.Module) -> Iterator[Tensor]:
        """Test images as the model sees them."""
        for data_batch in self._loader('test'):
            yield example_inputs(model, data_batch, len(data_batch['inputs']))

    def score(self, model: nn.Module) -> dict[str, float]:
        """The metrics of the config's test evaluator."""
        if self._cfg.get('test_evaluator') is None:
            raise ValueError(f'{self._cfg.filename} has no test_evaluator; give --no-score')
        settings = copy.deepcopy(self._cfg.test_evaluator)
        if not (isinstance(settings, dict) and 'metrics' in settings):
            settings = dict(metrics=settings)
        loader = self._loader('test')
        with observing(model), _silent():
            evaluator = EVALUATOR.build(dict(type='Evaluator') | settings)
            evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
            for data_batch in progress(loader, 'score'):
                samples = model.test_step(data_batch)
                evaluator.process(data_samples=samples, data_batch=data_batch)
            metrics = evaluator.evaluate(len(loader.dataset))
        return {name: float(value) for name, value in metrics.items() if _is_scalar(value)}

    def gradient_noise(self, loaded: Loaded) -> dict[str, float] | None:
        """Of batches of the training data, with a copy of the model; None without data. What
        one step sees: the mean over the batches that are accumulated for it."""
        if not self.has_data:
            return None
        set_random_seed(0)  # augmentations draw from the global generators
        loader = self._train_loader()
        if loader is None:
            return None
        model = copy.deepcopy(loaded.model).train()
        losses = (batch_loss(model, batch) for batch in itertools.islice(loader, _NOISE_BATCHES))
        total = min(_NOISE_BATCHES, epoch_length(loader) or _NOISE_BATCHES)
        of_batch = gradient_noise(model, progress(losses, 'gradient noise', total))
        return {name: c / math.sqrt(self._accumulated()) for name, c in of_batch.items()}

    def course(self, loaded: Loaded, *, threshold: float) -> Course | None:
        """The forecast of the run, from the config, the checkpoint's gammas and the length of
        an epoch, which the checkpoint or the training data tells; None if neither does."""
        length = loaded.epoch_length
        if length is None:
            loader = self._train_loader()
            length = None if loader is None else epoch_length(loader)
        if length is None or self._cfg.get('optim_wrapper') is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                runner = planned_runner(
                    self._cfg, loaded.model, epoch_length=length, work_dir=folder
                )
            except Exception as error:  # whatever a constructor wants: no report ends over it
                what = f'{type(error).__name__}: {first_line(error)}'
                sentence = f'forecast: none, as the training settings do not build here ({what})'
                return Course(sentence, None)
            sentence = collapse_forecast(runner, threshold=threshold)
            optimizer = getattr(runner.optim_wrapper, 'optimizer', None)  # None: several
            lrs = gamma_lrs(runner) if type(optimizer) is SGD else None
            if lrs is not None:
                lrs = tuple(lr / (1 - optimizer.defaults['momentum']) for lr in lrs)
            return Course(sentence, lrs)

    def log_looks_at(self) -> tuple[str, float] | None:
        """By the config's SparsityHook; None without one that counts dead channels."""
        for hook in self._cfg.get('custom_hooks') or ():
            measures = hook.get('measures', DEFAULT_MEASURES)
            if type_name(hook.get('type')) != 'SparsityHook' or 'dead' not in measures:
                continue
            look = hook.get('activations') or {}
            count = look.get('num_batches', ActivationSettings.num_batches)
            batches = f'{count} batch{"" if count == 1 else "es"}'
            if look.get('loader') is None:
                data = f'the last {batches} of the training data'
            else:
                data = f'the first {batches} of its own loader'
            return data, look.get('eps', ActivationSettings.eps)
        return None

    def _accumulated(self) -> int:
        """Iterations to an optimizer step."""
        return (self._cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)

    def _train_loader(self) -> DataLoader | None:
        """None without training data: a report of test data does not need it."""
        if self._cfg.get('train_dataloader') is None:
            return None
        try:
            check_data_paths(self._cfg, splits=('train',))
        except FileNotFoundError:
            return None
        return self._loader('train')

    def _loader(self, split: str) -> DataLoader:
        with _silent():
            return Runner.build_dataloader(self._cfg[f'{split}_dataloader'], seed=0)


def planned_runner(cfg: Config, model: nn.Module, *, epoch_length: int, work_dir: str) -> Runner:
    """The run that a config describes, of a model that exists, ready to start and never started:
    with optimizer and schedules, as ``train()`` builds them.

    No data is read and no hook of the config runs, so it serves where the training data is not;
    ``epoch_length`` is in iterations, ``work_dir`` for MMEngine's log file. Raises ValueError
    without training settings.
    """
    for key in ('train_cfg', 'optim_wrapper', 'train_dataloader'):
        if cfg.get(key) is None:
            raise ValueError(f'{cfg.filename} has no {key}')
    batch_size = cfg.train_dataloader.get('batch_size') or 1
    runner = Runner(
        model=model,
        work_dir=work_dir,
        train_dataloader=DataLoader(range(epoch_length * batch_size), batch_size),
        train_cfg=dict(cfg.train_cfg),
        optim_wrapper=_without_amp(cfg.optim_wrapper),
        param_scheduler=cfg.get('param_scheduler'),
        auto_scale_lr=cfg.get('auto_scale_lr'),
        default_scope=cfg.get('default_scope', 'mmengine'),
        log_level='ERROR',
        experiment_name=f'planned_{id(model)}',
    )
    runner.train_loop  # noqa: B018  builds it: what is below asks for the length of the run
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def _without_amp(wrapper: dict) -> dict:
    """The same optimizer without mixed precision, which cannot be built without a GPU."""
    if type_name(wrapper.get('type', 'OptimWrapper')) != 'AmpOptimWrapper':
        return wrapper
    own = ('type', 'loss_scale', 'dtype', 'use_fsdp')
    return {key: value for key, value in wrapper.items() if key not in own}


def _silent() -> AbstractContextManager:
    """Within, nothing is printed: pycocotools does, tables too, for each score anew."""
    return redirect_stdout(io.StringIO())


def _is_scalar(value) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
