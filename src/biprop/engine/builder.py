"""Nodes of a user's own network in the making: where the numbers of a value lie, and the copies
that put them in another order.
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
from ..models.operations import Shape
from ..ticket import Ticket
from .views import BATCH, Atom, Atoms, MisfitError, View, fresh, packed, size_of

Array = NDArray[np.float32]
Groups = tuple[Sequence[Atom], Sequence[Atom], Sequence[Atom]]
"""Atoms of channels, height and width."""
Loops = list[tuple[int, int, tuple[int, ...]]]
"""Size, role and strides, the result's first."""

_MOST_SIDE, _MOST_NUMBERS = 1 << 14, 1 << 25  # of the core's maps
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


class Builder:
    """Nodes in the making.

    Attributes:
        nodes: so far.
        plain: whether plain nodes may be used.
        shape: of the result that is being made.
        refusal: what to say where it cannot be.
    """

    def __init__(self, ticket: Ticket, plain: bool) -> None:
        self.ticket, self.plain, self.tensors = ticket, plain, ticket.shapes
        self.nodes: list[Node] = []
        self.shape: Shape = ()
        self.refusal = "the engine has no input of this kind"

    def input(self, shape: Shape, indices: bool) -> View:
        """The first node; `indices`: whether it holds whole numbers."""
        if indices and not self.plain:
            raise TicketError("the engine has no embeddings")
        channels, *sides = fresh(shape[1:]) or ((),)
        groups = (channels, joined(sides[:-1]), joined(sides[-1:]))
        return self.made(
            Node("input", (), self.sides(groups)), groups, ((BATCH,), channels, *sides)
        )

    def sides(self, groups: Groups) -> tuple[int, int, int]:
        """(channels, height, width) of atoms."""
        channels, height, width = map(size_of, groups)
        if max(height, width) > _MOST_SIDE or channels * height * width >= _MOST_NUMBERS:
            raise TicketError(f"{self.refusal}: more numbers than the compiled engine counts")
        return channels, height, width

    def made(self, node: Node, groups: Groups, axes: Sequence[Atoms]) -> View:
        """Append a node whose numbers are those of the atoms in C order."""
        self.nodes.append(node)
        strides = packed(joined(groups))
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
        """Whether an atom is of the channels of the view's node."""
        return atom in self.lying(view)[0]

    def is_whole(self, view: View) -> bool:
        """Whether the view is all numbers of its node, in their order."""
        if view.node is None:
            return False
        total = math.prod(self.nodes[view.node].shape)
        return view.is_packed(view.outermost_first, total)

    def stored(self, view: View, groups: Groups) -> View:
        """The view in a node of this order and of these sides."""
        order = joined(groups)
        if view.node is not None:
            shape = self.nodes[view.node].shape
            if shape == self.sides(groups) and view.is_packed(order, math.prod(shape)):
                return view
        return self.move(view, groups)

    def move(self, view: View, groups: Groups) -> View:
        """A copy in another order."""
        order = joined(groups)
        if view.node is None:
            return self.constant(view, groups)
        strides = packed(order)
        loops: Loops = [(a.size, KEPT, (strides[a], view.strides[a])) for a in order]
        numbers = [*block_of((0, view.offset), loops), 0]
        return self.add_plain("move", (view,), groups, view.axes, numbers, [0.0])

    def constant(self, view: View, groups: Groups) -> View:
        """An array as a node."""
        assert view.array is not None
        order = joined(groups)
        flat = view.array.reshape(-1)[view.offset :]
        shape, strides = [a.size for a in order], [4 * view.strides[a] for a in order]
        numbers = np.lib.stride_tricks.as_strided(flat, shape, strides)
        if not np.isfinite(numbers).all():
            raise TicketError(f"{self.refusal} of what is not a finite number")
        return self.add_plain("constant", (), groups, view.axes, (), numbers.reshape(-1))

    def compact(self, view: View) -> View:
        """The view as all numbers of a node."""
        return view if self.is_whole(view) else self.move(view, self.lying(view))

    def logical(self, view: View) -> View:
        """A copy in C order of the axes, each of one atom."""
        channels, *sides = [tuple(a for a in axis if a is not BATCH) for axis in view.axes]
        if not channels and sides:
            channels, *sides = sides
        moved = self.move(view, (channels, joined(sides[:-1]), joined(sides[-1:])))
        return _one_atom_each(moved)

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

    def like(self, view: View, kind: type[Node], op: str, **fields: Any) -> View:
        """A node of the numbers of a whole view, one for one."""
        assert view.node is not None
        self.nodes.append(kind(op, (view.node,), self.nodes[view.node].shape, **fields))
        return replace(view, node=len(self.nodes) - 1)

    def array(self, name: str) -> Array:
        """A tensor of the ticket, of a masked layer with its gain."""
        masked = {layer.key: layer for layer in self.ticket.layers}.get(name)
        return self.ticket.state[name] if masked is None else self.ticket.weight(masked)

    def reshape(self, view: View) -> View:
        """The view with the axes of the result's shape; a copy where it lies otherwise."""
        try:
            return view.reshaped(self.shape)
        except MisfitError:
            if view.axes[0] != (BATCH,):
                raise
            moved = self.move(view, (view.atoms, (), ()))
            atom = Atom(moved.numbers)
            return View(moved.node, ((BATCH,), (atom,)), {atom: 1}).reshaped(self.shape)

    def cut(self, view: View, a: dict[str, Any]) -> View:
        """Some indices of an axis."""
        place = (a["axis"], a["start"], a["stop"], a["step"])
        try:
            return view.cut(*place)
        except MisfitError:
            return self.logical(view).cut(*place)

    def joined(self, view: View) -> View:
        """The view with as few atoms as one loop each can walk over."""
        return view.joined(
            math.prod(self.nodes[view.node].shape[1:]) if view.node is not None else 1
        )

    def whole_axes(self, view: View) -> View:
        """The view with at most one atom an axis."""
        view = self.joined(view)
        is_simple = all(len([a for a in axis if a is not BATCH]) <= 1 for axis in view.axes)
        return view if is_simple else self.logical(view)

    def global_pool(self, op: str, view: View) -> View:
        """The mean or maximum of whole maps."""
        view = self.map_of(view)
        assert view.node is not None
        channels, height, width = self.nodes[view.node].shape
        kernel, stride = (height, width), max(height, width)
        node = Node(op, (view.node,), (channels, 1, 1), kernel=kernel, stride=stride)
        axes = ((BATCH,), view.axes[1], *((),) * (len(view.axes) - 2))
        result = self.made(node, (view.axes[1], (), ()), axes)
        return result if len(self.shape) == len(view.axes) else replace(result, axes=axes[:2])

    def walks(
        self, view: View, reduced: Sequence[Atom], extra: Sequence[dict[Atom, int]] = ()
    ) -> int:
        """How many loops are left of the reduced ones where neighbours are made one."""
        out = packed(joined(self.lying(view)))
        order = [a for a in joined(self.lying(view)) if a in reduced]
        steps = [(out[a], view.strides[a], *(s.get(a, 0) for s in extra)) for a in order]
        count = len(order)
        for i in range(1, len(order)):
            follows = all(
                x == y * order[i].size for x, y in zip(steps[i - 1], steps[i], strict=True)
            )
            same = self.is_channel(view, order[i - 1]) == self.is_channel(view, order[i])
            count -= follows and same
        return count

    def reduced(self, op: str, view: View, over: Sequence[int], keep: bool) -> View:
        """The mean, sum or maximum over some axes, which stay with size 1 if `keep`."""
        reduced = joined(view.axes[axis] for axis in over)
        view = self.operand(view, view.atoms, view.atoms)
        if self.walks(view, reduced) > 2:
            kept = [atom for atom in view.outermost_first if atom not in reduced]
            view = self.move(view, (kept, reduced, ()))
        order = self.lying(view)
        groups = groups_of([[atom for atom in group if atom not in reduced] for group in order])
        strides = packed(joined(groups))
        loops: Loops = [
            (
                atom.size,
                REDUCED if atom in reduced else KEPT,
                (strides.get(atom, 0), view.strides[atom]),
            )
            for atom in joined(order)
        ]
        axes = [() if i in over else axis for i, axis in enumerate(view.axes)]
        if not keep:
            axes = [axis for i, axis in enumerate(axes) if i not in over]
        numbers = [("mean", "sum", "max").index(op), *block_of((0, view.offset), loops)]
        return self.add_plain("reduce", (view,), groups, axes, numbers)

    def map_of(self, view: View) -> View:
        """The view as a map of its second axis and two sides, or fewer."""
        if view.axes[0] != (BATCH,):
            raise TicketError(self.refusal)
        _, channels, *sides = view.axes
        return self.stored(view, (channels, joined(sides[:-1]), joined(sides[-1:])))


def joined(groups: Any) -> Atoms:
    """The atoms of several groups as one."""
    return tuple(atom for group in groups for atom in group)


def groups_of(groups: Any) -> Groups:
    """Three groups: channels, height, width."""
    channels, height, width = groups
    return channels, height, width


def of_sample(axis: Atoms) -> Atoms:
    """The atoms of an axis without that of the batch."""
    return tuple(atom for atom in axis if atom is not BATCH)


def without_batch(view: View) -> list[Atoms]:
    """The atoms of each axis without that of the batch."""
    return [of_sample(axis) for axis in view.axes]


def _one_atom_each(view: View) -> View:
    """A packed view in C order, with one atom for each axis."""
    axes: list[Atoms] = []
    strides: dict[Atom, int] = {}
    for axis in view.axes:
        atoms = of_sample(axis)
        merged: Atoms = ()
        if atoms:
            merged = (Atom(size_of(atoms)),)
            strides[merged[0]] = view.strides[atoms[-1]]
        axes.append(beside_batch(axis, merged))
    return View(view.node, tuple(axes), strides)


def beside_batch(axis: Atoms, atoms: Atoms) -> Atoms:
    """New atoms in the place of those of an axis; that of the batch stays where it is.

    Raises:
        MisfitError: it is between others, of which there are not as many.
    """
    own = of_sample(axis)
    if len(own) == len(axis):
        return atoms
    if len(own) == len(atoms):
        left = list(atoms)
        return tuple(BATCH if atom is BATCH else left.pop(0) for atom in axis)
    if axis[0] is BATCH:
        return (BATCH, *atoms)
    if axis[-1] is BATCH:
        return (*atoms, BATCH)
    raise MisfitError


def with_batch(axes: Sequence[Atoms], new: Sequence[Atoms]) -> list[Atoms]:
    """New atoms of each axis, see `beside_batch`."""
    return [beside_batch(axis, atoms) for axis, atoms in zip(axes, new, strict=True)]


def first_stride(strides: dict[Atom, int], atoms: Atoms) -> int:
    """The stride of the first atom; 0 where there is none."""
    return strides[atoms[0]] if atoms else 0


def stride_of(view: View, atoms: Sequence[Atom]) -> int:
    """The stride of the first atom in a view; 0 where there is none."""
    return view.strides[atoms[0]] if atoms else 0


def block_of(offsets: Sequence[int], loops: Loops) -> list[int]:
    """The numbers of a block of loops."""
    numbers = [*offsets, len(loops)]
    for size, role, strides in loops:
        numbers += [size, role, *strides]
    return numbers


def range_of(axis: int, start: int, stop: int) -> dict[str, int]:
    """The indices start .. stop - 1 of an axis, as the attributes of `slice`."""
    return {"axis": axis, "start": start, "stop": stop, "step": 1}
