"""A ticket computed by numpy alone: the fallback where there is no compiled core, and the reference
for the tests of its kernels.
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
"""Limit of the numbers that one operation makes for a chunk of images, 32 MiB: larger chunks are no
faster. A single image may need more.
"""


class Reference:
    """Logits of a ticket of one of biprop's own networks.

    A masked layer sums +x and -x and multiplies once, by its gain: between binary activations its
    sums are whole numbers, the same in every order, so that a sign that follows does not depend on
    rounding.

    Attributes:
        graph: the network's operations.
        outputs: number of logits of an image.

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
            wanted = ", ".join(map(str, shape))
            raise UserError(f"images of shape {images.shape}: the network takes [B, {wanted}]")
        logits = np.empty((len(images), self.outputs), dtype=np.float32)
        chunk = max(1, _MOST_NUMBERS // max(self._numbers(node) for node in self.graph))
        for first in range(0, len(images), chunk):
            part = images[first : first + chunk].astype(np.float32, copy=False)
            result = self._run(part.transpose(1, 0, 2, 3))
            logits[first : first + chunk] = result.reshape(self.outputs, -1).T
        return logits

    def _numbers(self, node: Node) -> int:
        """Numbers that an operation makes for an image: its result, and the matrix it reads."""
        channels, height, width = node.shape
        columns = 0
        if node.op == "conv":
            columns = self.graph[node.inputs[0]].shape[0] * math.prod(node.kernel)
        return (columns + channels) * height * width

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
        match node.op:
            case "conv":
                return self._conv(node, x)
            case "norm":
                scale, shift = self._norms[node.name]
                return x * scale + shift
            case "relu":
                return np.maximum(x, np.float32(0))
            case "sign":
                return _sign(x)
            case "sign0":
                return np.sign(x)
            case "max_pool":
                return _max_pool(x, node)
            case "avg_pool":
                return _avg_pool(x, node)
            case "add":
                assert other is not None
                return x + other
            case "flatten":
                return x.transpose(0, 2, 3, 1).reshape(node.shape[0], x.shape[1], 1, 1)
        raise AssertionError(node.op)

    def _conv(self, node: Node, x: Array) -> Array:
        weight, gain, bias = self._convs[node.name]
        windows = _windows(x, node).transpose(0, 4, 5, 1, 2, 3)
        out: Array = weight @ windows.reshape(weight.shape[1], -1)
        out *= gain
        if bias is not None:
            out += bias
        channels, height, width = node.shape
        return out.reshape(channels, x.shape[1], height, width)


def _sign(x: Array) -> Array:
    """The sign, with sign(0) = 1; np.where takes ten times as long."""
    sign: Array = np.float32(2) * (x >= 0) - np.float32(1)
    return sign


def _max_pool(x: Array, node: Node) -> Array:
    """The maximum over the positions of the kernel; `.max` over two axes takes 20 times as long."""
    windows = _windows(x, node, padding=-np.inf)
    return reduce(np.maximum, (windows[..., i, j] for i, j in np.ndindex(node.kernel)))


def _avg_pool(x: Array, node: Node) -> Array:
    mean: Array = _windows(x, node).mean(axis=(4, 5))
    return mean


def _windows(x: Array, node: Node, padding: float = 0.0) -> Array:
    """The windows that a convolution or a pool moves over, a view of the padded maps.

    Args:
        x: [C, B, H, W].
        node: of the convolution or the pool.
        padding: value of the padded border.

    Returns:
        [C, B, height and width of the result, height and width of the kernel].
    """
    if node.padding:
        border = (node.padding, node.padding)
        x = np.pad(x, [(0, 0), (0, 0), border, border], constant_values=padding)
    windows = np.lib.stride_tricks.sliding_window_view(x, node.kernel, axis=(2, 3))
    return windows[:, :, :: node.stride, :: node.stride]


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
        layer = self.masked.get(key)
        weight = self.ticket.state[key] if layer is None else np.sign(self.ticket.weight(layer))
        gain = 1.0 if layer is None else layer.gain
        bias = None
        if f"{node.name}.bias" in self.shapes:
            bias = self._vector(f"{node.name}.bias", node).reshape(-1, 1)
        return weight.reshape(node.shape[0], -1), np.array(gain, dtype=np.float32), bias

    def norm(self, node: Node) -> tuple[Array, Array]:
        """Scale and shift, [C, 1, 1, 1] each: x * scale + shift is the batch norm."""
        name = node.name
        variance = self._vector(f"{name}.running_var", node)
        scale: Array = np.reciprocal(deviation(variance, name))
        if f"{name}.weight" in self.shapes:
            scale = scale * self._vector(f"{name}.weight", node)
        shift = -self._vector(f"{name}.running_mean", node) * scale
        if f"{name}.bias" in self.shapes:
            shift = shift + self._vector(f"{name}.bias", node)
        return scale.reshape(-1, 1, 1, 1), shift.reshape(-1, 1, 1, 1)

    def _vector(self, key: str, node: Node) -> Array:
        """A number per channel, [C], of the state."""
        self._use(key, node.shape[:1])
        if key in self.masked:
            raise TicketError(f"does not fit its network: {key} is of a masked layer")
        return self.ticket.state[key]

    def _use(self, key: str, shape: tuple[int, ...]) -> None:
        here = self.shapes.get(key, "absent")
        if here != shape:
            raise TicketError(f"does not fit its network: {key} is {here} here and {shape} there")
        self.unused.discard(key)

    def check_all_used(self) -> None:
        """Raise TicketError if the network has no place for a tensor."""
        for key, shape in self.shapes.items():
            if key in self.unused:
                raise TicketError(
                    f"does not fit its network: {key} is {shape} here and absent there"
                )
