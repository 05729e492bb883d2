"""Runs on a device that is not the CPU (tests/far): they end bit for bit as on the CPU, no tensor
is where its partner is not, and between events and reports hooks do not wait for the device."""

import copy

import far
import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from runs import EMA, demp, killing, pruner_of, resume_from, scalars, state_of, train
from snapshots import assert_same
from test_training_only import AuxNet
from torch.nn import functional as F
from toy import ToyNet

from mmpsbn.engine import DemPHook
from mmpsbn.engine.demp.budget_schedule import LEAST_STEPS
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.engine.sparsity.reading import ALL_MEASURES

BUDGET = dict(type='DemPHook', budget=dict(flops=0.7))
LOOKS = dict(interval_epochs=1)
WATCHES = dict(type='SparsityHook', interval=5, measures=ALL_MEASURES, activations=LOOKS)
LONG = 10**6
SILENT = dict(type='SparsityHook', interval=LONG, activations=dict(interval_epochs=LONG))


@pytest.fixture(scope='module', autouse=True)
def device():
    far.extension()


class PlacedNet(ToyNet):
    """Its data go where it is, as OpenMMLab's preprocessors do it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.data_preprocessor = BaseDataPreprocessor()


class AuxiliaryNet(PlacedNet, AuxNet):
    """Has a head that runs in training only, on channels of the first block."""


class DropoutNet(PlacedNet):
    """Training draws random numbers on the device."""

    def forward(self, inputs, labels=None, mode='tensor'):
        return super().forward(F.dropout(inputs, 0.2, self.training), labels, mode)


for net in (PlacedNet, AuxiliaryNet, DropoutNet):
    MODELS.register_module(module=net, force=True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train on a device, whatever MMEngine finds."""

    def run(device, hooks, *prepare, model='PlacedNet', norm='psBN', name='run', **kwargs):
        monkeypatch.setattr('mmengine.device.utils.DEVICE', device)
        model = dict(type=model, norm_cfg=dict(type=norm))
        folder = tmp_path / f'{name}_{device}'
        runner, _ = train(folder, copy.deepcopy(hooks), *prepare, model=model, **kwargs)
        places = {p.device.type for p in bare_model(runner).parameters()}
        assert places == {device}
        return runner

    return run


def on_cpu(value):
    """The same with all tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    return [on_cpu(item) for item in value] if isinstance(value, (list, tuple)) else value


RUNS = {
    'penalty, noise and averages': [demp(penalty=0.05, noise=3e-3), EMA, WATCHES],
    'collapsed': [demp(penalty=0.05, criterion='collapsed', gamma_threshold=0.3), WATCHES],
    'live channels': [demp(allow_live=True, round_to=8)],
    'budget': [BUDGET, WATCHES],
    'budget by L1 norms': [dict(type='DemPHook', budget=dict(flops=0.7, score='l1'))],
    'frozen': [dict(type='FreezeHook', train=['norm'], per_channel=2)],
    'rounds': [dict(type='RoundsHook', shuffle=True)],
}
RESTARTS = [dict(type='CosineRestartLR', periods=[1, 2], restart_weights=[1, 1], eta_min=0)]


@pytest.mark.parametrize('name', RUNS)
def test_a_run_ends_as_on_the_cpu(run, name):
    how = dict(epochs=15 if 'budget' in name else 3)
    if name == 'rounds':
        how['param_scheduler'] = RESTARTS
    ours, theirs = (run(d, RUNS[name], killing([1, 3], [2]), **how) for d in ('far', 'cpu'))
    assert_same(on_cpu(state_of(ours)), on_cpu(state_of(theirs)))
    if 'DemPHook' in str(RUNS[name]):
        assert pruner_of(ours).structure.plan
        assert pruner_of(ours).state() == pruner_of(theirs).state()
    if WATCHES in RUNS[name]:
        seen = scalars(ours, 'sparsity/dead_fraction')
        assert seen and seen == scalars(theirs, 'sparsity/dead_fraction')


def test_a_look_takes_no_random_numbers_of_the_devices_training(run):
    def drawn(hook):
        runner = run('far', [hook], model='DropoutNet', epochs=2)
        return on_cpu(state_of(runner)), torch.far.get_rng_state()

    assert_same(drawn(WATCHES), drawn(SILENT))


@pytest.mark.parametrize('name', ['penalty, noise and averages', 'budget'])
def test_a_run_resumes_in_the_middle_of_a_window(run, name):
    hooks = RUNS[name]
    how = dict(epochs=15) if name == 'budget' else dict(epochs=3)
    whole = run('far', hooks, killing([1, 3], [2]), name='whole', **how)
    at = 5 if name == 'budget' else 1
    how |= resume_from(f'{whole.work_dir}/epoch_{at}.pth')
    resumed = run('far', hooks, name='resumed', **how)
    assert_same(on_cpu(state_of(resumed)), on_cpu(state_of(whole)))


@pytest.mark.parametrize('hook', [demp(), BUDGET])
def test_what_the_losses_hold_is_followed(run, hook):
    runners = [run(d, [hook], model='AuxiliaryNet', epochs=15) for d in ('far', 'cpu')]
    held = [pruner_of(runner).state()['held'] for runner in runners]
    assert held[0] == held[1] != []


# --- what waits for the device --------------------------------------------------------------

ITERATIONS = 60
RARE = dict(interval=ITERATIONS, num_samples=1)
QUIET = {
    'SparsityHook': SILENT,
    'DemPHook between windows': demp(penalty=0.01, noise=1e-3, **RARE),
    'DemPHook in a window': demp(penalty=0.01, noise=1e-3, **RARE | dict(num_samples=LONG)),
    'DemPHook with a budget': BUDGET,
}


@pytest.fixture
def waits(run):
    """waits(hooks) -> what each iteration of a run waited for, and the runner."""

    def waits(hooks):
        noted = []

        def note_iterations(runner):
            step = runner.train_loop.run_iter

            def run_iter(*args, **kwargs):
                far.take_waits()
                step(*args, **kwargs)
                noted.append(far.take_waits())

            runner.train_loop.run_iter = run_iter

        never = dict(interval=LONG)
        runner = run('far', hooks, note_iterations, iters=ITERATIONS, checkpoint=never)
        return noted, runner

    return waits


def spoken_of(runner) -> set[int]:
    """The iterations of cuts, those in which new sums begin, and those that say what a cut did to
    the loss."""
    hook = next((h for h in runner.hooks if isinstance(h, DemPHook)), None)
    if hook is None or hook.pruner.kind is None:
        return set()
    cuts = hook.pruner._schedule.events
    return {cut - 1 + later for cut in cuts for later in (0, 1, LEAST_STEPS)}


@pytest.mark.parametrize('name', QUIET)
def test_between_reports_and_events_a_hook_waits_for_nothing(waits, name):
    (plain, _), (ours, runner) = waits([]), waits([QUIET[name]])
    assert len(plain) == len(ours) == ITERATIONS
    assert 'aten::item' in plain[1]  # of MMEngine's log: what waits is seen
    more = {i for i in range(ITERATIONS) if ours[i] != plain[i]}
    # the first traces the model, and the last has an event or a report
    assert more <= {0, ITERATIONS - 1} | spoken_of(runner)
