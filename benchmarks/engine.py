"""The engine beside PyTorch eager, and beside other engines where they are installed: times faster,
in one interleaved run.

    python benchmarks/engine.py                             # all cases, batch 1 and 64, 1 thread
    python benchmarks/engine.py --cases vgg11-05 --instruction-set avx2
    python benchmarks/engine.py --threads 2 --batches 64
    python benchmarks/engine.py --tickets A.mpt B.mpt       # your own

A case is a ticket of exactly that density in every layer, drawn at random and given the batch-norm
statistics of random images: time does not depend on which weights are kept. In each round everybody
computes the same images in turn, for a time each, pinned to as many cores as there are threads; a
round's ratio is PyTorch's median over the other's, and the table shows the median, quartiles and
number of rounds. Other engines (--peers): onnxruntime and openvino, both in float32 and in 8 bits,
and deepsparse, each where it can be imported (benchmarks/peers.py). Nothing is installed; those
that are missing are named, and each case ends with the ratio of the fastest of them to biprop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "GOMP_SPINCOUNT", "10000"
)  # threads of PyTorch that have finished must not hold up the others

import numpy as np
import peers
import torch
from machine import processor
from numpy.typing import NDArray

from biprop import Engine, Ticket, convert
from biprop.models.build import build

CASES = {
    "vgg11-05": ("VGG_Small_bn_BinAct", 0.05, False),
    "vgg11-25": ("VGG_Small_bn_BinAct", 0.25, False),
    "resnet11-20": ("cResNet18_BinAct", 0.20, False),
    "vgg132-05": ("VGG_Small", 0.05, False),
    "resnet132-20": ("cResNet18", 0.20, False),
    "vgg132-05-u8": ("VGG_Small", 0.05, True),
    "resnet132-20-u8": ("cResNet18", 0.20, True),
}
"""Network, density, and whether activations are 8-bit numbers."""


def make_ticket(name: str, density: float) -> Ticket:
    """A ticket of an untrained network; batch norm knows the statistics of random images."""
    network: dict[str, Any] = {
        "name": name,
        "num_classes": 10,
        "channels": 3,
        "input_size": [32, 32],
        "bn_type": "NonAffineBatchNorm",
        "width_mult": 1.0,
        "head_bias": False,
        "ancestor": False,
    }
    torch.manual_seed(0)
    model = build(**{**network, "input_size": (32, 32)})
    subnetwork = convert(model, density, seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(64, 3, 32, 32))
    return Ticket.from_model(model.eval(), subnetwork, network=network)


def timed(run: Callable[[], object], seconds: float) -> float:
    """Median seconds of a call, over `seconds`."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def contestants(
    ticket: Ticket, quantised: bool, batch: int, args: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    """Everybody who computes the batch, by name; PyTorch is the first."""
    images = np.random.default_rng(0).standard_normal(
        (batch, *ticket_shape(ticket)), dtype=np.float32
    )
    model, tensor = ticket.to_model(), torch.from_numpy(images)

    def eager() -> None:
        with torch.inference_mode():
            model(tensor)

    known = calibration(ticket, quantised)
    engine = Engine(ticket, args.threads, args.instruction_set, known)
    runs: dict[str, Callable[[], object]] = {"PyTorch": eager, "biprop": lambda: engine.run(images)}
    if args.threads > 1:
        single = Engine(ticket, 1, args.instruction_set, known)
        runs["biprop, 1 thread"] = lambda: single.run(images)
    if args.peers:
        runs |= peers.contestants(model, tensor, args.threads)
    return runs


def calibration(ticket: Ticket, quantised: bool) -> NDArray[np.float32] | None:
    return (
        np.random.default_rng(1).standard_normal((16, *ticket_shape(ticket)), dtype=np.float32)
        if quantised
        else None
    )


def ticket_shape(ticket: Ticket) -> tuple[int, int, int]:
    assert ticket.network
    return (ticket.network["channels"], *ticket.network["input_size"])


def compare(name: str, ticket: Ticket, quantised: bool, args: argparse.Namespace) -> None:
    for batch in args.batches:
        runs = contestants(ticket, quantised, batch, args)
        for run in runs.values():
            run()
        seconds: dict[str, list[float]] = {who: [] for who in runs}
        for _ in range(args.rounds):
            for who, run in runs.items():
                seconds[who].append(timed(run, args.seconds))
        for who in list(runs)[1:]:
            own, eager = (statistics.median(seconds[w]) / batch * 1e3 for w in (who, "PyTorch"))
            times = f"{own:.3f} ms an image; PyTorch {eager:.2f}"
            show(name, batch, who, seconds["PyTorch"], seconds[who], times)
        others = set(runs) - {"PyTorch", "biprop", "biprop, 1 thread"}
        if others:
            best = min(others, key=lambda who: statistics.median(seconds[who]))
            show(name, batch, "biprop", seconds[best], seconds["biprop"], f"faster than {best}")


def show(name: str, batch: int, who: str, others: list[float], own: list[float], more: str) -> None:
    """One line: the rounds' ratios of other times to one's own."""
    ratios = [other / mine for other, mine in zip(others, own, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    spread = f"({low:.2f} to {high:.2f}, n = {len(ratios)})"
    print(f"{name:14} batch {batch:3}  {who:16} {middle:7.2f} x {spread}   {more}", flush=True)


def show_size(name: str, ticket: Ticket, quantised: bool, args: argparse.Namespace) -> None:
    """Seconds to open; and once it has run, memory beside the packed weights (a bit for the mask, a
    bit for the sign).
    """
    content = ticket.to_bytes()
    start = time.perf_counter()
    engine = Engine(Ticket.from_bytes(content), args.threads, args.instruction_set)
    opened = time.perf_counter() - start
    if quantised:
        engine = Engine(ticket, args.threads, args.instruction_set, calibration(ticket, quantised))
    packed = ticket.weights / 4e6
    print(
        f"{name:14} opened in {1e3 * opened:.0f} ms; file {len(content) / 1e6:.2f} MB, packed"
        f" weights {packed:.2f} MB"
    )
    for batch in args.batches:
        engine.run(np.zeros((batch, *ticket_shape(ticket)), np.float32))
        memory, activations = (number / 1e6 for number in engine.memory)
        print(
            f"{name:14} after a batch of {batch}: {memory:.1f} MB, of those activations"
            f" {activations:.1f}; the others are {(memory - activations) / packed:.1f} times the"
            " packed weights"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tickets", nargs="+", type=Path, help="ticket files instead of the cases")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--threads", type=int, default=1, help="of everybody (default 1)")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.2,
        help="that each computes in a round (default 0.2; at least 3 calls)",
    )
    parser.add_argument("--instruction-set", help="of the engine; default: the best")
    parser.add_argument("--peers", action="store_true", help="other engines too")
    parser.add_argument(
        "--quiet", action="store_true", help="leave out the time to open and the memory"
    )
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: quartiles need 2 rounds or more")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-args.threads :]))
    torch.set_num_threads(args.threads)
    print(f"{processor()}; torch {torch.__version__}")
    if args.peers:
        print("\n".join(peers.installed_and_missing()))
    if args.tickets:
        for path in args.tickets:
            compare(path.stem, Ticket.load(path), False, args)
        return
    for case in args.cases:
        name, density, quantised = CASES[case]
        ticket = make_ticket(name, density)
        if not args.quiet:
            show_size(case, ticket, quantised, args)
        compare(case, ticket, quantised, args)


if __name__ == "__main__":
    main()
