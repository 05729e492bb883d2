"""What activations say of each channel, streamed over a data set in memory that stays the same."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# |a| up to which a channel is dead, by default, for all that watches and all that prunes: what
# the log counts is what may go without a loss. Mehta et al. use 1e-12.
DEAD_EPS = 0.0
UNIVERSALITY_THRESHOLD = 1e-3  # of the channel's largest activation (Mehta et al. section 3)
_BINS_PER_OCTAVE = 8
# from the bin of the channel's largest activation down to that of 1e-3 of it
_BINS = 1 + math.ceil(-math.log2(UNIVERSALITY_THRESHOLD) * _BINS_PER_OCTAVE)
_LAST_BIN = 1 << 20  # beyond any float64, so the place of 0 and of infinity


@dataclass(frozen=True)
class ActivationStatistics:
    """Counts and maxima of the activations a of each of C channels.

    A batch gives one (:func:`activation_statistics`), two of them merge into that of both,
    in any order, and no activation is kept: 81 + 4 numbers a channel.

    Universality needs each sample's maximum and the maximum of all, which is known only at
    the end. The samples' maxima are therefore counted in bins that are 9 % wide (8 an octave),
    from the largest one so far down to 1e-3 of it: what is below that now stays
    below, because the largest only grows. One pass is enough (a second one over augmented
    training data would see others), and the only samples in doubt at the end are those in
    the one bin that holds the threshold, so :meth:`universality` gives exact bounds.

    Attributes:
        samples: how many samples were seen, shape (C,), int64.
        values: how many activations were seen, samples x positions, shape (C,), int64.
        zeros: how many of them were 0, shape (C,), int64.
        peak: max |a|, shape (C,), float32 or float64; inf where one was NaN or infinite, 0
            where none was seen.
        histogram: samples by max |a| over positions, in bins downwards from that of
            ``peak``, shape (C, 81), int64.
    """

    samples: Tensor
    values: Tensor
    zeros: Tensor
    peak: Tensor
    histogram: Tensor

    @classmethod
    def empty(cls, channels: int, device: torch.device | str = 'cpu') -> 'ActivationStatistics':
        """Of nothing."""
        none = torch.zeros(channels, dtype=torch.int64, device=device)
        histogram = none.new_zeros(channels, _BINS)
        return cls(none, none, none, none.float(), histogram)

    def merged(self, other: 'ActivationStatistics') -> 'ActivationStatistics':
        """Of the data of both."""
        peak = torch.maximum(self.peak, other.peak)
        return ActivationStatistics(
            self.samples + other.samples,
            self.values + other.values,
            self.zeros + other.zeros,
            peak,
            self._histogram_below(peak) + other._histogram_below(peak),  # noqa: SLF001  its own
        )

    def reduced(self, all_reduce: Callable[[Tensor, str], Tensor]) -> 'ActivationStatistics':
        """Of the data of all ranks, in two collectives.

        Args:
            all_reduce: ``all_reduce(tensor, op)`` returns the element-wise ``'sum'`` or
                ``'max'`` over the ranks.
        """
        peak = all_reduce(self.peak, 'max')
        counts = torch.stack([self.samples, self.values, self.zeros], 1)
        counts = all_reduce(torch.cat([counts, self._histogram_below(peak)], 1), 'sum')
        return ActivationStatistics(*counts[:, :3].unbind(1), peak, counts[:, 3:])

    def onto(self, index: Tensor, channel: Tensor, channels: int) -> 'ActivationStatistics':
        """Of ``channels`` channels, where position ``index[k]`` here is of channel ``channel[k]``
        there. Several positions of one channel count as further samples of it."""
        peak = self.peak.new_zeros(channels).scatter_reduce(0, channel, self.peak[index], 'amax')
        below = self.peak.clone()
        below[index] = peak[channel]
        histogram = self._histogram_below(below)[index]
        samples, values, zeros = (
            counts.new_zeros(channels).index_add(0, channel, counts[index])
            for counts in (self.samples, self.values, self.zeros)
        )
        histogram = histogram.new_zeros(channels, _BINS).index_add(0, channel, histogram)
        return ActivationStatistics(samples, values, zeros, peak, histogram)

    def cpu(self) -> 'ActivationStatistics':
        """On the CPU."""
        return ActivationStatistics(*(column.cpu() for column in vars(self).values()))

    def inactive_mask(self, *, eps: float) -> Tensor:
        """max |a| <= eps over all positions of all samples, shape (C,), bool.

        The papers use 1e-12 (Mehta et al. section 2.1, where 1e-4 gives the same); 0 is dead in
        the sense of DemP. NaN, infinity and a channel never seen are not inactive.
        """
        return (self.peak <= eps) & (self.values > 0)

    def zero_share(self) -> Tensor:
        """Pr[a = 0] over all positions of all samples, shape (C,), float64, in [0, 1]; NaN where
        none was seen (Frankle et al. section 5 and appendix I)."""
        return self.zeros.double() / self.values

    def universality(self) -> tuple[Tensor, Tensor]:
        """The share of samples with max |a| over positions > 1e-3 of the channel's ``peak``.

        Returns:
            Bounds of it, low <= share <= high, each of shape (C,), float64, in [0, 1]: they
            differ by the samples within 9 % of the threshold. 0 for a channel that is always
            0; NaN for one never seen, or whose peak is not finite. Selectivity is 1 minus
            this (Mehta et al. section 3).
        """
        threshold = UNIVERSALITY_THRESHOLD * self.peak.double()
        doubtful = (_bin(self.peak) - _bin(threshold)).clamp(0, _BINS - 1)[:, None]
        high = self.histogram.cumsum(1).gather(1, doubtful)
        low = high - self.histogram.gather(1, doubtful)
        total = self.samples.double().masked_fill(~self.peak.isfinite(), torch.nan)
        return low.squeeze(1) / total, high.squeeze(1) / total

    def _histogram_below(self, peak: Tensor) -> Tensor:
        """The histogram in bins downwards from that of a ``peak`` that is at least this one's."""
        source = torch.arange(_BINS, device=peak.device) - (_bin(peak) - _bin(self.peak))[:, None]
        found = self.histogram.gather(1, source.clamp(0, _BINS - 1))
        return found.masked_fill(source < 0, 0)


def activation_statistics(x: Tensor, *, channel_dim: int) -> ActivationStatistics:
    """The statistics of one batch.

    Args:
        x: activations. Dimension 0 counts the samples, unless it is that of the channels: then
            x is one sample. All other dimensions are positions.
        channel_dim: the dimension of the channels.
    """
    x = x.detach()
    if channel_dim % x.dim() == 0:
        x, channel_dim = x[None], channel_dim % x.dim() + 1
    x = x.movedim(channel_dim, -1)
    channels, positions = x.size(-1), list(range(1, x.dim() - 1))
    if not x.numel():
        return ActivationStatistics.empty(channels, x.device)
    largest = x.abs().amax(positions) if positions else x.abs()  # amax([]) reduces everything
    if largest.dtype != torch.float64:
        largest = largest.float()
    largest = largest.nan_to_num(nan=torch.inf, posinf=torch.inf)  # (samples, channels)
    peak = largest.amax(0)
    depth = _bin(peak) - _bin(largest)
    seen = (depth < _BINS) & (largest > 0)
    histogram = torch.zeros(channels, _BINS, dtype=torch.int64, device=x.device)
    histogram.scatter_add_(1, depth.clamp(max=_BINS - 1).T, seen.long().T)
    zeros = (x == 0).sum([0, *positions])
    return ActivationStatistics(
        torch.full_like(zeros, len(x)),
        torch.full_like(zeros, x.numel() // channels),
        zeros,
        peak,
        histogram,
    )


def _bin(a: Tensor) -> Tensor:
    """floor(8 log2 a), int64, for a >= 0: never falls as a rises."""
    bins = (a.double().log2() * _BINS_PER_OCTAVE).floor()
    return bins.clamp(-_LAST_BIN, _LAST_BIN).long()
