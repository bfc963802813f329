"""How accurate is a ticket after so many minutes? One recipe and one seed a start, on CIFAR-10.

    python benchmarks/time_to_accuracy.py cifar10-10min --data DIR --seed 0
    python benchmarks/time_to_accuracy.py cifar10-1h --data DIR -- --prune-rate 0.1
    python benchmarks/time_to_accuracy.py cifar10-small --teacher '--recipe cifar10-dense'
    python benchmarks/time_to_accuracy.py --table

The first three search (`biprop find --recipe`), or continue a search that was stopped, and append a
record to FOLDER/log.jsonl: the accuracy on the test images of the ticket packed with --compact,
plain and with the logits of each image and its mirror image added, the file's bytes, seconds of
the clock and of the processor, steps, and the processor. The epoch is chosen on 5,000 validation
images, or is the last one with --select-on last: the test images choose nothing. A row whose record
is there is not searched again. --table prints the records as Markdown, seeds together, with the
accuracy that the search reported at tenths of the time.

With --teacher, `biprop find` with these options and the row's seed comes first, and the row learns
from what it finds; rows with the same teacher and seed share it. Its seconds are recorded apart.

With --threads 1 a search uses one core, and `--minutes` counts its clock: a budget of 20 minutes
on one core is about one of 10 minutes on two. Time nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import processor
from torch import nn

from biprop import Ticket, config, data
from biprop.evaluation.counts import Counts, evaluate
from biprop.runs.folder import LOGS, METRICS, PROGRESS, RESULT, read_metrics, read_object
from biprop.search.pack import pack

TENTHS = 10
BATCH = 500


@dataclass
class Row:
    """One search: a recipe, a seed and further options of `biprop find`.

    Attributes:
        teacher: the options of `biprop find` for its teacher; empty if there is none.
    """

    recipe: str
    seed: int
    options: list[str]
    teacher: str
    folder: Path
    threads: int
    data: str

    @property
    def what(self) -> str:
        """The search, whatever its seed."""
        teacher = [f"--teacher '{self.teacher}'"] if self.teacher else []
        return " ".join([self.recipe, *self.options, *teacher])

    @property
    def name(self) -> str:
        """What tells its record from others."""
        return f"{self.what} {self._of_run}"

    @property
    def log_dir(self) -> Path:
        """Its own folder of runs, so that --resume auto finds its run only."""
        return self._log_dir(self.name)

    @property
    def teacher_log_dir(self) -> Path:
        """The same of its teacher."""
        return self._log_dir(f"teacher {self.teacher} {self._of_run}")

    @property
    def _of_run(self) -> str:
        return f"--seed {self.seed} x{self.threads}"

    def _log_dir(self, name: str) -> Path:
        return self.folder / "".join(c if c.isalnum() or c in ".-=" else "_" for c in name)

    def command(self, options: list[str], log_dir: Path) -> list[str]:
        """A search with these options as a user types it."""
        flags = ["--data", self.data, "--seed", str(self.seed), "--device", "cpu"]
        where = ["--log-dir", str(log_dir), "--resume", "auto"]
        return [sys.executable, "-m", "biprop", "find", *options, *flags, *where]


class Mirrored(nn.Module):
    """The logits of an image and of its mirror image, added.

    Args:
        model: maps [B, C, H, W] to [B, classes].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes]."""
        logits: torch.Tensor = self.model(images) + self.model(images.flip(-1))
        return logits


def search(row: Row) -> float:
    """Search, or continue, the teacher first; returns the processor seconds of all stretches of the
    row's own search.
    """
    options = ["--recipe", row.recipe, *row.options]
    if row.teacher:
        find(row, shlex.split(row.teacher), row.teacher_log_dir)
        options += ["--teacher", str(run_folder(row.teacher_log_dir))]
    return find(row, options, row.log_dir)


def find(row: Row, options: list[str], log_dir: Path) -> float:
    """`biprop find` with these options, unless it is complete; returns its processor seconds."""
    log_dir.mkdir(parents=True, exist_ok=True)
    record = log_dir / "processor_seconds.txt"
    total = float(record.read_text()) if record.exists() else 0.0
    if any(log_dir.rglob(RESULT)):
        return total
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": str(row.threads)}
    ended = subprocess.run(row.command(options, log_dir), env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record.write_text(f"{total}\n")
    if ended.returncode:
        sys.exit(f"the search ended with code {ended.returncode}: start the same command again")
    return total


def run_folder(log_dir: Path) -> Path:
    """Of the complete search in a folder of runs."""
    (result,) = log_dir.rglob(RESULT)
    return result.parent


def of_teacher(row: Row) -> dict[str, float]:
    """Seconds and test accuracy of a row's teacher; empty without."""
    if not row.teacher:
        return {}
    run = run_folder(row.teacher_log_dir)
    test = Counts(**read_object(run / RESULT)["test"])
    return {
        "teacher_seconds": seconds_of(run),
        "teacher_accuracy": percent(test),
    }


def seconds_of(run: Path) -> float:
    """Of the clock that a complete search has taken, without interruptions."""
    return round(float(read_object(run / PROGRESS)["elapsed"]), 1)


def measure(row: Row, processor_seconds: float) -> dict[str, Any]:
    """The record of a complete search."""
    run = run_folder(row.log_dir)
    ticket_file = row.folder / f"{row.log_dir.name}.mpt"
    size = pack(run, {}, compact=True).save(ticket_file)
    ticket = Ticket.load(ticket_file)
    resolved, _ = config.resolve(str(config.find_recipe(row.recipe)), {"data": row.data})
    images = data.load(resolved)
    plain, mirrored = (
        evaluate(model, images.evaluation_batches(images.test, BATCH))
        for model in (ticket.to_model(), Mirrored(ticket.to_model()))
    )
    epochs = read_metrics(run / LOGS / METRICS)
    return {
        "row": row.name,
        "recipe": row.what,
        "seed": row.seed,
        "threads": row.threads,
        "processor": processor(),
        "torch": torch.__version__,
        "plain": percent(plain),
        "mirrored": percent(mirrored),
        "bytes": size,
        "weights": ticket.weights,
        "kept": ticket.kept,
        "seconds": seconds_of(run),
        **of_teacher(row),
        "processor_seconds": round(processor_seconds, 1),
        "epochs": epochs[-1]["epoch"],
        "steps": epochs[-1]["step"],
        "curve": curve(epochs),
    }


def percent(counts: Counts) -> float:
    """Accuracy in percent."""
    return round(counts.top1, 2)


def curve(epochs: list[dict[str, Any]]) -> list[float]:
    """The accuracy that the search reports for the last epoch before each tenth of the steps, in
    percent; 0 where there is none yet.
    """
    last = epochs[-1]["step"]
    values = []
    for tenth in range(1, TENTHS + 1):
        done = [line for line in epochs if line["step"] <= last * tenth / TENTHS]
        values.append(round(done[-1]["validation/top1"], 1) if done else 0.0)
    return values


def table(records: list[dict[str, Any]]) -> str:
    """The records in Markdown: a line for each recipe and its options, seeds together."""
    columns = (
        "recipe",
        "seeds",
        "minutes (and of the teacher), threads",
        "epochs",
        "test accuracy, %",
        "mirrored too, %",
        "bytes",
        "validation accuracy (test accuracy with --select-on last) at tenths of the steps",
    )
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["recipe"], record["threads"]), []).append(record)
    return head + "\n".join(map(line, groups.values()))


def mean_minutes(group: list[dict[str, Any]], name: str) -> str:
    return f"{statistics.mean(record[name] for record in group) / 60:.1f}"


def line(group: list[dict[str, Any]]) -> str:
    """One line of the table."""
    first = group[0]
    minutes = mean_minutes(group, "seconds")
    if "teacher_seconds" in first:
        minutes += f" and {mean_minutes(group, 'teacher_seconds')}"
    epochs = statistics.mean(record["epochs"] for record in group)
    sizes = statistics.mean(record["bytes"] for record in group)
    cells = [
        f"`{first['recipe']}`",
        ", ".join(str(record["seed"]) for record in group),
        f"{minutes}, {first['threads']}",
        f"{epochs:.0f}",
        mean_and_spread([record["plain"] for record in group]),
        mean_and_spread([record["mirrored"] for record in group]),
        f"{sizes:,.0f}",
        " ".join(f"{value:.0f}" for value in first["curve"]),
    ]
    return f"| {' | '.join(cells)} |"


def mean_and_spread(values: list[float]) -> str:
    """The mean, and with two values or more the standard deviation."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} (sd {statistics.stdev(values):.2f})"


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and what follows --, which is for biprop find."""
    words = [*sys.argv[1:], "--"]
    end = words.index("--")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("recipe", nargs="?", help="name of a recipe (biprop list recipes)")
    add("--data", default="data", help="folder with CIFAR-10 [%(default)s]")
    add("--seed", type=int, default=0, help="seed [%(default)s]")
    add("--teacher", default="", metavar="OPTIONS", help="of biprop find, in quotes [none]")
    add("--threads", type=int, default=2, help="threads of PyTorch [%(default)s]")
    add("--folder", type=Path, default=Path("runs/time_to_accuracy"), help="[%(default)s]")
    add("--table", action="store_true", help="print the records and search nothing")
    return parser.parse_args(words[:end]), words[end + 1 : -1]


def main() -> None:
    arguments, options = parse()
    log = arguments.folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    records = [json.loads(text) for text in lines]
    if arguments.table:
        print(table(records))
        return
    if not arguments.recipe:
        sys.exit("name a recipe, or pass --table")
    row = Row(
        arguments.recipe,
        arguments.seed,
        options,
        arguments.teacher,
        arguments.folder.resolve(),
        arguments.threads,
        arguments.data,
    )
    if any(record["row"] == row.name for record in records):
        sys.exit(f"{row.name}: there is a record of it in {log}")
    record = measure(row, search(row))
    with log.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(table([record]))


if __name__ == "__main__":
    main()
