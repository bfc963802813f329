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
from ..errors import abbreviated
from .memory_format import channels_last
from .mode import evaluating


@dataclass
class Counts:
    """Sums over images, which add up over batches and processes.

    Attributes:
        images: evaluated.
        right: images whose class has the highest logit.
        right_in_5: images whose class is among the five highest logits.
        loss_sum: sum of the images' losses.
    """

    images: int = 0
    right: int = 0
    right_in_5: int = 0
    loss_sum: float = 0.0

    @staticmethod
    def of(record: Any) -> Counts:
        """Counts from a record as of `dataclasses.asdict`, read from a file.

        Raises:
            ValueError: these are no counts.
        """
        names = {field.name for field in fields(Counts)}
        if not isinstance(record, dict) or set(record) != names:
            raise ValueError(f"no counts of images: {abbreviated(record)}")
        counts = Counts(**record)
        numbers = (counts.images, counts.right, counts.right_in_5)
        if not all(map(_is_count, numbers)) or not _is_finite(counts.loss_sum):
            raise ValueError(f"no counts of images: {abbreviated(record)}")
        return counts

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> float:
        """Count a batch; returns its mean loss as a number. On a GPU, this waits for the batch:
        `Uncounted` does not.

        Args:
            logits: [B, classes] float.
            labels: [B] int64.
            loss: the mean loss of the batch, a scalar.
        """
        uncounted = Uncounted()
        uncounted.add(logits, labels, loss)
        return uncounted.count(self)

    def sum_over(self, group: Group, device: torch.device) -> Counts:
        """The sums of these counts over all processes; `device` is that of their tensors."""
        images, right, right_in_5, loss_sum = group.sum(
            [self.images, self.right, self.right_in_5, self.loss_sum], device
        )
        return Counts(int(images), int(right), int(right_in_5), loss_sum)

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100 * self.right / max(1, self.images)

    @property
    def top5(self) -> float:
        """Top-5 accuracy in percent."""
        return 100 * self.right_in_5 / max(1, self.images)

    @property
    def loss(self) -> float:
        """Mean loss of an image."""
        return self.loss_sum / max(1, self.images)


class Uncounted:
    """Batches whose counts are still on their device: they are read together, because each reading
    makes the CPU wait for a GPU.
    """

    def __init__(self) -> None:
        self._images: list[int] = []
        self._sums: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch; arguments as of `Counts.add`."""
        top5 = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
        hits = top5 == labels[:, None]
        self._images.append(len(labels))
        self._sums.append(torch.stack([hits[:, 0].sum(), hits.sum(), loss.detach().float()]))

    def count(self, counts: Counts) -> float:
        """Add all batches to `counts`, and forget them: one host-device synchronisation.

        Returns:
            The sum of their mean losses: finite if each of them is; 0 where there is no batch.
        """
        sums = torch.stack(self._sums).tolist() if self._sums else []
        for images, (right, right_in_5, mean_loss) in zip(self._images, sums, strict=True):
            counts.images += images
            counts.right += int(right)
            counts.right_in_5 += int(right_in_5)
            counts.loss_sum += images * mean_loss
        self._images, self._sums = [], []
        return float(sum(mean_loss for _, _, mean_loss in sums))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def is_better(counts: Counts, baseline: Counts) -> bool:
    """Whether an accuracy is significantly higher than another: by more than two standard errors of
    their difference (a one-sided test of two proportions, pooled).
    """
    images = counts.images + baseline.images
    if not counts.images or not baseline.images:
        return True
    pooled = (counts.right + baseline.right) / images
    variance = pooled * (1 - pooled) * (1 / counts.images + 1 / baseline.images)
    return (counts.top1 - baseline.top1) / 100 > 2 * math.sqrt(variance)


NORMAL_QUANTILE = 1.96
"""Of 95 %, two-sided."""


def confidence_interval(counts: Counts) -> tuple[float, float]:
    """The 95 % confidence interval of the accuracy, in percent (Wilson's score interval, 1927)."""
    n, z = max(1, counts.images), NORMAL_QUANTILE
    share = counts.right / n
    shrinkage = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrinkage
    variance = share * (1 - share) / n + z * z / (4 * n * n)
    half = z * math.sqrt(variance) / shrinkage
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], in_channels_last: bool = False
) -> Counts:
    """Counts of a model over batches in evaluation mode, with cross entropy as the loss.

    The modes of its modules are restored.

    Args:
        model: images -> logits [B, classes].
        batches: (images [B, C, H, W], labels [B] int64) pairs, on the model's device.
        in_channels_last: give the model its images in that memory format.
    """
    uncounted, counts = Uncounted(), Counts()
    with evaluating(model):
        for images, labels in batches:
            logits = model(channels_last(images) if in_channels_last else images)
            uncounted.add(logits, labels, F.cross_entropy(logits, labels))
    uncounted.count(counts)
    return counts
