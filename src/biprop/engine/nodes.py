"""The graph of a ticket of the user's own network as the nodes that the compiled engine has, where
it has them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import TicketError
from ..models.graph import Node
from ..models.operations import Graph, Operation, Shape, Shapes, check_graph


def nodes_of(graph: Graph, tensors: Shapes) -> list[Node]:
    """The nodes of a graph.

    Args:
        graph: of a ticket.
        tensors: shapes of its tensors by name.

    Returns:
        Nodes as of `graph_of`: maps of (channels, height, width); features are maps of one
        position.

    Raises:
        TicketError: the engine does not have an operation; the message names it.
    """
    return _Nodes(graph, check_graph(graph, tensors), tensors).nodes


class _Nodes:
    """Nodes in the making; `at` has the node of each value."""

    def __init__(self, graph: Graph, shapes: Sequence[Shape], tensors: Shapes) -> None:
        self.shapes, self.tensors = shapes, tensors
        if graph.indices:
            raise TicketError("the engine has no embeddings")
        self.nodes = [Node("input", (), _map(shapes[0], "input"))]
        self.at = [0]
        for number, operation in enumerate(graph.operations, start=1):
            self.at.append(self.step(operation, shapes[number]))
        if math.prod(self.nodes[-1].shape) != self.nodes[-1].shape[0]:
            raise TicketError("the engine has no operation that gives maps as output")

    def step(self, operation: Operation, shape: Shape) -> int:
        """The number of the node that gives an operation's result."""
        refusal = _refusal(operation)
        inputs = tuple(self.at[i] for i in operation.inputs)
        before = [self.shapes[i] for i in operation.inputs]
        match operation.op:
            case "conv" | "linear":
                node = self.layer(operation, inputs, _map(shape, refusal))
            case "batch_norm":
                name = self.module(operation, "running_mean")
                eps = float(operation.named["eps"])
                node = Node("norm", inputs, _map(shape, refusal), name, eps=eps)
            case "relu" | "sign" | "sign0":
                node = Node(operation.op, inputs, _map(shape, refusal))
            case "add" if len({self.nodes[i].shape for i in inputs}) == 1 and -1 in before[0][:1]:
                node = Node("add", inputs, _map(shape, refusal))
            case "max_pool" | "avg_pool":
                node = _pool(operation, inputs, _map(shape, refusal))
            case "adaptive_avg_pool" | "adaptive_max_pool" | "mean" | "max":
                node = _global_pool(operation, inputs, before[0], shape)
            case "reshape":
                return self.reshape(operation, before[0], shape)
            case _:
                raise TicketError(refusal)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def layer(self, operation: Operation, inputs: tuple[int, ...], shape: Shape) -> Node:
        """A convolution of two sides, or a linear layer as one of a single position."""
        name = self.module(operation, "weight")
        size = self.tensors[operation.tensor_of["weight"]]
        if operation.op == "linear":
            if len(self.shapes[operation.inputs[0]]) != 2:
                raise TicketError(_refusal(operation))
            return Node("conv", inputs, _triple(shape), name)
        a = operation.named
        kernel, stride, padding = size[2:], set(a["stride"]), set(a["padding"])
        is_plain = a["groups"] == 1 and set(a["dilation"]) == {1}
        if len(kernel) != 2 or not is_plain or len(stride) != 1 or len(padding) != 1:
            raise TicketError(
                f"{_refusal(operation)}: convolutions of two sides, without groups and dilation,"
                " with equal strides and paddings"
            )
        sides = (kernel[0], kernel[1])
        return Node("conv", inputs, _triple(shape), name, sides, stride.pop(), padding.pop())

    def module(self, operation: Operation, role: str) -> str:
        """The module whose tensors an operation reads, under their usual names.

        Raises:
            TicketError: they are of several, or have other names.
        """
        names = operation.tensor_of
        name = names[role].rpartition(".")[0]
        leaves = {"weight", "bias", *names}
        there = {leaf for leaf in leaves if f"{name}.{leaf}" in self.tensors}
        is_usual = all(names.get(leaf) == f"{name}.{leaf}" for leaf in there | set(names))
        if not name or not is_usual:
            raise TicketError(f"{_refusal(operation)} with tensors that are not one module's")
        return name

    def reshape(self, operation: Operation, before: Shape, shape: Shape) -> int:
        """Maps to features in C order; or features to maps of one position and back."""
        (source,) = (self.at[i] for i in operation.inputs)
        features = (-1, -math.prod(before))
        is_flat = shape[:2] == features and math.prod(shape[2:]) == 1
        if before[0] != -1 or not is_flat or len(shape) not in (2, 4):
            raise TicketError(f"{_refusal(operation)} of {before} to {shape}")
        if self.nodes[source].shape[1:] == (1, 1):
            return source
        self.nodes.append(Node("flatten", (source,), (features[1], 1, 1)))
        return len(self.nodes) - 1


def _refusal(operation: Operation) -> str:
    name = next((f" {name}" for name in operation.tensors if name), "")
    return f"the engine has no operation for {operation.op}{name}"


def _triple(shape: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width


def _map(shape: Shape, refusal: str) -> tuple[int, int, int]:
    """(channels, height, width) of a value: of features with a height and a width of 1."""
    if shape[:1] == (-1,) and len(shape) == 2:
        return shape[1], 1, 1
    if shape[:1] == (-1,) and len(shape) == 4:
        return _triple(shape[1:])
    raise TicketError(f"{refusal} of shape {shape}" if refusal != "input" else _INPUT)


_INPUT = "the engine takes images [B, channels, height, width] or features [B, features]"


def _pool(operation: Operation, inputs: tuple[int, ...], shape: tuple[int, int, int]) -> Node:
    a = operation.named
    kernel, stride, padding = a["kernel"], set(a["stride"]), set(a["padding"])
    is_plain = len(kernel) == 2 and not a["ceil"] and set(a.get("dilation", (1, 1))) == {1}
    is_plain &= len(padding) == 1 and (operation.op == "max_pool" or padding == {0})
    if not is_plain or (len(stride) != 1 and shape[1:] != (1, 1)):
        raise TicketError(f"{_refusal(operation)}: pools with equal strides and paddings")
    sides = (kernel[0], kernel[1])
    return Node(operation.op, inputs, shape, "", sides, max(stride), padding.pop())


def _global_pool(
    operation: Operation, inputs: tuple[int, ...], before: Shape, shape: Shape
) -> Node:
    """The mean or maximum of whole maps."""
    axes = operation.named.get("axes", (2, 3))
    sizes = operation.named.get("sizes", (1, 1))
    if len(before) != 4 or sorted(axes) != [2, 3] or sizes != (1, 1):
        raise TicketError(f"{_refusal(operation)}: means and maxima of whole maps")
    _, channels, height, width = before
    op = "avg_pool" if operation.op in ("adaptive_avg_pool", "mean") else "max_pool"
    sides = (height, width)
    return Node(op, inputs, (channels, 1, 1), "", sides, max(sides))
