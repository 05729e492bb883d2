"""The quickstart from data to pictures, at a size that takes seconds."""

from pathlib import Path

import pytest

from mmpsbn.analysis import demo
from mmpsbn.datasets import write_digits_dataset

CONFIG = Path(__file__).parents[2] / 'configs/quickstart/retinanet_r18_psbn_demp_digits.py'
SMALL = """
_base_ = {base!r}
train_cfg = dict(max_epochs=2, val_interval=2)
custom_hooks = [
    dict(type='SparsityHook', interval=1),
    dict(type='DemPHook', prune=dict(interval=2, num_samples=8)),
]
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    (tmp_path / 'small.py').write_text(SMALL.format(base=str(CONFIG)))

    def write_few(out_dir, **settings):
        write_digits_dataset(out_dir, **{**settings, 'num_train': 16, 'num_val': 12})

    monkeypatch.setattr(demo, 'write_digits_dataset', write_few)

    def run(resume=False):
        return demo.run_quickstart(
            str(tmp_path / 'small.py'),
            data_root=str(tmp_path / 'digits'),
            work_dir=str(tmp_path / 'run'),
            resume=resume,
        )

    return tmp_path / 'run', run


def test_the_quickstart_reports_what_it_did(small_run, capsys):
    folder, run = small_run
    result = run()
    assert 0 <= result['mAP'] <= 1
    assert 0 < result['macs_left'] <= 1 and result['step_time_left'] > 0
    assert (result['channels_removed'] > 0) == (result['prune_events'] > 0)
    for picture in ('predictions.png', 'training.png'):
        assert (folder / picture).read_bytes().startswith(b'\x89PNG')
    said = capsys.readouterr().out
    assert 'COCO mAP' in said and 'MACs of an image' in said and 's after' in said
    assert 'bbox_head.cls_convs.0.bn' in said  # the sparsity table, by layer
