"""What the log says of a prune event."""

import re

import pytest
import torch
from test_sparsity_hook import scalars, train
from toy import kill_channels

QUIET = dict(penalty=dict(peak=0.0), noise=dict(peak_std=0.0))


def kill(runner):
    """Three channels are dead, the next one is a constant 0.5."""
    norm = runner.model.blocks[0].bn1
    kill_channels(norm, [0, 1, 2])
    with torch.no_grad():
        norm.weight[3], norm.bias[3] = 0, 0.5
        norm.weight.requires_grad_(False), norm.bias.requires_grad_(False)


@pytest.mark.parametrize(
    'settings, said',
    [
        (dict(), '3 channels removed (3 dead on 16 samples), '),
        (
            dict(criterion='collapsed', fold_padding=True, tolerance=10.0),
            '4 channels removed (3 dead on 16 samples, 1 collapsed (|gamma| < 0.001)), ',
        ),
        (
            # of 12 channels 3 are dead, and 9 are nearest to 8
            dict(round_to=8, allow_live=True),
            '4 channels removed (3 dead on 16 samples, 1 live), ',
        ),
        (dict(min_channels=12), '0 channels removed (none dead on 16 samples), '),
    ],
)
def test_what_was_removed_is_called_what_it_was(tmp_path, settings, said):
    hook = dict(type='DemPHook', prune=dict(interval=4, num_samples=16, **settings), **QUIET)
    _, messages = train(tmp_path, [hook], prepare=kill, epochs=1)
    (event,) = [m for m in messages if m.startswith('prune event')]
    assert said in event


@pytest.mark.parametrize('budget, scale', [(None, None), (dict(params=0.5), 1.0)])
def test_the_log_line_shows_strengths_that_its_four_decimals_can_hold(tmp_path, budget, scale):
    hook = dict(
        type='DemPHook',
        schedule=dict(type='constant'),
        prune=dict(interval=4),
        budget=budget,  # its peaks are 1e-3 and 5e-5
    )
    runner, messages = train(tmp_path, [hook], prepare=lambda runner: None, epochs=1)
    line = next(m for m in messages if 'Epoch(train)' in m)
    found = dict(re.findall(r'demp/(\w+): (\S+)', line))
    expected = dict(strength='1.0000', channels_left='1.0000', macs_left='1.0000')
    assert found == expected | ({} if scale is None else dict(penalty_scale='1.0000'))
    assert scalars(runner, 'demp/strength')[0]['demp/strength'] == 1
