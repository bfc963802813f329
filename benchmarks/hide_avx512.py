"""Hide AVX-512, AVX-VNNI and AMX from engines that have no option for it.

    python benchmarks/hide_avx512.py onnxruntime openvino --folder held
    LD_PRELOAD=held/hide_avx512.so PYTHONPATH=held python benchmarks/engine.py --peers \\
        --instruction-set avx2

The first command copies the installed packages into a folder, and replaces each cpuid instruction
of their libraries, by which they ask the processor for its features, by an invalid one; the
library that the second command loads answers these (hide_avx512.c). On a processor with AVX-512
they then compute as on one without. x86-64 Linux only; needs gcc and objdump.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

HANDLER = Path(__file__).with_suffix(".c")
CPUID, INVALID = b"\x0f\xa2", b"\x0f\xff"
INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t(?:repz? )?cpuid\b", re.MULTILINE)
SECTION = re.compile(r"^ *\d+ \.\S+ +([0-9a-f]+) +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+)", re.M)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="+", metavar="PACKAGE", help="installed Python packages")
    parser.add_argument("--folder", type=Path, required=True, help="for the copies; a new folder")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    handler = arguments.folder / HANDLER.with_suffix(".so").name
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", handler, HANDLER], check=True)
    for package in arguments.packages:
        copy = _copy(package, arguments.folder)
        for library in sorted(copy.rglob("*.so*")):
            if library.is_file() and not library.is_symlink():
                print(f"{library}: {hide(library)} instructions replaced")


def _copy(package: str, folder: Path) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package}: no such package is installed")
    return Path(
        shutil.copytree(spec.submodule_search_locations[0], folder / package, symlinks=True)
    )


def hide(library: Path) -> int:
    """Replace the cpuid instructions of a shared library; returns how many there were."""
    listing = _objdump("--disassemble", "--no-show-raw-insn", library)
    addresses = [int(address, 16) for address in INSTRUCTION.findall(listing)]
    sections = [
        tuple(int(number, 16) for number in numbers)
        for numbers in SECTION.findall(_objdump("--section-headers", library))
    ]
    content = bytearray(library.read_bytes())
    for address in addresses:
        offset = next(
            address - start + place
            for size, start, place in sections
            if start <= address < start + size
        )
        if content[offset : offset + len(CPUID)] != CPUID:
            raise SystemExit(f"{library}: no cpuid at {address:#x}")
        content[offset : offset + len(CPUID)] = INVALID
    library.write_bytes(content)
    return len(addresses)


def _objdump(*arguments: object) -> str:
    command = ["objdump", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
