"""The page: one HTML file with the engine, the network, and all that runs them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from .. import __version__
from ..report.markup import Node, document, element, pairs, raw_script, raw_style
from ..screen import printable
from .packing import SplitProgram, packed

_SCRIPTS = ("engine.js", "images.js", "page.js")
_DRAWING_SIDE = 280
_HELP_OF_DRAWING = (
    "Drawing area. Arrow keys move the pen, the space bar lowers or lifts it, Delete clears."
)


@dataclass(frozen=True)
class Classifier:
    """A network for a page.

    Attributes:
        title: of the page.
        program: for the engine.
        channels: of its input: 1 (grey) or 3 (RGB).
        classes: a name for each output.
        crop_side: pixels of the shorter side of an image before the centre crop; 0: no crop, all
            of an image is scaled.
        drawing: the data set whose way of making images from drawings is used, "digits" or "MNIST";
            "" for others. Drawings are for networks of 1 channel.
        facts: names and values that the page shows.
    """

    title: str
    program: SplitProgram
    channels: int
    classes: Sequence[str]
    crop_side: int
    drawing: str
    facts: Sequence[tuple[str, str]]


def page(classifier: Classifier, modules: Mapping[str, bytes]) -> str:
    """The text of the page.

    Args:
        classifier: the network.
        modules: the engine's modules by kind (see `modules.modules`).
    """
    script = "\n".join(_file(name) for name in _SCRIPTS)
    data = [_data(f"engine-{kind}", packed(module)) for kind, module in modules.items()]
    body = element(
        "body",
        _header(classifier.title),
        element("p", id="problem", role="alert", hidden="hidden", class_="problem"),
        element("noscript", element("p", "This page needs JavaScript.")),
        _main(classifier),
        _data("ticket", _settings(classifier), "application/json"),
        _data("program", packed(classifier.program.rest)),
        _data("planes", packed(classifier.program.planes)),
        *data,
        raw_script(script),
    )
    return document(element("html", _head(classifier.title, script), body, lang="en"))


def _file(name: str) -> str:
    return (resources.files("biprop.web") / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """What a browser may run for the page: its own script and WebAssembly. It may load nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' 'wasm-unsafe-eval';"
        " style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
    )


def _head(title: str, script: str) -> Node:
    report = (resources.files("biprop.report") / "style.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        raw_style(report + _file("style.css")),
    )


def _settings(classifier: Classifier) -> str:
    """What the script needs to know, as JSON that cannot end the element that holds it."""
    settings = {
        "classes": [printable(name) for name in classifier.classes],
        "places": classifier.program.places,
        "cropSide": classifier.crop_side,
        "drawing": classifier.drawing,
    }
    return json.dumps(settings, separators=(",", ":")).replace("<", "\\u003c")


def _data(name: str, text: str, kind: str = "application/octet-stream") -> Node:
    """Data for the script: a browser does not run what has such a type."""
    return raw_script(text, type=kind, id=name)


def _header(title: str) -> Node:
    note = (
        "This page runs the network itself. Images and drawings stay in this browser: nothing is"
        f" sent, nothing is loaded. Written by biprop {__version__}."
    )
    return element("header", element("h1", title), element("p", note, class_="note"))


def _main(classifier: Classifier) -> Node:
    """A drawing and an image, the result, and facts; in the order of a narrow screen."""
    is_grey = classifier.channels == 1
    first = _drawing() if is_grey else _image(is_grey)
    then = _image(is_grey) if is_grey else None
    how = "Draw, or choose an image." if is_grey else "Choose an image."
    return element(
        "main",
        first,
        _result(how),
        then,
        _about(classifier),
    )


def _image(is_grey: bool) -> Node:
    chooser = element(
        "input", type="file", id="file", accept="image/*", disabled="disabled", class_="file"
    )
    label = element("label", "Choose an image", for_="file", class_="button")
    hint = element("p", "or drop or paste one anywhere on this page", class_="note")
    box = element("input", type="checkbox", id="invert", disabled="disabled")
    invert = element("label", box, " Invert (dark ink on light paper)", class_="check")
    return element(
        "section",
        _heading("An image"),
        chooser,
        label,
        hint,
        invert if is_grey else None,
        class_="card drop",
    )


def _heading(text: str) -> Node:
    return element("h2", text)


def _drawing() -> Node:
    canvas = element(
        "canvas",
        id="drawing",
        width=_DRAWING_SIDE,
        height=_DRAWING_SIDE,
        tabindex="0",
        role="application",
        aria_label=_HELP_OF_DRAWING,
    )
    pen = element("span", id="pen", aria_hidden="true")
    button = element("button", "Clear", type="button", id="clear", disabled="disabled")
    hint = element("p", "with the mouse, a finger, or arrow keys and the space bar", class_="note")
    board = element("div", canvas, pen, class_="board")
    return element("section", _heading("A drawing"), board, button, hint, class_="card")


def _result(how: str) -> Node:
    """The classes, and until there are some, how to get them."""
    answer = element(
        "p",
        element("strong", id="class"),
        element("span", id="detail", class_="note"),
        role="status",
        class_="answer",
    )
    rows = element("table", element("tbody", id="rows"), class_="classes", aria_label="classes")
    seen = element("canvas", id="input", role="img", aria_label="the image as the network sees it")
    figure = element("figure", element("figcaption", "What the network sees"), seen)
    content = element("div", answer, rows, figure, id="result", hidden="hidden")
    nothing = element("p", how, id="nothing", class_="note")
    return element("section", _heading("Result"), nothing, content, class_="answers")


def _about(classifier: Classifier) -> Node:
    """The network, and a measurement of its speed."""
    button = element("button", "Measure for a second", type="button", id="measure")
    button.set("disabled", "disabled")
    speed = element("span", id="speed", role="status", class_="note")
    rows = [*classifier.facts, ("engine", "")]
    facts = pairs(rows, "the network")
    next(cell for cell in facts.iter("td") if not cell.text).set("id", "engine")
    measure = element("p", button, speed, class_="measure")
    return element("section", _heading("The network"), facts, measure, class_="about")
