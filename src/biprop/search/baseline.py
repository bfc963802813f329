"""The accuracy with random scores: the network before the search, as a baseline."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import Config
from ..data import DataSet, Split, sample
from ..distributed import Group
from ..evaluation.counts import Counts
from .forward import average_batch_norm_statistics

CALIBRATION_BATCHES = 20
BASELINE_IMAGES = 2000
"""Upper bounds of the sample: the most test images that are evaluated, and the most training images
(but at least one batch) from which batch norm takes its statistics.
"""

Batches = Iterator[tuple[Tensor, Tensor]]


@torch.no_grad()
def random_score_accuracy(
    model: nn.Module,
    data: DataSet,
    config: Config,
    group: Group,
    until_stopped: Callable[[Batches], Batches],
    evaluate: Callable[[Split], Counts],
) -> Counts:
    """Counts on test images of the network with its first, random scores.

    The sample is stratified by class. Batch norm first takes the statistics of some training
    batches: without them, the comparison would be with a network that computes nothing useful.
    Model and modes are afterwards as before.

    Args:
        until_stopped: passes batches through, and raises where the user asks the search to stop.
        evaluate: counts over all images of a split and all processes.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    batches = data.training_batches(config.batch_size, config.seed, 0, group)
    sampled = itertools.islice(batches, _calibration_batches(config) if norms else 0)
    with _restored(model), _plain_averages(norms):
        model.train()
        for images, _ in until_stopped(sampled):
            model(images)
        average_batch_norm_statistics(model, group)
        return evaluate(sample(data.test, BASELINE_IMAGES))


def _calibration_batches(config: Config) -> int:
    affordable = max(1, BASELINE_IMAGES // config.batch_size)
    return min(CALIBRATION_BATCHES, affordable)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore the model's state dict when the block ends."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(state)


@contextmanager
def _plain_averages(norms: list[_BatchNorm]) -> Iterator[None]:
    """Within the block, running statistics are plain averages over batches, not moving ones."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
