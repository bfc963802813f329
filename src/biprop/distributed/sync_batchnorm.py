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
    """In training, mean and variance of [B, C, H, W] over B of all processes, H and W; in
    evaluation, `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        # Under --amp bf16: sums, and the count above all, need more than bfloat16's 8 bits.
        kind, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        # The mean first and squares around it afterwards: squares alone, less the mean's, lose what
        # matters to rounding.
        sums = _Sum.apply(torch.cat([x.sum(dim=(0, 2, 3)), x.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean[None, :, None, None]
        variance = _Sum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            if (
                self.running_mean is not None
                and self.running_var is not None
                and self.num_batches_tracked is not None
            ):
                self.num_batches_tracked.add_(1)
                momentum = (
                    1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                )
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        y: Tensor = centred * torch.rsqrt(variance + self.eps)[None, :, None, None]
        if self.affine:
            y = y * self.weight[None, :, None, None] + self.bias[None, :, None, None]
        return y.to(kind)


def synchronise(model: nn.Module) -> None:
    """Let every `nn.BatchNorm2d` of the model see the whole batch, in place; names and parameters
    stay.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
