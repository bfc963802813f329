"""Accuracy, as counts of images: never an average of averages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import Group
from ..errors import shown


@dataclass
class Counts:
    """Sums over images; they add up over batches and processes."""

    images: int = 0
    right: int = 0
    right_in_5: int = 0
    loss_sum: float = 0.0

    @staticmethod
    def of(record: Any) -> Counts:
        """From what `dataclasses.asdict` gives, read from a file.

        Raises:
            ValueError: these are no counts.
        """
        if not isinstance(record, dict) or set(record) != {field.name for field in fields(Counts)}:
            raise ValueError(f"no counts of images: {shown(record)}")
        counts = Counts(**record)
        whole = (counts.images, counts.right, counts.right_in_5)
        is_right = all(type(count) is int and 0 <= count < 2**62 for count in whole)
        if (
            not is_right
            or type(counts.loss_sum) not in (int, float)
            or not math.isfinite(counts.loss_sum)
        ):
            raise ValueError(f"no counts of images: {shown(record)}")
        return counts

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> float:
        """Count a batch: logits [B, classes] float, labels [B] int64, and the mean of its loss, a
        scalar, which is returned.
        """
        best = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == labels[:, None]
        # One answer for all: on a GPU every question waits for what was started before.
        right, right_in_5, mean_loss = torch.stack(
            [hits[:, 0].sum(), hits.sum(), loss.detach().float()]
        ).tolist()
        self.images += len(labels)
        self.right += int(right)
        self.right_in_5 += int(right_in_5)
        self.loss_sum += mean_loss * len(labels)
        return float(mean_loss)

    def sum_over(self, group: Group, device: torch.device) -> Counts:
        """The counts of all processes together."""
        images, right, right_in_5, loss_sum = group.sum(
            [self.images, self.right, self.right_in_5, self.loss_sum], device
        )
        return Counts(int(images), int(right), int(right_in_5), loss_sum)

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * self.right / max(1, self.images)

    @property
    def top5(self) -> float:
        """Percent of images whose class is among the five likeliest."""
        return 100 * self.right_in_5 / max(1, self.images)

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.images)


def is_better(found: Counts, than: Counts) -> bool:
    """Whether one accuracy is higher than another by more than luck: two standard errors of their
    difference.
    """
    both = found.images + than.images
    if not found.images or not than.images:
        return True
    share = (found.right + than.right) / both
    error = math.sqrt(share * (1 - share) * (1 / found.images + 1 / than.images))
    return (found.top1 - than.top1) / 100 > 2 * error


def confidence_interval(counts: Counts) -> tuple[float, float]:
    """The 95 % confidence interval of the accuracy, in percent (Wilson's score interval, 1927)."""
    n, z = max(1, counts.images), 1.96
    share = counts.right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Counts:
    """Count over (images, labels) batches, in evaluation mode; the model's mode is restored."""
    was_training = model.training
    model.eval()
    counts = Counts()
    for images, labels in batches:
        logits = model(images)
        counts.add(logits, labels, F.cross_entropy(logits, labels))
    model.train(was_training)
    return counts
