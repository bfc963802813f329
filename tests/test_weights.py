"""Weights of a user's own model: read without executing anything, and fitting exactly."""

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
    ],
)
def test_state_dicts_and_those_of_checkpoints_and_wrappers(wrapped: Any) -> None:
    source, target = network(), network()
    torch.save(wrapped(source.state_dict()), "w.pth")
    load_weights(target, "w.pth")
    assert all(map(torch.equal, source.state_dict().values(), target.state_dict().values()))


def test_safetensors() -> None:
    source, target = network(), network()
    save_file(source.state_dict(), "w.safetensors")
    load_weights(target, "w.safetensors")
    assert torch.equal(source[0].weight, target[0].weight)
    Path("bad.safetensors").write_bytes(Path("w.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"--weights bad.safetensors: is damaged: "):
        load_weights(target, "bad.safetensors")


def test_code_in_a_file_is_not_executed() -> None:
    torch.save({"state_dict": network().state_dict(), "x": Trap()}, "trap.pth")
    with pytest.raises(UserError, match="contains more than tensors"):
        load_weights(network(), "trap.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "none.pth: cannot be read: No such file"),
        ([1, 2], "has no state dict: must be tensors by name"),
        ({"epoch": 3}, "has no state dict"),
        ({"0.weight": torch.ones(2, 1, 3, 3)}, r"lacks 0.bias, 1.bias, 1.num_.* and 3 more$"),
        ({**network().state_dict(), "2.bias": torch.ones(3)}, "has in addition 2.bias"),
        ({**network().state_dict(), "0.bias": torch.ones(3)}, "does not fit the model: for 0.bias"),
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
    assert torch.equal(model[0].weight, before) or "fit the model: for" in message


def test_a_damaged_file() -> None:
    torch.save(network().state_dict(), "w.pth")
    Path("w.pth").write_bytes(Path("w.pth").read_bytes()[:200])
    with pytest.raises(UserError, match=r"--weights w.pth: "):
        load_weights(network(), "w.pth")
    Path("w.pth").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"--weights w.pth: "):
        load_weights(network(), "w.pth")
