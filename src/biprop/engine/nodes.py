"""The graph of a ticket of the user's own network as the nodes that the compiled engine has.

Maps, features and tokens become nodes of (channels, height, width); `views` says how the axes of a
value lie in them. Where convolutions, batch norm, ReLU, sign, pools and sums are all there is, the
nodes are those of the registry's networks; other operations are plain nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import TicketError
from ..models.graph import Node
from ..models.operations import Graph, Operation, Shape, check_graph
from ..ticket import Ticket
from .arithmetic import Arithmetic
from .builder import Activation, Scale, joined
from .views import MisfitError, View, fresh, packed
from .windows import Windows

ACTS = {
    **{"relu": 1, "sign": 2, "sign0": 3, "silu": 4, "sigmoid": 5, "tanh": 6, "hardswish": 7},
    **{"hardsigmoid": 8, "gelu": 9, "gelu_tanh": 10, "leaky_relu": 11, "elu": 12, "clamp": 13},
}


def nodes_of(ticket: Ticket) -> list[Node]:
    """The nodes of a ticket's graph.

    Returns:
        Nodes as of `graph_of`: maps of (channels, height, width); features are maps of one
        position. The last one has the numbers of the output in C order.

    Raises:
        TicketError: the engine does not have an operation; the message names it.
    """
    assert ticket.graph
    shapes = check_graph(ticket.graph, ticket.shapes)
    try:
        return _Nodes(ticket, ticket.graph, shapes, False).nodes
    except TicketError:
        return _Nodes(ticket, ticket.graph, shapes, True).nodes


class _Nodes(Windows, Arithmetic):
    """The nodes of a graph; `views` has the view of each value."""

    def __init__(self, ticket: Ticket, graph: Graph, shapes: Sequence[Shape], plain: bool) -> None:
        super().__init__(ticket, plain)
        self.views = [self.input(shapes[0], graph.indices)]
        for number, operation in enumerate(graph.operations, start=1):
            self.refusal = _refusal(operation)
            self.shape = shapes[number]
            try:
                self.views.append(self.step(operation))
            except MisfitError:
                raise TicketError(self.refusal) from None
        self.output(self.views[-1])

    def step(self, operation: Operation) -> View:
        """The view of an operation's result."""
        views = [self.views[i] for i in operation.inputs]
        a = operation.named
        match operation.op:
            case "tensor":
                return self.tensor(operation)
            case "conv" | "conv_transpose":
                return self.convolution(operation, views[0])
            case "linear":
                return self.linear(operation, views[0])
            case "batch_norm":
                return self.batch_norm(operation, views[0])
            case "scale":
                view = self.compact(views[0])
                numbers = {"factor": (float(a["factor"]),), "shift": (float(a["shift"]),)}
                return self.like(view, Scale, "scale", **numbers)
            case "reshape":
                return self.reshape(views[0])
            case "permute":
                return views[0].permuted(a["axes"])
            case "expand":
                return views[0].expanded(self.shape)
            case "slice":
                return self.cut(views[0], a)
            case "add" | "mul" | "div":
                return self.arithmetic(operation.op, views[0], views[1])
            case _:
                return self.other(operation, views, a)

    def other(self, operation: Operation, views: Sequence[View], a: dict[str, Any]) -> View:
        match operation.op:
            case "max_pool" | "avg_pool":
                return self.pool(operation, views[0])
            case "adaptive_avg_pool" | "adaptive_max_pool":
                return self.adaptive_pool(operation, views[0])
            case "mean" | "sum" | "max":
                return self.reduce(operation, views[0])
            case "softmax" | "log_softmax":
                numbers = [int(operation.op == "log_softmax")]
                return self.along(views[0], views[0].axes[a["axis"]], "softmax", numbers)
            case "group_norm":
                return self.group_norm(operation, views[0])
            case "layer_norm":
                return self.layer_norm(operation, views[0])
            case "concat":
                return self.concat(views, a["axis"])
            case "pad":
                return self.pad(views[0], a)
            case "matmul":
                return self.matmul(views[0], views[1])
            case "attention":
                return self.attention(views, a)
            case "embedding":
                return self.embedding(operation, views[0])
            case _:
                return self.activation(operation, views[0])

    def tensor(self, operation: Operation) -> View:
        if not self.plain:
            raise TicketError(self.refusal)
        array = np.ascontiguousarray(self.array(operation.tensor_of["weight"]), np.float32)
        axes = fresh(array.shape)
        return View(None, axes, packed(joined(axes)), array=array)

    def activation(self, operation: Operation, view: View) -> View:
        op, a = operation.op, operation.named
        view = self.compact(view)
        if op in ("relu", "sign", "sign0"):
            return self.like(view, Node, op)
        if not self.plain or op not in ACTS:
            raise TicketError(self.refusal)
        first: Any = a.get("slope", a.get("alpha", 0.0))
        second: Any = 0.0
        if op == "clamp":
            largest = float(np.finfo(np.float32).max)
            first = -largest if a["low"] is None else a["low"]
            second = largest if a["high"] is None else a["high"]
        act = "gelu_tanh" if a.get("tanh") else op
        numbers = {"first": float(first), "second": float(second)}
        return self.like(view, Activation, "activation", act=act, **numbers)


def _refusal(operation: Operation) -> str:
    name = next((f" {name}" for name in operation.tensors if name), "")
    return f"the engine has no operation for {operation.op}{name}"
