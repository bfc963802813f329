"""Signals that ask a search to stop: noticed between two steps, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

AT_ONCE = 1.0
"""Seconds after which a second Ctrl-C means: at once. Launchers pass the first on to their processes, which get it twice."""


class StopRequest:
    """While the block runs, Ctrl-C (SIGINT) and SIGTERM, which schedulers send before they kill, are noted in `signal`.

    In a thread other than the main one, where Python allows no handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.signal and time.monotonic() - self._since > AT_ONCE:
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self._since = number, time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
