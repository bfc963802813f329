"""A deck as an ONNX model: all cards, and the gate on the spectrum of the images.

ONNX's Fourier transform (DFT) is not in every runtime; products with matrices of cosines and sines
are, and images are small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.engine import normalised
from ..engine.reference import Reference
from ..errors import UserError
from ..export import Exported
from ..export.files import is_installed
from ..export.samples import check_difference, random_samples, relative
from ..ticket import container
from .deck import Deck, softmax, together
from .gate import FLOOR, Gate, Gating, ring_weights

if TYPE_CHECKING:
    from ..export.builder import Builder

OUTPUT = "probabilities"
_DIFFERENCES = np.array([[1, -1, 0], [-0.5, -0.5, 1]], np.float32)
"""Red - green and blue - (red + green) / 2, as in `gate.features`."""


def save_onnx(deck: Deck, path: str | Path, gating: Gating = "batch") -> Exported:
    """Write a deck as an ONNX model from pixels to probabilities.

    It is checked by ONNX's checker and, where onnxruntime is installed, compared with the deck. Its
    input "images" is float32 [batch, channels, height, width] in [0, 1], its output
    "probabilities" float32 [batch, classes].

    Args:
        deck: to export.
        path: of the file.
        gating: as of `Deck.predict`; it is fixed in the file.

    Raises:
        UserError: onnx is not installed; the model computes something else than the deck, or is too
            large; the file cannot be written.
    """
    if not is_installed("onnx"):
        raise UserError("onnx is not installed: pip install 'biprop[onnx]'")
    from ..export.model import content_of

    references = [Reference(card) for card in deck.cards]
    model, signs = _make_model(deck, references, gating)
    difference = None
    if is_installed("onnxruntime"):
        difference = _difference(model, deck, references, signs, gating)
        check_difference(difference)
    return Exported(container.save(path, content_of(model)), "pixels 0 .. 1", difference)


def _make_model(
    deck: Deck, references: Sequence[Reference], gating: Gating
) -> tuple[Any, list[dict[int, str]]]:
    """The model, and for each card the names of its binary activations' results."""
    from ..export.builder import INPUT, Builder
    from ..export.model import checked_proto, name_output, signs_of, tensor_info

    whole = Builder(deck.cards[0])
    values = []
    for card, reference in zip(deck.cards, references, strict=True):
        values.append(_add_card(whole.for_card(card), reference))
    whole.place = "deck"
    answers = [_answer(whole, names[-1]) for names in values]
    weights = _weights(whole, deck, gating)
    weighted = whole.add("Mul", whole.add("Concat", *answers, axis=1), weights)
    name_output(whole, whole.add("ReduceSum", weighted, whole.whole(1), keepdims=0), OUTPUT)
    takes = tensor_info(INPUT, references[0].graph.input)
    gives = tensor_info(OUTPUT, references[0].shapes[-1])
    proto = checked_proto(whole, "deck", takes, gives, _metadata(deck, gating))
    return proto, list(map(signs_of, references, values))


def _add_card(b: Builder, reference: Reference) -> list[str]:
    """The names of the values of a card's graph."""
    from ..export.model import add_network

    return add_network(b, reference, on_pixels=True)


def _answer(b: Builder, logits: str) -> str:
    """Probabilities [B, 1, classes] of a card."""
    return b.add("Unsqueeze", b.add("Softmax", logits, axis=1), b.whole(1))


def _metadata(deck: Deck, gating: Gating) -> dict[str, str]:
    about = {"cards": deck.names, "classes": deck.cards[0].classes}
    words = {"input": "pixels 0 .. 1", "gating": gating if deck.gate else "none"}
    return words | {name: json.dumps(value) for name, value in about.items()}


# ---- the gate ----


def _weights(b: Builder, deck: Deck, gating: Gating) -> str:
    """How much each card counts: [B or 1, cards, 1] float32."""
    if deck.gate is None or gating == "none":
        cards = len(deck.cards)
        return b.floats(np.full((1, cards, 1), 1 / cards))
    b.place = "gate"
    shape = deck.cards[0].input_shape
    assert shape
    spectrum = _features(b, shape)
    if gating == "batch":
        spectrum = b.add("ReduceMean", spectrum, axes=[0], keepdims=1)
    return b.add("Unsqueeze", _card_weights(b, deck.gate, spectrum), b.whole(2))


def _card_weights(b: Builder, gate: Gate, spectrum: str) -> str:
    """`Gate.weights` of features [B, F]: [B, cards]."""
    from onnx import TensorProto

    double = partial(b.add, "Cast", to=TensorProto.DOUBLE)
    differences = b.add("Sub", b.add("Unsqueeze", spectrum, b.whole(1)), b.floats(gate.templates))
    precise = double(differences)
    turned = b.add("MatMul", precise, b.constant(gate.precision.astype(np.float64)))
    products = b.add("Mul", turned, precise)
    distances = b.add("ReduceSum", products, b.whole(2), keepdims=0)
    odds = b.add("Mul", distances, b.constant(np.asarray(-0.5)))
    posterior = b.add("Softmax", odds, axis=1)
    weights = b.add("MatMul", posterior, b.constant(gate.worth.astype(np.float64)))
    return b.add("Cast", weights, to=TensorProto.FLOAT)


def _features(b: Builder, shape: tuple[int, ...]) -> str:
    """`gate.features` of the model's input: [B, F]."""
    from ..export.builder import INPUT

    channels, height, width = shape
    levels = b.add("Clip", b.add("Mul", INPUT, b.floats(255)), b.floats(0), b.floats(255))
    values = b.add("Div", b.add("Round", levels), b.floats(255))
    signals = [b.add("ReduceMean", values, axes=[1], keepdims=1)]
    if channels == 3:
        signals.append(b.add("Conv", values, b.floats(_DIFFERENCES[..., None, None])))
    spectra = [_spectrum(b, signal, height, width) for signal in signals]
    return b.add("Concat", *spectra, axis=1)


def _spectrum(b: Builder, signal: str, height: int, width: int) -> str:
    """The mean log power by ring [B, 12] of a signal [B, C, H, W]."""
    centred = b.add("Sub", signal, b.add("ReduceMean", signal, axes=[2, 3], keepdims=1))
    squares = [b.add("Mul", part, part) for part in _transform(b, centred, height, width)]
    energy = b.add("ReduceSum", b.add("Add", *squares), b.whole(1), keepdims=0)
    power = b.add("Div", energy, b.floats(height * width))
    logarithms = b.add("Log", b.add("Add", power, b.floats(FLOOR)))
    flat = b.add("Reshape", logarithms, b.whole(-1, height * (width // 2 + 1)))
    return b.add("MatMul", flat, b.floats(ring_weights(height, width)))


def _transform(b: Builder, signal: str, height: int, width: int) -> Iterable[str]:
    """Real and imaginary part of `numpy.fft.rfft2`: [B, C, H, W // 2 + 1] each."""
    cosines, sines = (b.floats(wave[:, : width // 2 + 1]) for wave in _waves(width))
    across = (b.add("MatMul", signal, cosines), b.add("MatMul", signal, sines))
    cosines, sines = map(b.floats, _waves(height))
    down = partial(b.add, "MatMul")
    real = b.add("Sub", down(cosines, across[0]), down(sines, across[1]))
    return real, b.add("Add", down(cosines, across[1]), down(sines, across[0]))


def _waves(size: int) -> tuple[Any, Any]:
    """Cosines and sines [size, size] of all frequencies at all places."""
    steps = np.arange(size)
    angles = 2 * math.pi / size * (np.outer(steps, steps) % size)
    return np.cos(angles), np.sin(angles)


# ---- the comparison ----


def _difference(
    model: Any,
    deck: Deck,
    references: Sequence[Reference],
    signs: Sequence[dict[int, str]],
    gating: Gating,
) -> float:
    """The greatest difference between the probabilities of ONNX Runtime and numpy, over their
    spread.
    """
    from ..export import check

    images = random_samples(deck.cards[0], references[0], on_pixels=True)
    names = [name for card in signs for name in card.values()]
    results = check.run(model, images, OUTPUT, names)
    answers = [
        softmax(check.following(card, normalised(images, card), of_card, results))
        for card, of_card in zip(deck.cards, signs, strict=True)
    ]
    pixels = np.round(images * np.float32(255)).astype(np.uint8)
    expected = together(np.stack(answers), deck.card_weights(pixels, gating))
    return relative(results[OUTPUT], expected)
