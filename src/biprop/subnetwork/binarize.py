"""Binary activations and weights, and their straight-through gradients: pure functions.

The modules that use them are in `layers`. `sign` is defined here once: sign(0) = +1, because a bit
has two values.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import native


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1; same shape and dtype as `x`."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


# Both autograd functions define setup_context and a rule for vmap, so that torch.func's transforms
# accept them.


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, without binding its default arguments, which takes longer than the forward
    pass of a small layer.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]


class _BinaryActivation(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, zero: int) -> Tensor:
        return sign(x) if zero == 1 else torch.sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * (2 * (1 - x.abs())).clamp(min=0), None


def binary_activation(x: Tensor, zero: int = 1) -> Tensor:
    """Sign of the activations, with a triangular pseudo-gradient (MPT-1/1; ICLR 2021 paper, section
    4).

    Forward: sign(x). Backward: the incoming gradient times 2 * (1 - |x|) where |x| <= 1, and 0
    elsewhere.

    Args:
        x: float activations, any shape.
        zero: the value of sign(0): +1, or 0 to reproduce networks of the original research code.

    Returns:
        Tensor of the shape and dtype of `x`, of +1 and -1 (and 0 if `zero` is 0).
    """
    return _apply(_BinaryActivation, x, zero)  # type: ignore[no-any-return]


def addressable(tensor: Tensor) -> bool:
    """Whether a tensor's values are in memory.

    Those of tracers, of torch.func's transforms and of sharded tensors are not.
    """
    if torch.compiler.is_compiling():
        return False
    is_plain = type(tensor) in (Tensor, torch.nn.Parameter)
    return is_plain and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _core(*tensors: Tensor) -> ctypes.CDLL | None:
    """The compiled core, if it can compute with these tensors."""
    return native.library() if all(map(_is_for_core, tensors)) else None


def _is_for_core(tensor: Tensor) -> bool:
    """Whether the compiled core can compute with a tensor: contiguous float32 in memory."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        return False
    return tensor.is_contiguous() and addressable(tensor)


def _by_core(function: Any, *inputs: Tensor) -> Tensor:
    """A new tensor like the first input, computed by the compiled core in one pass."""
    result = torch.empty_like(inputs[0])
    addresses = [tensor.data_ptr() for tensor in (*inputs, result)]
    threads = torch.get_num_threads()
    native.run(function, addresses, result.numel(), threads, grain=native.WEIGHTS)
    return result


class _MaskedBinaryWeight(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        if addressable(mask) and (core := _core(weight, gain)):
            return _by_core(core.biprop_binary_weight, weight, mask.contiguous(), gain)
        return torch.sign(weight) * mask * gain

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor
    ) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        scores, weight = ctx.saved_tensors
        grad = grad.contiguous()  # it is not where the images are channels_last
        if core := _core(scores, weight, grad):
            return _by_core(core.biprop_score_gradient, scores, weight, grad), None, None, None
        return torch.sign(scores) * weight * grad, None, None, None


def masked_binary_weight(scores: Tensor, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
    """The weights that a subnetwork computes with: gain * sign(weight) * mask (ICLR 2021 paper,
    algorithm 1).

    The gradient passes straight through the mask and the gain: dL/dscores = dL/dresult * weight *
    sign(scores). A weight that is exactly 0 (inits `bernoulli`, `usc_bernoulli`) contributes 0
    although the mask keeps it: here, and only here, the sign of 0 is 0. A score that is exactly 0
    gets no gradient, as |score| has none there.

    Args:
        scores: float, any shape; the only argument that gets a gradient.
        weight: float random weights, same shape.
        mask: bool, same shape.
        gain: positive scalar tensor.

    Returns:
        Tensor of the shape and dtype of `weight`, with values in {-gain, 0, +gain}.
    """
    return _apply(_MaskedBinaryWeight, scores, weight, mask, gain)  # type: ignore[no-any-return]


def gain(weight: Tensor, mask: Tensor, kept: int | None = None) -> Tensor:
    """The layer's gain (the paper's alpha): sum(|weight| * mask) / max(1, kept).

    Args:
        weight: float, any shape.
        mask: bool, same shape.
        kept: the divisor that the method prescribes, which under layerwise pruning is int(k * n)
            and not always the number of kept weights (see `Subnetwork.update`); None takes that
            number.

    Returns:
        Scalar tensor of the dtype of `weight`.
    """
    divisor = mask.count_nonzero().clamp(min=1) if kept is None else max(1, kept)
    # PyTorch's own sum, not one in double precision in the core's pass: it rounds as the original
    # research code does, and the last bit of a gain decides which of two values that are equal in
    # exact arithmetic a pool or a ReLU lets through.
    # Sixteen bits do not hold the sum of a large layer: float16 ends at 65,504.
    wide = torch.promote_types(weight.dtype, torch.float32)
    total = _kept_magnitudes(weight, mask).sum(dtype=wide)
    return (total / divisor).to(weight.dtype)


def _kept_magnitudes(weight: Tensor, mask: Tensor) -> Tensor:
    """|weight| * mask, of the shape and dtype of `weight`."""
    core = _core(weight) if addressable(mask) else None
    if core:
        return _by_core(core.biprop_kept_magnitudes, weight, mask.contiguous())
    return weight.abs() * mask
