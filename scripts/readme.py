"""Run the commands in README.md, and update their output there.

    python scripts/readme.py            # update README.md (`make readme`)
    python scripts/readme.py --check    # only compare; exit code 1 if the words differ

A block of commands starts with a line "$ COMMAND". In its output, a line "..." stands for any
number of omitted lines. The output in README.md and the output of the program must have the same
words in the same order; numbers, times, instruction sets and which epoch was best may differ.
`make test` is not run: its line is edited by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(?<=```\n)\$ .*?(?=```)", re.S)
PROGRAM = ".venv/bin/biprop"
LEFT_OUT = "..."
DEMO = "make demo"
BY_HAND = ("make test",)


class Differs(Exception):
    """The output in README.md and the output of the program differ; the message says where."""


def key(line: str) -> str:
    """The part of a line that must not differ: its words, without numbers, versions and
    instruction sets.
    """
    line = re.sub(r"\b(amx|avx512|avx2|neon|scalar)\b", "ISA", line)
    line = re.sub(r"torch [\w.+]+", "torch VERSION", line)
    line = re.sub(r"\d[\d.,:%-]*", "N", line)
    return " ".join(line.removesuffix("best").split())


def segments(shown: Sequence[str]) -> list[list[str]]:
    """The output in README.md, split at the lines that stand for omitted lines."""
    result: list[list[str]] = [[]]
    for line in shown:
        if line.strip() == LEFT_OUT:
            result.append([])
        else:
            result[-1].append(line)
    return result


def renewed(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """The output for README.md: the lines of `shown`, replaced by those that the program printed.

    Args:
        shown: lines in README.md, some of which stand for omitted lines.
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
        raise Differs(f"the program goes on with {printed[place]!r}, and README.md does not")
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
    return f"README.md shows {missing!r}; the program prints {alike!r}"


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (command, lines of its output in README.md) for each command of a block."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def run(command: str, extra: Sequence[str] = ()) -> list[str]:
    """The lines that a command prints, run in the working directory.

    Args:
        command: as in README.md; several commands are joined by " && ".
        extra: options that are added to searches.

    Raises:
        Differs: the command fails.
    """
    from biprop.cli import command_line

    output = io.StringIO()
    for part in command.split(" && "):
        arguments = shlex.split(part.removeprefix(PROGRAM))
        if arguments[0] == "find":
            arguments += extra
        with contextlib.redirect_stdout(output):
            code = command_line.main(arguments)
        if code:
            raise Differs(f"{part!r} ends with exit code {code}")
    return output.getvalue().strip("\n").splitlines()


def write_digits(folder: Path, numbers: Sequence[int] = (0, 1, 3)) -> None:
    """Write some test images of the digits as PNG files, for `biprop predict`."""
    from PIL import Image

    from biprop import config, data

    images = data.load(config.resolve(None, {})[0]).test.images
    folder.mkdir()
    for number in numbers:
        Image.fromarray(images[number, 0].numpy()).save(folder / f"{number}.png")


def renewed_block(block: str, extra: Sequence[str] = ()) -> str:
    """A block of commands with its current output, run in the working directory."""
    lines: list[str] = []
    for command, shown in commands(block):
        lines.append(f"$ {command}")
        if command in BY_HAND:
            lines += shown
        elif command == DEMO:
            first = shown.index(f"{PROGRAM} find") + 1  # what make itself prints comes before
            lines += shown[:first] + renewed(shown[first:], run(f"{PROGRAM} find", extra))
        else:
            lines += renewed(shown, run(command, extra))
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_digits(Path("digits"))
        try:
            new = BLOCK.sub(lambda match: renewed_block(match.group()), text)
        except Differs as e:
            print(e, file=sys.stderr)
            return 1
    if not arguments.check:
        temporary = README.with_suffix(".new")
        temporary.write_text(new, encoding="utf-8")
        temporary.replace(README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
