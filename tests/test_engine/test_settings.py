import inspect

import pytest
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

import mmpsbn  # noqa: F401
from mmpsbn.engine.demp.settings import PruneSettings
from mmpsbn.engine.sparsity.settings import ActivationSettings
from mmpsbn.pruning import prune_dead_channels


@pytest.mark.parametrize(
    'group, values, message',
    [
        ('penalty', dict(kind='ridge'), r"kind must be one of \('lasso', 'l2'\), got 'ridge'"),
        ('penalty', dict(scope='beta'), r"penalty scope must be one of .*got 'beta'"),
        ('penalty', dict(peak=-1e-3), 'penalty peak must be a finite number >= 0, got -0.001'),
        ('penalty', dict(peak=float('nan')), 'penalty peak .* got nan'),
        ('penalty', dict(peak='1e-3'), "penalty peak must be a finite number >= 0, got '1e-3'"),
        ('noise', dict(peak_std=-1), 'noise peak_std must be a finite number >= 0, got -1'),
        ('noise', dict(asymmetric='no'), "asymmetric must be True or False, got 'no'"),
        ('schedule', dict(type='sawtooth'), "schedule type must be one of .*'sawtooth'"),
        ('schedule', dict(warmup=0.5, end=0.5), 'warmup .* below end=0.5, got 0.5'),
        ('schedule', dict(warmup='0.1'), 'schedule warmup must be >= 0 .* got 0.1'),
        ('schedule', 'one_cycle', r"schedule must be a dict of \['type'.*got 'one_cycle'"),
        ('prune', dict(every=3), r"prune has no \['every'\]; allowed are \['interval', "),
        ('prune', dict(interval=True), 'prune interval must be an int >= 1, got True'),
        ('prune', dict(interval=2.5), 'prune interval must be an int >= 1, got 2.5'),
        ('prune', dict(num_samples=0), 'num_samples must be an int >= 1, got 0'),
        ('prune', dict(begin='0.1'), "prune begin and end must be fractions .*, got '0.1' and 1.0"),
        ('prune', dict(begin=-0.1), '0 <= begin < end <= 1, got -0.1 and 1.0'),
        ('prune', dict(begin=0.5, end=0.5), '0 <= begin < end <= 1, got 0.5 and 0.5'),
        ('prune', dict(eps=-1), 'prune eps must be a finite number >= 0, got -1'),
        ('prune', dict(criterion='lazy'), r"one of \('dead', 'collapsed', 'never_pos"),
        (
            'prune',
            dict(allow_live=True, begin=0.95),
            'nothing live after 0.9 of the run, and begin is 0.95',
        ),
        ('prune', dict(allow_live=True, criterion='collapsed'), "goes with criterion='dead'"),
        ('prune', dict(allow_live=True, criterion='never_positive'), "got 'never_positive'"),
        (
            'prune',
            dict(on_failure='ask'),
            r"on_failure must be one of \('continue', 'stop'\), got 'ask'",
        ),
        ('budget', dict(), 'budget must be one of .* got none'),
        ('budget', dict(flops=0.5, params=0.5), r"got \['flops', 'params'\]"),
        ('budget', dict(flops=1.0), r'budget flops must be a number in \(0, 1\), got 1.0'),
        ('budget', dict(latency_ms=0), 'budget latency_ms must be a number > 0'),
        ('budget', dict(latency_ms=float('nan')), 'budget latency_ms must be a number > 0'),
        ('budget', dict(flops=0.5, device='cpu'), 'is a string that goes with a latency'),
        ('budget', dict(macs=0.5), r"budget has no \['macs'\]"),
        ('budget', dict(latency=1.5), r'budget latency must be a number in \(0, 1\), got 1.5'),
        ('budget', dict(flops=0.5, end=0.95), 'begin and end must be .* 0.9, got 0.0 and 0.95'),
        (
            'budget',
            dict(flops=0.5, reconstruct=1),
            'budget reconstruct must be True or False, got 1',
        ),
        ('budget', dict(flops=0.5, cuts=0), 'budget cuts must be an int >= 1, got 0'),
        ('budget', dict(flops=0.5, score='taylor'), "budget score must be one of .* got 'taylor'"),
    ],
)
def test_demp_hook_refuses_a_bad_value_when_it_is_built(group, values, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='DemPHook', **{group: values}))


def our_hooks():
    return [
        hook
        for hook in HOOKS.module_dict.values()
        if hook.__module__.startswith('mmpsbn.') and not issubclass(hook, CheckpointHook)
    ]


@pytest.mark.parametrize('hook', our_hooks(), ids=lambda hook: hook.__name__)
def test_an_argument_that_a_hook_lacks_is_refused_with_those_it_has(hook):
    names = list(inspect.signature(hook).parameters)
    with pytest.raises(TypeError) as error:
        HOOKS.build(dict(type=hook.__name__, colour='red'))
    assert f"{hook.__name__} has no ['colour']; allowed are {names}" in str(error.value)


@pytest.mark.parametrize(
    'hook, message',
    [
        (
            dict(type='DemPHook', budgte=dict(flops=0.5)),
            r"DemPHook has no \['budgte'\] \(did you mean 'budget'\?\); allowed are \['penalty', ",
        ),
        (
            dict(type='DemPHook', prune=dict(intervall=3, numsamples=8)),
            r"prune has no .* \(did you mean 'interval' and 'num_samples'\?\); allowed are",
        ),
    ],
)
def test_a_mistyped_name_is_shown_with_the_one_that_is_meant(hook, message):
    with pytest.raises((TypeError, ValueError), match=message):
        HOOKS.build(hook)


def test_settings_left_out_are_the_papers():
    hook = HOOKS.build(dict(type='DemPHook', penalty=dict(peak=0.5)))
    assert (hook.penalty.kind, hook.penalty.scope, hook.penalty.peak) == ('lasso', 'gamma', 0.5)
    assert hook.noise.peak_std == 5e-5 and hook.noise.asymmetric
    assert (hook.schedule.type, hook.schedule.warmup, hook.schedule.end) == ('one_cycle', 0.1, 1.0)
    assert hook.pruner.settings.interval == 5000
    assert hook.pruner.settings.num_samples == 512


def test_what_counts_as_dead_is_one_number():
    of_api = inspect.signature(prune_dead_channels).parameters['eps'].default
    assert PruneSettings().eps == ActivationSettings().eps == of_api == 0


@pytest.mark.parametrize(
    'settings, steps, events',
    [
        (dict(interval=3), 10, [3, 6, 9]),
        (dict(interval=5), 10, [5, 10]),
        (dict(interval=3, begin=0.4), 10, [6, 9]),
        (dict(interval=3, begin=0.6), 10, [6, 9]),
        (dict(interval=3, end=0.6), 10, [3, 6]),
        (dict(interval=20), 10, []),
        (dict(interval=29, end=0.29), 100, [29]),  # 0.29 * 100 is 28.999999999999996
        (dict(interval=7, begin=0.07, end=0.2), 100, [7, 14]),  # 0.07 * 100 is 7.000000000000001
        (dict(interval=100, begin=1 / 3, end=2 / 3), 300, [100, 200]),
    ],
)
def test_events_happen_every_interval_between_begin_and_end(settings, steps, events):
    prune = PruneSettings(**settings)
    happened = [i + 1 for i in range(steps) if prune.next_event(i, steps) == i + 1]
    assert happened == events


def test_after_the_last_event_there_is_none():
    assert PruneSettings(interval=3, end=0.6).next_event(6, 10) is None
