"""Learning rate and weight decay of gamma and beta, apart from the rest of the net."""

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ...layers import NORM_LAYERS
from ..arguments import require_not_negative
from ..runner_parts import optimizers_in
from .beta_decay import check_betas_held

_ROLES = dict(gamma='weight', beta='bias')  # name of a norm layer's parameter
_SETTINGS = dict(lr='lr', decay='weight_decay')  # name in a param group


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class NormOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's default constructor, with four more entries for ``paramwise_cfg``.

    - ``gamma_lr_mult``, ``gamma_decay_mult``: factors, >= 0, of the learning rate and of the
      weight decay of the scale of every normalisation layer, by its type;
    - ``beta_lr_mult``, ``beta_decay_mult``: the same of its offset (of psBN the learnable beta).

    They multiply what ``norm_decay_mult`` and the like have made of it; where one of
    ``custom_keys`` matches, that alone counts, as for all other entries ::

        optim_wrapper = dict(
            constructor='NormOptimWrapperConstructor',
            optimizer=dict(_delete_=True, type='Adam', lr=1e-3, weight_decay=1e-4),
            paramwise_cfg=dict(gamma_lr_mult=0.1))

    (``_delete_``: over a base with SGD its momentum would be merged in, which Adam refuses.)

    Mehta et al., supplement, table 3: 0.1 for gamma makes fewer filters collapse, 0.1 for beta
    a few more.

    Raises:
        ValueError: a factor out of range, one without ``lr`` or ``weight_decay`` in the
            optimizer to multiply, or a model without a normalisation layer to apply it to.
        TypeError: psBN's betas will not be in the optimizer; see :func:`.check_betas_held`.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        base = dict(lr=self.base_lr, weight_decay=self.base_wd)
        self._mults: dict[tuple[str, str], float] = {}
        for role in _ROLES:
            for short, setting in _SETTINGS.items():
                key = f'{role}_{short}_mult'
                mult = self.paramwise_cfg.get(key)
                if mult is None:
                    continue
                require_not_negative(key, mult)
                if base[setting] is None:
                    raise ValueError(
                        f'{key}={mult} multiplies {setting}, which the optimizer '
                        f'{self.optimizer_cfg["type"]} is not given; add {setting}=... to it'
                    )
                self._mults[role, setting] = mult

    def __call__(self, model: nn.Module) -> OptimWrapper:
        if self._mults and not any(isinstance(m, NORM_LAYERS) for m in model.modules()):
            raise ValueError(
                f'{type(model).__name__} has no normalisation layer: take the multipliers of '
                'gamma and beta out of paramwise_cfg'
            )
        wrapper = super().__call__(model)
        check_betas_held(model, optimizers_in(wrapper))
        return wrapper

    def add_params(self, params, module, prefix='', is_dcn_module=None) -> None:
        """As MMEngine's; then the multipliers, in the groups that a norm layer has added."""
        start = len(params)
        super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if not isinstance(module, NORM_LAYERS):
            return
        base = dict(lr=self.base_lr, weight_decay=self.base_wd)
        for (role, setting), mult in self._mults.items():
            name = _ROLES[role]
            if any(key in f'{prefix}.{name}' for key in self.paramwise_cfg.get('custom_keys', {})):
                continue
            for group in params[start:]:
                if group['params'][0] is getattr(module, name):
                    group[setting] = group.get(setting, base[setting]) * mult
