import statistics
from pathlib import Path

import pytest
from run_folders import DIGITS_TICKET, read_all, write_run, write_sweep

from biprop import config
from biprop.config import Config
from biprop.report.entries import Entry
from biprop.report.groups import Spread, groups


def entry(path: str, right: int = 90, config_name: str = "c", **settings: object) -> Entry:
    all_settings = {**config.as_dict(Config()), "prune_rate": 0.2, **settings}
    return Entry(path, "run", Path(path), config_name, all_settings, counts={"test": (right, 100)})


def test_mean_and_sample_deviation() -> None:
    spread = Spread.of([1.0, 2.0, 4.0])
    assert spread.mean == pytest.approx(7 / 3)
    assert spread.deviation == pytest.approx(statistics.stdev([1, 2, 4]))
    assert (str(spread), spread.count) == ("2.33 ± 1.53", 3)
    assert Spread.of([5.0]) == Spread(5, 0, 1)
    assert str(Spread.of([5.0])) == "5.00"


def test_runs_that_differ_only_in_the_seed_are_one_point(tmp_path: Path) -> None:
    cells = [("0.5", 0), ("0.5", 1), ("0.2", 0), ("0.2", 1), ("0.2", 2)]
    points = groups(read_all(write_sweep(tmp_path, cells)))
    assert [len(group.entries) for group in points] == [2, 3]
    assert [group.accuracy.mean for group in points] == [90.5, 91]
    assert [group.accuracy.deviation for group in points] == pytest.approx([0.5**0.5, 1])
    assert len({group.line for group in points}) == 1
    assert points[0].density is not None
    assert points[0].size is None


def test_names_of_folders_and_machines_do_not_matter() -> None:
    entries = [
        entry("a", seed=0, name="x", log_dir="u", workers=1, device="cpu", data="p"),
        entry("b", seed=1, name="y", log_dir="v", workers=2, device="cuda", data="q"),
    ]
    assert [len(group.entries) for group in groups(entries)] == [2]


@pytest.mark.parametrize("option", [{"epochs": 3}, {"augmix": True}, {"arch": "Conv4"}])
def test_another_option_is_another_line(option: dict[str, object]) -> None:
    points = groups([entry("a"), entry("b", **option)])
    assert len({group.line for group in points}) == 2
    (name,) = option
    assert all(group.line.startswith(f"c, {name}=") for group in points)


def test_the_prune_rate_names_no_line() -> None:
    points = groups([entry("a"), entry("b", epochs=3, prune_rate=0.5)])
    assert [group.line for group in points] == ["c, epochs=90", "c, epochs=3"]


def test_configurations_name_lines() -> None:
    points = groups([entry("a", config_name="x"), entry("b", config_name="y", epochs=3)])
    assert [group.line for group in points] == ["x", "y"]


def test_a_run_and_its_ticket_are_one_network(tmp_path: Path) -> None:
    repeated = [entry("a", seed=0), entry("b", seed=0), entry("c", seed=1)]
    assert [len(group.entries) for group in groups(repeated)] == [2]


def test_what_has_no_accuracy_is_left_out_and_what_has_no_settings_stands_alone(
    tmp_path: Path,
) -> None:
    run = read_all(write_run(tmp_path / "a"))[0]
    (ticket,) = read_all(DIGITS_TICKET)
    ticket.settings = {}
    run.counts = {}
    assert [group.line for group in groups([run, ticket])] == ["digits.mpt"]
