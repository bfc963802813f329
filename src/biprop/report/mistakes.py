"""The section with confusion matrices, and with the worst mistakes as images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .markup import Node, details, element, figure, heat_cell, heat_table, short, table
from .predictions import Mistake, Predictions

MOST_CLASSES = 30
"""Classes of a confusion matrix; with more, the most frequent confusions are listed instead."""
MOST_CONFUSIONS = 15
MOST_PIXELS = 64
"""Height and width of an image on the page, at most."""
MOST_BYTES = 700_000
"""Of all images on the page together."""


def section(predictions: Mapping[str, Predictions]) -> list[Node]:
    """A confusion matrix and the worst mistakes of each network, by its name."""
    budget = MOST_BYTES // max(1, len(predictions))
    parts = []
    for name, of_network in predictions.items():
        parts += [element("h3", name), *_network(of_network, budget)]
    return parts


def _network(predictions: Predictions, budget: int) -> list[Node]:
    accuracy = 100 * predictions.right / max(1, predictions.images)
    counted = f"{predictions.right:,} of {predictions.images:,} test images"
    summary = element("p", f"{accuracy:.2f} %: {counted} are assigned to their class.")
    parts = [summary]
    if len(predictions.classes) <= MOST_CLASSES:
        title = "Confusion matrix: the class of the image down, the answer across"
        parts.append(figure(title, _matrix(predictions)))
    parts.append(details("the most frequent confusions", _confusions(predictions)))
    if predictions.mistakes:
        parts.append(_gallery(predictions, budget))
    return parts


def _matrix(predictions: Predictions) -> Node:
    """Mistakes have another hue than what is right; the most frequent one is the darkest."""
    classes = predictions.classes
    shares = predictions.matrix / np.maximum(predictions.matrix.sum(1, keepdims=True), 1)
    mistakes = shares * (1 - np.eye(len(classes)))
    shades = np.where(np.eye(len(classes)), shares, mistakes / max(1e-9, mistakes.max()))
    rows = []
    for label, name in enumerate(classes):
        cells = [
            _matrix_cell(predictions, label, answer, float(shades[label, answer]))
            for answer in range(len(classes))
        ]
        rows.append((short(name), cells))
    return heat_table(["", *map(short, classes)], rows, "confusion matrix")


def _matrix_cell(predictions: Predictions, label: int, answer: int, shade: float) -> Node:
    count = int(predictions.matrix[label, answer])
    classes = predictions.classes
    title = f"{count:,} images of {classes[label]} taken for {classes[answer]}"
    if not count:
        return heat_cell("", None, title)
    return heat_cell(str(count), shade, title, "blue" if label == answer else "orange")


def _confusions(predictions: Predictions) -> Node:
    matrix, classes = predictions.matrix.copy(), predictions.classes
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:MOST_CONFUSIONS]
    places = [divmod(int(place), len(classes)) for place in order]
    rows = [
        [classes[label], classes[answer], f"{matrix[label, answer]:,}"]
        for label, answer in places
        if matrix[label, answer]
    ]
    return table(("image of", "taken for", "images"), rows, "the most frequent confusions")


def _gallery(predictions: Predictions, budget: int) -> Node:
    """The mistakes with the highest confidence, as long as their images fit."""
    figures: list[Node] = []
    for mistake in predictions.mistakes:
        image = png(mistake.pixels)
        budget -= len(image) * 4 // 3
        if budget < 0:
            break
        figures.append(_mistake(mistake, image, predictions.classes))
    gallery = element("div", *figures, class_="gallery")
    return figure("The mistakes with the highest confidence", gallery)


def _mistake(mistake: Mistake, image: bytes, classes: Sequence[str]) -> Node:
    label, answer = classes[mistake.label], classes[mistake.answer]
    text = f"{short(label)}, taken for {short(answer)} ({100 * mistake.confidence:.0f}\u00a0%)"
    source = "data:image/png;base64," + base64.b64encode(image).decode("ascii")
    picture = element("img", src=source, alt=f"an image of {label}", width="64", height="64")
    return element("div", picture, element("p", text))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [C, H, W] uint8 as a PNG file of at most `MOST_PIXELS` pixels in height and width."""
    from PIL import Image

    planes = pixels[0] if len(pixels) == 1 else pixels[:3].transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(planes))
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return content.getvalue()
