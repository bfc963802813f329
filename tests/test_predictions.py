import io
from pathlib import Path

import numpy as np
import pytest
import torch
from run_folders import DIGITS_TICKET, read_all

from biprop import Deck, Ticket
from biprop.console import Console
from biprop.report import predictions
from biprop.report.predictions import Predictions, Predictor, add_predictions


def predictor(most: int | None = 40, **flags: str) -> Predictor:
    return Predictor(flags, most, Console(io.StringIO()))


def test_images_are_counted_by_class_and_answer() -> None:
    counted = Predictions.of_nothing(["a", "b", "c"])
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.7, 0.1, 0.2], [0, 0.6, 0.4]], np.float32
    )
    pixels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    counted.add(pixels, np.array([0, 0, 1, 2]), probabilities)
    assert counted.matrix.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert (counted.images, counted.right) == (4, 1)
    worst = [(m.pixels.item(), m.label, m.answer) for m in counted.mistakes]
    assert worst == [(1, 0, 1), (2, 1, 0), (3, 2, 1)]
    assert [m.confidence for m in counted.mistakes] == pytest.approx([0.8, 0.7, 0.6])


def test_the_worst_of_all_batches_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MOST_MISTAKES", 3)
    counted = Predictions.of_nothing(["a", "b"])
    for high in (0.6, 0.9, 0.7, 0.8):
        wrong = np.array([[high, 1 - high]], np.float32)
        counted.add(np.zeros((1, 1, 2, 2), np.uint8), np.array([1]), wrong)
    assert [m.confidence for m in counted.mistakes] == pytest.approx([0.9, 0.8, 0.7])
    assert counted.images == 4


def test_a_ticket_is_asked_the_test_images() -> None:
    (entry,) = read_all(DIGITS_TICKET)
    counted = predictor(None).predict(entry)
    assert (counted.right, counted.images) == entry.counts["test"]
    assert len(counted.mistakes) == counted.images - counted.right
    assert predictor(100).predict(entry).images == 100


def test_a_deck_gets_the_accuracy_that_is_counted(tmp_path: Path) -> None:
    ticket = Ticket.load(DIGITS_TICKET)
    Deck([ticket, ticket], ["a", "b"]).save(tmp_path / "two.deck")
    deck, alone = read_all(tmp_path / "two.deck", DIGITS_TICKET)
    of_all = add_predictions([deck, alone], predictor(50))
    assert of_all["two.deck"].matrix.tolist() == of_all["digits.mpt"].matrix.tolist()
    assert deck.counts["test"] == (of_all["two.deck"].right, 50)
    assert alone.counts["test"][1] == 360  # as the ticket records it


def test_what_has_no_data_says_what_to_pass() -> None:
    (entry,) = read_all(DIGITS_TICKET)
    entry.settings = {"set": "CIFAR10"}
    entry.missing.clear()
    assert add_predictions([entry], predictor()) == {}
    assert entry.missing == ["no confusion matrix and no mistakes: pass --data DIR"]


def test_data_of_another_task_are_no_error_of_the_page(tmp_path: Path) -> None:
    (entry,) = read_all(DIGITS_TICKET)
    entry.settings = {"set": "CIFAR10"}
    entry.missing.clear()
    flags = {"set": "CIFAR10", "data": str(tmp_path)}
    assert add_predictions([entry], predictor(**flags)) == {}
    (line,) = entry.missing
    assert line.startswith("no confusion matrix and no mistakes: ")


def test_data_for_other_entries_do_not_reach_the_digits() -> None:
    (entry,) = read_all(DIGITS_TICKET)
    counted = predictor(20, data="elsewhere").predict(entry)
    assert counted.images == 20


def test_predictions_are_made_without_gradients() -> None:
    (entry,) = read_all(DIGITS_TICKET)
    assert torch.is_grad_enabled()
    predictor(10).predict(entry)
    assert torch.is_grad_enabled()
