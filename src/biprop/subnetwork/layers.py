"""Masked layers: PyTorch's own convolutions and linear layer, computing with kept and binarised
random weights.

A masked layer is the same module with another class: hooks, device, padding mode and every
reference to it stay. It owns

    weight  frozen parameter: the random weights        scores  trained parameter of the same shape
    mask    bool tensor: which weights are kept         gain    scalar tensor: the magnitude of what is kept

`mask` and `gain` follow from weight and scores, and `Subnetwork` keeps them up to date. They are no
parameters and no buffers: nothing that averages, sends, shards or stores a model's state has to
know of them.
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


class MaskSource:
    """The scores and the weight that a layer's mask and gain were computed from.

    Their identity counts as much as their content: parameters are replaced
    (`load_state_dict(assign=True)`), lent (`torch.func.functional_call`) and filled anew
    (`Parameter.data = ...`).

    Attributes:
        layer: the layer's name.
        stale: the mask may be older than the scores, whatever these look like: optimisers with
            fused=True, for example, change parameters without counting up their versions.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.forget()

    def forget(self) -> None:
        """Nothing is known of the mask."""
        self.stale = True
        self._scores: weakref.ref[Tensor] | None = (
            None  # weak: a tensor may have a graph of autograd behind it
        )
        self._weight: weakref.ref[Tensor] | None = None
        self._content: tuple[int, ...] = ()

    def remember(self, scores: Tensor, weight: Tensor) -> None:
        """The mask has been computed from these, which are in memory."""
        self._scores, self._weight = weakref.ref(scores), weakref.ref(weight)
        # Tensors of inference mode have no version: what cannot be followed is looked at each time.
        self.stale = scores.is_inference() or weight.is_inference()
        self._content = () if self.stale else _content(scores, weight)

    def came_from(self, scores: Tensor, weight: Tensor) -> bool:
        """Whether the mask was computed from these tensors, whatever they hold by now."""
        if self._scores is None or self._weight is None:
            return False
        return self._scores() is scores and self._weight() is weight

    def holds(self, scores: Tensor, weight: Tensor) -> bool:
        """Whether the mask is the one of these tensors and of what they hold, as far as that shows."""
        return (
            not self.stale
            and self.came_from(scores, weight)
            and self._content == _content(scores, weight)
        )

    def note_gradient(self, _: Tensor) -> None:
        """A gradient came: an optimiser may change the scores unseen."""
        self.stale = True

    def __reduce__(self) -> tuple[type[MaskSource], tuple[str]]:
        return MaskSource, (
            self.layer,
        )  # a copied or stored layer has other parameters: its mask is computed anew


def _content(scores: Tensor, weight: Tensor) -> tuple[int, ...]:
    """Changes when tensors are written to, or given other memory."""
    return scores._version, weight._version, scores.data_ptr(), weight.data_ptr()


class MaskKeeper(Protocol):
    """Who computes masks: `Subnetwork`."""

    def mask_and_gain(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """The mask and the gain of the scores and the weight that a layer has at this moment."""


class Masked(nn.Module):
    """What all masked layers share."""

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
        """What `to`, `double`, `to_empty` and their like do to each tensor of the layer."""
        self.source.forget()
        super()._apply(fn, recurse)
        self.mask, self.gain = fn(self.mask).bool(), fn(self.gain)
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.source.forget()
        super()._load_from_state_dict(*arguments, **options)


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
            input,
            self.effective_weight(),
            self.bias,
            plain.stride,
            plain.padding,
            output_padding,
            plain.groups,
            plain.dilation,
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
"""Exact types only: a subclass may use its weight in its own way (`nn.MultiheadAttention` reads its
output projection's).
"""


def maskable(module: nn.Module) -> bool:
    """Whether `convert` can turn this very module into a masked layer.

    Not where something else computes its weight or its bias (weight norm, spectral norm and pruning
    of `torch.nn.utils`), nor where its forward pass was replaced.
    """
    if type(module) not in MASKED_CLASS or "forward" in module.__dict__:
        return False
    parameters = module._parameters
    return parameters.get("weight") is not None and "bias" in parameters


def mask_layer(module: nn.Module, name: str, scores: Tensor) -> Masked:
    """Turn a maskable module into a masked layer, in place: weight and bias frozen, `scores` [shape
    of weight] trained.

    Whoever calls gives it its `subnetwork`.
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
    # A hook of its own keeps a layer inside nn.TransformerEncoderLayer off that one's fused path,
    # which reads the raw weights.
    module.register_forward_pre_hook(_refuse_symbolic_tracing)
    return module


def _refuse_symbolic_tracing(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if inputs and isinstance(inputs[0], torch.fx.Proxy):
        raise UserError(
            "torch.fx would keep the masks of this moment for ever: trace a plain model instead:"
            " biprop.Ticket.from_model(model, subnetwork).to_model(new_model)"
        )
