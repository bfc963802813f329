"""How small is a ticket, and how long do writing and reading it take?

    python benchmarks/ticket.py              # cResNet18 (11 M weights), random scores, 3 densities
    python benchmarks/ticket.py RUN ...      # run folders, checkpoints or tickets
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
    """(name, ticket) of the sources, or of random scores where there are none."""
    for source in sources:
        is_ticket = Path(source).suffix == ".mpt"
        yield source, Ticket.load(source) if is_ticket else pack.pack(source, {})
    if not sources:
        for density in (0.05, 0.2, 0.5):
            yield f"cResNet18, random, {density:g} kept", random_ticket(density)


def random_ticket(density: float) -> Ticket:
    options = Config(arch="cResNet18", prune_rate=density)
    network = build_network(options, Task(10, 3, (32, 32)))
    assert network.subnetwork
    return Ticket.from_model(network.model, network.subnetwork)


def seconds(action: Callable[[], object], rounds: int) -> str:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="RUN")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name, ticket in tickets(arguments.sources):
        content = ticket.to_bytes()
        density = 100 * ticket.kept / ticket.weights
        print(
            f"{name}: {ticket.weights:,} weights, {density:.2f} % kept, {len(ticket.layers)} layers"
        )
        show_bytes(ticket, len(content))
        show_seconds(ticket, content, arguments.rounds)


def show_bytes(ticket: Ticket, size: int) -> None:
    ideal = sum(entropy_coding.entropy(layer.kept, layer.weights) for layer in ticket.layers) / 8
    stream, models = ticket.coded_masks()
    masks = len(stream)
    state = sum(value.size for value in ticket.state.values()) * (2 if ticket.compact else 4)
    signs = sum(len(layer.stored) for layer in ticket.layers if layer.stored is not None)
    learned = sum(bool(model.order) for model in models)
    rest = size - masks - state - signs
    print(f"  file {size:,} bytes, {8 * size / ticket.weights:.4f} bits a weight")
    print(
        f"  masks {masks:,} bytes, {masks / ideal:.4f} of the ideal {ideal:,.0f} ({learned}"
        " layers with counts that learn)"
    )
    print(f"  signs {signs:,}, batch norm and dense {state:,}, the rest {rest:,} bytes")


def show_seconds(ticket: Ticket, content: bytes, rounds: int) -> None:
    # Choosing the models is a part of writing.
    ticket.layers = [dataclasses.replace(layer, model=None) for layer in ticket.layers]
    for how, core in (("compiled core", native.library()), ("numpy", None)):
        with mock.patch.object(native, "library", lambda core=core: core):
            write = seconds(ticket.to_bytes, rounds)
            read = seconds(lambda: Ticket.from_bytes(content), rounds)
        print(f"  {how}: write {write}, read {read}, n = {rounds}", flush=True)


if __name__ == "__main__":
    main()
