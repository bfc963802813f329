import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from biprop import UserError, log


def test_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    console = log.Console(stream)
    assert list(console.track(range(3), "counting", 3)) == [0, 1, 2]
    console.table("Title", [("a", "1"), ("long name", "[2]")])
    with console.bar("x", 5) as bar:
        bar.advance(2, "note")
    assert stream.getvalue() == "counting: 3\n\nTitle\n  a          1\n  long name  [2]\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = log.Console(stream)
    with console.bar("epoch 1/2", 10) as bar:
        bar.advance(5, "loss 0.5")
        console.line("a line with [brackets]")
    console.table("Title", [("a", "b [c]")])
    for expected in ("epoch 1/2", "5/10", "loss 0.5", "a line with [brackets]", "Title", "b [c]"):
        assert expected in stream.getvalue()


def test_metrics_are_one_json_object_a_line(tmp_path: Path) -> None:
    with log.RunLog(tmp_path) as run_log:
        run_log.epoch(1, {"loss": 0.5})
        run_log.epoch(2, {"loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_runs_that_end_together_lose_no_row(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from biprop import log\n"
        "for i in range(20): log.append_result(Path(sys.argv[1]), {'Name': f'{sys.argv[2]}-{i}', 'Base Config': 'x' * 5000})"
    )
    path = tmp_path / "results.csv"
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), str(n)]) for n in range(4)]
    assert [p.wait() for p in running] == [0] * 4
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(r["Name"] for r in rows) == sorted(f"{n}-{i}" for n in range(4) for i in range(20))
    assert all(len(r["Base Config"]) == 5000 for r in rows)
    log.check_results(path)


def test_the_columns_are_those_of_the_original_research_code_and_ours_after_them(tmp_path: Path) -> None:
    log.append_result(tmp_path / "results.csv", {})
    head = (tmp_path / "results.csv").read_text().splitlines()[0]
    assert head == (
        "Date Finished,Base Config,Current Val Top 1,Current Val Top 5,Best Val Top 1,Best Val Top 5,Best Train Top 1,"
        "Best Train Top 5,Name,Seed,Prune Rate,Learning Rate,Epochs,Weight Decay,Learn BN,Tune BN,Bias Only,Run Directory,"
        "Test Top 1,Test Top 5,Selected On,Density"
    )


def test_a_table_with_other_columns_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    log.check_results(path)
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="other columns"):
        log.check_results(path)
