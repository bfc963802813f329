"""Weights of a user's own model: read without executing anything, and fitting exactly."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from biprop.errors import UserError
from biprop.robustness.weights import load_weights


class Trap:
    """An object whose unpickling executes something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("executed").write_text, ("!",))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model_state_dict": state, "optimizer": {}},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {"args": argparse.Namespace(lr=0.1), "state_dict": state},
    ],
)
def test_state_dicts_and_those_of_checkpoints_and_wrappers(wrapped: Any) -> None:
    source, target = network(), network()
    torch.save(wrapped(source.state_dict()), "w.pth")
    load_weights(target, "w.pth")
    assert all(map(torch.equal, source.state_dict().values(), target.state_dict().values()))


def test_prefixes_that_are_part_of_the_names_stay() -> None:
    """A network whose only child is called model."""
    source, target = (nn.ModuleDict({"model": network()}) for _ in range(2))
    torch.save(source.state_dict(), "w.pth")
    load_weights(target, "w.pth")
    assert torch.equal(source["model"][0].weight, target["model"][0].weight)


def test_safetensors() -> None:
    source, target = network(), network()
    save_file(source.state_dict(), "w.safetensors")
    load_weights(target, "w.safetensors")
    assert torch.equal(source[0].weight, target[0].weight)
    Path("bad.safetensors").write_bytes(Path("w.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"bad.safetensors: damaged: "):
        load_weights(target, "bad.safetensors")


def test_code_in_a_file_is_not_executed() -> None:
    torch.save({"state_dict": network().state_dict(), "x": Trap()}, "trap.pth")
    with pytest.raises(UserError, match=r"trap.pth: refused"):
        load_weights(network(), "trap.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "none.pth: cannot be read: No such file"),
        ([1, 2], "has no state dict: must be tensors by name"),
        ({"epoch": 3}, "has no state dict"),
        ({"0.weight": torch.ones(2, 1, 3, 3)}, "lacks 0.bias"),
        ({**network().state_dict(), "2.bias": torch.ones(3)}, "has 2.bias too"),
        ({**network().state_dict(), "0.bias": torch.ones(3)}, r"0.bias is \(3,\), not \(2,\)"),
    ],
)
def test_what_does_not_fit(content: Any, message: str) -> None:
    if content is not None:
        torch.save(content, "none.pth")
    model = network()
    before = model[0].weight.clone()
    with pytest.raises(UserError, match=message) as error:
        load_weights(model, "none.pth")
    assert "\n" not in str(error.value)
    assert torch.equal(model[0].weight, before)


def test_a_damaged_file() -> None:
    torch.save(network().state_dict(), "w.pth")
    Path("w.pth").write_bytes(Path("w.pth").read_bytes()[:200])
    with pytest.raises(UserError, match=r"w.pth: "):
        load_weights(network(), "w.pth")
    Path("w.pth").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"w.pth: "):
        load_weights(network(), "w.pth")
