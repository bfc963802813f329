"""The range coder (rANS) below the mask codec: states, lanes and their words."""

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
    """Takes rows from the last to the first: what is put last is decoded first."""

    def __init__(self, lanes: int) -> None:
        self._states = np.full(lanes, LOWEST_STATE, dtype=np.uint64)
        self._parts: list[NDArray[np.uint32]] = []

    def put(self, row: Bits, chances: NDArray[np.uint32]) -> None:
        core = native.library()
        if core is None:
            self._parts += list(_put_by_numpy(self._states, row, chances))
            return
        words = np.empty(len(row) + 1, dtype=np.uint32)  # every bit gives at most one word
        core.biprop_encode.restype = ctypes.c_int64
        count = core.biprop_encode(
            *_pointers(self._states, row, chances, words),
            *map(ctypes.c_int64, (len(self._states), len(row), len(chances) > 1)),
        )
        self._parts.append(words[len(words) - count :].copy())

    def stream(self) -> NDArray[np.uint8]:
        words = np.concatenate([np.empty(0, dtype=np.uint32), *reversed(self._parts)])
        return np.concatenate(
            [self._states.astype("<u8").view(np.uint8), words.astype("<u4").view(np.uint8)]
        )


class Decoder:
    def __init__(self, stream: NDArray[np.uint8], lanes: int) -> None:
        if len(stream) < 8 * lanes or len(stream) % 4:
            raise CodingError(
                f"the stream of masks has {len(stream)} bytes: {8 * lanes} and whole words are"
                " needed"
            )
        self._states = stream[: 8 * lanes].copy().view("<u8").astype(np.uint64)
        self._words = stream[8 * lanes :].copy().view("<u4").astype(np.uint32)
        self._next = 0
        if ((self._states < LOWEST_STATE) | (self._states >= np.uint64(1 << 63))).any():
            raise CodingError("the stream of masks begins with an impossible state")

    def take(self, row: Bits, chances: NDArray[np.uint32]) -> None:
        core = native.library()
        if core is None:
            self._next = _take_by_numpy(self._states, row, chances, self._words, self._next)
        else:
            core.biprop_decode.restype = ctypes.c_int64
            self._next = core.biprop_decode(
                *_pointers(self._states, row, chances, self._words),
                *map(
                    ctypes.c_int64,
                    (len(self._states), len(row), len(chances) > 1, self._next, len(self._words)),
                ),
            )
        if self._next < 0:
            raise CodingError("the stream of masks ends too early")

    def finish(self) -> None:
        if self._next != len(self._words) or (self._states != LOWEST_STATE).any():
            raise CodingError("the stream of masks does not end where the masks do")


def _pointers(*arrays: NDArray[Any]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


_S16, _S32, _S47 = np.uint64(16), np.uint64(32), np.uint64(47)


def _steps(
    row: Bits, chances: NDArray[np.uint32], lanes: int
) -> Iterator[tuple[Bits, NDArray[np.uint64]]]:
    """The row in parts, of which each lane gets one bit, and the chances of theirs."""
    wide = chances.astype(np.uint64)
    for start in range(0, len(row), lanes):
        yield row[start : start + lanes], wide if len(wide) == 1 else wide[start : start + lanes]


def _put_by_numpy(
    states: NDArray[np.uint64], row: Bits, chances: NDArray[np.uint32]
) -> Iterator[NDArray[np.uint32]]:
    for bits, kept in reversed(list(_steps(row, chances, len(states)))):
        state = states[: len(bits)]
        share = np.where(bits, kept, np.uint64(65536) - kept)
        full = state >= share << _S47
        yield state[full].astype(np.uint32)  # the low half
        state[full] >>= _S32
        quotient = state // share
        state[:] = (
            (quotient << _S16) + (state - quotient * share) + np.where(bits, np.uint64(0), kept)
        )


def _take_by_numpy(
    states: NDArray[np.uint64],
    row: Bits,
    chances: NDArray[np.uint32],
    words: NDArray[np.uint32],
    place: int,
) -> int:
    """Fills `row`; returns the place of the next word, or -1 where there are too few."""
    for bits, kept in _steps(row, chances, len(states)):
        state = states[: len(bits)]
        slot = state & np.uint64(65535)
        ones = slot < kept
        bits[:] = ones
        state[:] = (
            np.where(ones, kept, np.uint64(65536) - kept) * (state >> _S16)
            + slot
            - np.where(ones, np.uint64(0), kept)
        )
        empty = np.flatnonzero(state < LOWEST_STATE)
        if place + len(empty) > len(words):
            return -1
        state[empty] = state[empty] << _S32 | words[place : place + len(empty)]
        place += len(empty)
    return place
