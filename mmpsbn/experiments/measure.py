"""What is measured on the trained model of an arm."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..engine.model_files import load_model
from ..engine.models import example_inputs, forward_tensors
from ..pruning import (
    ChannelGraph,
    LayerChannels,
    map_channels,
    observe_channels,
    take_census,
    trace_channel_graph,
)


def final_checkpoint(work_dir: Path, config: Config) -> Path:
    """Of a training by epochs that has ended."""
    return work_dir / f'epoch_{config.train_cfg.max_epochs}.pth'


class TrainedArm:
    """A work folder whose training has ended.

    Attributes:
        config: of the arm.
        model: in eval mode, with the weights and, if it was pruned, the structure of the end.
        plan: what was pruned.
    """

    def __init__(self, work_dir: Path):
        self.config = Config.fromfile(str(work_dir / 'config.py'))
        self._checkpoint = str(final_checkpoint(work_dir, self.config))
        loaded = load_model(self.config, self._checkpoint)
        self.plan = loaded.plan
        self.model = loaded.model.to('cuda' if torch.cuda.is_available() else 'cpu')
        self._test = self._loader('val')  # reads the pictures once

    def top1(self) -> float:
        """Accuracy on the test images, in %."""
        hits = [
            int(sample.pred_label == sample.gt_label)
            for batch in self._test
            for sample in _predict(self.model, batch)
        ]
        return 100 * sum(hits) / len(hits)

    def images(self, split: str) -> Iterator[Tensor]:
        """The batches of a split as the model sees them, not augmented."""
        for batch in self._loader('train') if split == 'train' else self._test:
            yield example_inputs(self.model, batch, len(batch['inputs']))

    def trace(self) -> tuple[ChannelGraph, Tensor]:
        """The channel graph, and the image it was traced on."""
        image = next(self.images('test'))[:1]
        return trace_channel_graph(self.model, image, forward_tensors), image

    def census(self, split: str) -> dict[str, LayerChannels]:
        """The channels of all norm layers, with their activations over a split."""
        graph, image = self.trace()
        channel_map = map_channels(self.model, graph, image, forward_tensors)
        observed = observe_channels(self.model, channel_map, self.images(split), forward_tensors)
        return take_census(self.model, channel_map, observed)

    def train_seconds(self) -> float:
        """Wall clock of all iterations, prune events included; not that of validation, of
        checkpoints and of what an interruption lost."""
        hub = CheckpointLoader.load_checkpoint(self._checkpoint)['message_hub']
        values, counts = hub['log_scalars']['train/time'].data
        return float((values * counts).sum())

    def _loader(self, split: str) -> DataLoader:
        return Runner.build_dataloader(self.config[f'{split}_dataloader'], seed=0)


@torch.no_grad()
def _predict(model: nn.Module, batch: dict) -> list:
    return model.val_step(batch)
