"""Networks as lists of operations on tensors with a dynamic batch: what a ticket of the user's own
network holds, and what the networks of the registry become.

An operation reads values (results of earlier operations; value 0 is the network's input) and
tensors of the network, by their names in the state dict. It has no code: what each one computes is
in docs/ticket-format.md, and in engine/compute.py (numpy) and models/interpreter.py (PyTorch). A
graph is anybody's: `check_graph` computes the shape of every value, and refuses what does not fit
before anything of its size is allocated.

Shapes have all axes. In a value, at most one of them depends on the batch: it is written as a
negative number, -k for k times the number of samples, so that an image batch is
(-1, channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import TicketError, abbreviated
from ..names import is_name

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Attributes = dict[str, Any]

MOST_OPERATIONS, MOST_READS, MOST_AXES = 1 << 16, 1 << 18, 8
MOST_NUMBERS = 1 << 28
"""Limit of the numbers of a value for one sample, in the graph of a file: 1 GiB in float32."""
MOST_READ = 1 << 32
"""Limit of the numbers that an operation reads for one sample: padded, or as a matrix."""
_MOST_SIZE = 1 << 28
"""Limit of every size, stride, padding and the like."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        op: one of `OPERATIONS`.
        inputs: numbers of the values that it reads.
        tensors: names of the tensors that it reads, in the order of `OPERATIONS`; None where one is
            left out.
        attributes: in the order of `OPERATIONS`: numbers, flags, words, and tuples of whole
            numbers.
    """

    op: str
    inputs: tuple[int, ...] = ()
    tensors: tuple[str | None, ...] = ()
    attributes: tuple[Any, ...] = ()

    @property
    def named(self) -> Attributes:
        """The attributes by name."""
        names = (name.rstrip("?") for name in OPERATIONS[self.op].attributes)
        return dict(zip(names, self.attributes, strict=True))

    @property
    def tensor_of(self) -> dict[str, str]:
        """The names of the tensors by their role; without those that are left out."""
        roles = OPERATIONS[self.op].tensors
        pairs = zip(roles, self.tensors, strict=True)
        return {role.rstrip("?"): name for role, name in pairs if name is not None}


@dataclass(frozen=True)
class Graph:
    """A network: value i + 1 is the result of operation i, the last one the output.

    Attributes:
        input: shape of the input, (-1, ...).
        operations: in order; each reads earlier values only.
        indices: the input holds whole numbers, for embeddings, and not floats.
        constants: names of tensors that are not in the state dict of the module that was traced.
    """

    input: Shape
    operations: tuple[Operation, ...]
    indices: bool = False
    constants: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The graph in the description of a ticket."""
        return {
            "input": list(self.input[1:]),
            "indices": self.indices,
            "constants": list(self.constants),
            "operations": [
                [o.op, list(o.inputs), list(o.tensors), list(map(_as_list, o.attributes))]
                for o in self.operations
            ],
        }


def _as_list(attribute: Any) -> Any:
    return list(attribute) if isinstance(attribute, tuple) else attribute


class _MisfitError(Exception):
    """An operation that its inputs, tensors or attributes do not allow."""


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise _MisfitError(what)


# Kinds of attributes: each takes any value and says whether it is valid.


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) <= _MOST_SIZE


def _is_float(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e38


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _are_whole(values: Any) -> bool:
    return (
        isinstance(values, tuple) and len(values) <= 2 * MOST_AXES and all(map(_is_whole, values))
    )


def _is_mode(value: Any) -> bool:
    return value in ("constant", "reflect", "replicate", "circular")


_KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("groups", "axis", "count", "start", "stop", "step"), _is_whole),
    **dict.fromkeys(("stride", "padding", "output_padding", "dilation", "kernel"), _are_whole),
    **dict.fromkeys(("sizes", "axes", "shape", "pads"), _are_whole),
    **dict.fromkeys(("eps", "slope", "alpha", "factor", "shift", "value"), _is_float),
    **dict.fromkeys(("low", "high", "scale"), _is_float),
    **dict.fromkeys(("tanh", "ceil", "count_padding", "keep", "causal"), _is_flag),
    "mode": _is_mode,
}
"""Name of an attribute -> what is valid. One whose name ends in "?" in `OPERATIONS` may be None."""


# Shapes: each function takes the shapes of the inputs, those of the tensors by role, and the
# attributes by name, and returns the shape of the result.

_ShapeOf = Callable[[Sequence[Shape], Shapes, Attributes], Shape]


def _same(inputs: Sequence[Shape], _: Shapes, attributes: Attributes) -> Shape:
    low, high = attributes.get("low"), attributes.get("high")
    _check(low is None or high is None or low <= high, "bounds in the wrong order")
    return inputs[0]


def _tensor(_: Sequence[Shape], tensors: Shapes, __: Attributes) -> Shape:
    return tensors["weight"]


def _check_tensor(tensors: Shapes, role: str, shape: Shape) -> None:
    there = tensors.get(role, shape)
    _check(there == shape, f"its {role} is {there}, not {shape}")


def _axis(shape: Shape, axis: int) -> int:
    """The size of an axis that does not depend on the batch."""
    _check(0 <= axis < len(shape), f"axis {axis} of {len(shape)}")
    _check(shape[axis] > 0, f"axis {axis} is of the batch")
    return shape[axis]


def _maps(shape: Shape, axes: int, what: str) -> tuple[int, Shape]:
    """Channels and sides of maps: (batch, channels, sides ...)."""
    _check(1 <= axes <= 3, f"{what} over {axes} axes")
    is_map = len(shape) == axes + 2 and all(size > 0 for size in shape[1:])
    _check(is_map, f"{what} over {axes} axes of an input of shape {shape}")
    return shape[1], shape[2:]


def _check_windows(attributes: Attributes, axes: int) -> None:
    """Every list of attributes has a number for each axis, and none is out of range."""
    for name in ("kernel", "stride", "dilation", "padding", "output_padding"):
        least = 1 if name in ("kernel", "stride", "dilation") else 0
        values = attributes.get(name, (1,) * axes)
        fits = len(values) == axes and min(values) >= least
        _check(fits, f"{name} {values}")


def _window(
    side: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False
) -> int:
    """Positions of a window along a side; with `ceil` also one that begins inside, and ends after
    the padded map.
    """
    room = side + 2 * padding - dilation * (kernel - 1) - 1
    _check(room >= 0, f"windows of {kernel} on a side of {side}")
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= side + padding else count


def _conv(inputs: Sequence[Shape], tensors: Shapes, a: Attributes) -> Shape:
    weight, axes = tensors["weight"], len(tensors["weight"]) - 2
    channels, sides = _maps(inputs[0], axes, "a convolution")
    _check_windows(a, axes)
    groups = a["groups"]
    fits = groups >= 1 and weight[1] * groups == channels and weight[0] % groups == 0
    _check(fits, f"a weight {weight} in {groups} groups on {channels} channels")
    _check_tensor(tensors, "bias", weight[:1])
    windows = zip(sides, weight[2:], a["stride"], a["padding"], a["dilation"], strict=True)
    result = [_window(*window) for window in windows]
    _check_room(inputs[0], a["padding"])
    _check_numbers(channels * math.prod(weight[2:]) * math.prod(result))
    return (inputs[0][0], weight[0], *result)


def _check_room(shape: Shape, padding: Sequence[int]) -> None:
    """The padded maps are within the limit, however few numbers the result has."""
    sides = [side + 2 * more for side, more in zip(shape[2:], padding, strict=True)]
    _check_numbers(math.prod(shape[:2]) * math.prod(sides))


def _check_numbers(count: int) -> None:
    _check(abs(count) <= MOST_READ, f"{abs(count)} numbers a sample: more than {MOST_READ}")


def _conv_transpose(inputs: Sequence[Shape], tensors: Shapes, a: Attributes) -> Shape:
    weight, axes = tensors["weight"], len(tensors["weight"]) - 2
    channels, sides = _maps(inputs[0], axes, "a transposed convolution")
    _check_windows(a, axes)
    groups = a["groups"]
    fits = groups >= 1 and weight[0] == channels and channels % groups == 0
    _check(fits, f"a weight {weight} in {groups} groups on {channels} channels")
    _check_tensor(tensors, "bias", (weight[1] * groups,))
    result = [inputs[0][0], weight[1] * groups]
    for i, side in enumerate(sides):
        stride, dilation, more = a["stride"][i], a["dilation"][i], a["output_padding"][i]
        _check(more < max(stride, dilation), f"output_padding {more} with stride {stride}")
        reach = dilation * (weight[2 + i] - 1) + more + 1
        result.append((side - 1) * stride - 2 * a["padding"][i] + reach)
        _check(result[-1] >= 1, f"nothing is left of a side of {side}")
    _check_room(tuple(result), a["padding"])
    _check_numbers(weight[1] * groups * math.prod(weight[2:]) * math.prod(sides))
    return tuple(result)


def _linear(inputs: Sequence[Shape], tensors: Shapes, _: Attributes) -> Shape:
    shape, weight = inputs[0], tensors["weight"]
    _check(len(weight) == 2, f"a weight of shape {weight}")
    features = _axis(shape, len(shape) - 1)
    _check(features == weight[1], f"a weight {weight} on {features} features")
    _check_tensor(tensors, "bias", weight[:1])
    return (*shape[:-1], weight[0])


def _channel_norm(inputs: Sequence[Shape], tensors: Shapes, a: Attributes) -> Shape:
    channels = _axis(inputs[0], 1)
    for role in tensors:
        _check_tensor(tensors, role, (channels,))
    _check(a["eps"] >= 0, f"eps {a['eps']}")
    return inputs[0]


def _group_norm(inputs: Sequence[Shape], tensors: Shapes, a: Attributes) -> Shape:
    shape = _channel_norm(inputs, tensors, a)
    groups = a["groups"]
    fits = groups >= 1 and shape[1] % groups == 0 and all(size > 0 for size in shape[1:])
    _check(fits, f"{groups} groups of an input of shape {shape}")
    return shape


def _layer_norm(inputs: Sequence[Shape], tensors: Shapes, a: Attributes) -> Shape:
    shape, count = inputs[0], a["count"]
    fits = 1 <= count <= len(shape) and all(size > 0 for size in shape[-count:])
    _check(fits, f"the last {count} axes of an input of shape {shape}")
    for role in tensors:
        _check_tensor(tensors, role, shape[-count:])
    _check(a["eps"] >= 0, f"eps {a['eps']}")
    return shape


def _softmax(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    _axis(inputs[0], a["axis"])
    return inputs[0]


def _pool(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    axes = len(a["kernel"])
    channels, sides = _maps(inputs[0], axes, "a pool")
    _check_windows(a, axes)
    fits = all(2 * padding <= k for padding, k in zip(a["padding"], a["kernel"], strict=True))
    _check(fits, f"padding {a['padding']} of windows {a['kernel']}")
    dilation = a.get("dilation", (1,) * axes)
    windows = zip(sides, a["kernel"], a["stride"], a["padding"], dilation, strict=True)
    _check_room(inputs[0], a["padding"])
    return (inputs[0][0], channels, *(_window(*window, a["ceil"]) for window in windows))


def _adaptive_pool(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    channels, _sides = _maps(inputs[0], len(a["sizes"]), "a pool")
    _check(min(a["sizes"]) >= 1, f"sizes {a['sizes']}")
    return (inputs[0][0], channels, *a["sizes"])


def _broadcast(inputs: Sequence[Shape], _: Shapes, __: Attributes) -> Shape:
    return broadcast(*inputs)


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise result: aligned at the last axis, sizes of 1 repeat."""
    axes = max(map(len, shapes))
    padded = [(1,) * (axes - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        larger = {size for size in sizes if size != 1}
        _check(len(larger) <= 1, f"shapes {' and '.join(map(str, shapes))}")
        result.append(larger.pop() if larger else 1)
    return tuple(result)


def _concat(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    first, axis = inputs[0], a["axis"]
    for shape in inputs:
        _axis(shape, axis)
        fits = shape[:axis] + shape[axis + 1 :] == first[:axis] + first[axis + 1 :]
        _check(fits and len(shape) == len(first), f"shapes {first} and {shape}")
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


def _reshape(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    before, shape = inputs[0], a["shape"]
    _check(math.prod(before) == math.prod(shape), f"shape {before} to {shape}")
    return tuple(shape)


def _of_batch(shape: Sequence[int]) -> int:
    """Number of axes that depend on the batch."""
    return sum(size < 0 for size in shape)


def _permute(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    axes = a["axes"]
    _check(sorted(axes) == list(range(len(inputs[0]))), f"axes {axes} of {len(inputs[0])}")
    return tuple(inputs[0][axis] for axis in axes)


def _reduce(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    shape, axes = inputs[0], a["axes"]
    _check(len(set(axes)) == len(axes) >= 1, f"axes {axes}")
    for axis in axes:
        _axis(shape, axis)
    if a["keep"]:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def _matmul(inputs: Sequence[Shape], _: Shapes, __: Attributes) -> Shape:
    left, right = inputs
    _check(min(len(left), len(right)) >= 2, f"shapes {left} and {right}: two axes or more each")
    inner = _axis(left, len(left) - 1)
    _check(inner == right[-2], f"a product of shapes {left} and {right}")
    return (*broadcast(left[:-2], right[:-2]), left[-2], right[-1])


def _attention(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    query, key, value = inputs[:3]
    _check(min(map(len, (query, key, value))) >= 2, "fewer than two axes")
    queries, width = (_axis(query, len(query) - i) for i in (2, 1))
    keys, key_width = (_axis(key, len(key) - i) for i in (2, 1))
    fits = width == key_width and value[-2] == keys and query[:-2] == key[:-2] == value[:-2]
    _check(fits, f"a query {query}, a key {key} and a value {value}")
    scores = (*query[:-2], queries, keys)
    _check_numbers(math.prod(scores))
    if len(inputs) == 4:
        _check(broadcast(inputs[3], scores) == scores, f"a mask {inputs[3]} for scores {scores}")
        _check(not a["causal"], "a mask and causal")
    return (*query[:-1], _axis(value, len(value) - 1))


def _embedding(inputs: Sequence[Shape], tensors: Shapes, _: Attributes) -> Shape:
    weight = tensors["weight"]
    _check(len(weight) == 2, f"a weight of shape {weight}")
    return (*inputs[0], weight[1])


def _pad(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    shape, pads = inputs[0], a["pads"]
    _check(len(pads) == 2 * len(shape) and min(pads, default=0) >= 0, f"pads {pads}")
    result = []
    for size, before, after in zip(shape, pads[::2], pads[1::2], strict=True):
        _check(size > 0 or before == after == 0, "padding of the batch")
        most = {"reflect": size - 1, "circular": size}.get(a["mode"], _MOST_SIZE)
        _check(max(before, after) <= max(0, most), f"pads {pads} of shape {shape}")
        result.append(size + before + after)
    return tuple(result)


def _slice(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    shape, axis, start, stop = inputs[0], a["axis"], a["start"], a["stop"]
    size, step = _axis(shape, axis), a["step"]
    fits = 0 <= start < stop <= size and step >= 1
    _check(fits, f"{start}:{stop}:{step} of axis {axis} of shape {shape}")
    return (*shape[:axis], -(-(stop - start) // step), *shape[axis + 1 :])


def _expand(inputs: Sequence[Shape], _: Shapes, a: Attributes) -> Shape:
    shape = tuple(a["shape"])
    fits = 0 not in shape and broadcast(inputs[0], shape) == shape
    _check(fits, f"shape {inputs[0]} to {shape}")
    return shape


@dataclass(frozen=True)
class Kind:
    """What an operation reads, and the shape of its result.

    Attributes:
        shape_of: computes the shape.
        inputs: least and greatest number of values.
        tensors: roles of the tensors; those that end in "?" may be left out.
        attributes: names; those that end in "?" may be None.
    """

    shape_of: _ShapeOf
    inputs: tuple[int, int] = (1, 1)
    tensors: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


_WEIGHTS = ("weight", "bias?")
_NORM = ("weight?", "bias?")
_STATISTICS = (*_NORM, "running_mean", "running_var")
_WINDOWS = ("stride", "padding", "dilation", "groups")
_MAX_POOL = ("kernel", "stride", "padding", "dilation", "ceil")
_TRANSPOSED = ("stride", "padding", "output_padding", "dilation", "groups")
_AVG_POOL = ("kernel", "stride", "padding", "ceil", "count_padding")
_REDUCTION = ("axes", "keep")
_MANY = MOST_READS

OPERATIONS: dict[str, Kind] = {
    "tensor": Kind(_tensor, (0, 0), ("weight",)),
    "conv": Kind(_conv, (1, 1), _WEIGHTS, _WINDOWS),
    "conv_transpose": Kind(_conv_transpose, (1, 1), _WEIGHTS, _TRANSPOSED),
    "linear": Kind(_linear, (1, 1), _WEIGHTS),
    "embedding": Kind(_embedding, (1, 1), ("weight",)),
    "batch_norm": Kind(_channel_norm, (1, 1), _STATISTICS, ("eps",)),
    "group_norm": Kind(_group_norm, (1, 1), _NORM, ("groups", "eps")),
    "layer_norm": Kind(_layer_norm, (1, 1), _NORM, ("count", "eps")),
    **dict.fromkeys(("relu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid"), Kind(_same)),
    **dict.fromkeys(("sign", "sign0"), Kind(_same)),
    "gelu": Kind(_same, attributes=("tanh",)),
    "leaky_relu": Kind(_same, attributes=("slope",)),
    "elu": Kind(_same, attributes=("alpha",)),
    "clamp": Kind(_same, attributes=("low?", "high?")),
    "scale": Kind(_same, attributes=("factor", "shift")),
    **dict.fromkeys(("softmax", "log_softmax"), Kind(_softmax, attributes=("axis",))),
    "max_pool": Kind(_pool, attributes=_MAX_POOL),
    "avg_pool": Kind(_pool, attributes=_AVG_POOL),
    **dict.fromkeys(
        ("adaptive_avg_pool", "adaptive_max_pool"), Kind(_adaptive_pool, attributes=("sizes",))
    ),
    **dict.fromkeys(("add", "mul", "div"), Kind(_broadcast, (2, 2))),
    "concat": Kind(_concat, (1, _MANY), attributes=("axis",)),
    "reshape": Kind(_reshape, attributes=("shape",)),
    "expand": Kind(_expand, attributes=("shape",)),
    "permute": Kind(_permute, attributes=("axes",)),
    "slice": Kind(_slice, attributes=("axis", "start", "stop", "step")),
    "pad": Kind(_pad, attributes=("pads", "mode", "value")),
    **dict.fromkeys(("mean", "sum", "max"), Kind(_reduce, attributes=_REDUCTION)),
    "matmul": Kind(_matmul, (2, 2)),
    "attention": Kind(_attention, (3, 4), attributes=("scale?", "causal")),
}
"""Every operation of version 2 of the ticket format."""

_MOVES = ("reshape", "expand", "permute", "slice", "concat")
"""Operations that take whole numbers as well: they compute nothing."""


def check_graph(graph: Graph, tensors: Shapes, most: int = MOST_NUMBERS) -> list[Shape]:
    """The shapes of all values of a graph, of which every part may be hostile.

    Args:
        graph: as `parse` makes it.
        tensors: shapes of the network's tensors by name.
        most: numbers of a value for one sample.

    Returns:
        One shape a value, that of the input first.

    Raises:
        TicketError: an operation does not fit; the message names it.
    """
    try:
        _check_input(graph, most)
    except _MisfitError as e:
        raise TicketError(f"its graph: {e}") from None
    shapes = [graph.input]
    whole = {0} if graph.indices else set()
    reads = 0
    for number, operation in enumerate(graph.operations, start=1):
        try:
            reads += len(operation.inputs)
            _check(reads <= MOST_READS, f"more than {MOST_READS} inputs in all")
            shapes.append(_result(operation, shapes, tensors))
            _check(_is_shape(shapes[-1], most), f"a result of shape {shapes[-1]}")
            _check_types(operation, whole, number)
        except _MisfitError as e:
            name = next((f" {name}" for name in operation.tensors if name), "")
            where = f"operation {number}, {operation.op}{name}"
            raise TicketError(f"its graph: {abbreviated(where)}: {abbreviated(e, 200)}") from None
    _check_output(graph, shapes, whole)
    return shapes


def _check_input(graph: Graph, most: int) -> None:
    _check(
        _is_shape(graph.input, most) and graph.input[0] == -1, f"an input of shape {graph.input}"
    )
    _check(_of_batch(graph.input) == 1, f"an input of shape {graph.input}")
    _check(1 <= len(graph.operations) <= MOST_OPERATIONS, f"{len(graph.operations)} operations")
    repeated = len(set(graph.constants)) < len(graph.constants)
    _check(not repeated, "a constant that comes twice")


def _is_shape(shape: Sequence[int], most: int) -> bool:
    """Whether this can be the shape of a value."""
    fits = len(shape) <= MOST_AXES and 0 not in shape and _of_batch(shape) <= 1
    return fits and abs(math.prod(shape)) <= most


def _result(operation: Operation, shapes: Sequence[Shape], tensors: Shapes) -> Shape:
    """The shape of an operation's result."""
    kind = OPERATIONS[operation.op]
    least, most = kind.inputs
    _check(least <= len(operation.inputs) <= most, f"{len(operation.inputs)} inputs")
    _check(all(0 <= i < len(shapes) for i in operation.inputs), f"inputs {operation.inputs}")
    _check_attributes(operation, kind)
    read = _tensors(operation, kind, tensors)
    shape = kind.shape_of([shapes[i] for i in operation.inputs], read, operation.named)
    return shape


def _tensors(operation: Operation, kind: Kind, shapes: Shapes) -> dict[str, Shape]:
    """The shapes of an operation's tensors by role."""
    _check(len(operation.tensors) == len(kind.tensors), f"{len(operation.tensors)} tensors")
    for role, name in zip(kind.tensors, operation.tensors, strict=True):
        _check(name is not None or role.endswith("?"), f"no {role}")
    missing = [name for name in operation.tensors if name is not None and name not in shapes]
    _check(not missing, f"no tensor {missing[:1]}")
    read = {role: shapes[name] for role, name in operation.tensor_of.items()}
    _check(all(0 not in shape for shape in read.values()), "an empty tensor")
    return read


def _check_attributes(operation: Operation, kind: Kind) -> None:
    values = operation.attributes
    _check(len(values) == len(kind.attributes), f"{len(values)} attributes")
    for name, value in zip(kind.attributes, values, strict=True):
        is_absent = value is None and name.endswith("?")
        is_valid = is_absent or _KINDS[name.rstrip("?")](value)
        _check(is_valid, f"{name.rstrip('?')} {value!r:.80}")


def _check_types(operation: Operation, whole: set[int], number: int) -> None:
    """Whole numbers go into embeddings only; `whole` are the values that hold them."""
    of_whole = [i in whole for i in operation.inputs]
    if operation.op == "embedding":
        _check(all(of_whole), "its input is not of whole numbers")
    elif operation.op in _MOVES:
        _check(all(of_whole) or not any(of_whole), "whole numbers and floats")
        if any(of_whole):
            whole.add(number)
    else:
        _check(not any(of_whole), "an input of whole numbers")


def _check_output(graph: Graph, shapes: Sequence[Shape], whole: set[int]) -> None:
    last, output = len(shapes) - 1, shapes[-1]
    read = {i for operation in graph.operations for i in operation.inputs}
    if output[:1] != (-1,) or last in whole:
        raise TicketError(f"its graph: an output of shape {output}")
    if len(read) != last or last in read:
        raise TicketError("its graph: a value that nothing reads")


def parse(described: Any) -> Graph:
    """The graph of a ticket's description, of which every part may be hostile.

    Raises:
        TicketError: it is not one; `check_graph` checks the rest.
    """
    keys = {"input", "indices", "constants", "operations"}
    if not isinstance(described, dict) or set(described) != keys:
        raise TicketError("damaged: the graph")
    sizes, entries = described["input"], described["operations"]
    are_sizes = isinstance(sizes, list) and len(sizes) < MOST_AXES and all(map(_is_whole, sizes))
    names = described["constants"]
    are_names = isinstance(names, list) and all(map(is_name, names))
    if not are_sizes or not are_names or not _is_flag(described["indices"]):
        raise TicketError("damaged: the graph's input or constants")
    if not isinstance(entries, list) or len(entries) > MOST_OPERATIONS:
        raise TicketError("damaged: the graph's operations")
    operations = tuple(map(_parse_operation, entries))
    return Graph((-1, *sizes), operations, described["indices"], tuple(names))


def _parse_operation(entry: Any) -> Operation:
    if not isinstance(entry, list) or len(entry) != 4:
        raise TicketError("damaged: an operation of the graph")
    op, inputs, tensors, attributes = entry
    if not isinstance(op, str) or op not in OPERATIONS:
        raise TicketError(f"damaged: an unknown operation of the graph: {abbreviated(op, 40)}")
    are_lists = all(isinstance(part, list) for part in (inputs, tensors, attributes))
    if not are_lists or not all(map(_is_whole, inputs)):
        raise TicketError(f"damaged: an operation of the graph: {op}")
    if not all(name is None or is_name(name) for name in tensors):
        raise TicketError(f"damaged: the tensors of an operation of the graph: {op}")
    values = (tuple(value) if isinstance(value, list) else value for value in attributes)
    return Operation(op, tuple(inputs), tuple(tensors), tuple(values))
