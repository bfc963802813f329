import json
import math
from pathlib import Path
from typing import Any

import pytest

from biprop import UserError
from biprop.evaluation.counts import Counts
from biprop.report import measurements
from biprop.robustness.scores import Scores, as_json


def written(path: Path, record: Any) -> Path:
    path.write_text(json.dumps(record))
    return path


def test_what_robustness_writes_is_read_back(tmp_path: Path) -> None:
    cells = {("fog", 1): Counts(100, 80), ("fog", 5): Counts(100, 40), ("snow", 1): Counts(100, 70)}
    scores = Scores("a", Counts(100, 95), {**cells, ("spatter", 2): Counts(100, 10)})
    record = as_json([scores], {"images": "corrupted here"}, None)
    measured = measurements.read(written(tmp_path / "a.json", record))
    (answer,) = measured.answers
    assert measured.about == "corrupted here"
    assert (answer.name, answer.clean) == ("a", 95)
    assert answer.cells == {cell: counts.top1 for cell, counts in scores.cells.items()}
    assert answer.corruptions == ["snow", "fog", "spatter"]  # the benchmark's order
    assert answer.mean("fog") == scores.of("fog") == 60
    assert answer.overall() == scores.mean() == 65  # spatter is none of the 15
    assert answer.mean("frost") is None


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"results": 3},
        {"results": []},
        {"results": [{"name": "a", "corruptions": []}]},
        {"results": [{"name": "a", "corruptions": {"fog": {"1": 3}}}]},
        {"results": [{"name": "a", "corruptions": {"fog": 3}}]},
        {"results": [{"corruptions": {}}]},
    ],
)
def test_another_file_is_refused(record: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json: (not a file|has no accuracies)"):
        measurements.read(written(tmp_path / "a.json", record))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 101, "5", None, True])
def test_an_accuracy_that_is_none_is_left_out(value: object, tmp_path: Path) -> None:
    by_severity = {"1": {"accuracy": value}, "2": {"accuracy": 50.0}, "9": {"accuracy": 1.0}}
    record = {"results": [{"name": "a", "clean": {}, "corruptions": {"fog": by_severity}}]}
    (answer,) = measurements.read(written(tmp_path / "a.json", record)).answers
    assert answer.cells == {("fog", 2): 50}
    assert answer.clean is None


def test_a_missing_file(tmp_path: Path) -> None:
    assert measurements.beside(tmp_path / "none.json") is None
    with pytest.raises(UserError, match="cannot be read"):
        measurements.read(tmp_path / "none.json")


def test_a_file_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "MOST_BYTES", 100)
    answer = {"name": "a" * 100, "corruptions": {"fog": {"1": {"accuracy": 50.0}}}}
    with pytest.raises(UserError, match="not a file"):
        measurements.read(written(tmp_path / "a.json", {"results": [answer]}))
