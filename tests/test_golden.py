"""Checkpoints that the original research code wrote, and the numbers that it computed from them (../shared/golden)."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import shared

from biprop import checkpoint
from biprop.optim import build_optimizer

CASES = (
    "conv4wide_025_p20",
    "conv4wide_025_BinAct_affine_p40",
    "cresnet20_affine_p50",
    "cresnet20_global_p30",
    "wide_vgg_small_132_w2_p05_oldformat",
)
TOLERANCE = 1e-4  # relative to the tensor's largest value


@pytest.mark.parametrize("case", CASES)
def test_golden_parity(case: str, record_property: Any) -> None:
    path = shared(f"golden/{case}.pth")
    facts = json.loads(shared(f"golden/{case}.json").read_text())
    tensors = pytest.importorskip("safetensors.torch").load_file(shared(f"golden/{case}.io.safetensors"))
    flags = {"conv_type": facts["conv_type"], "prune_rate": facts["prune_rate"]} if facts.get("old_format") else {}
    restored = checkpoint.restore(path, flags)
    model = restored.network.model
    assert restored.content.config.width_mult == facts.get("width_mult", 1)
    assert restored.content.config.bn_type == facts["bn_type"]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and facts.get("learn_batchnorm"):
            module.requires_grad_(True)
    errors: dict[str, float] = {}

    def compare(name: str, ours: torch.Tensor) -> None:
        theirs = tensors.pop(name)
        errors[name] = float((ours.detach().view(theirs.shape) - theirs).abs().max() / theirs.abs().max())

    with torch.no_grad():
        compare("eval.logits", model.eval()(tensors.pop("eval.input")))
    logits = model.train()(tensors.pop("train.input"))
    loss = F.cross_entropy(logits, tensors.pop("train.target"))
    compare("train.logits", logits)
    compare("train.loss", loss)
    # Weight decay, momentum and step sizes are in the checkpoint's optimiser state; groups and their order are ours.
    optimizer = build_optimizer(model, facts["optimizer"], lr=facts["lr"])
    optimizer.load_state_dict(checkpoint.load(path)["optimizer"])
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        assert parameter.grad is not None
        compare(f"train.grad.{name}", parameter.grad)
    optimizer.step()
    for name, parameter in trained.items():
        compare(f"train.after_step.{name}", parameter)
    assert not tensors, f"not compared: {sorted(tensors)}"
    worst = max(errors, key=errors.__getitem__)
    record_property("largest relative error", errors[worst])
    print(f"{case}: {len(errors)} tensors, largest relative error {errors[worst]:.1e} in {worst}")
    assert errors[worst] < TOLERANCE
