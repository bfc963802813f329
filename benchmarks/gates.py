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
    weightings: dict[str, Weights] = {"mean": weights_of(gate, "none"), "the surer cards": sure}
    for name, variant in variants(deck, gate).items():
        weightings |= {
            f"{name}, by batch": weights_of(variant, "batch"),
            f"{name}, by image": weights_of(variant, "image"),
        }
    return weightings


def variants(deck: Deck, gate: Gate) -> dict[str, Gate]:
    variance = np.linalg.inv(gate.precision.astype(np.float64)).diagonal().mean()
    spherical = np.eye(len(gate.precision), dtype=np.float32) / np.float32(variance)
    plain = dataclasses.replace(gate, precision=spherical)
    own, first = own_cards(deck, gate), len(gate.kinds) - 1
    sharp = gate.precision * np.float32(1e6)
    return {
        "posterior and worth (the choice)": gate,
        "without the plain kind": dataclasses.replace(
            gate, templates=gate.templates[:first], worth=gate.worth[:first]
        ),
        "posterior, a kind's own cards": dataclasses.replace(gate, worth=own),
        "nearest kind's own cards": dataclasses.replace(gate, precision=sharp, worth=own),
        "worth, one variance for all features": plain,
        "own cards, one variance": dataclasses.replace(plain, worth=own),
    }


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
    batches = test.batches(slices(numbers, 1000), None)
    clean, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    rows: dict[str, list[tuple[float, float]]] = {}
    for path in arguments.decks:
        for way, (first, *others) in accuracies(Deck.load(path), clean, labels, numbers).items():
            rows.setdefault(way, []).append((statistics.mean(others), first))
    print(f"{len(arguments.decks)} decks, {len(labels)} images: corrupted mean, clean")
    for way, values in rows.items():
        means = [statistics.mean(column) for column in zip(*values, strict=True)]
        print(f"{way:50} {'  '.join(f'{mean:.2f}' for mean in means)}")


def accuracies(
    deck: Deck, clean: torch.Tensor, labels: torch.Tensor, numbers: NDArray[np.int64]
) -> dict[str, list[float]]:
    """Percent of every way: on clean images, then by corruption and severity."""
    weightings, by_way = ways(deck), dict[str, list[float]]()
    for cell in [None, *((name, severity) for name in NAMES for severity in SEVERITIES)]:
        images = clean if cell is None else corrupt(clean, *cell, numbers=numbers.tolist())
        right = count(deck, weightings, images.numpy(), labels.numpy())
        for way, accuracy in right.items():
            by_way.setdefault(way, []).append(accuracy)
    return by_way


def count(
    deck: Deck, weightings: dict[str, Weights], pixels: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy in percent of every way, and of each card, on images of one kind."""
    right: dict[str, int] = {}
    engines = deck.engines(cores())
    for at in slices(np.arange(len(labels)), BATCH):
        answers = np.stack([softmax(engine.run(pixels[at], "NCHW")) for engine in engines])
        by_way = {f"card {number}": answer for number, answer in enumerate(answers)}
        for name, weigh in weightings.items():
            by_way[name] = together(answers, weigh(pixels[at], answers))
        for name, probabilities in by_way.items():
            correct = int((probabilities.argmax(1) == labels[at]).sum())
            right[name] = right.get(name, 0) + correct
    return {name: 100 * correct / len(labels) for name, correct in right.items()}


if __name__ == "__main__":
    main()
