import itertools
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_search import go_on, stop_at

from biprop import UserError, checkpoint, config, data
from biprop.console import Console
from biprop.evaluation.counts import Counts
from biprop.runs import status
from biprop.runs.folder import BEST, LAST, RESULT, newest_checkpoint
from biprop.search import budget, state
from biprop.search.budget import Budget
from biprop.search.loop import Search
from biprop.search.outcome import SearchStopped
from biprop.search.state import SearchState

SECONDS = 50
SMALL = {
    "minutes": SECONDS / 60,
    "lr_policy": "linear_lr",
    "width_mult": "0.25",
    "device": "cpu",
    "baseline": False,
}
GLOBAL = {"conv_type": "GlobalSubnetConv", "layer_floor": 0.01}


class Clock:
    """A clock that goes on by one second at each optimizer step."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def that_takes(self, seconds: float) -> Any:
        """A function that takes some seconds."""

        def wait(*_: Any) -> Counts:
            self.now += seconds
            return Counts(10, 1, 5, 23.0)

        return wait

    def watch(self, search: Search) -> Search:
        search.optimizer.register_step_post_hook(self._tick)
        return search

    def _tick(self, *_: Any) -> None:
        self.now += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(state, "time", clock)
    yield clock


def build(folder: Path, clock: Clock, **overrides: Any) -> Search:
    given = {"log_dir": str(folder), **SMALL, **overrides}
    resolved, name = config.resolve("digits", given)
    return clock.watch(Search(resolved, name, data.load(resolved), Console()))


def test_the_learning_rate_follows_the_clock(tmp_path: Path, clock: Clock) -> None:
    search = build(tmp_path, clock, lr="0.5")
    rates: list[float] = []
    search.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    result = search.run()
    progress = np.arange(SECONDS) / SECONDS
    factor = np.where(progress < 0.1, 0.2 + 8 * progress, (1 - progress) / 0.9)
    np.testing.assert_allclose(rates, 0.5 * factor, rtol=1e-6)
    assert (search.state.epoch, search.batches, result.seconds) == (3, 20, SECONDS)
    assert config.read_file(result.folder / "settings.txt")["minutes"] == SMALL["minutes"]
    assert dict(status.status(result.folder))["epochs done"] == "3, in 0.83 of 0.833333 minutes"


@pytest.mark.parametrize(
    "options", [{}, pytest.param(GLOBAL, marks=pytest.mark.slow)], ids=["layer", "global"]
)
def test_a_stopped_search_continues_its_schedule_with_the_same_bits(
    options: dict[str, Any], tmp_path: Path, clock: Clock
) -> None:
    whole = build(tmp_path / "whole", clock, **options)
    expected = whole.run()
    search = build(tmp_path / "stopped", clock, **options)
    for step in (7, 33):
        stop_at(search, step, signal.SIGTERM)
        with pytest.raises(SearchStopped):
            search.run()
        clock.now += 1000  # the machine does something else
        search = clock.watch(go_on(search))
    result = search.run()
    assert (result.epoch, result.test, result.seconds) == (expected.epoch, expected.test, SECONDS)
    for name in (LAST, BEST):
        a, b = (
            checkpoint.load(folder / "checkpoints" / name)["state_dict"]
            for folder in (expected.folder, result.folder)
        )
        assert all(torch.equal(value, b[key]) for key, value in a.items())


def test_the_baseline_takes_no_time_of_the_search(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = clock.that_takes(1000)
    monkeypatch.setattr("biprop.search.loop.random_score_accuracy", slow)
    search = build(tmp_path, clock, baseline=True)
    assert search.run().seconds == SECONDS
    assert search.state.step == SECONDS


def test_the_density_of_global_pruning_falls_in_the_first_third(
    tmp_path: Path, clock: Clock
) -> None:
    search = build(tmp_path, clock, **GLOBAL)
    densities: list[float] = []

    def note(*_: Any) -> None:
        assert search.network.subnetwork
        densities.append(search.network.subnetwork.density)

    search.optimizer.register_step_pre_hook(note)
    result = search.run()
    assert densities[0] == pytest.approx(0.5, abs=1e-3)
    assert all(a >= b for a, b in itertools.pairwise(densities))
    first_final = next(i for i, density in enumerate(densities) if density < 0.2001)
    assert SECONDS / 3 - 2 <= first_final <= SECONDS / 3 + 1
    assert result.epoch > 1  # the first epoch ends after 20 of 50 s: at the final density


def resumed(search: Search, **changes: Any) -> Search:
    path = newest_checkpoint(search.folder)
    assert path
    changed = replace(search.config, **changes)
    start = checkpoint.read(path, {})
    return Search(changed, search.config_name, search.data, Console(), start, True)


def test_a_search_whose_time_is_over_continues_with_more_of_it_only(
    tmp_path: Path, clock: Clock
) -> None:
    search = build(tmp_path, clock)
    result = search.run()
    with pytest.raises(
        UserError, match=r"is at epoch 3 \(0.83/0.833333 min\): pass more --minutes"
    ):
        resumed(search)
    longer = clock.watch(resumed(search, minutes=2 * SECONDS / 60))
    assert longer.state.progress == 0.5
    assert longer.run().seconds == 2 * SECONDS
    (result.folder / RESULT).unlink()  # as if it was killed before its result
    assert resumed(longer).run().seconds == 2 * SECONDS


@pytest.mark.parametrize("progress", [-0.1, 1.5, float("nan"), "x", None])
def test_a_damaged_share_of_the_time_is_reported(
    progress: object, tmp_path: Path, clock: Clock
) -> None:
    search = build(tmp_path, clock)
    stop_at(search, 3, signal.SIGTERM)
    with pytest.raises(SearchStopped):
        search.run()
    start = checkpoint.read(newest_checkpoint(search.folder) or "", {})
    assert start.ours
    start.ours["progress"] = progress
    with pytest.raises(UserError, match="a damaged checkpoint"):
        Search(search.config, search.config_name, search.data, Console(), start, True)


def test_of_many_short_epochs_only_some_are_reported(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "REPORTS", 20)
    short = {"one_batch": True, "batch_size": 8, "minutes": 0.5}
    expected = build(tmp_path / "whole", clock, **short)
    result = expected.run()
    lines = (result.folder / "logs" / "metrics.jsonl").read_text().splitlines()
    assert expected.state.epoch == 30  # of one step and one second each
    assert 15 <= len(lines) <= 21
    search = build(tmp_path / "stopped", clock, **short)
    stop_at(search, 14, signal.SIGTERM)
    with pytest.raises(SearchStopped):
        search.run()
    again = clock.watch(go_on(search))
    assert again.run().validation == result.validation
    assert (again.folder / "logs" / "metrics.jsonl").read_text().count("\n") == len(lines)


@pytest.mark.parametrize("select_on", ["validation", "last"])
def test_a_search_that_is_stopped_after_its_last_step_evaluates_its_last_epoch_when_it_continues(
    select_on: str, tmp_path: Path, clock: Clock
) -> None:
    search = build(tmp_path, clock, select_on=select_on)
    evaluate = search._evaluate

    def stop(split: data.Split, save: bool = False) -> Counts:
        if search.budget.is_used_up(search.state):
            search.stop.signal = signal.SIGTERM
        return evaluate(split, save)

    search._evaluate = stop  # type: ignore[method-assign]
    with pytest.raises(SearchStopped):
        search.run()
    again = clock.watch(go_on(search))
    assert (again.state.progress, again.state.epoch) == (1, 2)
    assert again.state.batch == SECONDS - 2 * again.batches
    result = again.run()
    assert (again.state.step, again.state.epoch) == (SECONDS, 3)  # no further step
    metrics = (again.folder / "logs" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["step"] == SECONDS
    assert select_on == "validation" or result.epoch == 3


def test_a_search_whose_last_step_began_in_the_first_third_ends_at_the_final_density(
    tmp_path: Path, clock: Clock
) -> None:
    search = build(tmp_path, clock, minutes=1 / 60, **GLOBAL)  # one step takes all of the time
    result = search.run()
    assert (search.state.step, result.epoch) == (1, 1)
    assert result.kept / result.weights == pytest.approx(0.2, abs=1e-3)


def test_every_checkpoint_that_is_asked_for_is_kept(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "REPORTS", 5)
    search = build(tmp_path, clock, one_batch=True, batch_size=8, minutes=0.4, save_every=7)
    search.run()
    kept = {path.name for path in (search.folder / "checkpoints").glob("epoch_[0-9]*")}
    assert kept == {"epoch_7.state", "epoch_14.state", "epoch_21.state"}


def test_in_words_and_time_left(clock: Clock) -> None:
    now = SearchState(epoch=2, batch=5, seconds=90)
    by_epochs, by_time = Budget(12, None, 10), Budget(90, 600, 10)
    assert by_epochs.in_words(2, now) == " 2/12"
    assert by_time.in_words(2, now) == " 2 (1.5/10 min)"
    assert by_epochs.seconds_left(now, 2.0) == 2 * (10 * 10 - 5)
    assert by_time.seconds_left(now, 2.0) == 510
    assert not by_epochs.is_used_up(now)
    assert by_epochs.is_used_up(SearchState(epoch=12))
    assert not by_time.is_used_up(SearchState(epoch=500, progress=0.99))
    assert by_time.is_used_up(SearchState(progress=1.0))
