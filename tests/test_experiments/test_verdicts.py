"""Each clause of each claim, on numbers written by hand."""

import math

import pytest
from numbers_by_hand import NUMBERS, bn_only, demp, inactive, measured, rounds

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.measured import Measured, Quantity
from mmpsbn.experiments.verdicts import (
    Verdict,
    falls,
    grows,
    judge,
    learnt_nothing,
    more,
    no_less,
    sentence,
    under_a_fifth,
)

YES, NO, UNTOLD = True, False, None
# experiment -> changes of the numbers by hand, of '*' all arms, and whether each clause holds: Y, N
# or -, where it cannot be told
HOLDS = {
    # grows with every round, Leaky ReLU, under a fifth, accuracy of psBN and of BN
    'psbn-rounds': [
        ({}, 'YYYYY'),
        ({'psBN + ReLU': rounds([0.0, 0.0, 0.06], [80.0, 80.0, 75.0])}, 'YY-NY'),
        ({'BN + ReLU': rounds([0.0, 0.4, 0.3], [80.0, 79.0, 77.0]),
          'BN + Leaky ReLU': rounds([0.1], [80.0])}, 'NNYYY'),
        ({'BN + ReLU': rounds([0.0, 0.31, 0.3], [80.0, 79.0, 77.0])}, 'YYYYY'),
        ({'*': dict(flops_sparsity=[0.0, 0.0, 0.01])}, '---YY'),
        ({'psBN + ReLU': rounds([0.2], [76.5])}, 'YYN-Y'),
        ({'BN + ReLU': rounds([0.0, 0.3], [71.3, 77.9])}, 'YYYYN'),
        ({'BN + ReLU': rounds([0.0, 0.3], [77.0, 78.5])}, 'YYYY-'),
    ],
    # grows, the dead, the fit is lost, psBN
    'psbn-random-labels': [
        ({}, 'YYYY'),
        ({'psBN': rounds([0.0], [10], loss=[0.1]),
          'BN': rounds([0.2, 0.1], [10, 10], loss=[0.5, 0.9])}, 'NYNY'),
        ({'BN': rounds([0.2, 0.21], [10, 10], loss=[0.5, None])}, '-Y-Y'),
        ({'*': dict(dead=[30, 10])}, 'YNYY'),
        ({'*': dict(loss=[2.3, 2.31])}, '----'),
        ({'*': dict(loss=[None, None])}, '----'),
    ],
    # FLOPs sparsity, dead channels, psBN at the last value
    'psbn-lr': [
        ({}, 'YYN'),
        ({'BN, 0.1': rounds([0.6], [80.0], dead=[50])}, 'NNN'),
        ({'BN, 3': rounds([0.3], [80], dead=[60]), 'psBN, 3': rounds([0.0], [80])}, 'NYY'),
        # a value at which a net learns nothing is left out and named
        ({'psBN, 1': rounds([0.0], [10.0], loss=[None])}, '-'),
        ({'BN, 3': rounds([0.0], [10], loss=[2.3]), 'psBN, 3': rounds([0.0], [10])}, 'YYN'),
    ],
    'psbn-gamma-init': [
        ({}, 'YN'),  # the dead alone
        ({'*': dict(flops_sparsity=[0.0], dead=[3])}, '--'),
    ],
    # better ensemble, psBN
    'psbn-snapshot': [
        ({}, '--'),
        ({'BN, 0.2': rounds([0.5], [81], ensemble=85.2)}, 'NY'),
        ({'BN, 0.2': rounds([0.1], [81], ensemble=81.5)}, 'YN'),
    ],
    # collapse in finetuning, by the rate, psBN: collapsed, FLOPs
    'psbn-finetune': [
        ({}, 'YYYY'),
        ({'BN on five': rounds([0.4], [90])}, '-YY-'),
        ({'BN on five -> BN, 0.01': rounds([0.5], [80], dead=[60]),
          'BN on five -> psBN, 0.1': rounds([0.2], [80], dead=[0]) | dict(collapsed=[40])}, 'YNNN'),
    ],
    # Adam against SGD, (Adadelta, Adagrad,) L2 against WD, none without decay
    'implicit-optimizers': [
        ({}, 'YYY'),
        ({'SGD L2, 0.0001': inactive(0.9, 12, dead=0.9),
          'Adam L2, 0': inactive(0.1, 11, dead=0.04)}, 'NYN'),
        # within two points of the best of its own row
        ({'Adam L2, 0.001': inactive(0.9, 12.6, dead=0.9),
          'Adam WD, 0.001': inactive(0.9, 13.1, dead=0.9)}, 'YNY'),
        ({'*': dict(dead=0.0)}, '--Y'),
        ({'Adam WD, 0.0001': inactive(0.1, 38)}, 'Y-Y'),
        ({'Adadelta L2, 0.001': inactive(0.9, 13, dead=0.9),
          'Adagrad L2, 0.01': inactive(0.0, 11)}, 'YY-YY'),
        ({'Adagrad L2, 0.01': inactive(0.9, 17, dead=0.9)}, 'Y-YY'),  # of another error
    ],
    'implicit-batch-size': [
        ({}, 'Y'),
        ({'L2 0.001, 80': inactive(0.9, 12)}, 'N'),
        ({'*': dict(collapsed=0.5)}, '-'),
    ],
    # expendable, nearly all
    'implicit-prune': [
        ({}, 'YY'),
        ({'*': dict(error_after=14.0)}, 'NY'),
        ({'*': dict(weights_removed=0.05)}, '-N'),
    ],
    # depth, more small gammas, expendable, more ReLUs off
    'bn-only': [
        ({}, 'YYYY'),
        ({'BN, 56': bn_only(40, (0.029, 0, 0), (-3, 0, 0), 0)}, 'NN-N'),
        ({'BN, 14': bn_only(63, (0.3, 0, 0), (-1.5, 0, 0), 0)}, '-YNY'),
    ],
    # sparser, four fifths at that accuracy, faster
    'demp-tradeoff': [
        ({}, 'YYY'),
        ({'SGDM, 0.004': demp(88.3, 2, 0.85)}, 'YNY'),
        ({'SGDM, 0.004': demp(89.5, 0.5, 0.85)}, 'YYN'),
        ({'SGDM, 0.004': demp(89.5, 1.03, 0.81)}, 'Y--'),
        ({'SGDM, 0.01': demp(80, 2, 0.3)}, 'NYY'),
        ({'SGDM, dense': demp(99, 1, 0)}, 'YNN'),
        ({'*': demp(90, 1, 0.01)}, '-N-'),
        ({'*': dict(removed=dict(weights=0.5, macs=0.3))}, 'YNY'),
        ({'SGDM, dense': demp(10, 1, 0) | dict(loss=2.3)}, 'Y--'),
    ],
}  # fmt: skip


def claims_of(name, changes):
    of_all = changes.get('*', {})
    numbers = {arm: values | of_all for arm, values in NUMBERS[name].items()} | changes
    return EXPERIMENTS[name].claims(measured({a: v for a, v in numbers.items() if a != '*'}))


def letters(verdicts):
    return ''.join({YES: 'Y', NO: 'N', UNTOLD: '-'}[v.holds] for v in verdicts.values())


@pytest.mark.parametrize(
    'name, changes, holds', [(name, *row) for name, rows in HOLDS.items() for row in rows]
)
def test_what_holds(name, changes, holds):
    assert letters(claims_of(name, changes)) == holds


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
    verdicts = claims_of(name, {}).values()
    for verdict, part in zip(verdicts, said, strict=True):
        assert part in verdict.found


def test_the_values_that_are_left_out_are_named():
    guess = {'BN, 3': rounds([0.0], [10], loss=[2.3]), 'psBN, 3': rounds([0.25], [70.0])}
    growth, *_ = claims_of('psbn-lr', guess).values()
    assert growth.found.endswith('at LR 0.1, 1 (no better than a guess: BN, 3)')
    (nothing,) = claims_of('psbn-lr', {'psBN, 1': rounds([0.0], [10.0], loss=[None])}).values()
    assert nothing.found == 'fewer than two values to compare (no better than a guess: psBN, 1)'


@pytest.mark.parametrize('loss', [math.nan, None, math.inf, 2.31])
@pytest.mark.parametrize(
    'name, arm, holds',  # only those clauses that the arm belongs to
    [
        ('psbn-rounds', 'BN + Leaky ReLU', 'Y-YYY'),
        ('psbn-rounds', 'psBN + ReLU', 'YY--Y'),
        ('psbn-snapshot', 'psBN, 0.2', '--'),
        ('psbn-finetune', 'BN on five -> psBN, 0.1', 'YY--'),
        ('implicit-optimizers', 'Adam L2, 0.0001', '--Y'),
        ('implicit-optimizers', 'Adam WD, 0.0001', 'Y-Y'),
        ('implicit-optimizers', 'SGD L2, 0.001', 'YYY'),  # of too large an error
        ('implicit-batch-size', 'L2 0.001, 20', '-'),
        ('implicit-prune', 'Adam L2 0.001', '--'),
        ('bn-only', 'all, 56', 'Y-Y-'),
        ('demp-tradeoff', 'SGDM, dense', 'Y--'),
        ('demp-tradeoff', 'SGDM, 0.01', '-YY'),
    ],
)
def test_an_arm_that_learnt_nothing_proves_nothing(name, arm, holds, loss):
    values = NUMBERS[name][arm]
    lost = [*values['loss'][:-1], loss] if isinstance(values['loss'], list) else loss
    assert letters(claims_of(name, {arm: values | dict(loss=lost)})) == holds
    assert not any(learnt_nothing(arm) for arm in measured(NUMBERS[name]).values())


def test_a_guess_is_one_among_the_classes():
    losses = dict(loss=[1.0, 1.6])
    assert learnt_nothing(Measured('five', losses | dict(classes=5)))
    assert not learnt_nothing(Measured('ten', losses | dict(classes=10)))
    assert learnt_nothing(Measured('ten', dict(loss=2.3, classes=10)))


def test_what_one_run_cannot_tell_apart():
    pairs = [(3, 1), (1, 3), (1.5, 1), (1, 1.5), (1, 1)]
    assert [more(a, b, 1) for a, b in pairs] == [YES, NO, UNTOLD, UNTOLD, UNTOLD]
    assert [no_less((b, a), 1) for a, b in pairs] == [YES, NO, YES, UNTOLD, YES]
    assert more(math.nan, 1, 1) is no_less((1, math.nan), 1) is UNTOLD
    courses = [(1, 2, 3), (1, 3, 2.5, 3), (1, 9, 3), (3, 2.5, 2), (1, 1.5), (3, 1)]
    assert [grows(course, 1) for course in courses] == [YES, YES, NO, NO, UNTOLD, NO]
    assert [falls(course, 1) for course in courses] == [NO, NO, YES, YES, UNTOLD, YES]
    shares = [(0.5, 0.08), (0.5, 0.12), (0.5, 0.105), (0.03, 0.0)]
    assert [under_a_fifth(pair, 0.02) for pair in shares] == [YES, NO, UNTOLD, UNTOLD]


def test_a_verdict_in_words():
    lines = [sentence('it grows', Verdict('1 to 2', holds)) for holds in (YES, NO, UNTOLD)]
    assert lines == [
        'it grows: holds here; 1 to 2',
        'it grows: does not hold here; 1 to 2',
        'it grows: cannot be told here; 1 to 2',
    ]


def test_what_is_judged_are_the_ends_of_arms_or_the_course_of_one():
    share = Quantity('share', lambda arm: arm.share, '.0%', 0.02)
    arm, other = (
        Measured(name, dict(share=shares, loss=0.1, classes=10))
        for name, shares in (('arm', [0.1, None, 0.3]), ('other', [0.9, 0.9, 0.2]))
    )
    assert judge(grows, share, arm) == Verdict('10%, 30%', YES)
    assert judge(grows, share, arm, other, found='{1} < {0}') == Verdict('20% < 30%', NO)
    assert judge(grows, share, arm, given=False) == Verdict('10%, 30%', UNTOLD)
    alone = Measured('alone', dict(share=0.5, loss=0.1, classes=10))
    assert judge(lambda values, margin: values == [0.5], share, alone).holds is YES
