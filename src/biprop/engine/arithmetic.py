"""Arithmetic, norms, reductions, products and attention of a user's own network as nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import TicketError
from ..models.graph import Node
from ..models.operations import Operation
from .builder import (
    KEPT,
    KEY,
    QUERY,
    REDUCED,
    VALUE_WIDTH,
    WIDTH,
    Array,
    BatchNorm,
    Builder,
    Groups,
    Loops,
    Scale,
    beside_batch,
    block_of,
    first_stride,
    groups_of,
    joined,
    of_sample,
    stride_of,
    with_batch,
    without_batch,
)
from .views import BATCH, Atom, Atoms, MisfitError, View, aligned, fresh, packed, size_of


class Arithmetic(Builder):
    """Operations on axes: along them, or between the numbers of several values."""

    def concat(self, views: Sequence[View], axis: int) -> View:
        """Values one behind the other along an axis."""
        views = [self.joined(view) for view in views]
        simple = [v for v in views if all(len(axis) <= 1 for axis in without_batch(v))]
        model = max(
            simple or [self.logical(views[0])],
            key=lambda view: (view.node is not None, view.numbers),
        )
        own = without_batch(model)
        new = [atoms if i != axis else (Atom(self.shape[axis]),) for i, atoms in enumerate(own)]
        renamed = {old[0]: atoms[0] for old, atoms in zip(own, new, strict=True) if old}
        groups = [[renamed[a] for a in group] for group in self.lying(model)]
        if not own[axis]:
            groups[2].append(*new[axis])
        strides, numbers, at = packed(joined(groups)), [], 0
        sources = [self.operand(view, view.atoms, view.atoms) for view in views]
        for source in sources:
            loops: Loops = []
            for atoms, result in zip(without_batch(source), new, strict=True):
                inner = packed(atoms)
                for atom in atoms:
                    steps = (strides[result[0]] * inner[atom], source.strides[atom])
                    loops.append((atom.size, KEPT, steps))
            loops.sort(key=lambda loop: -loop[2][0])
            numbers += block_of((at * first_stride(strides, new[axis]), source.offset), loops)
            at += size_of(without_batch(source)[axis])
        of_batch = [v.axes for v in views if any(BATCH in axis for axis in v.axes)]
        axes = with_batch((of_batch or [model.axes])[0], new)
        if any(with_batch(other, new) != axes for other in of_batch):
            raise MisfitError
        return self.add_plain("move", sources, groups_of(groups), axes, [*numbers, 0], [0.0])

    def batch_norm(self, operation: Operation, view: View) -> View:
        """Batch norm of the channels, which may be several in the map for one in the tensors."""
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
        """A norm over some atoms; `affine` has the strides of the weight and the bias."""
        weight, bias = self.affine(operation)
        affine = affine if weight.size > 1 else {}
        floats = np.concatenate([[operation.named["eps"]], weight, bias])
        return self.along(view, reduced, "normalise", [weight.size], floats, affine)

    def layer_norm(self, operation: Operation, view: View) -> View:
        """A norm over the last axes."""
        count = operation.named["count"]
        atoms = joined(view.axes[-count:])
        if BATCH in atoms:
            raise TicketError(self.refusal)
        return self.normalised(operation, view, atoms, packed(atoms))

    def group_norm(self, operation: Operation, view: View) -> View:
        """A norm over groups of channels and all positions."""
        groups = operation.named["groups"]
        if view.axes[0] != (BATCH,):
            raise TicketError(self.refusal)
        shape = self.shape
        channels = shape[1]
        self.shape = (shape[0], groups, channels // groups, *shape[2:])
        split, self.shape = self.reshape(view), shape
        axes = (split.axes[0], split.axes[1] + split.axes[2], *split.axes[3:])
        whole = replace(split, axes=axes)
        reduced = joined(split.axes[2:])
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
        strides = packed(joined(groups))
        loops: Loops = []
        for atom in joined(groups):
            steps = (strides[atom], view.strides[atom], *(s.get(atom, 0) for s in extra))
            loops.append((atom.size, REDUCED if atom in reduced else KEPT, steps))
        offsets = (0, view.offset, *(0 for _ in extra))
        block = block_of(offsets, loops)
        return self.add_plain(op, (view,), groups, view.axes, [*numbers, *block], floats)

    def reduce(self, operation: Operation, view: View) -> View:
        """The mean, sum or maximum over axes."""
        op, a = operation.op, operation.named
        if op != "sum" and len(view.axes) == 4 and sorted(a["axes"]) == [2, 3] and not self.plain:
            return self.global_pool("avg_pool" if op == "mean" else "max_pool", view)
        return self.reduced(op, view, a["axes"], a["keep"])

    def arithmetic(self, op: str, a: View, b: View) -> View:
        """The sum, product or quotient of two values."""
        a, b = self.together(a, b)
        scaled = self.scaled(op, a, b)
        if scaled is not None:
            return scaled
        axes, trios = [], []
        for left, right in zip(a.axes, b.axes, strict=True):
            own, other = of_sample(left), of_sample(right)
            atoms = tuple(Atom(x.size) for x in own or other)
            for i, atom in enumerate(atoms):
                trios.append((atom, own[i] if own else None, other[i] if other else None))
            axes.append(_shared(left, right, atoms))
        groups = self.order_of(a, b, trios)
        order, strides = joined(groups), packed(joined(groups))
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
        numbers = [which, 0, *block_of((0, a.offset, b.offset), loops)]
        return self.add_plain("binary", (a, b), groups, axes, numbers, [0.0, 0.0])

    def scaled(self, op: str, a: View, b: View) -> View | None:
        """The result where one operand is a number, or one for each channel; else None."""
        if a.node is None and op != "div":
            a, b = b, a
        if a.node is None or b.node is not None or not self.is_whole(a):
            return None
        stored = self.lying(a)[0]
        steps: dict[Atom, int] = {}
        for own, other in zip(without_batch(a), without_batch(b), strict=True):
            if len(own) < len(other):
                return None
            steps |= {x: b.strides[y] for x, y in zip(own, other, strict=False)}
        if not set(steps) <= set(stored):
            return None
        assert b.array is not None
        flat, sizes = b.array.reshape(-1)[b.offset :], [x.size for x in stored]
        strides = [flat.itemsize * steps.get(x, 0) for x in stored]
        repeated = np.lib.stride_tricks.as_strided(flat, sizes, strides)
        channels = repeated.reshape(-1).astype(np.float64)
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
            both = [
                (x, y) for x, y in zip(without_batch(a), without_batch(b), strict=True) if x and y
            ]
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
        return groups_of(groups)

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

    def matmul(self, a: View, b: View) -> View:
        """The product over the last two axes."""
        a, b = self.whole_axes(a), self.whole_axes(b)
        rows, columns = a.axes[-2], b.axes[-1]
        inner = list(zip(a.axes[-1], b.axes[-2], strict=True))
        if BATCH in joined((rows, columns, *inner)):
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
            axes.append(_shared(x, y, atoms))
        out_rows, out_columns = fresh([size_of(rows), size_of(columns)])
        groups: Groups = ((*(o for o, _, _ in outer), *out_rows), (), out_columns)
        strides = packed(joined(groups))
        a, b = (self.operand(v, v.atoms, v.atoms[:-1]) for v in (a, b))
        loops: Loops = [
            (o.size, KEPT, (strides[o], stride_of(a, x), stride_of(b, y))) for o, x, y in outer
        ]
        loops += [(o.size, KEPT, (strides[o], stride_of(a, rows), 0)) for o in out_rows]
        loops += [(o.size, KEPT, (strides[o], 0, stride_of(b, columns))) for o in out_columns]
        loops += [(x.size, REDUCED, (0, a.strides[x], b.strides[y])) for x, y in inner]
        numbers = block_of((0, a.offset, b.offset), loops)
        return self.add_plain("contract", (a, b), groups, (*axes, out_rows, out_columns), numbers)

    def attention(self, views: Sequence[View], a: dict[str, Any]) -> View:
        """Attention of queries, keys, values and perhaps a mask."""
        views = [self.whole_tail(view) for view in views]
        views[0] = self.with_lanes(views[0])
        outer = [[of_sample(axis) for axis in view.axes[:-2]] for view in views[:3]]
        views[:3] = aligned(views[:3], outer)
        views = [self.operand(v, v.atoms, v.atoms) for v in views]
        query, key, value = views[:3]
        kept = [
            _shared(x, _shared(y, z, of_sample(z)), tuple(Atom(atom.size) for atom in of_sample(x)))
            for x, y, z in zip(query.axes[:-2], key.axes[:-2], value.axes[:-2], strict=True)
        ]
        queries, width = fresh([size_of(query.axes[-2]), size_of(value.axes[-1])])
        groups: Groups = ((*joined(map(of_sample, kept)), *width), (), queries)
        loops = self.loops_of_attention(views, joined(map(of_sample, kept)), packed(joined(groups)))
        scale = 1 / math.sqrt(size_of(query.axes[-1])) if a["scale"] is None else a["scale"]
        numbers = [int(a["causal"]), *block_of((0, *(v.offset for v in views)), loops)]
        result = (*kept, queries, width)
        return self.add_plain("attention", views, groups, result, numbers, [scale])

    def loops_of_attention(
        self, views: Sequence[View], kept: Atoms, strides: dict[Atom, int]
    ) -> Loops:
        """Loops over the outer axes, queries, keys, and the widths of keys and values.

        Args:
            views: queries, keys, values and perhaps a mask.
            kept: atoms of the outer axes of the result.
            strides: of the result: of the outer axes, the width and the queries.
        """
        query, key, value, *masks = views
        own, keys = self.mask_steps(masks[0], query, key.axes[-2]) if masks else ({}, {})
        outer = [joined(map(of_sample, view.axes[:-2])) for view in views[:3]]
        loops: Loops = []
        for atom, *atoms in zip(kept, *outer, strict=True):
            steps = (v.strides[x] for v, x in zip(views[:3], atoms, strict=True))
            loops.append((atom.size, KEPT, (strides[atom], *steps, own.get(atoms[0], 0))))
        for x in query.axes[-2]:
            loops.append((x.size, QUERY, (1, query.strides[x], 0, 0, own.get(x, 0))))
        for x, y in zip(key.axes[-2], value.axes[-2], strict=True):
            loops.append((x.size, KEY, (0, 0, key.strides[x], value.strides[y], keys.get(x, 0))))
        for x, y in zip(query.axes[-1], key.axes[-1], strict=True):
            loops.append((x.size, WIDTH, (0, query.strides[x], key.strides[y], 0, 0)))
        for x in value.axes[-1]:
            step = size_of(query.axes[-2])  # the result is (outer axes, width, queries)
            loops.append((x.size, VALUE_WIDTH, (step, 0, 0, value.strides[x], 0)))
        return [(size, role, steps[: 1 + len(views)]) for size, role, steps in loops]

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
        self, mask: View, query: View, keys: Atoms
    ) -> tuple[dict[Atom, int], dict[Atom, int]]:
        """The strides of a mask by the atoms of outer axes and queries, and those of keys.

        Keys may have the atoms of queries.
        """
        own_steps: dict[Atom, int] = {}
        key_steps: dict[Atom, int] = {}
        axes = (*query.axes[:-1], keys)
        pairs = zip(reversed(mask.axes), reversed(axes), strict=False)
        for i, (own, other) in enumerate(pairs):
            atoms, others = of_sample(own), of_sample(other)
            steps = own_steps if i else key_steps
            if not atoms:
                continue
            if [x.size for x in atoms] != [x.size for x in others]:
                raise TicketError(self.refusal)
            steps |= {y: mask.strides[x] for x, y in zip(atoms, others, strict=True)}
        return own_steps, key_steps

    def embedding(self, operation: Operation, view: View) -> View:
        """A row of the weight for each number."""
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


def _shared(a: Atoms, b: Atoms, atoms: Atoms) -> Atoms:
    """An axis of a result: new atoms, with that of the batch where the operands have it.

    Raises:
        MisfitError: they have it in different places.
    """
    if BATCH in a and BATCH in b and beside_batch(a, atoms) != beside_batch(b, atoms):
        raise MisfitError
    return beside_batch(a if BATCH in a else b, atoms)
