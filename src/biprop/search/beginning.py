"""What a search begins with: its network and optimizer, and what it continues from."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from .. import checkpoint
from ..config import Config
from ..data import DataSet
from ..distributed import Group
from ..errors import UserError, one_line
from ..models.network import Network, Task, build_network
from ..runs.folder import BEST, CHECKPOINTS
from .optim import build_optimizer
from .optim import load_state as load_optimizer
from .state import SearchState


def build(config: Config, task: Task, start: checkpoint.Content | None) -> Network:
    """The network of the options, with the weights and scores of `start` if there is one.

    Raises:
        UserError: network, options, data and checkpoint do not fit together.
    """
    if start is None:
        return build_network(config, task)
    checkpoint.check_size(config, task, start)
    network = build_network(config, task, ancestor=start.of_ancestor)
    checkpoint.load_state(network.model, start.state, start.path)
    return network


def optimizer_of(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """The optimizer of the options, for the parameters of a model that train."""
    return build_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        no_bn_decay=config.no_bn_decay,
        score_norm=config.score_norm,
        dense_lr=config.dense_lr,
        is_global=config.scope == "global",
    )


def check_share(config: Config, data: DataSet, group: Group) -> None:
    """Raise UserError if a process would get fewer than two images a step: batch norm needs two."""
    batch = min(config.batch_size, len(data.train))
    if group.size > 1 and batch < 2 * group.size:
        raise UserError(
            f"--batch-size {config.batch_size}: {batch} images a step are too few for"
            f" {group.size} processes"
        )


def check_single_image(model: nn.Module, task: Task, device: torch.device) -> None:
    """Raise UserError if the network cannot train on one image: behind a global pool, batch norm
    has one value a channel.
    """
    image = torch.zeros(1, *task.shape, device=device)
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(image)
    except ValueError:
        raise UserError(
            "--batch-size 1: the network's batch norm needs two images a step; pass 2 or more"
        ) from None


def check_continuation(start: checkpoint.Content, config: Config) -> None:
    """Raise UserError if the search of a checkpoint of ours cannot go on with these options."""
    assert start.ours
    before = start.config.select_on
    if config.select_on != before:
        raise UserError(
            f"--select-on {config.select_on}: but {start.path} says {before}, and its best epoch so"
            " far cannot be compared with epochs that are measured on other images: leave it out"
        )
    if start.ours["config"].get("teacher") and config.teacher is None:
        raise UserError(
            f"--resume {start.path}: this search has a teacher, whose file is not known outside its"
            " run folder: pass --teacher FILE"
        )


def restored_state(start: checkpoint.Content, config: Config, batches: int) -> SearchState:
    """The state in a checkpoint: see `SearchState.from_checkpoint`.

    Raises:
        UserError: the checkpoint is damaged.
    """
    try:
        return SearchState.from_checkpoint(start, config, batches)
    except (KeyError, ValueError, TypeError) as e:
        raise UserError(
            f"--resume {start.path}: a damaged checkpoint: {type(e).__name__}: {one_line(e)}"
        ) from None


def epoch_of_best(folder: Path | None) -> int:
    """The epoch of a run folder's best checkpoint; 0 if there is none, or it is damaged."""
    file = folder / CHECKPOINTS / BEST if folder else None
    if file is None or not file.is_file():
        return 0
    try:
        epoch = checkpoint.load(file).get("epoch", 0)
    except UserError:
        return 0
    return epoch if type(epoch) is int else 0


def restore_optimizer(optimizer: torch.optim.Optimizer, start: checkpoint.Content) -> None:
    """Load the optimizer's state of a checkpoint.

    Raises:
        UserError: it is of another optimizer, or of other parameters.
    """
    try:
        load_optimizer(optimizer, start.fields["optimizer"])
    except (KeyError, ValueError) as e:
        raise UserError(
            f"--resume {start.path}: its optimizer is not that of these options: {one_line(e)}"
        ) from None
