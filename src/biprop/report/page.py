"""The report: one HTML page that loads nothing, and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources

from .. import __version__
from . import comparison, contents, heat_maps, mistakes, recipe, training
from .charts import SLOTS, key
from .entries import Entry, cards
from .markup import Node, document, element, raw_style, short, table
from .measurements import Measured
from .predictions import Predictions

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'"
"""What a browser may load for the page: its own style and its own images. `base-uri` needs no
entry, as the page has no other address in it.
"""


def detailed(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that are shown in all sections: at most as many as a chart can tell apart, evenly
    spaced. Decks come last.
    """
    count = min(SLOTS, len(entries))
    chosen = [entries[i * len(entries) // count] for i in range(count)]
    return sorted(chosen, key=lambda entry: entry.deck is not None)


def page(
    title: str,
    entries: Sequence[Entry],
    shown: Sequence[Entry],
    predictions: Mapping[str, Predictions],
    measured: Sequence[Measured] = (),
) -> str:
    """The text of the page.

    Args:
        title: of the page.
        entries: all; they are in the table at the top, and in the comparison.
        shown: those that are in all other sections: see `detailed`.
        predictions: of some of them, by name.
        measured: robustness measurements that the user named, besides those beside the entries.
    """
    sections = _sections(entries, shown, predictions, measured)
    links = [element("li", element("a", heading, href=f"#{name}")) for name, heading, _ in sections]
    body = element(
        "body",
        element("a", "Skip to the content", href="#content", class_="skip"),
        _header(title),
        element("nav", element("ul", *links), aria_label="sections"),
        _legend(shown),
        element("main", *(_section(*section) for section in sections), id="content"),
    )
    return document(element("html", _head(title), body, lang="en"))


def _head(title: str) -> Node:
    style = (resources.files("biprop.report") / "style.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        raw_style(style),
    )


def _header(title: str) -> Node:
    now = datetime.now().isoformat(sep=" ", timespec="minutes")
    note = element("p", f"biprop {__version__}, {now}", class_="note")
    return element("header", element("h1", title), note)


def _legend(shown: Sequence[Entry]) -> Node | None:
    """A check box for each entry, which shows or hides it in the charts; without a script."""
    if len(shown) < 2:
        return None
    labels = []
    for slot, entry in enumerate(shown):
        box = element("input", type="checkbox", id=f"show-{slot}", checked="checked")
        text = f" {short(entry.name)}"
        labels.append(element("label", box, key(slot), text, class_=f"c{slot}", title=entry.name))
    return element("fieldset", element("legend", "Shown in the charts"), *labels)


def _section(name: str, heading: str, content: Sequence[Node]) -> Node:
    title = element("h2", heading, id=f"{name}-title")
    return element("section", title, *content, id=name, aria_labelledby=f"{name}-title")


def _sections(
    entries: Sequence[Entry],
    shown: Sequence[Entry],
    predictions: Mapping[str, Predictions],
    measured: Sequence[Measured],
) -> list[tuple[str, str, list[Node]]]:
    """(id, heading, content) of the sections that have any content."""
    numbered = _with_cards(shown)
    tickets = [entry for _, entry in numbered]
    sections = [
        ("summary", "Summary", _summary(entries, shown)),
        ("training", "Training", training.section(shown)),
        ("comparison", "Accuracy, bytes and fraction kept", comparison.section(entries)),
        ("decks", "Decks", [n for e in shown if e.deck for n in contents.deck_section(e)]),
        ("layers", "Layers", contents.layers_section(numbered)),
        ("bytes", "Bytes", contents.bytes_section(tickets)),
        (
            "filters",
            "First-layer filters",
            contents.filters_section(tickets),
        ),
        ("robustness", "Corruptions", heat_maps.section(_scores(shown, measured))),
        ("mistakes", "Predictions", mistakes.section(predictions)),
        ("recipe", "How to repeat it", recipe.section(shown)),
        ("missing", "What is left out", _missing(entries, shown)),
    ]
    return [section for section in sections if section[2]]


def _with_cards(shown: Sequence[Entry]) -> list[tuple[int, Entry]]:
    """The entries, with its cards in place of a deck; each with the number of the check box that
    hides it.
    """
    parts = []
    for number, entry in enumerate(shown):
        parts += [(number, part) for part in (cards(entry) if entry.deck else [entry])]
    return parts[:SLOTS]


def _summary(entries: Sequence[Entry], shown: Sequence[Entry]) -> list[Node]:
    heads = ("name", "kind", "network", "kept, %", "bytes", "test accuracy, %", "images", "epoch")
    content = [table(heads, [_row(entry) for entry in entries], "summary")]
    if len(shown) < len(entries):
        text = (
            f"{len(shown)} of the {len(entries)} are drawn below, evenly spaced over this table;"
            " the comparison has all. To see others, name their folders."
        )
        content.append(element("p", text, class_="note"))
    return content


def _row(entry: Entry) -> list[str]:
    right, images = entry.counts.get("test", (0, 0))
    accuracy, density = entry.accuracy, entry.density
    return [
        entry.name,
        entry.kind,
        entry.network,
        "" if density is None else f"{density:.2f}",
        "" if entry.size is None else f"{entry.size:,}",
        "" if accuracy is None else f"{accuracy:.2f}",
        f"{right:,} of {images:,}" if images else "",
        str(entry.best_epoch or ""),
    ]


def _scores(shown: Sequence[Entry], measured: Sequence[Measured]) -> list[tuple[str, Measured]]:
    own = [(entry.name, entry.scores) for entry in shown if entry.scores]
    return [*own, *((scores.path.name, scores) for scores in measured)]


def _missing(entries: Sequence[Entry], shown: Sequence[Entry]) -> list[Node]:
    """What would add to the report, one line for each entry and reason."""
    lines = [f"{entry.name}: {text}" for entry in entries for text in entry.missing]
    lines += [
        f"{entry.name}: no corruptions: biprop robustness {entry.path} adds them"
        for entry in shown
        if not entry.scores
    ]
    if not lines:
        return []
    return [element("ul", *(element("li", line) for line in lines[:100]))]
