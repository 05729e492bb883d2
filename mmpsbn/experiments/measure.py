"""What is measured on the trained model of an arm."""

import copy
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..analysis.logs import box_map, read_runs
from ..commands.model_files import load_model
from ..engine.onnx_file import one_thread_session
from ..engine.openmmlab import example_inputs, forward_tensors, model_cfg_of, step_seconds
from ..functional.activations import ActivationStatistics, activation_statistics
from ..functional.statistics import share_above
from ..pruning import trace_channel_graph
from ..pruning.census import LayerChannels, map_channels, observe_channels, take_census
from ..pruning.cost import count_positions, model_cost
from ..pruning.criteria import collapsed_channels, keep_mask_of
from ..pruning.graph import ChannelGraph
from ..pruning.prune import prune_channels


def final_checkpoint(work_dir: Path, config: Config) -> Path:
    """Of a training by epochs that has ended."""
    return work_dir / f'epoch_{config.train_cfg.max_epochs}.pth'


def classes_of(config: Config) -> int:
    """Of a classifier or a detector with one stage."""
    model = config.model
    return (model.head if 'head' in model else model.bbox_head).num_classes


class TrainedArm:
    """A work folder whose training has ended.

    Attributes:
        config: of the arm.
        classes: how many there are.
        model: in eval mode, with the weights and, if it was pruned, the structure of the end.
    """

    def __init__(self, work_dir: Path):
        self.config = Config.fromfile(str(work_dir / 'config.py'))
        self.classes = classes_of(self.config)
        self._work_dir = work_dir
        self._checkpoint = str(final_checkpoint(work_dir, self.config))
        loaded = load_model(self.config, self._checkpoint)
        self._plan = loaded.plan
        self.model = loaded.model.to('cuda' if torch.cuda.is_available() else 'cpu')
        self._test = self._loader('val')  # reads the pictures once

    @torch.no_grad()
    def top1(self) -> float:
        """Accuracy on the test images, in %."""
        hits = [
            int(sample.pred_label == sample.gt_label)
            for batch in self._test
            for sample in self.model.val_step(batch)
        ]
        return 100 * sum(hits) / len(hits)

    def box_map(self) -> float:
        """COCO mAP of the last validation, in [0, 1]; 0 where nothing was detected."""
        (records,) = read_runs([self._work_dir]).values()
        return box_map(records)

    def left(self) -> dict[str, float]:
        """What pruning has left of the dense net: ``macs`` and ``params``, as shares."""
        positions = count_positions(self.model, next(self._images(self._test))[:1], forward_tensors)
        now = model_cost(self.model, positions)
        dense = model_cost(self.model, positions, self._plan.shapes)
        return dict(macs=now.macs / dense.macs, params=now.params / dense.params)

    def onnx_time_left(self, rounds: int = 21) -> float:
        """Time of the pruned net in ONNX Runtime over that of the dense one, on one image and one
        thread: median over rounds in which both run in turn."""
        image = next(self._images(self._test))[:1]
        dense = MODELS.build(model_cfg_of(self.config)).to(image.device)
        sessions = [one_thread_session(net.eval(), image) for net in (dense, self.model)]
        feed, ratios = dict(inputs=image.cpu().numpy()), []
        for _ in range(rounds):
            seconds = []
            for session in sessions:
                start = time.perf_counter()
                session.run(None, feed)
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
        return statistics.median(ratios)

    def census(self) -> dict[str, LayerChannels]:
        """The channels of all norm layers, with their activations over the training images, not
        augmented."""
        graph, image = self._trace()
        channel_map = map_channels(self.model, graph, image, forward_tensors)
        images = self._images(self._loader('train'))
        observed = observe_channels(self.model, channel_map, images, forward_tensors)
        return take_census(self.model, channel_map, observed)

    @torch.no_grad()
    def relus_off(self) -> float:
        """The share of ReLUs, by channel, that are 0 on more than 99 % of the pixels of the test
        images (Frankle et al. section 5). Each call of a shared module is a ReLU of its own."""
        calls: list[ActivationStatistics] = []  # of one batch, in their order
        seen: list[ActivationStatistics] = []
        handles = [
            module.register_forward_hook(
                lambda module, args, output: calls.append(
                    activation_statistics(output, channel_dim=1)
                )
            )
            for module in self.model.modules()
            if isinstance(module, nn.ReLU)
        ]
        for images in self._images(self._test):
            calls.clear()
            forward_tensors(self.model, images)
            seen = [a.merged(b) for a, b in zip(seen, calls)] if seen else calls.copy()
        for handle in handles:
            handle.remove()
        return share_above(torch.cat([s.zero_share() for s in seen]), threshold=0.99)

    def remove_collapsed(self, threshold: float) -> float:
        """Remove every filter of a convolution with |gamma| < ``threshold``, beta and all, but
        for the last one of a layer.

        Returns:
            The share of the weights of convolutions that went.
        """
        before = self._convolution_weights()
        graph, image = self._trace()
        keep_masks = {
            name: keep_mask_of(
                group,
                torch.zeros(group.channels),
                collapsed_channels(self.model, group, threshold=threshold),
                min_channels=1,
                round_to=1,
            )
            for name, group in graph.groups.items()
            if isinstance(self.model.get_submodule(group.writers[0].layer), nn.Conv2d)
        }
        prune_channels(
            self.model,
            graph.groups,
            keep_masks,
            batch=image,
            forward_fn=forward_tensors,
            tolerance=math.inf,  # what this changes is what is to be measured
        )
        return 1 - self._convolution_weights() / before

    def removed(self) -> dict[str, float]:
        """What pruning during training has removed, as shares of the dense net: ``weights`` of
        all layers with MACs, ``channels`` of convolutions but those in shortcuts,
        ``macs``."""
        positions = count_positions(self.model, next(self._images(self._test))[:1], forward_tensors)
        left = model_cost(self.model, positions)
        dense = model_cost(self.model, positions, self._plan.shapes)
        channels = [
            (len(layer.weight), self._plan.shapes.get(f'{name}.weight', layer.weight.shape)[0])
            for name, layer in self.model.named_modules()
            if isinstance(layer, nn.Conv2d) and 'downsample' not in name
        ]
        channels_left, dense_channels = map(sum, zip(*channels))
        return dict(
            weights=1 - sum(left.weights_of.values()) / sum(dense.weights_of.values()),
            channels=1 - channels_left / dense_channels,
            macs=1 - left.macs / dense.macs,
        )

    def speedup(self, rounds: int = 21) -> float:
        """How many times as fast as the dense net the net of the end trains: median over rounds
        of the seconds of one training step of each, measured side by side: processor time, which
        other jobs hardly change, or wall clock on a GPU and with several threads. The arm's own
        weights stay as they are."""
        batch = next(iter(self._loader('train')))
        dense = MODELS.build(model_cfg_of(self.config)).to(next(self.model.parameters()).device)
        nets = dense, copy.deepcopy(self.model)
        wrappers = [build_optim_wrapper(net.train(), self.config.optim_wrapper) for net in nets]
        wall = torch.cuda.is_available() or torch.get_num_threads() > 1  # or threads add up
        clock = time.perf_counter if wall else time.process_time
        ratios = []
        for _ in range(rounds):
            before, now = (step_seconds(*of, clock) for of in zip(nets, [batch] * 2, wrappers))
            ratios.append(before / now)
        return statistics.median(ratios)

    def train_seconds(self) -> float:
        """Wall clock of all iterations, prune events included; not that of validation, of
        checkpoints and of what an interruption lost."""
        return float(self._history('time').data[0].sum())

    def train_loss(self) -> float:
        """Mean of the last epoch."""
        return float(self._history('loss').mean(len(self._loader('train'))))

    def _history(self, scalar: str) -> HistoryBuffer:
        """Of all iterations."""
        hub = CheckpointLoader.load_checkpoint(self._checkpoint)['message_hub']
        return hub['log_scalars'][f'train/{scalar}']

    def _convolution_weights(self) -> int:
        layers = (m for m in self.model.modules() if isinstance(m, nn.Conv2d))
        return sum(layer.weight.numel() for layer in layers)

    def _trace(self) -> tuple[ChannelGraph, Tensor]:
        """The channel graph, and the image it was traced on."""
        image = next(self._images(self._test))[:1]
        return trace_channel_graph(self.model, image, forward_tensors), image

    def _images(self, loader: DataLoader) -> Iterator[Tensor]:
        for batch in loader:
            yield example_inputs(self.model, batch, len(batch['inputs']))

    def _loader(self, split: str) -> DataLoader:
        return Runner.build_dataloader(self.config[f'{split}_dataloader'], seed=0)
