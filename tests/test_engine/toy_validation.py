"""A validation for the toy runner."""

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from toy import ToyData


@METRICS.register_module(force=True)
class ToyAccuracy(BaseMetric):
    """Share of samples whose label has the largest score."""

    def process(self, data_batch, data_samples):
        for scores, label in zip(data_samples, data_batch['labels']):
            self.results.append(bool(scores.argmax() == label))

    def compute_metrics(self, results):
        return dict(accuracy=sum(results) / len(results))


def validation(**val_cfg):
    """Arguments of a runner: 32 samples, others than those it trains on."""
    return dict(
        val_dataloader=dict(
            batch_size=8,
            num_workers=0,
            dataset=ToyData(seed=1),
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_cfg=val_cfg,
        val_evaluator=dict(type='ToyAccuracy'),
    )
