"""What a run says: to the screen, to TensorBoard, to metrics.jsonl and to results.csv.

A terminal gets progress bars and a table; a pipe or a file gets plain lines.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from .errors import UserError, one_line
from .files import replace_text
from .runs import METRICS

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Console:
    """The screen. `stream` is standard output unless given."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty()
        self._rich: Any = None
        if self.is_terminal:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self.stream, highlight=False)

    def line(self, text: str = "") -> None:
        """One line; on a terminal, above any progress bar."""
        if self._rich:
            self._rich.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        """A progress bar that goes away when done; shows nothing where there is no terminal."""
        if not self._rich:
            yield Bar()
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[note]}"),
        )
        with progress.Progress(*columns, console=self._rich, transient=True) as display:
            yield Bar(display, display.add_task(what, total=total, note=""))

    def track(self, items: Iterable[Any], what: str, length: int) -> Iterator[Any]:
        """The same items, with a bar (on a terminal) or one line that says what takes so long."""
        if not self.is_terminal:
            self.line(f"{what}: {length:,}")
        with self.bar(what, length) as bar:
            every = max(1, length // 200)
            for done, item in enumerate(items, start=1):
                yield item
                if done % every == 0:
                    bar.advance(every)

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Two columns, name and value, under a title."""
        if self._rich:
            from rich.table import Table

            table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
            for row in rows:
                table.add_row(*row)
            self._rich.print(table, markup=False)
            return
        width = max(len(name) for name, _ in rows)
        self.line(f"\n{title}")
        for name, value in rows:
            self.line(f"  {name:<{width}}  {value}")

    def columns(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with a head, the first column to the left and the others to the right."""
        if self._rich:
            from rich.table import Table

            table = Table(title=title, title_justify="left", title_style="bold")
            for number, head in enumerate(heads):
                table.add_column(head, justify="right" if number else "left")
            for row in rows:
                table.add_row(*row)
            self._rich.print(table, markup=False)
            return
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        self.line(f"\n{title}")
        for row in (heads, *rows):
            first, *others = (
                f"{cell:<{w}}" if not i else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            self.line("  " + "  ".join([first, *others]).rstrip())


class Bar:
    """One running progress bar, or nothing."""

    def __init__(self, display: Any = None, task: Any = None) -> None:
        self._display, self._task = display, task

    def advance(self, steps: int, note: str = "") -> None:
        if self._display:
            self._display.update(self._task, advance=steps, note=note)


class Pace:
    """How fast steps are since it was made, before `step` more were done."""

    def __init__(self, step: int) -> None:
        self._step, self._started = step, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def so_far(self, step: int, images: int) -> dict[str, float]:
        """Seconds a step and images a second, at `images` a step."""
        seconds = self.seconds / max(1, step - self._step)
        return {"seconds_per_step": seconds, "images_per_second": images / max(seconds, 1e-9)}


def memory_peak(device: Any) -> int:
    """Bytes that this process had at most: on a GPU of its memory, else of the machine's; 0 where the system does not say."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class RunLog:
    """The numbers of a run: TensorBoard events and metrics.jsonl (one JSON object a line) in `folder`."""

    def __init__(self, folder: Path, epochs_done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what a resumed run does again.
        self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1 if epochs_done else None)
        self._lines = (folder / METRICS).open("a", encoding="utf-8")

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the named numbers of an epoch (counted from 1)."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._lines.write(json.dumps({"epoch": epoch, **values}) + "\n")
        self._lines.flush()
        self._writer.flush()

    def histograms(self, epoch: int, parameters: Iterable[tuple[str, Parameter]]) -> None:
        """Record how scores, weights and their gradients of the last step are distributed, in TensorBoard only.

        Args:
            epoch: counted from 1.
            parameters: as of `named_parameters`: LAYER.scores becomes scores/LAYER and gradients/LAYER.scores.
        """
        for name, parameter in parameters:
            layer, _, leaf = name.rpartition(".")
            tag = f"{leaf if leaf == 'scores' else 'weights'}/{layer if leaf in ('scores', 'weight') else name}"
            self._histogram(epoch, tag, parameter)
            if parameter.grad is not None:
                self._histogram(epoch, f"gradients/{name}", parameter.grad)

    def _histogram(self, epoch: int, tag: str, values: Tensor) -> None:
        self._writer.add_histogram(tag, values.detach().float().cpu(), epoch)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()
        self._lines.close()


def forget_after(folder: Path, epoch: int) -> None:
    """Cut metrics.jsonl back to the epochs up to `epoch`, for a run that goes on from there."""
    path = folder / METRICS
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epoch]
        replace_text(path, "".join(kept))


RESULT_COLUMNS = (
    "Date Finished", "Base Config",
    "Current Val Top 1", "Current Val Top 5", "Best Val Top 1", "Best Val Top 5", "Best Train Top 1", "Best Train Top 5",
    "Name", "Seed", "Prune Rate", "Learning Rate", "Epochs", "Weight Decay", "Learn BN", "Tune BN", "Bias Only",
    "Run Directory", "Test Top 1", "Test Top 5", "Selected On", "Density",
)  # fmt: skip


def check_results(path: Path) -> None:
    """Raise UserError if `path` is a table with other columns: better before a run than after it."""
    if path.exists() and path.stat().st_size:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header = tuple(next(csv.reader(file), ()))
        except (OSError, UnicodeDecodeError, csv.Error) as e:
            raise UserError(f"{path}: cannot be read: {one_line(e)}") from None
        if header != RESULT_COLUMNS:
            raise UserError(f"{path}: has other columns than this program writes: move it away or choose another --log-dir")


def append_result(path: Path, row: Mapping[str, Any]) -> None:
    """Append one run to results.csv; runs that end at the same time wait for each other."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        is_new = not path.exists() or path.stat().st_size == 0
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, RESULT_COLUMNS)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
