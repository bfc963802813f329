from typing import Any

import pytest
import torch
from conftest import shared

from biprop import UserError, checkpoint, convert
from biprop.checkpoint import legacy
from biprop.models import build


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Conv4Wide", {"width_mult": 0.25}),
        ("Conv8Wide_BinAct", {"width_mult": 1.5, "bn_type": "AffineBatchNorm"}),
        ("VGG_Small", {"num_classes": 100}),
        ("Wide_VGG_Small_132", {"width_mult": 2.0, "bn_type": "AffineBatchNorm"}),
        ("FC", {"channels": 1, "input_size": (28, 28)}),
        ("cResNet20_BinAct", {"num_classes": 7, "bn_type": "AffineBatchNorm"}),
    ],
)
def test_width_classes_and_batch_norm_are_read_off_the_tensors(
    name: str, options: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = build.build(name, **options)
    convert(model)
    found, task = legacy.describe(
        {"arch": name, "conv_type": "SubnetConv", "prune_rate": 0.3}, model.state_dict(), "x"
    )
    assert found.width_mult == options.get("width_mult", 1)
    assert task.num_classes == options.get("num_classes", 10)
    assert (found.bn_type == "AffineBatchNorm") == (
        options.get("bn_type") == "AffineBatchNorm" and "BatchNorm" in repr(model)
    )
    if name == "FC":
        assert task.input_size[0] * task.input_size[1] * task.channels == 784


def test_a_checkpoint_of_the_first_version_needs_two_flags() -> None:
    path = shared("golden/wide_vgg_small_132_w2_p05_oldformat.pth")
    with pytest.raises(UserError, match="pass --conv-type and --prune-rate"):
        checkpoint.restore(path, {})
    restored = checkpoint.restore(path, {"conv_type": "SubnetConv", "prune_rate": 0.05})
    assert restored.network.density == pytest.approx(0.05, abs=1e-3)


def test_a_flag_that_contradicts_the_checkpoint_is_refused() -> None:
    path = shared("golden/conv4wide_025_p20.pth")
    assert checkpoint.restore(path, {"prune_rate": 0.2}).content.config.prune_rate == 0.2
    with pytest.raises(UserError, match=r"--prune-rate 0\.3: but .* says 0\.2"):
        checkpoint.restore(path, {"prune_rate": 0.3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": ["Conv4"]}, "no such network"),
        ({"arch": None}, "no such network"),
        ({"conv_type": "x"}, "must be one of"),
        ({"conv_type": 3}, "must be one of"),
        ({"prune_rate": "x"}, "must be a number"),
        ({"prune_rate": float("nan")}, "must be above 0"),
        ({"prune_rate": None}, "pass --prune-rate"),
    ],
)
def test_fields_are_checked(changes: dict[str, Any], message: str) -> None:
    with torch.device("meta"):
        state = build.build("Conv4").state_dict()
    with pytest.raises(UserError, match=message):
        legacy.describe(
            {"arch": "Conv4", "conv_type": "SubnetConv", "prune_rate": 0.3, **changes}, state, "x"
        )


def test_tensors_of_another_network_are_named() -> None:
    with torch.device("meta"):
        state = build.build("cResNet20").state_dict()
    with pytest.raises(UserError, match=r"lacks linear.0.weight"):
        legacy.describe({"arch": "Conv4", "conv_type": "SubnetConv", "prune_rate": 0.3}, state, "x")
    with pytest.raises(UserError, match="no convolution"):
        legacy.describe({"arch": "Conv4", "conv_type": "SubnetConv", "prune_rate": 0.3}, {}, "x")
