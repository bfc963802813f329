"""The networks as data."""

import subprocess
import sys

import pytest

from biprop import config
from biprop.models import plans
from biprop.models.plans import NETWORKS, PLAIN, RESIDUAL


def test_names_are_unique_and_every_one_has_a_plan() -> None:
    assert len(NETWORKS) == len(set(NETWORKS)) == len(PLAIN) + len(RESIDUAL) == 93
    assert NETWORKS is NETWORKS


def test_plans_are_what_their_names_say() -> None:
    assert PLAIN["Conv4"].convs == "c64 R c64 R M c128 R c128 R M"
    assert PLAIN["Conv2_BinAct"].convs == "c64 B A c64 M B A"
    for name, plan in RESIDUAL.items():
        assert plan.binary == ("_BinAct" in name)
        assert (plan.last_norm != "before") == name.endswith("_v2")
        assert plan.imagenet == name.startswith(("ResNet", "WideResNet"))
    layers = {
        name: sum(plan.blocks) * (3 if plan.kind == "bottleneck" else 2) + 2
        for name, plan in RESIDUAL.items()
    }
    assert all(
        depth == int("".join(filter(str.isdigit, name.split("_")[0])))
        for name, depth in layers.items()
        if "Pre" not in name
    )


def test_behind_a_relu_a_sign_of_zero_is_zero() -> None:
    """+1 for the negative and +1 for the positive is +1 for every image, and nothing could be
    learned.
    """
    for name, plan in PLAIN.items():
        for tokens in (plan.convs, plan.head):
            assert "R A" not in tokens, name


def test_only_the_plain_wide_networks_take_a_width() -> None:
    assert {name for name in NETWORKS if plans.takes_width(name)} == {
        name for name in PLAIN if "Wide" in name or name.startswith("Fast")
    }
    assert not plans.takes_width("no such network")
    plans.check("Conv4Wide", "AffineBatchNorm", 0.25)


@pytest.mark.parametrize(
    ("name", "bn_type", "width", "message"),
    [
        ("conv4", "NonAffineBatchNorm", 1, "did you mean 'Conv4'"),
        ("Conv4", "BatchNorm", 1, "bn_type = 'BatchNorm': must be one of NonAffineBatchNorm, "),
        ("cResNet18", "NonAffineBatchNorm", 2, "width_mult = 2: cResNet18 has a fixed width"),
        ("Wide_VGG_Small", "NonAffineBatchNorm", 0.06, "without channels"),
    ],
)
def test_mistakes_are_one_clear_line(name: str, bn_type: str, width: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plans.check(name, bn_type, width)


def test_the_list_of_networks_loads_no_torch() -> None:
    code = (
        "import sys, biprop.cli; biprop.cli.main(['list', 'networks', '--names']);"
        " sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*NETWORKS, *config.DEFAULT_NETWORKS]
