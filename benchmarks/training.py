"""What a search step costs beside a dense training step: the same network, batch and batch norm, in one interleaved run.

    python benchmarks/training.py                                   # the whole table; tens of minutes on two cores
    python benchmarks/training.py --networks cResNet18 --batches 32 --activations float --rounds 9
    python benchmarks/training.py --memory                          # peak memory of a step, in processes of their own

A step is zero_grad, forward, loss, backward, optimiser step and, for a search, choosing anew who is kept. In every round each
kind takes its turn, and a ratio is of two times of the same round: what else the machine does falls on all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is loaded

import torch
import torch.nn.functional as F

from biprop.config import Config
from biprop.network import Task, build_network
from biprop.optim import build_optimizer

KINDS = {"dense": "DenseConv", "layer": "SubnetConv", "global": "GlobalSubnetConv"}
NETWORKS = {
    "Conv4": ("Conv4", "Conv4_BinAct"),
    "VGG_Small": ("VGG_Small", "VGG_Small_BinAct"),
    "cResNet18": ("cResNet18", "cResNet18_BinAct"),
}


def make_step(arch: str, kind: str, batch: int) -> Callable[[], None]:
    """A function that takes one training step."""
    made = build_network(Config(arch=arch, conv_type=KINDS[kind], prune_rate=0.2), Task(10, 3, (32, 32)))
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    optimizer = build_optimizer(made.model, "sgd", lr=0.01, weight_decay=1e-4)
    made.model.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(made.model(images), labels).backward()
        optimizer.step()
        if made.subnetwork:
            made.subnetwork.update()

    return step


def times(arch: str, batch: int, rounds: int) -> dict[str, list[float]]:
    steps = {kind: make_step(arch, kind, batch) for kind in KINDS}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(rounds + 1):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:  # the first warms up
                found[kind].append(time.perf_counter() - start)
    return found


def peak_memory(arch: str, kind: str, batch: int) -> float:
    """MiB that three steps need at their peak, beyond what the program itself takes: measured in a process of its own."""
    code = (
        "import resource, sys; sys.path.insert(0, 'benchmarks'); import training\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"step = training.make_step({arch!r}, {kind!r}, {batch})\n"
        "for _ in range(3): step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--activations", nargs="+", choices=("float", "binary"), default=["float", "binary"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, n = {arguments.rounds}")
    print("masked step / dense step, 20 % kept: median (range)")
    for network in arguments.networks:
        for activation in arguments.activations:
            arch = NETWORKS[network][activation == "binary"]
            for batch in arguments.batches:
                if arguments.memory:
                    peaks = {kind: peak_memory(arch, kind, batch) for kind in KINDS}
                    shown = [f"{kind} {peaks[kind] / peaks['dense']:.2f}" for kind in ("layer", "global")]
                    print(f"{arch:18} batch {batch:4}  {'  '.join(shown)}  (dense {peaks['dense']:.0f} MiB)", flush=True)
                    continue
                found = times(arch, batch, arguments.rounds)
                shown = []
                for kind in ("layer", "global"):
                    ratios = [a / b for a, b in zip(found[kind], found["dense"], strict=True)]
                    shown.append(f"{kind} {statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})")
                print(
                    f"{arch:18} batch {batch:4}  {'  '.join(shown)}  dense {1000 * statistics.median(found['dense']):.0f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
