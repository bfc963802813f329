"""What `biprop inspect` shows of a deck."""

from __future__ import annotations

from ..ticket.report import Report, Row, right_and_images
from .deck import Deck


def deck_report(deck: Deck, size: int) -> Report:
    """Look at a deck whose file has `size` bytes: a row per card, and the gate."""
    heads = ("card", "network", "kept", "weights", "kept %", "bytes", "test accuracy, as recorded")
    rows: list[Row] = []
    for name, card in zip(deck.names, deck.cards, strict=True):
        assert card.network
        counts = right_and_images(card.found, "test")
        accuracy = f"{100 * counts[0] / max(1, counts[1]):.2f} %" if counts else "not told"
        share = f"{100 * card.kept / max(1, card.weights):.2f}"
        network, numbers = (
            str(card.network["name"]),
            (f"{card.kept:,}", f"{card.weights:,}", share, f"{len(card.to_bytes()):,}"),
        )
        rows.append((name, network, *numbers, accuracy))
    totals = [
        ("file", f"{size:,} bytes"),
        ("weights kept", f"{sum(card.kept for card in deck.cards):,}"),
    ]
    if deck.gate is None:
        return Report(heads, rows, [*totals, ("gate", "none: the mean of the cards answers")])
    for kind, worth in zip(deck.gate.kinds, deck.gate.worth, strict=True):
        shares = ", ".join(
            f"{name} {100 * share:.0f} %" for name, share in zip(deck.names, worth, strict=True)
        )
        totals.append((f"images with {kind}", shares))
    return Report(heads, rows, totals)
