import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, checkpoint_fields

from biprop import UserError, checkpoint, config
from biprop.config import Config
from biprop.evaluation import subject
from biprop.models import build
from biprop.models.network import Task


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-here"),))


def test_save_replaces_in_one_step_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    checkpoint.save(path, {"arch": "x", "state_dict": {"w": torch.ones(2)}})
    with pytest.raises(AttributeError):  # a lambda cannot be written: the old file stays
        checkpoint.save(path, {"arch": lambda: None})
    assert checkpoint.load(path)["state_dict"]["w"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.state"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_checkpoint_that_carries_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"arch": "Conv4", "state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(UserError, match="refused: not a plain checkpoint") as error:
            checkpoint.load(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "was-here").exists()


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pth")
    path = tmp_path / "a.pth"
    torch.save({"arch": "x", "state_dict": {"w": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged or truncated"):
        checkpoint.load(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(UserError, match="not a checkpoint of a network"):
        checkpoint.load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged or truncated|refused"):
        checkpoint.load(path)


def test_a_state_of_another_network_lists_the_difference() -> None:
    model = build.build("Conv2")
    with pytest.raises(
        UserError,
        match=r"x\.pth: a checkpoint of another network: lacks convs.0.weight; lacks .* and 5 more",
    ):
        checkpoint.load_state(model, {f"other.{i}": torch.ones(1) for i in range(4)}, "x.pth")
    state = model.state_dict()
    state["linear.4.weight"] = torch.ones(7, 256, 1, 1)
    with pytest.raises(
        UserError, match=r"linear.4.weight is \(7, 256, 1, 1\), not \(10, 256, 1, 1\)$"
    ):
        checkpoint.load_state(model, state, "x.pth")


def test_each_option_of_the_augmentation_has_its_field() -> None:
    """Under the names of the original research code, all with values of their own."""
    config = Config(
        augmix=True,
        jsd=False,
        mixture_width=2,
        mixture_depth=4,
        aug_severity=7,
        gaussian_aug=False,
        p_clean=0.25,
        std_gauss=0.5,
    )
    assert checkpoint.augmentation_fields(config) == {
        "train_augmentation": "Augmix",
        "use_augmix": True,
        "jsd": False,
        "augmix_mixture_width": 2,
        "augmix_mixture_depth": 4,
        "augmix_severity": 7,
        "use_gaussian_aug": False,
        "p_clean": 0.25,
        "std_gauss": 0.5,
    }
    noisy = checkpoint.augmentation_fields(Config(gaussian_aug=True, jsd=True))
    assert (noisy["train_augmentation"], noisy["use_gaussian_aug"], noisy["jsd"]) == (
        "Gaussian",
        True,
        True,
    )
    assert checkpoint.augmentation_fields(Config())["train_augmentation"] == "Default"


def test_prefixes_of_wrappers_are_stripped() -> None:
    strip = checkpoint.strip_prefixes
    assert strip({"module.a": 1, "module.b": 2}) == {"a": 1, "b": 2}
    assert strip({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert strip({"_orig_mod.a.b": 1, "_orig_mod.c": 2}) == {"a.b": 1, "c": 2}
    assert strip({"module._orig_mod.a": 1, "module._orig_mod.b": 2}) == {"a": 1, "b": 2}
    assert strip({"_orig_mod.module.a": 1}) == {"a": 1}
    assert strip({"a._orig_mod.weight": 1, "b.weight": 2}) == {"a.weight": 1, "b.weight": 2}
    assert strip({"model.a": 1, "model.b": 2}) == {"a": 1, "b": 2}
    assert strip({"n_averaged": 7, "module.a": 1}) == {"a": 1}
    assert strip({"n_averaged": 7, "a": 1}) == {"n_averaged": 7, "a": 1}
    assert strip({"a": 1, "_orig_mod.a": 2}) == {"a": 1, "_orig_mod.a": 2}
    assert strip({}) == {}


PLACES = {
    **{"log_dir": "/elsewhere", "results": "/elsewhere.csv", "name": "../x"},
    **{"data": "/etc", "teacher": "/etc/teacher"},
}
CONFIG = Config(arch="Conv2Wide", width_mult=0.0625, prune_rate=0.3, **PLACES)
TASK = Task(4, 1, (8, 8))


def fields(**changes: Any) -> dict[str, Any]:
    """A small checkpoint as a search writes it; `changes` are of its entry "biprop"."""
    content = checkpoint_fields(CONFIG, TASK)
    return {**content, "biprop": {**content["biprop"], **changes}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pth"


def test_a_checkpoint_does_not_say_where_to_write_or_read(path: Path, tmp_path: Path) -> None:
    checkpoint.save(path, fields())
    content = checkpoint.restore(path, {}).content
    default = Config()
    assert all(
        getattr(content.config, name) == getattr(default, name) for name in config.PATH_OPTIONS
    )
    assert (content.config.arch, content.config.prune_rate, content.epoch) == ("Conv2Wide", 0.3, 1)
    assert checkpoint.config_name(content) == "c"
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "settings.txt").write_text(
        "log_dir: here\nresults: r.csv\nname: mine\ndata: d\nteacher: t\nprune_rate: 0.9\n"
    )
    path.rename(run / "checkpoints" / "a.pth")
    found = checkpoint.read(run / "checkpoints" / "a.pth", {}).config
    places = [getattr(found, name) for name in config.PATH_OPTIONS]
    assert places == ["d", "t", "here", "r.csv", "mine"]
    assert found.prune_rate == 0.3


@pytest.mark.parametrize("name", ["../../escaped", "/abs", "a/b", "..", "a\nb", 3, None])
def test_the_name_of_a_run_stays_in_its_folder(path: Path, name: Any) -> None:
    checkpoint.save(path, fields(config_name=name))
    with pytest.raises(UserError, match=r"config_name = .*must be one name"):
        checkpoint.config_name(checkpoint.read(path, {}))


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"config": {"epochs": "x"}}, "epochs = x: must be a whole number"),
    ({"config": {"seed": None}}, "seed = None: must be a whole number"),
    ({"config": {"lr": float("nan")}}, "lr = nan"),
    ({"config": 3}, "a damaged checkpoint"),
    ({"config": {"layer_prune_rates": [1]}}, "must be pairs"),
    ({"config": {"width_mult": 1e300}}, "must be at least 0.001 and at most 100"),
    ({"config": {"width_mult": 100}}, "another network"),
    ({"num_classes": 1 << 19}, "another network"),
    ({"config": {"arch": "\u202e"}}, "cannot be built"),
    ({"num_classes": "4"}, "a damaged checkpoint"),
    ({"num_classes": 0}, "a damaged checkpoint"),
    ({"input_size": [8]}, "takes images, and the data have"),
    ({"input_size": [1] * 6}, "a damaged checkpoint"),
    ({"config": {"arch": "stranger.py:Net"}}, "its network is code.*pass --arch stranger.py:Net"),
    ({"config": {"arch": "cResNet20", "arch_args": {"x": 1}}}, "are for networks of your own"),
    ({"config": {"arch_args": [1]}}, "must be pairs"),
    ({"input_size": [1 << 14, 1 << 14]}, "another network"),
    ({"format": "new"}, "of a newer biprop"),
    ({"densities": {"x": 0.5}}, "a damaged checkpoint|no layer"),
    ({"densities": None}, "a damaged checkpoint"),
    ({"mean": ["a"]}, "mean or std"),
    ({"std": [0.0]}, "std = "),
    ({"std": [float("inf")]}, "mean or std"),
]


@pytest.mark.parametrize(("changes", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_fields_are_one_line(path: Path, changes: dict[str, Any], message: str) -> None:
    own = config.as_dict(CONFIG)
    if isinstance(changes.get("config"), dict):
        changes = {"config": {**own, **changes["config"]}}
    checkpoint.save(path, fields(**changes))
    with pytest.raises(UserError, match=message) as error:
        checkpoint.restore(path, {})
    assert "\n" not in str(error.value)


def test_a_ticket_is_recognised() -> None:
    with pytest.raises(
        UserError, match=r"tiny.mpt: a ticket or a deck, not a checkpoint: pass the run folder"
    ):
        checkpoint.load(ROOT / "tests" / "golden" / "tiny.mpt")


def test_class_names_are_texts_or_refused(path: Path) -> None:
    checkpoint.save(path, fields(classes=["a", "b"]))
    assert checkpoint.class_names(checkpoint.read(path, {})) == ["a", "b"]
    for classes in (3, [1], {"a": 1}, [torch.ones(2)], "ab"):
        checkpoint.save(path, fields(classes=classes))
        with pytest.raises(UserError, match="a damaged checkpoint: classes = "):
            checkpoint.class_names(checkpoint.read(path, {}))
        with pytest.raises(UserError, match="a damaged checkpoint: classes = "):
            subject.of_checkpoint(path, {}, {})


@pytest.mark.parametrize("ours", [torch.ones(2, 2), 3, [], "x"], ids=range(4))
def test_the_entry_of_this_program_is_a_dictionary(path: Path, ours: Any) -> None:
    checkpoint.save(path, {**fields(), "biprop": ours})
    with pytest.raises(UserError, match="a damaged checkpoint: biprop = "):
        checkpoint.read(path, {})


STATES: list[tuple[Any, str]] = [
    (lambda tensor: tensor.double(), "is torch.float64, not torch.float32"),
    (lambda tensor: tensor.to(torch.complex64), "is torch.complex64"),
    (lambda tensor: tensor / 0, "a number that is infinite or none"),
    (lambda tensor: tensor[:1], "another network"),
    (lambda tensor: 3, "is no tensor with a name"),
]


@pytest.mark.parametrize(("change", "message"), STATES, ids=range(len(STATES)))
def test_a_state_that_does_not_compute_is_refused(path: Path, change: Any, message: str) -> None:
    content = fields()
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = change(content["state_dict"][name])
    checkpoint.save(path, content)
    with pytest.raises(UserError, match=message):
        checkpoint.restore(path, {})


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", None, 1 << 40])
def test_an_epoch_is_a_number(path: Path, epoch: Any) -> None:
    checkpoint.save(path, {**fields(), "epoch": epoch})
    with pytest.raises(UserError, match="epoch = "):
        checkpoint.read(path, {})


def test_a_file_without_a_checksum_is_read_and_that_is_said(path: Path) -> None:
    checkpoint.save(path, fields())
    assert checkpoint.read(path, {}).warnings == []
    torch.save(torch.load(path, weights_only=True), path)
    (note,) = checkpoint.restore(path, {}).content.warnings
    assert "no checksum of the whole" in note
