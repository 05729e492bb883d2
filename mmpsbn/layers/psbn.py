"""Post-shifted normalisation (psBN, arXiv 2001.11216, equation 6).

    y = gamma * xhat + b,    b = beta + alpha,    alpha > 0 constant

The optimizer owns beta, everybody else sees b. Weight decay pulls beta to 0 and
so the effective bias b to alpha: a channel that fell below zero before a ReLU is
pulled out again instead of being squashed to zero.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..functional.checks import is_number

PRETRAINED_BIAS = ('effective', 'beta')

# Key, in a state dict's metadata, under which a layer's exact beta travels.
_BETA = 'psbn_beta'

_state_dict_holds_beta = False


@contextmanager
def beta_in_state_dict() -> Iterator[None]:
    """Within it ``state_dict()`` holds beta itself and not b = beta + alpha.

    For code that changes weights in place through ``state_dict()``, as MMEngine's
    averaged models do: b is computed, so a write to it would be lost.
    """
    global _state_dict_holds_beta
    before, _state_dict_holds_beta = _state_dict_holds_beta, True
    try:
        yield
    finally:
        _state_dict_holds_beta = before


def _export_effective_bias(layer, state_dict, prefix, local_metadata):
    """State dict hook: b under ``bias``, beta in the metadata.

    b - alpha is not beta to the last bit, and a resumed run must be; the keys
    are a plain BatchNorm's, so the exact beta goes into the metadata.
    """
    key = prefix + 'bias'
    if key in state_dict and not _state_dict_holds_beta:
        beta = state_dict[key]
        state_dict[key] = beta + layer.alpha
        if not beta.is_meta:
            # A copy, for b is one; on the CPU, for MMEngine moves the tensors of a
            # checkpoint there, but not the metadata.
            local_metadata[_BETA] = beta.detach().to('cpu', copy=True)


class PostShift:
    """Mixin over an affine torch normalisation layer: shifts its bias by alpha.

    ``layer.bias`` is the effective bias b = beta + alpha, shape (C,), computed;
    ``layer.beta`` is the parameter, under the name ``bias`` in
    ``named_parameters()``. ``state_dict()`` holds b under ``bias`` and has the
    keys of the plain layer, so checkpoints pass both ways between psBN and BN and
    the function stays the same. A fresh layer has gamma = 1, beta = 0, b = alpha.

    Write to ``layer.beta``: what is written into the computed ``layer.bias`` is
    lost (generic ``init_cfg`` code does that, and so leaves beta at 0).

    Args:
        alpha: the shift, > 0 and finite. The paper uses 0.1.
        pretrained_bias: how a plain layer's checkpoint is read: ``'effective'``,
            its bias is b and the loaded function is unchanged; ``'beta'``, its
            bias is beta and alpha comes on top. A psBN checkpoint is read as what it
            is, as long as its state dict keeps its metadata: code that renames keys or
            cuts a prefix (``Pretrained(prefix=...)``) drops it.

    Raises:
        ValueError: alpha or pretrained_bias out of range, or ``affine=False``.
    """

    def __init__(self, *args, alpha: float = 0.1, pretrained_bias: str = 'effective', **kwargs):
        # A norm_cfg inherited from a config of this package carries where it came from,
        # and mmcv hands it on.
        kwargs.pop('_scope_', None)
        if not (is_number(alpha) and alpha > 0):
            raise ValueError(f'alpha must be > 0 and finite, got {alpha!r}')
        if pretrained_bias not in PRETRAINED_BIAS:
            raise ValueError(
                f'pretrained_bias must be one of {PRETRAINED_BIAS}, got {pretrained_bias!r}'
            )
        super().__init__(*args, **kwargs)
        if self.beta is None:
            raise ValueError(
                f'{type(self).__name__} shifts a bias and needs affine=True, got affine=False'
            )
        self.alpha = alpha
        self.pretrained_bias = pretrained_bias
        # A hook and not _save_to_state_dict: MMEngine and torch both run these.
        self._register_state_dict_hook(_export_effective_bias)

    @property
    def beta(self) -> nn.Parameter:
        """The learnable bias, shape (C,)."""
        try:
            return self._parameters['bias']
        except KeyError:  # not registered yet: nn.Module asks hasattr() first
            raise AttributeError('bias') from None

    @property
    def bias(self) -> Tensor:
        """The effective bias b = beta + alpha, shape (C,)."""
        return self.beta + self.alpha

    def reset_parameters(self) -> None:
        """gamma = 1, beta = 0, running statistics as new."""
        if hasattr(self, 'reset_running_stats'):
            self.reset_running_stats()
        if self.beta is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.beta)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs):
        key = prefix + 'bias'
        if key in state_dict and not _state_dict_holds_beta:
            state_dict = dict(state_dict)  # the caller's dict stays as it is
            state_dict[key] = self._read_beta(state_dict[key], local_metadata.get(_BETA))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def _read_beta(self, stored: Tensor, exact_beta: Tensor | None) -> Tensor:
        if exact_beta is None:
            return stored if self.pretrained_bias == 'beta' else stored - self.alpha
        beta = stored - self.alpha
        if exact_beta.shape != stored.shape:
            return beta
        # The metadata may belong to other weights (EMA swaps tensors between state
        # dicts): it counts only where it gives the stored b.
        exact_beta = exact_beta.to(beta)
        return torch.where(exact_beta + self.alpha == stored, exact_beta, beta)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, alpha={self.alpha}'


# _BatchNorm and _InstanceNorm stand among the direct bases because MMEngine's init_cfg
# looks for layer=['_BatchNorm'] among the names of those only.


class psBN1d(PostShift, nn.BatchNorm1d, _BatchNorm):
    """Post-shifted BatchNorm1d; inputs (N, C) or (N, C, L)."""


class psBN2d(PostShift, nn.BatchNorm2d, _BatchNorm):
    """Post-shifted BatchNorm2d; inputs (N, C, H, W)."""


class psBN3d(PostShift, nn.BatchNorm3d, _BatchNorm):
    """Post-shifted BatchNorm3d; inputs (N, C, D, H, W)."""


class psIN(PostShift, nn.InstanceNorm2d, _InstanceNorm):
    """Post-shifted InstanceNorm2d, affine; inputs (N, C, H, W)."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = False,
        **kwargs,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **kwargs)


class psGN(PostShift, nn.GroupNorm):
    """Post-shifted GroupNorm; inputs (N, C, *).

    The channel count comes first, as mmcv's ``build_norm_layer`` passes it.
    """

    def __init__(self, num_channels: int, num_groups: int, **kwargs):
        super().__init__(num_groups, num_channels, **kwargs)


class psSyncBN(PostShift, _BatchNorm):
    """Post-shifted BatchNorm over the joined batch of all ranks; (N, C, *).

    In a single process and in eval mode it is psBN. On the CPU the statistics are
    all-reduced over gloo, on CUDA torch's own synchronised kernels are used. It is
    no ``nn.SyncBatchNorm``: MMEngine turns those into a plain BatchNorm on every
    run in a single process.
    """

    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def __init__(self, num_features: int, *args, process_group=None, **kwargs):
        super().__init__(num_features, *args, **kwargs)
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

    @classmethod
    def from_psbn(cls, layer: '_BatchNorm', process_group=None) -> 'psSyncBN':
        """The synchronised form of a psBN layer; it takes over its parameters."""
        new = cls(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
            process_group=process_group,
            alpha=layer.alpha,
            pretrained_bias=layer.pretrained_bias,
        )
        new._parameters.update(layer._parameters)
        new._buffers.update(layer._buffers)
        return new.train(layer.training)
