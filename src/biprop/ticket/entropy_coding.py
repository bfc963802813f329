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
"""Limit of the rows, and of the groups, of a layer that is coded row by row: each takes time and
memory, however few bits it has.
"""
STRENGTHS = (3, 6, 9)
"""Values of `Model.strength` that the encoder tries."""
PIECE = 1 << 20
"""Weights of constant probability that are coded at a time: a multiple of 8 and of `MOST_LANES`, so
that lanes take their usual turns.
"""
MOST_UNPACKED, WEIGHTS_A_BIT = 1 << 22, 256
"""A layer that is coded row by row takes a byte a weight in memory: it has at most `MOST_UNPACKED`
weights, and `WEIGHTS_A_BIT` more per bit of the stream.
"""


@dataclass(frozen=True)
class Model:
    """How the coder estimates the probability that a weight is kept.

    Attributes:
        order: "" takes the layer's density throughout. "o" goes through axis 0 (the output
            channels, except in transposed convolutions) and learns the density of every index of
            axis 1; "i" goes through axis 1 and learns the density of every index of axis 0.
        strength: the layer's density counts as much as 2 ** strength weights of an index.
    """

    order: str = ""
    strength: int = 0

    def __str__(self) -> str:
        return f"{self.order}{self.strength}" if self.order else ""

    @staticmethod
    def of(text: str) -> Model:
        """The model that `str` wrote.

        Raises:
            CodingError: no model is written like this.
        """
        if text == "":
            return Model()
        if not re.fullmatch(r"[io](1?[0-9]|20)", text):
            raise CodingError(f"unknown model {text!r:.40}")
        return Model(text[0], int(text[1:]))


def lanes_for(weights: int) -> int:
    """Number of states that take turns: a power of two, small enough that their 8 bytes each are
    negligible.
    """
    exponent = max(0, (weights >> 15).bit_length() - 1)
    return min(MOST_LANES, 1 << exponent)


def entropy(kept: int, weights: int) -> float:
    """H(kept / weights) * weights: bits that a mask needs if only its count is known."""
    counts = [count for count in (kept, weights - kept) if count]
    return -sum(count * math.log2(count / weights) for count in counts)


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
    """Code masks that are planes into one stream, the last mask first.

    A mask of constant probability is unpacked piece by piece, so that the memory taken is close to
    the planes'.

    Args:
        planes: of the masks, as `decode` gives them.
        shapes, kept, models: as of `decode`.

    Returns:
        The stream, uint8.
    """
    coder = Encoder(lanes_for(sum(map(math.prod, shapes))))
    masks = list(zip(planes, shapes, kept, models, strict=True))
    for plane, shape, count, model in reversed(masks):
        if count in (0, math.prod(shape)):
            continue
        if _is_constant(shape, model):
            _put_pieces(coder, plane, math.prod(shape), count)
        else:
            _put_rows(coder, plane, shape, count, model)
    return coder.stream()


def _put_pieces(coder: Encoder, plane: NDArray[np.uint8], size: int, count: int) -> None:
    probability = _constant_probability(count, size)
    for start in reversed(range(0, size, PIECE)):
        coder.put(_unpacked(plane, start, min(size, start + PIECE)), probability)


def _put_rows(
    coder: Encoder, plane: NDArray[np.uint8], shape: tuple[int, ...], count: int, model: Model
) -> None:
    mask = _unpacked(plane, 0, math.prod(shape)).view(np.bool_).reshape(shape)
    for row, probabilities in _backwards(_rows(mask, model), shape, count, model):
        coder.put(row, probabilities)


def decode(
    stream: NDArray[np.uint8],
    shapes: Sequence[tuple[int, ...]],
    kept: Sequence[int],
    models: Sequence[Model],
) -> Iterator[NDArray[np.uint8]]:
    """The masks of a stream, one after the other.

    Args:
        stream: uint8, as `encode` returned it.
        shapes: of every mask.
        kept: number of ones of every mask.
        models: how every mask is coded.

    Yields:
        A plane, uint8: bit i mod 8, from the lowest, of byte i // 8 is weight i in C order.

    Raises:
        CodingError: the stream is damaged, or of other masks; that may be noticed only after the
            last mask.
    """
    coder = Decoder(stream, lanes_for(sum(map(math.prod, shapes))))
    for shape, count, model in zip(shapes, kept, models, strict=True):
        size = math.prod(shape)
        if count in (0, size):
            yield _uniform_plane(size, bool(count))
        elif _is_constant(shape, model):
            yield _take_pieces(coder, size, count)
        else:
            yield _take_rows(coder, shape, count, model)
    coder.finish()


def _uniform_plane(size: int, value: bool) -> NDArray[np.uint8]:
    """`size` equal bits; the last byte is filled up with zeros."""
    plane = np.full(-(-size // 8), 255 if value else 0, dtype=np.uint8)
    if value and size % 8:
        plane[-1] = (1 << size % 8) - 1
    return plane


def _take_pieces(coder: Decoder, size: int, count: int) -> NDArray[np.uint8]:
    """The plane of a mask of constant probability, decoded piece by piece.

    A small stream can be a large mask: only a piece of it is ever held at a byte a weight.
    """
    plane = np.empty(-(-size // 8), dtype=np.uint8)
    probability = _constant_probability(count, size)
    ones = 0
    for start in range(0, size, PIECE):
        piece = np.empty(min(PIECE, size - start), dtype=np.uint8)
        coder.take(piece, probability)
        ones += int(np.count_nonzero(piece))
        packed = np.packbits(piece, bitorder="little")
        plane[start // 8 : start // 8 + len(packed)] = packed
    _check_count(ones, count)
    return plane


def _take_rows(
    coder: Decoder, shape: tuple[int, ...], count: int, model: Model
) -> NDArray[np.uint8]:
    """The plane of a mask whose probabilities are learned row by row."""
    rows = np.empty(_row_shape(shape, model), dtype=np.uint8)
    learned = _learned_probabilities(rows, shape, count, model)
    for row, probabilities in zip(rows, learned, strict=True):
        coder.take(row, probabilities)
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
    if _is_constant(mask.shape, model) or not 0 < kept < mask.size:
        return cost_of_constant(kept, mask.size)
    rows, bits = _rows(mask, model), 0.0
    learned = _learned_probabilities(rows, mask.shape, kept, model)
    for row, probabilities in zip(rows, learned, strict=True):
        bits += _cost_of_row(row, probabilities)
    return bits


def _cost_of_row(row: Bits, probabilities: NDArray[np.uint32]) -> float:
    """Bits of a row: -log2 of what its values were expected with."""
    expected = np.where(row, probabilities, 65536 - probabilities).astype(np.float64)
    return float((16 - np.log2(expected)).sum())


def cost_of_constant(kept: int, weights: int) -> float:
    """Bits of a mask that is coded with one probability for all its weights; its counts suffice."""
    if not 0 < kept < weights:
        return 0.0
    probability = int(_constant_probability(kept, weights)[0])
    bits_of_kept = 16 - math.log2(probability)
    bits_of_pruned = 16 - math.log2(65536 - probability)
    return kept * bits_of_kept + (weights - kept) * bits_of_pruned


def best_model(mask: NDArray[np.bool_]) -> Model:
    """The model whose estimated cost is lowest, for a mask of any shape."""
    kept = int(np.count_nonzero(mask))
    if not 0 < kept < mask.size or max(mask.shape[:2], default=0) > MOST_ROWS:
        return Model()
    best, lowest = Model(), entropy(kept, mask.size)
    if mask.ndim < 2:
        return best
    ones = _three_axes(mask).sum(2, dtype=np.int32)
    for order, counts in (("o", ones), ("i", ones.T)):
        for strength, bits in _estimates(counts, mask.size // ones.size, kept / mask.size):
            if bits < lowest:
                best, lowest = Model(order, strength), bits
    return best if may_be_unpacked(mask.size, lowest / 2) else Model()


def _estimates(
    counts: NDArray[np.int32], pooled: int, density: float
) -> Iterator[tuple[int, float]]:
    """About how many bits a layer takes under each strength of a model.

    Args:
        counts: [rows, groups], kept weights of each group in each row.
        pooled: weights of a group in a row.
        density: of the layer.

    Yields:
        Each of `STRENGTHS`, and the bits.
    """
    ones_before = np.cumsum(counts, axis=0, dtype=np.float32) - counts
    weights_before = pooled * np.arange(len(counts), dtype=np.float32)[:, None]
    for strength in STRENGTHS:
        prior = np.float32(2**strength)
        learned = (ones_before + prior * np.float32(density)) / (weights_before + prior)
        probability = np.clip(learned, 2.0**-16, 1 - 2.0**-16)
        kept_bits = counts * np.log2(probability)
        pruned_bits = (pooled - counts) * np.log2(1 - probability)
        yield strength, -float((kept_bits + pruned_bits).sum(dtype=np.float64))


def may_be_unpacked(weights: int, bits: float) -> bool:
    """Whether a stream of `bits` may hold a layer of `weights` that is coded row by row.

    Decoding such a layer takes memory for all its weights: its size is bounded by the stream's.
    """
    return weights <= MOST_UNPACKED + WEIGHTS_A_BIT * bits


def is_coded_by_rows(shape: tuple[int, ...], kept: int, model: Model) -> bool:
    """Whether the layer is in the stream, row by row."""
    return 0 < kept < math.prod(shape) and not _is_constant(shape, model)


def _three_axes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[outputs, inputs, positions in the kernel]."""
    return mask.reshape(mask.shape[0], mask.shape[1], -1)


def _row_shape(shape: tuple[int, ...], model: Model) -> tuple[int, int]:
    """(rows, weights of a row)."""
    if not model.order or len(shape) < 2:
        return 1, math.prod(shape)
    rows = shape[0] if model.order == "o" else shape[1]
    return rows, math.prod(shape) // rows


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
    """[rows, weights of a row]: the mask in the order in which it is coded.

    What is learned from a row is used from the next on.
    """
    turned = _three_axes(mask).transpose(1, 0, 2) if model.order == "i" and mask.ndim > 1 else mask
    return np.ascontiguousarray(turned).view(np.uint8).reshape(_row_shape(mask.shape, model))


def _in_order(rows: Bits, shape: tuple[int, ...], model: Model) -> Bits:
    """The bits of the rows in C order of the weights, flat."""
    if model.order == "i" and len(shape) > 1:
        rows = rows.reshape(shape[1], shape[0], -1).transpose(1, 0, 2)
    return rows.reshape(-1)


def _is_constant(shape: tuple[int, ...], model: Model) -> bool:
    """Whether all weights of the layer have the same probability, so that nothing is learned."""
    return not model.order or len(shape) < 2


def _density(kept: int, weights: int) -> int:
    """The fraction kept, in units of 2^-16, rounded to nearest."""
    return (65536 * kept + weights // 2) // weights


def _constant_probability(kept: int, weights: int) -> NDArray[np.uint32]:
    """[1]: the probability that a weight is kept, the same for all, in units of 2^-16."""
    density = np.array([_density(kept, weights)], dtype=np.uint32)
    return np.clip(density, 1, 65535)


class _Learned:
    """Counts of kept weights by group, of a layer that is coded row by row, before a row."""

    def __init__(self, shape: tuple[int, ...], row_length: int, kept: int, model: Model) -> None:
        self._groups = shape[1] if model.order == "o" else shape[0]
        self._pooled = row_length // self._groups
        self._strength = 1 << model.strength
        self._density = _density(kept, math.prod(shape))
        self._ones = np.zeros(self._groups, dtype=np.int64)

    def probabilities(self, number: int) -> NDArray[np.uint32]:
        """[weights of a row], for row `number`: that each is kept, in units of 2^-16."""
        prior = self._density * self._strength
        weights_before = number * self._pooled
        learned = (65536 * self._ones + prior) // (weights_before + self._strength)
        return np.repeat(np.clip(learned, 1, 65535).astype(np.uint32), self._pooled)

    def add(self, row: Bits) -> None:
        self._ones += self._counts(row)

    def remove(self, row: Bits) -> None:
        self._ones -= self._counts(row)

    def _counts(self, row: Bits) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = row.reshape(self._groups, self._pooled).sum(1, dtype=np.int64)
        return counts


def _learned_probabilities(
    rows: Bits, shape: tuple[int, ...], kept: int, model: Model
) -> Iterator[NDArray[np.uint32]]:
    """The probabilities of every row, in order. Each row is read after its probabilities were
    yielded: the caller may fill it in meanwhile.
    """
    learned = _Learned(shape, rows.shape[1], kept, model)
    for number, row in enumerate(rows):
        yield learned.probabilities(number)
        learned.add(row)


def _backwards(
    rows: Bits, shape: tuple[int, ...], kept: int, model: Model
) -> Iterator[tuple[Bits, NDArray[np.uint32]]]:
    """Every row with its probabilities, from the last to the first."""
    learned = _Learned(shape, rows.shape[1], kept, model)
    for row in rows:
        learned.add(row)
    for number in reversed(range(len(rows))):
        learned.remove(rows[number])
        yield rows[number], learned.probabilities(number)
