"""What exported networks are compared on, and how."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.reference import Reference
from ..errors import UserError
from ..ticket import Ticket

TOLERANCE = 1e-5
"""Greatest difference of two logits, over the spread of the logits."""
_SAMPLES = 3


def input_kind(ticket: Ticket, on_pixels: bool) -> str:
    """What an exported network takes, in a few words."""
    if ticket.graph is not None and ticket.graph.indices:
        return "whole numbers"
    if on_pixels:
        return "pixels 0 .. 1" if ticket.takes_pixels else "numbers as they are"
    return "normalised by mean and std" if ticket.mean else "as the network was trained"


def random_samples(ticket: Ticket, reference: Reference, on_pixels: bool) -> NDArray[Any]:
    """Three samples as an exported network takes them.

    Args:
        ticket: of the network.
        reference: of the ticket.
        on_pixels: the network normalises its input.

    Returns:
        [3, ...]: float32, in [0, 1] with `on_pixels`, else standard normal; int64 of 0 .. the last
        row of the smallest embedding, where the network embeds whole numbers.
    """
    rng = np.random.default_rng(0)
    shape = (_SAMPLES, *reference.graph.input[1:])
    if reference.graph.indices:
        operations = reference.graph.operations
        tables = [o.tensor_of["weight"] for o in operations if o.op == "embedding"]
        return rng.integers(0, min(ticket.shapes[name][0] for name in tables), shape)
    if on_pixels:
        return rng.random(shape, dtype=np.float32)
    return rng.standard_normal(shape, dtype=np.float32)


def relative(logits: NDArray[Any], expected: NDArray[Any]) -> float:
    """The greatest difference of two logits, over the spread of those expected: from the smallest
    to the greatest.

    Raises:
        UserError: the shapes differ.
    """
    if logits.shape != expected.shape:
        raise UserError(f"the export gives {logits.shape}, and the ticket {expected.shape}")
    spread = float(expected.max() - expected.min()) or 1.0
    return float(np.abs(logits - expected).max()) / spread


def check_difference(difference: float) -> None:
    """Refuse an export that computes something else than the ticket.

    Raises:
        UserError: `difference`, of `relative`, is above the tolerance or no number.
    """
    if not difference <= TOLERANCE:
        raise UserError(
            f"not written: its logits differ from the ticket's by {difference:.1e} of their spread;"
            f" at most {TOLERANCE:.0e} is rounding"
        )
