"""The commands report and plot."""

import json
from pathlib import Path

import pytest
from conftest import checkpoint_fields
from pages import parse
from run_folders import DIGITS_TICKET, write_run, write_sweep
from test_cli import fails
from test_results_table import results

from biprop import checkpoint
from biprop.cli import command_line
from biprop.config import Config
from biprop.models.network import Task

REPORT = ["report", str(DIGITS_TICKET), "-o"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_ticket_gets_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([*REPORT, "a.html", "--images", "30", "--title", "<b>"]) == 0
    size = Path("a.html").stat().st_size
    assert f"a.html written  ({size:,} bytes)" in capsys.readouterr().out
    root = parse(Path("a.html").read_text())
    assert root.only("h1").text == "<b>"
    assert "of 30 test images" in root.text
    assert [s.attributes["id"] for s in root.all("section")] == [
        *("summary", "layers", "bytes", "filters", "mistakes", "recipe", "missing")
    ]


def test_a_run_is_packed_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    options = Config("Conv2Wide", width_mult=0.0625, set="digits", prune_rate=0.2)
    folder = write_run(Path("a"), arch="Conv2Wide", width_mult=0.0625)
    fields = checkpoint_fields(options, Task(10, 1, (32, 32)))
    checkpoint.save(folder / "checkpoints/model_best.pth", fields)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert command_line.main(["report", "a", "-o", "a.html", "--images", "20"]) == 0
    assert capsys.readouterr().err == ""
    ids = [s.attributes["id"] for s in parse(Path("a.html").read_text()).all("section")]
    assert {"training", "layers", "bytes", "filters", "mistakes", "recipe"} <= {*ids}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_sweep_without_checkpoints_still_has_its_comparison() -> None:
    write_sweep(Path(), [("0.5", 0), ("0.5", 1)])
    assert command_line.main(["report", "runs/sweeps/s", "-o", "a.html"]) == 0
    root = parse(Path("a.html").read_text())
    assert root.only("h1").text == "prune_rate=0.5  seed=0 and 1 more"
    assert "no ticket" in root.text
    assert "90.50 ± 0.71" in root.text


def test_a_measurement_elsewhere() -> None:
    record = {"results": [{"name": "mine", "corruptions": {"fog": {"1": {"accuracy": 50.0}}}}]}
    Path("m.json").write_text(json.dumps(record))
    write_run(Path("a"))
    assert command_line.main(["report", "a", "-o", "a.html", "--robustness", "m.json"]) == 0
    assert "m.json: mine" in parse(Path("a.html").read_text()).text


def test_mistakes_of_report_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the name of a page ends with .html" in fails(capsys, *REPORT, "a.pdf")
    assert "no such folder" in fails(capsys, *REPORT, "none/a.html")
    assert "--images 0: must be 1 or more" in fails(capsys, *REPORT, "a.html", "--images", "0")
    assert "no such file or folder" in fails(capsys, "report", "none", "-o", "a.html")
    assert "cannot be read" in fails(capsys, *REPORT, "a.html", "--robustness", "none.json")
    Path("a.html").mkdir()
    assert "cannot be written" in fails(capsys, *REPORT, "a.html", "--images", "5")


PLOT = ["plot", "results.csv", "--x", "prune_rate", "--y", "Test Top 1"]


def test_a_figure_of_results(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    results(Path(), ("a", 0.5, 0, 90.0), ("a", 0.5, 1, 92.0), ("b", 0.2, 0, 80.0))
    assert command_line.main([*PLOT, "--by", "config", "-o", "fig.svg"]) == 0
    output = capsys.readouterr()
    assert output.out == "fig.svg written  (2 curves, 2 points, 3 rows)\n"
    assert output.err == ""
    assert Path("fig.svg").read_bytes().startswith(b"<?xml")
    assert command_line.main([*PLOT, "-o", "b.svg", "--where", "seed=0"]) == 0
    assert "(1 curve, 2 points, 2 rows)" in capsys.readouterr().out


def test_an_average_over_more_than_seeds_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    results(Path(), ("a", 0.5, 0, 90.0), ("b", 0.5, 0, 80.0))
    assert command_line.main([*PLOT, "-o", "fig.svg"]) == 0
    assert "warning: Base Config: rows of one point differ in it" in capsys.readouterr().err


def test_searches_by_the_clock_may_differ_in_their_epochs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    lines = ("Prune Rate,Seed,Epochs,Test Top 1", "0.2,0,17,90", "0.2,1,18,91")
    Path("results.csv").write_text("\n".join(lines) + "\n")
    assert command_line.main([*PLOT, "-o", "fig.svg"]) == 0
    assert capsys.readouterr().err.endswith(
        "--by, unless the searches had a budget of time (--minutes)\n"
    )


def test_mistakes_of_plot_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    results(Path(), ("a", 0.5, 0, 90.0))
    assert "--by nam: no such column" in fails(capsys, *PLOT, "--by", "nam", "-o", "a.pdf")
    assert "no row is left" in fails(capsys, *PLOT, "--where", "seed=5", "-o", "a.pdf")
    assert ".pdf, .png, .svg" in fails(capsys, *PLOT, "-o", "a.gif")
    assert "no such folder" in fails(capsys, *PLOT, "-o", "none/a.pdf")
