"""What `biprop inspect` shows of a deck."""

from __future__ import annotations

from ..ticket import Ticket
from ..ticket.report import Report, Row, network_name, right_and_images
from .deck import Deck


def deck_report(deck: Deck, size: int) -> Report:
    """The report on a deck whose file has `size` bytes: a row per card, and the gate."""
    heads = ("card", "network", "kept", "weights", "kept %", "bytes", "test accuracy, as recorded")
    rows = [_row(name, card) for name, card in zip(deck.names, deck.cards, strict=True)]
    kept = sum(card.kept for card in deck.cards)
    totals = [("file", f"{size:,} bytes"), ("weights kept", f"{kept:,}"), *_gate(deck)]
    return Report(heads, rows, totals)


def _row(name: str, card: Ticket) -> Row:
    return (
        name,
        network_name(card),
        f"{card.kept:,}",
        f"{card.weights:,}",
        f"{100 * card.kept / max(1, card.weights):.2f}",
        f"{len(card.to_bytes()):,}",
        _accuracy(card),
    )


def _accuracy(card: Ticket) -> str:
    counts = right_and_images(card.found, "test")
    if counts is None:
        return "not recorded"
    right, images = counts
    return f"{100 * right / max(1, images):.2f} %"


def _gate(deck: Deck) -> list[tuple[str, str]]:
    """The weights of the cards for each kind of images."""
    if deck.gate is None:
        return [("gate", "none: the mean of the cards answers")]
    rows = []
    for kind, weights in zip(deck.gate.kinds, deck.gate.worth, strict=True):
        cards = zip(deck.names, weights, strict=True)
        percentages = [f"{name} {100 * weight:.0f} %" for name, weight in cards]
        rows.append((f"images with {kind}", ", ".join(percentages)))
    return rows
