"""Every fault of faults.py, done to a run: one clear line, the right exit code, and nothing lost."""

from pathlib import Path

import pytest
from faults import FAULTS, CannotBeDone, killed

IN_EVERY_TEST_RUN = ("killed",)


@pytest.mark.parametrize(
    "fault",
    [f if f.__name__ in IN_EVERY_TEST_RUN else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS],
    ids=lambda f: f.__name__,
)
def test_nothing_is_lost(fault, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    try:
        outcome = fault(tmp_path)
    except CannotBeDone as e:
        pytest.skip(str(e))
    assert outcome.code == FAULTS[fault]
    assert outcome.seconds < 30
    assert bool(outcome.said) == (outcome.code > 0), outcome.said


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    assert "20 times" in killed(tmp_path, 20, ["--epochs", "40"]).after
