"""Several searches, and accuracy against density: `biprop sweep` and `biprop plot` from Python.

    python examples/03_sweep_and_plot.py

writes runs/ and, if matplotlib is installed, density.svg into the working directory. The same
command again skips the searches that are done.
"""

import csv
import statistics
from pathlib import Path

from biprop.cli import main as biprop

SWEEP = "sweep --name density --grid prune_rate=0.02,0.1,0.5 seed=0,1 --epochs 3 --low-data 0.5"
PLOT = "plot runs/results.csv --x prune_rate --where name=density --log-x -o density.svg"
WIDTH = 40


def accuracies() -> dict[float, list[float]]:
    """Density -> test accuracy in percent of each seed."""
    by_density: dict[float, list[float]] = {}
    with Path("runs/results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["Name"] == "density":
                values = by_density.setdefault(float(row["Prune Rate"]), [])
                values.append(float(row["Test Top 1"]))
    return dict(sorted(by_density.items()))


def main() -> None:
    code = biprop(SWEEP.split())
    if code:
        raise SystemExit(code)

    print("\nkept  test accuracy, mean over the seeds")
    for density, values in accuracies().items():
        mean = statistics.mean(values)
        bar = "#" * round(mean * WIDTH / 100)
        print(f"{density:4.0%}  {mean:5.1f} %  {bar}")

    # Without matplotlib, plot says how to install it.
    biprop([*PLOT.split(), "--y", "Test Top 1"])


if __name__ == "__main__":
    main()
