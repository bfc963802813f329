"""How large are the files of `biprop export`, and how long does loading them take?

    python benchmarks/export.py              # networks of the registry with random scores
    python benchmarks/export.py NAME.mpt ... # tickets

A row a ticket: bytes of the ticket, the ONNX model, the pt2 program and all numbers in float32;
bits of the ONNX model for each masked weight, beside what is not masked; the median, of --rounds,
of the seconds in which onnxruntime loads the model and unpacks its weights, on one thread; the
difference of the logits over their spread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from biprop import Ticket
from biprop.config import Config
from biprop.export import save_onnx, save_pt2
from biprop.models.network import Task, build_network

NETWORKS = ("Conv4", "VGG_Small_BinAct", "cResNet20", "cResNet18", "cResNet18_BinAct_v2")
COLUMNS = ("ticket", "ONNX", "bits", "pt2", "float32", "load", "difference")


def tickets(sources: list[str]) -> Iterator[tuple[str, Ticket]]:
    """(name, ticket) of the files, or of networks with random scores where there are none."""
    for source in sources:
        yield source, Ticket.load(source)
    for name in () if sources else NETWORKS:
        network = build_network(Config(arch=name, prune_rate=0.2), Task(10, 3, (32, 32)))
        assert network.subnetwork
        sizes = {"num_classes": 10, "channels": 3, "input_size": [32, 32]}
        options = {"bn_type": "NonAffineBatchNorm", "width_mult": 1.0, **sizes}
        about = {"name": name, "head_bias": False, "ancestor": False, **options}
        ticket = Ticket.from_model(network.model, network.subnetwork, network=about)
        rng = np.random.default_rng(0)
        for key, value in ticket.state.items():  # equal numbers would be stored once
            if "running_" in key:
                low, high = (-0.3, 0.3) if key.endswith("mean") else (0.5, 2)
                ticket.state[key] = rng.uniform(low, high, value.shape).astype(np.float32)
        yield name, ticket


def dense_bytes(ticket: Ticket) -> int:
    """Bytes of what is not masked: batch norm, which has two numbers a channel in ONNX, and dense
    layers.
    """
    norms = [name.removesuffix("running_mean") for name in ticket.state if "running_mean" in name]
    folded = {f"{norm}{leaf}" for norm in norms for leaf in ("weight", "bias")}
    return 4 * sum(value.size for name, value in ticket.state.items() if name not in folded)


def seconds_to_load(path: Path, rounds: int) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(ticket: Ticket, folder: Path, rounds: int) -> list[str]:
    path = folder / "network.onnx"
    model, program = save_onnx(ticket, path), save_pt2(ticket, folder / "network.pt2")
    numbers = ticket.weights + sum(value.size for value in ticket.state.values())
    return [
        f"{len(ticket.to_bytes()):,}",
        f"{model.size:,}",
        f"{8 * (model.size - dense_bytes(ticket)) / ticket.weights:.2f}",
        f"{program.size:,}",
        f"{4 * numbers:,}",
        f"{seconds_to_load(path, rounds):.3f} s",
        f"{model.difference:.0e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="NAME.mpt")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| ticket | weights |", " | ".join(COLUMNS), "|")
    print("|---" * (len(COLUMNS) + 2) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name, ticket in tickets(arguments.sources):
            cells = row(ticket, Path(folder), arguments.rounds)
            print(f"| {name} | {ticket.weights:,} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
