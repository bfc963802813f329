"""What is in a ticket or a deck, for people: a row per layer or card, and where the bytes go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..config.own import DEFAULT_NETWORKS
from . import entropy_coding
from .layer import Layer
from .ticket import Ticket

Row = tuple[str, ...]
OWN_NETWORK = "of the user's own"
"""What stands for the name of a network that biprop does not have."""


@dataclass
class Report:
    """A table and a list of named values.

    Attributes:
        heads: of the table's columns.
        layers: the table's rows: a layer of a ticket each, or a card of a deck.
        totals: (name, value) of the whole.
    """

    heads: Row
    layers: list[Row]
    totals: list[tuple[str, str]]


def ticket_report(ticket: Ticket, size: int) -> Report:
    """The report on a ticket whose file has `size` bytes: a row per layer."""
    heads = ("layer", "shape", "kept", "kept %", "bits/weight", "H(k)", "gain", "signs")
    rows = [_row(ticket, layer) for layer in ticket.layers]
    totals = [*_contents(ticket), *_sizes(ticket, size), *_accuracies(ticket.found)]
    return Report(heads, rows, totals)


def _row(ticket: Ticket, layer: Layer) -> Row:
    weights = max(1, layer.weights)
    ideal = entropy_coding.entropy(layer.kept, layer.weights)
    return (
        layer.name,
        " x ".join(map(str, layer.shape)),
        f"{layer.kept:,}",
        f"{100 * layer.density:.2f}",
        f"{ticket.bits(layer) / weights:.4f}",
        f"{ideal / weights:.4f}",
        f"{layer.gain:.6g}",
        layer.signs,
    )


def _contents(ticket: Ticket) -> list[tuple[str, str]]:
    density = 100 * ticket.kept / max(1, ticket.weights)
    seed = "none (no signs follow from one)" if ticket.seed is None else str(ticket.seed)
    return [
        ("network", _network(ticket)),
        *_operations(ticket),
        ("classes", _abridged(ticket.classes)),
        ("seed", seed),
        ("weights kept", f"{ticket.kept:,} of {ticket.weights:,}  ({density:.2f} %)"),
    ]


def network_name(ticket: Ticket) -> str:
    """The name of a ticket's network: of the registry, or of `DEFAULT_NETWORKS` as its search was
    recorded; `OWN_NETWORK` if it is another.
    """
    if ticket.network:
        return str(ticket.network["name"])
    recorded = ticket.found.get("options")
    arch = recorded.get("arch") if isinstance(recorded, dict) else None
    return arch if arch in DEFAULT_NETWORKS else OWN_NETWORK


def _network(ticket: Ticket) -> str:
    name = network_name(ticket)
    shape = ticket.input_shape
    if not shape:
        return name
    what = "images" if len(shape) == 3 else "inputs"
    return f"{name}, {' x '.join(map(str, shape))} {what}"


def _operations(ticket: Ticket) -> list[tuple[str, str]]:
    """How often each operation of a graph comes."""
    if not ticket.graph:
        return []
    counts = Counter(operation.op for operation in ticket.graph.operations)
    each = ", ".join(f"{count} {op}" for op, count in counts.most_common())
    return [("operations", f"{len(ticket.graph.operations)}: {each}")]


def byte_parts(ticket: Ticket, size: int) -> dict[str, int]:
    """Where the `size` bytes of a ticket's file go, by part: "masks", "signs", "batch norm and
    dense" and "the rest", which add up to `size`.
    """
    signs = sum(len(layer.stored) for layer in ticket.layers if layer.stored is not None)
    stored = _numbers(ticket) - ticket.left_out
    parts = {
        "masks": len(ticket.coded_masks()[0]),
        "signs": signs,
        "batch norm and dense": stored * (2 if ticket.compact else 4),
    }
    return {**parts, "the rest": size - sum(parts.values())}


def _numbers(ticket: Ticket) -> int:
    """How many numbers the state of a ticket has."""
    return sum(value.size for value in ticket.state.values())


def _sizes(ticket: Ticket, size: int) -> list[tuple[str, str]]:
    """Where the `size` bytes of the file go."""
    parts = byte_parts(ticket, size)
    masks, signs, state, rest = parts.values()
    numbers = _numbers(ticket)
    precision = "16" if ticket.compact else "32"
    texts = (
        _size_of_masks(ticket, masks),
        _size_of_signs(ticket, signs),
        f"{state:,} bytes: {numbers - ticket.left_out:,} numbers in {precision} bits",
        f"{rest:,} bytes",
    )
    rows = [(f"  {part}", text) for part, text in zip(parts, texts, strict=True)]
    return [("file", _size_of_file(ticket, size, numbers)), *rows]


def _size_of_file(ticket: Ticket, size: int, numbers: int) -> str:
    weights = max(1, ticket.weights)
    float32 = 4 * (ticket.weights + numbers)
    bits = f"{8 * size / weights:.4f} bits per weight"
    return f"{size:,} bytes: {bits}, {float32 / size:.1f} times smaller than in float32"


def _size_of_masks(ticket: Ticket, size: int) -> str:
    weights = max(1, ticket.weights)
    ideal = 0.0
    for layer in ticket.layers:
        ideal += entropy_coding.entropy(layer.kept, layer.weights) / 8
    share = f"{size / max(1, ideal):.4f} of the ideal {ideal:,.0f}"
    return f"{size:,} bytes: {8 * size / weights:.4f} bits per weight, {share}"


def _size_of_signs(ticket: Ticket, size: int) -> str:
    follow_from_seed = not size and ticket.seed is not None
    return f"{size:,} bytes" + (": they follow from the seed" if follow_from_seed else "")


def _abridged(names: list[str]) -> str:
    if not names:
        return "not recorded"
    first = ", ".join(names[:10])
    return f"{len(names)}: {first}{', ...' if len(names) > 10 else ''}"


def right_and_images(found: dict[str, Any], split: str) -> tuple[int, int] | None:
    """The counts that a ticket records of its accuracy; its content is anybody's, so they are
    checked.

    Args:
        found: `Ticket.found`.
        split: "test" or "validation".

    Returns:
        (images classified correctly, images), or None where there are no possible counts.
    """
    counts = found.get(split)
    if not isinstance(counts, dict):
        return None
    right, images = counts.get("right"), counts.get("images")
    if type(right) is not int or type(images) is not int:
        return None
    return (right, images) if 0 <= right <= images < 2**62 else None


def _accuracies(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What the ticket records of how it was found."""
    rows = []
    for split in ("test", "validation"):
        if counts := right_and_images(found, split):
            right, images = counts
            accuracy = 100 * right / max(1, images)
            counted = f"{right:,} of {images:,} images"
            rows.append((f"{split} accuracy", f"{accuracy:.2f} %  ({counted}), as recorded"))
    return [*rows, ("found", _origin(found))]


def _origin(found: dict[str, Any]) -> str:
    names = ("config", "epoch", "teacher", "searched_by", "origin", "packed", "by")
    recorded = [name for name in names if isinstance(found.get(name), str | int)]
    texts = [_displayable(f"{name.replace('_', ' ')} {found[name]}") for name in recorded]
    return ", ".join(texts) or "not recorded"


def _displayable(text: str) -> str:
    return text if text.isprintable() and len(text) < 200 else ascii(text)[:200]
