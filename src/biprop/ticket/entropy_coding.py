"""Masks in fewer bits than they have weights: range asymmetric numeral systems (rANS), with counts
that learn.

A mask that keeps the fraction k needs H(k) bits a weight if nothing else is known, H the binary
entropy. The coder is rANS (J. Duda, arXiv 1311.2540) with 64-bit states, 32-bit words and
probabilities of 16 bits; several states take turns, so that numpy decodes many bits in one
operation and the compiled core one after the other, the same bits. Integer arithmetic only.
docs/ticket-format.md says everything that a second implementation needs.

Why not a library: `constriction` was weighed, and needs the model of every bit up front from
Python; a format for decades is better off with forty lines that are written down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rans import Bits, CodingError, Decoder, Encoder

MOST_LANES = 256
MOST_ROWS = 1 << 16
"""In a layer that is coded row by row, of its rows and of its groups: each takes time and memory,
however few bits it has.
"""
STRENGTHS = (3, 6, 9)
"""What the encoder tries: 2 to this power is how many weights the layer's density counts for,
beside the group's own.
"""

PIECE = 1 << 20
"""Weights of one chance that are coded at a time: a multiple of 8 and of `MOST_LANES`, so that
lanes take their usual turns.
"""
MOST_UNPACKED, WEIGHTS_A_BIT = 1 << 22, 256
"""What is coded row by row is held at a byte a weight: at most so many weights, and so many more
per bit of the stream.
"""


@dataclass(frozen=True)
class Model:
    """What the coder takes for the probability that a weight is kept.

    Attributes:
        order: "" takes the layer's density throughout. "o" goes through axis 0 (the output
            channels, but of transposed convolutions) and learns how much is kept of every index of
            axis 1; "i" goes through axis 1 and learns of axis 0.
        strength: the layer's density counts as much as 2 ** strength weights.
    """

    order: str = ""
    strength: int = 0

    def __str__(self) -> str:
        return f"{self.order}{self.strength}" if self.order else ""

    @staticmethod
    def of(text: str) -> Model:
        """From what `str` gives.

        Raises:
            CodingError: no model is written like this.
        """
        if text == "":
            return Model()
        if not re.fullmatch(r"[io](1?[0-9]|20)", text):
            raise CodingError(f"unknown model {text!r:.40}")
        return Model(text[0], int(text[1:]))


def lanes_for(weights: int) -> int:
    """How many states take turns: a power of two, so few that their 8 bytes each do not count."""
    return min(MOST_LANES, 1 << max(0, (weights >> 15).bit_length() - 1))


def entropy(kept: int, weights: int) -> float:
    """H(kept / weights) * weights: bits that a mask needs if only its count is known."""
    return -sum(part * math.log2(part / weights) for part in (kept, weights - kept) if part)


def encode(masks: Sequence[NDArray[np.bool_]], models: Sequence[Model]) -> NDArray[np.uint8]:
    """Code the masks of all layers into one stream.

    Args:
        masks: bool arrays, [outputs, inputs, ...] or any other shape.
        models: one per mask, see `best_model`; any gives a stream that `decode` reads with it.

    Returns:
        The stream, uint8.
    """
    planes = [np.packbits(mask.ravel(), bitorder="little") for mask in masks]
    kept = [int(np.count_nonzero(mask)) for mask in masks]
    return encode_planes(planes, [mask.shape for mask in masks], kept, models)


def encode_planes(
    planes: Sequence[NDArray[np.uint8]],
    shapes: Sequence[tuple[int, ...]],
    kept: Sequence[int],
    models: Sequence[Model],
) -> NDArray[np.uint8]:
    """Code masks that are planes (see `decode`) into one stream; arguments and result as of
    `decode` and `encode`.

    A mask of one chance is unpacked piece by piece, so that the memory taken is close to the
    planes'.
    """
    coder = Encoder(lanes_for(sum(map(math.prod, shapes))))
    for plane, shape, count, model in reversed(
        list(zip(planes, shapes, kept, models, strict=True))
    ):
        size = math.prod(shape)
        if count in (0, size):
            continue
        if _has_one_chance(shape, model):
            chance = _one_chance(count, size)
            for start in reversed(range(0, size, PIECE)):
                coder.put(_unpacked(plane, start, min(size, start + PIECE)), chance)
        else:
            mask = _unpacked(plane, 0, size).view(np.bool_).reshape(shape)
            for row, chances in _backwards(_rows(mask, model), shape, count, model):
                coder.put(row, chances)
    return coder.stream()


def decode(
    stream: NDArray[np.uint8],
    shapes: Sequence[tuple[int, ...]],
    kept: Sequence[int],
    models: Sequence[Model],
) -> Iterator[NDArray[np.uint8]]:
    """The masks of a stream, one after the other, as planes: bit i mod 8, from the lowest, of byte
    i // 8 is weight i in C order.

    Args:
        stream: of `encode`.
        shapes, kept, models: of every mask.

    Raises:
        CodingError: the stream is damaged, or of other masks; the last masks may tell.
    """
    coder = Decoder(stream, lanes_for(sum(map(math.prod, shapes))))
    for shape, count, model in zip(shapes, kept, models, strict=True):
        size = math.prod(shape)
        if count in (0, size):
            plane = np.full(-(-size // 8), 255 if count else 0, dtype=np.uint8)
            if count and size % 8:
                plane[-1] = (1 << size % 8) - 1
        elif _has_one_chance(shape, model):
            plane = _take_pieces(coder, size, count)
        else:
            plane = _take_rows(coder, shape, count, model)
        yield plane
    coder.finish()


def _take_pieces(coder: Decoder, size: int, count: int) -> NDArray[np.uint8]:
    """The plane of a mask of one chance, decoded piece by piece: a small stream can be a large
    mask.
    """
    plane = np.empty(-(-size // 8), dtype=np.uint8)
    chance, ones = _one_chance(count, size), 0
    for start in range(0, size, PIECE):
        piece = np.empty(min(PIECE, size - start), dtype=np.uint8)
        coder.take(piece, chance)
        ones += int(np.count_nonzero(piece))
        packed = np.packbits(piece, bitorder="little")
        plane[start // 8 : start // 8 + len(packed)] = packed
    _check_count(ones, count)
    return plane


def _take_rows(
    coder: Decoder, shape: tuple[int, ...], count: int, model: Model
) -> NDArray[np.uint8]:
    """The plane of a mask whose chances are learned row by row."""
    rows = np.empty(_row_shape(shape, model), dtype=np.uint8)
    for row, chances in zip(rows, _chances(rows, shape, count, model), strict=True):
        coder.take(row, chances)
    _check_count(int(np.count_nonzero(rows)), count)
    return np.packbits(_in_order(rows, shape, model), bitorder="little")


def _check_count(ones: int, count: int) -> None:
    if ones != count:
        raise CodingError("a mask does not keep as many weights as it says")


def _unpacked(plane: NDArray[np.uint8], start: int, stop: int) -> Bits:
    """Weights start .. stop of a plane, a byte each; `start` is a multiple of 8."""
    return np.unpackbits(plane[start // 8 : -(-stop // 8)], count=stop - start, bitorder="little")


def cost(mask: NDArray[np.bool_], model: Model) -> float:
    """Bits that `encode` spends on a mask, to a fraction of a bit."""
    kept = int(np.count_nonzero(mask))
    if _has_one_chance(mask.shape, model) or not 0 < kept < mask.size:
        return cost_of_one_chance(kept, mask.size)
    rows, bits = _rows(mask, model), 0.0
    for row, chances in zip(rows, _chances(rows, mask.shape, kept, model), strict=True):
        share = np.where(row, chances, 65536 - chances).astype(np.float64)
        bits += float((16 - np.log2(share)).sum())
    return bits


def cost_of_one_chance(kept: int, weights: int) -> float:
    """Bits of a mask that is coded with one chance for all its weights: its counts tell."""
    if not 0 < kept < weights:
        return 0.0
    chance = int(_one_chance(kept, weights)[0])
    return kept * (16 - math.log2(chance)) + (weights - kept) * (16 - math.log2(65536 - chance))


def best_model(mask: NDArray[np.bool_]) -> Model:
    """The model whose estimated cost is lowest."""
    kept = int(np.count_nonzero(mask))
    if not 0 < kept < mask.size or max(mask.shape[:2], default=0) > MOST_ROWS:
        return Model()
    best, cost = Model(), entropy(kept, mask.size)
    if mask.ndim < 2:
        return best
    ones = _three_axes(mask).sum(2, dtype=np.int32)
    pooled = mask.size // ones.size
    for order, counts in (("o", ones), ("i", ones.T)):
        before = np.cumsum(counts, axis=0, dtype=np.float32) - counts
        seen = pooled * np.arange(len(counts), dtype=np.float32)[:, None]
        for strength in STRENGTHS:
            weight = np.float32(2**strength)
            chance = np.clip(
                (before + weight * np.float32(kept / mask.size)) / (seen + weight),
                2.0**-16,
                1 - 2.0**-16,
            )
            bits = -float(
                (counts * np.log2(chance) + (pooled - counts) * np.log2(1 - chance)).sum(
                    dtype=np.float64
                )
            )
            if bits < cost:
                best, cost = Model(order, strength), bits
    return best if may_be_unpacked(mask.size, cost / 2) else Model()


def may_be_unpacked(weights: int, bits: float) -> bool:
    """Whether a stream of so many bits may hold a layer of so many weights that is coded row by
    row.

    Decoding such a layer takes memory for all its weights: its size is bounded by the stream's.
    """
    return weights <= MOST_UNPACKED + WEIGHTS_A_BIT * bits


def is_coded_by_rows(shape: tuple[int, ...], kept: int, model: Model) -> bool:
    """Whether the layer is in the stream, row by row."""
    return 0 < kept < math.prod(shape) and not _has_one_chance(shape, model)


def _three_axes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[outputs, inputs, places of the kernel]."""
    return mask.reshape(mask.shape[0], mask.shape[1], -1)


def _row_shape(shape: tuple[int, ...], model: Model) -> tuple[int, int]:
    if not model.order or len(shape) < 2:
        return 1, math.prod(shape)
    first = shape[0] if model.order == "o" else shape[1]
    return first, math.prod(shape) // first


def rows_of(shape: tuple[int, ...], model: Model) -> int:
    """How many rows the coder goes through.

    Raises:
        CodingError: more than it may: `MOST_ROWS` rows or groups.
    """
    if model.order and len(shape) > 1 and max(shape[:2]) > MOST_ROWS:
        raise CodingError(
            f"model {model} for {shape[0]} x {shape[1]} channels: at most {MOST_ROWS}"
        )
    return _row_shape(shape, model)[0]


def _rows(mask: NDArray[np.bool_], model: Model) -> Bits:
    """The mask in the order in which it is coded; what is learned from a row is used from the next
    on.
    """
    turned = _three_axes(mask).transpose(1, 0, 2) if model.order == "i" and mask.ndim > 1 else mask
    return np.ascontiguousarray(turned).view(np.uint8).reshape(_row_shape(mask.shape, model))


def _in_order(rows: Bits, shape: tuple[int, ...], model: Model) -> Bits:
    """The bits of the rows in C order of the weights, flat."""
    if model.order == "i" and len(shape) > 1:
        rows = rows.reshape(shape[1], shape[0], -1).transpose(1, 0, 2)
    return rows.reshape(-1)


def _has_one_chance(shape: tuple[int, ...], model: Model) -> bool:
    """Whether all weights of the layer have the same chance, so that nothing is learned."""
    return not model.order or len(shape) < 2


def _density(kept: int, weights: int) -> int:
    return (65536 * kept + weights // 2) // weights


def _one_chance(kept: int, weights: int) -> NDArray[np.uint32]:
    """[1]: of 65,536 how often a weight is kept, the same for all."""
    return np.clip(np.array([_density(kept, weights)], dtype=np.uint32), 1, 65535)


class _Learned:
    """What is known of the groups of a layer that is coded row by row, before a row: how many
    weights are kept of each.
    """

    def __init__(self, shape: tuple[int, ...], row_length: int, kept: int, model: Model) -> None:
        self._groups = shape[1] if model.order == "o" else shape[0]
        self._pooled = row_length // self._groups
        self._strength = 1 << model.strength
        self._density = _density(kept, math.prod(shape))
        self._ones = np.zeros(self._groups, dtype=np.int64)

    def chances(self, number: int) -> NDArray[np.uint32]:
        """[weights of a row], for row `number`: of 65,536 how often each is kept."""
        prior = self._density * self._strength
        chances = (65536 * self._ones + prior) // (number * self._pooled + self._strength)
        return np.repeat(np.clip(chances, 1, 65535).astype(np.uint32), self._pooled)

    def count(self, row: Bits, sign: int = 1) -> None:
        """Add a row that is coded, or with sign -1 take it away."""
        self._ones += sign * row.reshape(self._groups, self._pooled).sum(1, dtype=np.int64)


def _chances(
    rows: Bits, shape: tuple[int, ...], kept: int, model: Model
) -> Iterator[NDArray[np.uint32]]:
    """The chances of every row, in order. `rows` is read after each."""
    learned = _Learned(shape, rows.shape[1], kept, model)
    for number, row in enumerate(rows):
        yield learned.chances(number)
        learned.count(row)


def _backwards(
    rows: Bits, shape: tuple[int, ...], kept: int, model: Model
) -> Iterator[tuple[Bits, NDArray[np.uint32]]]:
    """Every row with its chances, from the last to the first."""
    learned = _Learned(shape, rows.shape[1], kept, model)
    for row in rows:
        learned.count(row)
    for number in reversed(range(len(rows))):
        learned.count(rows[number], -1)
        yield rows[number], learned.chances(number)
