"""Batch norm over the whole batch of several processes, on any device.

PyTorch's SyncBatchNorm does the same on GPUs only; here two processes on a CPU must compute what
one computes, for tests and for searches on clusters without GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of [B, C, H, W]: in training, mean and variance over B of all processes, H and W;
    in evaluation, as `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps [B, C, H, W] by the statistics of all processes together."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        # Under --amp bf16: sums, and the count above all, need more than bfloat16's 8 bits.
        dtype = x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        # Mean first, then squares around it: squares alone, minus the mean's, lose the digits that
        # matter to rounding.
        local_count = x.new_tensor([x.numel() / x.shape[1]])
        sums = _Sum.apply(torch.cat([x.sum(dim=(0, 2, 3)), local_count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean[None, :, None, None]
        variance = _Sum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        self._track(mean, variance, count)
        y: Tensor = centred * torch.rsqrt(variance + self.eps)[None, :, None, None]
        if self.affine:
            y = y * self.weight[None, :, None, None] + self.bias[None, :, None, None]
        return y.to(dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics, as `nn.BatchNorm2d` does.

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


def synchronise(model: nn.Module) -> None:
    """Turn every `nn.BatchNorm2d` of the model into a `SyncBatchNorm2d`, in place; names and
    parameters stay.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
