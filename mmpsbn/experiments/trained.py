"""The work folder of a trained arm, and what takes its model to measure."""

import copy
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..analysis.logs import PLACE, read_scalars
from ..commands.model_files import load_model
from ..engine.onnx_file import one_thread_session
from ..engine.openmmlab import example_inputs, forward_tensors, model_cfg_of, step_seconds
from ..functional.activations import ActivationStatistics, activation_statistics
from ..functional.statistics import COLLAPSED_GAMMA
from ..layers import alpha_of
from ..pruning import trace_channel_graph
from ..pruning.census import LayerChannels, map_channels, take_census
from ..pruning.cost import count_positions, model_cost
from ..pruning.lossless import collapsed_channels, keep_mask_of
from ..pruning.observation import observe_channels
from ..pruning.prune import prune_channels
from ..pruning.sparsity import scale_layers
from .folder import read_json

_ROUNDS = 21  # of timing


def final_checkpoint(work_dir: Path, config: Config) -> Path:
    """Of a training by epochs that has ended."""
    return work_dir / f'epoch_{config.train_cfg.max_epochs}.pth'


class TrainedArm:
    """A work folder whose training has ended. Nothing here changes its model.

    Attributes:
        config: of the arm.
        model: in eval mode, with the weights and, if it was pruned, the structure of the end.
    """

    def __init__(self, work_dir: Path):
        self.config = Config.fromfile(str(work_dir / 'config.py'))
        self._work_dir = work_dir
        self._checkpoint = str(final_checkpoint(work_dir, self.config))
        loaded = load_model(self.config, self._checkpoint)
        self._plan = loaded.plan
        self.model = loaded.model.to('cuda' if torch.cuda.is_available() else 'cpu')
        self._test = self._loader('val')  # reads the pictures once

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """What RoundsHook has written of each round, if there was one."""
        path = self._work_dir / 'rounds.json'
        return read_json(path) if path.exists() else []

    def scales_by_epoch(self, index: int) -> Iterator[dict[str, Tensor]]:
        """``gamma`` and ``beta`` of a norm layer, as counted among those of the backbone, after
        each epoch of those that are kept."""
        layers = [name for name in scale_layers(self.model) if name.startswith('backbone.')]
        name = layers[index]
        alpha = alpha_of(self.model.get_submodule(name).bias) or 0.0
        files = self._work_dir.glob('epoch_*.pth')
        for path in sorted(files, key=lambda path: int(path.stem.removeprefix('epoch_'))):
            loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
            weights = loaded['state_dict']
            yield dict(gamma=weights[f'{name}.weight'], beta=weights[f'{name}.bias'] - alpha)

    def looks(self, name: str) -> list[dict[str, Any]]:
        """What the SparsityHook of a name has logged at each look at activations, in their order;
        also by processes that were interrupted."""
        found = {
            record['iter']: record
            for log in sorted(self._work_dir.glob(f'*/{PLACE}'))
            for record in read_scalars(log)
            if f'sparsity/{name}/dead_fraction' in record
        }
        return list(found.values())

    def ensemble(self) -> float:
        """Accuracy of the snapshots together, in %."""
        return read_json(self._work_dir / 'ensemble.json')['metrics']['accuracy/top1']

    @cached_property
    def top1(self) -> float:
        """Accuracy on the test images, in %."""
        return self.accuracy()

    @torch.no_grad()
    def accuracy(self, model: nn.Module | None = None) -> float:
        """On the test images, in %, of the arm's own model or of another one."""
        hits = [
            int(sample.pred_label == sample.gt_label)
            for batch in self._test
            for sample in (model or self.model).val_step(batch)
        ]
        return 100 * sum(hits) / len(hits)

    @torch.no_grad()
    def box_map(self) -> float:
        """COCO mAP on the test images, in [0, 1]; 0 where nothing was detected, of which CocoMetric
        reports nothing. Not read of the log: a training that was killed in its last validation
        goes on without one."""
        evaluator = Evaluator(self.config.val_evaluator)
        evaluator.dataset_meta = self._test.dataset.metainfo
        for batch in self._test:
            evaluator.process(self.model.val_step(batch), batch)
        return evaluator.evaluate(len(self._test.dataset)).get('coco/bbox_mAP', 0.0)

    @cached_property
    def left(self) -> dict[str, float]:
        """What pruning in training has left of the dense net, as shares: ``macs``, ``params``,
        ``weights`` of all layers with MACs, ``channels`` of convolutions but those in
        shortcuts."""
        positions = count_positions(self.model, self._image, forward_tensors)
        now = model_cost(self.model, positions)
        dense = model_cost(self.model, positions, self._plan.shapes)
        channels = [
            (len(layer.weight), self.dense_channels(name))
            for name, layer in self.model.named_modules()
            if isinstance(layer, nn.Conv2d) and 'downsample' not in name
        ]
        channels_left, dense_channels = map(sum, zip(*channels))
        return dict(
            weights=sum(now.weights_of.values()) / sum(dense.weights_of.values()),
            channels=channels_left / dense_channels,
            macs=now.macs / dense.macs,
            params=now.params / dense.params,
        )

    def dense_channels(self, layer: str) -> int:
        """How many a layer has where nothing is pruned."""
        now = self.model.get_submodule(layer).weight.shape
        return self._plan.shapes.get(f'{layer}.weight', now)[0]

    def onnx_time_left(self) -> float:
        """Processor time of the pruned net in ONNX Runtime over that of the dense one, on one image
        and one thread: median over rounds in which both run in turn."""
        nets = self.dense().eval(), self.model
        dense, own = (one_thread_session(net, self._image) for net in nets)
        feed = dict(inputs=self._image.cpu().numpy())

        def seconds(session) -> float:
            start = time.process_time()
            session.run(None, feed)
            return time.process_time() - start

        rounds = [(seconds(dense), seconds(own)) for _ in range(_ROUNDS)]
        return statistics.median(now / before for before, now in rounds)

    @cached_property
    def census(self) -> dict[str, LayerChannels]:
        """The channels of all norm layers, with their activations over the training images, not
        augmented."""
        graph = trace_channel_graph(self.model, self._image, forward_tensors)
        channel_map = map_channels(self.model, graph, self._image, forward_tensors)
        images = self._images(self._loader('train'))
        observed = observe_channels(self.model, channel_map.readers, images, forward_tensors)
        return take_census(self.model, channel_map, observed)

    @cached_property
    @torch.no_grad()
    def relus(self) -> list[Tensor]:
        """Pr[a = 0] over the pixels of the test images, by channel, of each ReLU in the order of
        the calls (Frankle et al. section 5). Each call of a shared module is a ReLU of its own."""
        calls: list[ActivationStatistics] = []  # of one batch
        seen: list[ActivationStatistics] = []

        def watch(module, args, output) -> None:
            calls.append(activation_statistics(output, channel_dim=1))

        with ExitStack() as hooks:
            for module in self.model.modules():
                if isinstance(module, nn.ReLU):
                    hooks.enter_context(module.register_forward_hook(watch))
            for images in self._images(self._test):
                calls.clear()
                forward_tensors(self.model, images)
                seen = [a.merged(b) for a, b in zip(seen, calls)] if seen else calls.copy()
        return [of.zero_share().cpu() for of in seen]

    @cached_property
    def without_collapsed(self) -> nn.Module:
        """The net without the filters of convolutions that have collapsed, beta and all, but for
        the last one of a layer."""
        model = copy.deepcopy(self.model)
        graph = trace_channel_graph(model, self._image, forward_tensors)
        keep_masks = {
            name: keep_mask_of(
                group,
                torch.zeros(group.channels),
                collapsed_channels(model, group, threshold=COLLAPSED_GAMMA),
                min_channels=1,
                round_to=1,
            )
            for name, group in graph.groups.items()
            if isinstance(model.get_submodule(group.writers[0].layer), nn.Conv2d)
        }
        prune_channels(
            model,
            graph.groups,
            keep_masks,
            batch=self._image,
            forward_fn=forward_tensors,
            tolerance=math.inf,  # what this changes is what is to be measured
        )
        return model

    def speedup(self) -> float:
        """How many times as fast as the dense net the net of the end trains: median over rounds
        of the seconds of one training step of each, measured side by side: processor time, which
        other jobs hardly change, or wall clock on a GPU and with several threads."""
        batch = next(iter(self._loader('train')))
        nets = self.dense(), copy.deepcopy(self.model)
        wrappers = [build_optim_wrapper(net.train(), self.config.optim_wrapper) for net in nets]
        dense, own = zip(nets, [batch] * 2, wrappers)
        wall = torch.cuda.is_available() or torch.get_num_threads() > 1  # or threads add up
        clock = time.perf_counter if wall else time.process_time
        return statistics.median(
            step_seconds(*dense, clock) / step_seconds(*own, clock) for _ in range(_ROUNDS)
        )

    def train_seconds(self) -> float:
        """Wall clock of all iterations, prune events included; not that of validation, of
        checkpoints and of what an interruption lost."""
        return sum(self.scalars('time'))

    def train_loss(self) -> float:
        """Mean of the last epoch."""
        return statistics.fmean(self.scalars('loss')[-len(self._loader('train')) :])

    def scalars(self, name: str) -> list[float]:
        """What training has logged under a name in each iteration; empty where it has not."""
        hub = CheckpointLoader.load_checkpoint(self._checkpoint)['message_hub']
        history = hub['log_scalars'].get(f'train/{name}')
        return [] if history is None else history.data[0].tolist()

    def dense(self) -> nn.Module:
        """The net as it was before training."""
        device = next(self.model.parameters()).device
        return MODELS.build(model_cfg_of(self.config)).to(device)

    @cached_property
    def _image(self) -> Tensor:
        return next(self._images(self._test))[:1]

    def _images(self, loader: DataLoader) -> Iterator[Tensor]:
        for batch in loader:
            yield example_inputs(self.model, batch, len(batch['inputs']))

    def _loader(self, split: str) -> DataLoader:
        return Runner.build_dataloader(self.config[f'{split}_dataloader'], seed=0)
