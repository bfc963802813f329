"""What a search reports while it runs: the console, TensorBoard and metrics.jsonl, progress.json,
results.csv, layers.json and result.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..console import Bar, Console
from ..data import DataSet
from ..evaluation.counts import Counts
from ..files import write_text_atomically
from ..models.network import Network
from ..runs import logs, results
from ..runs.folder import LAYERS, LOGS, RESULT, ROW, ProgressFile, read_object
from ..runs.logs import Pace, RunLog
from ..subnetwork import LayerReport
from .budget import Budget
from .outcome import Result, sample_in_words
from .state import SearchState


class Reporter:
    """Reports nothing: for all processes but rank 0.

    The search calls one method at each of its events; none changes the search.
    """

    def on_start(self, state: SearchState) -> None:
        """The search starts or continues."""

    def on_baseline(self, state: SearchState) -> None:
        """The accuracy with random scores has been measured, and saved."""

    @contextmanager
    def recording(self, state: SearchState) -> Iterator[None]:
        """Within the block, epochs are recorded."""
        yield

    @contextmanager
    def progress_bar(self, state: SearchState) -> Iterator[None]:
        """Within the block, the batches of an epoch are trained on."""
        yield

    def on_steps(self, state: SearchState, pace: Pace) -> None:
        """An optimizer step is done."""

    def on_epoch(
        self, state: SearchState, train: Counts, validation: Counts, rates: Mapping[str, float]
    ) -> None:
        """An epoch has ended, and its checkpoints are not yet written.

        Args:
            state: counts this epoch already.
            train, validation: counts of all processes.
            rates: "lr", "seconds_per_step", "images_per_second" and "seconds" of the epoch.
        """

    def on_layers(self, layers: list[LayerReport]) -> None:
        """The network of the best epoch has been loaded; `layers` are its masked layers."""

    def on_result(
        self,
        result: Result,
        state: SearchState,
        validation: Counts,
        is_asked_to_stop: Callable[[], bool],
    ) -> None:
        """The search is complete.

        Args:
            validation: counts of the last epoch.
            is_asked_to_stop: ends the wait for a locked table of results.
        """

    def on_error(self, state: SearchState, status: str) -> None:
        """The search ends before its time; `status` says why."""


class RunReporter(Reporter):
    """Reports to the console and into the run folder: for rank 0.

    Args:
        folder: the run folder.
        results_file: the table that the run is appended to.
        device: of the network.
        budget: how long the search goes on.
    """

    def __init__(
        self,
        folder: Path,
        results_file: Path,
        config: Config,
        config_name: str,
        network: Network,
        data: DataSet,
        device: torch.device,
        console: Console,
        budget: Budget,
    ) -> None:
        self._folder, self._results_file = folder, results_file
        self._config, self._config_name = config, config_name
        self._network, self._data, self._device = network, data, device
        self._console, self._budget = console, budget
        self._progress = ProgressFile(folder)
        self._run_log: RunLog | None = None
        self._bar, self._kept = Bar(), ""

    def on_start(self, state: SearchState) -> None:
        """Write progress.json; drop what the logs have of epochs that will be repeated."""
        self._write_progress(state, at_once=True)
        logs.forget_after(self._folder / LOGS, state.epoch)
        if not self._budget.is_used_up(state):
            (self._folder / ROW).unlink(missing_ok=True)

    def on_baseline(self, state: SearchState) -> None:
        """Print the accuracy with random scores, and on how many images it was measured."""
        counts = state.random_scores
        assert counts
        part = sample_in_words(counts, len(self._data.test))
        accuracy = f"{counts.top1:.1f} %{f' ({part})' if part else ''}"
        self._console.line(f"before the search, with random scores: test accuracy {accuracy}")

    @contextmanager
    def recording(self, state: SearchState) -> Iterator[None]:
        """Within the block, the logs of the run folder are open."""
        with RunLog(self._folder / LOGS, state.epoch) as self._run_log:
            yield

    @contextmanager
    def progress_bar(self, state: SearchState) -> Iterator[None]:
        """Within the block, a terminal shows a progress bar of the epoch's batches."""
        title = f"epoch {self._budget.in_words(state.epoch + 1, state).strip()}"
        # Once an epoch: counting waits for a GPU.
        self._kept = f"kept {100 * self._network.density:.1f} %"
        with self._console.bar(title, self._budget.batches) as self._bar:
            self._bar.advance(state.batch)
            yield

    def on_steps(self, state: SearchState, pace: Pace) -> None:
        """Every `print_freq` batches, update the progress bar and progress.json."""
        if state.batch % self._config.print_freq:
            return
        accuracy = f"loss {state.train.loss:.3f}  train {state.train.top1:.1f} %"
        self._bar.advance(self._config.print_freq, f"{accuracy}  {self._kept}")
        self._write_progress(state, self._speed(state, pace))

    def _speed(self, state: SearchState, pace: Pace) -> dict[str, float]:
        """Speed, loss and remaining time within an epoch, for progress.json."""
        speed = pace.so_far(state.step, self._config.batch_size)
        seconds_left = self._budget.seconds_left(state, speed["seconds_per_step"])
        return {**speed, "loss": state.train.loss, "seconds_left": seconds_left}

    def on_epoch(
        self, state: SearchState, train: Counts, validation: Counts, rates: Mapping[str, float]
    ) -> None:
        """Write the epoch to the logs and to progress.json, and print its line."""
        seconds_left = self._budget.seconds_left(state, rates["seconds"] / self._budget.batches)
        rates = {**rates, "seconds_left": seconds_left}
        assert self._run_log
        self._run_log.epoch(state.epoch, self._metrics(state, train, validation, rates))
        if self._config.histograms:
            self._run_log.histograms(state.epoch, self._network.model.named_parameters())
        self._write_progress(state, rates)
        self._console.line(self._epoch_line(state, train, validation, rates))

    def on_layers(self, layers: list[LayerReport]) -> None:
        """Write layers.json, if there are masked layers."""
        if layers:
            records = [{**asdict(layer), "density": layer.density} for layer in layers]
            _write_json(self._folder / LAYERS, records)

    def on_result(
        self,
        result: Result,
        state: SearchState,
        validation: Counts,
        is_asked_to_stop: Callable[[], bool],
    ) -> None:
        """Append the row to the table of results; write result.json and progress.json."""
        row = self._row(result, state, validation)
        results.append_result(self._results_file, row, is_asked_to_stop)
        self._write_result(result)
        self._write_progress(state, {"seconds_left": 0}, "complete", at_once=True)

    def on_error(self, state: SearchState, status: str) -> None:
        """Write the status to progress.json; a full disk is no further error."""
        with suppress(OSError):
            self._write_progress(state, status=status, at_once=True)

    def _write_progress(
        self,
        state: SearchState,
        facts: Mapping[str, Any] | None = None,
        status: str = "searches",
        at_once: bool = False,
    ) -> None:
        facts = {**self._position(state), **(facts or {})}
        self._progress.write(status, facts, at_once)

    def _position(self, state: SearchState) -> dict[str, Any]:
        """How far the search is, for progress.json."""
        return {
            "epoch": state.epoch,
            "epochs": self._config.epochs,
            "minutes": self._config.minutes,
            "elapsed": state.elapsed,
            "batch": state.batch,
            "batches": self._budget.batches,
            "step": state.step,
            "best_epoch": state.best.epoch,
            "best_validation": state.best.validation.top1,
            "measured_on": self._config.measured_on,
            "memory": logs.memory_peak(self._device),
        }

    def _metrics(
        self, state: SearchState, train: Counts, validation: Counts, rates: Mapping[str, float]
    ) -> dict[str, float]:
        """The named numbers of an epoch, for TensorBoard and metrics.jsonl."""
        return {
            **_accuracies("train", train),
            **_accuracies("validation", validation),
            "density": self._network.density,
            "step": state.step,
            "memory": logs.memory_peak(self._device),
            **rates,
            **self._layer_densities(),
        }

    def _layer_densities(self) -> dict[str, float]:
        """The density of each layer, where the search chooses it (global scope)."""
        subnetwork = self._network.subnetwork
        if self._config.scope != "global" or not subnetwork:
            return {}
        return {f"layer_density/{layer.name}": layer.density for layer in subnetwork.report()}

    def _epoch_line(
        self, state: SearchState, train: Counts, validation: Counts, rates: Mapping[str, float]
    ) -> str:
        is_best = self._data.validation_chooses and state.best.epoch == state.epoch
        parts = [
            f"epoch {self._budget.in_words(state.epoch, state)}",
            f"loss {train.loss:.3f}",
            f"train {train.top1:5.1f} %",
            f"{self._config.measured_on} {validation.top1:5.1f} %",
            f"kept {100 * self._network.density:.1f} %",
            f"lr {rates['lr']:.3g}",
            f"{rates['seconds']:.1f} s",
        ]
        return "  ".join([*parts, "best"] if is_best else parts)

    def _write_result(self, result: Result) -> None:
        """Write the accuracies into the run folder: last of all files, so that this one says that
        the run is complete.
        """
        random_scores = result.random_scores
        record = {
            "epoch": result.epoch,
            "validation": asdict(result.validation),
            "test": asdict(result.test),
            "random_scores": asdict(random_scores) if random_scores else None,
        }
        _write_json(self._folder / RESULT, record)

    def _row(self, result: Result, state: SearchState, validation: Counts) -> dict[str, Any]:
        """The run's row of results.csv.

        If the run was killed after it had written that row into its folder, it is the same row
        again: the table may have it already.
        """
        path = self._folder / ROW
        row = self._new_row(result, state, validation)
        written = read_object(path)
        if written.keys() == row.keys():
            return written
        _write_json(path, row)
        return row

    def _new_row(self, result: Result, state: SearchState, validation: Counts) -> dict[str, Any]:
        epochs = state.epoch if self._budget.is_time else self._config.epochs
        return {
            "Date Finished": datetime.now().isoformat(sep=" ", timespec="seconds"),
            "Base Config": self._config_name,
            **_accuracy_columns("Current Val", validation),
            **_accuracy_columns("Best Val", result.validation),
            **_accuracy_columns("Best Train", state.best_train),
            **_option_columns(self._config, epochs),
            "Run Directory": str(self._folder),
            **_accuracy_columns("Test", result.test),
            "Selected On": self._config.select_on,
            "Density": round(result.density, 6),
            **_kind_columns(self._config),
        }


def _accuracies(name: str, counts: Counts) -> dict[str, float]:
    return {
        f"{name}/loss": counts.loss,
        f"{name}/top1": counts.top1,
        f"{name}/top5": counts.top5,
    }


def _accuracy_columns(name: str, counts: Counts) -> dict[str, float]:
    return {f"{name} Top 1": round(counts.top1, 4), f"{name} Top 5": round(counts.top5, 4)}


def _option_columns(config: Config, epochs: int) -> dict[str, Any]:
    return {
        "Name": config.name,
        "Seed": config.seed,
        "Prune Rate": config.prune_rate,
        "Learning Rate": config.lr,
        "Epochs": epochs,
        "Weight Decay": config.weight_decay,
        "Learn BN": config.learn_batchnorm,
        "Tune BN": config.tune_batchnorm,
        "Bias Only": config.bn_bias_only,
    }


def _kind_columns(config: Config) -> dict[str, Any]:
    """What tells searches apart that have one configuration and prune rate."""
    chosen = {"AugMix": config.augmix, "noise": config.gaussian_aug, "JSD": config.jsd}
    augmentation = [config.augment, *(name for name, is_on in chosen.items() if is_on)]
    return {
        "Network": str(config.arch),
        "Data Set": config.set,
        "Conv Type": config.conv_type,
        "Optimizer": config.optimizer,
        "Augmentation": " ".join(augmentation),
        "Minutes": "" if config.minutes is None else config.minutes,
    }


def _write_json(path: Path, value: Any) -> None:
    write_text_atomically(path, json.dumps(value, indent=1) + "\n")
