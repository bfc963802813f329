"""The search: train scores, recompute the mask after each optimizer step, keep the best epoch."""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from .. import checkpoint, rng
from ..config import Config, has_graph
from ..console import Console
from ..data import DataSet, Split
from ..data.stream import reader_death
from ..distributed import ALONE, Group
from ..errors import UserError, one_line
from ..evaluation.counts import Counts, Uncounted, evaluate
from ..evaluation.device import choose_device, evaluation_batch
from ..interrupts import STOP_SIGNALS, StopRequest
from ..models.network import Task
from ..models.whitening import fit_whitening
from ..runs import results
from ..runs.folder import BEST, CHECKPOINTS, INITIAL, LAST, RESULT, has_final_status, held, make
from ..runs.logs import Pace
from ..subnetwork import schedule
from . import beginning, losses, teacher
from .baseline import random_score_accuracy
from .budget import RAMP_SHARE, Budget
from .forward import TrainingForward, average_batch_norm_statistics, where_not_finite
from .heap import freed_memory_kept
from .lessons import Batches, Lesson, Lessons
from .outcome import Best, Result, SearchDiverged, SearchStopped
from .reporter import Reporter, RunReporter
from .schedules import PER_STEP, learning_rate
from .snapshots import CheckpointWriter
from .state import SearchState

SYNCHRONISE_EVERY = 10
"""Steps after which several processes exchange whether to stop, whether to write a checkpoint, and
whether a loss is not finite.
"""
LOOK_EVERY = 50
"""Steps after which a search on one GPU looks at losses, counts and scores: each look waits for the
GPU. On the CPU, and in one of several processes, it looks at every step.
"""
NON_FINITE_LOSS = "the loss is infinite or not a number in at least one of the processes"
PATIENCE_WITH_RANK_0 = 2.0
"""Seconds that another process waits for rank 0 to record why it ends."""


class Search:
    """One search, from its options to its result.

    The constructor builds network, optimizer and state, and puts the data on the device;
    `open_folder` makes the run folder; `run` searches.

    Args:
        config: the options.
        config_name: name of their file, for the run folder and results.csv.
        data: the images.
        console: for progress and results.
        start: a checkpoint whose weights and scores the search starts from.
        resume: continue the search of `start`, with its optimizer, epoch and best result, in its
            run folder if it lies in one. Without `start`: use the run folder of a search of these
            options that was killed before its first checkpoint.
        group: the processes that search together, connected; each has the same network, and a share
            of every batch.

    Attributes:
        network, task, optimizer, data, device: what is trained, for what, by what, on what, where.
        teacher: the network whose predictions are learned too; or None.
        lessons: the training batches, with what the teacher says of them.
        state: how far the search is.
        budget: how far it goes.
        checkpoints, reporter: what it writes; there after `open_folder`.

    Raises:
        UserError: network, data, options and checkpoint do not fit together.
    """

    checkpoints: CheckpointWriter
    reporter: Reporter

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
        self.config, self.config_name = config, config_name
        self.console, self.group = console, group
        self.device = choose_device(config.device, group)
        self.task = Task(len(data.classes), data.channels, data.input_size)
        self.network = beginning.build(config, self.task, start)
        if start is None:
            fit_whitening(self.network.model, data.training_sample)
        self.network.model.to(self.device)
        beginning.check_share(config, data, group)
        if min(config.batch_size, len(data.train)) * data.views == 1:
            beginning.check_single_image(self.network.model, self.task, self.device)
        self._forward = TrainingForward(self.network, self.task, config, self.device, group)
        self.teacher = teacher.load(config, data, self.device)
        self.data = data.to(self.device)
        self.lessons = Lessons(
            config,
            self.data,
            self.task,
            self.teacher,
            self._forward,
            group,
            console,
            self._until_stopped,
        )
        self.budget = Budget.of(config, self.batches)
        self.optimizer = beginning.optimizer_of(self.model, config)
        is_baseline_due = config.baseline and not start
        self.state = SearchState(epoch=config.start_epoch, baseline_is_due=is_baseline_due)
        self.stop = StopRequest()
        self._loss_is_not_finite = False
        self._uncounted = Uncounted()
        is_alone_on_gpu = self.device.type != "cpu" and group.size == 1
        self._look_every = LOOK_EVERY if is_alone_on_gpu else 1
        self._folder: Path | None = None
        self._folder_to_resume: Path | None = None
        self._may_take_over = resume and not start
        if start and resume:
            self._restore(start)

    @property
    def model(self) -> nn.Module:
        """The module that is trained."""
        return self.network.model

    @property
    def is_in_channels_last(self) -> bool:
        """Whether the network is given images in the memory format channels_last."""
        return self._forward.is_in_channels_last

    @property
    def folder(self) -> Path:
        """The run folder; there after `open_folder`."""
        assert self._folder, "open_folder() comes first"
        return self._folder

    @property
    def ramp(self) -> float:
        """Epochs, or with a budget of time its share, before the final density is reached."""
        config = self.config
        if config.scope != "global":
            return 0
        if self.budget.is_time:
            return RAMP_SHARE if config.prune_rate_epoch else 0
        return schedule.ramp_epochs(config.prune_rate_epoch, config.epochs)

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.data.train) / self.config.batch_size)

    def from_where(self) -> str:
        """ ", from epoch 3 on" where a search continues; empty where it starts."""
        epoch, batch = self.state.epoch, self.state.batch
        if not epoch and not batch:
            return ""
        return f", from epoch {epoch + 1}{f', batch {batch + 1:,}' if batch else ''} on"

    def _restore(self, start: checkpoint.Content) -> None:
        """Restore optimizer and state from a checkpoint.

        Raises:
            UserError: the search is complete, or the checkpoint is damaged or of other options.
        """
        folder = checkpoint.run_folder(start.path)
        self.state.epoch = max(self.state.epoch, start.epoch)
        if start.ours:
            beginning.check_continuation(start, self.config)
            self.state = beginning.restored_state(start, self.config, self.batches)
            self._folder_to_resume = folder
            best_there = self.group.by_first(lambda: beginning.epoch_of_best(folder))
            if best_there != self.state.best.epoch:
                # Its weights are lost: the file lies in no run folder, or is older than the best of
                # its folder, or the search was killed between two checkpoints.
                self.state.best = Best()
        if not self.group.is_first:
            self.state.train = Counts()  # of a checkpoint they are those of all processes
        self._check_that_something_is_left(start, folder)
        beginning.restore_optimizer(self.optimizer, start)

    def _check_that_something_is_left(self, start: checkpoint.Content, folder: Path | None) -> None:
        """Raise UserError if there is nothing left to do: neither training nor the result."""
        if not self.budget.is_over(self.state):
            return
        has_result = folder is not None and (folder / RESULT).exists()
        is_at_the_end = self.budget.is_time or self.state.epoch == self.config.epochs
        if not (is_at_the_end and self.state.best.epoch and not has_result):
            where = self.budget.in_words(self.state.epoch, self.state).strip()
            raise UserError(
                f"--resume {start.path}: is at epoch {where}: pass more {self.budget.option}"
            )

    def open_folder(self) -> Path:
        """Make the run folder, or take that of the search that continues, at the first call.

        Raises:
            UserError: the run folder cannot be written, or results.csv is another table.
        """
        if self._folder:
            return self._folder
        results_file = results.results_file(self.config)
        self.group.by_first(lambda: results.check_results(results_file))
        self._folder = self._folder_to_resume or self.group.by_first(self._make_folder)
        self.checkpoints = self._checkpoint_writer(self._folder)
        self.reporter = Reporter()
        if self.group.is_first:
            self.reporter = self._run_reporter(self._folder, results_file)
        return self._folder

    def _make_folder(self) -> Path:
        return make(self.config, self.config_name, self._may_take_over)

    def _checkpoint_writer(self, folder: Path) -> CheckpointWriter:
        return CheckpointWriter(
            folder,
            self.config,
            self.config_name,
            self.network,
            self.task,
            self.optimizer,
            self.data,
        )

    def _run_reporter(self, folder: Path, results_file: Path) -> RunReporter:
        return RunReporter(
            folder,
            results_file,
            self.config,
            self.config_name,
            self.network,
            self.data,
            self.device,
            self.console,
            self.budget,
        )

    def run(self) -> Result:
        """Search to the end.

        Raises:
            SearchDiverged: a loss or a score is not finite; the last good checkpoint stays.
            SearchStopped: by SIGTERM or SIGHUP, after a checkpoint, or because another process has
                died.
            KeyboardInterrupt: Ctrl-C, after a checkpoint.
            UserError: a file cannot be written or read, or another process writes to the run
                folder.
        """
        folder = self.open_folder()
        with ExitStack() as stack:
            self.group.by_first(lambda: stack.enter_context(held(folder)))
            stack.enter_context(self.stop)
            stack.enter_context(freed_memory_kept())
            try:
                return self._run()
            except BaseException as e:
                error = self._explained(e)
                self._report_error(error)
                raise error from None

    def _explained(self, error: BaseException) -> BaseException:
        """The error that says what an error means for the user."""
        if died := reader_death(error):
            return died
        if isinstance(error, OSError):
            file = error.filename or self.folder
            return UserError(f"{file}: cannot be written: {error.strerror or one_line(error)}")
        return self._stopped_by_accident() if self.group.is_broken_by(error) else error

    def _stopped_by_accident(self) -> SearchStopped:
        """The error of a process that lost the connection to another one.

        Rank 1 reports it where rank 0 does not.
        """
        process = f"process {self.group.rank} of {self.group.size}"
        error = SearchStopped(f"{process}: another process has died or does not answer")
        error.is_by_accident = self.group.rank == 1 and not self._rank_0_recorded_its_end()
        return error

    def _rank_0_recorded_its_end(self) -> bool:
        """Whether rank 0 is alive, and has recorded in the run folder why it ends; waits a little
        for that.
        """
        end = time.monotonic() + PATIENCE_WITH_RANK_0
        while not (is_recorded := has_final_status(self.folder)) and time.monotonic() < end:
            time.sleep(0.05)
        return is_recorded

    def _report_error(self, error: BaseException) -> None:
        is_asked_for = isinstance(error, KeyboardInterrupt | SearchStopped)
        reason = one_line(error) if str(error) else "Ctrl-C"
        self.reporter.on_error(self.state, f"{'stopped' if is_asked_for else 'failed'}: {reason}")

    def _run(self) -> Result:
        state, reporter = self.state, self.reporter
        state.start_clock()
        reporter.on_start(state)
        if not self.checkpoints.has(INITIAL):
            self._save(INITIAL, Counts(), Counts())
        if state.baseline_is_due:
            self._measure_baseline()
        validation = Counts()
        if self.budget.is_over(state):  # killed between its last epoch and its result
            validation = self._evaluate(self.data.validation)
        elif self.lessons.asks_teacher_once:
            self.lessons.all_predictions()  # before the progress bar of an epoch is shown
        with reporter.recording(state):
            while not self.budget.is_over(state):
                validation = self._run_epoch() or validation
            result = self._finish()
        reporter.on_result(result, state, validation, lambda: bool(self.stop.signal))
        return result

    def _measure_baseline(self) -> None:
        """Measure the accuracy with random scores, and add it to the first checkpoint.

        That is there already: a search that is stopped meanwhile continues from it, and measures
        then. The time that this takes is no part of the search's.
        """
        self.state.random_scores = self._random_score_accuracy()
        self.state.baseline_is_due = False
        self.state.start_clock()
        self._save(INITIAL, Counts(), Counts())
        self.reporter.on_baseline(self.state)

    def _random_score_accuracy(self) -> Counts:
        return random_score_accuracy(
            self.model, self.data, self.config, self.group, self._until_stopped, self._evaluate
        )

    def _run_epoch(self) -> Counts | None:
        """Train and evaluate one epoch, or what is left of it; returns its validation counts, or
        None where the next report is not due yet.

        Raises:
            SearchDiverged: a loss or a score is not finite.
        """
        state = self.state
        rate = self._apply_schedules()
        pace = Pace(state.step)
        try:
            train = self._train_epoch(pace)
        except FloatingPointError as e:
            raise SearchDiverged(f"epoch {state.epoch + 1}, step {state.step + 1}: {e}") from None
        if not self.budget.is_report_due(state):
            state.start_next_epoch()
            return None
        rates = {"lr": rate, **pace.so_far(state.step, self.config.batch_size)}
        average_batch_norm_statistics(self.model, self.group)
        validation = self._evaluate(self.data.validation, save=True)
        self._look_at_clock()
        state.reported = state.progress
        state.start_next_epoch()
        self._end_epoch(train, validation, {**rates, "seconds": pace.seconds})
        return validation

    def _apply_schedules(self) -> float:
        """Set density and learning rate of the epoch; returns the learning rate."""
        self._set_density()
        return self._set_learning_rate(self.state.epoch)

    def _apply_schedules_of_step(self) -> None:
        """Set what changes within an epoch: with a budget of time everything does."""
        if self.budget.is_time:
            self._set_density()
            self._set_learning_rate(self.state.epoch)
        elif self.config.lr_policy in PER_STEP:
            self._set_learning_rate(self.state.epoch + self.state.batch / self.batches)

    def _set_learning_rate(self, epoch: float) -> float:
        """Set the learning rate of an epoch, or of a step within one; returns it.

        With a budget of time, the share of it that is used takes the place of the epoch.
        """
        is_time = self.budget.is_time
        position, end = (self.state.progress, 1) if is_time else (epoch, self.config.epochs)
        rate = _learning_rate(self.config, position, end)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_ratio", 1)
        return rate

    def _set_density(self) -> None:
        """Set the density that the schedule of global pruning has here."""
        config, subnetwork = self.config, self.network.subnetwork
        if not (subnetwork and self.ramp):
            return
        assert config.prune_rate is not None
        position = self.state.progress if self.budget.is_time else self.state.epoch
        density = schedule.scheduled_density(config.prune_rate, position, self.ramp)
        if set(subnetwork.densities.values()) != {density}:
            subnetwork.set_density(density)

    @property
    def _is_at_final_density(self) -> bool:
        """Whether the masks of the epoch that has just ended have the density asked for."""
        subnetwork = self.network.subnetwork
        if not (subnetwork and self.ramp):
            return True
        return set(subnetwork.densities.values()) == {self.config.prune_rate}

    def _train_epoch(self, pace: Pace) -> Counts:
        """Train on the batches of the epoch that are still to do.

        Returns the training counts of the whole epoch and all processes.

        Raises:
            FloatingPointError: a loss or a score is not finite.
        """
        state = self.state
        self._forward.set_training_mode()
        with self.reporter.progress_bar(state):
            lessons = self.lessons.of_epoch(state.epoch, state.batch)
            for images, labels, taught in self._saved_if_unreadable(lessons):
                if self.budget.is_used_up(state):
                    break
                self._train_step(images, labels, taught)
                self.reporter.on_steps(state, pace)
                self._save_or_stop()
        if self.budget.is_used_up(state):
            self._set_density()  # the schedule may have ended after the last step began
        self._catch_up()
        train = state.train.sum_over(self.group, self.device)
        if not math.isfinite(train.loss):
            raise FloatingPointError(NON_FINITE_LOSS)
        return train

    def training_steps(self) -> Iterator[None]:
        """Train step after step on the batches of the epoch, over and over, and record nothing: to
        measure how long a step takes.

        Raises:
            FloatingPointError: a loss or a score is not finite.
        """
        self._apply_schedules()
        self._forward.set_training_mode()
        with freed_memory_kept():
            while True:
                self.state.batch, self.state.train = 0, Counts()
                for images, labels, taught in self.lessons.of_epoch(self.state.epoch):
                    self._train_step(images, labels, taught)
                    yield

    def _train_step(self, images: Tensor, labels: Tensor, taught: Tensor | None) -> None:
        """One optimizer step on this process's share of a batch, then the masks of the new scores.

        Args:
            images: [V B, C, H, W] float32, the V views of B images one after the other.
            labels: [B] int64.
            taught: a teacher's logits [B, classes] if there is one.

        Raises:
            FloatingPointError: the loss, or a score, is not finite.
        """
        self._apply_schedules_of_step()
        self._seed_dropout()
        loss = self._loss(images, labels, taught)
        self.optimizer.zero_grad()
        (loss * self._gradient_weight(len(labels))).backward()
        if self.config.grad_clip:
            _clip_gradients(self.optimizer)
        self.optimizer.step()
        if self.network.subnetwork:
            self.network.subnetwork.update(check=self._looks_now)
        self.state.step += 1
        self.state.batch += 1

    def _seed_dropout(self) -> None:
        """Make what a network of the user's own draws in this step follow from the run's seed and
        the step: a run that is resumed draws the same. Networks of the registry draw nothing.
        """
        if not has_graph(self.config.arch):
            return
        share = self.state.batch * self.group.size + self.group.rank
        seed = rng.derive(self.config.seed, rng.Stream.DROPOUT, self.state.epoch, share)
        torch.manual_seed(seed)

    def _loss(self, images: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        """The mean loss, a scalar, of this process's share of a batch, which is counted."""
        logits = self._forward.logits(images)
        loss = losses.classification(logits, labels, self.config.label_smoothing)
        plain_views = logits[: len(labels)]
        if taught is not None:
            config = self.config
            loss = losses.distillation(
                loss, plain_views, taught, config.teacher_weight, config.teacher_temperature
            )
        self._uncounted.add(plain_views, labels, loss)
        if self._looks_now and not math.isfinite(self._uncounted.count(self.state.train)):
            self._note_non_finite_loss(images)
        return loss

    @property
    def _looks_now(self) -> bool:
        """Whether losses and scores are looked at in the step that is running."""
        return self.state.batch % self._look_every == 0

    def _catch_up(self) -> None:
        """Count the batches since the last look, and check losses and scores.

        Raises:
            FloatingPointError: a loss or a score is not finite.
        """
        if self._look_every == 1:
            return  # all is counted and checked
        if not math.isfinite(self._uncounted.count(self.state.train)):
            raise FloatingPointError("the loss has become infinite or not a number")
        if self.network.subnetwork:
            self.network.subnetwork.check_finite()

    def _note_non_finite_loss(self, images: Tensor) -> None:
        """One process alone raises at once; several do so together, in `_save_or_stop`."""
        if self.group.size == 1:
            raise FloatingPointError(where_not_finite(self.model, images))
        self._loss_is_not_finite = True

    def _gradient_weight(self, own: int) -> float:
        """The factor that makes the mean over processes of their gradients the gradient of the
        batch's mean loss: shares of a batch differ in size.

        `own`: images in this process's share of the batch.
        """
        config = self.config
        images_left = len(self.data.train) - self.state.batch * config.batch_size
        return own * self.group.size / min(config.batch_size, images_left)

    def _saved_if_unreadable(self, batches: Iterator[Lesson]) -> Iterator[Lesson]:
        """The batches; if one cannot be read, a checkpoint is written before the error goes on."""
        try:
            yield from batches
        except UserError:
            if self.group.size == 1:  # the other processes do not know of the error
                self._save_between_steps()
            raise

    def _save_or_stop(self) -> None:
        """Between two steps: write a checkpoint if one is due, or if the user asks to stop.

        Raises:
            SearchStopped, KeyboardInterrupt: the user asks to stop.
            FloatingPointError: in one of several processes, the loss is not finite.
        """
        if self.group.size > 1 and self.state.step % SYNCHRONISE_EVERY:
            return  # each exchange costs an all-reduce
        self._look_at_clock()
        signals = [self.stop.signal == number for number in STOP_SIGNALS]
        is_due, is_not_finite, *is_asked = self._in_any_process(
            [self._is_checkpoint_due(), self._loss_is_not_finite, *signals]
        )
        if is_not_finite:
            raise FloatingPointError(NON_FINITE_LOSS)
        if is_due or any(is_asked):
            self._save_between_steps()
        for number in itertools.compress(STOP_SIGNALS, is_asked):
            _raise_stop(number)

    def _look_at_clock(self) -> None:
        """With a budget of time: how much of it is used. Rank 0's clock counts for all."""
        if self.budget.is_time:
            own = self.budget.share_of_time(self.state) if self.group.is_first else 0.0
            (self.state.progress,) = self.group.sum([own], self.device)

    def _in_any_process(self, flags: list[bool]) -> list[bool]:
        """Which of the flags are set in at least one process; one all-reduce for all of them."""
        sums = self.group.sum([float(flag) for flag in flags], self.device)
        return [count > 0 for count in sums]

    def _is_checkpoint_due(self) -> bool:
        """Whether `save_minutes` have passed since the last checkpoint; only rank 0 says so."""
        minutes = self.config.save_minutes
        if not minutes or not self.group.is_first:
            return False
        return time.monotonic() - self.checkpoints.written >= 60 * minutes

    def _save_between_steps(self) -> None:
        self._catch_up()
        average_batch_norm_statistics(self.model, self.group)
        train = self.state.train.sum_over(self.group, self.device)
        self._save(LAST, train, Counts())

    def _save(self, name: str, train: Counts, validation: Counts) -> None:
        """Write a checkpoint, as rank 0: see `CheckpointWriter.write`."""
        if self.group.is_first:
            self.checkpoints.write(name, self.state, train, validation)

    def _evaluate(self, split: Split, save: bool = False) -> Counts:
        """Counts over all images of a split and all processes. One process alone can be stopped
        between two batches.

        `save`: write a checkpoint before stopping; otherwise the newest one has everything already.
        """
        batches = self.data.evaluation_batches(split, evaluation_batch(self.task), self.group)
        batches = self._until_stopped(batches, save)
        counts = evaluate(self.model, batches, self.is_in_channels_last)
        return counts.sum_over(self.group, self.device)

    def _until_stopped(self, batches: Batches, save: bool = False) -> Batches:
        """The batches, until the user asks a process alone to stop."""
        for batch in batches:
            if self.stop.signal and self.group.size == 1:
                if save:
                    self._save_between_steps()
                _raise_stop(self.stop.signal)
            yield batch

    def _end_epoch(self, train: Counts, validation: Counts, rates: dict[str, float]) -> None:
        """Choose the best epoch, report this one and write the checkpoints.

        The order matters: a search that is killed between any two of these lines does the same
        again when it is resumed, from the epoch before.
        """
        self._choose_best(train, validation)
        epoch, config = self.state.epoch, self.config
        self.reporter.on_epoch(self.state, train, validation, rates)
        if self.state.best.epoch == epoch:
            self._save(BEST, train, validation)
        self._save(LAST, train, validation)
        if config.save_every > 0 and epoch % config.save_every == 0:
            self._save(f"epoch_{epoch}.state", train, validation)

    def _choose_best(self, train: Counts, validation: Counts) -> None:
        """Update the best epoch and the best training counts with those of the epoch just counted.

        Only epochs at the final density qualify. Of equals the later one wins: it has seen more and
        has the smaller learning rate. Where the validation images are too few to tell, or are not
        those of the best epoch so far, the last epoch wins.
        """
        state = self.state
        if train.top1 >= state.best_train.top1:
            state.best_train = train
        best = state.best.validation
        is_comparable = self.data.validation_chooses and validation.images == best.images
        is_better = not is_comparable or validation.right >= best.right
        if self._is_at_final_density and is_better:
            state.best = Best(state.epoch, validation)

    def _finish(self) -> Result:
        """Load the best epoch's network and evaluate it on the test images."""
        state = self.state
        assert state.best.epoch, "the schedule ends before the search does"
        self.model.load_state_dict(self.group.by_first(self._best_weights))
        subnetwork = self.network.subnetwork
        layers = subnetwork.report() if subnetwork else []
        self.reporter.on_layers(layers)
        return Result(
            folder=self.folder,
            epoch=state.best.epoch,
            validation=state.best.validation,
            test=self._evaluate(self.data.test),
            random_scores=state.random_scores,
            weights=subnetwork.weights if subnetwork else 0,
            kept=subnetwork.kept if subnetwork else 0,
            layers=layers,
            seconds=state.seconds,
        )

    def _best_weights(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = checkpoint.load(self.folder / CHECKPOINTS / BEST)["state_dict"]
        return weights


def _learning_rate(config: Config, epoch: float, epochs: int) -> float:
    return learning_rate(
        config.lr_policy,
        epoch,
        lr=config.lr,
        epochs=epochs,
        warmup_length=config.warmup_length,
        lr_adjust=config.lr_adjust,
        lr_gamma=config.lr_gamma,
        warmup_fraction=config.warmup_fraction,
    )


def _clip_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Clip every gradient value to [-1, 1]."""
    groups = optimizer.param_groups
    nn.utils.clip_grad_value_([p for group in groups for p in group["params"]], 1.0)


def _raise_stop(number: int) -> NoReturn:
    """Raise what a signal that asks a search to stop leads to.

    Raises:
        KeyboardInterrupt: by SIGINT.
        SearchStopped: by another signal.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SearchStopped(signal.Signals(number).name)
