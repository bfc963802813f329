"""Every fault of faults.py, injected into a run: one clear line, the exit code, nothing lost."""

from pathlib import Path

import pytest
from faults import FAULTS, CannotBeDone, killed


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_nothing_is_lost(fault, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    try:
        outcome = fault(tmp_path)
    except CannotBeDone as e:
        pytest.skip(str(e))
    assert outcome.code == FAULTS[fault]
    assert outcome.seconds < 30
    assert bool(outcome.message) == (outcome.code > 0), outcome.message


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """The one fault that no test in this process can stand for."""
    assert "1 times" in killed(tmp_path, 1, ["--epochs", "2", "--no-baseline"]).after


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    assert "20 times" in killed(tmp_path, 20, ["--epochs", "40"]).after
