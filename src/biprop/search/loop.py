"""The search: train the scores, choose anew who is kept after every step, keep the best epoch."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import __version__, checkpoint, distributed
from .. import config as options
from ..config import Config
from ..console import Console
from ..data import DataSet, Split, sample
from ..data.stream import reader_death
from ..distributed import ALONE, Group, sync_batchnorm
from ..errors import UserError, one_line
from ..evaluation.counts import Counts, evaluate
from ..evaluation.device import choose_device, evaluation_batch
from ..files import replace_text
from ..interrupts import TO_STOP, StopRequest
from ..models.network import Network, Task, build_network
from ..runs import logs, results
from ..runs.folder import (
    BEST,
    CHECKPOINTS,
    INITIAL,
    LAST,
    LAYERS,
    LOGS,
    RESULT,
    ROW,
    Progress,
    has_told_its_end,
    held,
    make,
    read_object,
)
from ..runs.logs import Pace, RunLog
from ..subnetwork import schedule
from . import losses
from .optim import build_optimizer
from .optim import load_state as load_optimizer
from .outcome import Best, Result, SearchDiverged, SearchStopped, sample_in_words
from .schedules import learning_rate

CALIBRATION_BATCHES = 20
BASELINE_IMAGES = 2000
"""The most test images that the accuracy with random scores is measured on, and the most training
images (but at least one batch) for the statistics of batch norm."""
LOOK_EVERY = 10
"""Steps after which several processes ask each other whether to stop, to write a checkpoint, or
whether a loss is no number.
"""


LOST = "the loss is infinite or not a number in at least one of the processes"


class Search:
    """One run: the objects that live as long as it does.

    Args:
        config: the options.
        config_name: name of their file, for the run folder and results.csv.
        data: the images.
        console: where progress goes.
        start: a checkpoint to begin with: its weights and scores.
        resume: go on where `start` stopped, with its optimiser, epoch and best result; in its run
            folder if it has one. Without `start`: a run of these options that was killed before its
            first checkpoint begins anew in its folder.
        group: the processes that search together, started; each has the same network, and a share
            of every batch.

    Attributes:
        step: optimiser steps done, in all.
        epoch, batch: epochs done, and batches of the next one.
        train: counts of those batches, of this process.
        seconds: that the run has taken so far, without its interruptions.

    No generator has a state that a checkpoint would have to hold: order, cuts and augmentation
    follow from (seed, epoch, batch).

    Raises:
        UserError: network, data, options and checkpoint do not fit together, or the run folder
            cannot be written.
    """

    def __init__(
        self,
        config: Config,
        config_name: str,
        data: DataSet,
        console: Console,
        start: checkpoint.Content | None = None,
        resume: bool = False,
        group: Group = ALONE,
    ) -> None:
        self.config, self.config_name, self.console, self.group = (
            config,
            config_name,
            console,
            group,
        )
        self.device = choose_device(config.device, group)
        self.task = Task(len(data.classes), data.channels, data.input_size)
        if start:
            checkpoint.check_size(config, self.task, start)
        self.network: Network = build_network(
            config, self.task, ancestor=start.of_ancestor if start else False
        )
        if start:
            checkpoint.load_state(self.model, start.state, start.path)
        self.network.model.to(self.device)
        if (smallest := min(config.batch_size, len(data.train))) < 2 * group.size > 2:
            raise UserError(
                f"--batch-size {config.batch_size}: {smallest} images a step are too few for"
                f" {group.size} processes"
            )
        self.runner: nn.Module = self._data_parallel()
        if config.compile:
            if self.network.subnetwork:
                # moving a model makes its masks stale, and another program would be compiled
                self.network.subnetwork.update()
            self.runner = torch.compile(self.runner)  # type: ignore[assignment]
        self.data = data.to(self.device)
        self.optimizer = build_optimizer(
            self.model, config.optimizer,
            lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
            nesterov=config.nesterov, no_bn_decay=config.no_bn_decay,
        )  # fmt: skip
        self.step, self.epoch, self.batch = 0, config.start_epoch, 0
        self.train = Counts()
        self.best = Best()
        self.best_train = Counts()
        self.random_scores: Counts | None = None
        self._baseline_is_due = config.baseline and not start
        self.seconds = 0.0
        self.stop = StopRequest()
        self._saved = self._began = 0.0
        self._loss_is_lost = False
        self.results_file = results.results_file(config)
        group.by_first(lambda: results.check_results(self.results_file))
        folder = self._go_on(start) if start and resume else None
        take_over = resume and not start
        self.folder = folder or group.by_first(lambda: make(config, config_name, take_over))
        self.progress = Progress(self.folder)

    @property
    def model(self) -> nn.Module:
        return self.network.model

    @property
    def ramp(self) -> int:
        """Epochs before the final density is reached."""
        return (
            schedule.ramp_epochs(self.config.prune_rate_epoch, self.config.epochs)
            if self.config.scope == "global"
            else 0
        )

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return math.ceil(len(self.data.train) / self.config.batch_size)

    def from_where(self) -> str:
        """ ", from epoch 3 on" where a run goes on; empty where it begins."""
        if not self.epoch and not self.batch:
            return ""
        return (
            f", from epoch {self.epoch + 1}{f', batch {self.batch + 1:,}' if self.batch else ''} on"
        )

    def _go_on(self, start: checkpoint.Content) -> Path | None:
        """Take over optimiser, epoch and best result of a checkpoint; returns its run folder, if it
        is in one.
        """
        self.epoch = max(self.epoch, start.epoch)
        folder = checkpoint.run_folder(start.path)
        has_result = folder is not None and (folder / RESULT).exists()
        only_the_end_is_missing = self.epoch == self.config.epochs and start.ours and not has_result
        if self.epoch >= self.config.epochs and not only_the_end_is_missing:
            raise UserError(
                f"--resume {start.path}: is at epoch {start.epoch} of {self.config.epochs}: pass"
                " more --epochs"
            )
        try:
            load_optimizer(self.optimizer, start.fields["optimizer"])
        except (KeyError, ValueError) as e:
            raise UserError(
                f"--resume {start.path}: its optimiser is not that of these options: {one_line(e)}"
            ) from None
        if not start.ours:
            return None
        try:
            self._take_over(start, start.ours)
        except (KeyError, ValueError, TypeError) as e:
            raise UserError(
                f"--resume {start.path}: a damaged checkpoint: {type(e).__name__}: {one_line(e)}"
            ) from None
        return folder

    def _take_over(self, start: checkpoint.Content, ours: Mapping[str, Any]) -> None:
        """Steps, counts and best result of a checkpoint of this program.

        Raises:
            KeyError, ValueError, TypeError: they are not there, or no such values.
        """
        self.step = checkpoint.whole(ours["step"], 0, 2**62)
        seconds = float(ours.get("seconds", 0.0))
        self.seconds = seconds if math.isfinite(seconds) and seconds >= 0 else 0.0
        best_epoch = checkpoint.whole(ours["best_epoch"], 0, max(self.epoch, start.epoch))
        self.best = Best(best_epoch, Counts.of(ours["best_validation"]))
        self.best_train = Counts.of(ours["best_train"])
        if ours.get("random_scores"):
            self.random_scores = Counts.of(ours["random_scores"])
        self._baseline_is_due = self.config.baseline and ours.get("baseline_is_due", False)
        # Which images the batches done had follows from these options: with others, the epoch
        # begins anew.
        decisive = ("seed", "batch_size", "low_data", "one_batch")
        if all(getattr(start.config, name) == getattr(self.config, name) for name in decisive):
            batch = checkpoint.whole(ours.get("batch", 0), 0, self.batches)
            self.batch = batch if self.epoch == start.epoch else 0
            self.train = (
                Counts.of(ours["train"]) if self.batch and self.group.is_first else Counts()
            )

    def _data_parallel(self) -> nn.Module:
        """The model, or for several processes the model in a wrapper that averages gradients while
        they are computed.
        """
        if self.group.size == 1:
            return self.model
        # Batch-norm statistics are averaged once an epoch instead of being sent in every step. The
        # option's name is new in 2.13.
        parallel = nn.parallel.DistributedDataParallel
        new_name = "forward_sync_buffers" in inspect.signature(parallel).parameters
        sync: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
        if self.config.sync_batchnorm:
            sync_batchnorm.synchronise(self.model)
        wrapped = parallel(
            self.model, device_ids=[self.device] if self.device.type == "cuda" else None, **sync
        )
        if self.config.bf16_gradients:
            wrapped.register_comm_hook(
                None, lambda state, bucket: distributed.average_as_bfloat16(bucket)
            )
        return wrapped

    def _average_statistics(self) -> None:
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.group.average(
            [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
        )

    def run(self) -> Result:
        """Search to the end.

        Raises:
            SearchDiverged: not a number; the last good checkpoint is kept.
            SearchStopped: by SIGTERM or SIGHUP, after a checkpoint, or because another process has
                died.
            KeyboardInterrupt: Ctrl-C, after a checkpoint.
            UserError: a file cannot be written or read; or another process writes to this run
                folder.
        """
        with ExitStack() as stack:
            self.group.by_first(lambda: stack.enter_context(held(self.folder)))
            stack.enter_context(self.stop)
            try:
                return self._run()
            except BaseException as e:
                raise self._reason(e) from None

    def _reason(self, error: BaseException) -> BaseException:
        """What to tell of an error, also in the run folder."""
        if died := reader_death(error):
            error = died
        elif isinstance(error, OSError):
            error = UserError(
                f"{error.filename or self.folder}: cannot be written:"
                f" {error.strerror or one_line(error)}"
            )
        elif self.group.is_broken_by(error):
            error = SearchStopped(
                f"process {self.group.rank} of {self.group.size}: another one has died or does not"
                " answer"
            )
            error.is_by_accident = self.group.rank == 1 and not self._first_has_told()
        is_asked_for = isinstance(error, KeyboardInterrupt | SearchStopped)
        said = one_line(error) if str(error) else "Ctrl-C"
        if self.group.is_first:
            with suppress(OSError):
                self._tell_of_progress(
                    {}, f"{'stopped' if is_asked_for else 'failed'}: {said}", at_once=True
                )
        return error

    def _first_has_told(self) -> bool:
        """Whether the first process lives, and has said in the run folder why it ends; waits a
        little for that.
        """
        end = time.monotonic() + 2
        while not (told := has_told_its_end(self.folder)) and time.monotonic() < end:
            time.sleep(0.05)
        return told

    def _run(self) -> Result:
        config, started = self.config, time.monotonic()
        self._began = started - self.seconds
        if self.group.is_first:
            self._tell_of_progress({}, at_once=True)
            logs.forget_after(self.folder / LOGS, self.epoch)
            if self.epoch < config.epochs:
                (self.folder / ROW).unlink(missing_ok=True)
            if not (self.folder / CHECKPOINTS / INITIAL).exists():
                self._save(INITIAL, Counts(), Counts())
        self._saved = started
        if self._baseline_is_due:
            self._measure_baseline()
        if self.epoch == config.epochs:  # the run ended between its last epoch and its result
            validation = self._evaluate(self.data.validation)
        with (
            RunLog(self.folder / LOGS, self.epoch) if self.group.is_first else nullcontext()
        ) as run_log:
            while self.epoch < config.epochs:
                rate = self._set_schedule(self.epoch)
                pace = Pace(self.step)
                try:
                    self._train_epoch(pace)
                    train = self.train.sum_over(self.group, self.device)
                    if not math.isfinite(train.loss):
                        raise FloatingPointError(LOST)
                except FloatingPointError as e:
                    raise SearchDiverged(
                        f"epoch {self.epoch + 1}, step {self.step + 1}: {e}"
                    ) from None
                told = {"lr": rate, **pace.so_far(self.step, config.batch_size)}
                self._average_statistics()
                validation = self._evaluate(self.data.validation, save=True)
                self.epoch, self.batch, self.train = self.epoch + 1, 0, Counts()
                self.seconds = time.monotonic() - self._began
                self._end_epoch(run_log, {**told, "seconds": pace.seconds}, train, validation)
            result = self._finish()
        if self.group.is_first:
            row = self._row(result, validation)
            results.append_result(self.results_file, row, lambda: bool(self.stop.signal))
            self._tell_result(result)
            self._tell_of_progress({"seconds_left": 0}, "complete", at_once=True)
        return result

    def _set_schedule(self, epoch: int) -> float:
        config = self.config
        rate = learning_rate(
            config.lr_policy, epoch,
            lr=config.lr, epochs=config.epochs, warmup_length=config.warmup_length,
            lr_adjust=config.lr_adjust, lr_gamma=config.lr_gamma,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.network.subnetwork and self.ramp:
            assert config.prune_rate is not None
            self.network.subnetwork.set_density(
                schedule.scheduled_density(config.prune_rate, epoch, self.ramp)
            )
        return rate

    def _train_epoch(self, pace: Pace) -> None:
        """The batches of an epoch that are still to do."""
        config, epoch, counts = self.config, self.epoch, self.train
        self.runner.train()
        batches = self.data.training_batches(
            config.batch_size, config.seed, epoch, self.group, self.batch
        )
        with self.console.bar(f"epoch {epoch + 1}/{config.epochs}", self.batches) as bar:
            bar.advance(self.batch)
            for images, labels in self._while_they_come(batches):
                logits = self._logits(images)
                loss = losses.classification(logits, labels, config.label_smoothing)
                mean_loss = counts.add(
                    logits[: len(labels)], labels, loss
                )  # with JSD, the plain views
                if not math.isfinite(mean_loss):
                    if self.group.size == 1:
                        raise FloatingPointError(_first_not_finite(self.model, images))
                    self._loss_is_lost = True  # of several processes none stops alone
                self.optimizer.zero_grad()
                (loss * self._weight(len(labels))).backward()
                if config.grad_clip:
                    nn.utils.clip_grad_value_(
                        [p for g in self.optimizer.param_groups for p in g["params"]], 1.0
                    )
                self.optimizer.step()
                if self.network.subnetwork:
                    self.network.subnetwork.update()
                self.step, self.batch = self.step + 1, self.batch + 1
                if self.batch % config.print_freq == 0:
                    kept = f"  kept {100 * self.network.density:.1f} %"
                    bar.advance(
                        config.print_freq,
                        f"loss {counts.loss:.3f}  train {counts.top1:.1f} %{kept}",
                    )
                    self._tell_progress(pace)
                self._save_or_stop()

    def _while_they_come(
        self, batches: Iterator[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches; if one cannot be read, a checkpoint is written before that is told."""
        try:
            yield from batches
        except UserError:
            if self.group.size == 1:  # of several processes the others do not know of it
                self._save_between_steps()
            raise

    def _save_or_stop(self) -> None:
        """Between two steps: write a checkpoint if it is time for one, or if this run is asked to
        stop.

        Raises:
            SearchStopped, KeyboardInterrupt: it is asked to.
            FloatingPointError: in one of several processes, the loss was not a number.
        """
        alone = self.group.size == 1
        if not alone and self.step % LOOK_EVERY:
            return  # asking all the others is not free
        minutes = self.config.save_minutes
        is_time = (
            bool(minutes) and self.group.is_first and time.monotonic() - self._saved >= 60 * minutes
        )
        asked = self.stop.signal
        flags = [is_time, self._loss_is_lost, *(asked == number for number in TO_STOP)]
        is_time, is_lost, *stops = (
            n > 0 for n in self.group.sum([float(f) for f in flags], self.device)
        )
        if is_lost:
            raise FloatingPointError(LOST)
        if is_time or any(stops):
            self._save_between_steps()
        for number, is_asked in zip(TO_STOP, stops, strict=True):
            if is_asked:
                _stop(number)

    def _save_between_steps(self) -> None:
        self._average_statistics()
        train = self.train.sum_over(self.group, self.device)
        if self.group.is_first:
            self._save(LAST, train, Counts())

    def _tell_progress(self, pace: Pace) -> None:
        if not self.group.is_first:
            return
        speed = pace.so_far(self.step, self.config.batch_size)
        left = speed["seconds_per_step"] * (
            (self.config.epochs - self.epoch) * self.batches - self.batch
        )
        self._tell_of_progress({**speed, "loss": self.train.loss, "seconds_left": left})

    def _tell_of_progress(
        self, facts: Mapping[str, Any], state: str = "searches", at_once: bool = False
    ) -> None:
        own = {
            "epoch": self.epoch, "epochs": self.config.epochs, "batch": self.batch, "batches": self.batches, "step": self.step,
            "best_epoch": self.best.epoch, "best_validation": self.best.validation.top1, "memory": logs.memory_peak(self.device),
        }  # fmt: skip
        self.progress.tell(state, own | dict(facts), at_once)

    def _logits(self, images: Tensor) -> Tensor:
        """The model's answer in training: float32, however it was computed."""
        if self.config.channels_last:
            # Of the images only: convolutions follow them, and scores stay in the order in which
            # ties are broken.
            images = images.contiguous(memory_format=torch.channels_last)
        try:
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.config.amp == "bf16"
            ):
                return self.runner(images).float()  # type: ignore[no-any-return]
        except RuntimeError as e:
            if self.config.compile and type(e).__module__.startswith(
                ("torch._dynamo", "torch._inductor")
            ):
                raise UserError(
                    f"--compile: torch.compile fails here: {str(e).splitlines()[0]}; leave it out"
                ) from None
            raise

    def _weight(self, own: int) -> float:
        """What makes the plain mean of the processes' gradients the gradient of the batch's mean
        loss: shares differ in size.

        `own` is the number of images in this process's share of the batch.
        """
        total = min(
            self.config.batch_size, len(self.data.train) - self.batch * self.config.batch_size
        )
        return own * self.group.size / total

    def _evaluate(self, split: Split, save: bool = False) -> Counts:
        """Counts of all processes. One alone can be stopped between two batches.

        `save`: a checkpoint is written before that; else the newest one has all that was done.
        """
        batches = self.data.evaluation_batches(split, evaluation_batch(self.task), self.group)
        return evaluate(self.model, self._looking_up(batches, save)).sum_over(
            self.group, self.device
        )

    def _looking_up(
        self, batches: Iterator[tuple[Tensor, Tensor]], save: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            if self.stop.signal and self.group.size == 1:
                if save:
                    self._save_between_steps()
                _stop(self.stop.signal)
            yield batch

    def _measure_baseline(self) -> None:
        """Measure the accuracy with random scores, and save it with the first checkpoint.

        That is there already, so that a run which is stopped meanwhile goes on, and does it then.
        """
        self.random_scores = self._accuracy_before_search()
        self._baseline_is_due = False
        if self.group.is_first:
            self._save(INITIAL, Counts(), Counts())
            part = sample_in_words(self.random_scores, len(self.data.test))
            accuracy = f"{self.random_scores.top1:.1f} %{f' ({part})' if part else ''}"
            self.console.line(f"before the search, with random scores: test accuracy {accuracy}")

    @torch.no_grad()
    def _accuracy_before_search(self) -> Counts:
        """Test accuracy of the network with its first, random scores: what no search gives.

        It is measured on at most `BASELINE_IMAGES` images, of every class its share. Batch norm is
        given the statistics of some training batches first, else the comparison would be with a
        broken network.
        Nothing of it stays.
        """
        before = {key: value.clone() for key, value in self.model.state_dict().items()}
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # a plain average over the batches
        self.model.train()
        affordable = max(1, BASELINE_IMAGES // self.config.batch_size)
        count = min(CALIBRATION_BATCHES, affordable) if norms else 0
        batches = self.data.training_batches(
            self.config.batch_size, self.config.seed, 0, self.group
        )
        try:
            for images, _ in self._looking_up(itertools.islice(batches, count)):
                self.model(images)
            self._average_statistics()
            return self._evaluate(sample(self.data.test, BASELINE_IMAGES))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            self.model.load_state_dict(before)

    def _end_epoch(
        self, run_log: RunLog | None, told: dict[str, float], train: Counts, validation: Counts
    ) -> None:
        """Choose the best epoch, record this one and write the checkpoints; `self.epoch` counts it
        already.

        `told`: its learning rate and speed.
        """
        if train.top1 >= self.best_train.top1:
            self.best_train = train
        # Only epochs at the final density count, and of equals the later: it has seen more and has
        # the smaller learning rate. A few validation images choose by luck: then the last epoch
        # counts.
        is_better = (
            not self.data.validation_chooses or validation.right >= self.best.validation.right
        )
        is_best = self.epoch > self.ramp and is_better
        if is_best:
            self.best = Best(self.epoch, validation)
        if not run_log:
            return
        # In this order a run that is killed between any two lines does the same again when it is
        # resumed, from the epoch before.
        self._tell(run_log, told, train, validation)
        if is_best:
            self._save(BEST, train, validation)
        self._save(LAST, train, validation)
        if self.config.save_every > 0 and self.epoch % self.config.save_every == 0:
            self._save(f"epoch_{self.epoch}.state", train, validation)

    def _save(self, name: str, train: Counts, validation: Counts) -> None:
        """Write a checkpoint.

        `train`: counts of the epoch so far, or of the one that has ended, of all processes.
        """
        config = self.config
        path = self.folder / CHECKPOINTS / name
        self._saved = time.monotonic()
        try:
            checkpoint.save(
                path,
                {
                    "epoch": self.epoch,
                    "arch": config.arch,
                    "state_dict": self.model.state_dict(),
                    "best_acc1": self.best.validation.top1,
                    "best_acc5": self.best.validation.top5,
                    "best_train_acc1": self.best_train.top1,
                    "best_train_acc5": self.best_train.top5,
                    "optimizer": self.optimizer.state_dict(),
                    "curr_acc1": validation.top1,
                    "curr_acc5": validation.top5,
                    "conv_type": config.conv_type,
                    "prune_rate": config.prune_rate,
                    **checkpoint.augmentation_fields(config),
                    "biprop": {
                        "format": checkpoint.FORMAT,
                        "version": __version__,
                        "config": options.as_dict(config),
                        "config_name": self.config_name,
                        "of_ancestor": self.network.of_ancestor,
                        "step": self.step,
                        "batch": self.batch,
                        "train": asdict(train),
                        "random_scores": asdict(self.random_scores) if self.random_scores else None,
                        "baseline_is_due": self._baseline_is_due,
                        "seconds": time.monotonic() - self._began,
                        "best_epoch": self.best.epoch,
                        "best_validation": asdict(self.best.validation),
                        "best_train": asdict(self.best_train),
                        "density": self.network.density,
                        "densities": (
                            self.network.subnetwork.densities if self.network.subnetwork else {}
                        ),
                        "selected_on": config.select_on,
                        "num_classes": self.task.num_classes,
                        "channels": self.task.channels,
                        "input_size": list(self.task.input_size),
                        "classes": self.data.classes,
                        "mean": list(self.data.mean),
                        "std": list(self.data.std),
                    },
                },
            )
        except OSError as e:
            raise UserError(f"{path}: cannot be written: {e.strerror}") from None

    def _tell(
        self, run_log: RunLog, told: dict[str, float], train: Counts, validation: Counts
    ) -> None:
        config, density = self.config, self.network.density
        told = {**told, "seconds_left": told["seconds"] * (config.epochs - self.epoch)}
        run_log.epoch(
            self.epoch,
            {
                "train/loss": train.loss, "train/top1": train.top1, "train/top5": train.top5,
                "validation/loss": validation.loss, "validation/top1": validation.top1, "validation/top5": validation.top5,
                "density": density, "step": self.step, "memory": logs.memory_peak(self.device), **told, **self._layer_densities(),
            },
        )  # fmt: skip
        if config.histograms:
            run_log.histograms(self.epoch, self.model.named_parameters())
        self._tell_of_progress(told)
        width = len(str(config.epochs))
        self.console.line(
            f"epoch {self.epoch:>{width}}/{config.epochs}  loss {train.loss:.3f}  train"
            f" {train.top1:5.1f} %  "
            f"validation {validation.top1:5.1f} %  kept {100 * density:.1f} %  lr {told['lr']:.3g} "
            f" {told['seconds']:.1f} s"
            f"{'  best' if self.data.validation_chooses and self.best.epoch == self.epoch else ''}"
        )

    def _layer_densities(self) -> dict[str, float]:
        if self.config.scope != "global" or not self.network.subnetwork:
            return {}
        return {
            f"layer_density/{layer.name}": layer.density
            for layer in self.network.subnetwork.report()
        }

    def _finish(self) -> Result:
        assert self.best.epoch, "the schedule ends before the run does"
        path = self.folder / CHECKPOINTS / BEST
        self.model.load_state_dict(self.group.by_first(lambda: checkpoint.load(path)["state_dict"]))
        subnetwork = self.network.subnetwork
        layers = subnetwork.report() if subnetwork else []
        if layers and self.group.is_first:
            text = json.dumps(
                [{**asdict(layer), "density": layer.density} for layer in layers], indent=1
            )
            replace_text(self.folder / LAYERS, text + "\n")
        return Result(
            folder=self.folder,
            epoch=self.best.epoch,
            validation=self.best.validation,
            test=self._evaluate(self.data.test),
            random_scores=self.random_scores,
            weights=subnetwork.weights if subnetwork else 0,
            kept=subnetwork.kept if subnetwork else 0,
            layers=layers,
            seconds=self.seconds,
        )

    def _tell_result(self, result: Result) -> None:
        """Write the accuracies into the run folder: last of all, so that the file says that the run
        is complete.
        """
        counts = {
            "validation": result.validation,
            "test": result.test,
            "random_scores": result.random_scores,
        }
        told = {
            "epoch": result.epoch,
            **{name: asdict(c) if c else None for name, c in counts.items()},
        }
        replace_text(self.folder / RESULT, json.dumps(told, indent=1) + "\n")

    def _row(self, result: Result, last: Counts) -> dict[str, Any]:
        """The run's row of results.csv: the one in its folder, if it was killed after writing that."""
        path, config = self.folder / ROW, self.config
        row = {
            "Date Finished": datetime.now().isoformat(sep=" ", timespec="seconds"),
            "Base Config": self.config_name,
            "Current Val Top 1": round(last.top1, 4),
            "Current Val Top 5": round(last.top5, 4),
            "Best Val Top 1": round(result.validation.top1, 4),
            "Best Val Top 5": round(result.validation.top5, 4),
            "Best Train Top 1": round(self.best_train.top1, 4),
            "Best Train Top 5": round(self.best_train.top5, 4),
            "Name": config.name,
            "Seed": config.seed,
            "Prune Rate": config.prune_rate,
            "Learning Rate": config.lr,
            "Epochs": config.epochs,
            "Weight Decay": config.weight_decay,
            "Learn BN": config.learn_batchnorm,
            "Tune BN": config.tune_batchnorm,
            "Bias Only": config.bn_bias_only,
            "Run Directory": str(self.folder),
            "Test Top 1": round(result.test.top1, 4),
            "Test Top 5": round(result.test.top5, 4),
            "Selected On": config.select_on,
            "Density": round(result.density, 6),
        }
        if (written := read_object(path)).keys() == row.keys():
            return written
        replace_text(path, json.dumps(row, indent=1) + "\n")
        return row


def _stop(number: int) -> NoReturn:
    """What a signal that asks a search to stop leads to.

    Raises:
        KeyboardInterrupt, SearchStopped
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SearchStopped(signal.Signals(number).name)


@torch.no_grad()
def _first_not_finite(model: nn.Module, images: Tensor) -> str:
    """Which module of the model is the first whose output is not finite on these images."""
    culprits: list[str] = []

    def look(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                culprits.append(name)

        return hook

    handles = [
        m.register_forward_hook(look(n)) for n, m in model.named_modules() if not list(m.children())
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    place = f"in layer {culprits[0]}" if culprits else "in the loss itself"
    return f"the loss is not finite: the first infinite or undefined value is {place}"
