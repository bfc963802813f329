"""How well the engine's estimates match measured times: for each layer, estimate / measured.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --cases resnet132-20 --instruction-set avx2 --all

An estimate is a number of cycles that follows from the layer and the instruction set, times the
microseconds that a cycle takes for this kind of step (a kernel, a kernel size, a stride, and the
forms of input and output). These are measured when the engine is first explained, before the run
that is measured; a kind takes the median of its layers. So "alone" counts the layers that are the
only ones of their kind: their estimates only show how well a measurement repeats.
Times are the least of some runs, and the
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
    """A layer of a case: estimate / measured, and whether it is the only one of its kind."""

    step: Step
    ratio: float
    alone: bool

    @property
    def off(self) -> float:
        """The factor between the two, at least 1."""
        return max(self.ratio, 1 / self.ratio)


def kind(step: Step) -> tuple[str, ...]:
    """What the engine calibrates together."""
    return step.operation, step.input.split()[-1], step.output.split()[-1], step.kernel


def layers(engine: Engine, batch: int, repeats: int) -> list[Layer]:
    """The layers for one batch size."""
    explained = [engine.explain(batch)[2] for _ in range(repeats)]
    counts = Counter(map(kind, explained[0]))
    found = []
    for runs in zip(*explained, strict=True):
        step = runs[0]
        measured = statistics.median(run.microseconds for run in runs)
        found.append(Layer(step, step.estimated / measured, counts[kind(step)] == 1))
    return found


def show(title: str, found: list[Layer], every: bool) -> None:
    """A line for the case, and one for each layer, or for those that are not close."""
    close = [layer for layer in found if layer.off <= CLOSE]
    worst = max(found, key=lambda layer: layer.off)
    alone = sum(layer.alone for layer in found)
    print(
        f"{title:32} {len(close):3} of {len(found):3} layers within 25 % ({alone} alone);"
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
    everything: list[Layer] = []
    for case in args.cases:
        name, density, quantised = CASES[case]
        ticket = make_ticket(name, density)
        engine = Engine(ticket, 1, args.instruction_set, calibration(ticket, quantised))
        for batch in args.batches:
            engine.run(np.zeros((batch, *ticket_shape(ticket)), np.float32))
            found = layers(engine, batch, args.repeats)
            show(f"{engine.explain()[0]} {case}, batch {batch}", found, args.all)
            everything += found
    print()
    show("all", everything, False)
    show("all but those alone", [layer for layer in everything if not layer.alone], False)


if __name__ == "__main__":
    main()
