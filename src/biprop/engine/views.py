"""How the axes of a value of the user's own network lie in the numbers of a node.

PyTorch's operations permute, split, join, repeat and cut axes. None of these computes anything: a
view says where the numbers of a value are, and only what must have them in another order copies
them. Tokens [B, T, C] are therefore kept as maps of C channels and T positions, which a linear
layer reads as a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..models.operations import Shape


@dataclass(frozen=True, eq=False)
class Atom:
    """A part of an axis that is one loop; each is itself only. `BATCH` is the samples' axis."""

    size: int


BATCH = Atom(-1)
Atoms = tuple[Atom, ...]


class MisfitError(Exception):
    """Axes that no view has."""


@dataclass(frozen=True)
class View:
    """A value as numbers of a node, or of an array that does not depend on the sample.

    Attributes:
        node: number of the node; None for an array.
        axes: the atoms of each axis in C order; none for a size of 1.
        strides: from one index of an atom to the next, in numbers of a sample; what repeats has 0.
        offset: of the first number.
        array: of a constant, in C order.
    """

    node: int | None
    axes: tuple[Atoms, ...]
    strides: dict[Atom, int]
    offset: int = 0
    array: NDArray[np.float32] | None = None

    @property
    def atoms(self) -> Atoms:
        """All atoms but that of the batch, in C order of the axes."""
        return tuple(atom for axis in self.axes for atom in axis if atom is not BATCH)

    @property
    def outermost_first(self) -> Atoms:
        """The atoms in the order of their strides."""
        return tuple(sorted(self.atoms, key=lambda atom: -self.strides[atom]))

    @property
    def numbers(self) -> int:
        """Numbers for a sample."""
        return size_of(self.atoms)

    def is_packed(self, atoms: Sequence[Atom], total: int) -> bool:
        """Whether the atoms, outermost first, are all that the view has, and all `total` numbers of
        its node in their order.
        """
        is_all = len(atoms) == len(self.atoms) and set(atoms) == set(self.atoms)
        fits = is_all and self.offset == 0 and size_of(atoms) == total
        return fits and all(self.strides[a] == s for a, s in packed(atoms).items())

    def split(self, atom: Atom, inner: int) -> View:
        """The same with an atom split in two, of which the inner one has a size of `inner`."""
        parts = Atom(atom.size // inner), Atom(inner)
        axes = tuple(
            tuple(p for a in axis for p in (parts if a is atom else (a,))) for axis in self.axes
        )
        strides = {a: s for a, s in self.strides.items() if a is not atom}
        strides |= {parts[0]: self.strides[atom] * inner, parts[1]: self.strides[atom]}
        return replace(self, axes=axes, strides=strides)

    def joined(self, plane: int) -> View:
        """The same with neighbouring atoms of an axis made one where one loop walks over both.

        Args:
            plane: numbers of a plane of the node: atoms of channels do not join those of positions.
        """
        strides, axes = dict(self.strides), []
        for axis in self.axes:
            atoms: list[Atom] = []
            for atom in axis:
                last = atoms[-1] if atoms else BATCH
                if BATCH not in (last, atom) and _follow(strides, last, atom, plane):
                    atoms[-1] = Atom(last.size * atom.size)
                    strides[atoms[-1]] = strides[atom]
                else:
                    atoms.append(atom)
            axes.append(tuple(atoms))
        return replace(self, axes=tuple(axes), strides=strides)

    def permuted(self, order: Sequence[int]) -> View:
        """With the axes in another order."""
        return replace(self, axes=tuple(self.axes[axis] for axis in order))

    def expanded(self, shape: Shape) -> View:
        """With axes of size 1 repeated, and axes in front."""
        axes = ((),) * (len(shape) - len(self.axes)) + self.axes
        strides, result = dict(self.strides), []
        for axis, size in zip(axes, shape, strict=True):
            if axis or abs(size) == 1:  # what does not depend on the sample repeats for each
                result.append(axis)
                continue
            atom = Atom(abs(size))
            strides[atom] = 0
            result.append((atom,))
        return replace(self, axes=tuple(result), strides=strides)

    def cut(self, axis: int, start: int, stop: int, step: int) -> View:
        """Indices of one axis, as of `range`.

        Raises:
            MisfitError: the axis is of several atoms that the range does not follow.
        """
        view = self
        atoms = view.axes[axis]
        inner = size_of(atoms[1:])
        if len(atoms) > 1 and step == 1 and start % inner == stop % inner == 0:
            start, stop = start // inner, stop // inner
        elif len(atoms) > 1:
            raise MisfitError
        if not atoms:
            return view
        count, stride = -(-(stop - start) // step), view.strides[atoms[0]]
        strides = {a: s for a, s in view.strides.items() if a is not atoms[0]}
        first: Atoms = ()
        if count > 1:
            first = (Atom(count),)
            strides[first[0]] = stride * step
        axes = (*view.axes[:axis], first + atoms[1:], *view.axes[axis + 1 :])
        return replace(view, axes=axes, strides=strides, offset=view.offset + start * stride)

    def reshaped(self, shape: Shape) -> View:
        """With the numbers, in C order, as other axes.

        Raises:
            MisfitError: an axis would begin within an atom.
        """
        view, left = self, [atom for axis in self.axes for atom in axis]
        axes = []
        for size in shape:
            axis: list[Atom] = []
            need, batch = abs(size), size < 0 and BATCH in left
            while need > 1 or batch:
                if not left or (left[0] is BATCH and not batch):
                    raise MisfitError
                atom = left.pop(0)
                if atom is BATCH:
                    batch = False
                elif need % atom.size == 0:
                    need //= atom.size
                elif atom.size % need == 0:
                    view, (atom, rest) = _split(view, atom, atom.size // need)
                    left.insert(0, rest)
                    need = 1
                else:
                    raise MisfitError
                axis.append(atom)
            axes.append(tuple(axis))
        return replace(view, axes=tuple(axes))


def _split(view: View, atom: Atom, inner: int) -> tuple[View, tuple[Atom, Atom]]:
    stride = view.strides[atom]
    parts = Atom(atom.size // inner), Atom(inner)
    strides = {a: s for a, s in view.strides.items() if a is not atom}
    strides |= {parts[0]: stride * inner, parts[1]: stride}
    return replace(view, strides=strides), parts


def _follow(strides: dict[Atom, int], outer: Atom, inner: Atom, plane: int) -> bool:
    """Whether one stride walks over both atoms, on the same side of the planes."""
    steps = strides[outer], strides[inner]
    same_side = plane in (0, 1) or (abs(steps[0]) >= plane) == (abs(steps[1]) >= plane)
    return steps[0] == steps[1] * inner.size and same_side


def size_of(atoms: Iterable[Atom]) -> int:
    """The product of the sizes."""
    return math.prod(atom.size for atom in atoms)


def packed(atoms: Sequence[Atom]) -> dict[Atom, int]:
    """The strides of atoms in C order, the outermost first."""
    strides, stride = {}, 1
    for atom in reversed(atoms):
        strides[atom] = stride
        stride *= atom.size
    return strides


def aligned(views: Sequence[View], axes: Sequence[Sequence[Atoms]]) -> list[View]:
    """Views whose atoms of corresponding axes have the same sizes.

    Args:
        views: to be aligned.
        axes: of each view, those that correspond, each of one size.

    Raises:
        MisfitError: sizes that do not divide each other.
    """
    result = list(views)
    for group in zip(*axes, strict=True):
        lists = [list(atoms) for atoms in group]
        places = [0] * len(lists)
        while any(place < len(atoms) for place, atoms in zip(places, lists, strict=True)):
            smallest = min(atoms[place].size for place, atoms in zip(places, lists, strict=True))
            for i, atoms in enumerate(lists):
                atom = atoms[places[i]]
                if atom.size % smallest:
                    raise MisfitError
                if atom.size > smallest:
                    before = result[i].atoms
                    result[i] = result[i].split(atom, atom.size // smallest)
                    fresh = [a for a in result[i].atoms if a not in before]
                    atoms[places[i] : places[i] + 1] = fresh
                places[i] += 1
    return result


def fresh(axes: Sequence[int]) -> tuple[Atoms, ...]:
    """An atom for each size above 1."""
    return tuple((Atom(size),) if size > 1 else () for size in axes)
