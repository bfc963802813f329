"""What a network makes of test images: its confusion matrix and its worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .entries import Entry

if TYPE_CHECKING:
    from torch import Tensor

    from ..console import Console
    from ..data import DataSet
    from ..evaluation.subject import Subject

Probabilities = Callable[["Tensor"], NDArray[np.float32]]
"""Pixels [B, C, H, W] uint8 to probabilities [B, classes]."""

MOST_MISTAKES = 24


@dataclass(frozen=True)
class Mistake:
    """An image that is assigned to a wrong class.

    Attributes:
        pixels: [C, H, W] uint8.
        label, answer: numbers of the right class and of the one that was answered.
        confidence: probability of the answer, 0 .. 1.
    """

    pixels: NDArray[np.uint8]
    label: int
    answer: int
    confidence: float


@dataclass
class Predictions:
    """What a network answers to the images of a test set.

    Attributes:
        classes: their names.
        matrix: [classes, classes] int64: images by right class and by answer.
        mistakes: those with the highest confidence, the highest first; at most `MOST_MISTAKES`.
    """

    classes: list[str]
    matrix: NDArray[np.int64]
    mistakes: list[Mistake] = field(default_factory=list)

    @staticmethod
    def of_nothing(classes: list[str]) -> Predictions:
        """Before the first image."""
        return Predictions(classes, np.zeros((len(classes), len(classes)), np.int64))

    def add(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        probabilities: NDArray[np.float32],
    ) -> None:
        """Count a batch.

        Args:
            pixels: [B, C, H, W].
            labels: [B].
            probabilities: [B, classes].
        """
        answers = probabilities.argmax(1)
        np.add.at(self.matrix, (labels, answers), 1)
        for i in np.flatnonzero(answers != labels):
            confidence = float(probabilities[i, answers[i]])
            self.mistakes.append(
                Mistake(pixels[i].copy(), int(labels[i]), int(answers[i]), confidence)
            )
        self.mistakes.sort(key=lambda mistake: -mistake.confidence)
        del self.mistakes[MOST_MISTAKES:]

    @property
    def images(self) -> int:
        """Images so far."""
        return int(self.matrix.sum())

    @property
    def right(self) -> int:
        """Those whose class was answered."""
        return int(self.matrix.trace())


class Predictor:
    """Loads data sets, each once, and runs networks over their test images.

    Args:
        flags: options of the command line: where the data are, and the device.
        most: images to use, evenly spaced; None: all.
        console: shows the progress.
    """

    def __init__(self, flags: Mapping[str, Any], most: int | None, console: Console) -> None:
        self._flags, self._most, self._console = flags, most, console
        self._loaded: dict[str, DataSet] = {}

    def has_data_for(self, entry: Entry) -> bool:
        """Whether images can be loaded: they are the digits, or the user has named a folder."""
        return "data" in self._flags or self._set_of(entry) == "digits"

    def _set_of(self, entry: Entry) -> object:
        if entry.deck:
            options = entry.deck.cards[0].found.get("options")
            recorded = options.get("set") if isinstance(options, dict) else None
        else:
            recorded = entry.settings.get("set")
        return self._flags.get("set", recorded)

    def predict(self, entry: Entry) -> Predictions:
        """The predictions of a run, a ticket or a deck for its test images.

        Raises:
            UserError: data that cannot be read or that are of another task, or a network that
                cannot be restored.
        """
        subject = self._subject(entry)
        images = self._data(subject)
        answer = self._probabilities(entry, subject, images)
        predictions = Predictions.of_nothing(images.classes)
        size = 100
        count = min(self._most or len(images.test), len(images.test))
        batches = self._batches(images, count, size)
        title = f"{entry.name}, batches"
        for pixels, labels in self._console.track(batches, title, -(-count // size)):
            predictions.add(pixels.numpy(), labels.numpy(), answer(pixels))
            if not images.is_images:
                predictions.mistakes.clear()  # there is no picture of a row of numbers
        return predictions

    def _batches(self, images: DataSet, count: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        from ..data import sample

        part = sample(images.test, count)
        return images.evaluation_batches(part, size, normalised=False)

    def _subject(self, entry: Entry) -> Subject:
        from ..evaluation.subject import of_checkpoint, of_ticket
        from ..runs.folder import find_checkpoint

        flags = dict(self._flags)
        if self._set_of(entry) == "digits":
            flags.pop("data", None)  # it is for other entries: the digits are built in
        if entry.kind == "run":
            return of_checkpoint(find_checkpoint(entry.path), flags, {})
        ticket = entry.deck.cards[0] if entry.deck else entry.ticket
        return of_ticket(str(entry.path), flags, ticket)

    def _data(self, subject: Subject) -> DataSet:
        from ..evaluation.subject import load_data

        key = repr((subject.config, subject.task, subject.classes, subject.mean, subject.std))
        if key not in self._loaded:
            self._loaded[key] = load_data(subject, self._console)
        return self._loaded[key]

    def _probabilities(self, entry: Entry, subject: Subject, images: DataSet) -> Probabilities:
        import torch

        from ..evaluation.device import choose_device
        from ..ticket.torch import OnPixels

        deck = entry.deck
        if deck:
            return lambda pixels: deck.predict(pixels.numpy())
        device = choose_device(self._flags.get("device", "auto"))
        mean, std = subject.mean or images.mean, subject.std or images.std
        model = OnPixels(subject.model, mean, std).to(device)

        @torch.no_grad()
        def probabilities(pixels: Tensor) -> NDArray[np.float32]:
            answers: NDArray[np.float32] = model(pixels.to(device)).softmax(1).cpu().numpy()
            return answers

        return probabilities


def add_predictions(entries: list[Entry], predictor: Predictor) -> dict[str, Predictions]:
    """The predictions of the entries that there are data for, by name.

    An entry that records no test accuracy, such as a deck, gets the one that is counted here. What
    cannot be predicted is noted in `Entry.missing`.
    """
    predictions = {}
    for entry in entries:
        if not predictor.has_data_for(entry):
            entry.missing.append("no confusion matrix and no mistakes: pass --data DIR")
            continue
        try:
            of_entry = predictor.predict(entry)
            predictions[entry.name] = of_entry
            entry.counts.setdefault("test", (of_entry.right, of_entry.images))
        except UserError as e:
            entry.missing.append(f"no confusion matrix and no mistakes: {e}")
    return predictions
