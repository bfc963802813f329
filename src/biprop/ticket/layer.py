"""One masked layer of a ticket."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .entropy_coding import Model

Plane = NDArray[np.uint8]
Signs = Literal["seed", "positive", "stored"]


@dataclass(frozen=True)
class Layer:
    """One masked layer.

    Planes are packed bits in C order: weight i is bit i mod 8, from the lowest, of byte i // 8.

    Attributes:
        name: of the module.
        number: of the layer among the network's maskable ones, from 0: the layer word of the sign
            generator.
        shape: of the weight, as PyTorch has it: [outputs, inputs / groups, ...], in transposed
            convolutions the other way round.
        kept: ones in the mask.
        gain: the magnitude of what is kept, >= 0, exact in float32.
        mask: plane of the kept weights.
        signs: where the signs come from: the ticket's seed, all positive, or stored with the
            ticket.
        stored: with "stored", plane of the kept weights' signs alone, in C order (1 for +).
        model: how the mask is coded; None lets the encoder choose.
    """

    name: str
    number: int
    shape: tuple[int, ...]
    kept: int
    gain: float
    mask: Plane
    signs: Signs = "seed"
    stored: Plane | None = None
    model: Model | None = None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def key(self) -> str:
        """Of the weight in the network's state dict."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def density(self) -> float:
        """Fraction kept."""
        return self.kept / self.weights if self.weights else 0.0

    def kept_mask(self) -> NDArray[np.bool_]:
        """Bool array of `shape`."""
        bits = np.unpackbits(self.mask, count=self.weights, bitorder="little")
        return bits.view(np.bool_).reshape(self.shape)
