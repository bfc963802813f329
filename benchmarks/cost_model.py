"""How well the engine's estimates match measured times: for each layer, estimate / measured.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --cases resnet132-20 --instruction-set avx2 --all

An estimate is a number of cycles that follows from the layer and the instruction set, times the
microseconds that a cycle takes for this kind of step (a kernel, a kernel size and a stride). The
first case that has a kind of step calibrates it, in a run before the one that is measured; from
then on it is kept. So "own" counts the layers whose kind occurs once, and first in this very case:
their estimates only show how well a measurement repeats. Times are the least of some runs, and the
median over --repeats of these. The cases are those of benchmarks/engine.py.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from dataclasses import dataclass

import numpy as np
from engine import CASES, calibration, make_ticket, ticket_shape
from machine import processor

from biprop import Engine
from biprop.engine.engine import Step

CLOSE = 1.25
"""An estimate is close within this factor."""


@dataclass
class Layer:
    """A layer of a case: estimate / measured, and whether it calibrated its own kind of step."""

    step: Step
    ratio: float
    own: bool

    @property
    def off(self) -> float:
        """The factor between the two, at least 1."""
        return max(self.ratio, 1 / self.ratio)


def kind(step: Step) -> tuple[str, str]:
    """What the engine calibrates together."""
    return step.operation, step.kernel


def layers(engine: Engine, batch: int, repeats: int, known: set[tuple[object, ...]]) -> list[Layer]:
    """The layers for one batch size; adds their kinds to those known."""
    explained = [engine.explain(batch) for _ in range(repeats)]
    name, group, steps = explained[0]
    counts = Counter(map(kind, steps))
    found = []
    for i, step in enumerate(steps):
        measured = statistics.median(one[2][i].microseconds for one in explained)
        is_own = counts[kind(step)] == 1 and (name, group, *kind(step)) not in known
        found.append(Layer(step, step.estimated / measured, is_own))
    known |= {(name, group, *kind(step)) for step in steps}
    return found


def show(title: str, found: list[Layer], every: bool) -> None:
    """A line for the case, and one for each layer, or for those that are not close."""
    close = [layer for layer in found if layer.off <= CLOSE]
    worst = max(found, key=lambda layer: layer.off)
    own = sum(layer.own for layer in found)
    print(
        f"{title:32} {len(close):3} of {len(found):3} layers within 25 % ({own} own);"
        f" worst {worst.ratio:.2f}: {worst.step.operation}, {worst.step.kernel}",
        flush=True,
    )
    for layer in found:
        if every or layer.off > CLOSE:
            step = layer.step
            print(
                f"    {layer.ratio:5.2f}  {step.estimated:9.2f} of {step.microseconds:9.2f} us "
                f" {step.operation:14} {step.input:18} {step.output:18} {step.kernel}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--instruction-set", help="of the engine; default: the best")
    parser.add_argument("--all", action="store_true", help="every layer, not only those far off")
    args = parser.parse_args()
    print(processor())
    known: set[tuple[object, ...]] = set()
    everything: list[Layer] = []
    for case in args.cases:
        name, density, quantised = CASES[case]
        ticket = make_ticket(name, density)
        engine = Engine(ticket, 1, args.instruction_set, calibration(ticket, quantised))
        for batch in args.batches:
            engine.run(np.zeros((batch, *ticket_shape(ticket)), np.float32))
            found = layers(engine, batch, args.repeats, known)
            show(f"{engine.explain()[0]} {case}, batch {batch}", found, args.all)
            everything += found
    show("all", everything, False)
    others = [layer for layer in everything if not layer.own]
    if others:
        show("all but own", others, False)


if __name__ == "__main__":
    main()
