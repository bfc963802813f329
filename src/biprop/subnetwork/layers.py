"""Masked layers: PyTorch's own convolutions and linear layer, computing with kept and binarised
random weights.

A masked layer is the same module with another class: hooks, device, padding mode and every
reference to it stay. It owns

    weight  frozen parameter: the random weights
    scores  trained parameter of the same shape
    mask    bool tensor of the same shape: which weights are kept
    gain    scalar tensor: the magnitude of the kept weights

`mask` and `gain` follow from weight and scores, and `Subnetwork` keeps them up to date. They are
neither parameters nor buffers: nothing that averages, sends, shards or stores a model's state has
to know of them.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .binarize import addressable, binary_activation, masked_binary_weight


class BinaryActivation(nn.Module):
    """Sign of the activations (MPT-1/1), as a module: put it where ReLU was.

    Takes floats of any shape, and gives -1 and +1 of the same shape and dtype. Backward, the
    gradient is multiplied by 2 * (1 - abs(x)) where abs(x) <= 1, and by 0 elsewhere (ICLR 2021
    paper, section 4).

    Args:
        zero: the value of sign(0), +1, or 0 as in networks of the original research code.
    """

    def __init__(self, zero: int = 1) -> None:
        super().__init__()
        self.zero = zero

    def forward(self, x: Tensor) -> Tensor:
        """Signs of a float tensor of any shape: -1 or +1, same shape."""
        return binary_activation(x, self.zero)

    def extra_repr(self) -> str:
        """What `print(model)` shows in the parentheses: "zero=0" where sign(0) is 0."""
        return "" if self.zero == 1 else "zero=0"


class MaskSource:
    """The scores and the weight that a layer's mask and gain were computed from.

    Their identity counts as much as their values: parameters are replaced
    (`load_state_dict(assign=True)`), substituted (`torch.func.functional_call`) and given other
    memory (`Parameter.data = ...`).

    Attributes:
        layer: the layer's name.
        stale: the mask may be older than the scores, whatever their version says: optimizers with
            fused=True, for example, change parameters without counting up their versions.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.forget()

    def forget(self) -> None:
        """Nothing is known of the mask: it must be recomputed."""
        self.stale = True
        # Weak references: a tensor may have a graph of autograd behind it.
        self._scores: weakref.ref[Tensor] | None = None
        self._weight: weakref.ref[Tensor] | None = None
        self._content: tuple[int, ...] = ()

    def remember(self, scores: Tensor, weight: Tensor) -> None:
        """The mask has been computed from these tensors, which are in memory."""
        self._scores, self._weight = weakref.ref(scores), weakref.ref(weight)
        # Tensors of inference mode have no version: their masks are recomputed each time.
        self.stale = scores.is_inference() or weight.is_inference()
        self._content = () if self.stale else _content(scores, weight)

    def came_from(self, scores: Tensor, weight: Tensor) -> bool:
        """Whether the mask was computed from these tensors, whatever their values are now."""
        if self._scores is None or self._weight is None:
            return False
        return self._scores() is scores and self._weight() is weight

    def holds(self, scores: Tensor, weight: Tensor) -> bool:
        """Whether the mask is that of these tensors and their values, as far as that shows."""
        if self.stale or not self.came_from(scores, weight):
            return False
        return self._content == _content(scores, weight)

    def note_gradient(self, _: Tensor) -> None:
        """A backward pass came through: an optimizer may change the scores unseen."""
        self.stale = True

    def __reduce__(self) -> tuple[type[MaskSource], tuple[str]]:
        # A copied or unpickled layer has other parameters: its mask is recomputed.
        return MaskSource, (self.layer,)


def _content(scores: Tensor, weight: Tensor) -> tuple[int, ...]:
    """A value that changes when the tensors are written to, or given other memory."""
    return scores._version, weight._version, scores.data_ptr(), weight.data_ptr()


class MaskKeeper(Protocol):
    """What computes the masks of layers: `Subnetwork`."""

    def mask_and_gain(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """The mask and the gain of the scores and the weight that a layer has at this moment."""


class Masked(nn.Module):
    """The base of all masked layers."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    scores: nn.Parameter
    mask: Tensor
    gain: Tensor
    source: MaskSource
    subnetwork: MaskKeeper

    def effective_weight(self) -> Tensor:
        """gain * sign(weight) * mask, of the shape of `weight`; its gradient goes to `scores`."""
        mask, gain = self.subnetwork.mask_and_gain(self)
        weight = masked_binary_weight(self.scores, self.weight, mask, gain)
        if weight.requires_grad and addressable(weight):
            weight.register_hook(self.source.note_gradient)
        return weight

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("scores", "weight"):
            self.source.forget()
        super().__setattr__(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> Masked:
        """Apply what `to`, `double`, `to_empty` and the like do, to the mask and the gain too."""
        self.source.forget()
        super()._apply(fn, recurse)
        self.mask, self.gain = fn(self.mask).bool(), fn(self.gain)
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.source.forget()
        super()._load_from_state_dict(*arguments, **options)


class MaskedLinear(Masked, nn.Linear):  # type: ignore[misc]
    """`nn.Linear` with a mask."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] float to [..., out_features], with the effective weight."""
        return F.linear(input, self.effective_weight(), self.bias)


class _MaskedConv(Masked):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)  # type: ignore[operator, no-any-return]


class MaskedConv1d(_MaskedConv, nn.Conv1d):  # type: ignore[misc]
    """`nn.Conv1d` with a mask."""


class MaskedConv2d(_MaskedConv, nn.Conv2d):  # type: ignore[misc]
    """`nn.Conv2d` with a mask."""


class MaskedConv3d(_MaskedConv, nn.Conv3d):  # type: ignore[misc]
    """`nn.Conv3d` with a mask."""


class _MaskedConvTranspose(Masked):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        layer: Any = self  # one of the classes below, which are convolutions too
        dims = self.weight.dim() - 2
        output_padding = layer._output_padding(
            input, output_size, layer.stride, layer.padding, layer.kernel_size, dims, layer.dilation
        )
        return _CONV_TRANSPOSE[dims](  # type: ignore[no-any-return]
            input,
            self.effective_weight(),
            self.bias,
            layer.stride,
            layer.padding,
            output_padding,
            layer.groups,
            layer.dilation,
        )


_CONV_TRANSPOSE: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
"""Spatial dimensions -> PyTorch's function."""


class MaskedConvTranspose1d(_MaskedConvTranspose, nn.ConvTranspose1d):  # type: ignore[misc]
    """`nn.ConvTranspose1d` with a mask."""


class MaskedConvTranspose2d(_MaskedConvTranspose, nn.ConvTranspose2d):  # type: ignore[misc]
    """`nn.ConvTranspose2d` with a mask."""


class MaskedConvTranspose3d(_MaskedConvTranspose, nn.ConvTranspose3d):  # type: ignore[misc]
    """`nn.ConvTranspose3d` with a mask."""


MASKED_CLASS: dict[type[nn.Module], type[Masked]] = {
    nn.Linear: MaskedLinear,
    nn.Conv1d: MaskedConv1d,
    nn.Conv2d: MaskedConv2d,
    nn.Conv3d: MaskedConv3d,
    nn.ConvTranspose1d: MaskedConvTranspose1d,
    nn.ConvTranspose2d: MaskedConvTranspose2d,
    nn.ConvTranspose3d: MaskedConvTranspose3d,
}
"""Exact types only: a subclass may use its weight in its own way."""


def maskable(module: nn.Module) -> bool:
    """Whether `convert` can turn this very module into a masked layer.

    It cannot where something else computes the weight or the bias (weight norm, spectral norm and
    pruning of `torch.nn.utils`), nor where the forward method was replaced.
    """
    if type(module) not in MASKED_CLASS or "forward" in module.__dict__:
        return False
    parameters = module._parameters
    return parameters.get("weight") is not None and "bias" in parameters


def mask_layer(module: nn.Module, name: str, scores: Tensor) -> Masked:
    """Turn a maskable module into a masked layer, in place.

    Weight and bias are frozen. The caller sets the layer's `subnetwork`.

    Args:
        module: for which `maskable` is true.
        name: of the layer in its model.
        scores: initial scores, of the shape of the weight; they get its dtype and device.

    Returns:
        The same module.
    """
    weight = module.weight
    assert isinstance(weight, nn.Parameter) and scores.shape == weight.shape
    module.__class__ = MASKED_CLASS[type(module)]
    assert isinstance(module, Masked)
    module.source = MaskSource(name)
    weight.requires_grad_(False)
    if module.bias is not None:
        module.bias.requires_grad_(False)
    module.register_parameter("scores", nn.Parameter(scores.to(weight)))
    module.mask = torch.ones_like(weight, dtype=torch.bool, requires_grad=False)
    module.gain = weight.new_ones(())
    # A layer with a hook is not computed by the fused path of nn.TransformerEncoderLayer, which
    # reads the raw weights.
    module.register_forward_pre_hook(_refuse_symbolic_tracing)
    return module


def _refuse_symbolic_tracing(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if inputs and isinstance(inputs[0], torch.fx.Proxy):
        raise UserError(
            "torch.fx would keep the masks of this moment for ever: trace a plain model instead:"
            " biprop.Ticket.from_model(model, subnetwork).to_model(new_model)"
        )
