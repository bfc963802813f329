"""Run the code blocks of README.md and docs/, and update the output that they show.

    python scripts/readme.py            # update the pages (`make readme`)
    python scripts/readme.py --check    # only compare; exit code 1 if the words differ

A block of commands with their output starts with a line "$ COMMAND". In its output, a line "..."
stands for any number of omitted lines. The output on the page and the output of the program must
have the same words in the same order; numbers, times, instruction sets and which epoch was best may
differ. `make test` is not run: its line is edited by hand.

What the other blocks are stands behind the fence: `sh`, `python`, `c`, or nothing for text that is
not code. A block whose first line is a comment with the name of a file, "# net.py", is that file.
The blocks of a page are run in their order, in one folder, which holds these files and what pages
take as given (`write_stand_ins`). tests/test_docs.py runs all of
them, with searches of seconds, and has the list of commands that are not run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "pretrained" / "README.md"]
FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
BLOCK = re.compile(r"(?:(?<=```\n)|(?<=```console\n))\$ .*?(?=```)", re.S)
PROGRAM = ".venv/bin/biprop"
LEFT_OUT = "..."
DEMO = "make demo"
BY_HAND = ("make test", "pip install '.[onnx]' onnxruntime")
NEEDS_A_SHELL = re.compile(r"[$<>;|*]|^(?!(\.venv/bin/)?biprop )")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: that it is on.
        line: of its first line of text, from 1.
        language: what stands behind the fence; "console" for commands with their output.
        text: between the fences.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    result = []
    for match in FENCED.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        result.append(Block(page, line, match[1] or _language_of(match[2]), match[2]))
    return result


def _language_of(text: str) -> str:
    """The language of a block whose fence names none."""
    if text.startswith("$ "):
        return "console"
    return "sh" if re.search(r"^(\.venv/bin/)?biprop ", text, re.M) else "text"


class Differs(Exception):
    """The output on the page and the output of the program differ; the message says where."""


def key(line: str) -> str:
    """The part of a line that must not differ: its words, without numbers, versions and
    instruction sets.
    """
    line = re.sub(r"\b(amx|avx512|avx512vnni|avx2|avxvnni|neon|dotprod|i8mm|scalar)\b", "ISA", line)
    line = re.sub(r"torch [\w.+]+", "torch VERSION", line)
    line = re.sub(r"\d threads\b", "1 thread", line)
    line = re.sub(r"\d[\d.,:%-]*", "N", line)
    return " ".join(line.removesuffix("best").split())


def segments(shown: Sequence[str]) -> list[list[str]]:
    """The output on the page, split at the lines that stand for omitted lines."""
    result: list[list[str]] = [[]]
    for line in shown:
        if line.strip() == LEFT_OUT:
            result.append([])
        else:
            result[-1].append(line)
    return result


def renewed(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """The output for the page: the lines of `shown`, replaced by those that the program printed.

    Args:
        shown: lines of the page, some of which stand for omitted lines.
        printed: lines of the program.

    Raises:
        Differs: the words of a line in `shown` are not those of the printed line.
    """
    omissions = [line for line in shown if line.strip() == LEFT_OUT]
    result: list[str] = []
    place = 0
    for number, segment in enumerate(segments(shown)):
        start = _find(segment, printed, place, is_first=number == 0)
        if number:
            result.append(omissions[number - 1])
        place = start + len(segment)
        result += printed[start:place]
    if place < len(printed) and segment:
        raise Differs(f"the program goes on with {printed[place]!r}, and the page does not")
    return result


def _find(segment: Sequence[str], printed: Sequence[str], place: int, is_first: bool) -> int:
    """Where the lines of `segment` are in `printed`, from `place` on.

    The first segment must be exactly at `place`: before it, no lines are omitted.

    Raises:
        Differs: they are not there.
    """
    wanted = [key(line) for line in segment]
    keys = [key(line) for line in printed]
    last = place if is_first else len(keys) - len(wanted)
    for start in range(place, last + 1):
        if keys[start : start + len(wanted)] == wanted:
            return start
    raise Differs(_difference(segment, printed[place:]))


def _difference(segment: Sequence[str], printed: Sequence[str]) -> str:
    """The first line of `segment` that the program does not print, in words."""
    keys = {key(line) for line in printed}
    missing = next((line for line in segment if key(line) not in keys), segment[0])
    alike = next(
        (line for line in printed if line.split()[:1] == missing.split()[:1]), "nothing like it"
    )
    return f"the page shows {missing!r}; the program prints {alike!r}"


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (command, lines of its output on the page) for each command of a block."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def lines_of(script: str) -> list[str]:
    """The commands of a block of shell commands: one a line, without comments."""
    joined = script.replace("\\\n", " ").splitlines()
    without_comments = [re.sub(r"(^|\s)# .*", "", line) for line in joined]
    return [line for line in without_comments if line.strip()]


def run(command: str, extra: Sequence[str] = ()) -> list[str]:
    """The lines that a command prints, run in the working directory.

    Args:
        command: as on the page; several commands are joined by " && ".
        extra: options that are added to searches.

    Raises:
        Differs: the command fails.
    """
    output = io.StringIO()
    for part in command.split(" && "):
        if NEEDS_A_SHELL.search(part):
            output.write(run_in_shell(part))
            continue
        _, *arguments = shlex.split(part, comments=True)
        with contextlib.redirect_stdout(output):
            _run_biprop(shortened(arguments, extra), part)
    return output.getvalue().strip("\n").splitlines()


def run_script(lines: Sequence[str], extra: Sequence[str] = ()) -> None:
    """Run the commands of a block: in this process if all of them are `biprop`, else in a shell.

    Raises:
        Differs: a command fails.
    """
    if any(NEEDS_A_SHELL.search(line) for line in lines):
        run_in_shell("\n".join(lines))
        return
    for line in lines:
        run(line, extra)


def _run_biprop(arguments: list[str], command: str) -> None:
    """Run the command line in this process, which has loaded PyTorch already."""
    from biprop.cli import command_line

    code = command_line.main(arguments)
    if code:
        raise Differs(f"{command!r} ends with exit code {code}")


def shortened(arguments: list[str], extra: Sequence[str]) -> list[str]:
    """The arguments of `biprop`; those of a search for a search of seconds, if `extra` says so."""
    is_search = arguments[0] in ("find", "sweep") and "--resume" not in arguments
    if not is_search or not extra:
        return arguments
    if "--minutes" in arguments:
        place = arguments.index("--minutes") + 1
        return [*arguments[:place], "0.02", *arguments[place + 1 :]]
    return [*arguments, *extra]


def run_in_shell(script: str) -> str:
    """What a shell script prints.

    Raises:
        Differs: one of its commands fails.
    """
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", "")])
    package = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "PATH": path, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Differs(f"{script!r} ends with exit code {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def run_python(block: Block, names: dict[str, Any]) -> str:
    """What a block of Python prints; `names` are the variables of the page's blocks."""
    output = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with contextlib.redirect_stdout(output):
        exec(code, names)
    return output.getvalue()


def file_of(block: Block) -> str | None:
    """The file that the comment in the first line of a block names; None if there is none."""
    named = re.match(r"(?:# |/\* )(\w+\.(?:py|c))\b", block.text)
    return named[1] if named else None


def write_sources(page: Path) -> None:
    """Write the blocks of a page that are files of their own."""
    for block in blocks(page):
        if name := file_of(block):
            Path(name).write_text(block.text, encoding="utf-8")


def write_stand_ins() -> None:
    """Write what pages take as given into the working directory: tickets, decks, images."""
    shutil.copytree(ROOT / "pretrained", "pretrained")
    shutil.copytree(ROOT / "examples", "examples")
    shutil.copytree(ROOT / "scripts", "scripts")
    shutil.copy("pretrained/digits.mpt", "digits.mpt")
    shutil.copy("pretrained/digits.deck", "hand.deck")
    write_digits(Path("digits"))
    write_digits(Path("IMAGES"))
    for number, name in enumerate(("books", "mugs", "plants")):
        write_digits(Path("photos", name), range(number, 36, 3))


def write_digits(folder: Path, numbers: Sequence[int] = (0, 1, 3)) -> None:
    """Write some test images of the digits as PNG files, for `biprop predict`."""
    from PIL import Image

    from biprop import config, data

    images = data.load(config.resolve(None, {})[0]).test.images
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(images[number, 0].numpy()).save(folder / f"{number}.png")


def renewed_block(
    block: str,
    extra: Sequence[str] = (),
    is_run: Callable[[str], bool] = lambda command: command not in BY_HAND,
) -> str:
    """A block of commands with its current output, run in the working directory.

    Args:
        block: commands, each with the output that the page shows.
        extra: options that are added to searches.
        is_run: whether a command is run; otherwise its output stays as it is.
    """
    lines: list[str] = []
    for command, shown in commands(block):
        lines.append(f"$ {command}")
        if not is_run(command):
            lines += shown
        elif command == DEMO:
            Path("digits.mpt").unlink(missing_ok=True)  # the next command names a new file
            first = shown.index(f"{PROGRAM} find") + 1  # what make itself prints comes before
            lines += shown[:first] + renewed(shown[first:], run(f"{PROGRAM} find", extra))
        else:
            lines += renewed(shown, run(command, extra))
    return "\n".join(lines) + "\n"


def renewed_page(page: Path) -> str:
    """A page with the current output of its commands, run in a folder of its own."""
    text = page.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        return text
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_stand_ins()
        return BLOCK.sub(lambda match: renewed_block(match.group()), text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="default: all")
    arguments = parser.parse_args()
    for page in arguments.pages:
        try:
            new = renewed_page(page)
        except Differs as e:
            print(f"{page}: {e}", file=sys.stderr)
            return 1
        if not arguments.check:
            temporary = page.with_suffix(".new")
            temporary.write_text(new, encoding="utf-8")
            temporary.replace(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
