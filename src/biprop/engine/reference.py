"""A ticket computed by numpy alone: what runs where there is no compiled core, and the truth for
the tests of its kernels.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..models.graph import Node, deviation, graph_of
from ..ticket import Ticket, TicketError

Array = NDArray[np.float32]

_MOST_NUMBERS = 1 << 23
"""That one operation makes for a chunk of images, 32 MiB: larger chunks are no faster.

A single image may need more.
"""


class Reference:
    """Logits of a ticket of one of biprop's own networks.

    A masked layer sums +x and -x and multiplies once, by its gain: between binary activations its
    sums are whole numbers, the same in every order, so that a sign that follows does not depend on
    rounding.

    Attributes:
        graph: the network's operations.
        outputs: how many numbers an image gives.

    Raises:
        TicketError: it is of a network that is not known, or its tensors are not the network's; the
            message names one.
    """

    def __init__(self, ticket: Ticket) -> None:
        self.graph = graph_of(ticket.network)
        self.outputs = self.graph[-1].shape[0]
        self._convs: dict[str, tuple[Array, Array, Array | None]] = {}
        self._norms: dict[str, tuple[Array, Array]] = {}
        tensors = _Tensors(ticket)
        for node in self.graph:
            if node.op == "conv":
                self._convs[node.name] = tensors.conv(node, self.graph[node.inputs[0]].shape[0])
            elif node.op == "norm":
                self._norms[node.name] = tensors.norm(node)
        tensors.check_all_used()
        self._last_use = {i: at for at, node in enumerate(self.graph) for i in node.inputs}

    def run(self, images: Array) -> Array:
        """The logits of images.

        Args:
            images: [B, channels, height, width] float32, normalised; B may be 0.

        Returns:
            [B, outputs] float32.

        Raises:
            UserError: images of another shape than the network's.
        """
        shape = self.graph[0].shape
        if images.shape[1:] != shape:
            raise UserError(
                f"images of shape {images.shape}: the network takes [B,"
                f" {', '.join(map(str, shape))}]"
            )
        logits = np.empty((len(images), self.outputs), dtype=np.float32)
        chunk = max(1, _MOST_NUMBERS // max(self._numbers(node) for node in self.graph))
        for first in range(0, len(images), chunk):
            part = images[first : first + chunk].astype(np.float32, copy=False)
            logits[first : first + chunk] = (
                self._run(part.transpose(1, 0, 2, 3)).reshape(self.outputs, -1).T
            )
        return logits

    def _numbers(self, node: Node) -> int:
        """How many an image takes: the result's, and what is multiplied for it."""
        columns = (
            self.graph[node.inputs[0]].shape[0] * math.prod(node.kernel) if node.op == "conv" else 0
        )
        return (columns + node.shape[0]) * node.shape[1] * node.shape[2]

    def _run(self, x: Array) -> Array:
        """The output for a few images.

        Maps are [C, B, H, W] here, so that a convolution is one product of matrices.
        """
        results = {0: x}
        for at, node in enumerate(self.graph[1:], start=1):
            results[at] = self._apply(node, *(results[i] for i in node.inputs))
            for i in set(node.inputs):
                if self._last_use[i] == at:
                    del results[i]
        return results[at]

    def _apply(self, node: Node, x: Array, other: Array | None = None) -> Array:
        """One operation on [C, B, H, W]."""
        out: Array
        match node.op:
            case "conv":
                weight, gain, bias = self._convs[node.name]
                columns = _windows(x, node).transpose(0, 4, 5, 1, 2, 3).reshape(weight.shape[1], -1)
                out = weight @ columns
                out *= gain
                if bias is not None:
                    out += bias
                out = out.reshape(node.shape[0], x.shape[1], *node.shape[1:])
            case "norm":
                scale, shift = self._norms[node.name]
                out = x * scale + shift
            case "relu":
                out = np.maximum(x, np.float32(0))
            case "sign":
                out = np.float32(2) * (x >= 0) - np.float32(1)  # np.where takes ten times as long
            case "sign0":
                out = np.sign(x)
            case "max_pool":
                windows = _windows(
                    x, node, padding=-np.inf
                )  # whose .max over two axes takes 20 times as long
                out = reduce(np.maximum, (windows[..., i, j] for i, j in np.ndindex(node.kernel)))
            case "avg_pool":
                out = _windows(x, node).mean(axis=(4, 5))
            case "add":
                assert other is not None
                out = x + other
            case "flatten":
                out = x.transpose(0, 2, 3, 1).reshape(node.shape[0], x.shape[1], 1, 1)
            case _:
                raise AssertionError(node.op)
        return out


def _windows(x: Array, node: Node, padding: float = 0.0) -> Array:
    """[C, B, H, W] -> [C, B, height and width of the result, height and width of the kernel], a
    view of the padded maps.
    """
    if node.padding:
        x = np.pad(
            x, [(0, 0), (0, 0), *[(node.padding, node.padding)] * 2], constant_values=padding
        )
    return np.lib.stride_tricks.sliding_window_view(x, node.kernel, axis=(2, 3))[
        :, :, :: node.stride, :: node.stride
    ]


class _Tensors:
    """The tensors of a ticket by name, checked as they are taken."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.masked = {layer.key: layer for layer in ticket.layers}
        self.shapes = {name: value.shape for name, value in ticket.state.items()}
        self.shapes |= {key: layer.shape for key, layer in self.masked.items()}
        self.unused = set(self.shapes)

    def conv(self, node: Node, in_width: int) -> tuple[Array, Array, Array | None]:
        """Weight [outputs, inputs * kernel], gain (a scalar), and bias [outputs, 1]."""
        key = f"{node.name}.weight"
        self._use(key, (node.shape[0], in_width, *node.kernel))
        if key in self.masked:
            weight, gain = np.sign(self.ticket.weight(self.masked[key])), self.masked[key].gain
        else:
            weight, gain = self.ticket.state[key], 1.0
        bias = (
            self._vector(f"{node.name}.bias", node).reshape(-1, 1)
            if f"{node.name}.bias" in self.shapes
            else None
        )
        return weight.reshape(node.shape[0], -1), np.array(gain, dtype=np.float32), bias

    def norm(self, node: Node) -> tuple[Array, Array]:
        """Scale and shift, [C, 1, 1, 1] each: x * scale + shift is the batch norm."""
        scale: Array = np.reciprocal(
            deviation(self._vector(f"{node.name}.running_var", node), node.name)
        )
        if f"{node.name}.weight" in self.shapes:
            scale = scale * self._vector(f"{node.name}.weight", node)
        shift = -self._vector(f"{node.name}.running_mean", node) * scale
        if f"{node.name}.bias" in self.shapes:
            shift = shift + self._vector(f"{node.name}.bias", node)
        return scale.reshape(-1, 1, 1, 1), shift.reshape(-1, 1, 1, 1)

    def _vector(self, key: str, node: Node) -> Array:
        """A number per channel, dense."""
        self._use(key, node.shape[:1])
        if key in self.masked:
            raise TicketError(f"does not fit its network: {key} is of a masked layer")
        return self.ticket.state[key]

    def _use(self, key: str, shape: tuple[int, ...]) -> None:
        if self.shapes.get(key) != shape:
            raise TicketError(
                f"does not fit its network: {key} is {self.shapes.get(key, 'absent')} here and"
                f" {shape} there"
            )
        self.unused.discard(key)

    def check_all_used(self) -> None:
        for key in self.shapes:
            if key in self.unused:
                raise TicketError(
                    f"does not fit its network: {key} is {self.shapes[key]} here and absent there"
                )
