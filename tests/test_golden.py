"""Checkpoints that the original research code wrote, and the numbers that it computed from them
(../shared/golden).
"""

import json
from typing import Any

import parity
import pytest
import torch
import torch.nn.functional as F
from conftest import shared
from torch import Tensor

from biprop import checkpoint
from biprop.search.optim import build_optimizer

CASES = (
    "conv4wide_025_p20",
    "conv4wide_025_BinAct_affine_p40",
    "cresnet20_affine_p50",
    "cresnet20_global_p30",
    "wide_vgg_small_132_w2_p05_oldformat",
)
SAMPLED_FROM = 4096
"""Of a tensor with more elements the reference holds the parameters after a step of every seventh.
"""


class Reference:
    """A checkpoint of the original research code, read, with its inputs and the numbers it gave,
    gains rounded.
    """

    def __init__(self, case: str, dtype: torch.dtype) -> None:
        load_file = pytest.importorskip("safetensors.torch").load_file
        path = shared(f"golden/{case}.pth")
        self.facts = json.loads(shared(f"golden/{case}.json").read_text())
        self.numbers = json.loads(shared("golden/golden64.json").read_text())[case]
        self.tensors: dict[str, Tensor] = load_file(shared(f"golden/{case}.io64.safetensors"))
        inputs = load_file(shared(f"golden/{case}.io.safetensors"))
        self.evaluated, self.trained = (
            inputs["eval.input"].to(dtype),
            inputs["train.input"].to(dtype),
        )
        self.target = inputs["train.target"]
        old = self.facts.get("old_format")
        restored = checkpoint.restore(
            path, {k: self.facts[k] for k in ("conv_type", "prune_rate")} if old else {}
        )
        assert restored.content.config.width_mult == self.facts.get("width_mult", 1)
        assert restored.content.config.bn_type == self.facts["bn_type"]
        assert restored.network.subnetwork
        self.model, self.subnetwork = restored.network.model.to(dtype), restored.network.subnetwork
        self.subnetwork.update()
        for module in self.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and self.facts.get("learn_batchnorm"):
                module.requires_grad_(True)
        # Weight decay, momentum and step sizes are in the checkpoint's optimiser state; groups and
        # their order are ours.
        self.optimizer = build_optimizer(self.model, self.facts["optimizer"], lr=self.facts["lr"])
        self.optimizer.load_state_dict(checkpoint.load(path)["optimizer"])

    def differences(self) -> dict[str, float]:
        """Name -> difference from the reference, of an evaluation and one training step."""
        found: dict[str, float] = {}

        def compare(name: str, ours: Tensor) -> None:
            theirs = self.tensors[name]
            if theirs.numel() != ours.numel():
                assert ours.numel() > SAMPLED_FROM
                ours = ours.flatten()[::7]
            found[name] = parity.difference(ours, theirs)

        with torch.no_grad():
            compare("eval.logits", self.model.eval()(self.evaluated))
        logits = self.model.train()(self.trained)
        loss = F.cross_entropy(logits, self.target)
        compare("train.logits", logits)
        compare("train.loss", loss)
        loss.backward()
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        for name, parameter in trained.items():
            assert parameter.grad is not None
            compare(f"train.grad.{name}", parameter.grad)
        self.optimizer.step()
        for name, parameter in trained.items():
            compare(f"train.after_step.{name}", parameter)
        return found


def kind(name: str) -> str:
    """train.grad.convs.0.scores -> train.grad"""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("case", CASES)
def test_in_double_precision_a_step_is_the_ancestors(case: str, record_property: Any) -> None:
    reference = Reference(case, torch.float64)
    parity.check_masks_and_gains(reference.subnetwork, reference.numbers)
    parity.round_gains(reference.subnetwork)
    differences = reference.differences()
    held = {name for name in reference.tensors if not name.startswith("plain.")}
    assert held == differences.keys()
    worst = max(differences, key=differences.__getitem__)
    record_property("largest relative difference", differences[worst])
    print(
        f"{case}: {len(differences)} tensors, largest relative difference {differences[worst]:.1e}"
        f" in {worst}"
    )
    for name, difference in differences.items():
        assert difference < parity.limit(reference.numbers["moves"][kind(name)]), name


@pytest.mark.parametrize("case", CASES)
def test_in_single_precision_a_step_is_the_ancestors_as_far_as_rounding_allows(case: str) -> None:
    """Here the compiled core computes.

    Gradients behind ReLUs, and Adam's steps of sign, turn with the last bit.
    """
    reference = Reference(case, torch.float32)
    parity.round_gains(reference.subnetwork)
    limits = {"eval.logits": 1e-5, "train.logits": 3e-4, "train.loss": 3e-5}
    if not any(isinstance(module, torch.nn.ReLU) for module in reference.model.modules()):
        limits["train.grad"] = 1e-4
        if reference.facts["optimizer"] != "adam":
            limits["train.after_step"] = 1e-4
    for name, difference in reference.differences().items():
        assert difference < limits.get(kind(name), torch.inf), name


@pytest.mark.parametrize("case", CASES)
def test_with_unrounded_gains_the_logits_are_the_ancestors(case: str) -> None:
    """Here nothing is rounded on purpose.

    Logits hardly feel which of two equal values a pool chose; gradients do.
    """
    reference = Reference(case, torch.float64)
    with torch.no_grad():
        logits = reference.model.eval()(reference.evaluated)
    assert parity.difference(logits, reference.tensors["plain.eval.logits"]) < parity.EXACT
    logits = reference.model.train()(reference.trained)
    loss = F.cross_entropy(logits, reference.target)
    assert parity.difference(logits, reference.tensors["plain.train.logits"]) < parity.EXACT
    assert parity.difference(loss, reference.tensors["plain.train.loss"]) < parity.EXACT
