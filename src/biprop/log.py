"""What a run says: to the screen, to TensorBoard, to metrics.jsonl and to results.csv.

A terminal gets progress bars and a table; a pipe or a file gets plain lines.
"""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from . import screen
from .errors import UserError, one_line
from .files import replace_text, replacing, sync_folder
from .runs import METRICS, read_metrics
from .screen import printable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Console:
    """The screen: standard output, or `stream`. All texts are escaped here: see `screen.printable`.

    `lasting`: a stream that cannot be written any more is told of once, and nothing else happens:
    for work whose results are files. Otherwise it raises BrokenPipeError, where its reader has
    gone, or UserError.
    """

    def __init__(self, stream: IO[str] | None = None, lasting: bool = False) -> None:
        self.stream = screen.as_stream(stream, lasting)
        self.is_terminal = self.stream.isatty()
        self._rich: Any = None
        if self.is_terminal:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self.stream, highlight=False, markup=False, emoji=False)

    def line(self, *texts: str) -> None:
        """A line for each text, an empty one without any; on a terminal, above any progress bar."""
        lines = "\n".join(map(printable, texts))
        if self._rich:
            self._rich.print(lines, soft_wrap=True)
        else:
            print(lines, file=self.stream, flush=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        """A progress bar that goes away when done; shows nothing where there is no terminal."""
        if not self._rich:
            yield Bar()
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[note]}", markup=False),
        )
        with progress.Progress(*columns, console=self._rich, transient=True) as display:
            yield Bar(display, display.add_task(printable(what), total=total, note=""))

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
        title, cells = printable(title), _printable_rows(rows)
        if self._rich:
            from rich.table import Table

            table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
            table.add_column(overflow="fold")
            table.add_column(overflow="fold")  # long paths go on in the next line, and lose nothing
            for row in cells:
                table.add_row(*row)
            self._rich.print(table)
            return
        width = max(len(name) for name, _ in cells)
        self.line("", title)
        for name, value in cells:
            self.line(f"  {name:<{width}}  {value}")

    def columns(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with a head, the first column to the left and the others to the right."""
        title, (head_cells, *cells) = printable(title), _printable_rows([heads, *rows])
        if self._rich:
            from rich.table import Table

            table = Table(title=title, title_justify="left", title_style="bold")
            for number, head in enumerate(head_cells):
                table.add_column(head, justify="right" if number else "left", overflow="fold")
            for row in cells:
                table.add_row(*row)
            self._rich.print(table)
            return
        widths = [max(map(len, column)) for column in zip(head_cells, *cells, strict=True)]
        self.line("", title)
        for row in (head_cells, *cells):
            first, *others = (
                f"{cell:<{w}}" if not i else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            self.line("  " + "  ".join([first, *others]).rstrip())


def _printable_rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[printable(cell) for cell in row] for row in rows]


class Bar:
    """One running progress bar, or nothing."""

    def __init__(self, display: Any = None, task: Any = None) -> None:
        self._display, self._task = display, task

    def advance(self, steps: int, note: str = "") -> None:
        if self._display:
            self._display.update(self._task, advance=steps, note=printable(note))


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
    """Cut metrics.jsonl back to the epochs up to `epoch`, for a run that goes on from there.

    Damaged lines go too.
    """
    path = folder / METRICS
    if path.is_file():
        kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["epoch"] <= epoch]
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


LOCK_PATIENCE = 30.0
"""Seconds to wait for a table that another process has locked."""
_TELL_OF_WAITING = 1.0


def append_result(
    path: Path,
    row: Mapping[str, Any],
    is_asked_to_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = screen.tell,
) -> None:
    """Append one run to results.csv, unless this very row is there.

    Runs that end at the same time wait for each other, but at most `LOCK_PATIENCE` seconds, and
    only until `is_asked_to_stop`. Then the row goes into a file of its own beside the table, and
    into the table with the next run that ends. `tell` takes what is to be said of that.

    Raises:
        UserError: the table, or the file, cannot be written.
    """
    line = _csv_line(row.get(column, "") for column in RESULT_COLUMNS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, is_asked_to_stop, tell) as is_ours:
            if not is_ours:
                name = f"{path.name}.{hashlib.sha256(line).hexdigest()[:12]}{_WAITING}"
                with replacing(path.with_name(name)) as file:
                    file.write(line)
                tell(f"{path}: still locked: the row waits in {name} for the next run that ends")
                return
            waiting = sorted(path.parent.glob(f"{glob.escape(path.name)}.*{_WAITING}"))
            _append(path, [*(one.read_bytes() for one in waiting), line])
            for one in waiting:
                one.unlink(missing_ok=True)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror or one_line(e)}") from None


_WAITING = ".row"
"""Ending of the files that hold a row for a table."""


def _append(path: Path, lines: Sequence[bytes]) -> None:
    """Append the lines that a table does not have yet, all or none."""
    table = path.read_bytes() if path.exists() else b""
    # A power cut may have left half a line.
    new = b"" if not table or table.endswith(b"\n") else b"\r\n"
    new += b"" if table else _csv_line(RESULT_COLUMNS)
    new += b"".join(line for line in dict.fromkeys(lines) if b"\n" + line not in b"\n" + table)
    with path.open("ab", buffering=0) as file:
        try:
            if file.write(new) < len(new):  # a full disk takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(path, len(table))
            raise
    sync_folder(path.parent)


@contextmanager
def _locked(path: Path, is_asked_to_stop: Callable[[], bool], tell: Callable[[str], None]) -> Iterator[bool]:
    """While the block runs, no other process appends to a table; False where that took too long."""
    from filelock import FileLock, Timeout

    lock, began, has_told = FileLock(f"{path}.lock"), time.monotonic(), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = time.monotonic() - began
            if waited > LOCK_PATIENCE or is_asked_to_stop():
                break
            if waited > _TELL_OF_WAITING and not has_told:
                patience = f"waiting for it, at most {LOCK_PATIENCE:.0f} s"
                tell(f"{path}: another process holds {path.name}.lock: {patience}")
                has_told = True
            time.sleep(0.05)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def csv_cell(value: Any) -> Any:
    """What goes into a CSV file: texts that a spreadsheet would compute begin with an apostrophe.

    Names of runs, files and networks may begin with =, +, -, @, a tab or a line break.
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv_line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([csv_cell(value) for value in values])
    return text.getvalue().encode("utf-8", errors="backslashreplace")
