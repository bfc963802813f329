"""Signals that ask a search to stop: noticed between two steps, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

AT_ONCE = 1.0
"""Seconds after which a second Ctrl-C means: at once.

Launchers pass the first on to their processes, which get it twice.
"""
TO_END = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask for an orderly end: schedulers send the first before they kill, terminals that
are closed the second, which Windows does not have."""
TO_STOP = (signal.SIGINT, *TO_END)
"""Those, and Ctrl-C."""
STOPPED = 75
"""Exit code of what one of `TO_END` has ended: EX_TEMPFAIL of sysexits.h, "try again". Nothing else
that a scheduler sees uses it."""


Handler = Callable[[int, FrameType | None], None] | int


class Terminated(BaseException):
    """One of `TO_END` came before there was anything to save; the text is the signal's name."""


@contextmanager
def handled(numbers: Sequence[int], handler: Handler) -> Iterator[None]:
    """While the block runs, signals go to `handler`, but in the main thread only: Python's rule.

    SIGHUP stays ignored where it was: nohup means it.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            now = signal.getsignal(number)
            if now is not None and (number == signal.SIGINT or now != signal.SIG_IGN):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


def raised() -> AbstractContextManager[None]:
    """A context in which `TO_END` raise `Terminated` at once, where there is nothing to save."""
    return handled(TO_END, _raise)


def settle() -> None:
    """From now on `TO_STOP` change nothing: for a program that is done, and has said how.

    Python takes a moment to end, longer with PyTorch. A second signal in it would change the exit
    code, or add a traceback; and Python runs no handlers any more, but lets ignored ones be.
    """
    for number in TO_STOP:
        with suppress(ValueError):  # not the main thread
            signal.signal(number, signal.SIG_IGN)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(signal.Signals(number).name)


class StopRequest:
    """While the block runs, `TO_STOP` are noted in `signal`, but in the main thread only."""

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._handled = handled(TO_STOP, self._note)

    def __enter__(self) -> StopRequest:
        self._handled.__enter__()
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.signal and time.monotonic() - self._since > AT_ONCE:
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
