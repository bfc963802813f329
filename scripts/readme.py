"""Run the commands that README.md shows, and put their output of today into it.

    python scripts/readme.py            # README.md is written anew (`make readme`)
    python scripts/readme.py --check    # nothing is written; exit code 1 where the words differ

A block of commands starts with a line "$ COMMAND". In its output a line "..." stands for any lines
left out. What is written and what is printed have to have the same words in the same order;
numbers, times, instruction sets and which epoch was best may differ. `make test` is not run: its
line is edited by hand.
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
    """The program does not print what README.md says; the message says where."""


def key(line: str) -> str:
    """What has to be the same in a line: its words, without numbers and what depends on machine and
    day.
    """
    line = re.sub(r"\b(amx|avx512|avx2|neon|scalar)\b", "ISA", line)
    line = re.sub(r"torch [\w.+]+", "torch VERSION", line)
    line = re.sub(r"\d[\d.,:%-]*", "N", line)
    return " ".join(line.removesuffix("best").split())


def segments(shown: Sequence[str]) -> list[list[str]]:
    """The lines between the lines that stand for others."""
    result: list[list[str]] = [[]]
    for line in shown:
        if line.strip() == LEFT_OUT:
            result.append([])
        else:
            result[-1].append(line)
    return result


def renewed(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """The lines of README.md with the program's output of today in their places.

    Raises:
        Differs: the words of a line shown are not those of the line printed.
    """
    keys = [key(line) for line in printed]
    left_out = [line for line in shown if line.strip() == LEFT_OUT]
    result: list[str] = []
    place = 0
    for number, segment in enumerate(segments(shown)):
        wanted = [key(line) for line in segment]
        last = (
            len(keys) - len(wanted) if number else place
        )  # the first segment begins where the output does
        found = next(
            (i for i in range(place, last + 1) if keys[i : i + len(wanted)] == wanted), None
        )
        if found is None:
            raise Differs(_difference(segment, printed[place:]))
        if number:
            result.append(left_out[number - 1])
        result += printed[found : found + len(segment)]
        place = found + len(segment)
    if place < len(printed) and segment:
        raise Differs(f"the program goes on with {printed[place]!r}, and README.md does not")
    return result


def _difference(segment: Sequence[str], printed: Sequence[str]) -> str:
    """Which line of a segment is the first that the program does not print."""
    keys = {key(line) for line in printed}
    missing = next((line for line in segment if key(line) not in keys), segment[0])
    alike = next(
        (line for line in printed if line.split()[:1] == missing.split()[:1]), "nothing like it"
    )
    return f"README.md shows {missing!r}; the program prints {alike!r}"


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """(command, lines shown after it) of a block."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def run(command: str, extra: Sequence[str] = ()) -> list[str]:
    """What the program prints, in the working directory; `extra` options are added to its searches.

    Raises:
        Differs: it fails.
    """
    from biprop.cli import command_line

    screen = io.StringIO()
    for one in command.split(" && "):
        arguments = shlex.split(one.removeprefix(PROGRAM))
        if arguments[0] == "find":
            arguments += extra
        with contextlib.redirect_stdout(screen):
            code = command_line.main(arguments)
        if code:
            raise Differs(f"{one!r} ends with exit code {code}")
    return screen.getvalue().strip("\n").splitlines()


def write_digits(folder: Path, numbers: Sequence[int] = (0, 1, 3)) -> None:
    """Some test images of the digits as PNG files, for `biprop predict`."""
    from PIL import Image

    from biprop import config, data

    images = data.load(config.resolve(None, {})[0]).test.images
    folder.mkdir()
    for number in numbers:
        Image.fromarray(images[number, 0].numpy()).save(folder / f"{number}.png")


def renewed_block(block: str, extra: Sequence[str] = ()) -> str:
    """A block of commands with today's output, run in the working directory."""
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
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_digits(Path("digits"))
        try:
            new = BLOCK.sub(lambda found: renewed_block(found.group()), text)
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
