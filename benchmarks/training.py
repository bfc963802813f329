"""What a search step costs beside a dense training step, in one interleaved run.

    python benchmarks/training.py           # the whole table; an hour on two cores
    python benchmarks/training.py --networks cResNet18 --batches 32 --activations float --rounds 15
    python benchmarks/training.py --device cuda --batches 256 --amp bf16 --channels-last

Other tables:

    memory      peak memory of a step, each in a process of its own
    formats     dense and layerwise steps in both memory formats
    evaluation  counting the correct predictions of a batch, in both memory formats
    options     channels_last, bf16 and compile beside none of them
    pipeline    batches with AugMix, made when they are needed, beside a ready batch
    noise       three times the same dense step: the differences that this machine can resolve
    masks       share of a forward pass that checks whether the masks are up to date

With --steps N, as many steps are timed together: a GPU computes one while the CPU prepares the
next. With --clock cpu, times are those that the processor worked for this process, which other
programs on the same core change little; they are meant for one thread. --heap returned leaves the
C library as it is, where a search makes it keep the memory that a step frees.

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
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
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
from biprop.evaluation.counts import evaluate
from biprop.evaluation.memory_format import channels_last
from biprop.models.network import Network, Task, build_network
from biprop.search.heap import freed_memory_kept
from biprop.search.optim import build_optimizer
from biprop.subnetwork import Subnetwork

KINDS = {"dense": "DenseConv", "layer": "SubnetConv", "global": "GlobalSubnetConv"}
NETWORKS = {
    "Conv4": ("Conv4", "Conv4_BinAct"),
    "Fast6": ("Fast6", "Fast6_BinAct"),
    "VGG_Small": ("VGG_Small", "VGG_Small_BinAct"),
    "cResNet18": ("cResNet18", "cResNet18_BinAct"),
    "cResNet110": ("cResNet110", "cResNet110_BinAct"),
}
TABLES = {
    "kinds": "step / step in [ ]: median (quartiles; range)",
    "memory": "MiB at the peak / those of the dense step",
    "formats": "step / step in [ ]: median (quartiles; range)",
    "evaluation": "time / time of what is in [ ]: median (quartiles; range)",
    "options": "step / step in [ ]: median (quartiles; range)",
    "pipeline": "step / step in [ ]: median (quartiles; range)",
    "noise": "step / step in [ ]: median (quartiles; range)",
    "masks": (
        "time of checking whether the masks are up to date, and of a whole forward pass on the CPU"
        " without gradients: medians"
    ),
}
"""The tables, and what their numbers are."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HEAPS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "kept": freed_memory_kept,
    "returned": nullcontext,
}
"""What becomes of freed memory; a search keeps it."""
Step = Callable[[], None]


@dataclass(frozen=True)
class StepOptions:
    """StepOptions a step is computed: as the options of biprop find."""

    device: str = "cpu"
    amp: str = "none"
    channels_last: bool = False
    compile: bool = False
    heap: str = "kept"

    def __str__(self) -> str:
        named = [
            f"amp {self.amp}" * (self.amp != "none"),
            "channels_last" * self.channels_last,
            "compile" * self.compile,
            f"heap {self.heap}" * (self.heap != "kept"),
        ]
        return " ".join(filter(None, named)) or "plain"


def make_step(
    arch: str,
    kind: str,
    batch: int,
    how: StepOptions,
    batches: Iterator[tuple[Tensor, Tensor]] | None = None,
) -> Step:
    """A function that does one training step, on the next of `batches` or always on the same."""
    network = network_of(arch, kind)
    network.model.to(how.device).train()
    source = batches or itertools.repeat(random_batch(batch, how.device))
    optimizer = build_optimizer(network.model, "sgd", lr=0.01, weight_decay=1e-4)
    forward = torch.compile(network.model) if how.compile else network.model

    def step() -> None:
        images, labels = next(source)
        if how.channels_last:
            images = channels_last(images)
        with torch.autocast(how.device, torch.bfloat16, enabled=how.amp == "bf16"):
            logits = forward(images).float()
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        if network.subnetwork:
            network.subnetwork.update(check=how.device == "cpu")  # as the search does

    return step


def network_of(arch: str, kind: str) -> Network:
    config = Config(arch=arch, conv_type=KINDS[kind], prune_rate=0.2)
    return build_network(config, Task(10, 3, (32, 32)))


def random_batch(batch: int, device: str) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch, 3, 32, 32, device=device)
    return images, torch.randint(10, (batch,), device=device)


def take_turns(
    steps: dict[str, Step], rounds: int, device: str, together: int = 1, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of every step in every round, in changing order; the first two rounds warm up.

    `together`: how many steps are timed as one; a duration is then their mean.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(rounds + 2):
        order.append(order.pop(0))  # the first step meets another state of caches and heap
        for name in order:
            duration = timed_step(steps[name], device, together, CLOCKS[clock])
            if turn > 1:
                seconds[name].append(duration)
    return seconds


def timed_step(
    step: Step, device: str, together: int = 1, now: Callable[[], float] = time.perf_counter
) -> float:
    start = now()
    for _ in range(together):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (now() - start) / together


def show(title: str, seconds: dict[str, list[float]], base: str) -> None:
    """Print a line: for every step but `base`, the median and the range of its time over that of
    `base` in the same round.
    """
    columns = [
        f"{name} {ratios_in_words(own, seconds[base])}"
        for name, own in seconds.items()
        if name != base
    ]
    milliseconds = 1000 * statistics.median(seconds[base])
    digits = 0 if milliseconds >= 100 else 1
    print(f"{title}  {'  '.join(columns)}  [{base} {milliseconds:.{digits}f} ms]", flush=True)


def ratios_in_words(seconds: list[float], base: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(seconds, base, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    quartiles = f"{low:.2f} to {high:.2f}"
    return f"{statistics.median(ratios):.3f} ({quartiles}; {ratios[0]:.2f} to {ratios[-1]:.2f})"


def peak_memory(arch: str, kind: str, batch: int, how: StepOptions) -> float:
    """Peak memory in MiB of three steps, less that of the program, in a process of its own."""
    code = (
        "import resource, sys; sys.path.insert(0, 'benchmarks'); import training\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"step = training.make_step({arch!r}, {kind!r}, {batch}, training.{how!r})\n"
        f"with training.HEAPS[{how.heap!r}]():\n"
        "    for _ in range(3): step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def augmented_batches(batch: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images of CIFAR-10's size: cropped, flipped, AugMix, normalised.

    Random pixels take the same time as photographs.
    """
    pixels = torch.randint(256, (10_000, 3, 32, 32), dtype=torch.uint8)
    split = Images(pixels, torch.randint(10, (10_000,)))
    source = Source(split, split, [str(i) for i in range(10)], CIFAR_MEAN, CIFAR_STD, "crop+flip")
    data = DataSet(source, "test", Recipe(augmix=AugMix())).to(torch.device(device))
    for epoch in itertools.count():
        for images, labels in data.training_batches(batch, 0, epoch):
            if len(labels) == batch:
                yield images, labels


def show_masks(title: str, arch: str, kind: str, batch: int, rounds: int) -> None:
    """Print a line: the time that a forward pass without gradients spends on checking whether the
    masks are up to date, which they are.
    """
    network = network_of(arch, kind)
    assert network.subnetwork
    network.model.eval()
    images = torch.randn(batch, 3, 32, 32)
    checks: list[float] = []
    passes: list[float] = []
    with torch.no_grad():
        for turn in range(rounds + 1):
            whole_pass = timed_step(lambda: network.model(images), "cpu")
            check = checking_time(lambda: network.model(images))
            if turn > 0:
                passes.append(whole_pass)
                checks.append(check)
    check, whole_pass = (1000 * statistics.median(seconds) for seconds in (checks, passes))
    layers = len(network.subnetwork.layers)
    share = f"{100 * check / whole_pass:.1f} %"
    print(
        f"{title} {kind:6} {layers} layers: {check:.2f} ms of {whole_pass:.0f} ms ({share})",
        flush=True,
    )


CHECKS = ("mask_and_gain", "_begin_pass", "_end_pass")
"""Methods of `Subnetwork` that run in every forward pass."""


def checking_time(forward: Callable[[], Any]) -> float:
    """Seconds that a forward pass spends in `CHECKS`."""
    spent = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal spent
            start = time.perf_counter()
            result = function(*arguments)
            spent += time.perf_counter() - start
            return result

        return call

    with ExitStack() as patches:
        for name in CHECKS:
            patch = mock.patch.object(Subnetwork, name, timed(getattr(Subnetwork, name)))
            patches.enter_context(patch)
        forward()
    return spent


def measure(
    what: str,
    arch: str,
    batch: int,
    rounds: int,
    how: StepOptions,
    together: int = 1,
    clock: str = "wall",
) -> None:
    """Print the lines of table `what` for one network and batch size."""
    title = f"{arch:18} batch {batch:4} "
    if what == "memory":
        show_memory(title, arch, batch, how)
    elif what == "masks":
        for kind in ("layer", "global"):
            show_masks(title, arch, kind, batch, rounds)
    else:
        steps, base = STEPS_OF[what](arch, batch, how)
        show(title, take_turns(steps, rounds, how.device, together, clock), base)


def show_memory(title: str, arch: str, batch: int, how: StepOptions) -> None:
    peaks = {kind: peak_memory(arch, kind, batch, how) for kind in KINDS}
    columns = [f"{kind} {peaks[kind] / peaks['dense']:.2f}" for kind in ("layer", "global")]
    print(f"{title}  {'  '.join(columns)}  [dense {peaks['dense']:.0f} MiB]", flush=True)


def steps_of_kinds(arch: str, batch: int, how: StepOptions) -> tuple[dict[str, Step], str]:
    return {kind: make_step(arch, kind, batch, how) for kind in KINDS}, "dense"


def steps_of_formats(arch: str, batch: int, how: StepOptions) -> tuple[dict[str, Step], str]:
    steps = {
        f"{kind}{' channels_last' * channels_last}": make_step(
            arch, kind, batch, replace(how, channels_last=channels_last)
        )
        for kind in ("dense", "layer")
        for channels_last in (False, True)
    }
    return steps, "dense"


def steps_of_evaluation(arch: str, batch: int, how: StepOptions) -> tuple[dict[str, Step], str]:
    network = network_of(arch, "layer")
    network.model.to(how.device)
    batches = [random_batch(batch, how.device)]

    def plain() -> None:
        evaluate(network.model, batches)

    def in_channels_last() -> None:
        evaluate(network.model, batches, in_channels_last=True)

    return {"plain": plain, "channels_last": in_channels_last}, "plain"


def steps_of_options(arch: str, batch: int, how: StepOptions) -> tuple[dict[str, Step], str]:
    device = how.device
    choices = [
        StepOptions(device),
        StepOptions(device, channels_last=True),
        StepOptions(device, "bf16"),
        StepOptions(device, "bf16", True),
        StepOptions(device, compile=True),
    ]
    return {str(choice): make_step(arch, "layer", batch, choice) for choice in choices}, "plain"


def steps_of_pipeline(arch: str, batch: int, how: StepOptions) -> tuple[dict[str, Step], str]:
    batches = augmented_batches(batch, how.device)
    steps = {
        "ready": make_step(arch, "layer", batch, how),
        "AugMix": make_step(arch, "layer", batch, how, batches),
    }
    return steps, "ready"


def steps_of_noise(arch: str, batch: int, how: StepOptions) -> tuple[dict[str, Step], str]:
    names = ("dense", "again", "once more")
    return {name: make_step(arch, "dense", batch, how) for name in names}, "dense"


STEPS_OF = {
    "kinds": steps_of_kinds,
    "formats": steps_of_formats,
    "evaluation": steps_of_evaluation,
    "options": steps_of_options,
    "pipeline": steps_of_pipeline,
    "noise": steps_of_noise,
}
"""The steps of a table, and the name of the one that the others are compared with."""


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
    parser.add_argument("--steps", type=int, default=1, help="steps that are timed together [1]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", choices=("none", "bf16"), default="none")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--heap", choices=HEAPS, default="kept")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: a spread needs at least 2")
    how = StepOptions(
        arguments.device,
        arguments.amp,
        arguments.channels_last,
        arguments.compile,
        arguments.heap,
    )
    machine = (
        f"{torch.get_num_threads()} threads"
        if how.device == "cpu"
        else torch.cuda.get_device_name()
    )
    print(f"{machine}, PyTorch {torch.__version__}, {how}, n = {arguments.rounds}, 20 % kept")
    print(TABLES[arguments.what])
    with HEAPS[how.heap]():
        measure_all(arguments, how)


def measure_all(arguments: argparse.Namespace, how: StepOptions) -> None:
    for network, activation, batch in itertools.product(
        arguments.networks, arguments.activations, arguments.batches
    ):
        measure(
            arguments.what,
            NETWORKS[network][activation == "binary"],
            batch,
            arguments.rounds,
            how,
            arguments.steps,
            arguments.clock,
        )


if __name__ == "__main__":
    main()
