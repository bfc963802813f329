"""The folder of a run.

Real runs that continue and are shown: test_cli; failures and recovery: test_faults.
"""

import json
import os
import socket
from pathlib import Path

import pytest

from biprop.config import Config
from biprop.errors import UserError
from biprop.runs import status
from biprop.runs.folder import (
    CHECKPOINTS,
    INITIAL,
    LOGS,
    METRICS,
    PROGRESS,
    RESULT,
    SETTINGS,
    ProgressFile,
    has_final_status,
    held,
    make,
    newest,
    notes_on,
)


def config(tmp_path: Path, **options: object) -> Config:
    return Config(log_dir=str(tmp_path / "runs"), **options)  # type: ignore[arg-type]


def begun(config: Config) -> Path:
    """A run that got as far as a checkpoint."""
    folder = make(config, "digits")
    (folder / CHECKPOINTS / INITIAL).write_bytes(b"x")
    return folder


def test_every_run_has_a_folder_of_its_own_by_what_it_does(tmp_path: Path) -> None:
    first, second, third = (
        make(config(tmp_path, prune_rate=0.5, name="n"), "digits") for _ in range(3)
    )
    assert first == tmp_path / "runs" / "digits" / "prune-rate=0.5" / "n"
    assert (second, third) == (first / "0", first / "1")
    assert "prune_rate: 0.5" in (second / SETTINGS).read_text()
    assert make(config(tmp_path, width_mult=2, prune_rate=0.5), "a").parts[-4:-1] == (
        "a",
        "width_mult=2",
        "prune-rate=0.5",
    )


def test_the_newest_run_with_the_same_options_is_found(tmp_path: Path) -> None:
    assert newest(config(tmp_path), "digits") is None
    first, other, last = (
        begun(config(tmp_path)),
        begun(config(tmp_path, lr=0.5)),
        begun(config(tmp_path, print_freq=3)),
    )
    make(config(tmp_path), "digits")  # has no checkpoint: nothing to go on from
    (last / SETTINGS).touch()
    (first / SETTINGS).touch()  # clocks do not count
    assert newest(config(tmp_path, workers=3), "digits") == last
    assert newest(config(tmp_path, lr=0.5), "digits") == other
    (last / SETTINGS).write_text("an_option_of_tomorrow: 3\n")
    assert newest(config(tmp_path), "digits") == first


def test_a_run_with_later_ones_in_its_folder_says_so(tmp_path: Path) -> None:
    first = begun(config(tmp_path))
    make(config(tmp_path), "digits")  # has no checkpoint: nothing to read there
    assert notes_on(first) == notes_on(tmp_path / "no folder") == []
    for _ in range(10):
        last = begun(config(tmp_path, lr=0.5))
    (note,) = notes_on(first)
    assert (
        note == f"{first}: the first run of this name; has 10 later runs: for the last, pass {last}"
    )
    assert last.name == "10"


def test_one_process_writes_and_the_rests_of_a_killed_one_go(tmp_path: Path) -> None:
    folder = begun(config(tmp_path))
    (folder / PROGRESS).write_text(json.dumps({"process": 17, "machine": "node1"}))
    with held(folder):
        with (
            pytest.raises(
                UserError, match=r"another process runs this search \(process 17 on node1\)"
            ),
            held(folder),
        ):
            pass
        assert "process 17 on node1" in dict(status.status(folder))["state"]
    with held(folder):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0"])
def test_status_survives_what_a_crash_left(tmp_path: Path, content: str) -> None:
    folder = begun(config(tmp_path))
    for name in (PROGRESS, RESULT):
        (folder / name).write_text(content)
    (folder / LOGS / METRICS).write_text('{"epoch": 1, "tr')  # the last line, half-written
    rows = dict(status.status(folder))
    assert rows["state"].startswith(
        "crashed: no final status recorded (process ? on an unknown machine, no update);"
        " continue with: biprop find --resume "
    )
    assert rows["checkpoint"].startswith("checkpoints/initial.state, written 0 s ago")


LINE = {"epoch": 1, "train/loss": 0.5, "train/top1": 80.0, "validation/top1": 70.0}


@pytest.mark.parametrize(
    "rest", [b"\0" * 99, b"\0" * 99 + b"\n", b'{"epoch": 2}\n', b'{"epoch": 2, "train/loss": 0.\n']
)
def test_status_passes_over_a_damaged_line(rest: bytes, tmp_path: Path) -> None:
    folder = begun(config(tmp_path))
    (folder / LOGS / METRICS).write_bytes(json.dumps(LINE).encode() + b"\n" + rest)
    assert dict(status.status(folder))["last whole epoch"].startswith("1: loss 0.500")


@pytest.mark.parametrize(
    "content",
    ['{"epoch": 1}', '{"state": 3}', '{"epoch": 1, "epochs": 2, "batch": "x", "batches": []}'],
)
def test_a_damaged_progress_is_one_line(content: str, tmp_path: Path) -> None:
    folder = begun(config(tmp_path))
    (folder / PROGRESS).write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        status.status(folder)


@pytest.mark.parametrize(
    ("process", "state"),
    [(os.getpid(), "searches (process"), (2**22 + 1, "crashed: "), (2**80, "crashed: ")],
    ids=["this one", "none", "no number of a process"],
)
def test_whether_a_run_lives_is_known_where_its_lock_cannot_be_opened(
    process: int, state: str, tmp_path: Path
) -> None:
    folder = begun(config(tmp_path))
    (folder / ".running").mkdir()  # what root cannot open, either
    progress = {"state": "searches", "process": process, "machine": socket.gethostname()}
    (folder / PROGRESS).write_text(json.dumps(progress))
    assert dict(status.status(folder))["state"].startswith(state)


def test_looking_at_a_run_writes_nothing(tmp_path: Path) -> None:
    folder = begun(config(tmp_path))
    with held(folder):
        pass
    (folder / ".running").touch()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    status.status(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_folder_of_a_run_that_was_killed_before_its_first_checkpoint_is_taken_over(
    tmp_path: Path,
) -> None:
    first = make(config(tmp_path), "digits")
    assert make(config(tmp_path, workers=3), "digits", take_over=True) == first
    assert make(config(tmp_path, lr=0.5), "digits", take_over=True) == first / "0"
    with held(first):
        assert make(config(tmp_path), "digits", take_over=True) == first / "1"
    (first / CHECKPOINTS / INITIAL).write_bytes(b"x")
    assert make(config(tmp_path), "digits", take_over=True) == first / "1"
    assert make(config(tmp_path), "digits") == first / "2"


@pytest.mark.parametrize(
    "recorded", ["stopped: SIGTERM", "failed: epoch 2, step 7: the loss is not finite"]
)
def test_status_tells_why_a_run_ended(tmp_path: Path, recorded: str) -> None:
    folder = begun(config(tmp_path))
    ProgressFile(folder).write(recorded, at_once=True)
    assert has_final_status(folder)
    assert (
        dict(status.status(folder))["state"]
        == f"{recorded}, 0 s ago; continue with: biprop find --resume {folder}"
    )


def test_progress_is_written_now_and_then_and_keeps_earlier_facts(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path, every=1e9)
    progress.write("searches", {"epoch": 1, "epochs": 9})
    progress.write("searches", {"epoch": 2})
    assert json.loads((tmp_path / PROGRESS).read_text())["epoch"] == 1
    progress.write("stopped", {"batch": 3}, at_once=True)
    record = json.loads((tmp_path / PROGRESS).read_text())
    assert [record[name] for name in ("state", "epoch", "epochs", "batch")] == ["stopped", 2, 9, 3]


def test_times_in_words() -> None:
    assert [status.in_words(seconds) for seconds in (-5, 0.4, 59.6, 3599, 3600, 7500)] == [
        "0 s", "0 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "2 h 5 min",
    ]  # fmt: skip
