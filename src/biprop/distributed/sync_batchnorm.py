"""Batch norm over the whole batch of several processes, on any device.

PyTorch's SyncBatchNorm does the same on GPUs only; here two processes on a CPU must compute what
one computes, for tests and for searches on clusters without GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient. (PyTorch's own is deprecated, its successor
    not in all versions.)
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])


class _Synchronised(_BatchNorm):
    """Batch norm of [B, C, ...]: in training, mean and variance over B of all processes and the
    sides; in evaluation, as PyTorch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps [B, C, ...] by the statistics of all processes together."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        # Under --amp bf16: sums, and the count above all, need more than bfloat16's 8 bits.
        dtype = x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        # Mean first, then squares around it: squares alone, minus the mean's, lose the digits that
        # matter to rounding.
        local_count = x.new_tensor([x.numel() / x.shape[1]])
        axes = (0, *range(2, x.dim()))
        channel = (1, -1, *(1,) * (x.dim() - 2))
        sums = _Sum.apply(torch.cat([x.sum(dim=axes), local_count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(channel)
        variance = _Sum.apply(centred.square().sum(dim=axes)) / count
        self._track(mean, variance, count)
        y: Tensor = centred * torch.rsqrt(variance + self.eps).view(channel)
        if self.affine:
            y = y * self.weight.view(channel) + self.bias.view(channel)
        return y.to(dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics, as PyTorch's batch norm does.

        Args:
            mean, variance: of the whole batch, [C].
            count: values per channel, a scalar.
        """
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


class SyncBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """Synchronised batch norm of [B, C] and [B, C, L]."""


class SyncBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """Synchronised batch norm of [B, C, H, W]."""


class SyncBatchNorm3d(_Synchronised, nn.BatchNorm3d):
    """Synchronised batch norm of [B, C, D, H, W]."""


_SYNCHRONISED: dict[type, type] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
}


def synchronise(model: nn.Module) -> None:
    """Turn every batch norm of the model into a synchronised one, in place; names and parameters
    stay.
    """
    for module in model.modules():
        if type(module) in _SYNCHRONISED:
            module.__class__ = _SYNCHRONISED[type(module)]
