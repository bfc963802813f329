"""Convolutions, linear layers, pools and borders of a user's own network as nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TicketError
from ..models.graph import Node
from ..models.operations import Operation, Shape
from .builder import (
    KEPT,
    Builder,
    Groups,
    Layer,
    Loops,
    block_of,
    groups_of,
    joined,
    range_of,
    stride_of,
    with_batch,
    without_batch,
)
from .views import BATCH, Atom, Atoms, View, fresh, packed, size_of


class Windows(Builder):
    """Operations that move a window over maps, and linear layers, whose window is one position."""

    def pad(self, view: View, a: dict[str, Any]) -> View:
        """The operation `pad`, of these attributes."""
        pads = list(zip(a["pads"][::2], a["pads"][1::2], strict=True))
        return self.padded(view, pads, a["mode"], float(a["value"]))

    def padded(
        self, view: View, pads: Sequence[tuple[int, int]], mode: str = "constant", value: float = 0
    ) -> View:
        """Numbers before and after each axis; a negative number takes some away."""
        for axis, (before, after) in enumerate(pads):
            if min(before, after) < 0:
                size = size_of(without_batch(view)[axis])
                view = self.cut(view, range_of(axis, max(0, -before), size - max(0, -after)))
        pads = [(max(0, before), max(0, after)) for before, after in pads]
        if not any(map(any, pads)):
            return view
        view = self.whole_axes(view)
        source = self.operand(view, view.atoms, view.atoms)
        old = without_batch(source)
        new = [
            (Atom(size_of(own) + sum(pad)),) if any(pad) else own
            for own, pad in zip(old, pads, strict=True)
        ]
        renamed = {a[0]: b[0] for a, b in zip(old, new, strict=True) if a}
        lying = [[renamed[a] for a in group] for group in self.lying(source)]
        added = [b[0] for a, b in zip(old, new, strict=True) if b and not a]
        groups = groups_of((lying[0], lying[1], [*lying[2], *added]))
        strides = packed(joined(groups))
        blocks, inputs = _pad_blocks(source, old, new, strides, pads, mode), []
        numbers: list[int] = []
        for block in blocks:
            numbers += block
            inputs.append(source)
        axes = with_batch(source.axes, new)
        fills = [int(mode == "constant")]
        return self.add_plain("move", inputs, groups, axes, numbers + fills, [value])

    def convolution(self, operation: Operation, view: View) -> View:
        """A convolution, or a transposed one as an ordinary one whose outputs are interleaved."""
        names = operation.tensor_of
        sides = [size_of(axis) for axis in view.axes[2:]]
        conv = _conv_of(operation, self.tensors[names["weight"]], sides, self.shape[2:])
        view, padding, is_classic = self.prepared(view, conv)
        sides = [size_of(axis) for axis in view.axes[2:]]
        results = conv.results(sides, padding)
        (channel,), parts = fresh([conv.outputs]), fresh(conv.phases)
        places = fresh(results)
        stored = ((*channel, *joined(parts)), joined(places[:-1]), places[-1])
        assert view.node is not None
        node = Layer(
            "conv",
            (view.node,),
            self.sides(stored),
            weight=names["weight"],
            bias=names.get("bias", ""),
            arranged=conv.arranged,
            repeats=math.prod(conv.phases),
        )
        if is_classic:
            window = (1 if len(conv.kernel) == 1 else conv.kernel[0], conv.kernel[-1])
            node = replace(node, kernel=window, stride=conv.stride[-1], padding=padding[-1])
        else:
            node = replace(node, windows=conv.windows(sides, padding))
        axes = [(BATCH,), channel, *(p + q for p, q in zip(places, parts, strict=True))]
        result = self.made(node, stored, axes)
        for axis, size in enumerate(self.shape[2:], start=2):
            if size_of(result.axes[axis]) != size:
                result = self.cut(result, range_of(axis, 0, size))
        return result

    def prepared(self, view: View, conv: _Conv) -> tuple[View, list[int], bool]:
        """The input of a convolution as a map of channels, height and width.

        Returns:
            The map, the padding that is left to the convolution, and whether the convolution is of
            the kind that has kernels for kept weights.
        """
        if view.axes[0] != (BATCH,):
            raise TicketError(self.refusal)
        pads, kernel = conv.pads, conv.kernel
        is_classic = len(kernel) < 3 and conv.groups == 1 and set(conv.dilation) == {1}
        is_classic &= len(set(conv.stride)) == 1
        reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, kernel, strict=True)]
        even = all(a == b < r for (a, b), r in zip(pads, reach, strict=True))
        if is_classic:
            both = {p for pair in pads for p in pair}
            even &= len(both) == 1 and (len(kernel) == 2 or both == {0}) and max(both) < min(kernel)
        if not even:
            view = self.padded(view, [(0, 0), (0, 0), *pads])
            pads = [(0, 0)] * len(pads)
        return self.map_of(view), [p for p, _ in pads], is_classic

    def linear(self, operation: Operation, view: View) -> View:
        """A linear layer: on tokens a convolution of one position."""
        names = operation.tensor_of
        (outputs,) = fresh(self.shape[-1:])
        if view.node is None:
            view = self.compact(view)
        features = [a for a in view.axes[-1] if a is not BATCH]
        if len(features) < len(view.axes[-1]):
            raise TicketError(self.refusal)
        rest = [a for a in view.outermost_first if a not in features]
        weight, bias = names["weight"], names.get("bias", "")
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
            shape = (size_of(outputs), *sides)
            result = Layer("conv", (node,), shape, weight=weight, bias=bias)
            return self.made(result, (outputs, rest, ()), (*view.axes[:-1], outputs))
        result = Layer("conv", (node,), self.sides(groups), weight=weight, bias=bias)
        return self.made(result, groups, (*view.axes[:-1], outputs))

    def is_tokens(self, view: View, features: Sequence[Atom], rest: Sequence[Atom]) -> bool:
        """Whether the features are the channels of the node, and the rest its positions."""
        if view.node is None or not self.is_whole(view):
            return False
        is_ordered = view.outermost_first == (*features, *rest)
        return is_ordered and self.nodes[view.node].shape[0] == size_of(features)

    def pool(self, operation: Operation, view: View) -> View:
        """A max or mean pool."""
        a = operation.named
        kernel, stride, padding = a["kernel"], a["stride"], a["padding"]
        dilation = a.get("dilation", (1,) * len(kernel))
        is_classic = not a["ceil"] and set(dilation) == {1} and len(kernel) < 3
        is_classic &= set(padding) == {0} or (
            operation.op == "max_pool" and len(kernel) == 2 and len(set(padding)) == 1
        )
        is_classic &= len(set(stride)) == 1 or set(self.shape[2:]) == {1}
        is_classic &= max(padding) < min(kernel)
        # Plain pools have the faster loops, but for those that halve both sides.
        halves = len(kernel) == 2 and {*kernel, *stride} == {2} and set(padding) == {0}
        is_classic &= halves or not self.plain
        view = self.map_of(view)
        if not is_classic:
            mean = operation.op == "avg_pool"
            count = a.get("count_padding", False)
            rows = zip(
                self.shape[2:], view.axes[2:], kernel, stride, padding, dilation, strict=True
            )
            places = [
                [_place(i, size_of(side), k, s, p, d, count) for i in range(size)]
                for size, side, k, s, p, d in rows
            ]
            return self.plain_pool(view, mean, places)
        assert view.node is not None
        channels, *sides = fresh(self.shape[1:])
        groups = (channels, joined(sides[:-1]), joined(sides[-1:]))
        window = (1 if len(kernel) == 1 else kernel[0], kernel[-1])
        sizes = {"stride": max(stride), "padding": padding[0]}
        node = Node(operation.op, (view.node,), self.sides(groups), "", window, **sizes)
        return self.made(node, groups, ((BATCH,), channels, *sides))

    def adaptive_pool(self, operation: Operation, view: View) -> View:
        """A pool to given sides."""
        mean = operation.op == "adaptive_avg_pool"
        sizes = operation.named["sizes"]
        if set(sizes) == {1} and len(sizes) == 2 and not self.plain:
            return self.global_pool("avg_pool" if mean else "max_pool", view)
        if set(sizes) == {1}:
            view = self.compact(view)
            axes = range(2, 2 + len(sizes))
            return self.reduced("mean" if mean else "max", view, axes, keep=True)
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
        groups = (channels, joined(sides[:-1]), joined(sides[-1:]))
        return self.add_plain("pool", (view,), groups, ((BATCH,), channels, *sides), numbers)


@dataclass(frozen=True)
class _Conv:
    """A convolution, with a number for each side.

    Attributes:
        outputs: channels of the result, without phases.
        pads: before and after each side; negative: the side is cut.
        arranged, phases: of a transposed one, see `_Transposed`.
    """

    outputs: int
    kernel: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int]
    pads: Sequence[tuple[int, int]]
    groups: int
    phases: Sequence[int]
    arranged: Callable[[NDArray[Any]], NDArray[Any]] | None = None

    def results(self, sides: Sequence[int], padding: Sequence[int]) -> list[int]:
        """The sides of the result."""
        rows = zip(sides, self.kernel, self.stride, padding, self.dilation, strict=True)
        return [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in rows]

    def windows(self, sides: Sequence[int], padding: Sequence[int]) -> tuple[int, ...]:
        """As `Layer.windows`."""
        results = self.results(sides, padding)
        rows = zip(sides, results, self.kernel, self.stride, padding, self.dilation, strict=True)
        missing = (1, 1, 1, 1, 0, 1) * (3 - len(sides))
        return (self.groups, *missing, *(number for row in rows for number in row))


def _conv_of(
    operation: Operation, shape: Shape, sides: Sequence[int], results: Sequence[int]
) -> _Conv:
    """The convolution of an operation with a weight of `shape`, from `sides` to `results`."""
    a = operation.named
    ones = (1,) * len(sides)
    if operation.op == "conv":
        pads = [(p, p) for p in a["padding"]]
        conv = _Conv(shape[0], shape[2:], a["stride"], a["dilation"], pads, a["groups"], ones)
        is_dilated = a["groups"] == 1 and len(sides) < 3 and max(a["dilation"]) > 1
        return _with_zeros(conv, shape) if is_dilated else conv
    turned = _Transposed(a, shape, sides, results)
    outputs, phases = a["groups"] * shape[1], a["stride"]
    return _Conv(
        outputs, turned.kernel, ones, ones, turned.pads, a["groups"], phases, turned.arranged
    )


def _with_zeros(conv: _Conv, shape: Shape) -> _Conv:
    """A dilated convolution as one with zeros between its taps, which kept-weight kernels skip."""
    kernel = [d * (k - 1) + 1 for k, d in zip(conv.kernel, conv.dilation, strict=True)]
    taps = tuple(slice(None, None, d) for d in conv.dilation)

    def arranged(weight: NDArray[Any]) -> NDArray[Any]:
        result = np.zeros((*shape[:2], *kernel), weight.dtype)
        result[(slice(None), slice(None), *taps)] = weight.reshape(shape)
        return result

    return replace(conv, kernel=kernel, dilation=conv.phases, arranged=arranged)


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
        to, from_ = strides[result[0]], stride_of(source, own)
        blocks = [
            (out + run[0] * to, at + run[2] * from_, [*loops, (run[1], KEPT, (to, run[3] * from_))])
            for out, at, loops in blocks
            for run in _segments(size_of(own), *pad, mode)
        ]
    ordered = []
    for out, at, loops in blocks:
        loops.sort(key=lambda loop: -loop[2][0])
        ordered.append(block_of((out, at), loops))
    return ordered
