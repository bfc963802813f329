from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from biprop.evaluation.counts import Counts, Uncounted, confidence_interval, evaluate, is_better


def test_counts_are_of_images_not_of_batches() -> None:
    logits = torch.tensor([7.0, 6, 5, 4, 3, 2, 1]).repeat(
        7, 1
    )  # class 0 is the likeliest, 6 the least likely
    labels = torch.tensor([0, 0, 1, 3, 4, 5, 6])
    counts = Counts()
    mean = counts.add(logits[:4], labels[:4], torch.tensor(0.5))
    counts.add(logits[4:], labels[4:], torch.tensor(1.0))
    assert mean == 0.5
    assert (counts.images, counts.right, counts.right_in_5) == (7, 2, 5)
    assert (counts.top1, counts.top5) == (100 * 2 / 7, 100 * 5 / 7)
    assert counts.loss == (4 * 0.5 + 3 * 1.0) / 7


def test_batches_counted_together_are_counted_once_and_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    together, one_by_one, uncounted = Counts(), Counts(), Uncounted()
    for size in (5, 9, 1):
        logits = torch.randn(size, 7, generator=generator)
        batch = logits, torch.arange(size) % 7, torch.rand((), generator=generator)
        one_by_one.add(*batch)
        uncounted.add(*batch)
    assert uncounted.count(together) > 0
    assert uncounted.count(together) == 0
    assert together == one_by_one
    uncounted.add(torch.ones(1, 7), torch.zeros(1, dtype=torch.int64), torch.tensor(torch.nan))
    assert uncounted.count(together) != uncounted.count(together)


def test_fewer_than_five_classes() -> None:
    counts = Counts()
    counts.add(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), torch.tensor(0.1))
    assert (counts.top1, counts.top5) == (50, 100)


def test_evaluation_mode_is_used_and_the_mode_restored() -> None:
    model = nn.Sequential(nn.Dropout(1.0), nn.Identity())
    batches = [(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))] * 3  # of equal logits, 0 is chosen
    model[1].eval()  # as a part of a network whose statistics stay
    counts = evaluate(model, batches)
    assert counts.right == 3
    assert [module.training for module in model.modules()] == [True, True, False]


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"images": 1},
        {"images": -1, "right": 0, "right_in_5": 0, "loss_sum": 0.0},
        {"images": 1.5, "right": 0, "right_in_5": 0, "loss_sum": 0.0},
        {"images": 1, "right": 0, "right_in_5": 0, "loss_sum": float("nan")},
    ],
)
def test_counts_from_a_file_are_counts(record: Any) -> None:
    counts = Counts(3, 2, 3, 0.5)
    assert Counts.of(asdict(counts)) == counts
    with pytest.raises(ValueError, match="no counts of images"):
        Counts.of(record)


def test_better_means_by_more_than_luck() -> None:
    assert not is_better(Counts(12, 6), Counts(12, 4))
    assert is_better(Counts(12, 11), Counts(12, 4))
    assert not is_better(Counts(10_000, 1000), Counts(10_000, 1000))
    assert is_better(Counts(10_000, 1200), Counts(10_000, 1000))
    assert not is_better(Counts(10_000, 800), Counts(10_000, 1000))
    assert not is_better(Counts(4, 4), Counts(4, 4))
    assert is_better(Counts(4, 4), Counts())  # nothing to compare with


def test_the_confidence_interval_is_wilsons() -> None:
    low, high = confidence_interval(Counts(12, 6))
    assert (round(low, 1), round(high, 1)) == (25.4, 74.6)
    assert confidence_interval(Counts(5, 5))[1] == 100
    assert confidence_interval(Counts(5, 0))[0] == 0
