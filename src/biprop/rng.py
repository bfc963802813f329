"""Random bits that never change: Philox4x32-10 in numpy.

A ticket stores a seed instead of the signs of its random weights, so the generator is part of the
ticket format. Library generators are no base for that: PyTorch promises no equal random numbers
across releases, devices or tensor sizes. Philox4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) is a pure function of a 128-bit counter and a 64-bit key, needs only
32-bit multiplications and xors, and has published known answers.

How the counter is used (version 1 of the generator; any change needs a new version)::

    key     = seed, 64 bits                       word 0 = low half
    counter = (block low, block high, layer, stream)

Every purpose has its own `Stream`, every layer its own counter word: no draw depends on any other
layer or purpose.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

GENERATOR_VERSION = 1

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)


class Stream(IntEnum):
    """What random numbers are for.

    The values are part of the generator's version: append, never renumber.
    """

    SIGNS = 0  # of the random weights; the only stream that a ticket depends on
    MAGNITUDES = 1  # seeds the torch generator of a layer's |weights|
    SCORES = 2  # seeds the torch generator of a layer's first scores
    DENSE = 3  # seeds torch before a model is built: biases, exempt layers
    SPLIT = 4  # which training images are held out for validation
    SHUFFLE = 5  # order of the images in an epoch
    AUGMENT = 6  # crops, flips, ...
    CUT = 7  # crops of large images, drawn by the processes that read them
    DROPOUT = 8  # seeds torch before a training step: dropout of a network of the user's own


def philox4x32(counters: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 of many counters under one key.

    Args:
        counters: [n, 4] uint32.
        key: two 32-bit words.

    Returns:
        [n, 4] uint32.
    """
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        product_0, product_1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0 = (product_1 >> _SHIFT_32) ^ c1 ^ np.uint64(k0)
        c1 = product_1 & _LOW_32
        c2 = (product_0 >> _SHIFT_32) ^ c3 ^ np.uint64(k1)
        c3 = product_0 & _LOW_32
        k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _key(seed: int) -> tuple[int, int]:
    """(low, high) 32 bits of a seed."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed = {seed}: must be in 0 .. 2**64 - 1")
    return seed & 0xFFFFFFFF, seed >> 32


def words(seed: int, layer: int, count: int, stream: Stream = Stream.SIGNS) -> NDArray[np.uint32]:
    """The first `count` 32-bit words of one stream of one layer.

    Args:
        seed: 0 .. 2**64 - 1.
        layer: its number, 32 bits.
        count: number of words.
        stream: the purpose of the numbers.

    Returns:
        [count] uint32.

    Raises:
        ValueError: the seed is not in 0 .. 2**64 - 1.
    """
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    counters = np.empty((len(blocks), 4), dtype=np.uint32)
    counters[:, 0] = blocks & _LOW_32
    counters[:, 1] = blocks >> _SHIFT_32
    counters[:, 2] = layer
    counters[:, 3] = stream
    return philox4x32(counters, _key(seed)).reshape(-1)[:count]


def sign_bits(seed: int, layer: int, count: int) -> NDArray[np.uint8]:
    """Signs of the `count` weights of a layer, in C order.

    Bit i is bit (i mod 32), counted from the lowest, of word i // 32: the words are the packed sign
    plane.

    Returns:
        [count] uint8: 1 for +1 and 0 for -1.
    """
    plane = words(seed, layer, (count + 31) // 32).astype("<u4").view(np.uint8)
    return np.unpackbits(plane, count=count, bitorder="little")


def derive(seed: int, stream: Stream, a: int = 0, b: int = 0) -> int:
    """A 64-bit seed for another generator, a different one for each (stream, a, b).

    Args:
        seed: 0 .. 2**64 - 1.
        stream: the purpose of the numbers.
        a, b: 32 bits each (layer, epoch, step, ...).
    """
    counter = np.array([[a, b, 0, stream]], dtype=np.uint32)
    low, high, *_ = philox4x32(counter, _key(seed))[0]
    return int(low) | int(high) << 32
