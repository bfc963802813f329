"""Two processes beside one: do they find the same, how many signs flip, how much faster are they;
and a model for more processes.

    python benchmarks/distributed.py --data DIR          # two processes on the CPU, CIFAR-10
    python benchmarks/distributed.py --digits --double   # in float64: roundings stay small
    python benchmarks/distributed.py --rounds 5          # speed only, on the digits, taking turns
    python benchmarks/distributed.py --predict 2500 --share 128
        # efficiency of 8 to 1,024 GPUs that do 2,500 images/s each

The comparison is fair where batch norm takes its statistics over the whole batch
(--sync-batchnorm); without that each process normalises by its own share, which is another
computation, not another rounding. How far roundings alone lead is shown by a third search: one
process with two threads, which sums in another order.

The model (docs/scaling.md): N processes with a share of S images each take T + E a step, where T =
S / images per second is the time of one process alone. R(b) = 2 (N - 1) / N * b / bandwidth + 2 (N
- 1) * latency is a ring all-reduce of b bytes; half of T, most of the backward pass, hides it, but
  never the last bucket: E = max(R(bytes of all gradients) - T / 2, R(last bucket)).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from torch import Tensor, nn

from biprop import config, data, distributed
from biprop.cli import command_line
from biprop.distributed import sync_batchnorm
from biprop.models.build import build
from biprop.models.network import Network, Task, build_network
from biprop.models.plans import NETWORKS
from biprop.search import loop
from biprop.subnetwork.layers import BinaryActivation

SEARCHES = {
    "MPT-1/32": ["--arch", "cResNet20", "--prune-rate", "0.5"],
    "MPT-1/32, global, AugMix, JSD": [
        "--arch", "cResNet20", "--prune-rate", "0.5",
        "--conv-type", "GlobalSubnetConv", "--augmix", "--jsd",
    ],
    "MPT-1/1": ["--arch", "cResNet20_BinAct", "--prune-rate", "0.5"],
}  # fmt: skip
COMMON = [
    "--set",
    "CIFAR10",
    "--low-data",
    "0.05",
    "--epochs",
    "3",
    "--batch-size",
    "128",
    "--lr",
    "0.1",
    "--device",
    "cpu",
]


def find(
    folder: Path, processes: int, flags: list[str], threads: int = 1, double: bool = False
) -> tuple[dict[str, Tensor], list[dict[str, float]], float]:
    """A search: last state, metrics by epoch, test accuracy (%)."""
    program = [__file__, "--in-double"] if double else ["-m", "biprop", "find"]
    command = [sys.executable, *program, *flags, "--log-dir", str(folder), "--print-freq", "1000"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if code := distributed.launch(command, processes, environment):
        raise SystemExit(code)
    (result,) = folder.glob("**/result.json")
    state = torch.load(
        result.parent / "checkpoints" / "epoch_most_recent.state", weights_only=True
    )["state_dict"]
    lines = [
        json.loads(line)
        for line in (result.parent / "logs" / "metrics.jsonl").read_text().splitlines()
    ]
    test = json.loads(result.read_text())["test"]
    return state, lines, 100 * test["right"] / test["images"]


def kept(state: dict[str, Tensor], density: float) -> dict[str, Tensor]:
    """The masks of a layerwise search, from its scores."""
    return {
        name: top_k(scores.abs().flatten(), density)
        for name, scores in state.items()
        if name.endswith("scores")
    }


def top_k(scores: Tensor, density: float) -> Tensor:
    """The sorted indices of the highest scores: N - int((1 - density) N) of N."""
    count = len(scores) - int((1 - density) * len(scores))
    return scores.argsort(descending=True)[:count].sort().values


WAYS = {"one process": (1, 1), "one process, two threads": (1, 2), "two processes": (2, 1)}
"""Processes, and threads of each."""


def find_in_double(flags: list[str]) -> int:
    """`biprop find` with a network in double precision: what one of the processes does."""

    def build_double(*arguments: Any, **options: Any) -> Network:
        network = build_network(*arguments, **options)
        network.model.double()
        network.model.register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
        return network

    with patch.object(loop, "build_network", build_double):
        return command_line.main(["find", *flags])


def compare(folder: Path, name: str, flags: list[str], seeds: int, double: bool) -> None:
    """Print accuracies and losses of the same searches done in three ways, and the distance of the
    second and third result from the first.
    """
    accuracies: dict[str, list[float]] = {way: [] for way in WAYS}
    print(
        f"{name}: losses by epoch; kept weights that differ from those of one process (layerwise"
        " masks); largest difference of scores, relative to the layer's largest; test accuracy"
    )
    for seed in range(seeds):
        first: dict[str, Tensor] = {}
        for way, (processes, threads) in WAYS.items():
            where = folder / f"{seed}-{processes}-{threads}"
            own_flags = [*flags, "--sync-batchnorm", "--seed", str(seed)]
            state, lines, accuracy = find(where, processes, own_flags, threads, double)
            first = first or state
            losses = " ".join(f"{line['train/loss']:.7f}" for line in lines)
            distances = distances_in_words(first, state)
            print(f"  seed {seed}, {way}: {losses}; {distances}; {accuracy:.2f} %", flush=True)
            accuracies[way].append(accuracy)
    for way, values in accuracies.items():
        spread = np.std(values, ddof=1) if seeds > 1 else 0
        print(f"  {way}: {np.mean(values):.2f} % ({spread:.2f}, n = {seeds})", flush=True)


def distances_in_words(first: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """How many kept weights differ between two searches, and by how much scores do."""
    scores = [(first[key], state[key]) for key in state if key.endswith("scores")]
    largest = max(float((a - b).abs().max() / a.abs().max()) for a, b in scores)
    masks = list(zip(kept(first, 0.5).values(), kept(state, 0.5).values(), strict=True))
    differing = sum(len(np.setdiff1d(a, b)) for a, b in masks)
    total = sum(len(a) for a, _ in masks)
    return f"{differing:,} of {total:,}; {largest:.1e}"


QUICK = {
    "MPT-1/32": ["--arch", "cResNet20", "--prune-rate", "0.5"],
    "MPT-1/1, global": [
        "--arch",
        "cResNet20_BinAct",
        "--prune-rate",
        "0.5",
        "--conv-type",
        "GlobalSubnetConv",
    ],
}


def compare_speed(folder: Path, name: str, flags: list[str], rounds: int) -> None:
    """Images a second of the last of two epochs on the digits; one and two processes, each with one
    thread, take turns.
    """
    common = ["--set", "digits", "--epochs", "2", "--batch-size", "128", "--device", "cpu"]
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for processes in (1, 2) if number % 2 else (2, 1):
            _, lines, _ = find(folder / f"{number}-{processes}", processes, [*flags, *common])
            speeds[processes].append(lines[-1]["images_per_second"])
    ratios = np.array(speeds[2]) / np.array(speeds[1])
    each = " / ".join(f"{np.median(s):.0f} ({min(s):.0f} to {max(s):.0f})" for s in speeds.values())
    print(f"{name}: images a second of one / two processes: {each}")
    print(
        f"  two over one: {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}, n ="
        f" {rounds})",
        flush=True,
    )


def first_step(out: Path, synchronised: bool) -> None:
    """What one of the processes does: the signs of its share of the first batch, layer by layer, to
    `out`.
    """
    group = distributed.detect()
    with group.together("cpu"):
        chosen, _ = config.resolve(None, {**FIRST, "data": os.environ["BIPROP_DATA"]})
        images = data.load(chosen)
        model = build_network(chosen, Task(10, 3, (32, 32))).model.train()
        if synchronised:
            sync_batchnorm.synchronise(model)
        signs: list[Tensor] = []

        def look(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            signs.append(inputs[0].detach() >= 0)

        for module in model.modules():
            if isinstance(module, BinaryActivation):
                module.register_forward_hook(look)
        pixels, _ = next(images.training_batches(chosen.batch_size, 0, 0, group))
        model(pixels)
        torch.save(signs, out / f"{group.rank}.pt")


FIRST = {
    "arch": "cResNet20_BinAct",
    "prune_rate": 0.5,
    "set": "CIFAR10",
    "low_data": 0.05,
    "batch_size": 128,
    "scale_fan": False,
}


def count_flips(folder: Path) -> None:
    """Print how many signs of the first forward pass differ between one process and two."""
    for synchronised in (True, False):
        one, two = (first_signs(folder, processes, synchronised) for processes in (1, 2))
        flips = sum(int((a != b).sum()) for a, b in zip(one, two, strict=True))
        total = sum(a.numel() for a in one)
        how = "statistics over both" if synchronised else "statistics of each share"
        print(
            f"MPT-1/1, first forward pass: {flips:,} of {total:,} signs flip with two processes"
            f" ({how})",
            flush=True,
        )


def first_signs(folder: Path, processes: int, synchronised: bool) -> list[Tensor]:
    """Signs of the first batch, layer by layer, of all processes together."""
    out = folder / f"{synchronised}{processes}"
    out.mkdir()
    flags = ["--first-step", str(out), *["--synchronised"] * synchronised]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if code := distributed.launch([sys.executable, __file__, *flags], processes, environment):
        raise SystemExit(code)
    parts = [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(processes)]
    return [torch.cat(layers) for layers in zip(*parts, strict=True)]


BUCKET = 25 * 2**20
"""Bytes of float32 gradients that DistributedDataParallel sends at a time."""
LINKS = {"25 GB/s (InfiniBand)": 25e9, "1.25 GB/s (10 Gb Ethernet)": 1.25e9}


def scores_of(name: str) -> int:
    """Numbers whose gradients are sent."""
    size = (224, 224) if name.startswith(("ResNet", "WideResNet")) else (32, 32)
    with torch.device("meta"):
        model = build(name, num_classes=1000 if size[0] > 32 else 10, channels=3, input_size=size)
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def predict(network: str, images_a_second: float, share: int, microseconds: float) -> None:
    """Bytes a step by network; and the model's table for one of them."""
    counts, step = (8, 64, 256, 1024), share / images_a_second
    print("| network | scores | MB a step | as bfloat16 |\n|---|---|---|---|")
    for name in NETWORKS:
        if name in (
            "Conv4",
            "cResNet20",
            "VGG_Small",
            "cResNet18",
            "WidePreActResNet",
            "ResNet34",
            "ResNet50",
            "WideResNet50_2",
        ):
            print(
                f"| {name} | {scores_of(name):,} | {4e-6 * scores_of(name):.1f} |"
                f" {2e-6 * scores_of(name):.1f} |"
            )

    scores = scores_of(network)

    def efficiency(processes: int, size: int, bandwidth: float) -> float:
        """`size`: bytes of a gradient when it is sent."""

        def ring(sent: float) -> float:
            return (
                2 * (processes - 1) / processes * sent / bandwidth
                + 2 * (processes - 1) * microseconds * 1e-6
            )

        return step / (
            step + max(ring(size * scores) - step / 2, ring(size * min(scores, BUCKET // 4)))
        )

    print(
        f"\n| {network}, {share} images a process, {1000 * step:.0f} ms |"
        f" {' | '.join(f'{n:,} processes' for n in counts)} |"
    )
    print("|---|" + "---|" * len(counts))
    for link, bandwidth in LINKS.items():
        for kind, size in (("float32", 4), ("bfloat16", 2)):
            cells = [f"{100 * efficiency(n, size, bandwidth):.0f} %" for n in counts]
            print(f"| {link}, {kind} | {' | '.join(cells)} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder of CIFAR-10")
    add("--digits", action="store_true", help="compare on the embedded digits: no --data needed")
    add("--seeds", type=int, default=3, help="searches of each kind to compare [%(default)s]")
    add("--double", action="store_true", help="compare searches in float64")
    add("--only", default="", help="compare only the searches with this in their names")
    add("--rounds", type=int, help="only speed, on the digits: number of alternations")
    rate = "only the model's table, for GPUs of RATE images a second each"
    add("--predict", type=float, metavar="RATE", help=rate)
    network = "of that table [%(default)s]"
    add("--network", default="ResNet50", choices=NETWORKS, metavar="NAME", help=network)
    add("--share", type=int, default=128, help="images per GPU and step [%(default)s]")
    add("--microseconds", type=float, default=5, help="latency of a message [%(default)s]")
    add("--first-step", type=Path, help=argparse.SUPPRESS)
    add("--synchronised", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare_speeds(folder: Path, only: str, rounds: int) -> None:
    for number, (name, flags) in enumerate(QUICK.items()):
        if only in name:
            compare_speed(folder / str(number), name, flags, rounds)


def compare_all(folder: Path, arguments: argparse.Namespace) -> None:
    """Compare all searches with one process and with two."""
    images = [*COMMON, "--data", arguments.data]
    if arguments.digits:
        images = ["--set", "digits", *COMMON[4:]]
    else:
        os.environ["BIPROP_DATA"] = arguments.data or ""
        count_flips(folder)
    for number, (name, flags) in enumerate(SEARCHES.items()):
        if arguments.only in name:
            where = folder / str(number)
            compare(where, name, [*flags, *images], arguments.seeds, arguments.double)


def main() -> None:
    if sys.argv[1:2] == ["--in-double"]:
        raise SystemExit(find_in_double(sys.argv[2:]))
    arguments = parse()
    if arguments.first_step:
        first_step(arguments.first_step, arguments.synchronised)
        return
    if arguments.predict:
        predict(arguments.network, arguments.predict, arguments.share, arguments.microseconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.rounds:
            compare_speeds(Path(folder), arguments.only, arguments.rounds)
        else:
            compare_all(Path(folder), arguments)


if __name__ == "__main__":
    main()
