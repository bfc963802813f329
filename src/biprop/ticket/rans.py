"""The entropy coder (rANS) below the mask codec: states, lanes and their words."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import native

LOWEST_STATE = 1 << 31
Bits = NDArray[np.uint8]


class CodingError(ValueError):
    """The stream is not one that the encoder writes."""


class Encoder:
    """Takes rows from the last to the first: what is put last is decoded first.

    Args:
        lanes: number of states that take turns.
    """

    def __init__(self, lanes: int) -> None:
        self._states = np.full(lanes, LOWEST_STATE, dtype=np.uint64)
        self._parts: list[NDArray[np.uint32]] = []

    def put(self, row: Bits, probabilities: NDArray[np.uint32]) -> None:
        """Code a row.

        Args:
            row: [n] uint8 of 0 and 1.
            probabilities: [n], or [1] for all, of a 1, in units of 2^-16: 1 .. 65535.
        """
        core = native.library()
        if core is None:
            self._parts += list(_put_by_numpy(self._states, row, probabilities))
        else:
            self._parts.append(self._put_by_core(core, row, probabilities))

    def _put_by_core(
        self, core: ctypes.CDLL, row: Bits, probabilities: NDArray[np.uint32]
    ) -> NDArray[np.uint32]:
        words = np.empty(len(row) + 1, dtype=np.uint32)  # every bit gives at most one word
        sizes = (len(self._states), len(row), len(probabilities) > 1)
        core.biprop_encode.restype = ctypes.c_int64
        count = core.biprop_encode(
            *_pointers(self._states, row, probabilities, words), *map(ctypes.c_int64, sizes)
        )
        return words[len(words) - count :].copy()

    def stream(self) -> NDArray[np.uint8]:
        """The states, and the words in the order in which they are read: uint8, little-endian."""
        words = np.concatenate([np.empty(0, dtype=np.uint32), *reversed(self._parts)])
        parts = [self._states.astype("<u8"), words.astype("<u4")]
        return np.concatenate([part.view(np.uint8) for part in parts])


class Decoder:
    """Gives rows back, from the first to the last.

    Args:
        stream: uint8, of `Encoder.stream`.
        lanes: number of states that take turns.

    Raises:
        CodingError: the stream does not begin like one.
    """

    def __init__(self, stream: NDArray[np.uint8], lanes: int) -> None:
        start = 8 * lanes
        if len(stream) < start or len(stream) % 4:
            raise CodingError(
                f"the stream of masks has {len(stream)} bytes: {start} and whole words are needed"
            )
        self._states = stream[:start].copy().view("<u8").astype(np.uint64)
        self._words = stream[start:].copy().view("<u4").astype(np.uint32)
        self._next = 0
        impossible = (self._states < LOWEST_STATE) | (self._states >= np.uint64(1 << 63))
        if impossible.any():
            raise CodingError("the stream of masks begins with an impossible state")

    def take(self, row: Bits, probabilities: NDArray[np.uint32]) -> None:
        """Fill `row` with the next bits; arguments as of `Encoder.put`.

        Raises:
            CodingError: the stream ends too early.
        """
        core = native.library()
        if core is None:
            self._next = _take_by_numpy(self._states, row, probabilities, self._words, self._next)
        else:
            self._next = self._take_by_core(core, row, probabilities)
        if self._next < 0:
            raise CodingError("the stream of masks ends too early")

    def _take_by_core(self, core: ctypes.CDLL, row: Bits, probabilities: NDArray[np.uint32]) -> int:
        arrays = (self._states, row, probabilities, self._words)
        sizes = (
            len(self._states),
            len(row),
            len(probabilities) > 1,
            self._next,
            len(self._words),
        )
        core.biprop_decode.restype = ctypes.c_int64
        return int(core.biprop_decode(*_pointers(*arrays), *map(ctypes.c_int64, sizes)))

    def finish(self) -> None:
        """Check that the stream ends here.

        Raises:
            CodingError: it does not.
        """
        if self._next != len(self._words) or (self._states != LOWEST_STATE).any():
            raise CodingError("the stream of masks does not end where the masks do")


def _pointers(*arrays: NDArray[Any]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


_S16, _S32, _S47 = np.uint64(16), np.uint64(32), np.uint64(47)
_SCALE = np.uint64(65536)


def _steps(
    row: Bits, probabilities: NDArray[np.uint32], lanes: int
) -> Iterator[tuple[Bits, NDArray[np.uint64]]]:
    """The row in parts, of which each lane gets one bit, with the probabilities of these bits."""
    wide = probabilities.astype(np.uint64)
    for start in range(0, len(row), lanes):
        yield row[start : start + lanes], wide if len(wide) == 1 else wide[start : start + lanes]


def _put_by_numpy(
    states: NDArray[np.uint64], row: Bits, probabilities: NDArray[np.uint32]
) -> Iterator[NDArray[np.uint32]]:
    """Updates `states`; gives the words, the last first. Duda (arXiv 1311.2540), section 3."""
    steps = list(_steps(row, probabilities, len(states)))
    for bits, ones in reversed(steps):
        state = states[: len(bits)]
        frequency = np.where(bits, ones, _SCALE - ones)
        full = state >= frequency << _S47
        yield state[full].astype(np.uint32)  # the low half
        state[full] >>= _S32
        quotient = state // frequency
        start = np.where(bits, np.uint64(0), ones)
        state[:] = (quotient << _S16) + (state - quotient * frequency) + start


def _take_by_numpy(
    states: NDArray[np.uint64],
    row: Bits,
    probabilities: NDArray[np.uint32],
    words: NDArray[np.uint32],
    place: int,
) -> int:
    """Fills `row`; returns the place of the next word, or -1 where there are too few."""
    for bits, ones in _steps(row, probabilities, len(states)):
        state = states[: len(bits)]
        slot = state & np.uint64(65535)
        is_one = slot < ones
        bits[:] = is_one
        frequency = np.where(is_one, ones, _SCALE - ones)
        start = np.where(is_one, np.uint64(0), ones)
        state[:] = frequency * (state >> _S16) + slot - start
        empty = np.flatnonzero(state < LOWEST_STATE)
        if place + len(empty) > len(words):
            return -1
        state[empty] = state[empty] << _S32 | words[place : place + len(empty)]
        place += len(empty)
    return place
