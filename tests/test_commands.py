import shlex
from dataclasses import replace
from typing import Any

import pytest

from biprop import config
from biprop.cli.parser import Parser, add_options, overrides
from biprop.config import Config
from biprop.report.commands import command


def repeated(line: str) -> tuple[dict[str, Any], str]:
    """The options of a command line, and the name of its configuration."""
    parser = Parser()
    parser.add_argument("--config")
    add_options(parser)
    program, verb, *flags = shlex.split(line)
    assert (program, verb) == ("biprop", "find")
    arguments = parser.parse_args(flags)
    resolved, name = config.resolve(arguments.config, overrides(arguments))
    return config.as_dict(resolved), name


def settings_of(file: str, **options: Any) -> dict[str, Any]:
    return config.as_dict(config.resolve(file, options)[0])


@pytest.mark.parametrize(
    ("name", "options", "flags"),
    [
        ("digits", {}, []),
        ("digits", {"seed": 3, "prune_rate": 0.05}, ["--prune-rate", "0.05", "--seed", "3"]),
        ("digits", {"augmix": True, "jsd": True}, ["--augmix", "--jsd"]),
        ("conv4_kn_unsigned", {"prune_rate": 0.2}, ["--prune-rate", "0.2"]),
        ("conv4_kn_unsigned", {"prune_rate": 0.2, "data": "a b'; rm -rf /"}, None),
        ("digits", {"layer_prune_rates": {"fc*": 0.5, "conv1": "dense"}}, None),
        ("digits", {"augmix": True, "mixture_depth": -1}, ["--augmix"]),
        ("digits", {"name": "-x", "no_bn_decay": True}, None),
        # Epochs and minutes are not given together.
        ("fast", {}, []),
        ("fast", {"minutes": 3.5}, ["--minutes", "3.5"]),
        ("digits", {"minutes": 2, "lr_policy": "linear_lr"}, None),
        ("fast", {"epochs": 90}, ["--epochs", "90"]),  # as in fast.yml, whose minutes go
        ("fast", {"epochs": 5}, ["--epochs", "5"]),
    ],
)
def test_the_command_gives_the_same_options(
    name: str, options: dict[str, Any], flags: list[str] | None
) -> None:
    settings = settings_of(name, **options)
    line = command(name, settings)
    assert line is not None
    assert repeated(line) == (settings, name)
    if flags is not None:
        assert shlex.split(line) == ["biprop", "find", "--config", name, *flags]


@pytest.mark.parametrize("name", ["", "mine", "../../etc/passwd", "--help", "CIFAR10-cResNet20"])
def test_an_unknown_configuration_is_spelt_out(name: str) -> None:
    settings = config.as_dict(replace(Config(), prune_rate=0.3, arch="cResNet20", lr=0.25))
    line = command(name, settings)
    assert line is not None
    assert line.startswith("biprop find --config digits --")
    assert repeated(line)[0] == settings


def test_a_budget_of_time_without_a_file_is_repeated() -> None:
    settings = settings_of("fast", set="folder", data="photos", minutes=3)
    line = command("folder-Fast6", settings)
    assert line is not None
    again = repeated(line)[0]
    assert {**again, "epochs": settings["epochs"]} == settings  # by the clock, epochs mean nothing


def test_every_packaged_configuration_is_repeated() -> None:
    stems = [file.stem for file in config.packaged_files()]
    for name in stems[::8]:
        if stems.count(name) == 1 and name != config.ARRAYS_CONFIG:  # which needs --data
            line = command(name, settings_of(name, prune_rate="0.375"))
            assert line == f"biprop find --config {name} --prune-rate 0.375"


def test_what_flags_cannot_say_is_no_command() -> None:
    settings = settings_of("digits")
    assert command("digits", {**settings, "prune_rate": None}) is None
    assert command("digits", {**settings, "hub_config": None}) is not None  # as in digits.yml


def test_what_belongs_to_the_machine_is_left_out() -> None:
    settings = settings_of("digits", log_dir="elsewhere", workers=3)
    assert command("digits", settings) == "biprop find --config digits"
