"""The training batches of a search, with what its teacher says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..config import Config
from ..console import Console
from ..data import DataSet
from ..data.transfer import on_device
from ..distributed import Group
from ..evaluation.device import evaluation_batch
from ..models.network import Task
from .forward import TrainingForward
from .teacher import Teacher

Batches = Iterator[tuple[Tensor, Tensor]]
Lesson = tuple[Tensor, Tensor, Tensor | None]
"""Images [V B, C, H, W], labels [B], and a teacher's logits [B, classes] if there is one."""


class Lessons:
    """The training batches of a search, with its teacher's logits if it has one.

    Args:
        config: the options of the search.
        data: its data, on its device.
        task: what they require of a network.
        teacher: the network whose predictions are learned too; or None.
        forward: computes the teacher's logits.
        group: the processes, which share each batch.
        console: shows the progress of a pass over all images.
        until_stopped: passes batches through, and raises where the user asks the search to stop.
    """

    def __init__(
        self,
        config: Config,
        data: DataSet,
        task: Task,
        teacher: Teacher | None,
        forward: TrainingForward,
        group: Group,
        console: Console,
        until_stopped: Callable[[Batches], Batches],
    ) -> None:
        self._config, self._data, self._task = config, data, task
        self._teacher, self._forward, self._group = teacher, forward, group
        self._console, self._until_stopped = console, until_stopped
        self._predictions: Tensor | None = None

    @property
    def asks_teacher_once(self) -> bool:
        """Whether a teacher sees each training image once, as it is, instead of every batch."""
        return self._teacher is not None and self._config.teacher_views == "plain"

    def of_epoch(self, epoch: int, first: int = 0) -> Iterator[Lesson]:
        """The batches of an epoch from batch `first` on: this process's share of each."""
        config = self._config
        which = (config.batch_size, config.seed, epoch, self._group, first)
        batches = self._data.training_batches(*which)
        if self._teacher is None:
            for images, labels in batches:
                yield images, labels, None
        elif self.asks_teacher_once:
            predictions = self.all_predictions()
            rows = self._data.training_indices(*which)
            for (images, labels), row in zip(batches, rows, strict=True):
                yield images, labels, predictions[on_device(row, predictions.device)]
        else:
            for images, labels in batches:
                yield images, labels, self._logits_of_teacher(images[: len(labels)])

    def all_predictions(self) -> Tensor:
        """What the teacher says of all training images as they are, neither cropped nor flipped;
        where the search flips images, the mean of the logits of an image and of its mirror image.

        Computed at the first call.

        Returns:
            [N, classes] float32, for the N training images, in all processes.
        """
        if self._predictions is None:
            self._predictions = self._predict_all()
        return self._predictions

    def _predict_all(self) -> Tensor:
        data, group, train = self._data, self._group, self._data.train
        size = evaluation_batch(self._task)
        batches = self._until_stopped(data.evaluation_batches(train, size, group))
        count = math.ceil(len(train) / group.size / size)
        title = "batches seen by the teacher"
        own = [
            self._predict_batch(images) for images, _ in self._console.track(batches, title, count)
        ]
        logits = torch.zeros(len(train), len(data.classes), device=train.labels.device)
        logits[group.share_of(len(train))] = torch.cat(own)
        group.average([logits])  # of the rows, zero in all processes but one
        return logits.mul_(group.size)

    def _predict_batch(self, images: Tensor) -> Tensor:
        views = [images]
        if "flip" in self._data.augment:
            views.append(images.flip(-1))
        return torch.stack([self._logits_of_teacher(view) for view in views]).mean(0)

    def _logits_of_teacher(self, images: Tensor) -> Tensor:
        """[B, classes], of images [B, C, H, W], normalised for the search."""
        assert self._teacher
        return self._forward.logits_of(self._teacher, images)
