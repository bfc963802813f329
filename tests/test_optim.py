import math
from typing import Any

import pytest
import torch
from torch import nn

from biprop import convert
from biprop.models import build
from biprop.search import optim
from biprop.search.optim import build_optimizer
from biprop.search.schedules import STEPS, learning_rate


def rates(policy: str, epochs: int = 90, **options: float) -> list[float]:
    return [learning_rate(policy, e, lr=1.0, epochs=epochs, **options) for e in range(epochs)]  # type: ignore[arg-type]


def test_cosine_after_linear_warmup() -> None:
    course = rates("cosine_lr", epochs=10, warmup_length=4)
    assert course[:4] == [0.25, 0.5, 0.75, 1.0]
    assert course[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * e / 6)) for e in range(6)])


def test_constant_warms_up_too() -> None:
    assert rates("constant_lr", epochs=4, warmup_length=2) == [0.5, 1, 1, 1]


def test_multistep() -> None:
    assert rates("multistep_lr", epochs=6, lr_adjust=2, lr_gamma=0.5) == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.25,
    ]


@pytest.mark.parametrize(
    ("policy", "epochs", "factors"),
    [
        ("xnor_lr", (30, 44, 54), (0.1, 0.01, 0.001)),
        ("mpt132_w34_2_lr", (27, 44, 54), (0.1, 0.01, 1e-4)),
        ("mpt11_w34_2_v2_lr", (50, 62, 70), (0.1, 0.01, 1e-4)),
        ("mpt11_w18_2_lr", (46, 65, 80), (0.1, 0.01, 1e-4)),
        ("mpt11_w18_2_v2_lr", (35, 50, 60), (0.1, 0.01, 1e-4)),
    ],
)
def test_fixed_steps(policy: str, epochs: tuple[int, ...], factors: tuple[float, ...]) -> None:
    course = rates(policy)
    assert course[0] == 1
    for epoch, before, after in zip(epochs, (1, *factors), factors, strict=False):
        assert course[epoch - 1 : epoch + 1] == pytest.approx([before, after])
    assert policy in STEPS


def test_cos_multi_is_xnor_with_a_cosine_over_the_whole_run_from_epoch_55() -> None:
    xnor, course = rates("xnor_lr"), rates("cos_multi_lr")
    assert course[:55] == xnor[:55]
    assert course[55] == pytest.approx(xnor[55] * 0.5 * (1 + math.cos(math.pi * 55 / 90)))
    # of the original research code
    assert learning_rate("cos_multi_lr", 55, lr=0.1, epochs=60) == pytest.approx(1.7e-6, rel=0.01)
    assert learning_rate("cos_multi_lr", 90, lr=0.1, epochs=100) == pytest.approx(2.4e-6, rel=0.02)


def test_sgd_groups_are_the_ancestors() -> None:
    model = build.build("cResNet20", bn_type="AffineBatchNorm")
    convert(model)
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, "sgd", lr=0.1, weight_decay=0.5, no_bn_decay=True)
    first, rest = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert all("bn" in name for name in first)
    assert (
        "layer2.0.shortcut.1.weight" in rest
    )  # a batch norm without "bn" in its name counts as rest
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.5]
    assert len(first) + len(rest) == len([p for p in model.parameters() if p.requires_grad])


def test_adam_takes_the_learning_rate_only() -> None:
    model = build.build("Conv2")
    convert(model)
    optimizer = build_optimizer(model, "adam", lr=0.2, weight_decay=0.5)
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.2, 0)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_what_was_gathered_is_taken_over_and_options_are_not(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    old = optim.build_optimizer(model, name, lr=0.5, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    old.step()
    new = optim.build_optimizer(model, name, lr=0.1, momentum=0.5)
    saved = old.state_dict()
    optim.load_state(new, saved)
    assert all(
        new.param_groups[-1][key] == value
        for key, value in [("lr", 0.1)] + [("momentum", 0.5)] * (name == "sgd")
    )
    for parameter, entry in old.state.items():
        assert all(torch.equal(value, new.state[parameter][key]) for key, value in entry.items())


def _without_groups(saved: dict[str, Any]) -> Any:
    del saved["param_groups"]
    return saved


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: None,
        lambda saved: [],
        _without_groups,
        lambda saved: {**saved, "state": {0: {"momentum_buffer": torch.ones(7)}}},
        lambda saved: {
            **saved,
            "state": {0: {"momentum_buffer": torch.full((2, 3), float("inf"))}},
        },
        lambda saved: {**saved, "state": {0: {"momentum_buffer": 3}}},
        lambda saved: {**saved, "state": {0: {"exp_avg": torch.ones(2, 3)}}},
        lambda saved: {**saved, "state": {0: 3}},
        lambda saved: {**saved, "state": {9: {}}},
        lambda saved: {**saved, "param_groups": saved["param_groups"][:1]},
        lambda saved: {**saved, "param_groups": [{"params": [[]]}] * 2},
    ],
)
def test_the_state_of_another_optimiser_is_refused(damage: Any) -> None:
    optimizer = optim.build_optimizer(nn.Sequential(nn.Linear(3, 2)), "sgd", lr=0.1)
    with pytest.raises(ValueError, match=r"."):
        optim.load_state(optimizer, damage(optimizer.state_dict()))
