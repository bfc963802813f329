"""A ticket computed by numpy alone: the fallback where there is no compiled core, and the reference
for the tests of its kernels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..models.graph import Node, as_operations, deviation, graph_of
from ..models.operations import MOST_READ, Graph, Operation, check_graph
from ..ticket import Ticket, TicketError
from .compute import COMPUTE

Array = NDArray[np.float32]

_MOST_NUMBERS = 1 << 23
"""Limit of the numbers that one operation makes for a chunk of images, 32 MiB: larger chunks are no
faster. A single image may need more.
"""


class Reference:
    """Logits of a ticket: of a network of the registry, or of one with a graph.

    A masked layer sums +x and -x and multiplies once, by its gain: between binary activations its
    sums are whole numbers, the same in every order, so that a sign that follows does not depend on
    rounding.

    Attributes:
        graph: the network's operations.
        shapes: of the graph's values, see `operations`.
        outputs: number of logits of an image.

    Raises:
        TicketError: it is of a network that is not known, or its tensors are not the network's; the
            message names one.
    """

    def __init__(self, ticket: Ticket) -> None:
        self.graph = ticket.graph or _graph_of_registry(ticket)
        self.shapes = check_graph(self.graph, ticket.shapes, MOST_READ)
        self.outputs = math.prod(self.shapes[-1][1:])
        source = _Source(ticket)
        self._tensors = [source.tensors(operation) for operation in self.graph.operations]
        self._last_use = {
            i: number
            for number, operation in enumerate(self.graph.operations, start=1)
            for i in operation.inputs
        }

    def run(self, images: NDArray[Any]) -> Array:
        """The logits of images, or of other samples of the shape that the network takes.

        Args:
            images: [B, channels, height, width] float32, normalised; B may be 0. Whole numbers for
                a network that embeds them.

        Returns:
            [B, outputs] float32; [B, ...] where the network has another output than logits.

        Raises:
            UserError: images of another shape than the network's.
        """
        shape = self.graph.input[1:]
        if images.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise UserError(f"images of shape {images.shape}: the network takes [B, {wanted}]")
        samples = self._converted(images)
        results = np.empty((len(samples), *self.shapes[-1][1:]), dtype=np.float32)
        numbers = range(1, len(self.shapes))
        chunk = max(1, _MOST_NUMBERS // max(map(self._numbers, numbers)))
        for first in range(0, len(samples), chunk):
            results[first : first + chunk] = self._run(samples[first : first + chunk])
        return results

    def _converted(self, samples: NDArray[Any]) -> NDArray[Any]:
        if not self.graph.indices:
            return samples.astype(np.float32, copy=False)
        if samples.dtype.kind not in "iu":
            raise UserError(f"inputs of type {samples.dtype}: the network takes whole numbers")
        return samples.astype(np.int64, copy=False)

    def _numbers(self, number: int) -> int:
        """Numbers that an operation makes for an image: its result, and the matrix it reads."""
        operation, shape = self.graph.operations[number - 1], self.shapes[number]
        columns = 0
        if operation.op == "conv":
            weight = self._tensors[number - 1]["weight"]
            columns = self.shapes[operation.inputs[0]][1] * math.prod(weight.shape[2:])
            columns *= math.prod(shape[2:])
        return columns + abs(math.prod(shape))

    def _run(self, x: NDArray[Any]) -> Array:
        """The output for a few images."""
        results = {0: x}
        for number, operation in enumerate(self.graph.operations, start=1):
            inputs = [results[i] for i in operation.inputs]
            results[number] = self._apply(number, inputs, len(x))
            for i in set(operation.inputs):
                if self._last_use[i] == number:
                    del results[i]
        return results[number]

    def _apply(self, number: int, inputs: list[NDArray[Any]], batch: int) -> Array:
        """The result of an operation, by its number from 1."""
        operation = self.graph.operations[number - 1]
        attributes = operation.named
        if "shape" in attributes:
            attributes["shape"] = [s * -batch if s < 0 else s for s in attributes["shape"]]
        result: Array = COMPUTE[operation.op](inputs, self._tensors[number - 1], attributes)
        return result


def _graph_of_registry(ticket: Ticket) -> Graph:
    """The operations of a network of the registry.

    Raises:
        TicketError: the ticket's tensors are not the network's; the message names one.
    """
    nodes = graph_of(ticket.network)
    tensors = _Tensors(ticket)
    for node in nodes:
        if node.op == "conv":
            tensors.check_conv(node, nodes[node.inputs[0]].shape[0])
        elif node.op == "norm":
            tensors.check_norm(node)
    tensors.check_all_used()
    return as_operations(nodes, ticket.shapes)


class _Source:
    """The arrays that operations compute with."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.masked = {layer.key: layer for layer in ticket.layers}

    def tensors(self, operation: Operation) -> dict[str, Any]:
        """Arrays by role; "gain" beside the signs of a masked layer, and "scale" and "shift" for
        batch norm.
        """
        tensors: dict[str, Any] = {}
        for role, name in operation.tensor_of.items():
            tensors[role] = self.array(name)
        if operation.op == "batch_norm":
            return scale_and_shift(operation, tensors)
        layer = self.masked.get(operation.tensors[0] or "") if operation.tensors else None
        if layer is not None and operation.op in ("conv", "conv_transpose", "linear"):
            tensors["weight"] = np.sign(tensors["weight"])
            tensors["gain"] = np.float32(layer.gain)
        return tensors

    def array(self, name: str) -> Array:
        layer = self.masked.get(name)
        return self.ticket.state[name] if layer is None else self.ticket.weight(layer)


def scale_and_shift(operation: Operation, tensors: dict[str, Array]) -> dict[str, Any]:
    """x * scale + shift is the batch norm."""
    name = operation.tensor_of["running_var"].removesuffix(".running_var")
    divisor = deviation(tensors["running_var"], name, operation.named["eps"])
    scale: Array = np.reciprocal(divisor)
    if "weight" in tensors:
        scale = scale * tensors["weight"]
    shift = -tensors["running_mean"] * scale
    if "bias" in tensors:
        shift = shift + tensors["bias"]
    return {"scale": scale, "shift": shift}


class _Tensors:
    """The tensors of a ticket of the registry, compared with what its network has."""

    def __init__(self, ticket: Ticket) -> None:
        self.masked = {layer.key for layer in ticket.layers}
        self.shapes = ticket.shapes
        self.unused = set(self.shapes)

    def check_conv(self, node: Node, in_width: int) -> None:
        """The weight [outputs, inputs, kernel], and the bias if there is one."""
        self._use(f"{node.name}.weight", (node.shape[0], in_width, *node.kernel))
        self._vectors(node, ("bias",))

    def check_norm(self, node: Node) -> None:
        self._use(f"{node.name}.running_var", node.shape[:1])
        self._use(f"{node.name}.running_mean", node.shape[:1])
        self._vectors(node, ("weight", "bias"))

    def _vectors(self, node: Node, leaves: tuple[str, ...]) -> None:
        """Numbers per channel, [C], of the state, where they are there."""
        for leaf in leaves:
            key = f"{node.name}.{leaf}"
            if key in self.shapes:
                self._use(key, node.shape[:1])
            if key in self.masked:
                raise TicketError(f"does not fit its network: {key} is of a masked layer")

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
