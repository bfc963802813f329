"""What is in a ticket or a deck, in words: a row per layer or card, and where the bytes go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import entropy_coding
from .ticket import Ticket

Row = tuple[str, ...]


@dataclass
class Report:
    """A table of layers (or cards) under `heads`, and pairs of name and value."""

    heads: Row
    layers: list[Row]
    totals: list[tuple[str, str]]


def ticket_report(ticket: Ticket, size: int) -> Report:
    """Look at a ticket whose file has `size` bytes."""
    heads = ("layer", "shape", "kept", "kept %", "bits/weight", "H(k)", "gain", "signs")
    rows: list[Row] = []
    ideal_bits = 0.0
    for layer in ticket.layers:
        bits, ideal = ticket.bits(layer), entropy_coding.entropy(layer.kept, layer.weights)
        ideal_bits += ideal
        n = max(1, layer.weights)
        rows.append(
            (
                layer.name, " x ".join(map(str, layer.shape)), f"{layer.kept:,}", f"{100 * layer.density:.2f}",
                f"{bits / n:.4f}", f"{ideal / n:.4f}", f"{layer.gain:.6g}", layer.signs,
            )
        )  # fmt: skip
    numbers = sum(value.size for value in ticket.state.values())
    state = numbers * (2 if ticket.compact else 4)
    signs = sum(len(layer.stored) for layer in ticket.layers if layer.stored is not None)
    masks, ideal_bytes = len(ticket.coded_masks()[0]), ideal_bits / 8
    float32 = 4 * (ticket.weights + numbers)
    n = max(1, ticket.weights)
    network = ticket.network or {"name": "of the user's own"}
    totals = [
        ("network", f"{network['name']}" + (f", {ticket.input_size[0]} x {ticket.input_size[1]} x {ticket.input_size[2]} images"
         if ticket.input_size else "")),
        ("classes", _some(ticket.classes)),
        ("seed", "none (no signs follow from one)" if ticket.seed is None else str(ticket.seed)),
        ("weights kept", f"{ticket.kept:,} of {ticket.weights:,}  ({100 * ticket.kept / n:.2f} %)"),
        ("file", f"{size:,} bytes: {8 * size / n:.4f} bits per weight, {float32 / size:.1f} times smaller than in float32"),
        ("  masks", f"{masks:,} bytes: {8 * masks / n:.4f} bits per weight, {masks / max(1, ideal_bytes):.4f} of the ideal "
         f"{ideal_bytes:,.0f}"),
        ("  signs", f"{signs:,} bytes" + ("" if signs else ": they follow from the seed" if ticket.seed is not None else "")),
        ("  batch norm and dense", f"{state:,} bytes: {numbers:,} numbers in {'16' if ticket.compact else '32'} bits"),
        ("  the rest", f"{size - masks - signs - state:,} bytes"),
        *_accuracies(ticket.found),
    ]  # fmt: skip
    return Report(heads, rows, totals)


def _some(names: list[str]) -> str:
    if not names:
        return "not told"
    return f"{len(names)}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


def right_and_images(found: dict[str, Any], name: str) -> tuple[int, int] | None:
    """How many images a ticket says that it got right, of how many.

    Its content is anybody's: nothing is taken for granted.
    """
    counts = found.get(name)
    right, images = (
        (counts.get("right"), counts.get("images")) if isinstance(counts, dict) else (None, None)
    )
    return (
        (right, images)
        if type(right) is int and type(images) is int and 0 <= right <= images < 2**62
        else None
    )


def _accuracies(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What the ticket says of how it was found."""
    rows = []
    for name in ("test", "validation"):
        if counts := right_and_images(found, name):
            right, images = counts
            rows.append(
                (
                    f"{name} accuracy",
                    (
                        f"{100 * right / max(1, images):.2f} %  ({right:,} of {images:,} images),"
                        " as recorded"
                    ),
                )
            )
    names = ("config", "epoch", "searched_by", "origin", "packed", "by")
    told = [
        f"{name.replace('_', ' ')} {found[name]}"
        for name in names
        if isinstance(found.get(name), str | int)
    ]
    told = [text if text.isprintable() and len(text) < 200 else ascii(text)[:200] for text in told]
    return [*rows, ("found", ", ".join(told) or "not told")]
