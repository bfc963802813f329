"""Which gate is worth its name? Ways to weight the cards of a deck, on corrupted test images of
CIFAR-10.

    python benchmarks/gates.py --data DIR A.deck B.deck ... [--images 500]

The decks' gates give templates, covariance and worth (`biprop.deck.gate`); each way here takes some
of them and leaves others out. All see the same answers of the cards, and batches of 128 images of
one corruption and severity. Prints the mean accuracy over the 15 corruptions and five severities,
and on clean images, for each way, by batch and by image; means over the decks.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from numpy.typing import NDArray

from biprop import Deck
from biprop.data import cifar, slices, spread
from biprop.deck import softmax, together
from biprop.deck.build import description_of, training_recipe
from biprop.deck.gate import Gate, Gating
from biprop.engine import cores
from biprop.robustness.corruptions import corrupt
from biprop.robustness.severities import NAMES, SEVERITIES

BATCH = 128
Weights = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]
"""Pixels [B, C, H, W] and the cards' probabilities [cards, B, classes] to weights [B, cards]."""


def own_cards(deck: Deck, gate: Gate) -> NDArray[np.float32]:
    """[kinds, cards]: each kind's weight goes to the cards that were trained on it; of the plain
    kind to all.
    """
    kinds = [
        description_of(training_recipe(card, name))
        for card, name in zip(deck.cards, deck.names, strict=True)
    ]
    own = np.array(
        [[kind == other or kind not in kinds for other in kinds] for kind in gate.kinds],
        dtype=np.float32,
    )
    shares: NDArray[np.float32] = own / own.sum(1, keepdims=True)
    return shares


def sure(_: NDArray[np.uint8], answers: NDArray[np.float32]) -> NDArray[np.float32]:
    """The surer a card, the more it counts: weights in proportion to its largest probability to the
    power of 4.
    """
    most = answers.max(2).T ** 4
    shares: NDArray[np.float32] = most / most.sum(1, keepdims=True)
    return shares


def ways(deck: Deck) -> dict[str, Weights]:
    gate = deck.gate
    assert gate, "a deck without a gate"
    variance = np.linalg.inv(gate.precision.astype(np.float64)).diagonal().mean()
    plain = dataclasses.replace(
        gate, precision=np.eye(len(gate.precision), dtype=np.float32) / np.float32(variance)
    )
    own, first = own_cards(deck, gate), len(gate.kinds) - 1
    sharp = dataclasses.replace(gate, precision=gate.precision * np.float32(1e6), worth=own)
    gates = {
        "posterior and worth (the choice)": gate,
        "without the plain kind": dataclasses.replace(
            gate, templates=gate.templates[:first], worth=gate.worth[:first]
        ),
        "posterior, a kind's own cards": dataclasses.replace(gate, worth=own),
        "nearest kind's own cards": sharp,
        "worth, one variance for all features": plain,
        "own cards, one variance": dataclasses.replace(plain, worth=own),
    }
    found: dict[str, Weights] = {"mean": weights_of(gate, "none"), "the surer cards": sure}
    for name, one in gates.items():
        found |= {
            f"{name}, by batch": weights_of(one, "batch"),
            f"{name}, by image": weights_of(one, "image"),
        }
    return found


def weights_of(gate: Gate, by: Gating) -> Weights:
    return lambda pixels, _: gate.weights(pixels, by)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decks", nargs="+", metavar="NAME.deck")
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--images", type=int, default=500, help="test images, evenly spaced [500]")
    arguments = parser.parse_args()
    test = cifar.cifar(arguments.data, "CIFAR10").test
    numbers = spread(len(test), arguments.images)
    clean, labels = (
        torch.cat(parts) for parts in zip(*test.batches(slices(numbers, 1000), None), strict=True)
    )
    rows: dict[str, list[tuple[float, float]]] = {}
    for path in arguments.decks:
        deck = Deck.load(path)
        weighings, scores = ways(deck), dict[str, list[float]]()
        for cell in [None, *((name, severity) for name in NAMES for severity in SEVERITIES)]:
            seen = clean if cell is None else corrupt(clean, *cell, numbers=numbers.tolist())
            right = count(deck, weighings, seen.numpy(), labels.numpy())
            for way, share in right.items():
                scores.setdefault(way, []).append(share)
        for way, (first, *others) in scores.items():
            rows.setdefault(way, []).append((statistics.mean(others), first))
    print(f"{len(arguments.decks)} decks, {len(labels)} images: corrupted mean, clean")
    for way, values in rows.items():
        print(
            f"{way:50}"
            f" {'  '.join(f'{statistics.mean(column):.2f}' for column in zip(*values, strict=True))}"
        )


def count(
    deck: Deck, weighings: dict[str, Weights], pixels: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy in percent of every way, and of each card, on images of one kind."""
    right: dict[str, int] = {}
    for at in slices(np.arange(len(labels)), BATCH):
        answers = np.stack(
            [softmax(engine.run(pixels[at], "NCHW")) for engine in deck.engines(cores())]
        )
        found = {f"card {number}": one for number, one in enumerate(answers)}
        found |= {
            name: together(answers, weigh(pixels[at], answers)) for name, weigh in weighings.items()
        }
        for name, one in found.items():
            right[name] = right.get(name, 0) + int((one.argmax(1) == labels[at]).sum())
    return {name: 100 * one / len(labels) for name, one in right.items()}


if __name__ == "__main__":
    main()
