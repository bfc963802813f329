"""From a ticket to a program: few operations, each with what follows it (batch norm, residual sum,
activation) folded in.

Every operation of a program computes, per channel,

    out = act(scale * op(in) + shift + residual_scale * residual)

on values that are floats or, behind a sign, bits. docs/engine.md has the format of the bytes and
what is folded into what.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.graph import Node, deviation, graph_of
from ..ticket import Layer, Ticket, TicketError

MAGIC = b"BIPROG01"
_ACTS = {"": 0, "relu": 1, "sign": 2, "sign0": 3}
_KINDS = {"conv": 1, "max_pool": 2, "avg_pool": 3}
_LARGEST = float(np.finfo(np.float32).max)
Numbers = NDArray[np.float64]


@dataclass
class _Pending:
    """An operation that is not in the program yet, because what follows may be folded into it.

    Attributes:
        node: a convolution or a pool.
        value: the program's value that it reads.
        scale, shift: per channel.
        residual: a value that is added, times `residual_scale`.
        pool: a max pool that follows the convolution; `pool_scale` and `pool_shift` come after it.
    """

    node: Node
    value: int
    scale: Numbers
    shift: Numbers
    residual: int | None = None
    residual_scale: Numbers | None = None
    pool: Node | None = None
    pool_scale: Numbers = field(default_factory=lambda: np.ones(1))
    pool_shift: Numbers = field(default_factory=lambda: np.zeros(1))

    @property
    def open(self) -> bool:
        """A convolution that a residual sum or a pool may still join."""
        return self.node.op == "conv" and self.residual is None and self.pool is None

    def then(self, scale: Numbers, shift: Numbers) -> _Pending:
        """Followed by scale * x + shift."""
        if self.pool:
            return replace(
                self, pool_scale=self.pool_scale * scale, pool_shift=self.pool_shift * scale + shift
            )
        rest = None if self.residual_scale is None else self.residual_scale * scale
        return replace(
            self, scale=self.scale * scale, shift=self.shift * scale + shift, residual_scale=rest
        )


def lower(ticket: Ticket) -> bytes:
    """The program of a ticket.

    Raises:
        TicketError: a network of the user's own, or tensors that do not fit the network, or numbers
            that no batch norm has; the message names them.
    """
    return _Lowering(ticket, graph_of(ticket.network)).program()


class _Lowering:
    def __init__(self, ticket: Ticket, nodes: list[Node]) -> None:
        self.state, self.nodes = ticket.state, nodes
        self.ticket, self.layers = ticket, {layer.name: layer for layer in ticket.layers}
        self.readers = Counter(i for node in nodes for i in node.inputs)
        self.values: list[tuple[bool, tuple[int, int, int]]] = [(False, nodes[0].shape)]
        self.ops: list[bytes] = []
        self.made: list[int | _Pending] = [
            0
        ]  # node -> a value of the program, or what is still pending

    def program(self) -> bytes:
        for node in self.nodes[1:]:
            self.made.append(self.step(node))
        if self.value(len(self.nodes) - 1) != len(self.values) - 1:
            raise TicketError("its network has no last operation")
        mean, std = self.normalisation()
        head = struct.pack("<III", len(self.values), len(self.ops), bool(mean.size))
        shapes = b"".join(struct.pack("<IIII", bits, *shape) for bits, shape in self.values)
        return MAGIC + head + shapes + mean.tobytes() + std.tobytes() + b"".join(self.ops)

    def normalisation(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        channels = self.nodes[0].shape[0] if self.ticket.mean else 0
        mean, std = (
            np.array(numbers, dtype="<f4") for numbers in (self.ticket.mean, self.ticket.std)
        )
        return np.resize(mean, channels), np.resize(
            std, channels
        )  # one number counts for all channels

    def step(self, node: Node) -> int | _Pending:
        """What the node makes of what came before."""
        before = self.made[node.inputs[0]]
        alone = isinstance(before, _Pending) and self.readers[node.inputs[0]] == 1
        match node.op:
            case "conv":
                return self.conv(node)
            case "norm":
                scale, shift = self.norm(node.name, node.shape[0])
                return (before if alone and isinstance(before, _Pending) else self.copy(node)).then(
                    scale, shift
                )
            case "relu" | "sign" | "sign0":
                return self.emit(
                    before if alone and isinstance(before, _Pending) else self.copy(node), node.op
                )
            case "max_pool" | "avg_pool":
                if node.op == "max_pool" and alone and isinstance(before, _Pending) and before.open:
                    return replace(before, pool=node)
                return self.plain(node, self.value(node.inputs[0]))
            case "add":
                return self.add(node)
            case "flatten":
                return self.value(node.inputs[0])
        raise TicketError(f"the engine has no operation for {node.op} {node.name}".rstrip())

    def conv(self, node: Node) -> _Pending:
        value = self.value(node.inputs[0])
        bits, shape = self.values[value]
        if self.nodes[node.inputs[0]].op == "flatten":
            node = replace(
                node, kernel=shape[1:]
            )  # a linear layer on a map is a convolution as large as the map
        if node.name not in self.layers and bits:
            value = self.emit(self.plain(Node("max_pool", (), shape), value), "")
        pending = self.plain(node, value)
        if node.name in self.layers:
            pending = pending.then(
                np.full(node.shape[0], self.layers[node.name].gain, np.float64),
                np.zeros(node.shape[0]),
            )
        bias = self.state.get(f"{node.name}.bias")
        return (
            pending
            if bias is None
            else pending.then(np.ones(1), self.tensor(f"{node.name}.bias", (node.shape[0],)))
        )

    def plain(self, node: Node, value: int) -> _Pending:
        return _Pending(node, value, np.ones(node.shape[0]), np.zeros(node.shape[0]))

    def copy(self, node: Node) -> _Pending:
        """Takes the node's input as it is: a pool of one position."""
        value = self.value(node.inputs[0])
        return self.plain(Node("max_pool", (), self.values[value][1]), value)

    def add(self, node: Node) -> _Pending:
        """The residual sum: the convolution that comes last takes the other summand along."""
        for host, other in (node.inputs, node.inputs[::-1]):
            pending = self.made[host]
            if isinstance(pending, _Pending) and self.readers[host] == 1 and pending.open:
                return replace(
                    pending, residual=self.value(other), residual_scale=np.ones(node.shape[0])
                )
        raise TicketError("its network adds what is not a convolution's result; the engine cannot")

    def norm(self, name: str, channels: int) -> tuple[Numbers, Numbers]:
        """Batch norm with its running statistics as scale and shift."""
        scale = 1 / deviation(self.tensor(f"{name}.running_var", (channels,)), name)
        if f"{name}.weight" in self.state:
            scale = scale * self.tensor(f"{name}.weight", (channels,))
        shift = -self.tensor(f"{name}.running_mean", (channels,)) * scale
        return scale, (
            shift + self.tensor(f"{name}.bias", (channels,))
            if f"{name}.bias" in self.state
            else shift
        )

    def tensor(self, name: str, shape: tuple[int, ...]) -> Numbers:
        value = self.state.get(name)
        if value is None or value.shape != shape:
            raise TicketError(
                f"does not fit its network: {name} is {'absent' if value is None else value.shape},"
                f" not {shape}"
            )
        return value.astype(np.float64)

    def value(self, node: int) -> int:
        """The program's value of a node."""
        made = self.made[node]
        if isinstance(made, _Pending):
            made = self.made[node] = self.emit(made, "")
        return made

    def emit(self, pending: _Pending, act: str) -> int:
        """Put the operation into the program; the result is its value."""
        if pending.pool is None:
            if act == "sign" and pending.node.op == "max_pool" and self.values[pending.value][0]:
                # A pool from bits to bits knows no scale: by way of floats.
                pending = self.plain(
                    Node("max_pool", (), pending.node.shape), self.write(pending, "")
                )
            return self.write(pending, act)
        inner = replace(pending, pool=None)
        if act in ("", "relu") and (pending.pool_scale > 0).all():
            # What keeps order goes before the pool, which then selects: values with the levels that
            # the next layer reads.
            value, like = (
                self.write(inner.then(pending.pool_scale, pending.pool_shift), act),
                np.zeros(pending.node.shape[0]),
            )
            return self.write(_Pending(pending.pool, value, 1 + like, like), "")
        if act != "sign":
            value, like = self.write(inner, ""), np.zeros(pending.node.shape[0])
            return self.write(
                _Pending(pending.pool, value, pending.pool_scale + like, pending.pool_shift + like),
                act,
            )
        # The sign goes before the pool, which is then "any" of the bits, or "all" where the scale
        # turns the order.
        value = self.write(inner.then(pending.pool_scale, pending.pool_shift), "sign")
        order = np.where(np.broadcast_to(pending.pool_scale, inner.scale.shape) < 0, -1.0, 1.0)
        return self.write(_Pending(pending.pool, value, order, np.zeros_like(order)), "sign")

    def write(self, pending: _Pending, act: str) -> int:
        node, residual = pending.node, pending.residual
        factors = [
            n for n in (pending.scale, pending.shift, pending.residual_scale) if n is not None
        ]
        if not all((np.abs(numbers) <= _LARGEST).all() for numbers in factors):
            raise TicketError(
                f"a gain or batch norm beside {node.name or node.op} is not a finite 32-bit number"
            )
        out = len(self.values)
        self.values.append((act == "sign", node.shape))
        self.ops.append(
            struct.pack(
                "<IIIIIIIII", _KINDS[node.op], pending.value, out, 0 if residual is None else residual + 1, _ACTS[act],
                *node.kernel, node.stride, node.padding,
            )
            + b"".join(
                np.broadcast_to(numbers, node.shape[:1]).astype("<f8").tobytes() for numbers in factors
            )
            + (self.weights(node, self.values[pending.value][1][0]) if node.op == "conv" else b"")
        )  # fmt: skip
        return out

    def weights(self, node: Node, channels: int) -> bytes:
        shape = (node.shape[0], channels, *node.kernel)
        layer = self.layers.get(node.name)
        if layer is None:
            name = f"{node.name}.weight"
            value: NDArray[Any] | None = self.state.get(name)
            if value is None or value.size != np.prod(shape):
                raise TicketError(
                    f"does not fit its network: {name} is"
                    f" {'absent' if value is None else value.shape}, not {shape}"
                )
            return struct.pack("<I", 1) + value.astype("<f4").tobytes()
        if layer.weights != np.prod(shape) or layer.shape[0] != shape[0]:
            raise TicketError(
                f"does not fit its network: {layer.key} is {layer.shape}, not {shape}"
            )
        return struct.pack("<I", 0) + self.planes(layer)

    def planes(self, layer: Layer) -> bytes:
        return layer.mask.tobytes() + self.ticket.sign_plane(layer).tobytes()
