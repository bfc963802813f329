"""The masked layers of a ticket, from its description and tensors, checked step by step.

A file is anybody's: every number is compared with its limit before memory of its size is allocated.
docs/ticket-format.md is the specification.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TicketError
from ..names import is_name
from . import entropy_coding
from .container import check, whole_numbers
from .entropy_coding import Model
from .layer import Layer, Plane, Signs
from .state import plane_of

MOST_WEIGHTS, MOST_LAYERS, MOST_ROWS = 1 << 32, 1 << 16, 1 << 18
MOST_AXES = 8
_WEIGHTS_PER_BIT = 46_000
"""A weight costs the least at a probability of 65,535 in 65,536: 2.2e-5 bits. A small stream cannot
be a huge mask.
"""


@dataclass(frozen=True)
class _Entry:
    """A layer as the description has it, checked; fields as of `Layer`.

    Attributes:
        rows: that its mask is coded in.
    """

    name: str
    number: int
    shape: tuple[int, ...]
    kept: int
    signs: Signs
    model: Model
    rows: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def is_coded(self) -> bool:
        """Whether the stream has bits of its mask: not where all or none are kept."""
        return 0 < self.kept < self.size


def parse_layers(
    described: Any, tensors: Mapping[str, NDArray[Any]], has_seed: bool, most_weights: int
) -> list[Layer]:
    """The layers of a ticket.

    Args:
        described: "layers" of the description: for each layer [name, number, shape, kept, signs,
            model].
        tensors: "masks", "gains" and "signs" are read.
        has_seed: whether the ticket has a seed that signs can follow from.
        most_weights: in all layers together.

    Raises:
        TicketError: they are damaged or hostile, or have more weights. CodingError or another
            ValueError where the damage is in the detail.
    """
    check(isinstance(described, list) and len(described) <= MOST_LAYERS, "the list of layers")
    entries = [_parse_entry(entry, has_seed) for entry in described]
    _check_sizes(entries, most_weights)
    stream = plane_of(tensors["masks"], "masks")
    signs = _StoredSigns(plane_of(tensors["signs"], "signs"))
    _check_coded_weights(entries, len(stream))
    _check_gains(tensors["gains"], len(entries))
    _check_rows(entries, len(stream))
    return list(_layers(entries, _masks(entries, stream), tensors["gains"], signs))


def _parse_entry(entry: Any, has_seed: bool) -> _Entry:
    check(isinstance(entry, list) and len(entry) == 6, "the entry of a layer")
    name, number, shape, kept, signs, model = entry
    is_number = type(number) is int and 0 <= number < 2**32
    check(is_name(name) and is_number, "name or number of a layer")
    _check_shape(name, shape)
    _check_kept(name, shape, kept)
    follows = signs == "seed" and has_seed
    check(signs in ("positive", "stored") or follows, f"the signs of layer {name:.40}")
    check(isinstance(model, str), f"the model of layer {name:.40}")
    coded_by = Model.of(model)
    rows = entropy_coding.rows_of(tuple(shape), coded_by)
    return _Entry(name, number, tuple(shape), kept, signs, coded_by, rows)


def _check_shape(name: str, shape: Any) -> None:
    fits = whole_numbers(shape, MOST_WEIGHTS) and len(shape) <= MOST_AXES and 0 not in shape
    check(fits, f"the shape of layer {name:.40}")


def _check_kept(name: str, shape: list[int], kept: Any) -> None:
    fits = type(kept) is int and 0 <= kept <= math.prod(shape)
    check(fits, f"layer {name:.40} keeps {kept!r:.40} of {shape!r:.80}")


def _check_sizes(entries: Sequence[_Entry], most_weights: int) -> None:
    weights = sum(entry.size for entry in entries)
    rows = sum(entry.rows for entry in entries)
    fits = weights <= MOST_WEIGHTS and rows <= MOST_ROWS + len(entries)
    check(fits, f"{weights} weights: more than {MOST_WEIGHTS}")
    if weights > most_weights:
        raise TicketError(
            f"{weights:,} weights: more than {most_weights:,}; if you trust it:"
            " Ticket.load(path, most_weights=...)"
        )


def _check_coded_weights(entries: Sequence[_Entry], stream_bytes: int) -> None:
    coded = sum(entry.size for entry in entries if entry.is_coded)
    most = (8 * stream_bytes + 64) * _WEIGHTS_PER_BIT
    check(coded <= most, f"{coded} weights in a stream of {stream_bytes} bytes")


def _check_gains(gains: NDArray[Any], layers: int) -> None:
    check(gains.dtype == np.dtype("<f4") and len(gains) == layers, "the number of gains")
    is_valid = bool(np.isfinite(gains).all() and (gains >= 0).all())
    check(is_valid, "a gain that is negative or not a number")


def _check_rows(entries: Sequence[_Entry], stream_bytes: int) -> None:
    """Layers that are coded row by row are decoded at a byte a weight: the stream bounds them."""
    for entry in entries:
        if entropy_coding.is_coded_by_rows(entry.shape, entry.kept, entry.model):
            check(
                entropy_coding.may_be_unpacked(entry.size, 8 * stream_bytes),
                f"a layer of {entry.size} weights coded row by row in a stream of"
                f" {stream_bytes} bytes",
            )


def _masks(entries: Sequence[_Entry], stream: Plane) -> Iterator[Plane]:
    """The planes of the masks, decoded one by one."""
    shapes = [entry.shape for entry in entries]
    kept = [entry.kept for entry in entries]
    models = [entry.model for entry in entries]
    return entropy_coding.decode(stream, shapes, kept, models)


class _StoredSigns:
    """The signs of all layers that store them, one plane after the other."""

    def __init__(self, planes: Plane) -> None:
        self.left = planes

    def take(self, name: str, kept: int) -> Plane:
        """The plane of the next layer: `kept` bits, the last byte filled up with zeros."""
        size = -(-kept // 8)
        check(len(self.left) >= size, f"too few signs for layer {name:.40}")
        plane, self.left = self.left[:size], self.left[size:]
        ends_with_zeros = kept % 8 == 0 or int(plane[-1]) >> kept % 8 == 0
        check(ends_with_zeros, f"signs of layer {name:.40} that belong to no weight")
        return plane


def _layers(
    entries: Sequence[_Entry],
    masks: Iterator[Plane],
    gains: NDArray[np.float32],
    signs: _StoredSigns,
) -> Iterator[Layer]:
    for entry, gain in zip(entries, gains, strict=True):
        mask = next(masks)
        stored = signs.take(entry.name, entry.kept) if entry.signs == "stored" else None
        yield Layer(
            name=entry.name,
            number=entry.number,
            shape=entry.shape,
            kept=entry.kept,
            gain=float(gain),
            mask=mask,
            signs=entry.signs,
            stored=stored,
            model=entry.model,
        )
    is_complete = next(masks, None) is None and not len(signs.left)  # the stream's end is checked
    check(is_complete, "signs are left over")
