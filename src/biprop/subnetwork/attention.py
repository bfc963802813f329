"""`nn.MultiheadAttention` with its in-projection as a layer, so that `convert` masks it too.

PyTorch keeps the projections of query, key and value as one parameter, `in_proj_weight`
[3 embed_dim, embed_dim], and reads the weight of `out_proj` without calling it. Half the weights of
a transformer's attention would stay dense.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from .layers import Masked


class SplitAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` that has `in_proj`, an `nn.Linear`, instead of two parameters.

    Its results are the same. Without `in_proj_bias`, `nn.TransformerEncoderLayer` does not take its
    fused path, which would read raw weights.
    """

    in_proj: nn.Linear

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *masks: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Arguments and results as of `nn.MultiheadAttention.forward`."""
        swaps = self.batch_first and query.dim() == 3
        if swaps:
            # One tensor stays one object, by which PyTorch recognises self-attention.
            swapped = {id(tensor): tensor.transpose(0, 1) for tensor in (query, key, value)}
            query, key, value = (swapped[id(tensor)] for tensor in (query, key, value))
        out, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            _weight(self.in_proj),
            self.in_proj.bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            _weight(self.out_proj),
            self.out_proj.bias,
            training=self.training,
            **dict(zip(_MASKS, masks, strict=False)),
            **options,
        )
        return (out.transpose(0, 1) if swaps else out), weights


_MASKS = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
"""The arguments of `nn.MultiheadAttention.forward` after the three tensors, in its order."""


def _weight(layer: nn.Module) -> Tensor:
    """What a linear layer computes with, masked or not."""
    weight = layer.effective_weight() if isinstance(layer, Masked) else layer.weight
    assert isinstance(weight, Tensor)
    return weight


def split_attention(model: nn.Module) -> list[SplitAttention]:
    """Give every `nn.MultiheadAttention` of a model its in-projection as a layer, in place.

    Left as they are: subclasses, those with other sizes of key or value (PyTorch keeps three
    parameters there), and those whose weight is computed by something else.

    Returns:
        What was split, for `join_attention`.
    """
    split = [module for module in model.modules() if _can_be_split(module)]
    for module in split:
        _split(module)
    return split  # type: ignore[return-value]


def _can_be_split(module: nn.Module) -> bool:
    if type(module) is not nn.MultiheadAttention or "forward" in module.__dict__:
        return False
    out = module.out_proj
    is_plain = type(out) is NonDynamicallyQuantizableLinear and "weight" in out._parameters
    return is_plain and module._parameters.get("in_proj_weight") is not None


def _split(module: nn.Module) -> None:
    weight, bias = module.in_proj_weight, module.in_proj_bias
    out: Any = module.out_proj
    with torch.device("meta"):
        layer = nn.Linear(module.embed_dim, 3 * module.embed_dim, bias is not None)  # type: ignore[arg-type, operator]
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    module.register_parameter("in_proj_weight", None)
    module.register_parameter("in_proj_bias", None)
    out.__class__ = nn.Linear
    del module.out_proj  # the in-projection comes first
    module.in_proj, module.out_proj = layer.train(module.training), out
    module.__class__ = SplitAttention


def join_attention(split: list[SplitAttention]) -> None:
    """Undo `split_attention`, before anything was masked."""
    for module in split:
        layer: Any = module.in_proj
        out: Any = module.out_proj
        del module.in_proj
        module.__class__ = nn.MultiheadAttention  # type: ignore[assignment]
        out.__class__ = NonDynamicallyQuantizableLinear
        module.in_proj_weight, module.in_proj_bias = layer.weight, layer.bias
