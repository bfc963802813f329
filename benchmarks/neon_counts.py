"""The inner loops of the kernels for ARM, judged by their instructions, on any machine.

    python benchmarks/neon_counts.py        # needs aarch64-linux-gnu-g++ and its objdump

Compiles the kernels for AArch64 and counts the instructions of each inner loop, per 128 products:
of a kept tap and 128 lanes (sums and adders), or of weights and inputs, kept or not (population
counts and products of bytes). What happens outside the innermost loop is not counted, nor how many
instructions a processor starts per cycle.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = "aarch64-linux-gnu-"
FLAGS = ("-O3", "-std=c++17", "-ffp-contract=off", "-DBIPROP_NEON", "-DBIPROP_DOTPROD")


@dataclass(frozen=True)
class Kernel:
    """A kernel and what its inner loop does.

    Attributes:
        what: the name in the table.
        file: csrc/engine/kernels_<file>.cpp.
        function: how the name of the function begins.
        marker: an instruction of the loop, as a pattern.
        products: of one such instruction.
    """

    what: str
    file: str
    function: str
    marker: str
    products: int


KERNELS = (
    Kernel("bits: adders", "neon", "void bits_of<Bits16, 7>(", r"lsl\t", 128),
    Kernel("bits: population counts", "neon", "popcounts(", r"cnt\t", 128),
    Kernel("bits: population counts, one position", "neon", "popcount(", r"cnt\t", 128),
    Kernel("floats: sums", "neon", "void sum_of<4>(", r"fmla\t", 4),
    Kernel("8 bits: sums", "neon", "void sum_quantised_of<4>(", r"(add|sub)\tv\d+\.8h", 8),
    Kernel("8 bits: products, sdot", "dotprod", "void block_of<DotProd, 2>(", r"sdot\t", 16),
    Kernel("8 bits: products, smmla", "i8mm", "void block_of<I8mm, 2>(", r"smmla\t", 32),
)
MARCH = {"neon": "armv8-a", "dotprod": "armv8.2-a+dotprod", "i8mm": "armv8.2-a+dotprod+i8mm"}


def disassembled(file: str, folder: Path) -> dict[str, list[tuple[int, str]]]:
    """Each function's instructions and their addresses, by its name without namespaces."""
    source, output = ROOT / f"csrc/engine/kernels_{file}.cpp", folder / f"{file}.o"
    include = ROOT / "src/biprop/include"
    march = f"-march={MARCH[file]}"
    command: list[str | Path] = [
        f"{TOOLS}g++",
        *FLAGS,
        "-DBIPROP_I8MM",
        march,
        "-I",
        include,
        "-c",
        source,
    ]
    subprocess.run([*command, "-o", output], check=True)
    dump: list[str | Path] = [
        f"{TOOLS}objdump",
        "--disassemble",
        "--demangle",
        "--no-show-raw-insn",
        output,
    ]
    text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    functions: dict[str, list[tuple[int, str]]] = {}
    for line in text.replace("(anonymous namespace)::", "").splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            functions[head[1]] = []
        elif instruction := re.match(r" *([0-9a-f]+):\t(.*)", line):
            functions[next(reversed(functions))].append((int(instruction[1], 16), instruction[2]))
    return functions


def inner_loops(instructions: list[tuple[int, str]]) -> list[list[str]]:
    """From the target of a branch to the branch, where no other such loop lies between."""
    loops = []
    for end, (address, text) in enumerate(instructions):
        branch = re.match(r"(?:b\.\w+|b|cbnz|cbz|tbnz|tbz)\t(?:.*, )?([0-9a-f]+) <", text)
        if branch and int(branch[1], 16) <= address:
            start = next(i for i, (at, _) in enumerate(instructions) if at == int(branch[1], 16))
            loops.append((start, end))
    return [
        [text for _, text in instructions[start : end + 1]]
        for start, end in loops
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops)
    ]


def main() -> None:
    """Print the table."""
    print("| kernel | instructions of the loop | products | instructions per 128 products |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = {file: disassembled(file, Path(folder)) for file in MARCH}
    for kernel in KERNELS:
        names = [name for name in files[kernel.file] if name.startswith(kernel.function)]
        loops = [loop for name in names for loop in inner_loops(files[kernel.file][name])]

        def marked(loop: list[str], pattern: str = kernel.marker) -> int:
            return sum(bool(re.match(pattern, text)) for text in loop)

        loop = max(loops, key=marked)
        products = marked(loop) * kernel.products
        each = 128 * len(loop) / products
        print(f"| {kernel.what} | {len(loop)} | {products:,} | {each:.1f} |")


if __name__ == "__main__":
    main()
