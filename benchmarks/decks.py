"""What two small cards and their deck keep of their accuracy under corruptions, over seeds, on
CIFAR-10.

    python benchmarks/decks.py --data DIR OUT             # 3 seeds, 2,000 images; hours on a CPU
    python benchmarks/decks.py --data DIR OUT --table     # the table of what is done

Per seed: a search with AugMix and one with Gaussian noise (configurations small_card_augmix,
small_card_gaussian), two tickets, a deck with a gate, and `biprop robustness` of it. Each step
leaves its file in OUT and is skipped where that exists, so the same command goes on where it was
stopped; several may run at once, with other seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

CARDS = ("augmix", "gaussian")
COLUMNS = ("clean", "mean", "noise", "blur", "weather", "digital")


def run(*arguments: object) -> None:
    """A command of biprop."""
    print("biprop", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "biprop", *map(str, arguments)], check=True)


def find_and_measure(out: Path, data: Path, seed: int, images: int, options: list[str]) -> None:
    """Everything for one seed."""
    tickets = [out / f"{card}-{seed}.mpt" for card in CARDS]
    for card, ticket in zip(CARDS, tickets, strict=True):
        if ticket.is_file():
            continue
        flags = [
            "--set",
            "CIFAR10",
            "--data",
            data,
            "--log-dir",
            out / "runs",
            "--name",
            f"seed{seed}",
            "--seed",
            seed,
            *options,
        ]
        run(
            "find",
            "--config",
            f"small_card_{card}",
            "--resume",
            "auto",
            "--print-freq",
            1000,
            *flags,
        )
        (folder,) = (out / "runs" / f"small_card_{card}").glob(f"*/seed{seed}")
        run("pack", folder, "-o", ticket)
    deck = out / f"{seed}.deck"
    if not deck.is_file():
        run("deck", "build", *tickets, "-o", deck, "--data", data)
    if not result_of(out, seed).is_file():
        output = ("-o", result_of(out, seed), "--overwrite")
        run("robustness", deck, "--data", data, "--images", images, *output)


def result_of(out: Path, seed: int) -> Path:
    return out / f"{seed}.json"


def table(out: Path, seeds: list[int]) -> str:
    """Mean and standard deviation over seeds, in percent, as Markdown; and each gate beside the
    mean deck, seed by seed.
    """
    by_seed = [json.loads(result_of(out, seed).read_text())["results"] for seed in seeds]
    rows: dict[str, list[dict[str, float]]] = {}
    for results in by_seed:
        for answer in results:
            name = next(
                (f"card, {card}" for card in CARDS if answer["name"].startswith(f"{card}-")),
                answer["name"],
            )
            rows.setdefault(name, []).append(
                {"clean": answer["clean"]["accuracy"], "mean": answer["mean"], **answer["groups"]}
            )
    lines = [
        "| | clean | corrupted mean | noise | blur | weather | digital |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in rows.items():
        cells = [told([value[column] for value in values]) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for gating in ("batch", "image"):
        gated, mean = rows[f"deck, gated by {gating}"], rows["deck, mean"]
        apart = [
            " ".join(f"{a[column] - b[column]:+.2f}" for a, b in zip(gated, mean, strict=True))
            for column in ("mean", "clean")
        ]
        lines.append(
            f"gated by {gating} less mean deck, seed by seed: corrupted {apart[0]}; clean"
            f" {apart[1]}"
        )
    return "\n".join(lines)


def told(values: list[float]) -> str:
    return (
        f"{statistics.mean(values):.2f} ({statistics.stdev(values) if len(values) > 1 else 0:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder for runs, tickets, decks and results"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--seeds", default="0,1,2", help="[0,1,2]")
    parser.add_argument(
        "--images",
        type=int,
        default=2000,
        help="test images of each corruption and severity [2000]",
    )
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("options", nargs="*", help="options of biprop find, after --")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        for seed in seeds:
            find_and_measure(
                arguments.out, arguments.data, seed, arguments.images, arguments.options
            )
    print(table(arguments.out, seeds))


if __name__ == "__main__":
    main()
