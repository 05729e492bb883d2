"""The quickstart from data to pictures, at a size that takes seconds."""

import re
from pathlib import Path

import pytest

from mmpsbn.analysis import quickstart
from mmpsbn.datasets import write_digits_dataset

CONFIGS = Path(__file__).parents[2] / 'configs/quickstart'
SMALL = """
_base_ = {base!r}
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
train_dataloader = dict(batch_size=2)
custom_hooks = [dict(type='SparsityHook', interval=1){pruning}]
default_hooks = dict(logger=dict(interval=1))
"""
CHOOSING = ", dict(type='DemPHook', budget=dict(flops=0.8, begin=0.0, end=0.9))"


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    def write_few(out_dir, **settings):
        write_digits_dataset(out_dir, **{**settings, 'num_train': 16, 'num_val': 12})

    monkeypatch.setattr(quickstart, 'write_digits_dataset', write_few)

    def run(epochs=3, resume=False, pruning=CHOOSING):
        files = {}
        for name, hook in dict(dense='', pruned=pruning).items():
            files[name] = tmp_path / f'{name}.py'
            base = str(CONFIGS / 'retinanet_r18_psbn_digits.py')
            files[name].write_text(SMALL.format(base=base, epochs=epochs, pruning=hook))
        return quickstart.run_quickstart(
            *map(str, files.values()),
            data_root=str(tmp_path / 'digits'),
            work_dir=str(tmp_path / 'run'),
            resume=resume,
        )

    return tmp_path / 'run', run


@pytest.mark.slow
def test_the_quickstart_reports_both_detectors_and_goes_on(small_run, capsys, monkeypatch):
    folder, run = small_run
    result = run()
    dense, pruned = result['dense'], result['pruned']
    assert 0 <= dense['mAP'] <= 1 and 0 <= pruned['mAP'] <= 1
    assert abs(pruned['macs'] / dense['macs'] - 0.8) < 0.02
    assert all(arm['minutes'] > 0 and arm['step_seconds'] > 0 for arm in result.values())
    for picture in ('predictions.png', 'training.png'):
        assert (folder / picture).read_bytes().startswith(b'\x89PNG')
    said = capsys.readouterr().out
    left = float(re.search(r'MACs of an image, M +\S+ +\S+ +(\S+)', said)[1])
    assert left == pytest.approx(pruned['macs'] / dense['macs'], abs=0.005)
    assert 'COCO mAP' in said and str(folder / 'training.png') in said
    # the score is of the nets, since a killed run may have logged none
    scores = iter([{'coco/bbox_mAP': 0.25}, {}])
    monkeypatch.setattr(quickstart.ConfigSubject, 'score', lambda *_: next(scores))
    result = run(epochs=4, resume=True)
    assert [result[name]['mAP'] for name in ('dense', 'pruned')] == [0.25, 0.0]
    log = (folder / 'pruned/train.log').read_text()
    assert 'resumed epoch: 3' in log and (folder / 'dense/epoch_4.pth').exists()


def test_a_training_that_fails_is_named_with_its_log(small_run):
    folder, run = small_run
    with pytest.raises(RuntimeError, match=f'see the end of {folder}/pruned/train.log$'):
        run(pruning=", dict(type='NoSuchHook')")
    assert 'NoSuchHook' in (folder / 'pruned/train.log').read_text()
