"""How small is a ticket, and how long do writing and reading it take?

    python benchmarks/ticket.py                       # cResNet18 (11 M weights) at 5, 20 and 50 % kept, of random scores
    python benchmarks/ticket.py RUN ...               # run folders, checkpoints or tickets
    python benchmarks/ticket.py --rounds 15

Bytes: the masks against H(k) n bits of their layers' kept fractions, and what is neither mask nor
signs nor batch norm. Seconds: of one thread, with the compiled core and with numpy alone, median
and range.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from biprop import Ticket, native
from biprop.config import Config
from biprop.models.network import Task, build_network
from biprop.search import pack
from biprop.ticket import entropy_coding


def tickets(sources: list[str]) -> Iterator[tuple[str, Ticket]]:
    for source in sources:
        yield (
            source,
            Ticket.load(source) if Path(source).suffix == ".mpt" else pack.pack(source, {}),
        )
    if not sources:
        for density in (0.05, 0.2, 0.5):
            made = build_network(
                Config(arch="cResNet18", prune_rate=density), Task(10, 3, (32, 32))
            )
            assert made.subnetwork
            yield (
                f"cResNet18, random, {density:g} kept",
                Ticket.from_model(made.model, made.subnetwork),
            )


def seconds(action: Callable[[], object], rounds: int) -> str:
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return f"{statistics.median(found):.3f} s ({min(found):.3f} to {max(found):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="RUN")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name, ticket in tickets(arguments.sources):
        content = ticket.to_bytes()
        ideal = (
            sum(entropy_coding.entropy(layer.kept, layer.weights) for layer in ticket.layers) / 8
        )
        stream, models = ticket.coded_masks()
        masks = len(stream)
        state = sum(value.size for value in ticket.state.values()) * (2 if ticket.compact else 4)
        signs = sum(len(layer.stored) for layer in ticket.layers if layer.stored is not None)
        learned = sum(bool(model.order) for model in models)
        rest = len(content) - masks - state - signs
        print(
            f"{name}: {ticket.weights:,} weights, {100 * ticket.kept / ticket.weights:.2f} % kept,"
            f" {len(ticket.layers)} layers"
        )
        print(
            f"  file {len(content):,} bytes, {8 * len(content) / ticket.weights:.4f} bits a weight"
        )
        print(
            f"  masks {masks:,} bytes, {masks / ideal:.4f} of the ideal {ideal:,.0f} ({learned}"
            " layers with counts that learn)"
        )
        print(f"  signs {signs:,}, batch norm and dense {state:,}, the rest {rest:,} bytes")
        ticket.layers = [
            dataclasses.replace(layer, model=None) for layer in ticket.layers
        ]  # choosing it is a part of writing
        for how, core in (("compiled core", native.library()), ("numpy", None)):
            with mock.patch.object(native, "library", lambda core=core: core):
                write = seconds(ticket.to_bytes, arguments.rounds)
                read = seconds(lambda content=content: Ticket.from_bytes(content), arguments.rounds)  # type: ignore[misc]
            print(f"  {how}: write {write}, read {read}, n = {arguments.rounds}", flush=True)


if __name__ == "__main__":
    main()
