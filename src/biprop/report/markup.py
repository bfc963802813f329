"""HTML as trees of elements: texts are escaped when the page is written, whatever they contain.

The trees are those of the standard library's ElementTree. A text is never parsed as markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree

from ..errors import abbreviated
from ..screen import printable

Node = ElementTree.Element

MOST_ROWS = 300
"""Rows of a table; the page says how many more there are."""
LONGEST_LABEL = 40
"""Characters of a name in a chart or a legend; its title has all of them."""


def element(tag: str, *children: Node | str | None, **attributes: str | float | None) -> Node:
    """An element.

    Args:
        tag: its name.
        children: elements and texts, in order; None is left out. Control characters and marks that
            change the direction of a text are escaped (see `screen.printable`).
        attributes: None is left out; `class_` becomes class, and `stroke_width` stroke-width.
    """
    node = Node(tag)
    for name, value in attributes.items():
        if value is not None:
            node.set(name.strip("_").replace("_", "-"), printable(str(value)))
    for child in children:
        _append(node, child)
    return node


def _append(node: Node, child: Node | str | None) -> None:
    if isinstance(child, Node):
        node.append(child)
    elif child:
        _append_text(node, printable(child))


def _append_text(node: Node, text: str) -> None:
    """Put a text behind what an element holds so far."""
    if len(node):
        node[-1].tail = (node[-1].tail or "") + text
    else:
        node.text = (node.text or "") + text


def raw_style(css: str) -> Node:
    """A <style> element with our own style sheet, as it is."""
    node = Node("style")
    node.text = css
    return node


def raw_script(content: str, **attributes: str) -> Node:
    """A <script> element with our own script, or with data where it has such a `type`, as it is."""
    node = element("script", **attributes)
    node.text = content
    return node


def document(root: Node) -> str:
    """The text of an HTML page."""
    return "<!DOCTYPE html>\n" + "".join(_written(root))


def _written(node: Node) -> Iterator[str]:
    """An element as HTML. ElementTree's own writer leaves < in attributes as it is."""
    attributes = "".join(f' {name}="{html.escape(value)}"' for name, value in node.items())
    yield f"<{node.tag}{attributes}>"
    if node.tag in _WITHOUT_CONTENT:
        return
    text = node.text or ""
    yield text if node.tag in _RAW else html.escape(text)
    for child in node:
        yield from _written(child)
        yield html.escape(child.tail or "")
    yield f"</{node.tag}>"


_RAW = ("style", "script")
_WITHOUT_CONTENT = ("meta", "input", "img")


def short(name: str) -> str:
    """A name for a label: printable, and cut off where it is long."""
    return abbreviated(printable(name), LONGEST_LABEL)


def figure(title: str, *content: Node | str | None) -> Node:
    """A chart, a picture or a heat map under its title."""
    return element("figure", element("figcaption", title), *content)


def details(summary: str, *children: Node | None) -> Node:
    """A part of the page that opens on a click or the Enter key."""
    return element("details", element("summary", summary), *children)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> Node:
    """A table whose first column names the rows; wide ones scroll, by keyboard too.

    Args:
        heads: names of the columns.
        rows: of texts, as many as `heads`. At most `MOST_ROWS` are shown.
        label: what the table holds, for screen readers.
    """
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = [_row(row) for row in rows[:MOST_ROWS]]
    hidden = len(rows) - MOST_ROWS
    more = element("p", f"... and {hidden:,} more", class_="note") if hidden > 0 else None
    return scrollable(
        element("table", element("thead", head), element("tbody", *body)), label, more
    )


def _row(cells: Sequence[str]) -> Node:
    name, *values = cells
    return element("tr", element("th", name, scope="row"), *(element("td", v) for v in values))


def scrollable(content: Node, label: str, after: Node | None = None) -> Node:
    """Content that may be wider than the screen, in a region that the keyboard can scroll."""
    return element(
        "div", content, after, class_="scroll", role="region", tabindex="0", aria_label=label
    )


def pairs(rows: Iterable[tuple[str, str]], label: str) -> Node:
    """A table of names and values, without a head."""
    body = element("tbody", *(_row(row) for row in rows))
    return scrollable(element("table", body, class_="pairs"), label)


def heat_table(
    heads: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Node]]],
    label: str,
) -> Node:
    """A table of coloured cells, which is a chart and its own alternative.

    Args:
        heads: of all columns; the first is that of the row names.
        rows: (name, cells made by `heat_cell`).
        label: for screen readers.
    """
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = [element("tr", element("th", name, scope="row"), *cells) for name, cells in rows]
    content = element("table", element("thead", head), element("tbody", *body), class_="heat")
    return scrollable(content, label)


def heat_cell(text: str, share: float | None, title: str, hue: str = "blue") -> Node:
    """A cell of a heat table.

    Args:
        text: in the cell.
        share: 0 (pale) .. 1 (dark); None: no colour.
        title: shown when the pointer rests on the cell.
        hue: "blue", or "orange" for mistakes.
    """
    style = None if share is None else _colours(min(1.0, max(0.0, share)), hue)
    return element("td", text, title=title, style=style)


_RAMPS = {
    "blue": ((239, 246, 255), (8, 61, 119)),
    "orange": ((255, 243, 232), (150, 52, 0)),
}
"""Pale and dark end of each ramp; lightness falls evenly, so that it reads without hue as well."""


def _colours(share: float, hue: str) -> str:
    """Background, and black or white text, whichever has the higher contrast."""
    pale, dark = _RAMPS[hue]
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(pale, dark, strict=True))
    text = "#000" if luminance((red, green, blue)) > 0.179 else "#fff"
    return f"background:#{red:02x}{green:02x}{blue:02x};color:{text}"


def luminance(colour: Iterable[int]) -> float:
    """Relative luminance, 0 .. 1, of an sRGB colour (WCAG 2.2)."""
    linear = [_linear(channel / 255) for channel in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _linear(channel: float) -> float:
    if channel <= 0.04045:
        return channel / 12.92
    return float(((channel + 0.055) / 1.055) ** 2.4)
