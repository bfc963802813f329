"""Small faults in the package, one at a time, and whether the tests notice them.

    make mutants                                     all of them
    python benchmarks/mutants.py --only optim        those whose file or text has "optim" in it
    python benchmarks/mutants.py --list

mutants.txt has them: a text that a file has exactly once, and what replaces it. Each is tried in a
copy of the source tree, with the tests that should fail. It is killed by the first that does, and
survives if all pass: then something is untested. Before the mutants the same tests run on the
unchanged copy, where they must pass. Exit status: 0 if every mutant was killed, 1 if one survived
or could not be judged.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutants.txt")
COPIED = ("src", "tests", "docs", "pretrained", "pyproject.toml")
SECONDS = 900
"""After which tests are given up."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: below src/biprop.
        old: a text that the file has exactly once.
        new: what stands there instead.
        tests: node ids below tests/, separated by spaces; one of them must fail.
    """

    file: str
    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"

    @property
    def node_ids(self) -> list[str]:
        return [f"tests/{test}" for test in self.tests.split()]


def read(path: Path) -> list[Mutant]:
    """The mutants of a file: blocks of "FILE  TESTS", then pairs of lines "  - old" and "  + new";
    "#" begins a comment.
    """
    mutants: list[Mutant] = []
    file = tests = old = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("  - "):
            old = line[4:]
        elif line.startswith("  +"):
            mutants.append(Mutant(file, old, line[4:], tests))
        elif line and not line.startswith("#"):
            file, _, tests = line.partition("  ")
            assert tests, (
                f"{path.name}, line {number}: neither a file with its tests, nor a text to replace,"
                " nor its replacement"
            )
    return mutants


# Imports what nearly all tests need, and runs the tests of each line in a process forked from that:
# importing PyTorch takes longer than most tests.
RUNNER = f"""
import json, os, signal, sys
import hypothesis, numpy, pytest, torch, torch.utils.tensorboard
for line in sys.stdin:
    arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm({SECONDS})
        with open("output.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        code = 2
        try:
            code = pytest.main(arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Tree:
    """A copy of the source tree, and a process whose tests import the package from there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / name, folder / name)
        self.environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
        self._runner: subprocess.Popen[str] | None = None
        self._clock = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs, tests can."""
        self._runner = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield
        finally:
            self._runner.communicate()

    def path(self, mutant: Mutant) -> Path:
        return self.folder / "src" / "biprop" / mutant.file

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Python knows a file's compiled form by size and second of the last change: each version
        # has a second of its own.
        self._clock += 1
        os.utime(path, (self._clock, self._clock))

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        path = self.path(mutant)
        original = path.read_text(encoding="utf-8")
        assert original.count(mutant.old) == 1, (
            f"{mutant.file} has {mutant.old!r} {original.count(mutant.old)} times"
        )
        self._write(path, original.replace(mutant.old, mutant.new))
        try:
            yield
        finally:
            self._write(path, original)

    def pytest(self, node_ids: Sequence[str]) -> tuple[int, str]:
        """Exit status and output of these tests, up to the first that fails.

        Examples of hypothesis are always the same.
        """
        arguments = [
            "-x",
            "-q",
            "--no-header",
            "--assert=plain",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed=0",
            *node_ids,
        ]
        assert self._runner and self._runner.stdin and self._runner.stdout
        self._runner.stdin.write(json.dumps(arguments) + "\n")
        self._runner.stdin.flush()
        code = int(self._runner.stdout.readline())
        return code, (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """End with a message unless the tests import this copy, core included."""
        code = (
            "import biprop; from biprop import native; print(biprop.__file__, native.library() is"
            " not None)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        file, has_core = done.stdout.split()
        if not Path(file).is_relative_to(self.folder):
            sys.exit(f"the tests would import {file} and not the copy in {self.folder}")
        if has_core != "True":
            print("without the compiled core: mutants that only its tests see will survive")


def pass_unchanged(mutants: Sequence[Mutant], trees: Sequence[Tree]) -> bool:
    """Whether all tests of the mutants pass without any; each tree runs its part of them."""
    node_ids = sorted({node_id for mutant in mutants for node_id in mutant.node_ids})
    parts = [node_ids[number :: len(trees)] for number in range(len(trees))]
    print(f"{len(mutants)} mutants; first {len(node_ids)} tests on the unchanged tree", flush=True)
    with ThreadPoolExecutor(len(trees)) as pool:
        results = list(pool.map(Tree.pytest, trees, [part for part in parts if part]))
    for code, output in results:
        print(output if code else output.strip().splitlines()[-1], flush=True)
    return not any(code for code, _ in results)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killed, survived or not judged; `why` is the test that failed, or
    what went wrong.
    """

    mutant: Mutant
    status: str
    why: str
    seconds: float


def judge(mutant: Mutant, tree: Tree) -> Outcome:
    """Run the tests of a mutant."""
    started = time.monotonic()
    with tree.mutated(mutant):
        code, output = tree.pytest(mutant.node_ids)
    seconds = time.monotonic() - started
    failed = re.search(r"^FAILED tests/(\S+)", output, re.M)
    if code == 1 and failed:
        return Outcome(mutant, "killed", failed[1], seconds)
    if code == 0:
        return Outcome(mutant, "SURVIVED", f"all pass: {mutant.tests}", seconds)
    # A fault that keeps a test from being collected or set up says nothing about what the tests
    # look at.
    return Outcome(
        mutant, "NOT JUDGED", (output.strip().splitlines() or [f"exit status {code}"])[-1], seconds
    )


def judged(mutants: Sequence[Mutant], trees: Sequence[Tree]) -> Iterator[Outcome]:
    """The outcome of each mutant, in their order; one tree is used by one mutant at a time."""
    free: queue.Queue[Tree] = queue.Queue()
    for tree in trees:
        free.put(tree)

    def one(mutant: Mutant) -> Outcome:
        tree = free.get()
        try:
            return judge(mutant, tree)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        yield from pool.map(one, mutants)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        default="",
        help="regular expression: mutants whose description has it",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="how many at a time [one a core]",
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in read(LIST) if re.search(arguments.only, str(mutant))]
    if arguments.list or not chosen:
        print("\n".join(map(str, chosen)) or f"no mutant has {arguments.only!r} in it")
        return 0 if chosen else 1
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place, ExitStack() as stack:
        trees = []
        for number in range(max(1, min(arguments.jobs, len(chosen)))):
            folder = Path(place) / str(number)
            folder.mkdir()
            trees.append(Tree(folder))
            stack.enter_context(trees[-1].running())
        trees[0].check()
        if not pass_unchanged(chosen, trees):
            return 1
        outcomes = []
        for outcome in judged(chosen, trees):
            outcomes.append(outcome)
            progress = f"[{len(outcomes)}/{len(chosen)}]"
            print(
                f"{progress} {outcome.status}  {outcome.mutant}\n    {outcome.why} "
                f" ({outcome.seconds:.0f} s)",
                flush=True,
            )
    left = [outcome for outcome in outcomes if outcome.status != "killed"]
    print(
        f"\n{len(outcomes) - len(left)} of {len(outcomes)} killed, in"
        f" {time.monotonic() - started:.0f} s"
    )
    for outcome in left:
        print(f"{outcome.status}  {outcome.mutant}\n    {outcome.why}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
