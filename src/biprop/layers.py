"""Masked layers: PyTorch's own convolutions and linear layer, computing with kept and binarised random weights.

A masked layer is the same module with another class: hooks, device, padding mode and every reference to it stay. It owns

    weight  frozen parameter: the random weights        scores  trained parameter of the same shape
    mask    bool buffer: which weights are kept         gain    scalar buffer: the magnitude of what is kept

`mask` and `gain` follow from weight and scores, so they are no part of the state dict; `Subnetwork` keeps them up to date.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .binarize import binary_activation, masked_binary_weight


class BinaryActivation(nn.Module):
    """Sign of the activations (MPT-1/1). See `binarize.binary_activation`.

    Args:
        zero: the value of sign(0), +1 or 0.
    """

    def __init__(self, zero: int = 1) -> None:
        super().__init__()
        self.zero = zero

    def forward(self, x: Tensor) -> Tensor:
        return binary_activation(x, self.zero)

    def extra_repr(self) -> str:
        return "" if self.zero == 1 else "zero=0"


class Masked(nn.Module):
    """What all masked layers share."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    scores: nn.Parameter
    mask: Tensor
    gain: Tensor
    had_gradient: bool = False
    """A gradient came since the last `Subnetwork.update`: an optimiser may have changed the scores unseen."""

    def effective_weight(self) -> Tensor:
        """gain * sign(weight) * mask, of the shape of `weight`; its gradient goes to `scores`."""
        weight = masked_binary_weight(self.scores, self.weight, self.mask, self.gain)
        if weight.requires_grad and not torch.compiler.is_compiling():
            weight.register_hook(self._note_gradient)
        return weight

    def _note_gradient(self, _: Tensor) -> None:
        self.had_gradient = True


class MaskedLinear(Masked, nn.Linear):  # type: ignore[misc]
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.effective_weight(), self.bias)


class _MaskedConv(Masked):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)  # type: ignore[operator, no-any-return]


class MaskedConv1d(_MaskedConv, nn.Conv1d):  # type: ignore[misc]
    pass


class MaskedConv2d(_MaskedConv, nn.Conv2d):  # type: ignore[misc]
    pass


class MaskedConv3d(_MaskedConv, nn.Conv3d):  # type: ignore[misc]
    pass


class _MaskedConvTranspose(Masked):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        dims = self.weight.dim() - 2
        conv_transpose: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        plain: Any = self  # one of the classes below, which are convolutions too
        output_padding = plain._output_padding(
            input, output_size, plain.stride, plain.padding, plain.kernel_size, dims, plain.dilation
        )
        return conv_transpose(  # type: ignore[no-any-return]
            input, self.effective_weight(), self.bias, plain.stride, plain.padding, output_padding, plain.groups, plain.dilation
        )


class MaskedConvTranspose1d(_MaskedConvTranspose, nn.ConvTranspose1d):  # type: ignore[misc]
    pass


class MaskedConvTranspose2d(_MaskedConvTranspose, nn.ConvTranspose2d):  # type: ignore[misc]
    pass


class MaskedConvTranspose3d(_MaskedConvTranspose, nn.ConvTranspose3d):  # type: ignore[misc]
    pass


MASKED_CLASS: dict[type[nn.Module], type[Masked]] = {
    nn.Linear: MaskedLinear,
    nn.Conv1d: MaskedConv1d,
    nn.Conv2d: MaskedConv2d,
    nn.Conv3d: MaskedConv3d,
    nn.ConvTranspose1d: MaskedConvTranspose1d,
    nn.ConvTranspose2d: MaskedConvTranspose2d,
    nn.ConvTranspose3d: MaskedConvTranspose3d,
}
"""Exact types only: a subclass may use its weight in its own way (`nn.MultiheadAttention` reads its output projection's)."""


def maskable(module: nn.Module) -> bool:
    """Whether `convert` can turn this very module into a masked layer."""
    return type(module) in MASKED_CLASS


def mask_layer(module: nn.Module, scores: Tensor) -> None:
    """Turn a maskable module into a masked layer, in place: weight and bias frozen, `scores` [shape of weight] trained."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter) and scores.shape == weight.shape
    module.__class__ = MASKED_CLASS[type(module)]
    weight.requires_grad_(False)
    if isinstance(module.bias, nn.Parameter):
        module.bias.requires_grad_(False)
    module.register_parameter("scores", nn.Parameter(scores.to(weight)))
    module.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool), persistent=False)
    module.register_buffer("gain", weight.new_ones(()), persistent=False)
