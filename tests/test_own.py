"""Networks in the user's own code: which names run, what they are given, and each error in one
line.
"""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from biprop import UserError, config
from biprop.config import Config, OwnNetwork
from biprop.models import own
from biprop.models.network import Task, build_network

NETWORKS = """
import dataclasses

from torch import nn

import beside


@dataclasses.dataclass
class Options:
    width: int = 4


class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels, image_size, width=Options().width):
        super().__init__(nn.Conv2d(in_channels, width, image_size), nn.Flatten(),
                         nn.Linear(width, num_classes))


def table(n_classes, in_features, *, deep=False):
    layers = [nn.Linear(in_features, 5)] if deep else []
    return nn.Sequential(*layers, nn.Linear(5 if deep else in_features, n_classes))


def series(num_classes, input_shape, seq_len):
    return nn.Sequential(nn.Conv1d(input_shape[0], num_classes, seq_len), nn.Flatten())


def any_size(img_size, num_classes, in_chans=3, **others):
    made = nn.Identity()
    made.given = (img_size, num_classes, in_chans, others)
    return made


def needs(depth, heads, num_classes): ...
def nothing(): ...
def fails(): raise ValueError("no\\nway")
def leaves(): raise SystemExit(3)
made = nn.Identity()
"""


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORKS)
    Path("beside.py").write_text("")
    monkeypatch.delitem(sys.modules, "beside", raising=False)


def build(name: str, shape: tuple[int, ...] = (3, 8, 8), **arguments: Any) -> Any:
    return own.build(OwnNetwork(name), arguments, 7, shape)


def fails(name: str, shape: tuple[int, ...] = (3, 8, 8), **arguments: Any) -> str:
    with pytest.raises(UserError) as info:
        build(name, shape, **arguments)
    message = str(info.value)
    assert "\n" not in message
    return message


def test_the_data_decide_what_an_argument_of_a_known_name_is() -> None:
    net = build("nets.py:Net", width=6)
    assert [tuple(p.shape) for p in net.parameters()] == [(6, 3, 8, 8), (6,), (7, 6), (7,)]
    assert build("nets.py:table", (12,))[0].in_features == 12
    assert len(build("nets.py:table", (12,), deep=True)) == 2
    assert build("nets.py:series", (2, 24))[0].weight.shape == (7, 2, 24)
    assert build("nets.py:any_size", (1, 8, 9), x=1).given == ((8, 9), 7, 1, {"x": 1})
    assert build("nets.py:any_size", num_classes=3).given == (8, 3, 3, {})  # the user's come first
    named = {name for names in own.KEYWORDS.values() for name in names}
    assert set(own.of_data(7, (3, 8, 8))) == named
    assert named - set(own.of_data(7, (12,))) == set(own.KEYWORDS["size"])


def test_a_file_is_run_once_under_a_name_of_its_own() -> None:
    first, second = (type(build("nets.py:Net")) for _ in range(2))
    assert first is second
    assert first.__module__.startswith("biprop_own_")
    assert str(Path.cwd()) not in sys.path
    Path("other").mkdir()
    Path("other/nets.py").write_text(NETWORKS.replace("import beside", ""))
    assert type(build("other/nets.py:Net")) is not first


def test_modules_of_the_current_folder_and_of_packages(tmp_path: Path) -> None:
    Path("mine_for_test").mkdir()
    Path("mine_for_test/nets.py").write_text(NETWORKS.replace("import beside", ""))
    assert isinstance(build("mine_for_test.nets:Net"), nn.Sequential)
    for name in ("mine_for_test.nets", "mine_for_test"):
        del sys.modules[name]
    assert isinstance(build("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:Net", "no such file none.py"),
        ("nets.py:Nett", "has no class or function 'Nett'; did you mean 'Net'?"),
        ("nets.py:", "has no class or function ''; it has Options, Net, table"),
        ("nets.py:made", "made is a Identity: must be a class or a function"),
        (
            "nets.py:needs",
            "needs arguments that the data do not decide: pass --arch-args depth=...",
        ),
        ("nets.py:nothing", "gives a NoneType: must give a torch.nn.Module"),
        ("nets.py:fails", r"raises ValueError: no way (nets.py, line "),
        ("nets.py:leaves", r"raises SystemExit: 3 (nets.py, line "),
        ("no.such.module:Net", "no module no: install it, or pass the file"),
        ("torch.nosuch:Net", "no module torch.nosuch"),
        ("a b:Net", "'a b' is neither a Python file"),
        (":", "is neither a Python file"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(name: str, message: str) -> None:
    assert message in fails(name)
    assert name in fails(name)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = (", "raises SyntaxError: '(' was never closed (bad.py, line 1)"),
        ("import nosuchthing", "raises ModuleNotFoundError: No module named 'nosuchthing' (bad.py"),
        ("\n1 / 0", "raises ZeroDivisionError: division by zero (bad.py, line 2)"),
    ],
)
def test_a_file_that_raises(code: str, message: str) -> None:
    Path("bad.py").write_text(code)
    for _ in range(2):  # what failed is not half there at the next call
        assert message in fails("bad.py:Net")


def test_arguments_that_the_network_does_not_take() -> None:
    assert "--arch-args wdith: nets.py:Net takes num_classes" in fails("nets.py:Net", wdith=3)
    assert "did you mean 'width'?" in fails("nets.py:Net", wdith=3)
    message = "needs image_size, which samples of the shape [12] do not have"
    assert message in fails("nets.py:Net", (12,))
    assert "RuntimeError" in fails("nets.py:Net", width=-3)


def test_timm_is_named_and_never_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "timm is not installed: pip install timm" in fails("timm:resnet18")
    timm: Any = types.ModuleType("timm")
    timm.is_model = lambda name: name == "vit"
    timm.list_models = lambda: ["vit"]
    timm.get_pretrained_cfg = lambda name: types.SimpleNamespace(fixed_input_size=True)
    made: list[Any] = []
    timm.create_model = lambda name, **options: made.append((name, options)) or nn.Identity()
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert "timm has no such network; did you mean 'vit'?" in fails("timm:vitt")
    build("timm:vit", depth=2)
    options = {"pretrained": False, "num_classes": 7, "in_chans": 3, "img_size": 8, "depth": 2}
    assert made == [("vit", options)]


def test_timm_itself() -> None:
    pytest.importorskip("timm")
    assert own.build(OwnNetwork("timm:resnet18"), {}, 7, (1, 32, 32)).fc.out_features == 7


def test_only_a_name_of_the_command_line_runs() -> None:
    """A string of a file is a record: nothing is imported, not even looked for."""
    Path("harm.py").write_text("import pathlib; pathlib.Path('harm').touch()")
    for name in ("harm.py:Net", "harm:Net"):
        with pytest.raises(
            UserError, match=f"files never choose which code runs: pass --arch {name}"
        ):
            build_network(Config(arch=name, prune_rate=0.5), Task(7, 3, (8, 8)))
    Path("c.yml").write_text("arch: harm.py:Net\nset: digits\nprune_rate: 0.5\narch_args: {x: 1}\n")
    with pytest.raises(UserError, match=r"c.yml: .*pass --arch harm.py:Net --arch-args x=1"):
        config.resolve("c.yml", {})
    with pytest.raises(UserError, match=r"c.yml: says arch_args = x=1.*pass --arch-args x=1"):
        config.resolve("c.yml", {"arch": "harm.py:Net"})
    assert not Path("harm").exists()
    resolved, _ = config.resolve("c.yml", {"arch": "harm.py:Net", "arch_args": {"x": "1"}})
    assert isinstance(resolved.arch, OwnNetwork)
    assert resolved.arch_args == {"x": 1}
    with pytest.raises(UserError, match="has no class or function"):
        build_network(resolved, Task(7, 3, (8, 8)))
    assert Path("harm").exists()
    assert type(config.as_dict(resolved)["arch"]) is str
    assert "arch: harm.py:Net" in config.as_yaml(resolved)


def test_names_in_folders_and_tickets() -> None:
    assert config.label("dir/nets.py:Net") == "Net"
    assert config.label("timm:vit_tiny.augreg/x") == "vit_tiny.augreg-x"
    assert config.label("x:..") == "network"
    assert config.without_folder("../dir/nets.py:Net") == "nets.py:Net"
    assert config.without_folder("cResNet20") == "cResNet20"
    assert config.is_same("a/nets.py:Net", "nets.py:Net")
    assert not config.is_same("nets.py:Net", "nets.py:Net2")
    name = config.resolve(None, {"arch": "dir/nets.py:Net", "set": "folder", "data": "x"})[1]
    assert name == "folder-Net"


def test_arguments_are_read_as_plain_values() -> None:
    given = {"a": "3", "b": "0.5", "c": "True", "d": "relu", "e": "1e-3", "f": True}
    read = config.override(Config(arch="x:y", prune_rate=0.5), {"arch": "x:y", "arch_args": given})
    assert read.arch_args == {"a": 3, "b": 0.5, "c": True, "d": "relu", "e": 0.001, "f": True}
    for wrong in ("x", {"a": [1]}, {"a b": 1}, {"a": None}):
        with pytest.raises(UserError, match="must be pairs of a keyword and a number"):
            config.override(read, {"arch_args": wrong})


def test_batch_norm_of_any_rank_follows_the_options() -> None:
    Path("norm.py").write_text(
        "from torch import nn\ndef f(num_classes):\n"
        "    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.LayerNorm(3),"
        " nn.Linear(3, num_classes))\n"
    )
    trained = {}
    for options in ({}, {"learn_batchnorm": True}, {"bn_bias_only": True, "bn_weight_init": 0.5}):
        values = {"arch": "norm.py:f", "set": "arrays", "data": "x", **options}
        network = build_network(
            config.resolve(None, {"learn_batchnorm": False, **values})[0], Task(2, 4, ())
        )
        names = {n for n, p in network.model.named_parameters() if p.requires_grad}
        trained[str(options)] = names
    assert network.model[1].weight.tolist() == [0.5] * 3
    scores, norm = {"0.scores", "3.scores"}, {"2.weight", "2.bias"}
    assert list(trained.values()) == [
        scores | norm,
        scores | norm | {"1.weight", "1.bias"},
        scores | norm | {"1.bias"},
    ]
