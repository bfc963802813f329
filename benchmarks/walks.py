"""How far five pieces of data travel through the package: files visited, and moves between files.

    python benchmarks/walks.py                     # this tree
    python benchmarks/walks.py src OTHER/src       # and another one beside it

A move is a call of a function that lies in another file of the package than the last one called.
Every walk is a command of the command line, run in a process of its own in an empty folder.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

SEARCH = ["find", "--width-mult", "0.25", "--epochs", "1", "--device", "cpu", "--name", "walk"]
RUN = "runs/digits/width_mult=0.25/prune-rate=0.2/walk"
WALKS = {
    "a flag: from the command line to the configuration": (["--print-config"], 0, 1),
    "a search: from the command line to the first loss": (SEARCH, 0, 1),
    "a batch: from one loss to the next": (SEARCH, 1, 2),
    "a ticket: from a run to the file": (["pack", RUN, "-o", "a.mpt"], 0, 1),
    "an image: from its file to its class": (["predict", "a.mpt", "a.png"], 0, 1),
}
"""What is walked: a command, and between which calls of the loss function it is counted."""


class Counter:
    """Counts moves between the files of a folder."""

    def __init__(self, folder: Path, begin: int, end: int) -> None:
        self.folder, self.begin, self.end = f"{folder}{os.sep}", begin, end
        self.files: set[str] = set()
        self.last, self.moves, self.losses = "", 0, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # and no module or class body
        if event != "call" or not is_function or not name.startswith(self.folder):
            return
        if frame.f_code.co_name == "classification":
            self.losses += 1
        if self.begin <= self.losses < self.end and name != self.last:
            self.moves += 1
            self.files.add(name)
            self.last = name


def walk(root: Path, what: str) -> None:
    """Run one walk in this process, and print its line."""
    command, begin, end = WALKS[what]
    if command[0] == "--print-config":
        command = ["find", *command]
    sys.path.insert(0, str(root))
    from biprop import cli

    counter = Counter(root / "biprop", begin, end)
    stdout, sys.stdout = sys.stdout, Path(os.devnull).open("w")  # noqa: SIM115
    sys.setprofile(counter)
    try:
        code = cli.main(command)
    finally:
        sys.setprofile(None)
        sys.stdout = stdout
    if code:
        sys.exit(f"{what}: exit code {code}")
    print(f"  {what:52} {len(counter.files):3} files, {counter.moves:5} moves")


def show(root: Path) -> None:
    """Print all walks through the package below `root`."""
    print(root, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                "-c",
                "from PIL import Image; Image.new('L', (32, 32), 99).save('a.png')",
            ],
            cwd=folder,
            check=True,
        )
        for what in WALKS:
            command = [sys.executable, str(Path(__file__).resolve()), str(root), "--walk", what]
            environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
            subprocess.run(command, cwd=folder, check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).parents[1] / "src"
    parser.add_argument("roots", nargs="*", type=Path, default=[here], help="folders with biprop/")
    parser.add_argument("--walk", choices=WALKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for root in arguments.roots:
        if arguments.walk:
            walk(root.resolve(), arguments.walk)
        else:
            show(root.resolve())


if __name__ == "__main__":
    main()
