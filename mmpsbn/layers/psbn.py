"""Post-shifted normalisation (psBN, arXiv 2001.11216, equation 6).

    y = gamma * xhat + b,    b = beta + alpha,    alpha > 0 constant

The parameter ``bias`` is b, so the layer is a plain norm layer to everybody but the optimizer,
which sees beta (optimizer_view.py). Weight decay pulls beta to 0 and so b to alpha: a channel that
fell below zero before a ReLU is pulled out again instead of being squashed to zero.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.utils.parametrize import is_parametrized

from ..functional.checks import is_number
from ..upstream import BatchNormBase, InstanceNormBase, NormBase, check_input_channels
from .optimizer_view import restore_biases, set_alpha, unwatch, watch

# BatchNorm and InstanceNorm (psBN and its kin too), GroupNorm, LayerNorm; gamma is ``weight``
NORM_LAYERS = (NormBase, nn.GroupNorm, nn.LayerNorm)


def check_alpha(alpha: float) -> None:
    """Raises ValueError for what is no shift."""
    if not (is_number(alpha) and alpha > 0):
        raise ValueError(f'alpha must be > 0 and finite, got {alpha!r}')


class PostShift:
    """Mixin over an affine torch normalisation layer: weight decay pulls its bias to alpha.

    ``layer.bias`` is b, shape (C,); ``layer.beta`` is b - alpha, computed. Parameters, buffers,
    forward pass and state dict are the plain layer's. A fresh layer has gamma = 1, beta = 0,
    b = alpha.

    Args:
        alpha: the shift, > 0 and finite. The paper uses 0.1.

    Raises:
        ValueError: alpha out of range, or ``affine=False``.
    """

    __jit_unused_properties__ = ['beta']  # torch.jit.script would compile it
    alpha_added = False  # by add_alpha
    beta_given = False  # by NormAffine; not once weights were loaded

    def __init__(self, *args, alpha: float = 0.1, device=None, dtype=None, **kwargs):
        # A norm_cfg inherited from a config of this package carries where it came from,
        # and mmcv hands it on.
        kwargs.pop('_scope_', None)
        check_alpha(alpha)
        self.alpha = alpha
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        if self.bias is None:
            raise ValueError(
                f'{type(self).__name__} shifts a bias and needs affine=True, got affine=False'
            )
        self.begin()

    def begin(self) -> None:
        """Be a psBN layer from now on."""
        if type(self).__module__ == __name__:
            # torch.fx takes for one operation what says that it stands in torch.nn; pickle and
            # the like ask the class
            vars(self)['__module__'] = 'torch.nn.modules.batchnorm'
        self.mark_bias()
        watch(self)

    def end(self) -> None:
        """Be none."""
        unwatch(self)
        for bias in self.own_biases():
            set_alpha(bias, None)
        for name in ('alpha', 'alpha_added', 'beta_given', '__module__'):
            vars(self).pop(name, None)

    @property
    def beta(self) -> Tensor:
        """What the optimizer sees of the bias: b - alpha, shape (C,)."""
        return self.bias - self.alpha

    def own_biases(self) -> list[nn.Parameter]:
        """The parameter that is the bias, or that it is computed from (a pruning mask, a
        parametrization); none where it was taken out of the layer."""
        if is_parametrized(self, 'bias'):
            return list(self.parametrizations.bias.parameters(recurse=False))
        found = (getattr(self, name, None) for name in ('bias', 'bias_orig'))
        return [bias for bias in found if isinstance(bias, nn.Parameter)]

    def mark_bias(self) -> None:
        """Have optimizers see beta of what is the bias now."""
        for bias in self.own_biases():
            set_alpha(bias, self.alpha)

    def trains_bias(self) -> bool:
        """Whether the bias is trained: what was taken out of the layer lives elsewhere."""
        own = self.own_biases()
        return not own or any(bias.requires_grad for bias in own)

    def reset_parameters(self) -> None:
        """gamma = 1, beta = 0, running statistics as new."""
        restore_biases()
        super().reset_parameters()
        if self.bias is not None:
            nn.init.constant_(self.bias, self.alpha)

    # Where torch makes another parameter:

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        super().register_parameter(name, param)
        self.mark_bias()

    def _apply(self, *args, **kwargs):
        super()._apply(*args, **kwargs)
        self.mark_bias()
        return self

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.begin()

    # Where others read or write it, perhaps after an interrupt in a step:

    def _save_to_state_dict(self, *args, **kwargs) -> None:
        restore_biases()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        restore_biases()
        self.beta_given = False
        super()._load_from_state_dict(*args, **kwargs)

    def __reduce_ex__(self, protocol):
        restore_biases()
        return super().__reduce_ex__(protocol)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, alpha={self.alpha}'


# The base classes stand among the direct bases because MMEngine's init_cfg
# looks for layer=['_BatchNorm'], their name in torch, among the names of those only.


class psBN1d(PostShift, nn.BatchNorm1d, BatchNormBase):
    """Post-shifted BatchNorm1d; inputs (N, C) or (N, C, L)."""


class psBN2d(PostShift, nn.BatchNorm2d, BatchNormBase):
    """Post-shifted BatchNorm2d; inputs (N, C, H, W)."""


class psBN3d(PostShift, nn.BatchNorm3d, BatchNormBase):
    """Post-shifted BatchNorm3d; inputs (N, C, D, H, W)."""


class psIN(PostShift, nn.InstanceNorm2d, InstanceNormBase):
    """Post-shifted InstanceNorm2d, affine; inputs (N, C, H, W)."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = False,
        device=None,
        **kwargs,
    ):
        statistics = momentum, affine, track_running_stats
        super().__init__(num_features, eps, *statistics, device=device, **kwargs)


class psGN(PostShift, nn.GroupNorm):
    """Post-shifted GroupNorm; inputs (N, C, *).

    The channel count comes first, as mmcv's ``build_norm_layer`` passes it.
    """

    def __init__(self, num_channels: int, num_groups: int, device=None, **kwargs):
        super().__init__(num_groups, num_channels, device=device, **kwargs)


class psSyncBN(PostShift, BatchNormBase):
    """Post-shifted BatchNorm over the joined batch of all ranks; (N, C, *).

    In a single process and in eval mode it is psBN. On the CPU, where torch has no synchronised
    kernels, the statistics are all-reduced over gloo. It is no ``nn.SyncBatchNorm``: MMEngine
    turns those into a plain BatchNorm on every run in a single process.
    """

    _check_non_zero_input_channels = check_input_channels

    def __init__(self, num_features: int, *args, process_group=None, device=None, **kwargs):
        super().__init__(num_features, *args, device=device, **kwargs)
        self.process_group = process_group

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f'expected at least 2D input, got {x.dim()}D')

    def forward(self, x: Tensor) -> Tensor:
        synchronise = (
            self.training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size(self.process_group) > 1
        )
        if not synchronise:
            return super().forward(x)
        if x.is_cuda:
            return nn.SyncBatchNorm.forward(self, x)
        self._check_input_dim(x)
        return self._forward_gloo(x)

    def _forward_gloo(self, x: Tensor) -> Tensor:
        """Two differentiable all-reduces: the mean first, then the variance about
        it, since E[x^2] - mean^2 cancels in float32."""
        group = self.process_group or dist.group.WORLD
        dtype = x.dtype  # half precision in, float32 within, half precision out
        x = x.to(torch.promote_types(dtype, torch.float32))
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = x.new_tensor([x.numel() // x.size(1)])
        total = all_reduce(torch.cat([x.sum(dims), count]), group=group)
        n = total[-1].detach()
        if n <= 1:
            raise ValueError(
                f'expected more than 1 value per channel over all ranks in training, got input of '
                f'shape {tuple(x.shape)}: use a larger batch, or eval mode'
            )
        mean = total[:-1] / n
        centred = x - mean.view(shape)
        var = all_reduce(centred.square().sum(dims), group=group) / n
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = (
                    1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                )
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * n / (n - 1), momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(dtype)
