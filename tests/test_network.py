import pytest
import torch
from torch import nn

from biprop import UserError, config
from biprop.models.network import Task, build_network

TASK = Task(10, 3, (32, 32))


def network(**overrides: object):  # type: ignore[no-untyped-def]
    resolved, _ = config.resolve(None, {"arch": "cResNet20", "width_mult": 1, **overrides})
    return build_network(resolved, TASK)


def trains(**overrides: object) -> set[str]:
    """What trains: scores, weight (of dense layers), bn weight, bn bias, bias."""
    model = network(**overrides).model
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    kinds = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner, kind = name.rsplit(".", 1)
            kinds.add(f"bn {kind}" if owner in norms else kind)
    return kinds


AFFINE = {"bn_type": "AffineBatchNorm"}


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        ({}, {"scores"}),
        (AFFINE, {"scores"}),
        ({"bn_type": "LearnedBatchNorm"}, {"scores"}),
        (AFFINE | {"learn_batchnorm": True}, {"scores", "bn weight", "bn bias"}),
        (AFFINE | {"bn_bias_only": True}, {"scores", "bn bias"}),
        (AFFINE | {"learn_batchnorm": True, "tune_batchnorm": True}, {"bn weight", "bn bias"}),
        ({"first_layer_dense": True}, {"scores", "weight"}),
        ({"last_layer_dense": True}, {"scores", "weight", "bias"}),
        ({"conv_type": "DenseConv", "freeze_weights": False}, {"weight"}),
        (
            AFFINE | {"conv_type": "DenseConv", "freeze_weights": False},
            {"weight", "bn weight", "bn bias"},
        ),
    ],
)
def test_what_trains(overrides: dict[str, object], kinds: set[str]) -> None:
    assert trains(**overrides) == kinds


def test_binary_activations_are_seen_whatever_the_name() -> None:
    assert network(arch="Wide_VGG_Small").binary_activations
    assert not network(arch="Wide_VGG_Small_132").binary_activations


def test_first_values_of_batch_norm() -> None:
    model = network(bn_type="AffineBatchNorm", bn_weight_init="0.5", bn_bias_init="-1").model
    assert set(model.bn1.weight.tolist()) == {0.5}
    assert set(model.bn1.bias.tolist()) == {-1.0}


def test_dense_layers_take_the_initialisation_and_keep_their_density_out() -> None:
    made = network(first_layer_dense=True, init="signed_constant")
    assert made.subnetwork.exempt == ["conv1"]
    assert len(made.model.conv1.weight.abs().unique()) == 1
    assert made.density == pytest.approx(0.2, abs=1e-3)
    by_pattern = network(layer_prune_rates={"fc": "dense"}, init="signed_constant")
    assert len(by_pattern.model.fc.weight.abs().unique()) == 1


DENSE = {"first_layer_dense": True}


@pytest.mark.parametrize(
    ("options", "fan", "gain"),
    [
        ({}, 3 * 9, 2),
        ({"mode": "fan_out"}, 16 * 9, 2),
        ({"nonlinearity": "linear"}, 3 * 9, 1),
        ({"scale_fan": True, "prune_rate": 0.25}, 3 * 9 * 0.75, 2),
        (DENSE | {"mode": "fan_out"}, 16 * 9, 2),
        (DENSE | {"nonlinearity": "linear"}, 3 * 9, 1),
        (DENSE | {"scale_fan": True, "prune_rate": 0.25}, 3 * 9, 2),
    ],
)
def test_options_of_the_initialisation_reach_the_weights(
    options: dict[str, object], fan: float, gain: float
) -> None:
    """The first layer, 3 channels to 16 by 3x3 kernels: all magnitudes are sqrt(gain / fan)."""
    model = network(**{"init": "signed_constant", "scale_fan": False, **options}).model
    assert model.conv1.weight.abs().unique().tolist() == pytest.approx([(gain / fan) ** 0.5])


@pytest.mark.parametrize("floor", [0.05, 0.0])
def test_every_layer_keeps_the_floor_that_is_asked_for(floor: float) -> None:
    made = network(conv_type="GlobalSubnetConv", prune_rate=0.06, layer_floor=floor)
    with torch.no_grad():
        made.subnetwork.layers["layer3.2.conv2"].scores.zero_()
    made.subnetwork.update()
    counts = {layer.name: layer.kept for layer in made.subnetwork.report()}
    assert counts["layer3.2.conv2"] == max(1, int(floor * 64 * 64 * 9))


def test_the_seed_decides_everything_and_torchs_generator_nothing() -> None:
    a = network(seed=3, first_layer_dense=True).model.state_dict()
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    b = network(seed=3, first_layer_dense=True).model.state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a[key], b[key]) for key in a)
    c = network(seed=4).model.state_dict()
    assert not torch.equal(a["fc.scores"], c["fc.scores"])


def test_what_does_not_fit_is_one_clear_line() -> None:
    resolved, _ = config.resolve(None, {"arch": "VGG_Small"})
    with pytest.raises(UserError, match="needs 8 or more"):
        build_network(resolved, Task(10, 3, (4, 4)))
    with pytest.raises(
        UserError, match=r"--layer-prune-rates: no layer is named 'fcc'.*\(layers: conv1"
    ):
        network(layer_prune_rates={"fcc": "0.5"})
    with pytest.raises(UserError, match=r"--arch nets\.py: name the network .*: nets\.py:NAME"):
        network(arch="nets.py")
    with pytest.raises(UserError, match="one density"):
        network(conv_type="GlobalSubnetConv", layer_prune_rates={"fc": "0.5"})
