"""Starts one process a GPU on this machine, and ends them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence

from .. import interrupts, screen
from .group import GRACE, LOOPBACK, PARENT

_LOOK = 0.05


def launch(command: Sequence[str], count: int, environment: Mapping[str, str]) -> int:
    """Run a command in `count` processes on this machine that find each other as torchrun's do;
    signals are passed on to them.

    torchrun itself would hide their exit codes, and say a page where one of them has said a line.

    One that a signal ended could not say so itself: that is told here, on standard error. If this
    process is killed, those that it launched end.

    Returns:
        The exit code of the first that failed, or 0; for one that a signal ended, 128 + signal, or
        `STOPPED` where this process was asked to end and passed that on.
    """
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    shared |= {PARENT: str(os.getpid())}
    processes: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for process in processes:
            process.send_signal(number)
            if hasattr(signal, "SIGCONT"):
                # One that is stopped would not hear it, and the others would wait for that one.
                process.send_signal(signal.SIGCONT)

    try:
        with interrupts.handled(interrupts.TO_STOP, pass_on):
            for i in range(count):
                own = {**environment, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}
                # Groups of their own: a terminal's Ctrl-C would reach them twice.
                processes.append(subprocess.Popen(command, env=own, process_group=0))
            if asked:  # while they were started
                pass_on(asked[0], None)
            code = _first_failure(processes, asked)
        if -code in asked and -code in interrupts.TO_END:
            return interrupts.STOPPED
        return code if code >= 0 else 128 - code
    finally:
        for process in processes:
            process.kill()


def _first_failure(processes: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> int:
    """Wait for all processes; returns the code of the first that failed, as Popen gives it.

    `asked`: the signals that were passed on.
    """
    code, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        time.sleep(_LOOK)
        codes = [process.poll() for process in processes]
        if not code and any(codes):
            code, since = next(code for code in codes if code), time.monotonic()
            if code < 0 and not asked:
                killed = f"process {codes.index(code)} of {len(codes)} was killed"
                screen.tell(f"{killed} ({signal.Signals(-code).name})")
        if code and time.monotonic() - since > GRACE:
            for process in processes:
                process.kill()
    return code or next((process.returncode for process in processes if process.returncode), 0)
