"""Names and numbers of what is not masked: batch norm, biases, dense layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..names import is_name
from .container import check, whole_numbers

MOST_NAMES, MOST_CHARACTERS = 1 << 18, 1 << 24
"""Of the tensors in `state`: their directory is short where many names have a part in common."""


def plane_of(tensor: NDArray[Any], name: str) -> NDArray[np.uint8]:
    check(tensor.dtype == np.uint8, f"{name} that are no bytes")
    return tensor


def group_names(shapes: Mapping[str, Sequence[int]]) -> list[list[Any]]:
    """The directory of `state`, short: [prefixes, leaves, shape] for neighbours whose names are
    each prefix with each leaf.
    """
    groups: list[list[Any]] = []
    modules: dict[str, list[tuple[str, list[int]]]] = {}
    for name, shape in shapes.items():
        prefix, _, leaf = name.rpartition(".")
        modules.setdefault(prefix, []).append((leaf, list(shape)))
    for prefix, entries in modules.items():
        leaves, first = [leaf for leaf, _ in entries], entries[0][1]
        if any(shape != first for _, shape in entries):
            groups += [[[prefix], [leaf], shape] for leaf, shape in entries]
        elif groups and groups[-1][1:] == [leaves, first]:
            groups[-1][0].append(prefix)
        else:
            groups.append([[prefix], leaves, first])
    return groups


def names_of(groups: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[int]]]:
    """(name, shape) of all entries of a directory, in the order of their numbers."""
    for prefixes, leaves, shape in groups:
        for prefix in prefixes:
            for leaf in leaves:
                yield (f"{prefix}.{leaf}" if prefix else leaf), shape


def _characters(prefixes: Sequence[str], leaves: Sequence[str]) -> int:
    """Of all names of a group of a directory, but for the dots."""
    return len(leaves) * sum(map(len, prefixes)) + len(prefixes) * sum(map(len, leaves))


def ungroup(groups: Any, values: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    check(values.dtype in (np.dtype("<f4"), np.dtype("<u2")), "the type of the state")
    numbers = (
        values.astype(np.float32) if values.dtype == np.dtype("<f4") else _from_bfloat16(values)
    )
    check(bool(np.isfinite(numbers).all()), "a number of the state is infinite or not a number")
    check(isinstance(groups, list), "the directory of the state")
    for group in groups:
        check(isinstance(group, list) and len(group) == 3, "the directory of the state")
        for names in group[:2]:
            check(isinstance(names, list) and all(map(is_name, names)), "the names of the state")
        check(whole_numbers(group[2], len(numbers)) and len(group[2]) <= 8, "a shape of the state")
    check(
        sum(len(g[0]) * len(g[1]) for g in groups) <= MOST_NAMES,
        f"more than {MOST_NAMES} names in the state",
    )
    characters = sum(_characters(prefixes, leaves) for prefixes, leaves, _ in groups)
    check(
        characters <= MOST_CHARACTERS,
        f"names of {characters} characters in the state, more than {MOST_CHARACTERS}",
    )
    check(
        sum(len(g[0]) * len(g[1]) * math.prod(g[2]) for g in groups) == len(numbers),
        "a state of another size than its directory",
    )
    state: dict[str, NDArray[np.float32]] = {}
    at = 0
    for name, shape in names_of(groups):
        check(name not in state, f"{name:.40} comes twice")
        size = math.prod(shape)
        state[name] = numbers[at : at + size].reshape(shape)
        at += size
    return state


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def _from_bfloat16(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (values.astype(np.uint32) << 16).view(np.float32)
