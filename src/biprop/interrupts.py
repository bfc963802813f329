"""Signals that stop a search: they are handled between two steps, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

SECOND_INTERRUPT_DELAY = 1.0
"""Seconds after which a second Ctrl-C stops immediately.

An earlier one may be the first Ctrl-C, which the terminal and the launcher both send to a process.
"""
TERMINATION_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that request termination: schedulers send SIGTERM before they kill a job, a terminal that
is closed sends SIGHUP, which Windows does not have."""
STOP_SIGNALS = (signal.SIGINT, *TERMINATION_SIGNALS)
"""`TERMINATION_SIGNALS` and Ctrl-C."""
EXIT_STOPPED = 75
"""Exit code of a process that one of `TERMINATION_SIGNALS` stopped.

It is EX_TEMPFAIL of sysexits.h, "try again". No other outcome uses it: schedulers can rely on it.
"""

Handler = Callable[[int, FrameType | None], None] | int


class Terminated(BaseException):
    """One of `TERMINATION_SIGNALS` arrived before there was anything to save.

    The text is the signal's name.
    """


@contextmanager
def handling(numbers: Sequence[int], handler: Handler) -> Iterator[None]:
    """Handle the signals `numbers` with `handler` while the block runs.

    Does nothing outside the main thread, where Python allows no handlers. A signal that was ignored
    before, such as SIGHUP under nohup, stays ignored, except Ctrl-C.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            current = signal.getsignal(number)
            is_ignored = current == signal.SIG_IGN and number != signal.SIGINT
            if current is not None and not is_ignored:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def raising() -> AbstractContextManager[None]:
    """A context in which `TERMINATION_SIGNALS` raise `Terminated`: there is nothing to save."""
    return handling(TERMINATION_SIGNALS, _raise)


def ignore_signals() -> None:
    """Ignore `STOP_SIGNALS` from now on: the program has reported its outcome and will exit.

    The interpreter takes a moment to exit, longer with PyTorch. A signal in that time would change
    the exit code or print a traceback. Python then runs no handlers, but it respects ignored
    signals.
    """
    for number in STOP_SIGNALS:
        with suppress(ValueError):  # not the main thread
            signal.signal(number, signal.SIG_IGN)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(signal.Signals(number).name)


class StopRequest:
    """A context that records the first of `STOP_SIGNALS` instead of being interrupted by it.

    Works in the main thread only. A second Ctrl-C raises KeyboardInterrupt
    if it comes `SECOND_INTERRUPT_DELAY` seconds after the first.

    Attributes:
        signal: number of the first signal that arrived; 0: none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._handled = handling(STOP_SIGNALS, self._note)

    def __enter__(self) -> StopRequest:
        self._handled.__enter__()
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if (
            number == signal.SIGINT == self.signal
            and time.monotonic() - self._since > SECOND_INTERRUPT_DELAY
        ):
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self._since = number, time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handled.__exit__(kind, error, trace)
