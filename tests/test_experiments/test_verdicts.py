"""Each clause of each claim, on numbers written by hand."""

import math

import pytest
from numbers_by_hand import (
    BATCHES,
    BN_ONLY,
    DEMP,
    FINETUNE,
    NUMBERS,
    OPTIMIZERS,
    PRUNED,
    RANDOM,
    ROUNDS,
    SNAPSHOT,
    SWEEP,
    bn_only,
    demp,
    inactive,
    rounds,
)

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.pictures import draw
from mmpsbn.experiments.verdicts import Finding, grows, learnt_nothing, more, no_less

YES, NO, UNTOLD = True, False, None


def changed(numbers, **changes):
    """The same values for all arms."""
    return {name: arm | changes for name, arm in numbers.items()}


PSBN_WORSE = {'psBN + ReLU': rounds([0.0, 0.0, 0.06], [80.0, 80.0, 75.0])}
UP_AND_DOWN = {'BN + ReLU': rounds([0.0, 0.4, 0.3], [80.0, 79.0, 77.0])}
FLAT = {'BN + ReLU': rounds([0.0, 0.31, 0.3], [80.0, 79.0, 77.0])}
LEAKY = {'BN + Leaky ReLU': rounds([0.1], [80.0])}
FITTED = {'psBN': rounds([0.0], [10], loss=[0.1])}


@pytest.mark.parametrize(
    'name, numbers, holds',
    [
        # grows with every round, Leaky ReLU, under a fifth, accuracy of psBN and of BN
        ('psbn-rounds', ROUNDS, [YES] * 5),
        ('psbn-rounds', ROUNDS | PSBN_WORSE, [YES, YES, UNTOLD, NO, YES]),
        ('psbn-rounds', ROUNDS | UP_AND_DOWN | LEAKY, [NO, NO, YES, YES, YES]),
        ('psbn-rounds', ROUNDS | FLAT, [YES] * 5),
        ('psbn-rounds', changed(ROUNDS, flops_sparsity=[0.0, 0.01]), [UNTOLD] * 3 + [YES] * 2),
        ('psbn-rounds', ROUNDS | {'psBN + ReLU': rounds([0.2], [76.5])},
         [YES, YES, NO, UNTOLD, YES]),
        ('psbn-rounds', ROUNDS | {'BN + ReLU': rounds([0.0, 0.3], [71.3, 77.9])}, [YES] * 4 + [NO]),
        ('psbn-rounds', ROUNDS | {'BN + ReLU': rounds([0.0, 0.3], [77.0, 78.5])},
         [YES] * 4 + [UNTOLD]),
        # grows, the dead, the fit is lost, psBN
        ('psbn-random-labels', RANDOM, [YES, YES, YES, YES]),
        ('psbn-random-labels', FITTED | {'BN': rounds([0.2, 0.1], [10, 10], loss=[0.5, 0.9])},
         [NO, YES, NO, YES]),
        ('psbn-random-labels', FITTED | {'BN': rounds([0.2, 0.21], [10, 10], loss=[0.5, None])},
         [UNTOLD, YES, UNTOLD, YES]),
        ('psbn-random-labels', changed(RANDOM, dead=[30, 10]), [YES, NO, YES, YES]),
        ('psbn-random-labels', changed(RANDOM, loss=[2.3, 2.31]), [UNTOLD] * 4),
        ('psbn-random-labels', changed(RANDOM, loss=[None, None]), [UNTOLD] * 4),
        # FLOPs sparsity, dead channels, psBN at the last value
        ('psbn-lr', SWEEP, [YES, YES, NO]),
        ('psbn-lr', SWEEP | {'BN, 0.1': rounds([0.6], [80.0], dead=[50])}, [NO, NO, NO]),
        ('psbn-lr', SWEEP | {'BN, 3': rounds([0.3], [80], dead=[60]),
                             'psBN, 3': rounds([0.0], [80])}, [NO, YES, YES]),
        ('psbn-gamma-init', SWEEP, [YES, NO]),  # the dead alone
        ('psbn-gamma-init', changed(SWEEP, flops_sparsity=[0.0], dead=[3]), [UNTOLD] * 2),
        # a value at which a net learns nothing is left out and named
        ('psbn-lr', SWEEP | {'psBN, 1': rounds([0.0], [10.0], loss=[None])}, [UNTOLD]),
        ('psbn-lr', SWEEP | {'BN, 3': rounds([0.0], [10], loss=[2.3]),
                             'psBN, 3': rounds([0.0], [10])}, [YES, YES, NO]),
        # better ensemble, psBN
        ('psbn-snapshot', SNAPSHOT, [UNTOLD, UNTOLD]),
        ('psbn-snapshot', SNAPSHOT | {'BN, 0.2': rounds([0.5], [81], ensemble=85.2)}, [NO, YES]),
        ('psbn-snapshot', SNAPSHOT | {'BN, 0.2': rounds([0.1], [81], ensemble=81.5)}, [YES, NO]),
        # collapse in finetuning, by the rate, psBN: collapsed, FLOPs
        ('psbn-finetune', FINETUNE, [YES, YES, YES, YES]),
        ('psbn-finetune', FINETUNE | {'BN on five': rounds([0.4], [90])},
         [UNTOLD, YES, YES, UNTOLD]),
        ('psbn-finetune', FINETUNE | {'BN on five -> BN, 0.01': rounds([0.5], [80], dead=[60]),
                                      'BN on five -> psBN, 0.1':
                                          rounds([0.2], [80], dead=[0]) | dict(collapsed=[40])},
         [YES, NO, NO, NO]),
        # Adam against SGD, L2 against WD, none without decay
        ('implicit-optimizers', OPTIMIZERS, [YES, YES, YES]),
        ('implicit-optimizers', OPTIMIZERS | {'SGD L2, 0.0001': inactive(0.9, 12, dead=0.9),
                                              'Adam L2, 0': inactive(0.1, 11, dead=0.04)},
         [NO, YES, NO]),
        ('implicit-optimizers', OPTIMIZERS | {'Adam L2, 0.001': inactive(0.9, 12.6, dead=0.9),
                                              'Adam WD, 0.001': inactive(0.9, 13.1, dead=0.9)},
         [YES, NO, YES]),  # within two points of the best of its own row
        ('implicit-optimizers', changed(OPTIMIZERS, dead=0.0), [UNTOLD, UNTOLD, YES]),
        ('implicit-optimizers', OPTIMIZERS | {'Adam WD, 0.0001': inactive(0.1, 38)},
         [YES, UNTOLD, YES]),
        # Adadelta and Adagrad, where they are there
        ('implicit-optimizers', OPTIMIZERS | {'Adadelta L2, 0.001': inactive(0.9, 13, dead=0.9),
                                              'Adagrad L2, 0.01': inactive(0.0, 11)},
         [YES, YES, UNTOLD, YES, YES]),
        ('implicit-optimizers', OPTIMIZERS | {'Adagrad L2, 0.01': inactive(0.9, 17, dead=0.9)},
         [YES, UNTOLD, YES, YES]),  # of another error
        ('implicit-batch-size', BATCHES, [YES]),
        ('implicit-batch-size', BATCHES | {'L2 0.001, 80': inactive(0.9, 12)}, [NO]),
        ('implicit-batch-size', changed(BATCHES, collapsed=0.5), [UNTOLD]),
        # expendable, nearly all
        ('implicit-prune', PRUNED, [YES, YES]),
        ('implicit-prune', changed(PRUNED, error_after=14.0), [NO, YES]),
        ('implicit-prune', changed(PRUNED, weights_removed=0.05), [UNTOLD, NO]),
        # depth, more small gammas, expendable, more ReLUs off
        ('bn-only', BN_ONLY, [YES, YES, YES, YES]),
        ('bn-only', BN_ONLY | {'BN, 56': bn_only(40, (0.029, 0, 0), (-3, 0, 0), 0)},
         [NO, NO, UNTOLD, NO]),
        ('bn-only', BN_ONLY | {'BN, 14': bn_only(63, (0.3, 0, 0), (-1.5, 0, 0), 0)},
         [UNTOLD, YES, NO, YES]),
        # sparser, four fifths at that accuracy, faster
        ('demp-tradeoff', DEMP, [YES, YES, YES]),
        ('demp-tradeoff', DEMP | {'SGDM, 0.004': demp(88.3, 2, 0.85)}, [YES, NO, YES]),
        ('demp-tradeoff', DEMP | {'SGDM, 0.004': demp(89.5, 0.5, 0.85)}, [YES, YES, NO]),
        ('demp-tradeoff', DEMP | {'SGDM, 0.004': demp(89.5, 1.03, 0.81)}, [YES, UNTOLD, UNTOLD]),
        ('demp-tradeoff', DEMP | {'SGDM, 0.01': demp(80, 2, 0.3)}, [NO, YES, YES]),
        ('demp-tradeoff', DEMP | {'SGDM, dense': demp(99, 1, 0)}, [YES, NO, NO]),
        ('demp-tradeoff', {name: demp(90, 1, 0.01) for name in DEMP}, [UNTOLD, NO, UNTOLD]),
        ('demp-tradeoff', changed(DEMP, removed=dict(weights=0.5, macs=0.3)), [YES, NO, YES]),
        ('demp-tradeoff', DEMP | {'SGDM, dense': demp(10, 1, 0) | dict(loss=2.3)},
         [YES, UNTOLD, UNTOLD]),
    ],
)  # fmt: skip
def test_what_holds(name, numbers, holds):
    assert [finding.holds for finding in EXPERIMENTS[name].judge(numbers)] == holds


@pytest.mark.parametrize(
    'name, said',
    [
        ('psbn-rounds', ['0.0%, 10.0%, 30.0%', '20.0% in the end', '3.0% with psBN, 30.0% with BN',
                         '81.0 % with psBN, 77.0 % with BN', '80.0 %, 79.0 %, 77.0 %']),
        ('psbn-random-labels', ['1.0%, 20.0%', '0.0%, 10.0%',
                                'loss 0.50 in its best round, 1.75 in the last',
                                '0.4%, loss 0.25 in']),
        ('psbn-lr', ['1.0%, 50.0% at LR 0.1, 1', '0.0%, 40.0% at LR', '25.0% with psBN, 50.0%']),
        ('psbn-gamma-init', ['0.0%, 40.0% at initial gamma 0.1, 1', '25.0% with psBN, 50.0%']),
        ('psbn-snapshot', ['83.50 % with psBN, 82.00 % with BN', '5.0% with psBN, 25.0% with BN']),
        ('psbn-finetune', ['10.0% pretrained, 40.0% finetuned',
                           '20.0% pretrained, 50.0% and 20.0% finetuned',
                           '1.0% of 20.0% (psBN from psBN 2.0%)',
                           '6.0% finetuned, a rise by -4.0% of 30.0% (psBN from psBN 0.0%)']),
        # an error of 13.1 is not within two points of 10.5, and 21.8 not of 11.8
        ('implicit-optimizers', ['71% with Adam L2, 0.0001 and 0% with SGD L2, 0.0001, by act',
                                 '71% with Adam L2, 0.0001 and 40% with Adam WD, 0.0001',
                                 '3% with Adam']),
        ('implicit-batch-size', ['85% at 20, 80% at 80']),
        ('implicit-prune', ['97% of the weights with Adam L2 0.001; the error changes most with '
                            'Adam L2 0.001, by +0.40', '97% with Adam']),
        ('bn-only', ['48.0 % at depth 14, 65.0 % at 56', '25% and 5%', '+0.2 points',
                     '30% and 2%']),
        ('demp-tradeoff', ['60%, 85%, 90% at 0.001, 0.004, 0.01',
                           '85% go for 1.0 points at a peak of 0.004',
                           '2.00x as fast at the end, 21% of the MACs']),
    ],
)  # fmt: skip
def test_what_was_found(name, said):
    findings = EXPERIMENTS[name].judge(NUMBERS[name])
    for finding, part in zip(findings, said, strict=True):
        assert part in finding.found


def test_the_values_that_are_left_out_are_named():
    judge = EXPERIMENTS['psbn-lr'].judge
    growth, *_ = judge(
        SWEEP | {'BN, 3': rounds([0.0], [10], loss=[2.3]), 'psBN, 3': SWEEP['psBN, 1']}
    )
    assert growth.found.endswith('at LR 0.1, 1 (no better than a guess: BN, 3)')
    (nothing,) = judge(SWEEP | {'psBN, 1': rounds([0.0], [10.0], loss=[None])})
    assert nothing.found == 'fewer than two values to compare (no better than a guess: psBN, 1)'


@pytest.mark.parametrize('loss', [math.nan, None, math.inf, 2.31])
def test_an_arm_that_learnt_nothing_proves_nothing(loss):
    def spoilt(name, arm):
        numbers = NUMBERS[name]
        listed = isinstance(numbers[arm]['loss'], list)
        numbers = numbers | {arm: numbers[arm] | dict(loss=[1.0, loss] if listed else loss)}
        return [finding.holds for finding in EXPERIMENTS[name].judge(numbers)]

    assert not any(learnt_nothing(arm) for numbers in NUMBERS.values() for arm in numbers.values())
    # only those clauses that the arm belongs to
    assert spoilt('psbn-rounds', 'BN + Leaky ReLU') == [YES, UNTOLD, YES, YES, YES]
    assert spoilt('psbn-rounds', 'psBN + ReLU') == [YES, YES, UNTOLD, UNTOLD, YES]
    assert spoilt('psbn-snapshot', 'psBN, 0.2') == [UNTOLD] * 2
    assert spoilt('psbn-finetune', 'BN on five -> psBN, 0.1') == [YES, YES, UNTOLD, UNTOLD]
    assert spoilt('implicit-optimizers', 'Adam L2, 0.0001') == [UNTOLD, UNTOLD, YES]
    assert spoilt('implicit-optimizers', 'Adam WD, 0.0001') == [YES, UNTOLD, YES]
    assert spoilt('implicit-optimizers', 'SGD L2, 0.001') == [YES] * 3  # of too large an error
    assert spoilt('implicit-batch-size', 'L2 0.001, 20') == [UNTOLD]
    assert spoilt('implicit-prune', 'Adam L2 0.001') == [UNTOLD] * 2
    assert spoilt('bn-only', 'all, 56') == [YES, UNTOLD, YES, UNTOLD]
    assert spoilt('demp-tradeoff', 'SGDM, dense') == [YES, UNTOLD, UNTOLD]
    assert spoilt('demp-tradeoff', 'SGDM, 0.01') == [UNTOLD, YES, YES]


def test_a_guess_is_one_among_the_classes():
    arm = dict(loss=[1.0, 1.6], classes=5)
    assert learnt_nothing(arm) and not learnt_nothing(arm | dict(classes=10))
    assert learnt_nothing(dict(loss=2.3, classes=10))


@pytest.mark.parametrize('name', ['psbn-rounds', 'psbn-random-labels', 'psbn-lr', 'psbn-snapshot'])
def test_a_loss_that_is_no_number_has_a_table_and_a_picture(name):
    experiment = EXPERIMENTS[name]
    numbers = {
        arm: values | dict(loss=[None for _ in values['loss']])
        for arm, values in NUMBERS[name].items()
    }
    assert experiment.tabulate(numbers).markdown()
    draw(experiment.panels(numbers))
    assert experiment.judge(numbers)


def test_what_one_run_cannot_tell_apart():
    pairs = [(3, 1), (1, 3), (1.5, 1), (1, 1.5), (1, 1)]
    assert [more(a, b, 1) for a, b in pairs] == [YES, NO, UNTOLD, UNTOLD, UNTOLD]
    assert [no_less(a, b, 1) for a, b in pairs] == [YES, NO, YES, UNTOLD, YES]
    assert more(math.nan, 1, 1) is no_less(math.nan, 1, 1) is UNTOLD
    courses = [(1, 2, 3), (1, 3, 2.5, 3), (1, 9, 3), (3, 2.5, 2), (1, 1.5), (3, 1)]
    assert [grows(course, 1) for course in courses] == [YES, YES, NO, NO, UNTOLD, NO]


def test_a_finding_in_words():
    lines = [str(Finding('it grows', '1 to 2', holds)) for holds in (YES, NO, UNTOLD)]
    assert lines == [
        'it grows: holds here; 1 to 2',
        'it grows: does not hold here; 1 to 2',
        'it grows: cannot be told here; 1 to 2',
    ]
