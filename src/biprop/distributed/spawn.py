"""Starts several processes on this machine, one per GPU, and ends them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence

from .. import interrupts, screen
from .group import GRACE, LOOPBACK, PARENT

_POLL_SECONDS = 0.05


def launch(command: Sequence[str], count: int, environment: Mapping[str, str]) -> int:
    """Run a command in `count` processes on this machine, with torchrun's environment variables;
    signals are passed on to them.

    torchrun itself would hide their exit codes, and print a page where a process printed a line.

    A process that a signal killed cannot report it: this function does, on standard error. If this
    process is killed, those that it launched end.

    Args:
        command: program and arguments.
        count: number of processes.
        environment: variables of the processes, besides those that say their rank.

    Returns:
        The exit code of the first process that failed, or 0; for one that a signal ended, 128 +
        signal, or `STOPPED` where this process got that signal and passed it on.
    """
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(_free_port())}
    shared |= {PARENT: str(os.getpid())}
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        _send(processes, number)

    try:
        with interrupts.handling(interrupts.STOP_SIGNALS, pass_on):
            for rank in range(count):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                # Process groups of their own: a terminal's Ctrl-C would reach them twice.
                processes.append(
                    subprocess.Popen(command, env={**environment, **shared, **own}, process_group=0)
                )
            if received:  # while they were started
                pass_on(received[0], None)
            return _exit_code(_first_failure(processes, received), received)
    finally:
        for process in processes:
            process.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """Send a signal to processes, stopped ones included."""
    for process in processes:
        process.send_signal(number)
        if hasattr(signal, "SIGCONT"):
            # A stopped process would not receive it, and the others would wait for that one.
            process.send_signal(signal.SIGCONT)


def _exit_code(code: int, received: Sequence[int]) -> int:
    """The exit code of `launch` for a code of Popen's, which is negative after a signal."""
    if -code in received and -code in interrupts.TERMINATION_SIGNALS:
        return interrupts.EXIT_STOPPED
    return code if code >= 0 else 128 - code


def _first_failure(processes: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> int:
    """Wait for all processes; those that run on `GRACE` seconds after a failure are killed.

    Args:
        processes: to wait for.
        received: the signals that were passed on to them, up to now.

    Returns:
        The code of the first process that failed, as Popen gives it, or 0.
    """
    failure, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        time.sleep(_POLL_SECONDS)
        codes = [process.poll() for process in processes]
        if not failure and any(codes):
            failure, since = next(code for code in codes if code), time.monotonic()
            if failure < 0 and not received:
                killed = f"process {codes.index(failure)} of {len(codes)} was killed"
                screen.report(f"{killed} ({signal.Signals(-failure).name})")
        if failure and time.monotonic() - since > GRACE:
            for process in processes:
                process.kill()
    return failure or next((process.returncode for process in processes if process.returncode), 0)
