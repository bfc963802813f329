"""The graph of a ticket of the user's own network as the nodes that the compiled engine has.

Maps, features and tokens become nodes of (channels, height, width); `views` says how the axes of a
value lie in them. Where convolutions, batch norm, ReLU, sign, pools and sums are all there is, the
nodes are those of the registry's networks; other operations are plain nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TicketError
from ..models.graph import Node
from ..models.operations import Graph, Operation, Shape, check_graph
from ..ticket import Ticket
from .views import BATCH, Atom, Atoms, MisfitError, View, aligned, fresh, packed, size_of

Array = NDArray[np.float32]
Groups = tuple[Sequence[Atom], Sequence[Atom], Sequence[Atom]]
Loops = list[tuple[int, int, tuple[int, ...]]]

_MOST_SIDE, _MOST_NUMBERS = 1 << 14, 1 << 25  # of the core's maps
ACTS = {
    **{"relu": 1, "sign": 2, "sign0": 3, "silu": 4, "sigmoid": 5, "tanh": 6, "hardswish": 7},
    **{"hardsigmoid": 8, "gelu": 9, "gelu_tanh": 10, "leaky_relu": 11, "elu": 12, "clamp": 13},
}
KEPT, REDUCED, QUERY, KEY, WIDTH, VALUE_WIDTH = range(6)
"""Roles of a plain node's loops."""


@dataclass(frozen=True)
class Layer(Node):
    """A convolution, of the tensors of these names.

    Attributes:
        weight, bias: names; no bias where it is "".
        arranged: from the tensor to the weight [outputs, inputs / groups, kernel]; None: as it is.
        repeats: outputs that share a number of the bias.
        windows: of a plain convolution: the groups, then in, out, kernel, stride, padding and
            dilation of depth, height and width; else empty.
    """

    weight: str = ""
    bias: str = ""
    arranged: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    repeats: int = 1
    windows: tuple[int, ...] = ()


@dataclass(frozen=True)
class BatchNorm(Node):
    """A batch norm of these tensors.

    Attributes:
        tensors: names by role.
        channels: of each channel of the map, its number in the tensors.
    """

    tensors: tuple[tuple[str, str], ...] = ()
    channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Activation(Node):
    """An activation function: `act` is its name in `ACTS`, `first` and `second` its numbers."""

    act: str = ""
    first: float = 0.0
    second: float = 0.0


@dataclass(frozen=True)
class Scale(Node):
    """factor x + shift, of one number or of one for each channel."""

    factor: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, eq=False)
class Plain(Node):
    """A plain operation of a program, see docs/engine.md.

    Attributes:
        numbers, floats: as in the program.
    """

    numbers: tuple[int, ...] = ()
    floats: Array | None = None


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


class _Nodes:
    """Nodes in the making; `views` has the view of each value.

    plain: whether plain nodes may be used.
    """

    def __init__(
        self, ticket: Ticket, graph: Graph, shapes: Sequence[Shape], plain: bool
    ) -> None:
        self.ticket, self.shapes, self.plain = ticket, shapes, plain
        self.tensors = ticket.shapes
        self.refusal = "the engine has no input of this kind"
        self.nodes: list[Node] = []
        self.views = [self.input(shapes[0], graph.indices)]
        for number, operation in enumerate(graph.operations, start=1):
            self.refusal = _refusal(operation)
            self.shape = shapes[number]
            try:
                self.views.append(self.step(operation))
            except MisfitError:
                raise TicketError(self.refusal) from None
        self.output(self.views[-1])

    # ---- values ----

    def input(self, shape: Shape, indices: bool) -> View:
        if indices and not self.plain:
            raise TicketError("the engine has no embeddings")
        channels, *sides = fresh(shape[1:]) or ((),)
        groups = (channels, _joined(sides[:-1]), _joined(sides[-1:]))
        return self.made(Node("input", (), self.sides(groups)), groups, ((BATCH,), channels, *sides))

    def sides(self, groups: Groups) -> tuple[int, int, int]:
        """(channels, height, width) of atoms."""
        channels, height, width = map(size_of, groups)
        if max(height, width) > _MOST_SIDE or channels * height * width >= _MOST_NUMBERS:
            raise TicketError(f"{self.refusal}: more numbers than the compiled engine counts")
        return channels, height, width

    def made(self, node: Node, groups: Groups, axes: Sequence[Atoms]) -> View:
        """Append a node whose numbers are those of the atoms in C order."""
        self.nodes.append(node)
        strides = packed(_joined(groups))
        return View(len(self.nodes) - 1, tuple(axes), strides)

    def add_plain(
        self,
        op: str,
        inputs: Sequence[View],
        groups: Groups,
        axes: Sequence[Atoms],
        numbers: Sequence[int],
        floats: Any = (),
    ) -> View:
        """Append a plain node."""
        if not self.plain:
            raise TicketError(self.refusal)
        read = tuple(view.node for view in inputs if view.node is not None)
        content = np.array(floats, np.float32)
        node = Plain(op, read, self.sides(groups), numbers=tuple(numbers), floats=content)
        return self.made(node, groups, axes)

    def lying(self, view: View) -> Groups:
        """The atoms of a view by where they lie: what repeats is of the channels."""
        if view.node is None:
            return view.atoms, (), ()
        positions = math.prod(self.nodes[view.node].shape[1:])
        order = view.outermost_first
        channels = [a for a in order if not view.strides[a]]
        channels += [a for a in order if view.strides[a] >= positions]
        rest = [a for a in order if 0 < view.strides[a] < positions]
        return channels, rest[:-1], rest[-1:]

    def is_channel(self, view: View, atom: Atom) -> bool:
        return atom in self.lying(view)[0]

    def is_whole(self, view: View) -> bool:
        """Whether the view is all numbers of its node, in their order."""
        if view.node is None:
            return False
        total = math.prod(self.nodes[view.node].shape)
        return view.is_packed(view.outermost_first, total)

    def stored(self, view: View, groups: Groups) -> View:
        """The view in a node of this order and of these sides."""
        order = _joined(groups)
        if view.node is not None:
            shape = self.nodes[view.node].shape
            if shape == self.sides(groups) and view.is_packed(order, math.prod(shape)):
                return view
        return self.move(view, groups)

    def move(self, view: View, groups: Groups) -> View:
        """A copy in another order."""
        order = _joined(groups)
        if view.node is None:
            return self.constant(view, groups)
        strides = packed(order)
        loops = [(a.size, KEPT, (strides[a], view.strides[a])) for a in order]
        numbers = [*_block((0, view.offset), loops), 0]
        return self.add_plain("move", (view,), groups, view.axes, numbers, [0.0])

    def constant(self, view: View, groups: Groups) -> View:
        """An array as a node."""
        assert view.array is not None
        order = _joined(groups)
        flat = view.array.reshape(-1)[view.offset :]
        shape, strides = [a.size for a in order], [4 * view.strides[a] for a in order]
        numbers = np.lib.stride_tricks.as_strided(flat, shape, strides)
        floats = np.nan_to_num(numbers, nan=np.nan, posinf=1e30, neginf=-1e30)
        if not np.isfinite(floats).all():
            raise TicketError(f"{self.refusal} of what is not a number")
        return self.add_plain("constant", (), groups, view.axes, (), floats.reshape(-1))

    def compact(self, view: View) -> View:
        """The view as all numbers of a node."""
        return view if self.is_whole(view) else self.move(view, self.lying(view))

    def logical(self, view: View) -> View:
        """A copy in C order of the axes, each of one atom."""
        channels, *sides = [tuple(a for a in axis if a is not BATCH) for axis in view.axes]
        if not channels and sides:
            channels, *sides = sides
        moved = self.move(view, (channels, _joined(sides[:-1]), _joined(sides[-1:])))
        return _joined_atoms(moved)

    def operand(self, view: View, order: Sequence[Atom], channels: Sequence[Atom]) -> View:
        """What a plain node reads: a constant becomes a node with its atoms in this order."""
        if view.node is not None:
            return view
        repeats = {a for a in view.atoms if not view.strides[a]}
        own = [a for a in order if a in view.strides and a not in repeats]
        groups = ([a for a in own if a in channels], (), [a for a in own if a not in channels])
        stored = self.constant(view, groups)
        strides = stored.strides | dict.fromkeys(repeats, 0)
        return replace(stored, strides=strides)

    def output(self, view: View) -> None:
        """The last node has the numbers in C order."""
        self.refusal = "the engine has no output of this order"
        atoms = view.atoms
        total = math.prod(self.nodes[view.node].shape) if view.node is not None else 0
        is_last = view.node == len(self.nodes) - 1 and view.node > 0
        if is_last and view.is_packed(atoms, total):
            return
        first = len(view.axes[1]) if len(view.axes) > 1 else 0
        rest = atoms[first:]
        self.move(view, (atoms[:first], rest[:-1], rest[-1:]))

    # ---- operations ----

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

    def like(self, view: View, kind: type[Node], op: str, **fields: Any) -> View:
        """A node of the numbers of a whole view, one for one."""
        assert view.node is not None
        self.nodes.append(kind(op, (view.node,), self.nodes[view.node].shape, **fields))
        return replace(view, node=len(self.nodes) - 1)

    def array(self, name: str) -> Array:
        masked = {layer.key: layer for layer in self.ticket.layers}.get(name)
        return self.ticket.state[name] if masked is None else self.ticket.weight(masked)

    def tensor(self, operation: Operation) -> View:
        if not self.plain:
            raise TicketError(self.refusal)
        array = np.ascontiguousarray(self.array(operation.tensor_of["weight"]), np.float32)
        axes = fresh(array.shape)
        return View(None, axes, packed(_joined(axes)), array=array)

    def activation(self, operation: Operation, view: View) -> View:
        op, a = operation.op, operation.named
        view = self.compact(view)
        if op in ("relu", "sign", "sign0"):
            return self.like(view, Node, op)
        if not self.plain or op not in ACTS:
            raise TicketError(self.refusal)
        first, second = a.get("slope", a.get("alpha", 0.0)), 0.0
        if op == "clamp":
            largest = float(np.finfo(np.float32).max)
            first = -largest if a["low"] is None else a["low"]
            second = largest if a["high"] is None else a["high"]
        act = "gelu_tanh" if a.get("tanh") else op
        numbers = {"first": float(first), "second": float(second)}
        return self.like(view, Activation, "activation", act=act, **numbers)

    # ---- axes ----

    def reshape(self, view: View) -> View:
        try:
            return view.reshaped(self.shape)
        except MisfitError:
            if view.axes[0] != (BATCH,):
                raise
            moved = self.move(view, (view.atoms, (), ()))
            atom = Atom(moved.numbers)
            return View(moved.node, ((BATCH,), (atom,)), {atom: 1}).reshaped(self.shape)

    def cut(self, view: View, a: dict[str, Any]) -> View:
        place = (a["axis"], a["start"], a["stop"], a["step"])
        try:
            return view.cut(*place)
        except MisfitError:
            return self.logical(view).cut(*place)

    def joined(self, view: View) -> View:
        """The view with as few atoms as one loop each can walk over."""
        return view.joined(math.prod(self.nodes[view.node].shape[1:]) if view.node is not None else 1)

    def whole_axes(self, view: View) -> View:
        """The view with at most one atom an axis."""
        view = self.joined(view)
        is_simple = all(len([a for a in axis if a is not BATCH]) <= 1 for axis in view.axes)
        return view if is_simple else self.logical(view)

    def concat(self, views: Sequence[View], axis: int) -> View:
        views = [self.joined(view) for view in views]
        simple = [v for v in views if all(len(axis) <= 1 for axis in _without_batch(v))]
        model = max(
            simple or [self.logical(views[0])],
            key=lambda view: (view.node is not None, view.numbers),
        )
        own = _without_batch(model)
        new = [atoms if i != axis else (Atom(self.shape[axis]),) for i, atoms in enumerate(own)]
        renamed = {old[0]: atoms[0] for old, atoms in zip(own, new, strict=True) if old}
        groups = [[renamed[a] for a in group] for group in self.lying(model)]
        if not own[axis]:
            groups[2].append(*new[axis])
        strides, numbers, at = packed(_joined(groups)), [], 0
        sources = [self.operand(view, view.atoms, view.atoms) for view in views]
        for source in sources:
            loops: Loops = []
            for atoms, result in zip(_without_batch(source), new, strict=True):
                inner = packed(atoms)
                for atom in atoms:
                    steps = (strides[result[0]] * inner[atom], source.strides[atom])
                    loops.append((atom.size, KEPT, steps))
            loops.sort(key=lambda loop: -loop[2][0])
            numbers += _block((at * _first_stride(strides, new[axis]), source.offset), loops)
            at += size_of(_without_batch(source)[axis])
        batch = next(v.axes for v in views if any(BATCH in axis for axis in v.axes))
        axes = _with_batch(batch, new)
        return self.add_plain("move", sources, _groups(groups), axes, [*numbers, 0], [0.0])

    def pad(self, view: View, a: dict[str, Any]) -> View:
        pads = list(zip(a["pads"][::2], a["pads"][1::2], strict=True))
        return self.padded(view, pads, a["mode"], float(a["value"]))

    def padded(
        self, view: View, pads: Sequence[tuple[int, int]], mode: str = "constant", value: float = 0
    ) -> View:
        """Numbers before and after each axis; a negative number takes some away."""
        for axis, (before, after) in enumerate(pads):
            if min(before, after) < 0:
                size = size_of(_without_batch(view)[axis])
                view = self.cut(view, _range(axis, max(0, -before), size - max(0, -after)))
        pads = [(max(0, before), max(0, after)) for before, after in pads]
        if not any(map(any, pads)):
            return view
        view = self.whole_axes(view)
        source = self.operand(view, view.atoms, view.atoms)
        old = _without_batch(source)
        new = [
            (Atom(size_of(own) + sum(pad)),) if any(pad) else own
            for own, pad in zip(old, pads, strict=True)
        ]
        renamed = {a[0]: b[0] for a, b in zip(old, new, strict=True) if a}
        groups = tuple([renamed[a] for a in group] for group in self.lying(source))
        added = [b[0] for a, b in zip(old, new, strict=True) if b and not a]
        groups = _groups((groups[0], groups[1], [*groups[2], *added]))
        strides = packed(_joined(groups))
        blocks, inputs = _pad_blocks(source, old, new, strides, pads, mode), []
        numbers: list[int] = []
        for block in blocks:
            numbers += block
            inputs.append(source)
        axes = _with_batch(source.axes, new)
        fills = [int(mode == "constant")]
        return self.add_plain("move", inputs, groups, axes, numbers + fills, [value])

    # ---- convolutions ----

    def convolution(self, operation: Operation, view: View) -> View:
        a, names = operation.named, operation.tensor_of
        shape = self.tensors[names["weight"]]
        groups, kernel = a["groups"], list(shape[2:])
        arranged, phases = None, (1,) * len(kernel)
        stride, dilation = list(a["stride"]), list(a["dilation"])
        pads, outputs = [(p, p) for p in a["padding"]], shape[0]
        if operation.op == "conv_transpose":
            sides = [size_of(axis) for axis in view.axes[2:]]
            turned = _Transposed(a, shape, sides, self.shape[2:])
            arranged, phases, kernel, pads = turned.arranged, tuple(stride), turned.kernel, turned.pads
            stride = dilation = [1] * len(kernel)
            outputs = groups * shape[1] * math.prod(phases)
        layer = {
            "weight": names["weight"],
            "bias": names.get("bias", ""),
            "arranged": arranged,
            "repeats": math.prod(phases),
        }
        view, padding, is_classic = self.prepared(view, kernel, stride, dilation, pads, groups)
        sides = [size_of(axis) for axis in view.axes[2:]]
        results = [
            (side + 2 * p - d * (k - 1) - 1) // s + 1
            for side, k, s, p, d in zip(sides, kernel, stride, padding, dilation, strict=True)
        ]
        channel, parts, places = _output_atoms(outputs // math.prod(phases), phases, results)
        stored = ((*channel, *_joined(parts)), _joined(places[:-1]), places[-1])
        assert view.node is not None
        if is_classic:
            windows: tuple[int, ...] = ()
            sizes = {"kernel": (*(1,) * (2 - len(kernel)), *kernel), "stride": max(stride[-1:])}
            sizes["padding"] = padding[-1]
        else:
            rows = zip(sides, results, kernel, stride, padding, dilation, strict=True)
            windows = (groups, *(1, 1, 1, 1, 0, 1) * (3 - len(kernel)), *(n for r in rows for n in r))
            sizes = {}
        node = Layer("conv", (view.node,), self.sides(stored), windows=windows, **layer, **sizes)
        axes = [(BATCH,), channel, *(p + q for p, q in zip(places, parts, strict=True))]
        result = self.made(node, stored, axes)
        for axis, size in enumerate(self.shape[2:], start=2):
            if size_of(result.axes[axis]) != size:
                result = self.cut(result, _range(axis, 0, size))
        return result

    def prepared(
        self,
        view: View,
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        pads: Sequence[tuple[int, int]],
        groups: int,
    ) -> tuple[View, list[int], bool]:
        """The input of a convolution as a map of channels, height and width.

        Returns:
            The map, the padding that is left to the convolution, and whether the convolution is of
            the kind that has kernels for kept weights.
        """
        if view.axes[0] != (BATCH,):
            raise TicketError(self.refusal)
        is_classic = len(kernel) < 3 and groups == 1 and set(dilation) == {1}
        is_classic &= len(set(stride)) == 1
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        even = all(a == b < r for (a, b), r in zip(pads, reach, strict=True))
        if is_classic:
            both = {p for pair in pads for p in pair}
            even &= len(both) == 1 and (len(kernel) == 2 or both == {0}) and max(both) < min(kernel)
        if not even:
            view = self.padded(view, [(0, 0), (0, 0), *pads])
            pads = [(0, 0)] * len(pads)
        _, channels, *sides = _without_batch(view)
        view = self.stored(view, (channels, _joined(sides[:-1]), _joined(sides[-1:])))
        return view, [p for p, _ in pads], is_classic

    def linear(self, operation: Operation, view: View) -> View:
        names = operation.tensor_of
        (outputs,) = fresh(self.shape[-1:])
        if view.node is None:
            view = self.compact(view)
        features = [a for a in view.axes[-1] if a is not BATCH]
        if len(features) < len(view.axes[-1]):
            raise TicketError(self.refusal)
        rest = [a for a in view.outermost_first if a not in features]
        layer = {"weight": names["weight"], "bias": names.get("bias", "")}
        if not rest and self.is_whole(view) and view.outermost_first == tuple(features):
            node = view.node
            assert node is not None
            if self.nodes[node].shape[1:] != (1, 1):
                self.nodes.append(Node("flatten", (node,), (size_of(features), 1, 1)))
                node = len(self.nodes) - 1
            groups: Groups = (outputs, (), ())
        else:
            if view.strides.keys() and not self.is_tokens(view, features, rest):
                view = self.move(view, (features, rest[:-1], rest[-1:]))
            node = view.node
            assert node is not None
            sides = self.nodes[node].shape[1:]
            result = Layer("conv", (node,), (size_of(outputs), *sides), **layer)
            return self.made(result, (outputs, rest, ()), (*view.axes[:-1], outputs))
        result = Layer("conv", (node,), self.sides(groups), **layer)
        return self.made(result, groups, (*view.axes[:-1], outputs))

    def is_tokens(self, view: View, features: Sequence[Atom], rest: Sequence[Atom]) -> bool:
        """Whether the features are the channels of the node, and the rest its positions."""
        if view.node is None or not self.is_whole(view):
            return False
        is_ordered = view.outermost_first == (*features, *rest)
        return is_ordered and self.nodes[view.node].shape[0] == size_of(features)

    # ---- norms ----

    def batch_norm(self, operation: Operation, view: View) -> View:
        view = self.compact(view)
        channels = [a for a in view.axes[1] if a is not BATCH]
        if len(channels) < len(view.axes[1]):
            raise TicketError(self.refusal)
        stored = list(self.lying(view)[0])
        if not set(channels) <= set(stored):
            rest = [a for a in view.outermost_first if a not in channels]
            view = self.move(view, (channels, rest[:-1], rest[-1:]))
            stored = list(channels)
        strides = packed(channels)
        own = np.zeros([a.size for a in stored], np.int64)
        for i, atom in enumerate(stored):
            places = np.arange(atom.size) * strides.get(atom, 0)
            own = own + places.reshape(-1, *(1,) * (len(stored) - 1 - i))
        tensors = tuple(sorted(operation.tensor_of.items()))
        numbers = tuple(map(int, own.reshape(-1)))
        eps = float(operation.named["eps"])
        return self.like(view, BatchNorm, "norm", tensors=tensors, channels=numbers, eps=eps)

    def affine(self, operation: Operation) -> tuple[Array, Array]:
        """Weight and bias, [n] each; of one number where there are none."""
        names = operation.tensor_of
        arrays = {role: self.array(name).reshape(-1) for role, name in names.items()}
        size = max((array.size for array in arrays.values()), default=1)
        weight = arrays.get("weight", np.ones(size, np.float32))
        return weight, arrays.get("bias", np.zeros(size, np.float32))

    def normalised(
        self, operation: Operation, view: View, reduced: Sequence[Atom], affine: dict[Atom, int]
    ) -> View:
        weight, bias = self.affine(operation)
        affine = affine if weight.size > 1 else {}
        floats = np.concatenate([[operation.named["eps"]], weight, bias])
        return self.along(view, reduced, "normalise", [weight.size], floats, affine)

    def layer_norm(self, operation: Operation, view: View) -> View:
        count = operation.named["count"]
        atoms = _joined(view.axes[-count:])
        if BATCH in atoms:
            raise TicketError(self.refusal)
        return self.normalised(operation, view, atoms, packed(atoms))

    def group_norm(self, operation: Operation, view: View) -> View:
        groups = operation.named["groups"]
        if view.axes[0] != (BATCH,):
            raise TicketError(self.refusal)
        shape = self.shape
        channels = shape[1]
        self.shape = (shape[0], groups, channels // groups, *shape[2:])
        split, self.shape = self.reshape(view), shape
        axes = (split.axes[0], split.axes[1] + split.axes[2], *split.axes[3:])
        whole = replace(split, axes=axes)
        reduced = _joined(split.axes[2:])
        return self.normalised(operation, whole, reduced, packed(axes[1]))

    def along(
        self,
        view: View,
        reduced: Sequence[Atom],
        op: str,
        numbers: Sequence[int],
        floats: Any = (),
        affine: dict[Atom, int] | None = None,
    ) -> View:
        """A norm, or softmax, over some atoms: the result has the order of the input."""
        view = self.operand(view, view.atoms, view.atoms)
        extra = [] if affine is None else [affine]
        if self.walks(view, reduced, extra) > 2:
            kept = [a for a in view.outermost_first if a not in reduced]
            view = self.move(view, (kept, reduced, ()))
        groups = self.lying(view)
        strides = packed(_joined(groups))
        loops: Loops = []
        for atom in _joined(groups):
            steps = (strides[atom], view.strides[atom], *(s.get(atom, 0) for s in extra))
            loops.append((atom.size, REDUCED if atom in reduced else KEPT, steps))
        offsets = (0, view.offset, *(0 for _ in extra))
        block = _block(offsets, loops)
        return self.add_plain(op, (view,), groups, view.axes, [*numbers, *block], floats)

    def walks(
        self, view: View, reduced: Sequence[Atom], extra: Sequence[dict[Atom, int]] = ()
    ) -> int:
        """How many loops are left of the reduced ones where neighbours are made one."""
        out = packed(_joined(self.lying(view)))
        order = [a for a in _joined(self.lying(view)) if a in reduced]
        steps = [(out[a], view.strides[a], *(s.get(a, 0) for s in extra)) for a in order]
        count = len(order)
        for i in range(1, len(order)):
            follows = all(
                x == y * order[i].size for x, y in zip(steps[i - 1], steps[i], strict=True)
            )
            same = self.is_channel(view, order[i - 1]) == self.is_channel(view, order[i])
            count -= follows and same
        return count

    # ---- reductions and pools ----

    def reduce(self, operation: Operation, view: View) -> View:
        op, a = operation.op, operation.named
        if op != "sum" and len(view.axes) == 4 and sorted(a["axes"]) == [2, 3] and not self.plain:
            return self.global_pool("avg_pool" if op == "mean" else "max_pool", view)
        reduced = _joined(view.axes[axis] for axis in a["axes"])
        view = self.operand(view, view.atoms, view.atoms)
        if self.walks(view, reduced) > 2:
            kept = [atom for atom in view.outermost_first if atom not in reduced]
            view = self.move(view, (kept, reduced, ()))
        order = self.lying(view)
        groups = _groups([[atom for atom in group if atom not in reduced] for group in order])
        strides = packed(_joined(groups))
        loops: Loops = [
            (atom.size, REDUCED if atom in reduced else KEPT, (strides.get(atom, 0), view.strides[atom]))
            for atom in _joined(order)
        ]
        axes = [() if i in a["axes"] else axis for i, axis in enumerate(view.axes)]
        if not a["keep"]:
            axes = [axis for i, axis in enumerate(axes) if i not in a["axes"]]
        numbers = [("mean", "sum", "max").index(op), *_block((0, view.offset), loops)]
        return self.add_plain("reduce", (view,), groups, axes, numbers)

    def global_pool(self, op: str, view: View) -> View:
        """The mean or maximum of whole maps."""
        view = self.map_of(view)
        assert view.node is not None
        channels, height, width = self.nodes[view.node].shape
        sizes = {"kernel": (height, width), "stride": max(height, width)}
        node = Node(op, (view.node,), (channels, 1, 1), "", **sizes)
        axes = ((BATCH,), view.axes[1], *((),) * (len(view.axes) - 2))
        result = self.made(node, (view.axes[1], (), ()), axes)
        return result if len(self.shape) == len(view.axes) else replace(result, axes=axes[:2])

    def map_of(self, view: View) -> View:
        """The view as a map of its second axis and two sides, or fewer."""
        if view.axes[0] != (BATCH,):
            raise TicketError(self.refusal)
        _, channels, *sides = view.axes
        return self.stored(view, (channels, _joined(sides[:-1]), _joined(sides[-1:])))

    def pool(self, operation: Operation, view: View) -> View:
        a = operation.named
        kernel, stride, padding = a["kernel"], a["stride"], a["padding"]
        dilation = a.get("dilation", (1,) * len(kernel))
        is_classic = not a["ceil"] and set(dilation) == {1} and len(kernel) < 3
        is_classic &= set(padding) == {0} or (
            operation.op == "max_pool" and len(kernel) == 2 and len(set(padding)) == 1
        )
        is_classic &= len(set(stride)) == 1 or set(self.shape[2:]) == {1}
        is_classic &= max(padding) < min(kernel)
        view = self.map_of(view)
        if not is_classic:
            mean = operation.op == "avg_pool"
            count = a.get("count_padding", False)
            rows = zip(self.shape[2:], view.axes[2:], kernel, stride, padding, dilation, strict=True)
            places = [
                [_place(i, size_of(side), k, s, p, d, count) for i in range(size)]
                for size, side, k, s, p, d in rows
            ]
            return self.plain_pool(view, mean, places)
        assert view.node is not None
        channels, *sides = fresh(self.shape[1:])
        groups = (channels, _joined(sides[:-1]), _joined(sides[-1:]))
        sizes = {"kernel": (*(1,) * (2 - len(kernel)), *kernel), "stride": max(stride)}
        node = Node(operation.op, (view.node,), self.sides(groups), "", padding=padding[0], **sizes)
        return self.made(node, groups, ((BATCH,), channels, *sides))

    def adaptive_pool(self, operation: Operation, view: View) -> View:
        mean = operation.op == "adaptive_avg_pool"
        sizes = operation.named["sizes"]
        if set(sizes) == {1} and len(sizes) == 2 and not self.plain:
            return self.global_pool("avg_pool" if mean else "max_pool", view)
        view = self.map_of(view)
        places = []
        for axis, size in zip(view.axes[2:], sizes, strict=True):
            n = size_of(axis)
            spans = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
            places.append([(start, stop, 1, stop - start) for start, stop in spans])
        return self.plain_pool(view, mean, places)

    def plain_pool(
        self, view: View, mean: bool, places: list[list[tuple[int, int, int, int]]]
    ) -> View:
        """A pool from the places of each side."""
        numbers = [int(mean)] + [1, 1, 0, 1, 1, 1] * (3 - len(places))
        for axis, spans in zip(view.axes[2:], places, strict=True):
            numbers += [size_of(axis), len(spans), *(n for span in spans for n in span)]
        channels, *sides = fresh([size_of(view.axes[1]), *map(len, places)])
        groups = (channels, _joined(sides[:-1]), _joined(sides[-1:]))
        return self.add_plain("pool", (view,), groups, ((BATCH,), channels, *sides), numbers)

    # ---- arithmetic ----

    def arithmetic(self, op: str, a: View, b: View) -> View:
        a, b = self.together(a, b)
        scaled = self.scaled(op, a, b)
        if scaled is not None:
            return scaled
        axes, trios = [], []
        for left, right in zip(a.axes, b.axes, strict=True):
            own, other = (tuple(x for x in axis if x is not BATCH) for axis in (left, right))
            atoms = tuple(Atom(x.size) for x in own or other)
            for i, atom in enumerate(atoms):
                trios.append((atom, own[i] if own else None, other[i] if other else None))
            batch = (BATCH,) if BATCH in left + right else ()
            first = (left if BATCH in left else right)[:1] == (BATCH,)
            axes.append(batch + atoms if first else atoms + batch)
        groups = self.order_of(a, b, trios)
        order, strides = _joined(groups), packed(_joined(groups))
        names = {atom: (x, y) for atom, x, y in trios}
        if op == "add" and self.same(a, b, names, strides):
            assert a.node is not None and b.node is not None
            node = Node("add", (a.node, b.node), self.nodes[a.node].shape)
            return self.made(node, groups, axes)
        orders = [[names[x][i] for x in order if names[x][i] is not None] for i in (0, 1)]
        inner = [[names[x][i] for x in groups[0] if names[x][i] is not None] for i in (0, 1)]
        a, b = self.operand(a, orders[0], inner[0]), self.operand(b, orders[1], inner[1])  # type: ignore[arg-type]
        loops: Loops = []
        for atom in order:
            x, y = names[atom]
            steps = (strides[atom], a.strides[x] if x else 0, b.strides[y] if y else 0)
            loops.append((atom.size, KEPT, steps))
        which = ("add", "mul", "div").index(op)
        numbers = [which, 0, *_block((0, a.offset, b.offset), loops)]
        return self.add_plain("binary", (a, b), groups, axes, numbers, [0.0, 0.0])

    def scaled(self, op: str, a: View, b: View) -> View | None:
        """The result where one operand is a number, or one for each channel; else None."""
        if a.node is None and op != "div":
            a, b = b, a
        if a.node is None or b.node is not None or not self.is_whole(a):
            return None
        pairs = dict(zip(_joined(_without_batch(b)), _joined(
            y for x, y in zip(_without_batch(b), _without_batch(a), strict=True) if x
        ), strict=False))
        stored = self.lying(a)[0]
        grows = any(x and not y for x, y in zip(_without_batch(b), _without_batch(a), strict=True))
        if grows or not set(pairs.values()) <= set(stored):
            return None
        steps = {y: b.strides[x] for x, y in pairs.items()}
        assert b.array is not None
        flat, sizes = b.array.reshape(-1)[b.offset :], [x.size for x in stored]
        strides = [4 * steps.get(x, 0) for x in stored]
        channels = np.lib.stride_tricks.as_strided(flat, sizes, strides).reshape(-1)
        channels = channels.astype(np.float64)
        if not np.isfinite(channels).all() or (op == "div" and not channels.all()):
            return None
        numbers = tuple(map(float, 1 / channels if op == "div" else channels))
        field = "shift" if op == "add" else "factor"
        return self.like(a, Scale, "scale", **{field: numbers})

    def together(self, a: View, b: View) -> tuple[View, View]:
        """Both views with as many axes, and atoms of equal sizes along those that both have."""
        for _ in range(2):
            count = max(len(a.axes), len(b.axes))
            a, b = (replace(v, axes=((),) * (count - len(v.axes)) + v.axes) for v in (a, b))
            both = [(x, y) for x, y in zip(_without_batch(a), _without_batch(b), strict=True) if x and y]
            try:
                left, right = aligned((a, b), list(zip(*both, strict=True)) or [(), ()])
                return left, right
            except MisfitError:
                a, b = self.logical(a), self.logical(b)
        raise TicketError(self.refusal)

    def order_of(
        self, a: View, b: View, trios: Sequence[tuple[Atom, Atom | None, Atom | None]]
    ) -> Groups:
        """The order of a result: that of the operand that has more of it."""
        main, other, place = a, b, 1
        if (b.node is not None, b.numbers) > (a.node is not None, a.numbers):
            main, other, place = b, a, 2
        own = {trio[place]: trio[0] for trio in trios if trio[place] is not None}
        groups = [[own[x] for x in group] for group in self.lying(main)]
        for trio in trios:
            atom = trio[3 - place]
            if trio[place] is None and atom is not None:
                if self.is_channel(other, atom):
                    groups[0].insert(0, trio[0])
                else:
                    groups[2].append(trio[0])
        return _groups(groups)

    def same(
        self,
        a: View,
        b: View,
        names: dict[Atom, tuple[Atom | None, Atom | None]],
        strides: dict[Atom, int],
    ) -> bool:
        """Whether both operands and the result lie in nodes of the same order and sides."""
        if not self.is_whole(a) or not self.is_whole(b):
            return False
        assert a.node is not None and b.node is not None
        fits = self.nodes[a.node].shape == self.nodes[b.node].shape
        return fits and all(
            x is not None and y is not None and a.strides[x] == b.strides[y] == strides[atom]
            for atom, (x, y) in names.items()
        )

    # ---- products ----

    def matmul(self, a: View, b: View) -> View:
        a, b = self.whole_axes(a), self.whole_axes(b)
        rows, columns = a.axes[-2], b.axes[-1]
        inner = list(zip(a.axes[-1], b.axes[-2], strict=True))
        if BATCH in _joined((rows, columns, *inner)):
            raise TicketError(self.refusal)
        if columns and b.node is not None and b.strides[columns[0]] != 1 and rows:
            rest = [x for x in b.atoms if x is not columns[0]]
            b = self.move(b, (rest, columns, ()))
        count = max(len(a.axes), len(b.axes))
        left, right = (((),) * (count - len(v.axes)) + v.axes[:-2] for v in (a, b))
        outer, axes = [], []
        for x, y in zip(left, right, strict=True):
            own, other = (tuple(z for z in axis if z is not BATCH) for axis in (x, y))
            atoms = tuple(Atom(z.size) for z in own or other)
            outer += [(atoms[i], own[i : i + 1], other[i : i + 1]) for i in range(len(atoms))]
            axes.append(((BATCH,) if BATCH in x + y else ()) + atoms)
        out_rows, out_columns = fresh([size_of(rows), size_of(columns)])
        groups: Groups = ((*(o for o, _, _ in outer), *out_rows), (), out_columns)
        strides = packed(_joined(groups))
        a, b = (self.operand(v, v.atoms, v.atoms[:-1]) for v in (a, b))
        loops: Loops = [
            (o.size, KEPT, (strides[o], _stride(a, x), _stride(b, y))) for o, x, y in outer
        ]
        loops += [(o.size, KEPT, (strides[o], _stride(a, rows), 0)) for o in out_rows]
        loops += [(o.size, KEPT, (strides[o], 0, _stride(b, columns))) for o in out_columns]
        loops += [(x.size, REDUCED, (0, a.strides[x], b.strides[y])) for x, y in inner]
        numbers = _block((0, a.offset, b.offset), loops)
        return self.add_plain(
            "contract", (a, b), groups, (*axes, out_rows, out_columns), numbers
        )

    def attention(self, views: Sequence[View], a: dict[str, Any]) -> View:
        """The loops: the outer axes, then queries, keys, and both widths."""
        views = [self.whole_tail(view) for view in views]
        query = self.with_lanes(views[0])
        views = [query, *views[1:]]
        outer = [[_of(axis) for axis in view.axes[:-2]] for view in views[:3]]
        views[:3] = aligned(views[:3], outer)
        queries, keys, width, value_width = (
            views[0].axes[-2], views[1].axes[-2], views[0].axes[-1], views[2].axes[-1]
        )
        new_queries, new_width = fresh([size_of(queries), size_of(value_width)])
        axes, new_outer = [], []
        for axis in views[0].axes[:-2]:
            renamed = tuple(x if x is BATCH else Atom(x.size) for x in axis)
            new_outer += _of(renamed)
            axes.append(renamed)
        groups: Groups = ((*new_outer, *new_width), (), new_queries)
        strides = packed(_joined(groups))
        views = [self.operand(v, v.atoms, v.atoms) for v in views]
        mask: dict[Atom, int] = {}
        mask_keys: dict[Atom, int] = {}
        if len(views) == 4:
            mask, mask_keys = self.mask_steps(views[3], views[0], queries, keys)
        outers = [_joined(map(_of, view.axes[:-2])) for view in views[:3]]
        loops: Loops = []
        for i, atom in enumerate(new_outer):
            steps = [views[k].strides[outers[k][i]] for k in range(3)]
            loops.append((atom.size, KEPT, (strides[atom], *steps, mask.get(outers[0][i], 0))))
        query_key = (views[1].axes[-1], views[2].axes[-2])
        for x in queries:
            steps = (strides[new_queries[0]], views[0].strides[x], 0, 0, mask.get(x, 0))
            loops.append((x.size, QUERY, steps))
        for x, y in zip(keys, query_key[1], strict=True):
            steps = (0, 0, views[1].strides[x], views[2].strides[y], mask_keys.get(x, 0))
            loops.append((x.size, KEY, steps))
        for x, y in zip(width, query_key[0], strict=True):
            loops.append((x.size, WIDTH, (0, views[0].strides[x], views[1].strides[y], 0, 0)))
        for x in value_width:
            steps = (strides[new_width[0]], 0, 0, views[2].strides[x], 0)
            loops.append((x.size, VALUE_WIDTH, steps))
        operands = 1 + len(views)
        loops = [(size, role, steps[:operands]) for size, role, steps in loops]
        scale = 1 / math.sqrt(size_of(width)) if a["scale"] is None else a["scale"]
        numbers = [int(a["causal"]), *_block((0, *(v.offset for v in views)), loops)]
        result = (*axes, new_queries, new_width)
        return self.add_plain("attention", views, groups, result, numbers, [scale])

    def whole_tail(self, view: View) -> View:
        """The view with at most one atom in each of the last two axes."""
        if any(len(axis) > 1 or BATCH in axis for axis in view.axes[-2:]):
            return self.logical(view)
        return view

    def with_lanes(self, query: View) -> View:
        """Queries whose places are neighbours, so that many are computed side by side."""
        places = query.axes[-2]
        if not places or (query.node is not None and query.strides[places[0]] == 1):
            return query
        return self.move(query, ([a for a in query.atoms if a not in places], (), places))

    def mask_steps(
        self, mask: View, query: View, queries: Atoms, keys: Atoms
    ) -> tuple[dict[Atom, int], dict[Atom, int]]:
        """The strides of a mask by the atoms of outer axes and queries, and those of keys.

        Keys may have the atoms of queries.
        """
        own_steps: dict[Atom, int] = {}
        key_steps: dict[Atom, int] = {}
        axes = (*query.axes[:-2], queries, keys)
        pairs = zip(reversed(mask.axes), reversed(axes), strict=False)
        for i, (own, other) in enumerate(pairs):
            atoms, others = _of(own), _of(other)
            steps = own_steps if i else key_steps
            if not atoms:
                continue
            if [x.size for x in atoms] != [x.size for x in others]:
                raise TicketError(self.refusal)
            steps |= {y: mask.strides[x] for x, y in zip(atoms, others, strict=True)}
        return own_steps, key_steps

    def embedding(self, operation: Operation, view: View) -> View:
        weight = self.array(operation.tensor_of["weight"])
        view = self.compact(view)
        rows, width = weight.shape
        (features,) = fresh([width])
        rest = view.outermost_first
        return self.add_plain(
            "embedding",
            (view,),
            (features, rest[:-1], rest[-1:]),
            (*view.axes, features),
            [rows, width],
            weight.reshape(-1),
        )


# ---- helpers ----


class _Transposed:
    """A transposed convolution as an ordinary one, with an output for each remainder of a place.

    A place o of the result is stride · grid + phase. Tap k of the kernel adds input i to o = i
    stride + k dilation - padding, so that for each phase the result is a convolution with some taps
    of the kernel, whose outputs are interleaved.
    """

    def __init__(
        self, a: dict[str, Any], shape: Shape, sides: Sequence[int], results: Sequence[int]
    ) -> None:
        self.groups, self.shape, self.stride = a["groups"], shape, a["stride"]
        rows = zip(shape[2:], a["stride"], a["padding"], a["dilation"], strict=True)
        self.places = [[divmod(k * d - p, s) for k in range(n)] for n, s, p, d in rows]
        most = [max(shift for shift, _ in places) for places in self.places]
        least = [min(shift for shift, _ in places) for places in self.places]
        self.most = most
        self.kernel = [high - low + 1 for high, low in zip(most, least, strict=True)]
        grids = [-(-size // s) for size, s in zip(results, a["stride"], strict=True)]
        self.pads = [
            (high, grid + k - 1 - side - high)
            for high, grid, k, side in zip(most, grids, self.kernel, sides, strict=True)
        ]

    def arranged(self, weight: NDArray[Any]) -> NDArray[Any]:
        """From [C, O / groups, kernel] to [O · phases, C / groups, kernel]."""
        groups, (inputs, outputs) = self.groups, self.shape[:2]
        weight = weight.reshape(groups, inputs // groups, outputs, *self.shape[2:])
        result = np.zeros(
            (groups, outputs, *self.stride, inputs // groups, *self.kernel), weight.dtype
        )
        every = (slice(None),) * 2
        for tap in np.ndindex(*self.shape[2:]):
            places = [axis[k] for axis, k in zip(self.places, tap, strict=True)]
            phase = tuple(phase for _, phase in places)
            at = tuple(high - shift for high, (shift, _) in zip(self.most, places, strict=True))
            result[(*every, *phase, slice(None), *at)] = weight[
                (slice(None), slice(None), slice(None), *tap)
            ].swapaxes(1, 2)
        return result.reshape(-1, inputs // groups, *self.kernel)


def _refusal(operation: Operation) -> str:
    name = next((f" {name}" for name in operation.tensors if name), "")
    return f"the engine has no operation for {operation.op}{name}"


def _joined(groups: Any) -> Atoms:
    return tuple(atom for group in groups for atom in group)


def _groups(groups: Any) -> Groups:
    channels, height, width = groups
    return channels, height, width


def _of(axis: Atoms) -> Atoms:
    """The atoms of an axis without that of the batch."""
    return tuple(atom for atom in axis if atom is not BATCH)


def _without_batch(view: View) -> list[Atoms]:
    return [_of(axis) for axis in view.axes]


def _joined_atoms(view: View) -> View:
    """A packed view in C order, with one atom for each axis."""
    axes, strides = [], {}
    for axis in view.axes:
        atoms = _of(axis)
        merged = (Atom(size_of(atoms)),) if atoms else ()
        strides |= dict.fromkeys(merged, view.strides[atoms[-1]])
        batch = tuple(atom for atom in axis if atom is BATCH)
        axes.append(batch + merged if axis[:1] == (BATCH,) else merged + batch)
    return View(view.node, tuple(axes), strides)


def _with_batch(axes: Sequence[Atoms], new: Sequence[Atoms]) -> list[Atoms]:
    """New atoms beside the batch, where it is."""
    return [
        (BATCH, *atoms) if axis[:1] == (BATCH,) else (*atoms, *(a for a in axis if a is BATCH))
        for axis, atoms in zip(axes, new, strict=True)
    ]


def _first_stride(strides: dict[Atom, int], atoms: Atoms) -> int:
    return strides[atoms[0]] if atoms else 0


def _stride(view: View, atoms: Sequence[Atom]) -> int:
    return view.strides[atoms[0]] if atoms else 0


def _block(offsets: Sequence[int], loops: Loops) -> list[int]:
    """The numbers of a block of loops."""
    numbers = [*offsets, len(loops)]
    for size, role, strides in loops:
        numbers += [size, role, *strides]
    return numbers


def _range(axis: int, start: int, stop: int) -> dict[str, int]:
    return {"axis": axis, "start": start, "stop": stop, "step": 1}


def _output_atoms(
    channels: int, phases: Sequence[int], sides: Sequence[int]
) -> tuple[Atoms, list[Atoms], list[Atoms]]:
    (own,) = fresh([channels])
    return own, list(fresh(phases)), list(fresh(sides))


def _place(
    i: int, side: int, kernel: int, stride: int, padding: int, dilation: int, count_padding: bool
) -> tuple[int, int, int, int]:
    """Where window i of a pool begins and ends within a side, its step, and the count of its
    positions.
    """
    taps = [i * stride - padding + k * dilation for k in range(kernel)]
    inside = [tap for tap in taps if 0 <= tap < side]
    counted = [tap for tap in taps if tap < side + padding] if count_padding else inside
    if not inside:
        raise TicketError("the engine has no operation for a pool with windows in the padding")
    return inside[0], inside[-1] + 1, dilation, max(1, len(counted))


def _segments(n: int, before: int, after: int, mode: str) -> list[tuple[int, int, int, int]]:
    """Of a padded axis: where a run begins, its length, where it comes from, and the step there."""
    inner = [(before, n, 0, 1)]
    if mode == "constant":
        return inner
    first, last = {
        "reflect": ((before, -1), (n - 2, -1)),
        "replicate": ((0, 0), (n - 1, 0)),
        "circular": ((n - before, 1), (0, 1)),
    }[mode]
    runs = [(0, before, *first), *inner, (before + n, after, *last)]
    return [run for run in runs if run[1]]


def _pad_blocks(
    source: View,
    old: Sequence[Atoms],
    new: Sequence[Atoms],
    strides: dict[Atom, int],
    pads: Sequence[tuple[int, int]],
    mode: str,
) -> list[list[int]]:
    """A block for each run of each axis."""
    blocks: list[tuple[int, int, Loops]] = [(0, source.offset, [])]
    for own, result, pad in zip(old, new, pads, strict=True):
        if not result:
            continue
        to, from_ = strides[result[0]], _stride(source, own)
        blocks = [
            (out + run[0] * to, at + run[2] * from_, [*loops, (run[1], KEPT, (to, run[3] * from_))])
            for out, at, loops in blocks
            for run in _segments(size_of(own), *pad, mode)
        ]
    ordered = []
    for out, at, loops in blocks:
        loops.sort(key=lambda loop: -loop[2][0])
        ordered.append(_block((out, at), loops))
    return ordered
