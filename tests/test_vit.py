"""The vision transformer: all its matrices are masked, and its ticket computes the same."""

from __future__ import annotations

import pytest
import torch

import biprop
from biprop.config import Config
from biprop.models.network import Task, build_network, dense_shapes
from biprop.models.vit import ViT


def images(count: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, 8, 12, generator=torch.Generator().manual_seed(0))


def test_every_matrix_is_masked() -> None:
    model = ViT(3, (8, 12), 5, width=32, depth=2)
    subnetwork = biprop.convert(model, 0.3)
    # The patches, the head, and in each layer two matrices of attention and two of the perceptron.
    assert len(subnetwork.layers) == 2 + 2 * 4
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in trained if "scores" not in name} == {
        "position",
        "norm.weight",
        "norm.bias",
        *(f"layers.{layer}.norm{norm}.weight" for layer in (0, 1) for norm in (1, 2)),
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_its_ticket_computes_the_same(channels: int) -> None:
    torch.manual_seed(0)
    model = ViT(channels, (8, 12), 5, width=32, depth=2)
    subnetwork = biprop.convert(model, 0.3, init="signed_constant")
    batch = images(3, channels)
    ticket = biprop.Ticket.from_model(model, subnetwork, example=batch)
    expected = model.eval()(batch)
    assert expected.shape == (3, 5)
    torch.testing.assert_close(ticket.to_model()(batch), expected)
    assert ticket.output_shape == (5,)


def test_positions_count() -> None:
    torch.manual_seed(0)
    model = ViT(3, (8, 12), 5, width=32, depth=1).eval()
    batch = images()
    moved = batch.roll(4, dims=3)  # by one patch: the same tokens in other places
    assert not torch.allclose(model(batch), model(moved), atol=1e-4)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="images of 9 x 12 pixels: must be multiples of 4"):
        ViT(3, (9, 12), 5)
    with pytest.raises(ValueError, match="width = 48: must be a multiple of 32"):
        ViT(3, (8, 12), 5, width=48)


@pytest.mark.parametrize("conv_type", ["SubnetConv", "DenseConv"])
def test_the_names_that_checkpoints_have(conv_type: str) -> None:
    config = Config(
        arch="ViT", arch_args={"width": 32, "depth": 1}, conv_type=conv_type, prune_rate=0.3
    )
    task = Task(5, 3, (8, 12))
    state = build_network(config, task).model.state_dict()
    names = {name for name in state if not name.endswith(".scores")}
    assert names == dense_shapes(config, task).keys()
    assert "layers.0.self_attn.in_proj.weight" in names


def test_arguments_of_the_command_line() -> None:
    config = Config(arch="ViT", arch_args={"patch": 5}, prune_rate=0.3)
    with pytest.raises(biprop.UserError, match="arch = ViT: images of 8 x 12 pixels"):
        build_network(config, Task(5, 3, (8, 12)))
    with pytest.raises(biprop.UserError, match=r"--arch-args heads=3: ViT takes width=1 \.\. 4096"):
        build_network(
            Config(arch="ViT", arch_args={"heads": 3}, prune_rate=0.3), Task(5, 3, (8, 12))
        )
