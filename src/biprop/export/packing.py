"""Masks and signs of a layer as bytes: a weight is -1, 0 or +1 times the gain, and five of them are
a number below 3^5 = 243.

That is 1.6 bits per weight at every density. Two planes of bits take 2, and a mask with the signs
of the kept weights alone needs a running sum over the mask to find them again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PER_BYTE = 5
"""Weights in a byte."""
_CODES = 3**PER_BYTE
_PLACES = 3 ** np.arange(PER_BYTE)


def pack(signs: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of signs.

    Args:
        signs: of any shape and type: -1, 0 (not kept) or +1.

    Returns:
        [ceil(n / 5)]: sign i, in C order, plus 1 is digit i mod 5 in base 3, from the lowest, of
        byte i // 5. Signs of 0 fill the last byte.
    """
    digits = signs.ravel().astype(np.int8) + np.int8(1)
    missing = -len(digits) % PER_BYTE
    whole = np.concatenate([digits, np.ones(missing, np.int8)]).reshape(-1, PER_BYTE)
    return np.asarray(whole @ _PLACES.astype(np.int16), np.uint8)


def table() -> NDArray[np.int8]:
    """[243, 5]: the signs of each byte."""
    codes = np.arange(_CODES)[:, None]
    return (codes // _PLACES % 3 - 1).astype(np.int8)
