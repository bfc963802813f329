"""How good and how fast is `biprop find` on the embedded digits? Several seeds, each a process of
its own.

    python benchmarks/digits.py                       # 5 seeds of the default configuration
    python benchmarks/digits.py --seeds 3 -- --prune-rate 0.1

Prints a line a seed, then mean, standard deviation and range of the test accuracy, and the wall
time from start to end of the process (which depends on the machine and on what else it does).
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 [5]")
    parser.add_argument("options", nargs="*", help="options of biprop find, after --")
    arguments = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs; biprop find"
        f" {' '.join(arguments.options)}".rstrip()
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            command = [
                sys.executable,
                "-m",
                "biprop",
                "find",
                "--log-dir",
                folder,
                "--seed",
                str(seed),
                *arguments.options,
            ]
            started = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.monotonic() - started)
            rows = list(
                csv.DictReader((Path(folder) / "results.csv").open(newline="", encoding="utf-8"))
            )
            row = rows[-1]
            accuracy, density = float(row["Test Top 1"]), float(row["Density"])
            print(
                f"seed {seed}: test accuracy {accuracy:.2f} %, density {density:.4f},"
                f" {seconds[-1]:.1f} s",
                flush=True,
            )
    accuracies = [float(row["Test Top 1"]) for row in rows]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    print(
        f"test accuracy: mean {statistics.mean(accuracies):.2f} %, standard deviation {spread:.2f},"
        f" range {min(accuracies):.2f} to {max(accuracies):.2f}, n = {len(accuracies)}; seconds:"
        f" median {statistics.median(seconds):.1f}, range {min(seconds):.1f} to {max(seconds):.1f}"
    )


if __name__ == "__main__":
    main()
