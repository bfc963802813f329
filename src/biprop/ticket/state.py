"""Names and numbers of what is not masked: batch norm, biases, dense layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..names import is_name
from .container import check, whole_numbers

MOST_NAMES, MAX_CHARACTERS = 1 << 18, 1 << 24
"""Of the tensors in `state`: their directory is short where many names have a part in common."""
FOLDED = ("weight", "bias")
"""What is stored of a folded batch norm, in this order: the scale and the shift of each channel."""


def plane_of(tensor: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """The tensor, if it is of bytes; else TicketError."""
    check(tensor.dtype == np.uint8, f"{name} that are no bytes")
    return tensor


def group_names(
    shapes: Mapping[str, Sequence[int]], folded: Mapping[str, float] | None = None
) -> list[list[Any]]:
    """The directory of `state`, short.

    Args:
        shapes: of all tensors.
        folded: names of folded batch norms -> epsilon: their running statistics are left out.

    Returns:
        [prefixes, leaves, shape] for neighbours whose names are each prefix with each leaf, and
        [prefixes, leaves, shape, epsilon] for folded batch norms.
    """
    groups: list[list[Any]] = []
    for prefix, entries in _by_module(shapes).items():
        leaves, first = [leaf for leaf, _ in entries], entries[0][1]
        if folded and prefix in folded:
            _append_folded(groups, prefix, first, folded[prefix])
        elif any(shape != first for _, shape in entries):
            groups += [[[prefix], [leaf], shape] for leaf, shape in entries]
        elif groups and groups[-1][1:] == [leaves, first]:
            groups[-1][0].append(prefix)
        else:
            groups.append([[prefix], leaves, first])
    return groups


def _append_folded(groups: list[list[Any]], prefix: str, shape: list[int], eps: float) -> None:
    rest = [list(FOLDED), shape, eps]
    if groups and groups[-1][1:] == rest:
        groups[-1][0].append(prefix)
    else:
        groups.append([[prefix], *rest])


def _by_module(shapes: Mapping[str, Sequence[int]]) -> dict[str, list[tuple[str, list[int]]]]:
    """(leaf, shape) of all names by what stands before their last dot."""
    modules: dict[str, list[tuple[str, list[int]]]] = {}
    for name, shape in shapes.items():
        prefix, _, leaf = name.rpartition(".")
        modules.setdefault(prefix, []).append((leaf, list(shape)))
    return modules


def names_of(groups: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[int]]]:
    """(name, shape) of all entries of a directory, in the order of their numbers."""
    for prefixes, leaves, shape, *_ in groups:
        for prefix in prefixes:
            for leaf in leaves:
                yield (f"{prefix}.{leaf}" if prefix else leaf), shape


def _names_in(group: Sequence[Any]) -> int:
    """Number of names of a group of a directory."""
    prefixes, leaves, *_ = group
    return len(prefixes) * len(leaves)


def _characters_in(group: Sequence[Any]) -> int:
    """Characters of all names of a group of a directory, but for the dots."""
    prefixes, leaves, *_ = group
    return len(leaves) * sum(map(len, prefixes)) + len(prefixes) * sum(map(len, leaves))


def _numbers_in(group: Sequence[Any]) -> int:
    """Numbers of all tensors of a group of a directory."""
    size: int = math.prod(group[2])
    return _names_in(group) * size


def ungroup(
    directory: Any, values: NDArray[Any], may_fold: bool = False
) -> dict[str, NDArray[np.float32]]:
    """The tensors of `state` by name; the running statistics of folded batch norms too.

    Args:
        directory: of a file, as `group_names` makes it.
        values: all their numbers, float32, or bfloat16 as uint16.
        may_fold: whether the version of the file has folded batch norms.

    Raises:
        TicketError: the directory is damaged or hostile, or does not fit the numbers.
    """
    numbers = _as_float32(values)
    _check_directory(directory, len(numbers), may_fold)
    state: dict[str, NDArray[np.float32]] = {}
    at = 0
    for group in directory:
        for name, shape in names_of([group]):
            check(name not in state, f"{name:.40} comes twice")
            size = math.prod(shape)
            state[name] = numbers[at : at + size].reshape(shape)
            at += size
        _restore_statistics(state, group)
    return state


def neutral_statistics(channels: int, eps: float) -> dict[str, NDArray[np.float32]]:
    """Running statistics under which batch norm's weight is its scale, and its bias its shift."""
    variance = np.full(channels, 1 - eps, np.float32)
    return {"running_mean": np.zeros(channels, np.float32), "running_var": variance}


def _restore_statistics(state: dict[str, NDArray[np.float32]], group: Sequence[Any]) -> None:
    """Add what the file leaves out of the folded batch norms of a group, if it is of such."""
    if len(group) < 4:
        return
    prefixes, _, shape, eps = group
    for prefix in prefixes:
        for leaf, value in neutral_statistics(shape[0], eps).items():
            name = f"{prefix}.{leaf}" if prefix else leaf
            check(name not in state, f"{name:.40} comes twice")
            state[name] = value


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    is_float32 = values.dtype == np.dtype("<f4")
    check(is_float32 or values.dtype == np.dtype("<u2"), "the type of the state")
    numbers = values.astype(np.float32) if is_float32 else _from_bfloat16(values)
    are_finite = bool(np.isfinite(numbers).all())
    check(are_finite, "a number of the state is infinite or not a number")
    return numbers


def _check_directory(directory: Any, numbers: int, may_fold: bool) -> None:
    """Names are counted before any is made: a short directory can have very many."""
    check(isinstance(directory, list), "the directory of the state")
    for group in directory:
        _check_group(group, numbers, may_fold)
    names = sum(map(_names_in, directory))
    check(names <= MOST_NAMES, f"more than {MOST_NAMES} names in the state")
    characters = sum(map(_characters_in, directory))
    check(
        characters <= MAX_CHARACTERS,
        f"names of {characters} characters in the state, more than {MAX_CHARACTERS}",
    )
    has_their_size = sum(map(_numbers_in, directory)) == numbers
    check(has_their_size, "a state of another size than its directory")


def _check_group(group: Any, numbers: int, may_fold: bool) -> None:
    is_group = isinstance(group, list) and 3 <= len(group) <= 3 + may_fold
    check(is_group, "the directory of the state")
    prefixes, leaves, shape, *eps = group
    for names in (prefixes, leaves):
        check(isinstance(names, list) and all(map(is_name, names)), "the names of the state")
    is_shape = whole_numbers(shape, numbers) and len(shape) <= 8
    check(is_shape, "a shape of the state")
    if eps:
        is_epsilon = type(eps[0]) in (int, float) and 0 <= eps[0] < 1
        fits = is_epsilon and leaves == list(FOLDED) and len(shape) == 1
        check(fits, "a folded batch norm of the state")


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """bfloat16 as uint16: the upper halves, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    is_odd = bits >> 16 & 1
    return ((bits + 0x7FFF + is_odd) >> 16).astype("<u2")


def _from_bfloat16(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (values.astype(np.uint32) << 16).view(np.float32)
