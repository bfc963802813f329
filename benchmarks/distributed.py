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
    masks = {}
    for name, scores in state.items():
        if name.endswith("scores"):
            size = scores.abs().numel()
            masks[name] = (
                scores.abs()
                .flatten()
                .argsort(descending=True)[: size - int((1 - density) * size)]
                .sort()
                .values
            )
    return masks


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
    """Accuracies and losses of the same searches done in three ways, and how far the second and
    third end from the first.
    """
    tops: dict[str, list[float]] = {way: [] for way in WAYS}
    print(
        f"{name}: losses by epoch; kept weights that are others than with one process (layerwise"
        " masks); how far scores are apart, of the layer's largest; test accuracy"
    )
    for seed in range(seeds):
        first: dict[str, Tensor] = {}
        for way, (processes, threads) in WAYS.items():
            where = folder / f"{seed}-{processes}-{threads}"
            state, lines, top = find(
                where, processes, [*flags, "--sync-batchnorm", "--seed", str(seed)], threads, double
            )
            first = first or state
            scores = [(first[key], state[key]) for key in state if key.endswith("scores")]
            apart = max(float((one - own).abs().max() / one.abs().max()) for one, own in scores)
            pairs = list(zip(kept(first, 0.5).values(), kept(state, 0.5).values(), strict=True))
            differ, total = (
                sum(len(np.setdiff1d(x, y)) for x, y in pairs),
                sum(len(x) for x, _ in pairs),
            )
            losses = " ".join(f"{line['train/loss']:.7f}" for line in lines)
            print(
                f"  seed {seed}, {way}: {losses}; {differ:,} of {total:,}; {apart:.1e};"
                f" {top:.2f} %",
                flush=True,
            )
            tops[way].append(top)
    for way, found in tops.items():
        print(
            f"  {way}: {np.mean(found):.2f} % ({np.std(found, ddof=1) if seeds > 1 else 0:.2f}, n ="
            f" {seeds})",
            flush=True,
        )


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
    for synchronised in (True, False):
        found = []
        for processes in (1, 2):
            out = folder / f"{synchronised}{processes}"
            out.mkdir()
            command = [
                sys.executable,
                __file__,
                "--first-step",
                str(out),
                *["--synchronised"] * synchronised,
            ]
            if code := distributed.launch(
                command, processes, {**os.environ, "OMP_NUM_THREADS": "1"}
            ):
                raise SystemExit(code)
            parts = [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(processes)]
            found.append([torch.cat(layers) for layers in zip(*parts, strict=True)])
        flips = sum(int((a != b).sum()) for a, b in zip(*found, strict=True))
        total = sum(a.numel() for a in found[0])
        how = "statistics over both" if synchronised else "statistics of each share"
        print(
            f"MPT-1/1, first forward pass: {flips:,} of {total:,} signs flip with two processes"
            f" ({how})",
            flush=True,
        )


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of CIFAR-10")
    parser.add_argument(
        "--predict",
        type=float,
        metavar="RATE",
        help="the model's table, for GPUs of RATE images a second each",
    )
    parser.add_argument(
        "--network",
        default="ResNet50",
        choices=NETWORKS,
        metavar="NAME",
        help="of that table (default ResNet50)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help="only speed, on the digits: one and two processes take turns this often",
    )
    parser.add_argument(
        "--digits",
        action="store_true",
        help="compare on the embedded digits: quick, and needs no --data",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="searches of each kind to compare (default 3)"
    )
    parser.add_argument(
        "--double", action="store_true", help="compare searches in double precision"
    )
    parser.add_argument(
        "--only", help="of the searches to compare, only those with this in their names"
    )
    parser.add_argument(
        "--share", type=int, default=128, help="images a GPU and step (default 128)"
    )
    parser.add_argument(
        "--microseconds", type=float, default=5, help="latency of a message (default 5)"
    )
    parser.add_argument("--first-step", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--synchronised", action="store_true", help=argparse.SUPPRESS)
    if sys.argv[1:2] == ["--in-double"]:
        raise SystemExit(find_in_double(sys.argv[2:]))
    arguments = parser.parse_args()
    if arguments.first_step:
        first_step(arguments.first_step, arguments.synchronised)
    elif arguments.predict:
        predict(arguments.network, arguments.predict, arguments.share, arguments.microseconds)
    elif arguments.rounds:
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, flags) in enumerate(QUICK.items()):
                if (arguments.only or "") in name:
                    compare_speed(Path(folder) / str(number), name, flags, arguments.rounds)
    else:
        os.environ["BIPROP_DATA"] = arguments.data or ""
        images = (
            ["--set", "digits", *COMMON[4:]]
            if arguments.digits
            else [*COMMON, "--data", arguments.data]
        )
        with tempfile.TemporaryDirectory() as folder:
            if not arguments.digits:
                count_flips(Path(folder))
            for number, (name, flags) in enumerate(SEARCHES.items()):
                if (arguments.only or "") not in name:
                    continue
                compare(
                    Path(folder) / str(number),
                    name,
                    [*flags, *images],
                    arguments.seeds,
                    arguments.double,
                )


if __name__ == "__main__":
    main()
