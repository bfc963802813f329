import csv
import json
import shlex
from pathlib import Path

import pytest
from conftest import write_image_folder

from biprop import UserError, config, data
from biprop.cli import command_line
from biprop.console import Console
from biprop.search import sweep
from biprop.search.loop import Search
from biprop.search.sweep import DATA_OPTIONS, RUNNING, Sweep

QUICK = ["--width-mult", "0.25", "--epochs", "1", "--device", "cpu"]
COMMAND = ["sweep", "--grid", "prune_rate=0.3,0.1", "seed=0,1", *QUICK]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_grid_is_the_product_of_its_values() -> None:
    grid = sweep.parse_grid(["prune-rate=0.5,0.2", "seed=0,1,2"])
    cells = sweep.cells(grid, None, {"epochs": "3"})
    assert [(c.config.prune_rate, c.config.seed, c.config.epochs) for c in cells] == [
        (0.5, 0, 3), (0.5, 1, 3), (0.5, 2, 3), (0.2, 0, 3), (0.2, 1, 3), (0.2, 2, 3),
    ]  # fmt: skip
    assert [c.number for c in cells] == list(range(6))
    assert str(cells[5]) == "prune_rate=0.2  seed=2"


def test_the_default_is_the_papers_grid() -> None:
    cells = sweep.cells(sweep.parse_grid([]), None, {"set": "CIFAR10"})
    assert len(cells) == 48
    assert {c.config.arch for c in cells} == {
        f"Conv{depth}{kind}" for depth in (2, 4, 6, 8) for kind in ("", "_BinAct")
    }
    assert {c.config.prune_rate for c in cells} == {0.8, 0.6, 0.5, 0.4, 0.2, 0.1}


def test_a_sweep_skips_what_is_done_and_goes_on_in_the_middle_of_a_cell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main([*COMMAND, "--cell", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 cells, 1 to run" in out
    assert out.count("waiting") == 3

    # Cell 0 was killed after its first epoch of two, by a fault that no one could handle.
    two = [part if part != "1" else "2" for part in COMMAND]
    folder = Path("runs/sweeps/other")
    cells = sweep.cells(
        sweep.parse_grid(["prune_rate=0.3,0.1"]),
        None,
        {"width_mult": "0.25", "epochs": "2", "name": "other"},
    )
    state = Sweep(folder, cells)
    search = Search(cells[0].config, "digits", data.load(cells[0].config), Console())
    end, epochs = search._end_epoch, []

    def killed(*facts: object) -> None:
        end(*facts)  # type: ignore[arg-type]
        epochs.append(search.state.epoch)
        raise KeyboardInterrupt

    search._end_epoch = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        search.run()
    state.record(cells[0], RUNNING, folder=str(search.folder))
    assert epochs == [1]
    capsys.readouterr()
    command = ["sweep", "--grid", "prune_rate=0.3,0.1", *two[4:], "--name", "other"]
    assert command_line.main(command) == 0
    out = capsys.readouterr().out
    assert "2 cells, 2 to run" in out
    assert f"run folder {search.folder}, from epoch 2 on" in out
    assert out.count("epoch 1/2") == 1
    assert out.count("epoch 2/2") == 2
    assert json.loads((folder / "0.json").read_text())["status"] == "done"
    assert command_line.main(command) == 0
    assert "2 cells, 0 to run" in capsys.readouterr().out
    state.record(
        cells[0], RUNNING, folder=str(search.folder)
    )  # as if it was killed before it was recorded as done
    assert command_line.main(command) == 0
    assert "2 cells, 1 to run" in capsys.readouterr().out
    assert json.loads((folder / "0.json").read_text())["folder"] == str(search.folder)
    with Path("runs/results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_a_cell_that_diverges_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["sweep", "--grid", "lr=1e38,0.1", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "diverged: epoch 1, step" in out
    assert "lr=1e38  diverged" in out
    assert "lr=0.1   " in out
    assert (
        command_line.main(["sweep", "--grid", "lr=1e38,0.1", *QUICK]) == 0
    )  # it would diverge again
    again = capsys.readouterr().out
    assert "cell 1 of 2" not in again
    assert "lr=1e38  diverged" in again


def test_warnings_of_the_data_are_on_standard_error_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "photos")
    assert (
        command_line.main(
            ["sweep", "--grid", "seed=0,1", *QUICK, "--data", "photos", "--no-baseline"]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert captured.err.count("biprop: warning: only 2 validation images") == 1
    assert "warning" not in captured.out


def test_the_slurm_script_has_a_task_per_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([*COMMAND, "--set", "folder", "--data", "my data", "--slurm"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#!/bin/bash\n")
    assert "#SBATCH --array=0-3\n" in script
    words = shlex.split(script.splitlines()[-1])
    assert words == [
        "biprop",
        *COMMAND,
        "--set",
        "folder",
        "--data",
        "my data",
        "--cell",
        "$SLURM_ARRAY_TASK_ID",
    ]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "prune_rat=0.1"], "did you mean 'prune_rate'"),
        (["--grid", "prune_rate"], "must be KEY=VALUE,VALUE"),
        (["--grid", "seed=1,,2"], "must be KEY=VALUE,VALUE"),
        (["--grid", "seed=1", "--grid", "seed=2"], "seed is given twice"),
        (["--grid", "prune_rate=0.5,7"], "--prune-rate 7: must be above 0"),
        (
            ["--prune-rate", "0.5", "--grid", "config=conv4_kn_unsigned,conv5"],
            "--config conv5: no such file",
        ),
        (["--grid", "seed=0,1", "--cell", "2"], "--cell 2: must be between 0 and 1"),
        (["--config", "fast", "--grid", "config=digits"], "and --config or --recipe: pass one"),
        (["--recipe", "fast", "--grid", "config=digits"], "and --config or --recipe: pass one"),
        (["--recipe", "", "--grid", "seed=0"], "--recipe '': must not be empty"),
        (["--recipe", "fat", "--grid", "seed=0"], "did you mean 'fast'?"),
        (["--grid", "arch_args=1,2"], "arch_args cannot be in a grid"),
        (["--grid", "seed=0,1,0"], "--grid seed=0,1,0: 0 is given twice"),
        (["--grid", "seed=0,1", "--seed", "3"], "--grid seed=... and --seed: pass one of them"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["sweep", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(Path().rglob("*.state"))


def test_another_grid_under_the_same_name_is_refused() -> None:
    cells = [sweep.cells(sweep.parse_grid([f"seed={n}"]), None, {}) for n in (0, 1)]
    Sweep(Path("s"), cells[0]).record(cells[0][0], RUNNING)
    with pytest.raises(UserError, match="holds cells of another grid: choose another --name"):
        Sweep(Path("s"), cells[1])


def test_other_options_under_the_same_name_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["sweep", "--recipe", "fast", "--grid", "seed=0", "--width-mult", "0.25"]
    minutes = ["--minutes", "1e-9", "--device", "cpu"]
    assert command_line.main([*command, *minutes]) == 0
    assert "run folder runs/fast/width_mult=0.25/" in capsys.readouterr().out
    assert command_line.main([*command, *minutes, "--save-minutes", "3"]) == 0
    assert "1 cells, 0 to run" in capsys.readouterr().out
    for further in ([], ["--list"]):
        assert command_line.main([*command, "--minutes", "5", *further]) == 2
        assert "was searched with minutes = 1e-09, not 5.0" in capsys.readouterr().err
    assert command_line.main([*command, "--minutes", "5", "--list", "--name", "other"]) == 0
    assert not Path("runs/sweeps/other").exists()
    capsys.readouterr()
    assert command_line.main([*command, "--minutes", "5"]) == 2
    assert capsys.readouterr().err == (
        "biprop: runs/sweeps/sweep/0.json: was searched with minutes = 1e-09, not 5.0:"
        " choose another --name\n"
    )
    path = Path("runs/sweeps/sweep/0.json")
    state = json.loads(path.read_text())
    del state["options"]["jsd"]  # of an older version
    path.write_text(json.dumps(state))
    assert command_line.main([*command, *minutes]) == 0
    assert command_line.main([*command, *minutes, "--jsd", "--augmix"]) == 2
    del state["options"]
    path.write_text(json.dumps(state))
    assert command_line.main([*command, "--minutes", "5"]) == 0


def test_data_options_are_those_that_loading_reads() -> None:
    assert {"set", "data", "stream", "augmix", "select_on", "batch_size"} <= set(DATA_OPTIONS)
    assert not {"seed", "lr", "prune_rate"} & set(DATA_OPTIONS)
    assert set(DATA_OPTIONS) <= set(config.FIELDS)
