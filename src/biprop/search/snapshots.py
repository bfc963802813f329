"""The checkpoints that a search writes into its run folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from .. import __version__, checkpoint
from .. import config as options
from ..config import Config
from ..data import DataSet
from ..errors import UserError
from ..evaluation.counts import Counts
from ..models.network import Network, Task
from ..runs.folder import CHECKPOINTS
from .state import SearchState


class CheckpointWriter:
    """Writes checkpoints of one search; rank 0 has one.

    Args:
        folder: the run folder.
        config, config_name: the options, and the name of their file.
        network, task, optimizer, data: what the search trains, with what, on what.

    Attributes:
        written: `time.monotonic()` of the last checkpoint, or of this writer's construction.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        config_name: str,
        network: Network,
        task: Task,
        optimizer: torch.optim.Optimizer,
        data: DataSet,
    ) -> None:
        self._folder = folder / CHECKPOINTS
        self._config, self._config_name = config, config_name
        self._network, self._task = network, task
        self._optimizer, self._data = optimizer, data
        self.written = time.monotonic()

    def has(self, name: str) -> bool:
        """Whether a checkpoint of this name is there."""
        return (self._folder / name).exists()

    def write(self, name: str, state: SearchState, train: Counts, validation: Counts) -> None:
        """Write checkpoint `name` (an atomic write).

        Args:
            state: of the search.
            train: training counts of the epoch so far, or of the one that has ended, summed over
                all processes.
            validation: validation counts of the epoch that has ended.

        Raises:
            UserError: the file cannot be written.
        """
        path = self._folder / name
        self.written = time.monotonic()
        try:
            checkpoint.save(path, self._fields(state, train, validation))
        except OSError as e:
            raise UserError(f"{path}: cannot be written: {e.strerror}") from None

    def _fields(self, state: SearchState, train: Counts, validation: Counts) -> dict[str, Any]:
        """The fields of the original research code under its names, and ours in "biprop"."""
        config = self._config
        return {
            "epoch": state.epoch,
            "arch": str(config.arch),  # a plain string, also where the command line names code
            "state_dict": self._network.model.state_dict(),
            "best_acc1": state.best.validation.top1,
            "best_acc5": state.best.validation.top5,
            "best_train_acc1": state.best_train.top1,
            "best_train_acc5": state.best_train.top5,
            "optimizer": self._optimizer.state_dict(),
            "curr_acc1": validation.top1,
            "curr_acc5": validation.top5,
            "conv_type": config.conv_type,
            "prune_rate": config.prune_rate,
            **checkpoint.augmentation_fields(config),
            "biprop": {
                **self._origin(),
                **state.to_checkpoint(train),
                **self._density_fields(),
                **self._data_fields(),
            },
        }

    def _origin(self) -> dict[str, Any]:
        return {
            "format": checkpoint.FORMAT,
            "version": __version__,
            "config": options.as_dict(self._config),
            "config_name": self._config_name,
            "of_ancestor": self._network.of_ancestor,
        }

    def _density_fields(self) -> dict[str, Any]:
        subnetwork = self._network.subnetwork
        return {
            "density": self._network.density,
            "densities": subnetwork.densities if subnetwork else {},
        }

    def _data_fields(self) -> dict[str, Any]:
        return {
            "selected_on": self._config.select_on,
            "num_classes": self._task.num_classes,
            "channels": self._task.channels,
            "input_size": list(self._task.input_size),
            "classes": self._data.classes,
            "mean": list(self._data.mean),
            "std": list(self._data.std),
        }
