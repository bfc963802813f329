import csv
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_image_folder

from biprop import UserError, checkpoint, config, data
from biprop.console import Console
from biprop.data import Split
from biprop.evaluation.counts import Counts
from biprop.models.network import Task, build_network
from biprop.models.whitening import whitening_filters
from biprop.runs import status
from biprop.runs.folder import BEST, INITIAL, LAST, RESULT, held, make, newest, newest_checkpoint
from biprop.search.loop import Search
from biprop.search.optim import build_optimizer
from biprop.search.outcome import Best, Result, SearchDiverged, SearchStopped
from biprop.search.pack import pack
from biprop.search.state import SearchState
from biprop.subnetwork import masks, schedule

SMALL = {"width_mult": "0.25", "epochs": "2", "device": "cpu", "baseline": False}


def build(folder: Path, **overrides: Any) -> Search:
    resolved, name = config.resolve(None, {**SMALL, "log_dir": str(folder), **overrides})
    images = data.load(resolved)
    return Search(resolved, name, images, Console())


def run(folder: Path, **overrides: Any) -> Result:
    return build(folder, **overrides).run()


def test_a_run_leaves_what_it_says(tmp_path: Path) -> None:
    result = run(tmp_path, save_every=1)
    assert result.folder == tmp_path / "digits" / "width_mult=0.25" / "prune-rate=0.2" / "find"
    names = {p.name for p in (result.folder / "checkpoints").iterdir()}
    assert names == {INITIAL, BEST, LAST, "epoch_1.state", "epoch_2.state"}
    assert config.read_file(result.folder / "settings.txt")["epochs"] == 2
    lines = [
        json.loads(line)
        for line in (result.folder / "logs" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in lines] == [1, 2]
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["Run Directory"] == str(result.folder)
    assert float(row["Test Top 1"]) == pytest.approx(result.test.top1, abs=1e-3)
    assert row["Selected On"] == "validation"

    best = checkpoint.load(result.folder / "checkpoints" / BEST)
    assert best["epoch"] == result.epoch
    assert best["best_acc1"] == best["curr_acc1"] == result.validation.top1
    assert (best["arch"], best["prune_rate"], best["jsd"]) == ("Wide_VGG_Small_132", 0.2, False)
    restored = checkpoint.restore(result.folder / "checkpoints" / BEST, {})
    assert restored.network.subnetwork is not None
    assert (
        restored.network.subnetwork.kept
        == result.kept
        == sum(
            n - int(0.8 * n)
            for n in (layer.weight.numel() for layer in restored.network.subnetwork.layers.values())
        )
    )
    first = checkpoint.load(result.folder / "checkpoints" / INITIAL)["state_dict"]
    assert all(
        torch.equal(first[k], v) for k, v in best["state_dict"].items() if k.endswith("weight")
    )  # never trained
    assert run(tmp_path, epochs=1).folder == result.folder / "0"
    assert run(tmp_path, epochs=1).folder == result.folder / "1"


def test_the_result_is_beside_the_checkpoints(tmp_path: Path) -> None:
    result = run(tmp_path, epochs=1)
    record = json.loads((result.folder / RESULT).read_text())
    assert (record["epoch"], record["test"]["right"], record["test"]["images"]) == (
        1,
        result.test.right,
        360,
    )


@pytest.mark.slow  # runs that are stopped, below, are compared with others of the same options
def test_the_same_run_twice_gives_the_same_bits(tmp_path: Path) -> None:
    a, b = (checkpoint.load(run(tmp_path, seed=5).folder / "checkpoints" / LAST) for _ in range(2))
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    c = checkpoint.load(run(tmp_path, seed=6).folder / "checkpoints" / LAST)
    assert not torch.equal(a["state_dict"]["linear.0.scores"], c["state_dict"]["linear.0.scores"])


FASTER = [
    {"amp": "bf16"},
    {"channels_last": True},
    {"amp": "bf16", "channels_last": True, "conv_type": "GlobalSubnetConv"},
]


@pytest.mark.parametrize(
    "options", [*FASTER, pytest.param({"compile": True}, marks=pytest.mark.slow)], ids=str
)
# torch.compile of PyTorch 2.13 uses its own deprecated function, and instantiates ours.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_faster_ways_change_roundings_and_nothing_else(
    options: dict[str, Any], tmp_path: Path
) -> None:
    scope = {"conv_type": options.get("conv_type", "SubnetConv")}
    plain, faster = run(tmp_path, epochs=1, **scope), run(tmp_path, epochs=1, **options)
    assert faster.kept == plain.kept
    logs = [(r.folder / "logs" / "metrics.jsonl").read_text().splitlines() for r in (plain, faster)]
    losses = [[json.loads(line)["train/loss"] for line in lines] for lines in logs]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    if "amp" in options:
        assert losses[0] != losses[1]


@pytest.mark.parametrize("arch", ["Wide_VGG_Small", "Conv2", "cResNet20_BinAct"])
@pytest.mark.parametrize(
    "options",
    [{"conv_type": "GlobalSubnetConv"}, {"optimizer": "adam", "lr": "0.01", "grad_clip": True}],
)
def test_other_networks_and_options_learn(
    arch: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """One short epoch on two easy classes: the loss falls and exactly k stay."""
    write_image_folder(tmp_path / "pets", count=40, side=16)
    width = "1" if arch.startswith("Wide") else "1.0"
    overrides = {
        "set": "folder",
        "data": str(tmp_path / "pets"),
        "arch": arch,
        "width_mult": width,
        "batch_size": 16,
        "scale_fan": False,
    }
    result = run(tmp_path, **overrides, **options)
    assert result.test.images == 16
    assert result.density == pytest.approx(0.2, abs=0.01)


def test_best_counts_only_epochs_at_the_final_density(tmp_path: Path) -> None:
    search = build(
        tmp_path,
        conv_type="GlobalSubnetConv",
        epochs=6,
        prune_rate_epoch=10,
        batch_size=256,
        save_every=1,
    )
    assert search.ramp == 2
    result = search.run()
    assert result.epoch > 2
    assert result.kept == masks.kept_count(result.weights, 0.2)
    lines = [
        json.loads(line)
        for line in (result.folder / "logs" / "metrics.jsonl").read_text().splitlines()
    ]
    expected = [schedule.scheduled_density(0.2, epoch, 2) for epoch in range(6)]
    assert [line["density"] for line in lines] == pytest.approx(expected, abs=1e-3)
    assert "layer_density/convs.0" in lines[0]
    saved = checkpoint.restore(result.folder / "checkpoints" / LAST, {}).network
    assert saved.density == pytest.approx(0.2, abs=1e-3)
    first = checkpoint.restore(result.folder / "checkpoints" / "epoch_1.state", {}).network
    assert first.density == pytest.approx(0.5, abs=1e-3)


def test_selection_on_test_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path, select_on="test", epochs=1)
    epoch = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch"))
    assert f"test {result.test.top1:5.1f} %" in epoch
    of_status = dict(status.status(result.folder))
    assert f"test {result.test.top1:.2f} %" in of_status["last whole epoch"]
    assert of_status["best epoch"] == f"1: test {result.test.top1:.2f} %"
    assert "validation" not in epoch + of_status["last whole epoch"]
    assert result.validation.images == result.test.images == 360
    assert result.validation.right == result.test.right
    found = pack(result.folder, {}).found  # has no "validation accuracy", which it is not
    assert "validation" not in found
    assert found["test"]["right"] == result.test.right


def test_without_images_that_choose_the_last_epoch_is_kept(tmp_path: Path) -> None:
    """Also where an earlier one was better on the test images."""
    search = build(tmp_path, select_on="last", epochs=2)
    evaluate, shown = search._evaluate, [Counts(360, 300, 350), Counts(360, 200, 350)]

    def evaluated(split: Split, save: bool = False) -> Counts:
        return shown.pop(0) if shown else evaluate(split, save)

    search._evaluate = evaluated  # type: ignore[method-assign, assignment]
    result = search.run()
    assert (result.epoch, result.validation.right) == (2, 200)
    assert len(search.data.train) == 1437


def test_a_dense_baseline_trains_its_weights(tmp_path: Path) -> None:
    result = run(tmp_path, conv_type="DenseConv", freeze_weights=False, epochs=1)
    assert (result.weights, result.density) == (0, 1.0)
    first, last = (
        checkpoint.load(result.folder / "checkpoints" / name)["state_dict"]
        for name in (INITIAL, LAST)
    )
    assert not torch.equal(first["convs.0.weight"], last["convs.0.weight"])


def test_a_search_that_diverges_names_layer_and_step_and_keeps_its_checkpoints(
    tmp_path: Path,
) -> None:
    search = build(tmp_path, lr="1e38")
    with pytest.raises(
        SearchDiverged, match=r"epoch 1, step \d+: layer (convs|linear)\.\d+: a score is infinite"
    ):
        search.run()
    assert checkpoint.restore(search.folder / "checkpoints" / INITIAL, {}).content.epoch == 0
    assert not (tmp_path / "results.csv").exists()


def test_a_loss_that_is_no_number_names_the_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = build(tmp_path)
    monkeypatch.setattr(search.data, "std", (0.0,))  # the first convolution sees 0 / 0
    with pytest.raises(
        SearchDiverged, match=r"epoch 1, step 1: the loss is not finite: .* layer convs\.0"
    ):
        search.run()


def test_stopped_between_its_two_checkpoints_a_run_goes_on_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", low_data="0.3")
    search = build(tmp_path / "stopped", low_data="0.3")
    save = search._save

    def stop(name: str, *counts: Any) -> None:
        if (name, search.state.epoch) == (LAST, 2):
            raise KeyboardInterrupt
        save(name, *counts)

    monkeypatch.setattr(search, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    start = checkpoint.read(search.folder / "checkpoints" / LAST, {})
    resumed = Search(
        search.config, search.config_name, data.load(search.config), Console(), start, True
    ).run()
    assert (resumed.epoch, resumed.validation, resumed.test) == (
        whole.epoch,
        whole.validation,
        whole.test,
    )


def test_where_the_best_epoch_so_far_is_lost_a_search_goes_on_without_it(tmp_path: Path) -> None:
    search = build(tmp_path / "first", epochs=3, save_every=1, low_data="0.3")
    search.run()
    checkpoints = search.folder / "checkpoints"
    elsewhere = tmp_path / "copy.state"
    elsewhere.write_bytes((checkpoints / "epoch_1.state").read_bytes())
    assert checkpoint.load(checkpoints / BEST)["epoch"] > 1
    for file in (elsewhere, checkpoints / "epoch_1.state"):
        start = checkpoint.read(file, {})
        assert start.ours
        start.ours["best_validation"] |= {"right": 180}  # no epoch to come is better
        config = replace(search.config, log_dir=str(tmp_path / "again"))
        again = Search(config, search.config_name, data.load(config), Console(), start, True)
        assert again.state.best.epoch == 0
        result = again.run()
        kept = checkpoint.load(result.folder / "checkpoints" / BEST)
        assert result.epoch == kept["epoch"] > 1
        assert kept["biprop"]["best_validation"]["right"] == result.validation.right
    whole = tmp_path / "whole.state"
    whole.write_bytes((checkpoints / LAST).read_bytes())
    with pytest.raises(UserError, match="is at epoch 3/3: pass more --epochs"):
        start = checkpoint.read(whole, {})
        Search(search.config, search.config_name, data.load(search.config), Console(), start, True)


def test_a_search_cannot_go_on_with_other_images_to_choose_by(tmp_path: Path) -> None:
    search = build(tmp_path)
    search.run()
    start = checkpoint.read(search.folder / "checkpoints" / LAST, {})
    config = replace(search.config, select_on="test", epochs=3)
    with pytest.raises(UserError, match=r"--select-on test: but .* says validation, .* leave it"):
        Search(config, search.config_name, data.load(config), Console(), start, True)


def test_counts_of_other_validation_images_are_not_compared(tmp_path: Path) -> None:
    search = build(tmp_path)
    search.state.epoch, search.state.best = 2, Best(1, Counts(360, 350, 360, 1.0))
    search._choose_best(Counts(), Counts(180, 170, 180, 1.0))
    assert search.state.best.epoch == 2


def stop_at(search: Search, step: int, number: signal.Signals) -> None:
    """Let the search be asked to stop when it has done `step` steps."""
    batches = search.data.training_batches

    def watched(*arguments: Any) -> Iterator[Any]:
        for batch in batches(*arguments):
            if search.state.step == step:
                signal.raise_signal(number)
            yield batch

    search.data.training_batches = watched  # type: ignore[method-assign]


def go_on(search: Search) -> Search:
    """A new search from the newest checkpoint of one that ended."""
    path = newest_checkpoint(search.folder)
    assert path
    return Search(
        search.config,
        search.config_name,
        data.load(search.config),
        Console(),
        checkpoint.read(path, {}),
        True,
    )


GLOBAL = {
    "conv_type": "GlobalSubnetConv",
    "epochs": 3,
    "prune_rate_epoch": 1,
    "optimizer": "adam",
    "lr": "0.01",
}


MUON = {
    "optimizer": "muon",
    "lr_policy": "linear_lr",
    "bn_type": "AffineBatchNorm",
    "learn_batchnorm": True,
    "arch": "Fast6",
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"save_minutes": 0}, marks=pytest.mark.slow),
        pytest.param({"augmix": True, "jsd": True}, marks=pytest.mark.slow),
        GLOBAL,
        MUON,
    ],
    ids=str,
)
def test_stopped_in_the_middle_of_an_epoch_a_run_goes_on_with_the_same_bits(
    options: dict[str, Any], tmp_path: Path
) -> None:
    whole = build(tmp_path / "whole", **options)
    expected = whole.run()
    search = build(tmp_path / "stopped", **options)
    for steps, number, error in (
        (7, signal.SIGTERM, SearchStopped),
        (33, signal.SIGINT, KeyboardInterrupt),
    ):
        stop_at(search, steps, number)
        with pytest.raises(error):
            search.run()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        before, search = search, go_on(search)
        assert (search.open_folder(), search.state.step, search.state.random_scores) == (
            before.folder,
            steps + 1,
            whole.state.random_scores,
        )
    result = search.run()
    assert (result.epoch, result.validation, result.test) == (
        expected.epoch,
        expected.validation,
        expected.test,
    )
    for name in (LAST, BEST):
        a, b = (checkpoint.load(f / "checkpoints" / name) for f in (expected.folder, search.folder))
        assert all(
            torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items()
        )
        assert all(
            a["biprop"][key] == b["biprop"][key]
            for key in ("step", "best_train", "best_validation", "train")
        )
    logs = [
        (f / "logs" / "metrics.jsonl").read_text().splitlines()
        for f in (expected.folder, search.folder)
    ]
    losses = [
        [(line["epoch"], line["train/loss"]) for line in map(json.loads, lines)] for lines in logs
    ]
    assert losses[0] == losses[1]
    assert (search.folder / RESULT).read_text() == (expected.folder / RESULT).read_text()


def test_no_generator_has_a_state_that_a_checkpoint_would_lack(tmp_path: Path) -> None:
    def states() -> list[Any]:
        return [
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
            torch.get_rng_state().tolist(),
        ]

    search, before = build(tmp_path, epochs=1, augmix=True), states()
    search.run()
    assert states() == before


def test_a_run_that_is_stopped_at_its_very_beginning_and_end_is_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its random scores are measured, and when its row is written but not yet its result."""

    def going_on() -> Search:
        start = checkpoint.read(newest_checkpoint(search.folder) or "", {})
        return Search(search.config, "digits", search.data, Console(), start, True)

    def killed(_: Result) -> None:
        raise KeyboardInterrupt

    search = build(tmp_path, baseline=True, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(
            "biprop.search.loop.evaluate",
            lambda *_: next(search._until_stopped(iter([os.kill(os.getpid(), signal.SIGHUP)]))),
        )
        with pytest.raises(SearchStopped, match="SIGHUP"):
            search.run()
    assert dict(status.status(search.folder))["state"].startswith("stopped: SIGHUP, ")
    again = going_on()
    again.open_folder()
    monkeypatch.setattr(again.reporter, "_write_result", killed)
    with pytest.raises(KeyboardInterrupt):
        again.run()
    result = going_on().run()
    assert result.random_scores is not None
    assert result.random_scores.images == 360
    with (tmp_path / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_checkpoints_by_the_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search, saved = build(tmp_path, epochs=1, save_minutes="1e-9", baseline=True), []
    save = search._save
    monkeypatch.setattr(
        search,
        "_save",
        lambda name, *counts: (saved.append((name, search.state.batch)), save(name, *counts)),
    )
    search.run()
    assert saved == [
        (INITIAL, 0),
        (INITIAL, 0),
        *((LAST, batch) for batch in range(1, 21)),
        (BEST, 0),
        (LAST, 0),
    ]


def test_with_another_batch_size_the_epoch_begins_anew(tmp_path: Path) -> None:
    search = build(tmp_path)
    stop_at(search, 27, signal.SIGTERM)
    with pytest.raises(SearchStopped):
        search.run()
    start = checkpoint.read(search.folder / "checkpoints" / LAST, {})
    assert (start.epoch, start.ours and start.ours["batch"]) == (1, 8)
    smaller = config.override(start.config, {"batch_size": "32"})
    again = Search(smaller, "digits", search.data, Console(), start, True)
    assert (again.state.epoch, again.state.batch, again.state.train.images) == (1, 0, 0)


def test_a_run_without_a_checkpoint_begins_anew_in_its_folder(tmp_path: Path) -> None:
    killed = build(tmp_path)
    killed.open_folder()
    again = Search(killed.config, "digits", killed.data, Console(), start=None, resume=True)
    assert again.open_folder() == killed.folder
    assert build(tmp_path).open_folder() != killed.folder


def test_two_searches_in_one_folder_are_refused(tmp_path: Path) -> None:
    search = build(tmp_path, epochs=1)
    with (
        held(search.open_folder()),
        pytest.raises(UserError, match="another process runs this search"),
    ):
        search.run()
    assert search.run().test.images == 360


def test_a_clock_that_is_set_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(1e9, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    result = run(tmp_path, epochs=1)
    assert 0 < result.seconds < 600
    assert (
        newest(*config.resolve(None, {**SMALL, "log_dir": str(tmp_path), "epochs": 1}))
        == result.folder
    )
    assert dict(status.status(result.folder))["checkpoint"].endswith("0 s ago")


def test_a_network_that_once_collapsed_lives() -> None:
    """8 convolutions, binary activations, width 0.25, global pruning to 0.1: one ranking alone
    empties whole layers.

    The original research code then divides 0 by 0 and its loss is no number from the third step on.
    """
    resolved, _ = config.resolve(
        None,
        {
            "arch": "Conv8Wide_BinAct",
            "width_mult": "0.25",
            "conv_type": "GlobalSubnetConv",
            "prune_rate": "0.1",
            "scale_fan": False,
        },
    )
    made = build_network(resolved, Task(10, 1, (32, 32)))
    assert made.subnetwork is not None
    layers = made.subnetwork.layers.values()
    together = torch.cat([layer.scores.detach().flatten() for layer in layers])
    kept = masks.kept_count(together.numel(), 0.1)
    alone = masks.keep_top(together, kept).split([layer.scores.numel() for layer in layers])
    assert min(int(mask.sum()) for mask in alone) == 0
    optimizer = build_optimizer(made.model, "adam", lr=0.1)
    batches = data.load(config.resolve(None, {})[0]).training_batches(64, 0, 0)
    for _, (images, labels) in zip(range(10), batches, strict=False):
        loss = F.cross_entropy(made.model(images), labels)
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.subnetwork.update()
        assert made.subnetwork.kept == kept
        assert all(r.kept >= masks.floor_count(r.weights, 0.001) for r in made.subnetwork.report())


def test_the_random_baseline_leaves_no_trace(tmp_path: Path) -> None:
    search = build(tmp_path)
    assert 0 < search._random_score_accuracy().top1 < 40
    fresh = build_network(search.config, search.task).model.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in search.model.state_dict().items())
    assert all(
        m.momentum == 0.1 for m in search.model.modules() if isinstance(m, torch.nn.BatchNorm2d)
    )


def test_an_unwritable_place_and_an_unknown_device_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    resolved, name = config.resolve(None, {"log_dir": str(tmp_path / "runs")})
    with pytest.raises(UserError, match="cannot write the run folder"):
        make(resolved, name)
    with pytest.raises(UserError, match="--device teapot"):
        build(tmp_path, device="teapot")


def test_hostile_fields_of_a_checkpoint_to_go_on_from_are_one_line(tmp_path: Path) -> None:
    search = build(tmp_path)
    search.open_folder()
    search._save(INITIAL, Counts(), Counts())
    path = search.folder / "checkpoints" / INITIAL

    def go_on(**changes: Any) -> Search:
        start = checkpoint.read(path, {})
        assert start.ours
        start.fields |= {key: value for key, value in changes.items() if key == "optimizer"}
        start.ours |= changes
        return Search(search.config, search.config_name, search.data, Console(), start, True)

    assert go_on().open_folder() == search.folder
    for changes in (
        {"step": "1"},
        {"step": -1},
        {"best_epoch": 9},
        {"best_validation": {"images": 1}},
        {"best_train": 3},
        {"batch": 10**9},
        {"seconds": "x"},
        {"optimizer": {}},
        {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": []}},
    ):
        with pytest.raises(UserError, match=r"a damaged checkpoint|its optimizer is not"):
            go_on(**changes)  # type: ignore[arg-type]


def test_momentum_and_its_like_come_from_the_options_not_from_the_checkpoint(
    tmp_path: Path,
) -> None:
    search = build(tmp_path)
    search.open_folder()
    search._save(INITIAL, Counts(), Counts())
    start = checkpoint.read(search.folder / "checkpoints" / INITIAL, {})
    other = replace(search.config, momentum=0.5)
    assert (
        Search(other, "x", search.data, Console(), start, True).optimizer.param_groups[1][
            "momentum"
        ]
        == 0.5
    )


@pytest.mark.parametrize(
    "scope", ["SubnetConv", pytest.param("GlobalSubnetConv", marks=pytest.mark.slow)]
)
def test_muon_learns_faster_than_the_published_rule(scope: str, tmp_path: Path) -> None:
    common = {"arch": "Conv2Wide", "conv_type": scope, "epochs": 2, "seed": 3}
    published = run(tmp_path, **common, lr="0.1")
    muon = run(tmp_path, **common, lr="0.1", lr_policy="linear_lr", optimizer="muon")
    assert muon.test.right > published.test.right + 20
    assert muon.kept == published.kept


def test_the_rate_falls_to_0_step_by_step(tmp_path: Path) -> None:
    search = build(tmp_path, **MUON, lr="0.5", dense_lr="0.1", warmup_fraction="0.25")
    rates: list[list[float]] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])

    search.optimizer.register_step_pre_hook(note)
    search.run()
    steps = 2 * search.batches
    assert len(rates) == steps
    progress = np.arange(steps) / steps
    factor = np.where(progress < 0.25, 0.2 + 3.2 * progress, (1 - progress) / 0.75)
    np.testing.assert_allclose(rates, np.outer(factor, [0.5, 0.1]), rtol=1e-6)


def test_a_whitening_layer_is_of_the_training_images_and_stays(tmp_path: Path) -> None:
    search = build(tmp_path, **MUON, epochs=1)
    expected = whitening_filters(search.data.training_sample(10**9))
    result = search.run()
    for name in (INITIAL, BEST):
        state = checkpoint.load(result.folder / "checkpoints" / name)["state_dict"]
        assert torch.equal(state["convs.0.weight"], expected)
    resumed = checkpoint.restore(result.folder / "checkpoints" / BEST, {}).network
    assert torch.equal(resumed.model.get_parameter("convs.0.weight"), expected)
    assert resumed.subnetwork and "convs.0" not in resumed.subnetwork.layers


def test_the_constructor_writes_nothing(tmp_path: Path) -> None:
    built = build(tmp_path)
    assert list(tmp_path.iterdir()) == []
    folder = built.open_folder()
    assert built.open_folder() == folder == built.folder
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "logs", "settings.txt"}


def test_a_state_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    built = build(tmp_path)
    built.open_folder()
    built.state = SearchState(
        epoch=1,
        batch=3,
        step=23,
        train=Counts(192, 90, 150, 1.5),
        best=Best(1, Counts(180, 100, 150, 2.5)),
        best_train=Counts(1257, 700, 900, 3.5),
        random_scores=Counts(360, 30, 150, 4.5),
        seconds=5.5,
    )
    built._save(LAST, built.state.train, Counts())
    start = checkpoint.read(built.folder / "checkpoints" / LAST, {})
    assert SearchState.from_checkpoint(start, built.config, built.batches) == built.state


def test_one_image_a_step_is_refused_where_batch_norm_needs_two(tmp_path: Path) -> None:
    fast = config.resolve("fast", {"batch_size": 1, "width_mult": 0.25, "log_dir": str(tmp_path)})
    images = data.load(fast[0])
    with pytest.raises(UserError, match="--batch-size 1: the network's batch norm needs two"):
        Search(*fast, images, Console())
    Search(replace(fast[0], batch_size=2), "fast", images, Console())
    assert build(tmp_path, arch="Conv2", batch_size=1, width_mult=1).batches == 1257
