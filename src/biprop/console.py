"""Lines, tables and progress bars on standard output, with rich on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from . import screen
from .screen import as_displayed, padded, printable, width

LEAST_VALUE = 16
"""Columns that the values of a table need on a terminal; on a narrower one they get own lines."""


class Console:
    """Prints to standard output, or to `stream`. All texts are escaped, see `screen.printable`.

    Args:
        stream: a text stream; None: standard output.
        tolerant: if the stream cannot be written any more, warn once and continue: for work whose
            results are files. Otherwise every method raises BrokenPipeError if the reader of the
            stream has ended, and else UserError.

    Attributes:
        stream: what is printed to.
        is_terminal: whether that is a terminal, which gets colours (unless NO_COLOR is set) and
            progress bars.
    """

    def __init__(self, stream: IO[str] | None = None, tolerant: bool = False) -> None:
        self.stream = screen.as_stream(stream, tolerant)
        self.is_terminal = self.stream.isatty()
        self._rich: Any = None
        self._has_bar = False
        if self.is_terminal:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self.stream, highlight=False, markup=False, emoji=False)

    @property
    def columns_of_terminal(self) -> int | None:
        """The width of the terminal; None if the stream is none."""
        return self._rich.width if self._rich else None

    def line(self, *texts: str) -> None:
        """Print each text as a line, or one empty line; on a terminal, above any progress bar."""
        lines = "\n".join(map(printable, texts))
        if self._rich:
            self._rich.print(lines, soft_wrap=True)
        else:
            print(lines, file=self.stream, flush=True)

    def item(self, label: str, text: str) -> None:
        """Print a text behind its label; on a terminal, its further lines start below its first."""
        if not self._rich:
            self.line(f"{label} {text}")
            return
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(self._shown(label), self._shown(text))
        self._rich.print(grid)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        """A progress bar of `total` steps, removed when the block ends; only on a terminal, and
        none inside another one.
        """
        if not self._rich or self._has_bar:
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
        self._has_bar = True
        try:
            with progress.Progress(*columns, console=self._rich, transient=True) as display:
                yield Bar(display, display.add_task(printable(what), total=total, note=""))
        finally:
            self._has_bar = False

    def track(self, items: Iterable[Any], what: str, length: int) -> Iterator[Any]:
        """Yield `items` with a progress bar on a terminal; elsewhere, print one line before.

        Args:
            items: to iterate over.
            what: is done, for the bar or the line.
            length: number of items.
        """
        if not self.is_terminal:
            self.line(f"{what}: {length:,}")
        with self.bar(what, length) as bar:
            every = max(1, length // 200)
            for done, item in enumerate(items, start=1):
                yield item
                if done % every == 0:
                    bar.advance(every)

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Print a table with two columns, name and value."""
        title, cells = self._shown(title), self._shown_rows(rows)
        names = max(width(name) for name, _ in cells)
        if not self._rich:
            self.line("", title)
            for name, value in cells:
                self.line(f"  {padded(name, names)}  {value}")
        elif self._rich.width - _frame(2) - names < max(LEAST_VALUE, self._rich.width // 3):
            self._print_records(title, ["", ""], cells)
        else:
            self._print_rich(title, ["", ""], cells, ["left", "left"], show_header=False)

    def columns(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table with a header; the first column is left-aligned, the others right-aligned.

        On a terminal that is too narrow for it, each cell gets a line of its own.

        Args:
            title: above the table.
            heads: names of the columns.
            rows: each with as many cells as `heads`.
        """
        title, (head_cells, *cells) = self._shown(title), self._shown_rows([heads, *rows])
        by_column = list(zip(head_cells, *cells, strict=True))
        if not self._rich:
            widths = [max(map(width, column)) for column in by_column]
            self.line("", title)
            for first, *others in (head_cells, *cells):
                aligned = (
                    padded(*cell, right=True) for cell in zip(others, widths[1:], strict=True)
                )
                self.line("  " + "  ".join([padded(first, widths[0]), *aligned]).rstrip())
        elif sum(map(_longest_word, by_column)) + _frame(len(by_column)) > self._rich.width:
            self._print_records(title, head_cells, cells)
        else:
            alignment = ["left"] + ["right"] * (len(head_cells) - 1)
            self._print_rich(title, head_cells, cells, alignment, show_header=True)

    def _shown(self, text: str) -> str:
        return as_displayed(text, self.stream)

    def _shown_rows(self, rows: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[self._shown(cell) for cell in row] for row in rows]

    def _print_records(
        self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """Print a table as one paragraph per row: the first cell, and below it the others."""
        from rich.padding import Padding
        from rich.text import Text

        names = max(map(width, heads[1:]), default=0)
        self._rich.print(Text(title, style="bold", overflow="fold"))
        for first, *others in rows:
            self._rich.print(Padding(Text(first, overflow="fold"), (0, 0, 0, 2)))
            for head, cell in zip(heads[1:], others, strict=True):
                if cell:
                    text = f"{padded(head, names)}  {cell}" if names else cell
                    self._rich.print(Padding(Text(text, overflow="fold"), (0, 0, 0, 4)))

    def _print_rich(
        self,
        title: str,
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        alignment: Sequence[Any],
        show_header: bool,
    ) -> None:
        from rich.table import Table

        table = Table(
            title=title, title_justify="left", title_style="bold", show_header=show_header
        )
        for head, justify in zip(heads, alignment, strict=True):
            # Long paths continue on the next line, and are not cut off.
            table.add_column(head, justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._rich.print(table)


def _frame(columns: int) -> int:
    """Width of what rich draws around the cells of a row: lines, and a space on either side."""
    return 3 * columns + 1


def _longest_word(cells: Sequence[str]) -> int:
    return max(width(word) for cell in cells for word in cell.split() or [""])


class Bar:
    """A running progress bar; without a display, it shows nothing."""

    def __init__(self, display: Any = None, task: Any = None) -> None:
        self._display, self._task = display, task

    def advance(self, steps: int, note: str = "") -> None:
        """Move the bar by `steps`, and show `note` behind it."""
        if self._display:
            self._display.update(self._task, advance=steps, note=printable(note))
