"""What a search step costs beside a dense training step, in one interleaved run.

    python benchmarks/training.py           # the whole table; an hour on two cores
    python benchmarks/training.py --networks cResNet18 --batches 32 --activations float --rounds 15
    python benchmarks/training.py --device cuda --batches 256 --amp bf16 --channels-last

Other tables:

    memory      peak memory of a step, each in a process of its own
    options     channels_last, bf16 and compile beside none of them
    pipeline    batches with AugMix, made when they are needed, beside a ready batch
    noise       three times the same dense step: the differences that this machine can resolve
    masks       share of a forward pass that checks whether the masks are up to date

A step is zero_grad, forward, loss, backward, optimizer step and, for a search, recomputing the
mask. In every round each kind takes its turn, and a ratio is of two times of the same round: other
load of the machine affects both.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is loaded

import torch
import torch.nn.functional as F
from torch import Tensor

from biprop.config import Config
from biprop.data import DataSet, Recipe, Source
from biprop.data.augmix import AugMix
from biprop.data.cifar import CIFAR_MEAN, CIFAR_STD
from biprop.data.sources import Images
from biprop.models.network import Task, build_network
from biprop.search.optim import build_optimizer
from biprop.subnetwork import Subnetwork

KINDS = {"dense": "DenseConv", "layer": "SubnetConv", "global": "GlobalSubnetConv"}
NETWORKS = {
    "Conv4": ("Conv4", "Conv4_BinAct"),
    "VGG_Small": ("VGG_Small", "VGG_Small_BinAct"),
    "cResNet18": ("cResNet18", "cResNet18_BinAct"),
    "cResNet110": ("cResNet110", "cResNet110_BinAct"),
}
TABLES = {
    "kinds": "step / step in [ ]: median (quartiles; range)",
    "memory": "MiB at the peak / those of the dense step",
    "options": "step / step in [ ]: median (quartiles; range)",
    "pipeline": "step / step in [ ]: median (quartiles; range)",
    "noise": "step / step in [ ]: median (quartiles; range)",
    "masks": (
        "looking whether the masks are up to date, of a forward pass on the CPU without gradients:"
        " medians"
    ),
}
"""What can be measured, and what the numbers of its table are."""
Step = Callable[[], None]


@dataclass(frozen=True)
class How:
    """How a step is computed; as the options of biprop find."""

    device: str = "cpu"
    amp: str = "none"
    channels_last: bool = False
    compile: bool = False

    def __str__(self) -> str:
        named = [
            f"amp {self.amp}" * (self.amp != "none"),
            "channels_last" * self.channels_last,
            "compile" * self.compile,
        ]
        return " ".join(filter(None, named)) or "plain"


def make_step(
    arch: str,
    kind: str,
    batch: int,
    how: How,
    batches: Iterator[tuple[Tensor, Tensor]] | None = None,
) -> Step:
    """A function that takes one training step, on the next of `batches` or always on the same."""
    made = build_network(
        Config(arch=arch, conv_type=KINDS[kind], prune_rate=0.2), Task(10, 3, (32, 32))
    )
    made.model.to(how.device).train()
    ready = (
        torch.randn(batch, 3, 32, 32, device=how.device),
        torch.randint(10, (batch,), device=how.device),
    )
    source = batches or itertools.repeat(ready)
    optimizer = build_optimizer(made.model, "sgd", lr=0.01, weight_decay=1e-4)
    runner = torch.compile(made.model) if how.compile else made.model

    def step() -> None:
        images, labels = next(source)
        if how.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(how.device, torch.bfloat16, enabled=how.amp == "bf16"):
            logits = runner(images).float()
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        if made.subnetwork:
            made.subnetwork.update()

    return step


def take_turns(steps: dict[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every step of every round, in changing order; the first two rounds warm up."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(rounds + 2):
        order.append(
            order.pop(0)
        )  # who comes first finds another state of the caches and of the heap
        for name in order:
            step = steps[name]
            start = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn > 1:
                found[name].append(time.perf_counter() - start)
    return found


def show(title: str, found: dict[str, list[float]], base: str) -> None:
    """A line: for every step but `base`, the median and the range of its time over that of `base`
    in the same round.
    """
    shown = []
    for name, seconds in found.items():
        if name != base:
            ratios = sorted(a / b for a, b in zip(seconds, found[base], strict=True))
            low, _, high = statistics.quantiles(ratios, n=4)
            shown.append(
                f"{name} {statistics.median(ratios):.3f} ({low:.2f} to {high:.2f}; {ratios[0]:.2f}"
                f" to {ratios[-1]:.2f})"
            )
    print(
        f"{title}  {'  '.join(shown)}  [{base} {1000 * statistics.median(found[base]):.0f} ms]",
        flush=True,
    )


def peak_memory(arch: str, kind: str, batch: int, how: How) -> float:
    """MiB that three steps need at their peak, beyond what the program itself takes: measured in a
    process of its own.
    """
    code = (
        "import resource, sys; sys.path.insert(0, 'benchmarks'); import training\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"step = training.make_step({arch!r}, {kind!r}, {batch}, training.{how!r})\n"
        "for _ in range(3): step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def augmented_batches(batch: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images of CIFAR-10's size: cropped, flipped, AugMix, normalised.

    Random pixels cost what pictures cost.
    """
    images = Images(
        torch.randint(256, (10_000, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (10_000,))
    )
    source = Source(images, images, [str(i) for i in range(10)], CIFAR_MEAN, CIFAR_STD, "crop+flip")
    data = DataSet(source, "test", Recipe(augmix=AugMix())).to(torch.device(device))
    for epoch in itertools.count():
        yield from (
            made for made in data.training_batches(batch, 0, epoch) if len(made[1]) == batch
        )


def show_masks(title: str, arch: str, kind: str, batch: int, rounds: int) -> None:
    """A line: what of a forward pass without gradients goes into looking whether the masks are up
    to date, which they are.
    """
    made = build_network(
        Config(arch=arch, conv_type=KINDS[kind], prune_rate=0.2), Task(10, 3, (32, 32))
    )
    assert made.subnetwork
    made.model.eval()
    images = torch.randn(batch, 3, 32, 32)
    spent = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal spent
            start = time.perf_counter()
            result = function(*arguments)
            spent += time.perf_counter() - start
            return result

        return call

    looks: list[float] = []
    passes: list[float] = []
    with torch.no_grad():
        for turn in range(2 * rounds + 2):
            with ExitStack() as patches:
                if timing := turn % 2:
                    for name in ("mask_and_gain", "_begin_pass", "_end_pass"):
                        whole = timed(getattr(Subnetwork, name))
                        patches.enter_context(mock.patch.object(Subnetwork, name, whole))
                spent, start = 0.0, time.perf_counter()
                made.model(images)
                seconds = time.perf_counter() - start
            if turn > 1:
                (looks if timing else passes).append(spent if timing else seconds)
    look, whole_pass = 1000 * statistics.median(looks), 1000 * statistics.median(passes)
    layers = len(made.subnetwork.layers)
    print(
        f"{title} {kind:6} {layers} layers: {look:.2f} ms of {whole_pass:.0f} ms"
        f" ({100 * look / whole_pass:.1f} %)",
        flush=True,
    )


def measure(what: str, arch: str, batch: int, rounds: int, how: How) -> None:
    title = f"{arch:18} batch {batch:4} "
    if what == "memory":
        peaks = {kind: peak_memory(arch, kind, batch, how) for kind in KINDS}
        shown = [f"{kind} {peaks[kind] / peaks['dense']:.2f}" for kind in ("layer", "global")]
        print(f"{title}  {'  '.join(shown)}  [dense {peaks['dense']:.0f} MiB]", flush=True)
        return
    if what == "masks":
        for kind in ("layer", "global"):
            show_masks(title, arch, kind, batch, rounds)
        return
    if what == "options":
        hows = [
            How(how.device),
            How(how.device, channels_last=True),
            How(how.device, "bf16"),
            How(how.device, "bf16", True),
        ]
        hows += [How(how.device, compile=True)]
        steps, base = {str(h): make_step(arch, "layer", batch, h) for h in hows}, "plain"
    elif what == "pipeline":
        made = augmented_batches(batch, how.device)
        steps = {
            "ready": make_step(arch, "layer", batch, how),
            "AugMix": make_step(arch, "layer", batch, how, made),
        }
        base = "ready"
    elif what == "noise":
        steps, base = (
            {
                name: make_step(arch, "dense", batch, how)
                for name in ("dense", "again", "once more")
            },
            "dense",
        )
    else:
        steps, base = {kind: make_step(arch, kind, batch, how) for kind in KINDS}, "dense"
    show(title, take_turns(steps, rounds, how.device), base)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=TABLES, default="kinds")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=["Conv4", "VGG_Small", "cResNet18"]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument(
        "--activations", nargs="+", choices=("float", "binary"), default=["float", "binary"]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", choices=("none", "bf16"), default="none")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: a spread needs at least 2")
    how = How(arguments.device, arguments.amp, arguments.channels_last, arguments.compile)
    machine = (
        f"{torch.get_num_threads()} threads"
        if how.device == "cpu"
        else torch.cuda.get_device_name()
    )
    print(f"{machine}, PyTorch {torch.__version__}, {how}, n = {arguments.rounds}, 20 % kept")
    print(TABLES[arguments.what])
    for network in arguments.networks:
        for activation in arguments.activations:
            for batch in arguments.batches:
                measure(
                    arguments.what,
                    NETWORKS[network][activation == "binary"],
                    batch,
                    arguments.rounds,
                    how,
                )


if __name__ == "__main__":
    main()
