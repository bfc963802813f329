import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import SHARED, shared

from biprop import UserError, config
from biprop.checkpoint import Content
from biprop.checkpoint import format as checkpoint_format
from biprop.config import Role, yaml_files
from biprop.deck import build
from biprop.evaluation import subject
from biprop.models.network import Task, build_network
from biprop.models.plans import NETWORKS, takes_width
from biprop.runs import folder as run_folder
from biprop.search import pack, sweep
from biprop.search.schedules import POLICIES
from biprop.subnetwork.init import INITS


def write(folder: Path, text: str, name: str = "mine.yml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_flags_override_the_file_which_overrides_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path, "prune_rate: 0.3\nlr: 1e-2\nepochs: 5\n")
    resolved, name = config.resolve(path, {"epochs": "7", "freeze_weights": True})
    assert (resolved.prune_rate, resolved.lr, resolved.epochs, resolved.batch_size) == (
        0.3,
        0.01,
        7,
        256,
    )
    assert name == "mine"


def test_a_file_holds_only_what_differs_from_its_base(tmp_path: Path) -> None:
    write(tmp_path, "prune_rate: 0.3\nepochs: 5\n", "base.yml")
    resolved, _ = config.resolve(write(tmp_path, "base: base.yml\nepochs: 6\n"), {})
    assert (resolved.prune_rate, resolved.epochs) == (0.3, 6)


def test_print_config_is_a_configuration(tmp_path: Path) -> None:
    resolved, _ = config.resolve(
        None, {"layer_prune_rates": {"linear.*": "0.5", "convs.0": "dense"}}
    )
    assert config.resolve(write(tmp_path, config.as_yaml(resolved)), {})[0] == resolved


PUBLISHED = (
    json.loads((SHARED / "spec" / "seed-configs.json").read_text()) if SHARED.exists() else {}
)
ROOT = Path(str(config.packaged())).parent


def test_epochs_take_the_place_of_the_minutes_of_a_configuration(tmp_path: Path) -> None:
    file = write(tmp_path, "minutes: 5\nprune_rate: 0.5\nset: digits\nepochs: 7")
    by_clock, by_epochs = (config.resolve(file, given)[0] for given in ({}, {"epochs": "3"}))
    assert (by_clock.minutes, by_clock.epochs) == (5, 7)
    assert (by_epochs.minutes, by_epochs.epochs) == (None, 3)


def test_with_a_time_and_no_configuration_the_search_is_fast() -> None:
    fast, name = config.resolve(None, {"minutes": "2", "set": "folder", "data": "images"})
    assert (fast.minutes, fast.optimizer, fast.arch, fast.set) == (2, "muon", "Fast6", "folder")
    assert name == "folder-Fast6"
    assert config.resolve(None, {})[0].optimizer == "sgd"


def test_recipes_are_found_by_name_only() -> None:
    names = [path.stem for path in config.recipe_files()]
    assert {"fast", "cifar10-10min", "cifar10-small", "cifar10-1bit"} <= set(names)
    for name in names:
        assert config.find_recipe(name).stem == name
        assert config.resolve(str(config.find_recipe(name)), {})[0].minutes
    for name in ("cifar10-10mn", "digits", "../digits", "_fast"):
        with pytest.raises(UserError, match=r"must be one of cifar10-10min, .*imagenet-like"):
            config.find_recipe(name)


def test_the_published_configurations_are_all_there() -> None:
    shared("spec/seed-configs.json")
    ours = {str(path.relative_to(ROOT)) for path in config.packaged_files()}
    missing = set(PUBLISHED) - ours
    assert {Path(name).stem for name in missing} == set(config.UNSUPPORTED_CONFIGS)
    assert all(PUBLISHED[name]["conv_type"] == "RGConv" for name in missing)
    assert (len(PUBLISHED), len(missing)) == (170, 5)
    own = {
        Path(name).parent.name
        for name in ours - set(PUBLISHED) - {"configs/digits.yml", "configs/arrays.yml"}
    }
    assert own == {"cards", "recipes"}


@pytest.mark.parametrize(
    "path", config.packaged_files(), ids=lambda p: str(p.relative_to(ROOT).with_suffix(""))
)
def test_every_packaged_configuration_has_the_published_values_and_builds(path: Path) -> None:
    raw = config.read_file(path)
    is_whole = raw.get("prune_rate") or raw["conv_type"] == "DenseConv"
    given = {} if is_whole else {"prune_rate": "0.9"}
    if raw["set"] == "arrays":
        given["data"] = "x.npz"
    resolved, name = config.resolve(str(path), given)
    assert name == path.stem
    published = PUBLISHED.get(str(path.relative_to(ROOT)), {})
    ours = config.as_dict(resolved)
    wanted = dict(published)
    if wanted.get("prune_rate") in (-1, 0.0):  # to be given; a dense baseline
        assert raw.get("prune_rate") is None
        del wanted["prune_rate"]
    assert {key: ours[key] for key in wanted} == wanted
    channels, side = {"MNIST": (1, 28), "digits": (1, 32), "ImageNet": (3, 224)}.get(
        resolved.set, (3, 32)
    )
    task = Task(10, 12, ()) if resolved.set == "arrays" else Task(10, channels, (side, side))
    with torch.device("meta"):
        made = build_network(resolved, task)
    assert (made.subnetwork is None) == (resolved.conv_type == "DenseConv")
    unused = [text for text in config.warnings(resolved) if "width_mult" not in text]
    assert unused == []  # a published one has a width that its network does not take


def test_a_file_holds_only_what_differs_from_its_base_or_the_schema() -> None:
    for path in config.packaged_files():
        raw = yaml.safe_load(path.read_text())
        if "base" in raw:
            base = config.read_file(path.parent / raw.pop("base"))
            before = config.as_dict(config.Config(**base))
            same = [
                key
                for key, value in raw.items()
                if key != "arch" and config.coerce(key, value, str(path)) == before[key]
            ]
            assert same == [], path


def test_five_bare_names_exist_twice() -> None:
    stems = Counter(path.stem for path in config.packaged_files())
    twice = [stem for stem, count in stems.items() if count > 1]
    assert len(twice) == 5
    for stem in twice:
        with pytest.raises(UserError, match=rf"configs/\S+{stem}\.y\S+, configs/\S+{stem}\.y"):
            config.find_file(stem)


def test_what_is_left_out_is_said() -> None:
    for name in config.UNSUPPORTED_CONFIGS:
        for asked in (name, f"configs/smallscale_baselines/densewide/{name}.yml"):
            with pytest.raises(UserError, match="left out: it asks for RGConv"):
                config.find_file(asked)


def test_configurations_are_found_by_path_and_by_bare_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = config.find_file("conv4_kn_unsigned")
    assert by_name == config.find_file("configs/smallscale/conv4/conv4_kn_unsigned.yml")
    assert by_name == config.find_file("smallscale/conv4/conv4_kn_unsigned.yml")
    write(tmp_path, "", "digits")
    assert config.find_file("digits") == Path("digits")


def test_a_bare_name_that_exists_twice_lists_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "", "twin.yml")
    monkeypatch.setattr(yaml_files, "packaged", lambda: tmp_path)
    with pytest.raises(UserError, match=r"configs/a/twin\.yml, configs/b/twin\.yml"):
        config.find_file("twin")


def test_the_schemas_choices_are_the_codes() -> None:
    """The schema must load without torch, so it cannot import the names from the code."""
    from biprop.models.plans import BATCH_NORMS

    assert set(config.INITS) == set(INITS)
    assert config.LR_POLICIES == POLICIES
    assert config.rule("bn_type").choices == tuple(BATCH_NORMS)


@pytest.mark.parametrize(
    ("option", "value", "switch"),
    [
        ("std_gauss", 0.2, {"gaussian_aug": True, "p_clean": 0.5}),
        ("aug_severity", 5, {"augmix": True}),
        ("layer_floor", 0.1, {"conv_type": "GlobalSubnetConv"}),
        ("prune_rate_epoch", 5, {"conv_type": "GlobalSubnetConv"}),
        ("lr_gamma", 0.5, {"lr_policy": "multistep_lr"}),
        ("warmup_fraction", 0.2, {"lr_policy": "linear_lr"}),
        ("dense_lr", 0.1, {"optimizer": "muon"}),
        ("crop_padding", 9, {"augment": "crop"}),
        ("teacher_weight", 0.5, {"teacher": "a.mpt"}),
    ],
)
def test_an_option_without_the_one_that_it_needs_is_told_of(
    option: str, value: object, switch: dict[str, Any]
) -> None:
    alone = config.Config(**{"augment": "flip", option: value})
    (warning,) = config.warnings(alone)
    assert warning.startswith(f"{option} does nothing: pass --")
    assert config.warnings(config.Config(**{option: value, **switch})) == []


def test_a_dense_network_replaces_the_subnetwork_of_a_configuration() -> None:
    dense, _ = config.resolve(None, {"conv_type": "DenseConv"})
    assert (dense.freeze_weights, dense.prune_rate) == (False, None)


def test_warnings_name_options_that_do_nothing() -> None:
    assert config.warnings(config.Config()) == []
    (warning,) = config.warnings(config.Config(gaussian_aug=True))
    assert "does nothing at p_clean = 1" in warning
    for name in NETWORKS:
        assert bool(config.warnings(config.Config(arch=name, width_mult=2.0))) != takes_width(name)


DATA_SET = {"set", "hub_config", "train_split", "test_split", "image_size", "stream"}
NETWORK = {"arch_args", "width_mult", "bn_type", "conv_type", "prune_rate"}
OF_THE_MACHINE = {
    *("data", "workers", "log_dir", "results", "device", "baseline", "histograms"),
    *("print_freq", "save_every", "save_minutes"),
}
AUGMENTATION = {
    *("augmix", "mixture_width", "mixture_depth", "aug_severity", "all_augmix_augmentations"),
    *("gaussian_aug", "std_gauss"),
}
LOADED = {"channels", "num_classes", "low_data", "one_batch", "batch_size"}
CROPPED = {"augment", "crop_padding", "crop_padding_mode"}
AUGMENTED = {*CROPPED, "p_clean", "jsd"}
LISTS: dict[str, tuple[Any, set[str]]] = {
    "data places": (config.DATA_SOURCE_OPTIONS, {*DATA_SET, "data", "workers"}),
    "places": (config.PATH_OPTIONS, {"data", "teacher", "log_dir", "results", "name"}),
    "checkpoint facts": (config.NETWORK_OPTIONS, {*NETWORK, "arch", "num_classes"}),
    "differ between two starts of a run": (run_folder._MACHINE_OPTIONS, OF_THE_MACHINE),
    "not recorded in tickets": (
        config.UNRECORDED_OPTIONS,
        {*OF_THE_MACHINE, "name", "trainer", "teacher"},  # the teacher's path
    ),
    "read from tickets": (subject._RECORDED_OPTIONS, {*DATA_SET, *NETWORK, "select_on"}),
    "augmentation of a card": (build._AUGMENTATION, AUGMENTATION),
    "decide what is loaded": (
        sweep.DATA_OPTIONS,
        {*DATA_SET, *LOADED, *AUGMENTATION, *AUGMENTED, "data", "workers", "select_on"},
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_options_follow_from_their_roles(name: str) -> None:
    derived, expected = LISTS[name]
    assert len(derived) == len(set(derived))
    assert set(derived) == expected


def test_every_option_has_a_role_and_every_role_an_option() -> None:
    roles = Counter(config.rule(name).role for name in config.FIELDS)
    assert set(roles) == set(Role)
    assert roles.total() == len(config.FIELDS)
    assert sorted(config.with_roles(*Role)) == sorted(config.FIELDS)
    assert config.with_roles(Role.OUTPUT_PATH, Role.DATA_PATH) == ("log_dir", "results", "data")


def test_the_checkpoint_fields_of_the_original_research_code_are_augmentation_options() -> None:
    augmentation = set(config.with_roles(Role.AUGMENTATION, Role.VIEWS))
    fields = set(checkpoint_format._AUGMENTATION_OPTIONS.values())
    assert augmentation - fields == {*CROPPED, "all_augmix_augmentations"}, "have no field"
    assert fields < augmentation


def test_options_of_the_machine_do_not_change_a_ticket() -> None:
    changed = {"histograms": True, "baseline": False, "save_every": 3, "save_minutes": 0.5}
    changed |= {"print_freq": 1, "device": "cpu", "workers": 2, "name": "other"}
    changed |= {"data": "elsewhere", "log_dir": "elsewhere", "results": "elsewhere.csv"}
    assert {*changed, "trainer", "teacher"} == set(config.UNRECORDED_OPTIONS)

    def recorded(settings: config.Config) -> dict[str, Any]:
        task = Task(10, 3, (32, 32))
        path = Path("model_best.pth")
        content = Content(path, {}, {}, {"version": "0"}, 3, settings, task, [])
        return pack._provenance(content, path)

    plain = config.Config(arch="Conv2", prune_rate=0.2, lr=0.2)
    assert recorded(dataclasses.replace(plain, **changed)) == recorded(plain)
    assert recorded(plain)["options"] == {"arch": "Conv2", "prune_rate": 0.2, "lr": 0.2}
    assert recorded(dataclasses.replace(plain, lr=0.3)) != recorded(plain)
    taught = recorded(dataclasses.replace(plain, teacher="folder/a.mpt"))
    assert taught == {**recorded(plain), "teacher": "a.mpt"}


def test_every_default_obeys_its_rule() -> None:
    for field in dataclasses.fields(config.Config):
        assert config.coerce(field.name, field.default, "default") == field.default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prune_rat: 0.2",
            r"mine\.yml: unknown key 'prune_rat' = 0\.2; did you mean 'prune_rate'\?",
        ),
        (
            "prune_rate: 0",
            r"prune_rate = 0: must be above 0 and at most 1 \(the fraction of weights KEPT\)",
        ),
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
        ("- a", "must contain one 'key: value' per line"),
        ("a: [", "not valid YAML"),
        ("base: mine.yml", "base = 'mine.yml': a circle"),
        ("lr_policy: cosine", "did you mean 'cosine_lr'"),
        ("conv_type: RGConv", "no layer type RGConv either"),
        (
            "conv_type: SampleSubnetConv",
            "unused layer types and trainers of the original research code are left out",
        ),
        ("trainer: lottery", "unused layer types and trainers"),
        ("random_subnet: true", "random_subnet is left out"),
        ("aug_severity: 0", "at least 0.1"),
        ("low_data: 0", "above 0"),
    ],
)
def test_mistakes_in_a_file_name_file_key_value_and_rule(
    text: str, message: str, tmp_path: Path
) -> None:
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
        (
            {"bn_type": "AffineBatchNorm", "learn_batchnorm": True, "bn_bias_only": True},
            "contradict",
        ),
        ({"tune_batchnorm": True}, "nothing would train"),
        ({"optimizer": "adam", "nesterov": True}, "sgd"),
        *(
            ({"minutes": minutes}, rf"--minutes {minutes}: must be above 0 and at most 1440")
            for minutes in ("0", "-5", "nan", "inf", "1441")
        ),
        ({"minutes": "ten"}, "--minutes ten: must be a number"),
        ({"minutes": "3", "epochs": "4"}, "--minutes 3 and --epochs 4: pass one of them"),
        (
            {"minutes": "3", "lr_policy": "xnor_lr"},
            "xnor_lr counts epochs; pass --lr-policy constant_lr or linear_lr or cosine_lr",
        ),
        ({"minutes": "3", "warmup_length": "2"}, "warmup_length = 2 counts epochs"),
        ({"minutes": "3", "start_epoch": "2"}, "start_epoch = 2 counts epochs"),
        ({"nesterov": True, "momentum": "0"}, "momentum"),
        ({"prune_rate": "1"}, "scale_fan"),
        ({"conv_type": "DenseConv", "freeze_weights": True}, "freeze_weights"),
        ({"set": "CIFAR10", "stream": True}, "stream: is for images in files .* CIFAR10 are taken"),
        ({"image_size": 16}, "image_size: is for images in files .* those of digits are taken"),
        ({"layer_prune_rates": {"fc*": "2"}}, r"--layer-prune-rates fc\*=2: must be above 0"),
        ({"augmix": True, "gaussian_aug": True}, "augmix and gaussian_aug contradict"),
        ({"jsd": True}, "add --augmix or --gaussian-aug"),
        ({"augmix": True, "mixture_depth": "0"}, "mixture_depth = 0"),
        ({"start_epoch": "18"}, "must be below epochs"),
        (
            {"conv_type": "DenseConv", "freeze_weights": False, "layer_prune_rates": {"fc": "0.5"}},
            "DenseConv",
        ),
    ],
)
def test_contradictions_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.resolve(None, overrides)


def test_an_unknown_configuration_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'conv4_kn_unsigned'"):
        config.resolve("conv4_kn_unsignd", {})


def test_bases_do_not_go_in_circles(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yml").write_text(f"base: {base}.yml\n")
    with pytest.raises(UserError, match=r"c\.yml: base = 'a\.yml': a circle"):
        config.read_file(tmp_path / "a.yml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: 2024-02-30", "not valid YAML: day is out of range"),
        ("seed: " + "9" * 5000, "not valid YAML: Exceeds the limit"),
        ("seed: " + "9" * 400, "seed = 9999.*must be at least 0 and at most"),
        ("lr: " + "9" * 400, "lr = 9999.*must be a number"),
        ("lr: .inf", "must be at least 0"),
        ("a: &a [1]\nb: *a", "an alias"),
        ("epochs: 1\nepochs: 2", "the key 'epochs' comes twice"),
        ('log_dir: "a\\0b"', "must not contain a null character"),
        ('select_on: "a\\nb"', "select_on = 'a.nb'"),
        ("x" * 2_000_000, "2,000,000 bytes: a configuration"),
    ],
    ids=range(10),
)
def test_hostile_files_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text + "\n" * (len(text) < 1_000_000))
    with pytest.raises(UserError, match=said) as error:
        config.read_file(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/etc", "..\\x", "a\nb", "a\0", "x" * 300, "\u202e"]
)
def test_a_name_is_one_folder_below(name: str) -> None:
    with pytest.raises(UserError, match=r"must be one name|null character"):
        config.coerce("name", name, "--name")
    assert config.coerce("name", "ä b.c-1", "--name") == "ä b.c-1"


def test_a_data_set_of_the_hub_is_named() -> None:
    with pytest.raises(UserError, match="pass --data, the name of the data set"):
        config.resolve(None, {"set": "hub"})
    assert config.resolve(None, {"set": "hub", "data": "mnist"})[0].data == "mnist"


def test_other_names_of_options_in_files(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("learning_rate: 0.3\nmultistep_lr_adjust: 7\n")
    assert config.read_file(tmp_path / "a.yml") == {"lr": 0.3, "lr_adjust": 7}
    (tmp_path / "a.yml").write_text("learning_rate: 0.3\nlr: 0.2\n")
    with pytest.raises(UserError, match="learning_rate and lr are one option"):
        config.read_file(tmp_path / "a.yml")
