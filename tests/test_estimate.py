"""What --dry-run shows: right counts, a time that is made of its parts, and no file."""

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_image_folder
from run_folders import DIGITS_TICKET

from biprop import UserError, config, data
from biprop.cli import command_line, dry_run
from biprop.console import Console
from biprop.search import estimate, sweep
from biprop.search.loop import Search


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


FAST: dict[str, Any] = {"arch": "Conv2Wide", "width_mult": 0.1, "device": "cpu"}


def search_of(**options: Any) -> Search:
    chosen, name = config.resolve(None, {**FAST, **options})
    return Search(chosen, name, data.load(chosen), Console(io.StringIO()))


def slow_clock(monkeypatch: pytest.MonkeyPatch, tick: float) -> None:
    """A clock that goes on by `tick` seconds at each look."""

    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            now += tick
            yield now

    clock = ticks()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))


def test_the_time_is_made_of_steps_and_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch, 0.5)
    search = search_of(epochs=7, batch_size=64, low_data=0.2)
    estimated = estimate.estimate(search)
    assert (estimated.batches, estimated.epochs, estimated.steps) == (4, 7, 28)
    assert (estimated.step, estimated.timed) == (0.5, 10)
    assert estimated.image == 0.5 / 180  # the validation images are one batch
    assert estimated.training == 28 * 0.5
    assert estimated.validation == pytest.approx(7 * 0.5)
    assert estimated.testing == pytest.approx((360 + 360) * 0.5 / 180)  # also random scores
    assert estimated.seconds == estimated.training + estimated.validation + estimated.testing
    assert estimated.memory is None or estimated.memory > 10**7
    assert estimated.device_memory is None


def test_a_teacher_that_sees_each_image_once_takes_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = {"teacher": str(DIGITS_TICKET), "teacher_views": "plain", "batch_size": 64}
    command = ["find", "--dry-run", "--low-data", "0.2", "--teacher", str(DIGITS_TICKET)]
    assert command_line.main([*command, "--teacher-views", "plain"]) == 0
    assert re.search(r"estimated time .*\(teacher .*, training ", capsys.readouterr().out)

    slow_clock(monkeypatch, 0.5)
    estimated = estimate.estimate(search_of(**taught, epochs=7, low_data=0.2))
    assert estimated.teaching == 0.5
    parts = estimated.teaching + estimated.training + estimated.validation + estimated.testing
    assert estimated.seconds == parts
    minute = estimate.estimate(search_of(**taught, minutes=1, low_data=0.2))
    assert minute.training + minute.validation == pytest.approx(60 - minute.teaching, abs=1.5)


def test_slow_steps_are_timed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch, 6.0)
    search = search_of(epochs=1, low_data=0.1)
    assert estimate.estimate(search).timed == 2
    assert search.state.step == 4


def test_with_minutes_the_epochs_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch, 0.5)
    few = estimate.estimate(search_of(minutes=1, batch_size=64, low_data=0.2))
    assert few.epochs == round(60 / (4 * 0.5 + 0.5))
    assert few.training + few.validation == pytest.approx(60, rel=0.05)
    many = estimate.estimate(search_of(minutes=100, batch_size=64, low_data=0.2))
    assert many.epochs == round((6000 - 100 * 0.5) / (4 * 0.5))  # 100 of them are validated
    assert many.training + many.validation == pytest.approx(6000, rel=0.01)


def test_a_search_that_diverges_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_of(lr=1e30, low_data=0.1)
    with pytest.raises(UserError, match=r"the search diverges: step .*; pass a smaller --lr"):
        estimate.estimate(search)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--dry-run: is for a single process"):
        estimate.check_alone()


SHORT = ["--arch", "Conv2Wide", "--width-mult", "0.1", "--low-data", "0.1", "--device", "cpu"]


def test_find_shows_everything_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["find", "--dry-run", *SHORT]) == 0
    out = capsys.readouterr().out
    assert "dry run: nothing is written" in out
    assert re.search(r"images +126 training, 180 validation, 360 test, of 1 x 32 x 32 pixels", out)
    assert re.search(r"classes +10: 0, 1, 2", out)
    assert re.search(r"network +Conv2Wide \(MPT-1/32\)", out)
    assert re.search(r"layers +5 with a mask", out)
    assert re.search(r"kept +[\d,]+ +\(20 % of each layer\)", out)
    assert re.search(r"epochs +18 epochs, 2 steps of 64 images each: 36 steps", out)
    assert re.search(r"a step +[\d.]+ m?s +\(median of 10 steps, after a warm-up, on cpu\)", out)
    assert re.search(r"estimated time +[\d.]+ \w+ +\(training [\d.]+ \w+, validation", out)
    assert list(Path().iterdir()) == []


def test_without_validation_images_the_time_of_looking_at_test_images_is_called_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main(["find", "--dry-run", *SHORT, "--select-on", "last"]) == 0
    out = capsys.readouterr().out
    parts = r"\(training [\d.]+ \w+, test images after each epoch [\d.]+ \w+, test [\d.]+ \w+\)"
    assert re.search(rf"estimated time +[\d.]+ \w+ +{parts}", out)
    assert "validation" not in out


@pytest.mark.parametrize("options", [["--set", "folder"], ["--set", "ImageNet", "--workers", "0"]])
def test_every_kind_of_set(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    write_image_folder(Path("photos/train"))
    write_image_folder(Path("photos/val"), count=4)
    before = sorted(Path().rglob("*"))
    network = ["--arch", "Conv2Wide", "--width-mult", "0.1", "--device", "cpu"]
    arguments = ["--data", "photos", "--image-size", "16", "--minutes", "1", *network, *options]
    assert command_line.main(["find", "--dry-run", *arguments]) == 0
    out = capsys.readouterr().out
    assert re.search(r"classes +2: cat, dog", out)
    assert re.search(r"epochs +about \d+ epochs in 1 minutes", out)
    assert sorted(Path().rglob("*")) == before


def test_the_test_images_may_choose_and_networks_may_be_dense(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dense = ["--conv-type", "DenseConv", "--no-freeze-weights", "--select-on", "test"]
    assert command_line.main(["find", "--dry-run", *SHORT, *dense]) == 0
    out = capsys.readouterr().out
    assert "144 training, 360 test, of 1 x 32 x 32 pixels; the test images choose the epoch" in out
    assert re.search(r"network +Conv2Wide, dense: [\d,]+ parameters", out)


def test_global_pruning_keeps_its_share_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--conv-type", "GlobalSubnetConv", "--prune-rate", "0.1", "--epochs", "40"]
    assert command_line.main(["find", "--dry-run", *SHORT, *options]) == 0
    assert "10 % in the end, all layers ranked together" in capsys.readouterr().out


def test_of_a_sweep_cells_that_take_the_same_time_are_timed_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []
    original = estimate.estimate

    def counted(search: Search) -> estimate.Estimate:
        timed.append(search.config.epochs)
        return original(search)

    monkeypatch.setattr(estimate, "estimate", counted)
    grid = ["--grid", "epochs=1,2", "seed=0,1", "prune_rate=0.5,0.2"]
    assert command_line.main(["sweep", "--dry-run", *grid, *SHORT]) == 0
    assert timed == [1, 2]
    out = capsys.readouterr().out
    assert "dry run: 8 cells to search; nothing is written" in out
    assert (
        len(re.findall(r"seed=\d  prune_rate=0.\d +[\d.]+ m?s  \(\d epochs? of 2 steps\)", out))
        == 8
    )
    assert "all, one after the other" in out
    assert command_line.main(["sweep", "--dry-run", "--cell", "5", *grid, *SHORT]) == 0
    assert "dry run: 1 cell to search" in capsys.readouterr().out
    assert list(Path().iterdir()) == []


def test_cells_that_are_done_are_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    cells = sweep.cells({"seed": ["0", "1"]}, None, {"name": "sweep", "low_data": 0.1, **FAST})
    sweep.Sweep(Path("runs/sweeps/sweep"), cells).record(cells[0], sweep.DONE)
    arguments = ["sweep", "--dry-run", "--grid", "seed=0,1", *SHORT]
    assert command_line.main(arguments) == 0
    assert "dry run: 1 cell to search" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12.3 ms"),
        (0.9, "900 ms"),
        (1.5, "1.5 s"),
        (17.2, "17 s"),
        (100, "100 s"),
        (150, "2.5 min"),
        (9000, "2.5 h"),
        (200_000, "2.3 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert dry_run.duration(seconds) == text
