"""From a ticket to a program: few operations, each with what follows it (batch norm, residual sum,
activation) folded in.

Every operation of a program computes, per channel,

    out = act(scale * op(in) + shift + residual_scale * residual)

on values that are floats or, behind a sign, bits. Networks of a user's own may have plain
operations as well, on floats only. docs/engine.md has the format of the bytes and what is folded
into what.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.graph import Node, deviation, graph_of
from ..ticket import Layer as MaskedLayer
from ..ticket import Ticket, TicketError
from .builder import Activation, BatchNorm, Layer, Plain, Scale
from .nodes import ACTS, nodes_of

MAGIC, MAGIC_2 = b"BIPROG01", b"BIPROG02"
_ACTS = {"": 0, "relu": 1, "sign": 2, "sign0": 3}
_KINDS = {"conv": 1, "max_pool": 2, "avg_pool": 3}
_PLAIN_KINDS = {
    **{"elementwise": 4, "binary": 5, "move": 6, "conv": 7, "pool": 8, "reduce": 9},
    **{"normalise": 10, "softmax": 11, "contract": 12, "attention": 13, "constant": 14},
    "embedding": 15,
}
_WIDEST_BITS = 64  # positions of a row of bits of one image
_LARGEST = float(np.finfo(np.float32).max)
Numbers = NDArray[np.float64]
Arranged = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass
class _Pending:
    """An operation that is not in the program yet, because what follows may be folded into it.

    Attributes:
        node: a convolution, a pool, or an elementwise operation.
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
        """Whether it is a convolution that a residual sum or a pool may still join."""
        is_conv = self.node.op == "conv" and not self.plain
        return is_conv and self.residual is None and self.pool is None

    @property
    def plain(self) -> bool:
        """Whether it becomes a plain operation."""
        is_plain_conv = isinstance(self.node, Layer) and bool(self.node.windows)
        return is_plain_conv or self.node.op == "elementwise"

    def then(self, scale: Numbers, shift: Numbers) -> _Pending:
        """The operation followed by scale * x + shift."""
        if self.pool:
            pool_scale, pool_shift = self.pool_scale * scale, self.pool_shift * scale + shift
            return replace(self, pool_scale=pool_scale, pool_shift=pool_shift)
        rest = None if self.residual_scale is None else self.residual_scale * scale
        return replace(
            self, scale=self.scale * scale, shift=self.shift * scale + shift, residual_scale=rest
        )

    def factors(self) -> list[Numbers]:
        """Scale, shift and, if there is a residual, its scale."""
        factors = (self.scale, self.shift, self.residual_scale)
        return [numbers for numbers in factors if numbers is not None]


def lower(ticket: Ticket) -> bytes:
    """The program of a ticket.

    Raises:
        TicketError: a network without a graph, or an operation that the engine does not have, or
            tensors that do not fit the network, or numbers that no batch norm has; the message
            names them.
    """
    if ticket.graph:
        return _Lowering(ticket, nodes_of(ticket)).program()
    return _Lowering(ticket, graph_of(ticket.network)).program()


class _Lowering:
    def __init__(self, ticket: Ticket, nodes: list[Node]) -> None:
        self.state, self.nodes = ticket.state, nodes
        self.ticket, self.layers = ticket, {layer.key: layer for layer in ticket.layers}
        # Version 1 of the format has no plain operations: there, a pool of one position copies.
        self.plain_too = any(isinstance(node, Plain | Activation | Scale) for node in nodes) or any(
            isinstance(node, Layer) and node.windows for node in nodes
        )
        self.version = 1
        self.readers = Counter(i for node in nodes for i in node.inputs)
        self.values: list[tuple[bool, tuple[int, int, int]]] = [(False, nodes[0].shape)]
        self.ops: list[bytes] = []
        # By node: a value of the program, or an operation that is still pending.
        self.made: list[int | _Pending] = [0]

    def program(self) -> bytes:
        """The bytes of the program."""
        for node in self.nodes[1:]:
            self.made.append(self.step(node))
        if self.value(len(self.nodes) - 1) != len(self.values) - 1:
            raise TicketError("its network has no last operation")
        mean, std = self.normalisation()
        head = struct.pack("<III", len(self.values), len(self.ops), bool(mean.size))
        shapes = b"".join(struct.pack("<IIII", bits, *shape) for bits, shape in self.values)
        magic = MAGIC if self.version == 1 else MAGIC_2
        return magic + head + shapes + mean.tobytes() + std.tobytes() + b"".join(self.ops)

    def normalisation(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and std per channel; both are empty if the ticket has none.

        A single number counts for all channels.
        """
        channels = self.nodes[0].shape[0] if self.ticket.mean else 0
        mean = np.array(self.ticket.mean, dtype="<f4")
        std = np.array(self.ticket.std, dtype="<f4")
        return np.resize(mean, channels), np.resize(std, channels)

    def step(self, node: Node) -> int | _Pending:
        """The node's result: a value of the program, or a pending operation."""
        match node.op:
            case "conv":
                return self.conv(node)
            case "norm":
                return self.absorbing(node).then(*self.norm(node))
            case "relu" | "sign" | "sign0":
                return self.activation(node, node.op)
            case "max_pool" | "avg_pool":
                return self.pool(node)
            case "add":
                return self.add(node)
            case "flatten":
                return self.value(node.inputs[0])
        if isinstance(node, Activation):
            return self.activation(node, node.act, (node.first, node.second))
        if isinstance(node, Scale):
            ones = np.ones(node.shape[0])
            factor, shift = np.array(node.factor), np.array(node.shift)
            return self.absorbing(node).then(ones * factor, ones * shift)
        if isinstance(node, Plain):
            floats = np.zeros(0, np.float32) if node.floats is None else node.floats
            return self.write_plain(node.op, node.inputs, node.shape, node.numbers, floats)
        raise TicketError(f"the engine has no operation for {node.op} {node.name}".rstrip())

    def only_for(self, node: Node) -> _Pending | None:
        """The pending operation that gives the node's input, if nothing else reads it."""
        (at,) = node.inputs
        before = self.made[at]
        return before if isinstance(before, _Pending) and self.readers[at] == 1 else None

    def absorbing(self, node: Node) -> _Pending:
        """The operation that the node is folded into."""
        return self.only_for(node) or self.copy(node)

    def activation(
        self, node: Node, act: str, numbers: tuple[float, float] = (0.0, 0.0)
    ) -> int | _Pending:
        """An activation function, folded into the operation before it where this has it."""
        pending = self.absorbing(node)
        if act == "sign" and self.plain_too:
            wants_bits = self.wants_bits(node)
            pending = self.pool_from(pending) if wants_bits else self.plain_from(pending)
        if not pending.plain and act not in _ACTS:
            pending = self.plain_from(pending)
        return self.emit(pending, act, numbers)

    def wants_bits(self, node: Node) -> bool:
        """Whether a masked convolution, or a pool before one, reads the signs of a node.

        Bits of wider maps could not run one sample at a time.
        """
        number = next(i for i, other in enumerate(self.nodes) if other is node)
        readers = [other for other in self.nodes if number in other.inputs]
        fits = all(other.shape[2] <= _WIDEST_BITS for other in (node, *readers))
        return fits and any(
            other.op in ("max_pool", "flatten")
            or (other.op == "conv" and not (isinstance(other, Layer) and other.windows))
            for other in readers
        )

    def pool_from(self, pending: _Pending) -> _Pending:
        """An operation that may give bits: instead of a plain one, a pool of one position."""
        if not pending.plain:
            return pending
        pool = Node("max_pool", (), pending.node.shape)
        if pending.node.op == "elementwise":
            return replace(pending, node=pool)
        return self.plain(pool, self.emit(pending, ""))

    def plain_from(self, pending: _Pending) -> _Pending:
        """An elementwise operation on the result of a pending one."""
        if pending.plain:
            return pending
        shape = pending.node.shape
        return self.plain(Node("elementwise", (), shape), self.emit(pending, ""))

    def pool(self, node: Node) -> _Pending:
        before = self.only_for(node)
        if node.op == "max_pool" and before and before.open:
            return replace(before, pool=node)
        return self.plain(node, self.value(node.inputs[0]))

    def conv(self, node: Node) -> _Pending:
        """A convolution, with the gain and the bias of its layer."""
        value = self.value(node.inputs[0])
        bits, shape = self.values[value]
        if self.nodes[node.inputs[0]].op == "flatten":
            # A linear layer on a map is a convolution whose kernel is as large as the map.
            node = replace(node, kernel=shape[1:])
        weight, bias = self.names(node)
        layer = self.layers.get(weight)
        if bits and (layer is None or (isinstance(node, Layer) and node.windows)):
            value = self.floats(value)
        pending, channels = self.plain(node, value), node.shape[0]
        if layer is not None:
            gains = np.full(channels, layer.gain, np.float64)
            pending = pending.then(gains, np.zeros(channels))
        if bias:
            repeats = node.repeats if isinstance(node, Layer) else 1
            numbers = self.tensor(bias, (channels // repeats,)).repeat(repeats)
            pending = pending.then(np.ones(1), numbers)
        return pending

    def names(self, node: Node) -> tuple[str, str]:
        """The names of the weight and of the bias of a convolution; "" where it has none."""
        if isinstance(node, Layer):
            return node.weight, node.bias
        bias = f"{node.name}.bias"
        return f"{node.name}.weight", bias if bias in self.state else ""

    def floats(self, value: int) -> int:
        """A value as floats."""
        bits, shape = self.values[value]
        if not bits:
            return value
        return self.write(self.plain(Node("max_pool", (), shape), value), "")

    def plain(self, node: Node, value: int) -> _Pending:
        """The node's operation alone, on a value of the program."""
        return _Pending(node, value, np.ones(node.shape[0]), np.zeros(node.shape[0]))

    def copy(self, node: Node) -> _Pending:
        """The node's input as it is: a pool of one position."""
        value = self.value(node.inputs[0])
        op = "elementwise" if self.plain_too and not self.values[value][0] else "max_pool"
        return self.plain(Node(op, (), self.values[value][1]), value)

    def add(self, node: Node) -> int | _Pending:
        """The residual sum, folded into the convolution that comes last."""
        for host, other in (node.inputs, node.inputs[::-1]):
            pending = self.made[host]
            if isinstance(pending, _Pending) and self.readers[host] == 1 and pending.open:
                residual = self.value(other)
                return replace(pending, residual=residual, residual_scale=np.ones(node.shape[0]))
        if not isinstance(self.ticket.network, type(None)):
            raise TicketError("its network adds what is not a convolution's result")
        channels, height, width = node.shape
        size = height * width
        loops = [0, 0, 0, 2, channels, 0, *[size] * 3, size, 0, *[1 if size > 1 else 0] * 3]
        return self.write_plain("binary", node.inputs, node.shape, (0, 0, *loops), np.zeros(2))

    def norm(self, node: Node) -> tuple[Numbers, Numbers]:
        """Batch norm with its running statistics as scale and shift, [channels] each."""
        if isinstance(node, BatchNorm):
            return self.norm_of(node)
        name, shape = node.name, node.shape[:1]
        scale = 1 / deviation(self.tensor(f"{name}.running_var", shape), name, node.eps)
        if f"{name}.weight" in self.state:
            scale = scale * self.tensor(f"{name}.weight", shape)
        shift = -self.tensor(f"{name}.running_mean", shape) * scale
        if f"{name}.bias" in self.state:
            shift = shift + self.tensor(f"{name}.bias", shape)
        return scale, shift

    def norm_of(self, node: BatchNorm) -> tuple[Numbers, Numbers]:
        """The same where the tensors have names of their own, and channels may share numbers."""
        names, channels = dict(node.tensors), np.array(node.channels)
        count = (int(channels.max()) + 1,)
        variance = names["running_var"]
        name = variance.removesuffix(".running_var")
        scale = 1 / deviation(self.tensor(variance, count), name, node.eps)
        if "weight" in names:
            scale = scale * self.tensor(names["weight"], count)
        shift = -self.tensor(names["running_mean"], count) * scale
        if "bias" in names:
            shift = shift + self.tensor(names["bias"], count)
        return scale[channels], shift[channels]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Numbers:
        """A tensor of the state in float64.

        Raises:
            TicketError: it is absent, or of another shape.
        """
        value = self.state.get(name)
        if value is None or value.shape != shape:
            raise _misfit(name, value, shape)
        return value.astype(np.float64)

    def value(self, node: int) -> int:
        """The program's value of a node."""
        made = self.made[node]
        if isinstance(made, _Pending):
            made = self.made[node] = self.emit(made, "")
        return made

    def emit(self, pending: _Pending, act: str, numbers: tuple[float, float] = (0.0, 0.0)) -> int:
        """Put the operation into the program; the result is its value."""
        if pending.plain:
            return self.write_elementwise(pending, act, numbers)
        if pending.pool is not None:
            return self.emit_with_pool(pending, pending.pool, act)
        reads_bits = self.values[pending.value][0]
        if act == "sign" and pending.node.op == "max_pool" and reads_bits:
            # A pool from bits to bits knows no scale: by way of floats.
            floats = self.write(pending, "")
            pending = self.plain(Node("max_pool", (), pending.node.shape), floats)
        return self.write(pending, act)

    def emit_with_pool(self, pending: _Pending, pool: Node, act: str) -> int:
        """Put a convolution and the max pool after it into the program."""
        conv = replace(pending, pool=None)
        zeros = np.zeros(pending.node.shape[0])
        if act in ("", "relu") and (pending.pool_scale > 0).all():
            # What keeps the order goes before the pool, which then selects: its values are the
            # quantised activations that the next layer reads.
            value = self.write(conv.then(pending.pool_scale, pending.pool_shift), act)
            return self.write(_Pending(pool, value, 1 + zeros, zeros), "")
        if act != "sign":
            value = self.write(conv, "")
            scale, shift = pending.pool_scale + zeros, pending.pool_shift + zeros
            return self.write(_Pending(pool, value, scale, shift), act)
        # The sign goes before the pool, which is then "any" of the bits, or "all" where the scale
        # turns the order.
        value = self.write(conv.then(pending.pool_scale, pending.pool_shift), "sign")
        order = np.where(np.broadcast_to(pending.pool_scale, zeros.shape) < 0, -1.0, 1.0)
        return self.write(_Pending(pool, value, order, zeros), "sign")

    def write(self, pending: _Pending, act: str) -> int:
        """Append the operation as it is; the result is its value."""
        node, residual = pending.node, pending.residual
        factors = pending.factors()
        self.check_factors(pending)
        result = len(self.values)
        self.values.append((act == "sign", node.shape))
        values = (pending.value, result, 0 if residual is None else residual + 1)
        windows = (*node.kernel, node.stride, node.padding)
        head = struct.pack("<IIIIIIIII", _KINDS[node.op], *values, _ACTS[act], *windows)
        channels = self.values[pending.value][1][0]
        weights = self.weights(node, channels) if node.op == "conv" else b""
        self.ops.append(head + _per_channel(factors, node.shape[0]) + weights)
        return result

    def check_factors(self, pending: _Pending) -> None:
        """Raise TicketError for a factor that no float32 holds."""
        node = pending.node
        name = node.name or self.names(node)[0].removesuffix(".weight")
        name = name if node.op == "conv" else node.op
        if not all((np.abs(numbers) <= _LARGEST).all() for numbers in pending.factors()):
            raise TicketError(f"a gain or batch norm beside {name} is not a finite 32-bit number")

    def write_elementwise(self, pending: _Pending, act: str, numbers: tuple[float, float]) -> int:
        """Append a plain convolution, or an elementwise operation, with its activation."""
        node = pending.node
        self.check_factors(pending)
        factors = [np.broadcast_to(f, node.shape[:1]) for f in pending.factors()]
        floats = np.concatenate([np.array(numbers), *factors]).astype(np.float32)
        code = ACTS.get(act, 0)
        if not isinstance(node, Layer):
            return self.write_values("elementwise", (pending.value,), node.shape, (code,), floats)
        floats = np.concatenate([floats, self.plain_weight(node).reshape(-1)])
        windows = (node.windows[0], code, *node.windows[1:])
        return self.write_values("conv", (pending.value,), node.shape, windows, floats)

    def plain_weight(self, node: Layer) -> NDArray[np.float32]:
        """The weight of a plain convolution: of a masked layer 1, 0 and -1."""
        layer = self.layers.get(node.weight)
        if layer is None:
            weight = self.state[node.weight].astype(np.float32)
        else:
            bits = np.unpackbits(
                self.ticket.sign_plane(layer), count=layer.weights, bitorder="little"
            )
            signs = 2 * bits.reshape(layer.shape).astype(np.float32) - 1
            weight = signs * layer.kept_mask()
        return weight if node.arranged is None else node.arranged(weight)

    def write_plain(
        self,
        op: str,
        inputs: tuple[int, ...],
        shape: tuple[int, int, int],
        numbers: tuple[int, ...],
        floats: NDArray[Any],
    ) -> int:
        """Append a plain operation on nodes; the result is its value."""
        values = tuple(self.floats(self.value(i)) for i in inputs)
        return self.write_values(op, values, shape, numbers, floats)

    def write_values(
        self,
        op: str,
        values: tuple[int, ...],
        shape: tuple[int, int, int],
        numbers: tuple[int, ...],
        floats: NDArray[Any],
    ) -> int:
        """The same on values of the program."""
        if not np.isfinite(floats).all():
            raise TicketError(f"a number of an operation {op} is not finite")
        self.version = 2
        result = len(self.values)
        self.values.append((False, shape))
        head = struct.pack(f"<III{len(values)}I", _PLAIN_KINDS[op], result, len(values), *values)
        whole = np.array(numbers, "<i4")
        self.ops.append(
            head
            + struct.pack("<I", whole.size)
            + whole.tobytes()
            + struct.pack("<I", floats.size)
            + floats.astype("<f4").tobytes()
        )
        return result

    def weights(self, node: Node, channels: int) -> bytes:
        """The weights of a convolution of `channels`: planes of a masked layer, or float32."""
        shape = (node.shape[0], channels, *node.kernel)
        name, _ = self.names(node)
        layer = self.layers.get(name)
        arranged = node.arranged if isinstance(node, Layer) else None
        if layer is None:
            return struct.pack("<I", 1) + self.dense(name, shape, arranged)
        if arranged:
            return struct.pack("<I", 0) + self.arranged_planes(layer, arranged)
        if layer.weights != math.prod(shape) or layer.shape[0] != shape[0]:
            raise TicketError(
                f"does not fit its network: {layer.key} is {layer.shape}, not {shape}"
            )
        return struct.pack("<I", 0) + self.planes(layer)

    def dense(self, name: str, shape: tuple[int, ...], arranged: Arranged | None) -> bytes:
        """A weight of the state; one of a linear layer may have fewer axes."""
        value = self.state.get(name)
        if arranged and value is not None:
            value = arranged(value)
        if value is None or value.size != math.prod(shape):
            raise _misfit(name, value, shape)
        return value.astype("<f4").tobytes()

    def planes(self, layer: MaskedLayer) -> bytes:
        """The planes of the mask and of the signs."""
        return layer.mask.tobytes() + self.ticket.sign_plane(layer).tobytes()

    def arranged_planes(self, layer: MaskedLayer, arranged: Arranged) -> bytes:
        """The same of a weight that is arranged in another way."""
        planes = [
            np.unpackbits(plane, count=layer.weights, bitorder="little").reshape(layer.shape)
            for plane in (layer.mask, self.ticket.sign_plane(layer))
        ]
        return _arranged_planes(planes, arranged)


def _arranged_planes(planes: list[NDArray[np.uint8]], arranged: Arranged) -> bytes:
    return b"".join(
        np.packbits(arranged(plane).reshape(-1), bitorder="little").tobytes() for plane in planes
    )


def _per_channel(factors: list[Numbers], channels: int) -> bytes:
    """The factors as float64, `channels` numbers each."""
    return b"".join(np.broadcast_to(f, (channels,)).astype("<f8").tobytes() for f in factors)


def _misfit(name: str, value: NDArray[Any] | None, shape: tuple[int, ...]) -> TicketError:
    there = "absent" if value is None else value.shape
    return TicketError(f"does not fit its network: {name} is {there}, not {shape}")
