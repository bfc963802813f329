import csv
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from biprop import UserError
from biprop.runs import results


def test_runs_that_end_together_lose_no_row(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from biprop.runs import results\n"
        "for i in range(20):\n"
        "    row = {'Name': f'{sys.argv[2]}-{i}', 'Base Config': 'x' * 5000}\n"
        "    results.append_result(Path(sys.argv[1]), row)"
    )
    path = tmp_path / "results.csv"
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(path), str(n)]) for n in range(4)
    ]
    assert [p.wait() for p in running] == [0] * 4
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(r["Name"] for r in rows) == sorted(
        f"{n}-{i}" for n in range(4) for i in range(20)
    )
    assert all(len(r["Base Config"]) == 5000 for r in rows)
    results.check_results(path)


def test_the_columns_are_those_of_the_original_research_code_and_ours_after_them(
    tmp_path: Path,
) -> None:
    results.append_result(tmp_path / "results.csv", {})
    head = (tmp_path / "results.csv").read_text().splitlines()[0]
    assert (
        head
        == "Date Finished,Base Config,Current Val Top 1,Current Val Top 5,Best Val Top 1,Best Val"
        " Top 5,Best Train Top 1,Best Train Top 5,Name,Seed,Prune Rate,Learning"
        " Rate,Epochs,Weight Decay,Learn BN,Tune BN,Bias Only,Run Directory,Test Top 1,Test Top"
        " 5,Selected On,Density,Network,Data Set,Conv Type,Optimizer,Augmentation,Minutes"
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("count", [18, 22])
def test_a_table_with_fewer_columns_is_extended(tmp_path: Path, count: int) -> None:
    path = tmp_path / "results.csv"
    columns = results.RESULT_COLUMNS[:count]
    old = ["'=1+1", *map(str, range(count - 1))]
    path.write_text(f"{','.join(columns)}\r\n{','.join(old)}\r\n", newline="")
    results.check_results(path)
    results.append_result(path, {"Name": "new", "Minutes": 3})
    first, second = rows_of(path)
    assert list(first) == list(results.RESULT_COLUMNS)
    assert list(first.values()) == old + [""] * (len(results.RESULT_COLUMNS) - count)
    assert (second["Name"], second["Minutes"]) == ("new", "3")


@pytest.mark.parametrize("columns", [("Date Finished",), ("a", *results.RESULT_COLUMNS[1:20])])
def test_tables_of_other_programs_stay(tmp_path: Path, columns: tuple[str, ...]) -> None:
    path = tmp_path / "results.csv"
    path.write_text(",".join(columns) + "\n")
    with pytest.raises(UserError, match="has other columns"):
        results.check_results(path)


def test_a_row_is_never_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for row in (
        {"Name": "a", "Seed": 1},
        {"Name": "a", "Seed": 1},
        {"Name": "a", "Seed": 11},
        {"Name": "a", "Seed": 1},
    ):
        results.append_result(path, row)
    assert [row["Seed"] for row in rows_of(path)] == ["1", "11"]


@pytest.mark.parametrize("rest", [b"2026-01-01,half a li", b"\0" * 700])
def test_a_row_begins_a_line_whatever_a_power_cut_left(rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results.append_result(path, {"Name": "a"})
    path.write_bytes(path.read_bytes() + rest)
    results.append_result(path, {"Name": "b"})
    assert [row["Name"] for row in rows_of(path) if row["Name"]] == ["a", "b"]


def test_a_full_disk_takes_all_of_a_row_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.csv"
    results.append_result(path, {"Name": "a"})
    before = path.read_bytes()

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"results.csv: cannot be written: No space left on device"):
        results.append_result(path, {"Name": "b"})
    assert path.read_bytes() == before


def test_a_table_that_stays_locked_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row waits beside it, and the next run that ends adds it, once."""
    monkeypatch.setattr(results, "LOCK_TIMEOUT", 0.2)
    monkeypatch.setattr(results, "_NOTICE_AFTER", 0.0)
    path, messages = tmp_path / "results.csv", []
    with FileLock(f"{path}.lock"):
        for _ in range(2):  # it went on after it was killed
            results.append_result(path, {"Name": "=a"}, tell=messages.append)
    waits, late = messages[:2]
    assert waits.endswith("another process holds results.csv.lock: waiting for it, at most 0 s")
    assert "still locked: the row waits in results.csv." in late
    assert not path.exists()
    assert len(list(tmp_path.glob("results.csv.*.row"))) == 1
    results.append_result(path, {"Name": "b"})
    assert [row["Name"] for row in rows_of(path)] == ["'=a", "b"]
    assert not list(tmp_path.glob("*.row"))


def test_who_waits_for_a_table_hears_signals(tmp_path: Path) -> None:
    path, messages = tmp_path / "results.csv", []
    with FileLock(f"{path}.lock"):
        results.append_result(
            path, {"Name": "a"}, is_asked_to_stop=lambda: True, tell=messages.append
        )
    assert len(messages) == 1
    assert list(tmp_path.glob("results.csv.*.row"))


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"]
)
def test_spreadsheets_compute_no_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results.append_result(path, {"Name": text, "Base Config": text})
    (row,) = rows_of(path)
    assert row["Name"] == row["Base Config"] == "'" + text


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    values = [-1.5, 3, "-2.5", "+1e-3", None, False, "a=b"]
    assert [results.csv_cell(value) for value in values] == values
    path = tmp_path / "results.csv"
    results.append_result(
        path, {"Name": "a\udcff", "Best Val Top 1": -1.5}
    )  # a folder's name that is no text
    assert rows_of(path)[0]["Name"] == r"a\udcff"


def test_a_table_with_other_columns_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results.check_results(path)
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="other columns"):
        results.check_results(path)
