"""A strict reader of the pages that biprop report writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "input", "img", "br", "hr", "link"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self, tag: str, class_: str | None = None) -> list[Element]:
        """All elements below this one with a tag, and a class if one is given."""
        below = [part for child in self.children for part in (child, *child.all("*"))]
        if class_ is not None:
            below = [part for part in below if class_ in part.attributes.get("class", "").split()]
        return [part for part in below if tag in ("*", part.tag)]

    def only(self, tag: str, class_: str | None = None) -> Element:
        (element,) = self.all(tag, class_)
        return element

    @property
    def text(self) -> str:
        """Its text, and that of all elements below it."""
        return "".join(self.texts) + "".join(child.text for child in self.children)

    def rows(self) -> list[list[str]]:
        """The cells of a table."""
        return [[cell.text for cell in row.children] for row in self.all("tr")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> comes twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].texts.append(data)


def parse(text: str) -> Element:
    """The tree of a page; an element that is not closed, or closed twice, is an error."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].tag}> is not closed"
    return reader.root
