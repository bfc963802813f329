import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import shared

from biprop import UserError, config
from biprop.init import INITS
from biprop.optim import POLICIES


def write(folder: Path, text: str, name: str = "mine.yml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_flags_override_the_file_which_overrides_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path, "prune_rate: 0.3\nlr: 1e-2\nepochs: 5\n")
    resolved, name = config.resolve(path, {"epochs": "7", "freeze_weights": True})
    assert (resolved.prune_rate, resolved.lr, resolved.epochs, resolved.batch_size) == (0.3, 0.01, 7, 256)
    assert name == "mine"


def test_a_file_holds_only_what_differs_from_its_base(tmp_path: Path) -> None:
    write(tmp_path, "prune_rate: 0.3\nepochs: 5\n", "base.yml")
    resolved, _ = config.resolve(write(tmp_path, "base: base.yml\nepochs: 6\n"), {})
    assert (resolved.prune_rate, resolved.epochs) == (0.3, 6)


def test_print_config_is_a_configuration(tmp_path: Path) -> None:
    resolved, _ = config.resolve(None, {"layer_prune_rates": {"linear.*": "0.5", "convs.0": "dense"}})
    assert config.resolve(write(tmp_path, config.as_yaml(resolved)), {})[0] == resolved


@pytest.mark.parametrize("path", sorted(Path(str(config.packaged())).rglob("*.y*ml")), ids=lambda p: p.stem)
def test_every_packaged_configuration_resolves(path: Path) -> None:
    assert config.resolve(str(path), {"prune_rate": "0.2"})[1] == path.stem
    root = path
    while root.name != "configs":
        root = root.parent
    published = yaml.safe_load(shared("spec/seed-configs.json").read_text()).get(f"configs/{path.relative_to(root)}", {})
    ours = config.as_dict(config.resolve(str(path), {"prune_rate": "0.9"})[0]) | {"prune_rate": -1}
    known = {key: value for key, value in published.items() if key in ours}
    assert {key: ours[key] for key in known} == known
    assert set(published) - set(ours) <= {"workers", "trainer"}


def test_configurations_are_found_by_path_and_by_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = config.find_file("conv4_kn_unsigned")
    assert by_name == config.find_file("configs/smallscale/conv4/conv4_kn_unsigned.yml")
    assert by_name == config.find_file("smallscale/conv4/conv4_kn_unsigned.yml")
    write(tmp_path, "", "digits")
    assert config.find_file("digits") == Path("digits")


def test_a_bare_name_that_exists_twice_lists_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "", "twin.yml")
    monkeypatch.setattr(config, "packaged", lambda: tmp_path)
    with pytest.raises(UserError, match=r"configs/a/twin\.yml, configs/b/twin\.yml"):
        config.find_file("twin")


def test_the_schemas_choices_are_the_codes() -> None:
    """They are written twice, because the schema must load without torch."""
    from biprop.models import BATCH_NORMS

    assert set(config.rule("init").choices or ()) == set(INITS)
    assert config.rule("lr_policy").choices == POLICIES
    assert config.rule("bn_type").choices == tuple(BATCH_NORMS)


def test_every_default_obeys_its_rule() -> None:
    for field in dataclasses.fields(config.Config):
        assert config.coerce(field.name, field.default, "default") == field.default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune_rat: 0.2", r"mine\.yml: unknown key 'prune_rat' = 0\.2; did you mean 'prune_rate'\?"),
        ("prune_rate: 0", r"prune_rate = 0: must be above 0 and at most 1 \(the fraction of weights KEPT\)"),
        ("prune_rate: 1.5", "must be above 0 and at most 1"),
        ("prune_rate: .nan", "must be above 0 and at most 1"),
        ("prune_rate: many", "must be a number"),
        ("epochs: 2.5", "epochs = 2.5: must be a whole number"),
        ("epochs: true", "must be a whole number"),
        ("nesterov: 1", "must be true or false"),
        ("init: kaiming_norml", "did you mean 'kaiming_normal'"),
        ("seed: -1", "at least 0"),
        ("lr: .inf", "at least 0"),
        ("set: [1]", "must be a text"),
        ("layer_prune_rates: 3", "must be pairs"),
        ("layer_prune_rates: {fc: 3}", "fc"),
        ("- a", "must hold one 'key: value' a line"),
        ("a: [", "not valid YAML"),
        ("base: mine.yml", "base = 'mine.yml': no such file"),
        ("lr_policy: cosine", "did you mean 'cosine_lr'"),
    ],
)
def test_mistakes_in_a_file_name_file_key_value_and_rule(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        config.resolve(write(tmp_path, text), {})
    assert "\n" not in str(error.value)
    assert "mine.yml" in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"prune_rate": "-1"}, "pass --prune-rate"),
        ({"prune_rate": "1.5"}, r"--prune-rate 1\.5: must be above 0"),
        ({"learn_batchnorm": True}, "AffineBatchNorm"),
        ({"bn_bias_init": "1"}, "AffineBatchNorm"),
        ({"bn_type": "AffineBatchNorm", "learn_batchnorm": True, "bn_bias_only": True}, "contradict"),
        ({"tune_batchnorm": True}, "nothing would train"),
        ({"optimizer": "adam", "nesterov": True}, "sgd"),
        ({"nesterov": True, "momentum": "0"}, "momentum"),
        ({"prune_rate": "1"}, "scale_fan"),
        ({"conv_type": "DenseConv"}, "freeze_weights"),
        ({"conv_type": "DenseConv", "freeze_weights": False, "layer_prune_rates": {"fc": "0.5"}}, "DenseConv"),
    ],
)
def test_contradictions_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.resolve(None, overrides)


def test_an_unknown_configuration_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'conv4_kn_unsigned'"):
        config.resolve("conv4_kn_unsignd", {})
