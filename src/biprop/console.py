"""Tables, lines and progress bars on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from . import screen
from .screen import printable


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
                f"{cell:<{w}}" if not i else f"{cell:>{w}}"
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
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
