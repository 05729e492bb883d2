"""What DemPHook keeps in a checkpoint beside the plan, checked on its way in.

A run resumes from a file of its own, which MMEngine has unpickled by then: what is caught here is
a file of another version, or an edited one. What a stranger's file brings is a plan, and
``PrunePlan.from_dict`` looks into every corner of that.
"""

from collections.abc import Mapping
from typing import Any

from ...functional.checks import short_repr

_WORDS = {int: 'an int', list: 'a list', Mapping: 'a dict', type(None): 'None'}


def check_saved_state(saved: Mapping[str, Any], *, kind: str | None) -> None:
    """Raises ValueError, naming the entry, for what DemPHook cannot have saved.

    Args:
        kind: what the budget of this run is counted in; None without one.
    """
    _check(saved, noise_seed=int, pruner=Mapping)
    pruner = saved['pruner']
    budget = pruner.get('budget')
    began = budget.get('kind') if isinstance(budget, Mapping) else None
    if began != kind:
        words = ['no budget' if of is None else f'a budget in {of}' for of in (began, kind)]
        raise ValueError(
            f'the checkpoint cannot be resumed: the run began with {words[0]}, and DemPHook has '
            f'{words[1]} now; resume with the settings it began with, or start a new run from its '
            'weights with load_from'
        )
    own = (
        dict(budget=Mapping, saliency=(Mapping, type(None)), refused=list, schedule=Mapping)
        if kind is not None
        else dict(channel_dims=Mapping, windows=list, samples=int)
    )
    _check(
        pruner,
        dense=Mapping,
        removed=int,
        positions=Mapping,
        counted_size=list,
        held=list,
        training_only=Mapping,
        **own,
    )


def _check(data: Mapping, **expected: type | tuple[type, ...]) -> None:
    for key, kinds in expected.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if key not in data or not isinstance(data[key], kinds):
            found = short_repr(data[key]) if key in data else 'no such entry'
            raise ValueError(
                f'the checkpoint cannot be resumed: {key} in its pruning state must be '
                f'{" or ".join(_WORDS[kind] for kind in kinds)}, got {found}; the file is of '
                'another version of mmpsbn, or was changed'
            )
