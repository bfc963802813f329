"""A graph of operations as a PyTorch module, with the names of the traced module's state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TicketError
from ..subnetwork.binarize import binary_activation
from .operations import Graph, Operation, Shape

Compute = Callable[[Sequence[Tensor], Mapping[str, Tensor], Mapping[str, Any]], Tensor]

_ON_BUFFERS = ("running_mean", "running_var")
_MOST_PARTS = 100
"""Modules one in the other: PyTorch's own methods recurse."""


class Interpreter(nn.Module):
    """A network that a graph describes, in evaluation: batch norm uses its running statistics.

    Input and output are the graph's: [B, ...].

    Args:
        graph: that `check_graph` accepts for these shapes.
        shapes: of all tensors, by their names in the state dict.

    Raises:
        TicketError: names that no module can have.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, Shape]) -> None:
        super().__init__()
        self._graph = graph
        buffers = {*graph.constants, *_statistics(graph)}
        places = {
            name: self._register(name, shape, is_buffer=name in buffers)
            for name, shape in shapes.items()
        }
        self._tensors = [
            {role: places[name] for role, name in operation.tensor_of.items()}
            for operation in graph.operations
        ]
        self._last_use = {
            i: number
            for number, operation in enumerate(graph.operations, start=1)
            for i in operation.inputs
        }
        self.eval()

    def _register(self, name: str, shape: Shape, is_buffer: bool) -> tuple[nn.Module, str]:
        """Add an empty tensor, in modules of its name's parts; returns the module and the last."""
        *path, leaf = name.split(".")
        if len(path) > _MOST_PARTS:
            raise TicketError(f"a tensor in {len(path)} modules, one in the other: {name:.40}")
        module: nn.Module = self
        try:
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            tensor = torch.zeros(shape)
            if is_buffer:
                module.register_buffer(leaf, tensor)
            else:
                module.register_parameter(leaf, nn.Parameter(tensor))
        except (KeyError, AttributeError, TypeError):
            raise TicketError(f"no module has a tensor of the name {name!r:.80}") from None
        return module, leaf

    def forward(self, x: Tensor) -> Tensor:
        """The output [B, ...] of a batch [B, ...]."""
        results: dict[int, Tensor] = {0: x}
        for number, operation in enumerate(self._graph.operations, start=1):
            inputs = [results[i] for i in operation.inputs]
            places = self._tensors[number - 1].items()
            tensors = {role: getattr(module, leaf) for role, (module, leaf) in places}
            results[number] = compute(operation, inputs, tensors, x.shape[0])
            for i in set(operation.inputs):
                if self._last_use[i] == number:
                    del results[i]
        return results[len(self._graph.operations)]


def _statistics(graph: Graph) -> set[str]:
    """Names of the running statistics."""
    return {
        name
        for operation in graph.operations
        for role, name in operation.tensor_of.items()
        if role in _ON_BUFFERS
    }


def compute(
    operation: Operation, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor], batch: int
) -> Tensor:
    """One operation.

    Args:
        operation: of a graph.
        inputs: values that it reads.
        tensors: by role.
        batch: number of samples.
    """
    attributes = operation.named
    if "shape" in attributes:
        attributes["shape"] = [s * -batch if s < 0 else s for s in attributes["shape"]]
    return _COMPUTE[operation.op](inputs, tensors, attributes)


def _conv(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[t["weight"].dim() - 3]
    return function(inputs[0], bias=t.get("bias"), weight=t["weight"], **a)  # type: ignore[no-any-return]


def _conv_transpose(
    inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]
) -> Tensor:
    functions: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    function = functions[t["weight"].dim() - 3]
    return function(inputs[0], bias=t.get("bias"), weight=t["weight"], **a)  # type: ignore[no-any-return]


def _batch_norm(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    statistics = (t["running_mean"], t["running_var"])
    return F.batch_norm(
        inputs[0], *statistics, t.get("weight"), t.get("bias"), False, 0.0, a["eps"]
    )


def _group_norm(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    return F.group_norm(inputs[0], a["groups"], t.get("weight"), t.get("bias"), a["eps"])


def _layer_norm(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    shape = inputs[0].shape[-a["count"] :]
    return F.layer_norm(inputs[0], shape, t.get("weight"), t.get("bias"), a["eps"])


def _max_pool(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(a["kernel"]) - 1]
    windows = (a["kernel"], a["stride"], a["padding"], a["dilation"])
    return function(inputs[0], *windows, ceil_mode=a["ceil"])  # type: ignore[no-any-return]


def _avg_pool(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(a["kernel"]) - 1]
    windows = (a["kernel"], a["stride"], a["padding"], a["ceil"], a["count_padding"])
    return function(inputs[0], *windows)  # type: ignore[no-any-return]


def _adaptive_avg_pool(
    inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]
) -> Tensor:
    functions: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    return functions[len(a["sizes"]) - 1](inputs[0], a["sizes"])  # type: ignore[no-any-return]


def _adaptive_max_pool(
    inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]
) -> Tensor:
    functions: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
    return functions[len(a["sizes"]) - 1](inputs[0], a["sizes"])  # type: ignore[no-any-return]


def _attention(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    query, key, value, *masks = inputs
    mask = masks[0] if masks else None
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=a["causal"], scale=a["scale"]
    )


def _pad(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    pairs = list(zip(a["pads"][::2], a["pads"][1::2], strict=True))
    if a["mode"] != "constant":  # PyTorch pads by such modes the sides of maps only
        pairs = pairs[2:]
    flat = [size for pair in pairs[::-1] for size in pair]
    value = a["value"] if a["mode"] == "constant" else None
    return F.pad(inputs[0], flat, a["mode"], value)


def _slice(inputs: Sequence[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any]) -> Tensor:
    every = (slice(None),) * a["axis"]
    return inputs[0][(*every, slice(a["start"], a["stop"], a["step"]))]


_COMPUTE: dict[str, Compute] = {
    "tensor": lambda inputs, t, a: t["weight"],
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": lambda inputs, t, a: F.linear(inputs[0], t["weight"], t.get("bias")),
    "embedding": lambda inputs, t, a: F.embedding(inputs[0], t["weight"]),
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "relu": lambda inputs, t, a: F.relu(inputs[0]),
    "sign": lambda inputs, t, a: binary_activation(inputs[0], 1),
    "sign0": lambda inputs, t, a: binary_activation(inputs[0], 0),
    "silu": lambda inputs, t, a: F.silu(inputs[0]),
    "sigmoid": lambda inputs, t, a: torch.sigmoid(inputs[0]),
    "tanh": lambda inputs, t, a: torch.tanh(inputs[0]),
    "hardswish": lambda inputs, t, a: F.hardswish(inputs[0]),
    "hardsigmoid": lambda inputs, t, a: F.hardsigmoid(inputs[0]),
    "gelu": lambda inputs, t, a: F.gelu(inputs[0], approximate="tanh" if a["tanh"] else "none"),
    "leaky_relu": lambda inputs, t, a: F.leaky_relu(inputs[0], a["slope"]),
    "elu": lambda inputs, t, a: F.elu(inputs[0], a["alpha"]),
    "clamp": lambda inputs, t, a: torch.clamp(inputs[0], a["low"], a["high"]),
    "scale": lambda inputs, t, a: inputs[0] * a["factor"] + a["shift"],
    "softmax": lambda inputs, t, a: F.softmax(inputs[0], a["axis"]),
    "log_softmax": lambda inputs, t, a: F.log_softmax(inputs[0], a["axis"]),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "adaptive_max_pool": _adaptive_max_pool,
    "add": lambda inputs, t, a: inputs[0] + inputs[1],
    "mul": lambda inputs, t, a: inputs[0] * inputs[1],
    "div": lambda inputs, t, a: inputs[0] / inputs[1],
    "concat": lambda inputs, t, a: torch.cat(list(inputs), a["axis"]),
    "reshape": lambda inputs, t, a: inputs[0].reshape(a["shape"]),
    "expand": lambda inputs, t, a: inputs[0].expand(a["shape"]),
    "permute": lambda inputs, t, a: inputs[0].permute(a["axes"]),
    "slice": _slice,
    "pad": _pad,
    "mean": lambda inputs, t, a: inputs[0].mean(a["axes"], a["keep"]),
    "sum": lambda inputs, t, a: inputs[0].sum(a["axes"], a["keep"]),
    "max": lambda inputs, t, a: inputs[0].amax(a["axes"], a["keep"]),
    "matmul": lambda inputs, t, a: inputs[0] @ inputs[1],
    "attention": _attention,
}
