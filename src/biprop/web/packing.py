"""A program in a form that compresses well, and bytes as text."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ticket import Ticket

_SMALLEST = 64
"""Bytes of a plane. Smaller ones may occur elsewhere in a program by chance, and gain nothing."""
_GZIP = 31  # zlib's number for its container, with the largest window
_MOST_MEMORY = 9
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)

_Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class SplitProgram:
    """A program without the planes of its masked layers, and these planes.

    Attributes:
        rest: everything else, in order.
        planes: of each layer: the kept negative weights, then the kept positive ones, one bit a
            weight.
        places: of each layer: where its mask begins in the whole program, and the bytes of a plane.
    """

    rest: bytes
    planes: bytes
    places: Sequence[tuple[int, int]]

    def joined(self) -> bytes:
        """A program that computes the same as the original, as page.js puts it together too.

        The mask of a layer is "either of both", and its signs are the kept positive weights: those
        of pruned weights mean nothing.
        """
        rest, planes, parts = memoryview(self.rest), memoryview(self.planes), []
        used = whole = 0
        for start, size in self.places:
            parts.append(bytes(rest[used : used + start - whole]))
            negative, positive = (
                np.frombuffer(planes[i * size :][:size], np.uint8) for i in (0, 1)
            )
            parts += [(negative | positive).tobytes(), positive.tobytes()]
            used, whole, planes = used + start - whole, start + 2 * size, planes[2 * size :]
        return b"".join([*parts, bytes(rest[used:])])


def split(program: bytes, ticket: Ticket) -> SplitProgram:
    """Take the planes of masks and signs out of a program.

    The program has signs for pruned weights too. They are random: without them, and apart from
    what has other statistics, planes compress to little more than their entropy.

    Args:
        program: of the ticket.
        ticket: whose masks and signs it contains.
    """
    rest, planes, places, end = [], [], [], 0
    for start, mask, signs in sorted(_layers(program, ticket), key=lambda layer: layer[0]):
        rest.append(program[end:start])
        planes += [(mask & ~signs).tobytes(), (mask & signs).tobytes()]
        places.append((start, mask.size))
        end = start + 2 * mask.size
    rest.append(program[end:])
    return SplitProgram(b"".join(rest), b"".join(planes), places)


def _layers(program: bytes, ticket: Ticket) -> list[tuple[int, _Plane, _Plane]]:
    """Of the masked layers that the program contains: where, mask and signs."""
    layers: list[tuple[int, _Plane, _Plane]] = []
    # From the largest: where planes are all ones, those of a small layer are also a part of them.
    for layer in sorted(ticket.layers, key=lambda layer: -layer.mask.size):
        mask, signs = layer.mask, ticket.sign_plane(layer)
        taken = [range(start, start + 2 * other.size) for start, other, _ in layers]
        start = _free_place(program, mask.tobytes() + signs.tobytes(), taken)
        if start >= 0 and mask.size >= _SMALLEST:
            layers.append((start, mask, signs))
    return layers


def _free_place(program: bytes, content: bytes, taken: Sequence[range]) -> int:
    """Where the program has this content, outside of the places that are taken; -1: nowhere."""
    start = program.find(content)
    while start >= 0 and any(
        start < place.stop and place.start < start + len(content) for place in taken
    ):
        start = program.find(content, start + 1)
    return start


def packed(content: bytes) -> str:
    """The bytes as gzip, which browsers decompress, as text; by the strategy of zlib that makes it
    shorter: for random planes it is to look for no repetitions.
    """
    return as_text(min((_compressed(content, strategy) for strategy in _STRATEGIES), key=len))


def as_text(content: bytes) -> str:
    """Five characters for four bytes: base 85 of RFC 1924, with / in place of <, which may begin a
    tag. Base 64 would be 6 % longer.
    """
    return base64.b85encode(content).replace(b"<", b"/").decode("ascii")


def _compressed(content: bytes, strategy: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, _GZIP, _MOST_MEMORY, strategy)
    return compressor.compress(content) + compressor.flush()
