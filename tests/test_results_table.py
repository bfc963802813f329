from pathlib import Path

import pytest

from biprop import UserError
from biprop.report import results_table
from biprop.report.results_table import Table
from biprop.runs.results import RESULT_COLUMNS, append_result


def results(path: Path, *rows: tuple[str, float, int, float]) -> Path:
    """A results.csv of (configuration, prune rate, seed, test accuracy)."""
    for config, rate, seed, accuracy in rows:
        row = {"Base Config": config, "Prune Rate": rate, "Seed": seed, "Test Top 1": accuracy}
        append_result(path / "results.csv", {**row, "Epochs": 3, "Run Directory": f"{seed}"})
    return path / "results.csv"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.read(
        results(
            tmp_path,
            ("conv4", 0.5, 0, 90.0),
            ("conv2", 0.2, 0, 70.0),
            ("conv4", 0.5, 1, 94.0),
            ("conv4", 0.2, 0, 80.0),
            ("conv2", 0.2, 1, 73.0),
        )
    )


def test_rows_with_one_x_are_mean_and_sample_deviation(table: Table) -> None:
    (conv4, conv2), labels = table.curves("Prune Rate", "Test Top 1", "Base Config")
    assert labels == []
    assert (conv4.name, conv4.x, conv4.mean, conv4.counts) == (
        "conv4",
        [0.2, 0.5],
        [80, 92],
        [1, 2],
    )
    assert conv4.spread == pytest.approx([0, 8**0.5])
    assert (conv2.name, conv2.x, conv2.mean) == ("conv2", [0.2], [71.5])


def test_without_by_there_is_one_curve(table: Table) -> None:
    (curve,), _ = table.curves("Prune Rate", "Test Top 1", None)
    assert curve.mean == pytest.approx([(70 + 80 + 73) / 3, 92])


def test_texts_on_the_x_axis_are_in_the_order_of_the_file(table: Table) -> None:
    (curve,), labels = table.curves("Base Config", "Test Top 1", None)
    assert labels == ["conv4", "conv2"]
    assert (curve.x, curve.counts) == ([0, 1], [3, 2])


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("prune_rate", "Prune Rate"),
        ("Prune Rate", "Prune Rate"),
        ("PRUNE-RATE", "Prune Rate"),
        ("config", "Base Config"),
        ("lr", "Learning Rate"),
        ("test top 1", "Test Top 1"),
    ],
)
def test_a_column_has_several_spellings(name: str, column: str, table: Table) -> None:
    assert table.column(name, "--x") == column


def test_an_unknown_column_lists_those_there_are(table: Table) -> None:
    with pytest.raises(UserError, match=r"--x pruned_rate: no such column; did you mean") as e:
        table.column("pruned_rate", "--x")
    assert all(column in str(e.value) for column in RESULT_COLUMNS)


def test_conditions_choose_rows(table: Table) -> None:
    chosen = table.where(["seed=0", "prune_rate=0.20"])
    assert [row["Test Top 1"] for row in chosen.rows] == ["70.0", "80.0"]
    with pytest.raises(UserError, match=r"--where seed=7: no row is left; the values are 0, 1$"):
        table.where(["prune_rate=0.5", "seed=7"])
    with pytest.raises(UserError, match="must be COLUMN=VALUE"):
        table.where(["seed"])
    with pytest.raises(UserError, match=r"--where sed: no such column"):
        table.where(["sed=1"])


def test_options_that_are_averaged_over_are_named(table: Table) -> None:
    assert table.mixed_options("Prune Rate", "Test Top 1", "Base Config") == []
    assert table.mixed_options("Prune Rate", "Test Top 1", None) == ["Base Config"]
    assert Table(table.path, ["a", "b"], []).mixed_options("a", "b", None) == []


@pytest.mark.parametrize("cell", ["nan", "inf", "high", "1e999"])
def test_a_value_that_is_no_number(cell: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"x,y\n1,{cell}\n")
    with pytest.raises(UserError, match=rf"y = {cell}: not a finite number"):
        Table.read(tmp_path / "a.csv").curves("x", "y", None)


def test_rows_without_a_value_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,\n2,5\n3\n")
    (curve,), _ = Table.read(tmp_path / "a.csv").curves("x", "y", None)
    assert (curve.x, curve.mean) == ([2], [5])
    (tmp_path / "a.csv").write_text("x,y\n1,\n")
    with pytest.raises(UserError, match="y is empty in all of its 1 rows"):
        Table.read(tmp_path / "a.csv").curves("x", "y", None)


def test_a_file_that_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Table.read(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("x,y\n")
    with pytest.raises(UserError, match="has no rows"):
        Table.read(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a CSV file"):
        Table.read(tmp_path / "b.csv")
    monkeypatch.setattr(results_table, "MOST_BYTES", 3)
    with pytest.raises(UserError, match="more than 3 bytes"):
        Table.read(tmp_path / "a.csv")
