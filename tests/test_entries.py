import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from run_folders import DIGITS_TICKET, nothing_to_pack, read_all, write_run, write_sweep

from biprop import Deck, Ticket, UserError
from biprop.report import commands, entries


def test_a_run_is_read_from_its_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs/digits/prune-rate=0.2/find", seed=3)
    (entry,) = read_all(folder)
    assert entry.name == "digits/prune-rate=0.2/find"
    assert entry.config_name == "digits"
    assert entry.settings["seed"] == 3
    assert entry.settings["batch_size"] == 256  # the default of an option that the file lacks
    assert entry.versions == "biprop 0.1.0, torch 2.13.0"
    assert [line["epoch"] for line in entry.epochs] == [1, 2, 3]
    assert entry.best_epoch == 2
    assert entry.counts == {"test": (90, 100), "validation": (45, 50)}
    assert entry.accuracy == 90
    assert [layer.percent for layer in entry.layers] == [20, 30]
    assert entry.density == pytest.approx(100 * 230 / 800)
    assert entry.missing == ["no ticket, so no bytes and no filters: there is none"]


def test_a_run_has_the_ticket_that_pack_would_write(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    ticket = Ticket.load(DIGITS_TICKET)
    (entry,) = entries.read([str(folder)], lambda path: ticket, lambda items, *_: items)
    assert entry.ticket is not None
    assert entry.ticket.to_bytes() == DIGITS_TICKET.read_bytes()
    assert entry.size == DIGITS_TICKET.stat().st_size
    assert entry.density == pytest.approx(20, abs=0.01)
    assert entry.missing == []


def test_a_ticket_records_how_it_was_found() -> None:
    (entry,) = read_all(DIGITS_TICKET)
    assert (entry.name, entry.kind, entry.network) == (
        "digits.mpt",
        "ticket",
        "Wide_VGG_Small_132",
    )
    assert entry.size == DIGITS_TICKET.stat().st_size
    assert entry.settings["set"] == "digits"
    assert entry.config_name == "digits"
    assert entry.accuracy is not None
    assert "biprop" in entry.versions
    assert any("pass that as well" in line for line in entry.missing)


def test_a_deck_has_cards(tmp_path: Path) -> None:
    ticket = Ticket.load(DIGITS_TICKET)
    Deck([ticket, ticket], ["a", "b"]).save(tmp_path / "two.deck")
    (entry,) = read_all(tmp_path / "two.deck")
    assert entry.kind == "deck"
    assert entry.size == (tmp_path / "two.deck").stat().st_size
    assert entry.density == pytest.approx(20, abs=0.01)
    cards = entries.cards(entry)
    assert [card.name for card in cards] == ["two.deck: a", "two.deck: b"]
    assert [card.size for card in cards] == [DIGITS_TICKET.stat().st_size] * 2


@pytest.mark.parametrize(
    "recorded", ["{}", '{"lr": "fast"}', '{"lr": [1]}', "[]", '{"nothing": 1}']
)
def test_options_of_a_ticket_that_are_none_are_left_out(recorded: str) -> None:
    ticket = Ticket.load(DIGITS_TICKET)
    ticket.found["options"] = json.loads(recorded)
    settings = entries._recorded_settings(ticket)
    assert "nothing" not in settings
    assert settings.get("lr", 0.1) == 0.1


def test_a_ticket_names_no_path(tmp_path: Path) -> None:
    ticket = Ticket.load(DIGITS_TICKET)
    ticket.found["options"] = {"data": "/etc", "log_dir": "/etc", "name": "x", "epochs": 3}
    settings = entries._recorded_settings(ticket)
    assert (settings["data"], settings["log_dir"], settings["epochs"]) == ("data", "runs", 3)


@pytest.mark.parametrize("recorded", ["large.mpt", "/etc/large.mpt"])
def test_the_command_of_a_ticket_with_a_teacher_names_its_file(recorded: str) -> None:
    ticket = Ticket.load(DIGITS_TICKET)
    ticket.found["teacher"] = recorded
    settings = entries._recorded_settings(ticket)
    assert settings["teacher"] == "large.mpt"
    text = commands.command("digits", settings)
    assert text and "--teacher large.mpt" in text


# Sweeps


def test_a_sweep_is_its_runs(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, [("0.5", 0), ("0.2", 1)])
    read = read_all(sweep)
    assert [entry.name for entry in read] == ["prune_rate=0.5  seed=0", "prune_rate=0.2  seed=1"]
    assert [entry.settings["seed"] for entry in read] == [0, 1]


def test_a_sweep_that_was_moved_is_found_again(tmp_path: Path) -> None:
    write_sweep(tmp_path / "before", [("0.5", 0)])
    (tmp_path / "before").rename(tmp_path / "after")
    assert len(read_all(tmp_path / "after/runs/sweeps/s")) == 1


@pytest.mark.parametrize(
    "recorded", ["../../outside", "{outside}", "runs/../../outside", "a\0b", 3]
)
def test_a_sweep_names_no_folder_outside_its_own(tmp_path: Path, recorded: Any) -> None:
    outside = write_run(tmp_path / "outside")
    sweep = tmp_path / "log/sweeps/s"
    sweep.mkdir(parents=True)
    name = recorded.format(outside=outside) if isinstance(recorded, str) else recorded
    (sweep / "0.json").write_text(json.dumps({"values": {}, "folder": name}))
    with pytest.raises(UserError, match="a sweep of which no run was found"):
        read_all(sweep)


def test_a_link_does_not_lead_out_of_a_sweep(tmp_path: Path) -> None:
    write_run(tmp_path / "outside")
    sweep = tmp_path / "log/sweeps/s"
    sweep.mkdir(parents=True)
    (tmp_path / "log/run").symlink_to(tmp_path / "outside")
    (sweep / "0.json").write_text(json.dumps({"values": {}, "folder": "log/run"}))
    with pytest.raises(UserError, match="no run was found"):
        read_all(sweep)


# Damage


def damaged_files() -> list[tuple[str, str]]:
    return [
        ("result.json", "{"),
        ("result.json", '{"test": {"right": 5, "images": 3}, "epoch": "x"}'),
        ("layers.json", '[{"name": "a", "weights": 1, "kept": 2}]'),
        ("layers.json", '{"a": 1}'),
        ("layers.json", "[" * 100_000),
        ("logs/metrics.jsonl", '{"epoch": 1, "train/loss": "x"}\nnothing\n'),
        ("settings.txt", "lr: fast\n"),
        ("settings.txt", "a_new_option: 1\n"),
        ("results_row.json", '{"Base Config": 3}'),
        ("progress.json", "[]"),
    ]


@pytest.mark.parametrize(("name", "content"), damaged_files())
def test_a_damaged_file_of_a_run_leaves_out_its_part(
    name: str, content: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "c/prune-rate=0.2/r")
    (folder / name).write_text(content)
    (entry,) = read_all(folder)
    whole = read_all(write_run(tmp_path / "d/prune-rate=0.2/r"))[0]
    kept = [
        entry.counts == whole.counts,
        entry.layers == whole.layers,
        entry.epochs == whole.epochs,
        entry.settings == whole.settings,
    ]
    assert sum(kept) >= 3


@pytest.mark.parametrize(("weights", "kept"), [(1, 2), (1, -1), (2**62, 5), ("x", 1)])
def test_layers_of_impossible_sizes_are_left_out(
    weights: object, kept: object, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a")
    record = [{"name": "a", "weights": weights, "kept": kept}]
    (folder / "layers.json").write_text(json.dumps(record))
    assert read_all(folder)[0].layers == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no such file or folder"),
        ("empty", "neither a run folder, a sweep, a ticket"),
        ("text.txt", "neither a run folder, a sweep, a ticket"),
        ("bad.mpt", "bad.mpt"),
        ("bad.deck", "bad.deck"),
    ],
)
def test_what_is_no_result_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("text.txt", "bad.mpt", "bad.deck"):
        (tmp_path / file).write_text("text")
    with pytest.raises(UserError, match=message):
        read_all(tmp_path / name)


# Names


def test_names_are_the_shortest_that_differ(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "x/a/prune-rate=0.2/find"),
        write_run(tmp_path / "y/a/prune-rate=0.2/find"),
        write_run(tmp_path / "y/b/prune-rate=0.2/find"),
    ]
    names = [entry.name for entry in read_all(*runs, ROOT / "pretrained/digits.mpt")]
    assert names == [
        "x/a/prune-rate=0.2/find",
        "y/a/prune-rate=0.2/find",
        "b/prune-rate=0.2/find",
        "digits.mpt",
    ]


def test_equal_names_are_numbered(tmp_path: Path) -> None:
    sweeps = [write_sweep(tmp_path / part, [("0.5", 0)]) for part in "ab"]
    names = [entry.name for entry in read_all(*sweeps)]
    assert names == ["prune_rate=0.5  seed=0", "prune_rate=0.5  seed=0 (2)"]


def test_a_measurement_beside_a_ticket_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.mpt").write_bytes(DIGITS_TICKET.read_bytes())
    record = {"results": [{"name": "a", "corruptions": {"fog": {"1": {"accuracy": 50.0}}}}]}
    (tmp_path / "a.robustness.json").write_text(json.dumps(record))
    (entry,) = read_all(tmp_path / "a.mpt")
    assert entry.scores is not None
    assert entry.scores.answers[0].cells == {("fog", 1): 50}
    (tmp_path / "a.robustness.json").write_text("{}")
    (entry,) = read_all(tmp_path / "a.mpt")
    assert any("not a file that biprop robustness wrote" in line for line in entry.missing)


def test_nothing_is_packed_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        nothing_to_pack(tmp_path)
