"""What a search would find out after hours is refused before it begins."""

from pathlib import Path

import pytest
import torch
from conftest import ROOT, write_image_folder

from biprop import UserError, config
from biprop.cli import command_line
from biprop.data import load
from biprop.models import own
from biprop.models.network import Task
from biprop.search.rehearsal import rehearse

NETWORKS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(nn.functional.dropout(x, 0.5, self.training))


class Control(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Two(Net):
    def forward(self, x):
        return super().forward(x), x


class Extra(Net):
    def forward(self, x):
        return (super().forward(x),) * 2 if self.training else super().forward(x)


class Maps(Net):
    def forward(self, x):
        return self.conv(x)


class Classes(Net):
    def forward(self, x):
        return super().forward(x).argmax(1)[:, None].expand(-1, 10)


class Pair(Net):
    def forward(self, x, y):
        return super().forward(x)


class Sorted(Net):
    def forward(self, x):
        return super().forward(x.sort()[0])


class Constant(Net):
    def forward(self, x):
        return torch.zeros(len(x), 10) + x.mean((1, 2, 3))[:, None]


def thousand():
    return Net(1000, 1)
"""
TASK = Task(10, 1, (12, 12))


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORKS)


def rehearsed(name: str, task: Task = TASK, **options: object) -> None:
    rehearse(config.resolve(None, {"arch": f"nets.py:{name}", **options})[0], task)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Control", "cannot be traced: its control flow depends on the data"),
        ("Two", "gives 2 outputs: must give one tensor"),
        ("Extra", "gives 2 outputs: must give one tensor"),
        ("Maps", r"gives a tensor \[2, 4, 10, 10\] for 2 samples of 10 classes"),
        ("thousand", r"gives a tensor \[2, 1000\] for 2 samples of 10 classes: must be \[2, 10\]"),
        ("Classes", "gives torch.int64: must give floats"),
        ("Pair", r"a batch \[2, 1, 12, 12\] raises TypeError: .*missing 1 required"),
        ("Sorted", "computes aten.sort.default: docs/ticket-format.md lists"),
        ("Constant", "its logits depend on no parameter that trains"),
    ],
)
def test_each_is_one_line_and_nothing_else_is_printed(
    name: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message) as info:
        rehearsed(name)
    assert str(info.value).startswith(f"--arch nets.py:{name}")
    assert "\n" not in str(info.value)
    assert capfd.readouterr() == ("", "")


def test_what_works_is_accepted_and_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    rehearsed("Net")
    rehearsed("Net", conv_type="DenseConv", freeze_weights=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_example_of_the_docs_can_be_searched_and_packed() -> None:
    page = (ROOT / "docs" / "own-networks.md").read_text()
    code = page.partition("# my_networks.py\n")[2].partition("```")[0]
    Path("nets.py").write_text(code)
    rehearsed("MyNet", arch_args={"width": 4})
    for name in (name for names in own.KEYWORDS.values() for name in names):
        assert f"`{name}`" in page


def test_before_the_data_are_decoded(capsys: pytest.CaptureFixture[str]) -> None:
    """An image that cannot be read would end the search, but the network is looked at first."""
    folder = write_image_folder(Path("photos"), side=12)
    (folder / "cat" / "9.png").write_bytes(b"broken")
    seen = []
    options, _ = config.resolve(None, {"set": "folder", "data": "photos", "channels": 1})
    with pytest.raises(UserError, match=r"9\.png"):
        load(options, expect=lambda classes, shape: seen.append((classes, shape)))
    assert seen == [(2, (1, 12, 12))]
    command = ["find", "--data", "photos", "--arch", "nets.py:thousand", "--channels", "1"]
    assert command_line.main(command) == 2
    assert "for 2 samples of 2 classes" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_misspelt_network_of_the_registry() -> None:
    with pytest.raises(UserError, match="'cResNet81': no such network; did you mean 'cResNet18'"):
        rehearse(config.Config(arch="cResNet81", prune_rate=0.5), Task(10, 3, (32, 32)))
