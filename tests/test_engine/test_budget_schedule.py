"""When the cuts of a budget happen."""

import re

import pytest
import torch
from torch import nn

from mmpsbn.engine.demp.budget_schedule import LEAST_STEPS, BudgetSchedule, EarlyCropTiming
from mmpsbn.engine.demp.settings import BudgetSettings


def schedule(iters, iters_per_step=1, *, finetunes=False, **settings):
    settings = BudgetSettings(**(dict(flops=0.5) | settings))
    return BudgetSchedule.of_run(
        settings, finetunes=finetunes, iters=iters, iters_per_step=iters_per_step
    )


def test_cuts_are_even_and_the_last_is_at_the_end():
    cuts = schedule(1000, begin=0.1, end=0.5, cuts=4)
    assert cuts.events == (200, 300, 400, 500)
    assert [cuts.share(event) for event in cuts.events] == [0.25, 0.5, 0.75, 1.0]
    assert [cuts.next_event(step) for step in (0, 199, 200, 499, 500)] == [200, 200, 300, 500, None]


def test_of_begin_and_end_each_has_a_default_of_its_own():
    assert schedule(1000, end=0.9, cuts=1).events == (900,)
    assert BudgetSettings(flops=0.5, end=0.9).window(finetunes=False) == (0.2, 0.9)
    assert BudgetSettings(flops=0.5, begin=0.05).window(finetunes=True) == (0.05, 0.1)
    with pytest.raises(
        ValueError, match='got 0.3 and 0.1; end is 0.1 by default in a run with load_from: set it'
    ):
        schedule(1000, begin=0.3, finetunes=True)
    with pytest.raises(
        ValueError, match='got 0.2 and 0.15; begin is 0.2 by default in a run without load_from'
    ):
        schedule(1000, end=0.15)
    assert BudgetSettings(flops=0.5, begin=0.55).window(finetunes=False) == (0.55, 0.6)
    with pytest.raises(ValueError, match=r'got 0.0 and 0.95'):
        BudgetSettings(flops=0.5, end=0.95)


@pytest.mark.parametrize('iters_per_step', [1, 4])
@pytest.mark.parametrize('finetunes, begin, end', [(True, 0, 0.1), (False, 0.2, 0.6)])
@pytest.mark.parametrize('iters', [200, 390, 1_800, 90_000])
def test_every_cut_has_ten_optimizer_steps_before_it(iters, finetunes, begin, end, iters_per_step):
    iters *= iters_per_step
    cuts = schedule(iters, iters_per_step, finetunes=finetunes)
    gaps = [b - a for a, b in zip((begin * iters, *cuts.events), cuts.events)]
    assert min(gaps) >= LEAST_STEPS * iters_per_step
    assert cuts.events[-1] == pytest.approx(end * iters, abs=0.5)
    room = round((end - begin) * iters / iters_per_step)
    assert len(cuts.events) == min(room // 10, 20) >= 2


@pytest.mark.parametrize('iters_per_step', [1, 3])
@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(finetunes=True),
        dict(cuts=7),
        dict(begin=0.25, end=0.9),
        dict(begin=0.3, end=0.37, cuts=1),
    ],
)
def test_the_run_that_the_error_asks_for_is_long_enough_and_no_shorter_one_is(
    settings, iters_per_step
):
    with pytest.raises(ValueError, match='train for') as refusal:
        schedule(10, iters_per_step, **settings)
    needed = int(re.search(r'train for (\d+) iterations or more', str(refusal.value))[1])
    schedule(needed, iters_per_step, **settings)
    with pytest.raises(ValueError, match=f'train for {needed} iterations'):
        schedule(needed - 1, iters_per_step, **settings)


def test_the_error_says_what_there_is_no_room_for():
    with pytest.raises(ValueError) as refusal:
        schedule(40)
    assert str(refusal.value) == (
        'budget flops=0.5: a run of 40 iterations has no room for 2 cuts with 10 optimizer steps '
        'before each between 0.2 and 0.6 of it; train for 50 iterations or more'
    )
    with pytest.raises(ValueError, match='for 9 cuts .* or ask for fewer cuts'):
        schedule(100, cuts=9)


@pytest.mark.parametrize(
    'settings, reconstructs',
    [
        (dict(), True),
        (dict(score='random'), True),
        (dict(reconstruct=False), False),
        (dict(score='snap', timing='start'), False),
        (dict(score='cropit', timing='early'), False),
    ],
)
def test_methods_of_others_do_not_reconstruct(settings, reconstructs):
    assert BudgetSettings(flops=0.5, **settings).reconstructs is reconstructs


# --- at EarlyCroP's time -------------------------------------------------------------------------


def test_an_epoch_that_moves_nothing_does_not_count_and_the_last_one_always_does():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, 4.0]])
    early = EarlyCropTiming(model, left=0.3, epoch=10, iters=50)
    assert not early.has_come(model, 10)
    model.weight.data += torch.tensor([[0.0, 2.0]])
    assert not early.has_come(model, 20)  # 2 / 5
    model.weight.data += torch.tensor([[0.0, 1.0]])
    after = EarlyCropTiming(model, left=0.3, epoch=10, iters=50)
    after.restore(early.state())
    assert early.has_come(model, 30) and after.has_come(model, 30)  # 1 / 5
    assert early.next_event(29) is early.next_event(30) is None
    never = EarlyCropTiming(model, left=0.3, epoch=10, iters=50)
    assert [never.next_event(step) for step in (0, 9, 10, 39, 40)] == [10, 10, 20, 40, None]
    assert not never.has_come(model, 30) and never.has_come(model, 40)
    with pytest.raises(ValueError, match="'early' .* none of 10 .* train for 12 iterations"):
        EarlyCropTiming(model, left=0.3, epoch=10, iters=11)
    EarlyCropTiming(model, left=0.3, epoch=10, iters=12)


def test_what_is_frozen_or_trained_later_takes_no_others_place():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for layer, value in zip(model, (-1.0, 1.0)):
        nn.init.constant_(layer.weight, value)
        nn.init.constant_(layer.bias, value)
    model[1].bias.requires_grad_(False)
    far, near = (EarlyCropTiming(model, left=left, epoch=10, iters=50) for left in (0.31, 0.29))
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(True)
    model[1].weight.data[0, 0] += 0.3 * 10**0.5  # times the norm of the ten that are trainable
    resumed = EarlyCropTiming(model, left=0.31, epoch=10, iters=50)
    resumed.restore(far.state())
    assert far.has_come(model, 10) and resumed.has_come(model, 10)
    assert not near.has_come(model, 10)


def test_the_ranks_decide_together(monkeypatch):
    model = nn.Linear(2, 1)
    early = EarlyCropTiming(model, left=0.3, epoch=10, iters=50)
    model.weight.data += 100
    monkeypatch.setattr('mmpsbn.engine.demp.budget_schedule.of_rank_0', lambda value: 0.1)
    assert early.has_come(model, 10)
