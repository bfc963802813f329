import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biprop import UserError, checkpoint, config
from biprop.distributed import ALONE
from biprop.evaluation.counts import evaluate
from biprop.evaluation.memory_format import why_not_channels_last
from biprop.models.network import Network, Task, build_network
from biprop.search import forward
from biprop.search.forward import TrainingForward, has_fast_bfloat16
from biprop.search.optim import build_optimizer
from biprop.subnetwork import Subnetwork

TASK = Task(10, 3, (32, 32))


@pytest.mark.parametrize("feature", [None, "avx2", "avx512_bf16", "amx_bf16"])
def test_bfloat16_where_the_processor_has_it(
    feature: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {feature: True} if feature else {}  # PyTorch leaves out what it does not know
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    has_it = feature in ("avx512_bf16", "amx_bf16")
    assert has_fast_bfloat16(torch.device("cpu")) == has_it
    assert not has_fast_bfloat16(torch.device("meta"))

    dtypes: list[torch.dtype] = []
    options = config.resolve("digits", {"amp": "auto", "width_mult": "0.25"})[0]
    network = build_network(options, TASK)
    training = TrainingForward(network, TASK, options, torch.device("cpu"), ALONE)
    network.model.convs[0].register_forward_hook(  # type: ignore[union-attr, operator]
        lambda module, inputs, output: dtypes.append(output.dtype)
    )
    logits = training.logits(torch.rand(4, 3, 32, 32))
    assert dtypes == [torch.bfloat16 if has_it else torch.float32]
    assert logits.dtype == torch.float32


def test_the_features_are_names_that_pytorch_knows() -> None:
    known = torch.cpu.get_capabilities()
    if known.get("architecture") != "x86_64":
        pytest.skip("the features are of x86 processors")
    assert set(forward.BFLOAT16_INSTRUCTIONS) <= set(known)


NETWORKS = {
    "Conv4": {"width_mult": 0.25},
    "VGG_Small": {"width_mult": 0.25},
    "Fast6": {"width_mult": 0.25, "bn_type": "AffineBatchNorm", "learn_batchnorm": True},
    "cResNet20": {},
}


def trained(arch: str, conv_type: str, channels_last: bool) -> Subnetwork:
    """The subnetwork after four steps of SGD on random images, in double precision."""
    options: dict[str, Any] = {"arch": arch, "conv_type": conv_type, **NETWORKS[arch]}
    resolved = config.override(config.Config(prune_rate=0.3, channels_last=channels_last), options)
    network = build_network(resolved, TASK)
    assert network.subnetwork
    network.model.double()
    network.subnetwork.update()
    training = TrainingForward(network, TASK, resolved, torch.device("cpu"), ALONE)
    training.set_training_mode()
    optimizer = build_optimizer(network.model, "sgd", lr=0.1, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        images = torch.randn(16, 3, 32, 32, generator=generator).double()
        labels = torch.randint(10, (16,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(training.logits(images), labels).backward()
        optimizer.step()
        network.subnetwork.update()
    return network.subnetwork


@pytest.mark.parametrize("conv_type", ["SubnetConv", "GlobalSubnetConv"])
@pytest.mark.parametrize(
    "arch",
    [
        "Fast6",
        "cResNet20",
        pytest.param("Conv4", marks=pytest.mark.slow),
        pytest.param("VGG_Small", marks=pytest.mark.slow),
    ],
)
def test_both_memory_formats_give_the_same_masks(arch: str, conv_type: str) -> None:
    """But for rounding, which ReLUs and masks amplify from step to step: in double precision it is
    too small to change a mask in these steps.
    """
    plain, other = (trained(arch, conv_type, channels_last) for channels_last in (False, True))
    for name, layer in plain.layers.items():
        torch.testing.assert_close(other.layers[name].scores, layer.scores, rtol=1e-9, atol=1e-12)
        assert torch.equal(other.layers[name].mask, layer.mask), name


def test_channels_last_is_the_default_on_the_cpu_only() -> None:
    for given, on_cpu, elsewhere in (
        (None, True, False),
        (True, True, True),
        (False, False, False),
    ):
        options = config.Config(arch="Conv2", prune_rate=0.3, channels_last=given)
        network = build_network(options, TASK)
        for device, expected in (("cpu", on_cpu), ("meta", elsewhere)):
            training = TrainingForward(network, TASK, options, torch.device(device), ALONE)
            assert training.is_in_channels_last == expected


def test_published_configurations_and_old_checkpoints_keep_their_memory_format() -> None:
    published = ("smallscale", "smallscale_baselines", "largescale", "cards")
    for file in config.packaged_files():
        if file.parts[-2] in published or file.parts[-3] in published:
            assert config.read_file(file)["channels_last"] is False, file
    assert checkpoint.format._stored_config({"prune_rate": 0.3}, "old").channels_last is False


class Views(nn.Module):
    """A network as older tutorials write them, which does not take images in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 32 * 32, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.dropout(self.conv(images))
        logits: Tensor = self.head(maps.view(maps.size(0), -1))
        return logits


def test_a_network_that_views_its_images_gets_them_as_they_are() -> None:
    own = Views().train()
    state = torch.random.get_rng_state()
    assert why_not_channels_last(nn.Flatten(), TASK) is None
    assert why_not_channels_last(nn.Flatten(), Task(10, 3, ())) is None
    error = why_not_channels_last(own, TASK)
    assert error and "view size is not compatible" in str(error)
    assert own.training
    assert torch.equal(torch.random.get_rng_state(), state)
    network, device = Network(own, None), torch.device("cpu")
    options = config.Config(arch="views.py:Views", prune_rate=0.3)
    assert not TrainingForward(network, TASK, options, device, ALONE).is_in_channels_last
    forced = dataclasses.replace(options, channels_last=True)
    with pytest.raises(UserError, match=r"--channels-last: .* leave it out"):
        TrainingForward(network, TASK, forced, device, ALONE)


class ViewsInTraining(nn.Flatten):
    """A network of the user's own with an auxiliary part that calls `view`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.view(len(images), -1) if self.training else super().forward(images)


class Raises(nn.Flatten):
    """One whose own checks fail on images in channels_last."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_contiguous():
            raise ValueError("images must be contiguous")
        return super().forward(images)


@pytest.mark.parametrize("own", [ViewsInTraining().eval(), Raises()])
def test_both_modes_are_tried_and_all_errors_count(own: nn.Module) -> None:
    was_training = own.training
    assert why_not_channels_last(own, TASK) is not None
    assert own.training == was_training


def test_evaluation_counts_the_same_in_both_memory_formats() -> None:
    network = build_network(config.Config(arch="Conv2", prune_rate=0.3), TASK)
    formats: list[bool] = []
    network.model.register_forward_pre_hook(
        lambda module, inputs: formats.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    images = torch.randn(8, *TASK.shape, generator=torch.Generator().manual_seed(0))
    batches = [(images, torch.arange(8))]
    plain, other = (evaluate(network.model, batches, is_asked) for is_asked in (False, True))
    assert formats == [False, True]
    assert (plain.right, plain.right_in_5) == (other.right, other.right_in_5)
    assert plain.loss == pytest.approx(other.loss, rel=1e-5)
