"""Failure modes of runs, injected into real ones: what the run prints and leaves is recorded.

    python tests/faults.py > docs/reliability-table.md  # all, as the table of docs/reliability.md
    python tests/faults.py --kills 20 --data DIR        # kill -9 on a CIFAR-10 run

A fault that mends itself (room is made, the file is back) is followed by `biprop find --resume
auto` with the same options, and the scores, batch norm and optimiser at the end are compared bit by
bit with a run that was never interrupted.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

SMALL = ["--width-mult", "0.5", "--epochs", "3", "--device", "cpu"]
OFTEN = ["--save-minutes", "0.002"]
RUN = Path("runs/digits/width_mult=0.5/prune-rate=0.2/find")
LAST = Path("checkpoints/epoch_most_recent.state")
PATIENCE = 600
"""Seconds after which something that a fault should lead to will not come any more; generous, for
busy machines.
"""


class CannotBeDone(Exception):
    """This machine or user cannot inject the fault: the message says why."""


@dataclass
class Outcome:
    """What a fault led to.

    Attributes:
        code: exit code.
        message: the last line on standard error.
        seconds: from the fault to the end of the process.
        after: what came of going on.
    """

    code: int
    message: str
    seconds: float
    after: str


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "biprop", "find", *SMALL, *OFTEN, *flags]


def start(folder: Path, *flags: str, program: Sequence[str] | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    what = program or command(*flags)
    return subprocess.Popen(
        what,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not begin"
        time.sleep(0.001)


def end_of(
    process: subprocess.Popen[str], since: float, after: str = "", where: Path | None = None
) -> Outcome:
    _, err = process.communicate(timeout=PATIENCE)
    message = re.sub(r"^biprop: ", "", (err.strip().splitlines() or [""])[-1])
    if where:
        message = message.replace(f"{where}/", "")
    assert "Traceback" not in err, err
    return Outcome(process.returncode, message, time.monotonic() - since, after)


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Everything that training changes, at the end of a run."""
    content = torch.load(run / LAST, weights_only=True)
    momenta = content["optimizer"]["state"].values()
    moved = {
        f"momentum.{i}": m["momentum_buffer"]
        for i, m in enumerate(momenta)
        if m.get("momentum_buffer") is not None
    }
    return content["state_dict"] | moved


def same_bits(a: Path, b: Path, only: str = "") -> bool:
    one, other = state_of(a), state_of(b)
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items() if only in key
    )


@cache
def uninterrupted(*flags: str) -> Path:
    """The same search without a fault; its run folder."""
    folder = Path(tempfile.mkdtemp(prefix="biprop-whole-"))
    outcome = end_of(start(folder, *flags), time.monotonic())
    assert outcome.code == 0, outcome.message
    return folder


def going_on(folder: Path, *flags: str, run: Path = RUN, only: str = "") -> str:
    """What comes of the same command with --resume auto; asserts that it is what the uninterrupted
    run has.
    """
    outcome = end_of(start(folder, *flags, "--resume", "auto"), time.monotonic())
    assert outcome.code == 0, outcome.message
    assert same_bits(folder / run, uninterrupted(*flags) / run, only)
    return f"resumed; {only or 'final state'} bit-identical"


def killed(
    folder: Path,
    kills: int = 4,
    flags: Sequence[str] = ("--epochs", "6"),
    run: Path = RUN,
    spread: float = 0.5,
) -> Outcome:
    """kill -9, while a checkpoint is written, at random moments, and during start or resumption

    `spread`: seconds within which a random moment lies, after a checkpoint.
    """
    rng, done, inside, early = random.Random(0), 0, 0, 0
    uninterrupted(*flags)
    checkpoints, last = folder / run / "checkpoints", folder / run / LAST
    for number in range(kills):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start(folder, *flags, "--resume", "auto")
        if number % 3 < 2:  # it gets further before it is killed
            wait_for(lambda seen=before: last.exists() and last.stat().st_mtime_ns != seen, process)  # type: ignore[misc]
        if number % 3 == 0:
            wait_for(
                lambda p=process: any(checkpoints.glob(".*.unfinished")) or p.poll() is not None,
                process,
            )  # type: ignore[misc]
        else:
            time.sleep(rng.uniform(0, spread if number % 3 == 1 else 4 * spread))
        process.kill()
        if end_of(process, time.monotonic()).code != -signal.SIGKILL:
            break  # it was done before
        done += 1
        inside += any(checkpoints.glob(".*.unfinished"))
        early += (last.stat().st_mtime_ns if last.exists() else 0) == before
    assert done >= kills // 2
    after = going_on(folder, *flags, run=run)
    assert not list(checkpoints.glob(".*.unfinished"))
    return Outcome(
        -signal.SIGKILL,
        "",
        0,
        f"{done} times, {inside} inside a write, {early} before any new checkpoint: {after}",
    )


def terminated(folder: Path) -> Outcome:
    """SIGTERM, as a scheduler sends it before the time limit"""
    process = start(folder)
    wait_for((folder / RUN / LAST).exists, process)
    since = time.monotonic()
    process.terminate()
    outcome = end_of(process, since)
    outcome.after = going_on(folder)
    return outcome


def hung_up(folder: Path) -> Outcome:
    """SIGHUP, as from a terminal that is closed"""
    with default_hangup():
        process = start(folder)
    wait_for((folder / RUN / LAST).exists, process)
    since = time.monotonic()
    process.send_signal(signal.SIGHUP)
    outcome = end_of(process, since)
    outcome.after = going_on(folder)
    return outcome


@contextmanager
def default_hangup() -> Iterator[None]:
    """Processes that start in the block end at SIGHUP, even if these tests run below nohup.

    A process inherits that a signal is ignored.
    """
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


@contextmanager
def small_disk(folder: Path, size: str = "8m", options: str = "rw") -> Iterator[Path]:
    """A file system of its own in folder/disk."""
    place = folder / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},{options}", "tmpfs", str(place)],
        capture_output=True,
    )
    if made.returncode:
        raise CannotBeDone("only root can mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def disk_full(folder: Path) -> Outcome:
    """The disk becomes full during the run"""
    with small_disk(folder) as disk:
        process = start(disk)
        wait_for((disk / RUN / LAST).exists, process)
        since = time.monotonic()
        with (disk / "other").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        outcome = end_of(process, since, where=disk)
        assert torch.load(disk / RUN / LAST, weights_only=True)["epoch"] < 3
        (disk / "other").unlink()
        outcome.after = f"space freed: {going_on(disk)}"
        return outcome


def read_only(folder: Path) -> Outcome:
    """The folder for runs is read-only"""
    with small_disk(folder, options="ro") as disk:
        return end_of(
            start(folder, "--log-dir", str(disk / "runs")),
            time.monotonic(),
            "no run was started",
            folder,
        )


def read_only_later(folder: Path) -> Outcome:
    """The folder of a run that is resumed has become read-only"""
    with small_disk(folder) as disk:
        process = start(disk)
        wait_for((disk / RUN / LAST).exists, process)
        process.terminate()
        end_of(process, time.monotonic())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        outcome = end_of(start(disk, "--resume", "auto"), time.monotonic(), where=disk)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        outcome.after = f"writable again: {going_on(disk)}"
        return outcome


STREAMED = [
    "--set",
    "folder",
    "--stream",
    "--image-size",
    "32",
    "--data",
    "images",
    "--workers",
    "2",
    "--batch-size",
    "8",
]
STREAMED_RUN = Path(f"runs/folder-Wide_VGG_Small_132/width_mult=0.5/prune-rate=0.2/{RUN.name}")


def photographs(folder: Path) -> Path:
    """A copy of the same photographs, which the run reads while it trains."""
    from conftest import write_photographs

    return write_photographs(folder / "images")


@cache
def streamed_uninterrupted() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="biprop-whole-"))
    photographs(folder)
    outcome = end_of(start(folder, *STREAMED), time.monotonic())
    assert outcome.code == 0, outcome.message
    return folder


def streamed_going_on(folder: Path) -> str:
    outcome = end_of(start(folder, *STREAMED, "--resume", "auto"), time.monotonic())
    assert outcome.code == 0, outcome.message
    assert same_bits(folder / STREAMED_RUN, streamed_uninterrupted() / STREAMED_RUN)
    return "resumed; final state bit-identical"


def data_vanish(folder: Path) -> Outcome:
    """An image that has not been read yet is deleted"""
    images = photographs(folder)
    process = start(folder, *STREAMED)
    wait_for((folder / STREAMED_RUN / LAST).exists, process)
    since = time.monotonic()
    (images / "train" / "red").rename(folder / "elsewhere")
    outcome = end_of(process, since, where=folder)
    (folder / "elsewhere").rename(images / "train" / "red")
    outcome.message = re.sub(r"red/\d+", "red/N", outcome.message)
    outcome.after = f"image restored: {streamed_going_on(folder)}"
    return outcome


def children(process: int) -> list[int]:
    return [
        int(p)
        for task in Path(f"/proc/{process}/task").iterdir()
        for p in (task / "children").read_text().split()
    ]


def reader_killed(folder: Path) -> Outcome:
    """A process that reads images is killed"""
    photographs(folder)
    process = start(folder, *STREAMED)
    wait_for((folder / STREAMED_RUN / LAST).exists, process)
    wait_for(lambda: bool(children(process.pid)), process)
    since = time.monotonic()
    os.kill(children(process.pid)[0], signal.SIGKILL)
    outcome = end_of(process, since)
    outcome.message = re.sub(r"\(pid\D*[\d, ]+\)", "(pid N)", outcome.message)
    outcome.after = streamed_going_on(folder)
    return outcome


TWO = ("--multigpu", "0,1")


def rank_killed(folder: Path, rank: int = 1) -> Outcome:
    """Of a search in two processes, rank 1 is killed"""
    process = start(folder, *TWO)
    wait_for((folder / RUN / LAST).exists, process)
    since = time.monotonic()
    os.kill(children(process.pid)[rank], signal.SIGKILL)
    outcome = end_of(process, since, where=folder)
    outcome.after = going_on(folder, *TWO, only="scores")
    return outcome


def first_rank_killed(folder: Path) -> Outcome:
    """Of a search in two processes, rank 0 is killed, which writes the checkpoints"""
    return rank_killed(folder, 0)


def launcher_killed(folder: Path) -> Outcome:
    """kill -9 to `biprop find --multigpu` itself"""
    process = start(folder, *TWO)
    wait_for((folder / RUN / LAST).exists, process)
    both, since = children(process.pid), time.monotonic()
    process.kill()
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in both):
        assert time.monotonic() - since < PATIENCE, "they live"
        time.sleep(0.01)
    assert process.stderr
    process.stderr.close()
    outcome = Outcome(process.returncode, "", time.monotonic() - since, "")
    outcome.after = f"both end with a checkpoint; {going_on(folder, *TWO, only='scores')}"
    return outcome


def restarted(folder: Path) -> Outcome:
    """One of two processes of torchrun --max-restarts 1 is killed"""
    agent = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
    ]
    process = start(folder, program=[*agent, *command()[1:]])
    wait_for((folder / RUN / LAST).exists, process)
    since = time.monotonic()
    os.kill(children(process.pid)[1], signal.SIGKILL)
    outcome = end_of(process, since)
    assert not (folder / RUN / "0").exists()  # it has not begun anew
    assert same_bits(folder / RUN, uninterrupted(*TWO) / RUN, "scores")
    outcome.message, outcome.seconds = (
        "",
        0,
    )  # a page of torchrun's; and it did not end, but went on
    outcome.after = "both are restarted and resume by themselves; scores bit-identical"
    return outcome


def both_terminated(folder: Path) -> Outcome:
    """SIGTERM to a search in two processes, whose epochs have few steps"""
    long = (*TWO, "--batch-size", "300", "--epochs", "12")
    process = start(folder, *long)
    wait_for((folder / RUN / LAST).exists, process)
    since = time.monotonic()
    process.terminate()
    outcome = end_of(process, since)
    outcome.after = going_on(folder, *long, only="scores")
    return outcome


def not_a_number(folder: Path) -> Outcome:
    """The scores become infinite"""
    return diverged(folder)


def two_not_a_number(folder: Path) -> Outcome:
    """The weights of a dense network in two processes become infinite"""
    return diverged(folder, *TWO, "--conv-type", "DenseConv", "--no-freeze-weights")


def diverged(folder: Path, *flags: str) -> Outcome:
    """A search that takes far too long steps."""
    outcome = end_of(
        start(folder, *flags, "--lr", "1e38"), time.monotonic(), "the checkpoints before it remain"
    )
    assert list(folder.rglob("initial.state"))
    return outcome


def clock_set_back(folder: Path) -> Outcome:
    """The clock runs backwards, by an hour whenever it is read"""
    lines = "import itertools, time; from biprop import cli; now = itertools.count(2e9, -3600)"
    program = (
        f"{lines}; time.time = lambda: float(next(now)); raise"
        f" SystemExit(cli.main({command()[3:]!r}))"
    )
    outcome = end_of(start(folder, program=[sys.executable, "-c", program]), time.monotonic())
    assert same_bits(folder / RUN, uninterrupted() / RUN)
    outcome.after = "final state bit-identical"
    return outcome


def same_name(folder: Path) -> Outcome:
    """Two runs with the same name start at the same moment"""
    both = [start(folder) for _ in range(2)]
    outcomes = [end_of(process, time.monotonic()) for process in both]
    assert [o.code for o in outcomes] == [0, 0]
    assert all(same_bits(run, uninterrupted() / RUN) for run in (folder / RUN, folder / RUN / "0"))
    outcomes[0].after = "each has its own folder, both are complete"
    return outcomes[0]


def resumed_twice(folder: Path) -> Outcome:
    """A run is resumed while it runs"""
    first = start(folder)
    wait_for((folder / RUN / LAST).exists, first)
    first.send_signal(signal.SIGSTOP)  # or it would be done before the second one begins
    outcome = end_of(start(folder, "--resume", "auto"), time.monotonic())
    first.send_signal(signal.SIGCONT)
    outcome.message = re.sub(r"process \d+ on [^)]*", "process N on HOST", outcome.message)
    assert end_of(first, time.monotonic()).code == 0
    assert same_bits(folder / RUN, uninterrupted() / RUN)
    outcome.after = "the first run: final state bit-identical"
    return outcome


def damaged(folder: Path) -> Outcome:
    """The checkpoint to resume from has been truncated"""
    process = start(folder)
    wait_for((folder / RUN / LAST).exists, process)
    process.terminate()
    end_of(process, time.monotonic())
    data = (folder / RUN / LAST).read_bytes()
    (folder / RUN / LAST).write_bytes(data[: len(data) // 2])
    outcome = end_of(start(folder, "--resume", "auto"), time.monotonic())
    outcome.after = "the other checkpoints remain: --resume initial.state or model_best.pth"
    return outcome


FAULTS: dict[Callable[[Path], Outcome], int] = {
    killed: -signal.SIGKILL,
    terminated: 75,
    hung_up: 75,
    both_terminated: 75,
    launcher_killed: -signal.SIGKILL,
    disk_full: 2,
    read_only: 2,
    read_only_later: 2,
    data_vanish: 2,
    reader_killed: 2,
    rank_killed: 137,
    first_rank_killed: 137,
    restarted: 0,
    not_a_number: 1,
    two_not_a_number: 1,
    clock_set_back: 0,
    same_name: 0,
    resumed_twice: 2,
    damaged: 2,
}
"""Fault -> exit code."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "faults", nargs="*", metavar="FAULT", help="only these, by the names of their functions"
    )
    parser.add_argument("--kills", type=int, help="only kill -9, this often, on CIFAR-10 in --data")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="biprop-faults-"))
    try:
        if arguments.kills:
            data = str(arguments.data.absolute())
            flags = [
                "--set",
                "CIFAR10",
                "--data",
                data,
                "--arch",
                "Conv2Wide",
                "--low-data",
                "0.1",
                "--batch-size",
                "50",
            ]
            run = Path("runs/CIFAR10-Conv2Wide/width_mult=0.5/prune-rate=0.2/find")
            outcome = killed(place, arguments.kills, flags, run, spread=3)
            print(f"kill -9 on CIFAR-10: {outcome.after}")
            return
        print("| fault | exit code | ended after | message | afterwards |\n|---|---|---|---|---|")
        for fault in (
            FAULTS
            if not arguments.faults
            else [f for f in FAULTS if f.__name__ in arguments.faults]
        ):
            folder = place / fault.__name__
            folder.mkdir()
            what = (fault.__doc__ or "").strip().splitlines()[0]
            try:
                o = fault(folder)
                seconds = f"{o.seconds:.1f} s" if o.seconds else ""
                print(f"| {what} | {o.code} | {seconds} | {o.message} | {o.after} |", flush=True)
            except CannotBeDone as e:
                print(f"| {what} | not injected: {e} | | | |", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
