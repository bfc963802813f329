"""The search: train the scores, choose anew who is kept after every step, keep the best epoch."""

from __future__ import annotations

import inspect
import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import __version__, checkpoint, log, losses, prune
from . import config as options
from .checkpoint import BEST, RESULT
from .config import Config
from .data import DataSet
from .distributed import ALONE, Group
from .errors import UserError, one_line
from .evaluate import Counts, evaluate
from .files import replace_text
from .network import Network, Task, build_network
from .optim import build_optimizer, learning_rate
from .subnetwork import LayerReport

CALIBRATION_BATCHES = 20

INITIAL, LAST = "initial.state", "epoch_most_recent.state"
LAYERS = "layers.json"


def evaluation_batch(task: Task) -> int:
    """Images a batch in evaluation: fewer where they are large."""
    return 500 if math.prod(task.input_size) <= 64 * 64 else 128


class SearchDiverged(RuntimeError):
    """The loss or a score is infinite or not a number; the message names layer and step. Checkpoints so far are kept."""


@dataclass
class Best:
    """The best epoch so far (from 1; 0 while there is none) among those at the final density, chosen on validation data."""

    epoch: int = 0
    validation: Counts = field(default_factory=Counts)


@dataclass
class Result:
    """What a search found. Accuracies in percent.

    Attributes:
        folder: of the run.
        epoch: the best one, from 1.
        validation, test: counts of the network saved at that epoch.
        random_scores: counts on the test data of the same network before the search, batch norm calibrated; None where the search
            began with a checkpoint.
        weights, kept: of the saved network's masked layers (0 for a dense baseline).
        layers: the same layer by layer.
    """

    folder: Path
    epoch: int
    validation: Counts
    test: Counts
    random_scores: Counts | None
    weights: int
    kept: int
    layers: list[LayerReport]
    seconds: float

    @property
    def density(self) -> float:
        return self.kept / self.weights if self.weights else 1.0


def results_file(config: Config) -> Path:
    """The table that the run is appended to."""
    if config.results is None:
        return Path(config.log_dir) / "results.csv"
    path = Path(config.results)
    return path if path.suffix == ".csv" else path / "results.csv"


def make_run_folder(config: Config, config_name: str) -> Path:
    """A new folder <log_dir>/<config>/prune-rate=<k>/<name>, or /0, /1, ... below it; with checkpoints/, logs/, settings.txt.

    Raises:
        UserError: it cannot be made or written to.
    """
    parent = Path(config.log_dir) / config_name
    if config.width_mult != 1:
        parent /= f"width_mult={config.width_mult:g}"
    parent /= f"prune-rate={'none' if config.prune_rate is None else format(config.prune_rate, 'g')}"
    folder, number = parent / config.name, 0
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                break
            except FileExistsError:
                folder, number = parent / config.name / str(number), number + 1
        (folder / "checkpoints").mkdir()
        (folder / "logs").mkdir()
        versions = f"# biprop {__version__}, torch {torch.__version__}, {datetime.now().isoformat(timespec='seconds')}\n"
        (folder / "settings.txt").write_text(versions + options.as_yaml(config), encoding="utf-8")
    except OSError as e:
        raise UserError(f"--log-dir {config.log_dir}: cannot write the run folder: {e.strerror}: {e.filename}") from None
    return folder


def choose_device(name: str, group: Group = ALONE) -> torch.device:
    """The device that `name` means; "auto" is a GPU where there is one, "cuda" this process's own.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and group.size > 1:
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise UserError(f"--device {name}: not available here: {one_line(e)}") from None
    return device


class Search:
    """One run: the objects that live as long as it does.

    Args:
        config: the options.
        config_name: name of their file, for the run folder and results.csv.
        data: the images.
        console: where progress goes.
        start: a checkpoint to begin with: its weights and scores.
        resume: go on where `start` stopped, with its optimiser, epoch and best result; in its run folder if it has one.
        group: the processes that search together, started; each has the same network, and a share of every batch.

    Raises:
        UserError: network, data, options and checkpoint do not fit together, or the run folder cannot be written.
    """

    def __init__(
        self,
        config: Config,
        config_name: str,
        data: DataSet,
        console: log.Console,
        start: checkpoint.Content | None = None,
        resume: bool = False,
        group: Group = ALONE,
    ) -> None:
        self.config, self.config_name, self.console, self.group = config, config_name, console, group
        self.device = choose_device(config.device, group)
        self.task = Task(len(data.classes), data.channels, data.input_size)
        self.network: Network = build_network(config, self.task, ancestor=start.of_ancestor if start else False)
        if start:
            checkpoint.load_state(self.model, start.state, start.path)
        self.network.model.to(self.device)
        if (smallest := min(config.batch_size, len(data.train))) < 2 * group.size > 2:
            raise UserError(f"--batch-size {config.batch_size}: {smallest} images a step are too few for {group.size} processes")
        self.runner: nn.Module = self._data_parallel()
        if config.compile:
            self.runner = torch.compile(self.runner)  # type: ignore[assignment]
        self.data = data.to(self.device)
        self.optimizer = build_optimizer(
            self.model, config.optimizer,
            lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
            nesterov=config.nesterov, no_bn_decay=config.no_bn_decay,
        )  # fmt: skip
        self.step, self.epoch = 0, config.start_epoch
        self.best = Best()
        self.best_train = Counts()
        self.results_file = results_file(config)
        group.by_first(lambda: log.check_results(self.results_file))
        folder = self._go_on(start) if start and resume else None
        self.folder = folder or group.by_first(lambda: make_run_folder(config, config_name))
        self.random_scores = None if start else self._accuracy_before_search()

    @property
    def model(self) -> nn.Module:
        return self.network.model

    @property
    def ramp(self) -> int:
        """Epochs before the final density is reached."""
        return prune.ramp_epochs(self.config.prune_rate_epoch, self.config.epochs) if self.config.scope == "global" else 0

    def _go_on(self, start: checkpoint.Content) -> Path | None:
        """Take over optimiser, epoch and best result of a checkpoint; returns its run folder, if it is in one."""
        self.epoch = max(self.epoch, start.epoch)
        folder = start.path.parent.parent
        only_the_end_is_missing = self.epoch == self.config.epochs and start.ours and not (folder / RESULT).exists()
        if self.epoch >= self.config.epochs and not only_the_end_is_missing:
            raise UserError(f"--resume {start.path}: is at epoch {start.epoch} of {self.config.epochs}: pass more --epochs")
        try:
            self.optimizer.load_state_dict(start.fields["optimizer"])
        except (KeyError, ValueError, TypeError) as e:
            raise UserError(f"--resume {start.path}: its optimiser is not that of these options: {one_line(e)}") from None
        if not start.ours:
            return None
        self.step = start.ours["step"]
        self.best = Best(start.ours["best_epoch"], Counts(**start.ours["best_validation"]))
        self.best_train = Counts(**start.ours["best_train"])
        if not (folder / "settings.txt").is_file():
            return None
        if self.group.is_first:
            log.forget_after(folder / "logs", self.epoch)
        return folder

    def _data_parallel(self) -> nn.Module:
        """The model, or for several processes the model in a wrapper that averages gradients while they are computed."""
        if self.group.size == 1:
            return self.model
        # Batch-norm statistics are averaged once an epoch instead of being sent in every step. The option's name is new in 2.13.
        parallel = nn.parallel.DistributedDataParallel
        new_name = "forward_sync_buffers" in inspect.signature(parallel).parameters
        sync: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
        return parallel(self.model, device_ids=[self.device] if self.device.type == "cuda" else None, **sync)

    def _average_statistics(self) -> None:
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.group.average([t for m in norms for t in (m.running_mean, m.running_var) if t is not None])

    def run(self) -> Result:
        """Search to the end.

        Raises:
            SearchDiverged: not a number; the last good checkpoint is kept.
            KeyboardInterrupt: passed on; the checkpoints of the finished epochs are kept.
        """
        config, started = self.config, time.monotonic()
        if self.group.is_first and not (self.folder / "checkpoints" / INITIAL).exists():
            self._save(INITIAL, self.epoch, Counts(), Counts())
        if self.epoch == config.epochs:  # the run ended between its last epoch and its result
            validation = self._evaluate(self.data.validation)
        with log.RunLog(self.folder / "logs", self.epoch) if self.group.is_first else nullcontext() as run_log:
            for epoch in range(self.epoch, config.epochs):
                epoch_started = time.monotonic()
                rate = self._set_schedule(epoch)
                try:
                    train = self._train_epoch(epoch)
                except FloatingPointError as e:
                    raise SearchDiverged(f"epoch {epoch + 1}, step {self.step}: {e}") from None
                self._average_statistics()
                validation = self._evaluate(self.data.validation)
                self._keep_checkpoints(epoch, train, validation)
                if run_log:
                    self._tell(run_log, epoch, rate, train, validation, time.monotonic() - epoch_started)
            result = self._finish(time.monotonic() - started)
        if self.group.is_first:
            self._append_result(result, validation)
            self._tell_result(result)
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
            self.network.subnetwork.set_density(prune.scheduled_density(config.prune_rate, epoch, self.ramp))
        return rate

    def _train_epoch(self, epoch: int) -> Counts:
        config, counts = self.config, Counts()
        self.runner.train()
        steps = math.ceil(len(self.data.train) / config.batch_size)
        batches = self.data.training_batches(config.batch_size, config.seed, epoch, self.group)
        with self.console.bar(f"epoch {epoch + 1}/{config.epochs}", steps) as bar:
            for done, (images, labels) in enumerate(batches, start=1):
                logits = self._logits(images)
                loss = losses.classification(logits, labels, config.label_smoothing)
                mean_loss = counts.add(logits[: len(labels)], labels, loss)  # with JSD, the plain views
                self.step += 1
                # Of several processes none stops alone: all find it in their scores after this step.
                if not math.isfinite(mean_loss) and self.group.size == 1:
                    raise FloatingPointError(_first_not_finite(self.model, images))
                self.optimizer.zero_grad()
                (loss * self._weight(done, len(labels))).backward()
                if config.grad_clip:
                    nn.utils.clip_grad_value_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
                self.optimizer.step()
                if self.network.subnetwork:
                    self.network.subnetwork.update()
                if done % config.print_freq == 0:
                    kept = f"  kept {100 * self.network.density:.1f} %"
                    bar.advance(config.print_freq, f"loss {counts.loss:.3f}  train {counts.top1:.1f} %{kept}")
        return counts.sum_over(self.group, self.device)

    def _logits(self, images: Tensor) -> Tensor:
        """The model's answer in training: float32, however it was computed."""
        if self.config.channels_last:
            # Of the images only: convolutions follow them, and scores stay in the order in which ties are broken.
            images = images.contiguous(memory_format=torch.channels_last)
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp == "bf16"):
                return self.runner(images).float()  # type: ignore[no-any-return]
        except RuntimeError as e:
            if self.config.compile and type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise UserError(f"--compile: torch.compile fails here: {str(e).splitlines()[0]}; leave it out") from None
            raise

    def _weight(self, step: int, own: int) -> float:
        """What makes the plain mean of the processes' gradients the gradient of the batch's mean loss: shares differ in size.

        `step` counts from 1 within the epoch, `own` is the number of images in this process's share.
        """
        total = min(self.config.batch_size, len(self.data.train) - (step - 1) * self.config.batch_size)
        return own * self.group.size / total

    def _evaluate(self, split: Any) -> Counts:
        batches = self.data.evaluation_batches(split, evaluation_batch(self.task), self.group)
        return evaluate(self.model, batches).sum_over(self.group, self.device)

    @torch.no_grad()
    def _accuracy_before_search(self) -> Counts:
        """Test accuracy of the network with its first, random scores: what no search gives.

        Batch norm is given the statistics of some training batches first, else the comparison would be with a broken network.
        Nothing of it stays.
        """
        before = {key: value.clone() for key, value in self.model.state_dict().items()}
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # a plain average over the batches
        self.model.train()
        batches = self.data.training_batches(self.config.batch_size, self.config.seed, 0, self.group)
        for _, (images, _) in zip(range(CALIBRATION_BATCHES if norms else 0), batches, strict=False):
            self.model(images)
        self._average_statistics()
        counts = self._evaluate(self.data.test)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.model.load_state_dict(before)
        return counts

    def _keep_checkpoints(self, epoch: int, train: Counts, validation: Counts) -> None:
        if train.top1 >= self.best_train.top1:
            self.best_train = train
        # Only epochs at the final density count, and of equals the later: it has seen more and has the smaller learning rate.
        is_best = epoch >= self.ramp and validation.right >= self.best.validation.right
        if is_best:
            self.best = Best(epoch + 1, validation)
        if not self.group.is_first:
            return
        # The best one first: stopped between the two, the run is resumed from the epoch before and finds the same best again.
        if is_best:
            self._save(BEST, epoch + 1, train, validation)
        self._save(LAST, epoch + 1, train, validation)
        if self.config.save_every > 0 and (epoch + 1) % self.config.save_every == 0:
            self._save(f"epoch_{epoch + 1}.state", epoch + 1, train, validation)

    def _save(self, name: str, epoch: int, train: Counts, validation: Counts) -> None:
        config = self.config
        path = self.folder / "checkpoints" / name
        try:
            checkpoint.save(
                path,
                {
                    "epoch": epoch,
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
                        "best_epoch": self.best.epoch,
                        "best_validation": asdict(self.best.validation),
                        "best_train": asdict(self.best_train),
                        "density": self.network.density,
                        "densities": self.network.subnetwork.densities if self.network.subnetwork else {},
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

    def _tell(self, run_log: log.RunLog, epoch: int, rate: float, train: Counts, validation: Counts, seconds: float) -> None:
        density = self.network.density
        run_log.epoch(
            epoch + 1,
            {
                "train/loss": train.loss, "train/top1": train.top1, "train/top5": train.top5,
                "validation/loss": validation.loss, "validation/top1": validation.top1, "validation/top5": validation.top5,
                "density": density, "lr": rate, "step": self.step, "seconds": seconds,
                **self._layer_densities(),
            },
        )  # fmt: skip
        if self.config.histograms and self.network.subnetwork:
            for name, layer in self.network.subnetwork.layers.items():
                run_log.histogram(epoch + 1, f"scores/{name}", layer.scores)
        width = len(str(self.config.epochs))
        self.console.line(
            f"epoch {epoch + 1:>{width}}/{self.config.epochs}  loss {train.loss:.3f}  train {train.top1:5.1f} %  "
            f"validation {validation.top1:5.1f} %  kept {100 * density:.1f} %  lr {rate:.3g}  {seconds:.1f} s"
            f"{'  best' if self.best.epoch == epoch + 1 else ''}"
        )

    def _layer_densities(self) -> dict[str, float]:
        if self.config.scope != "global" or not self.network.subnetwork:
            return {}
        return {f"layer_density/{layer.name}": layer.density for layer in self.network.subnetwork.report()}

    def _finish(self, seconds: float) -> Result:
        assert self.best.epoch, "the schedule ends before the run does"
        path = self.folder / "checkpoints" / BEST
        self.model.load_state_dict(self.group.by_first(lambda: checkpoint.load(path)["state_dict"]))
        subnetwork = self.network.subnetwork
        layers = subnetwork.report() if subnetwork else []
        if layers and self.group.is_first:
            text = json.dumps([{**asdict(layer), "density": layer.density} for layer in layers], indent=1)
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
            seconds=seconds,
        )

    def _tell_result(self, result: Result) -> None:
        """Write the accuracies into the run folder: last of all, so that the file says that the run is complete."""
        counts = {"validation": result.validation, "test": result.test, "random_scores": result.random_scores}
        told = {"epoch": result.epoch, **{name: asdict(c) if c else None for name, c in counts.items()}}
        replace_text(self.folder / RESULT, json.dumps(told, indent=1) + "\n")

    def _append_result(self, result: Result, last: Counts) -> None:
        config = self.config
        log.append_result(
            self.results_file,
            {
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
            },
        )


@torch.no_grad()
def _first_not_finite(model: nn.Module, images: Tensor) -> str:
    """Which module of the model is the first whose output is not finite on these images."""
    culprits: list[str] = []

    def look(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                culprits.append(name)

        return hook

    handles = [m.register_forward_hook(look(n)) for n, m in model.named_modules() if not list(m.children())]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    place = f"in layer {culprits[0]}" if culprits else "in the loss itself"
    return f"the loss is not finite: the first infinite or undefined value is {place}"
