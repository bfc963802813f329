"""The fuzzer runs, and notices what it is there for; long runs are `make fuzz`."""

from typing import Any

import fuzz
import pytest

from biprop import UserError
from biprop.ticket import rans


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_mutants_are_read_or_refused(name: str) -> None:
    findings = fuzz.fuzz(fuzz.TARGETS[name], seconds=0.3, seed=0)
    assert findings.executions > 0
    assert not findings.faults


def test_samples_are_read() -> None:
    for target in fuzz.TARGETS.values():
        for sample in target.samples():
            assert fuzz.outcome(target, sample) == "read"


def test_decoders_that_disagree_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = fuzz.sample_tickets()[-1]
    take = rans._take_by_numpy

    def wrong(states: Any, row: Any, *rest: Any) -> int:
        place = take(states, row, *rest)
        row[:2] = row[1::-1]
        return place

    monkeypatch.setattr(rans, "_take_by_numpy", wrong)
    with pytest.raises(fuzz.Fault, match=r"one decoder reads|the decoders read"):
        fuzz.execute_ticket(sample)


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), UserError("two\nlines"), UserError("MemoryError")]
)
def test_what_is_a_fault(error: Exception) -> None:
    def fail(_: bytes) -> None:
        raise error

    target = fuzz.Target(lambda: [b"x"], lambda content, draw: content, fail, ())
    with pytest.raises(fuzz.Fault):
        fuzz.outcome(target, b"x")
