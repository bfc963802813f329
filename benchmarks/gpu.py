"""Fifteen minutes on one GPU: checks, times, and tickets of CIFAR-10.

    benchmarks/gpu.sh DIR-WITH-CIFAR-10 OUT [WORK]       works for at most LIMIT seconds (540)
    TOY=1 benchmarks/gpu.sh DIR OUT                      the same in little, on the CPU

In this order, each with a fixed time:

    checks     every CUDA path in little, see gpu_checks.py; the first fault ends the program
    ratios     a search step beside a dense step, in bfloat16 with 512 images
    rules      10 epochs with each update rule and some learning rates; the best goes on
    searches   two fast networks, VGG_Small by the paper's recipe, cResNet18 with learned batch norm

For fifteen minutes in two commands of at most ten, of which a machine takes two to be there:
LIMIT=560, then LIMIT=200; the last search is for the second.

A search gets as many epochs as fit into its time, by the duration of one epoch. Out of time, the
program stops after a checkpoint: start it again, and it goes on, from WORK (OUT/work), where each
finished step is in results.json. OUT gets the tickets, results.json and summary.md, whose tables
are for docs/results.md; gpu.sh adds log.txt. Each file has less than 16 MB; together they are 8.

All images are on the device, and are augmented there. Networks train in bfloat16 (autocast), scores
are float32, as is evaluation; float32 convolutions and matrix products may use TF32, which nothing
here depends on: masks and gains take no products, and evaluation rounds a little more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import gpu_checks
import torch
import training
from gpu_checks import Fault

from biprop import checkpoint, config
from biprop.config import Config
from biprop.console import Console
from biprop.data import DataSet, Source, cifar
from biprop.data.loading import recipe_of
from biprop.data.sources import Images
from biprop.errors import UserError
from biprop.evaluation.counts import Counts, evaluate
from biprop.files import write_text_atomically
from biprop.runs import folder as runs
from biprop.search.loop import Search
from biprop.search.outcome import SearchDiverged, SearchStopped
from biprop.search.pack import pack

Options = dict[str, Any]

RECIPE: Options = {
    "arch": "Fast6",
    "prune_rate": 0.07,
    "init": "signed_constant",
    "bn_type": "AffineBatchNorm",
    "learn_batchnorm": True,
    "optimizer": "muon",
    "lr": 0.1,
    "momentum": 0.85,
    "dense_lr": 0.01,
    "lr_policy": "linear_lr",
    "warmup_fraction": 0.1,
    "label_smoothing": 0.1,
    "batch_size": 512,
}
"""The fast networks with the update rule of docs/method.md."""
COMMON: Options = {
    "set": "CIFAR10",
    "amp": "bf16",
    "channels_last": True,
    "select_on": "test",
    "baseline": False,
    "print_freq": 50,
    "save_minutes": 0,
}
RULES: dict[str, Options] = {
    "Muon 0.1": {},
    "Muon 0.2": {"lr": 0.2},
    "Muon 0.05": {"lr": 0.05},
    "normalised momentum 0.1": {"optimizer": "sgd", "score_norm": True},
    "normalised Adam 0.1": {"optimizer": "adam", "score_norm": True},
    "SGD 0.1, as published": {"optimizer": "sgd", "momentum": 0.9},
}
"""What is compared, on held-out training images: the update rule and its learning rate."""
RESERVE = 15.0
"""Seconds that a search leaves for its ticket and for the summary."""


@dataclass(frozen=True)
class Plan:
    """A search, and the ticket that comes of it.

    Attributes:
        name: of run and ticket.
        config: name of its configuration; None: `RECIPE`, with the best of `RULES`.
        given: options that override it.
        seconds: for the search, the measurement of its pace and its ticket.
        most_epochs: at most so many.
        published: what it is compared with.
    """

    name: str
    config: str | None
    given: Options
    seconds: float
    most_epochs: int
    published: str


LEARNED: Options = {"learn_batchnorm": True, "prune_rate": 0.2}
PLANS = (
    Plan("fast-80-160-320", None, {"width_mult": 1.25}, 120, 200, "goal 91.5 in 100 kB"),
    Plan(
        "fast-96-192-384",
        None,
        {"width_mult": 1.5, "prune_rate": 0.048},
        120,
        200,
        "goal 91.5 in 100 kB",
    ),
    Plan("vgg-small", "vgg_small_kn_unsigned", {"prune_rate": 0.05}, 150, 100, "91.48"),
    Plan("cresnet18", "resnet18-affine-kn-unsigned", LEARNED, 150, 100, "94.8"),
)
"""The searches in their order. The last one takes what time is left."""
BEGIN_WITH = 0.75
"""The part of its time that must be left for a search to begin in this start."""


@dataclass(frozen=True)
class Scale:
    """How large everything is: for a GPU, or for a rehearsal.

    Attributes:
        device: of all computations.
        networks, batch, rounds, together: of the step times, see training.py.
        how: a step is computed.
        rule_epochs: epochs of each of `RULES`.
        rule_seconds: after which no further rule is tried.
        fewest_seconds: with less time left, no rule is tried.
        most_epochs: of a search; None: as its plan says.
        given: options that override those of all searches.
        save_seconds: between two checkpoints.
    """

    device: str
    networks: tuple[str, ...]
    batch: int
    rounds: int
    together: int
    how: training.StepOptions
    rule_epochs: int
    rule_seconds: float
    fewest_seconds: float
    most_epochs: int | None
    given: Options
    save_seconds: float

    @property
    def is_toy(self) -> bool:
        """Whether this is a rehearsal."""
        return self.most_epochs is not None


GPU = Scale(
    device="cuda",
    networks=("Fast6", "VGG_Small", "cResNet18"),
    batch=512,
    rounds=7,
    together=10,
    how=training.StepOptions("cuda", "bf16", channels_last=True),
    rule_epochs=10,
    rule_seconds=75,
    fewest_seconds=30,
    most_epochs=None,
    given={},
    save_seconds=15,
)
TOY = Scale(
    device="cpu",
    networks=("Conv4",),
    batch=8,
    rounds=2,
    together=1,
    how=training.StepOptions("cpu"),
    rule_epochs=1,
    rule_seconds=20,
    fewest_seconds=4,
    most_epochs=3,
    given={"batch_size": 20, "amp": "none"},
    save_seconds=0,
)


class Clock:
    """The time of this start.

    Args:
        limit: seconds, from the start of the process on.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._end = time.monotonic() + limit

    @property
    def left(self) -> float:
        """Seconds; below 0 when time is up."""
        return self._end - time.monotonic()


class OutOfTime(Exception):
    """The next start goes on; the text says with what."""


class Record:
    """What is done: results by the name of a step, in a file that each result is written to.

    Args:
        path: of a JSON file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def __contains__(self, name: str) -> bool:
        return name in self.results

    def __getitem__(self, name: str) -> Any:
        return self.results[name]

    def __setitem__(self, name: str, result: Any) -> None:
        self.results[name] = result
        write_text_atomically(self.path, json.dumps(self.results, indent=1) + "\n")


class SeldomSaved(Search):
    """A search of which the last epoch is the result, and whose checkpoints are written seldom.

    Otherwise both checkpoints of an epoch take as long as training in it.
    """

    save_seconds: float

    def _save(self, name: str, train: Counts, validation: Counts) -> None:
        is_last_epoch = self.state.epoch == self.config.epochs
        is_asked_for = name == runs.INITIAL or self.state.batch > 0
        is_due = time.monotonic() - self.checkpoints.written >= self.save_seconds
        if is_last_epoch or is_asked_for or (is_due and name != runs.BEST):
            super()._save(name, train, validation)


@dataclass
class Session:
    """One start of the program.

    Attributes:
        scale: the sizes.
        work, out: folders.
        clock: the time left.
        record: what is done.
        decoder: a process that runs `decode`.
        images: the data, once they are there.
    """

    scale: Scale
    work: Path
    out: Path
    clock: Clock
    record: Record
    decoder: subprocess.Popen[bytes]
    images: Source | None = None

    @property
    def device(self) -> torch.device:
        return torch.device(self.scale.device)

    def checks(self) -> None:
        """The checks, and beside them torch.compile in a process of its own.

        A fault of torch.compile is reported and stops nothing: no later step compiles.

        Raises:
            Fault: of another check.
        """
        if "checks" in self.record:
            return
        with self._compiling() as compiling:
            results = gpu_checks.run_checks(self.device, gpu_checks.CHECKS)
            results["torch.compile"] = self._outcome(compiling)
        self.record["checks"] = results

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process that checks torch.compile; it and its workers end with the block."""
        command = [sys.executable, gpu_checks.__file__, "--compile", "--device", self.scale.device]
        with (self.work / "compile.txt").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _outcome(self, compiling: subprocess.Popen[bytes]) -> str:
        """What the check of torch.compile says, if it is done soon after the others."""
        try:
            compiling.wait(20)
        except subprocess.TimeoutExpired:
            return "FAULT: not compiled 20 s after the other checks"
        lines = (self.work / "compile.txt").read_text(errors="replace").splitlines()
        last = lines[-1] if lines else "no output"
        print(last, flush=True)
        return last

    def ratios(self) -> None:
        """Times of steps."""
        if "ratios" in self.record:
            return
        scale, text = self.scale, io.StringIO()
        with contextlib.redirect_stdout(text):
            for network in scale.networks:
                arch, _ = training.NETWORKS[network]
                training.measure(
                    "kinds", arch, scale.batch, scale.rounds, scale.how, scale.together
                )
        print(text.getvalue(), end="", flush=True)
        self.record["ratios"] = text.getvalue().splitlines()

    def rules(self) -> None:
        """Validation accuracy with each rule; those for which there is no time are left out."""
        start = time.monotonic()
        for name, given in RULES.items():
            step = f"rule {name}"
            if step in self.record:
                continue
            if time.monotonic() - start > self.scale.rule_seconds:
                self.record[step] = None
                continue
            self._check_time(step, self.scale.fewest_seconds)
            options = {**RECIPE, **given, "select_on": "validation"}
            search = self._search(step.replace(" ", "-"), None, options, self.scale.rule_epochs)
            counts = search.run().validation
            self.record[step] = {"validation": counts.top1, "seconds": search.state.seconds}

    def best_rule(self) -> Options:
        """The options of the rule with the highest validation accuracy."""
        tried = {name: self.record[f"rule {name}"] for name in RULES}
        accuracies = {name: tried[name]["validation"] if tried[name] else 0.0 for name in RULES}
        return RULES[max(accuracies, key=accuracies.__getitem__)]

    def plan(self, plan: Plan) -> None:
        """Search as planned, and pack the ticket.

        Raises:
            OutOfTime: before the search is complete; there is a checkpoint.
        """
        if plan.name in self.record:
            return
        if not self.scale.is_toy:
            self._check_time(plan.name, BEGIN_WITH * min(plan.seconds, self.clock.limit))
        options = {**(RECIPE | self.best_rule() if plan.config is None else {}), **plan.given}
        epochs = self._epochs(plan, options)
        search = self._search(plan.name, plan.config, options, epochs)
        with self._stopping(search):
            result = search.run()
        curve = [line["validation/top1"] for line in _epochs_of(search.folder)]
        self.record[plan.name] = {
            "epochs": epochs,
            "seconds": result.seconds,
            "weights": result.weights,
            "kept": result.density,
            "test": result.test.top1,
            "curve": curve,
            **self._packed(plan.name, search),
        }

    def _epochs(self, plan: Plan, options: Options) -> int:
        """The epochs that fit into a plan's time, chosen once: two epochs are run to measure it."""
        name = f"epochs of {plan.name}"
        if name not in self.record:
            start = time.monotonic()
            left = self.clock.left
            budget = (left if plan is PLANS[-1] else min(plan.seconds, left)) - RESERVE
            search = self._search(f"{plan.name}-pace", plan.config, options, 2)
            search.run()
            seconds = _epochs_of(search.folder)[-1]["seconds"]
            fitting = int((budget - (time.monotonic() - start)) / seconds)
            most = self.scale.most_epochs or plan.most_epochs
            self.record[name] = max(2, min(fitting, most))
            print(f"{plan.name}: {seconds:.2f} s an epoch, {self.record[name]} epochs", flush=True)
        return int(self.record[name])

    def _check_time(self, step: str, seconds: float) -> None:
        if self.clock.left < seconds:
            raise OutOfTime(step)

    @contextlib.contextmanager
    def _stopping(self, search: Search) -> Iterator[None]:
        """Stop the search when time is up, as SIGTERM does."""
        timer = threading.Timer(
            max(0.0, self.clock.left - 5), setattr, [search.stop, "signal", signal.SIGTERM]
        )
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _search(
        self, name: str, config_name: str | None, given: Options, epochs: int
    ) -> SeldomSaved:
        """A search of all training images, or the one of this name that was not finished."""
        values = {
            **COMMON,
            **given,
            **self.scale.given,
            "name": name,
            "epochs": epochs,
            "device": self.scale.device,
            "log_dir": str(self.work / "runs"),
        }
        options, filed_under = config.resolve(config_name, values)
        content = None
        if begun := runs.newest(options, filed_under):
            # There is a result without a record where the program was killed between the two.
            (begun / runs.RESULT).unlink(missing_ok=True)
            path = runs.newest_checkpoint(begun)
            assert path
            content = checkpoint.read(path, {}, config.as_dict(options))
        search = SeldomSaved(
            options, filed_under, self._data(options), Console(tolerant=True), content, True
        )
        search.save_seconds = self.scale.save_seconds
        search.open_folder()
        print(f"== {name}: {search.folder}{search.from_where()}", flush=True)
        return search

    def _data(self, options: Config) -> DataSet:
        if self.images is None:
            if self.decoder.wait():
                raise Fault("decoding the images: see above")
            self.images = load_images(self.work / IMAGES)
        data = DataSet(self.images, options.select_on, recipe_of(options))
        data.validation_chooses = False  # the last epoch: nothing is chosen by looking at test data
        return data

    def _packed(self, name: str, search: Search) -> dict[str, Any]:
        """Write the compact ticket of a finished search; returns its bytes and its accuracy."""
        ticket = pack(search.folder, {}, compact=True)
        model = ticket.to_model().to(self.device)
        batches = search.data.evaluation_batches(search.data.test, 500)
        counts = evaluate(model, batches)
        ticket.found["test"] = asdict(counts)
        size = ticket.save(self.work / "tickets" / f"{name}.mpt")
        return {"bytes": size, "ticket test": counts.top1}

    def bring_out(self) -> None:
        """Copy tickets, results and summary to OUT."""
        write_text_atomically(self.out / "summary.md", summary(self.record, self.scale))
        for path in (self.record.path, *sorted((self.work / "tickets").glob("*.mpt"))):
            if path.is_file():
                shutil.copy(path, self.out)


def _epochs_of(folder: Path) -> list[dict[str, Any]]:
    """The numbers of the epochs of a run."""
    return runs.read_metrics(folder / runs.LOGS / runs.METRICS)


IMAGES = "images.pt"


def decode(data: Path, work: Path) -> None:
    """Write the decoded images of CIFAR-10 into WORK, unless they are there."""
    path = work / IMAGES
    if path.is_file():
        return
    source = cifar.cifar(data, "CIFAR10")
    train, test = source.train, source.test
    assert isinstance(train, Images) and isinstance(test, Images)
    parts = [train.images, train.labels, test.images, test.labels]
    unfinished = path.with_suffix(".unfinished")
    torch.save(parts, unfinished)
    unfinished.replace(path)


def load_images(path: Path) -> Source:
    """What `decode` wrote."""
    images, labels, test_images, test_labels = torch.load(path, weights_only=True)
    train, test = Images(images, labels), Images(test_images, test_labels)
    names = cifar.CIFAR10_CLASSES
    return Source(train, test, names, cifar.CIFAR_MEAN, cifar.CIFAR_STD, "crop+flip")


def summary(record: Record, scale: Scale) -> str:
    """The results as tables in Markdown."""
    device = torch.cuda.get_device_name() if scale.device == "cuda" else platform.machine()
    parts = [
        "A rehearsal at toy size: the numbers mean nothing." if scale.is_toy else "",
        f"`benchmarks/gpu.sh DIR OUT`, {date.today():%Y-%m}, {device}, PyTorch {torch.__version__},"
        " bfloat16 (float32 parts with TF32). Test accuracy of the last epoch, all 50,000 training"
        " images, one seed.",
        _searches_table(record),
        _rules_table(record, scale),
        _text_block("Step / dense step in [ ]: median (quartiles; range)", record, "ratios"),
        _text_block("Checks", record, "checks"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _searches_table(record: Record) -> str:
    rows = [_search_row(plan, record[plan.name]) for plan in PLANS if plan.name in record]
    heads = (
        "| ticket | weights | kept | epochs | seconds | test % | ticket, bytes | test % | beside |"
    )
    return "\n".join([heads, "|---|---|---|---|---|---|---|---|---|", *rows]) if rows else ""


def _search_row(plan: Plan, result: dict[str, Any]) -> str:
    cells = [
        plan.name,
        f"{result['weights']:,}",
        f"{100 * result['kept']:.0f} %",
        str(result["epochs"]),
        f"{result['seconds']:.0f}",
        f"{result['test']:.2f}",
        f"{result['bytes']:,}",
        f"{result['ticket test']:.2f}",
        plan.published,
    ]
    return f"| {' | '.join(cells)} |"


def _rules_table(record: Record, scale: Scale) -> str:
    tried = {name: record[f"rule {name}"] for name in RULES if f"rule {name}" in record}
    if not tried:
        return ""
    rows = [
        f"| {name} | {result['validation']:.2f} | {result['seconds']:.1f} |"
        if result
        else f"| {name} | no time | |"
        for name, result in tried.items()
    ]
    title = f"Fast6, 7 % kept, {scale.rule_epochs} epochs of 45,000 images, the other 5,000:"
    return "\n".join([title, "", "| rule | validation % | seconds |", "|---|---|---|", *rows])


def _text_block(title: str, record: Record, name: str) -> str:
    if name not in record:
        return ""
    result = record[name]
    lines = result if isinstance(result, list) else [f"{key}: {result[key]}" for key in result]
    return "\n".join([f"{title}:", "", "```", *lines, "```"])


def work_through(session: Session) -> None:
    """All steps in their order; a search that fails is reported, and the next one begins.

    Raises:
        Fault: of the checks, or of the GPU itself.
        OutOfTime: the next start goes on.
    """
    session.checks()
    torch.set_float32_matmul_precision("high")  # TF32; the checks compare in full precision
    torch.backends.cudnn.benchmark = True
    session.ratios()
    failed = []
    for step in (session.rules, *(lambda plan=plan: session.plan(plan) for plan in PLANS)):
        try:
            step()
        except SearchStopped:
            raise OutOfTime("a search, which has a checkpoint") from None
        except (UserError, SearchDiverged, RuntimeError) as error:
            traceback.print_exc()
            if "CUDA error" in str(error):
                raise Fault("the GPU: the next start has a new context") from error
            failed.append(str(error).partition("\n")[0])
    if failed:
        raise Fault(f"{len(failed)} steps, which the next start tries again: {failed[0]}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with CIFAR-10")
    parser.add_argument("out", type=Path, help="for results")
    parser.add_argument("work", type=Path, nargs="?", help="for what the next start needs")
    parser.add_argument("--decode", action="store_true", help="only decode the images")
    arguments = parser.parse_args()
    work = arguments.work or arguments.out / "work"
    (work / "tickets").mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.decode:
        decode(arguments.data, work)
        return 0
    clock = Clock(float(os.environ.get("LIMIT", 540)))
    scale = TOY if os.environ.get("TOY") else GPU
    decoder = subprocess.Popen([sys.executable, *sys.argv, "--decode"])
    record = Record(work / "results.json")
    session = Session(scale, work, arguments.out, clock, record, decoder)
    try:
        work_through(session)
        print("all done")
        return 0
    except OutOfTime as reason:
        print(f"time is up before {reason}: start me again")
        return 0
    except Fault as fault:
        traceback.print_exception(fault)
        print(f"FAULT in {fault}")
        return 1
    finally:
        decoder.kill()
        decoder.wait()
        session.bring_out()


if __name__ == "__main__":
    sys.exit(main())
