"""Tickets of real networks: the packed one computes what the trained one does, to the bit."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared
from torch import nn

from biprop import Ticket, TicketError, UserError, checkpoint, convert, data
from biprop.config import Config, as_dict, resolve
from biprop.data.cifar import CIFAR10_CLASSES, CIFAR_MEAN, CIFAR_STD
from biprop.models.network import Task, build_network
from biprop.runs.folder import RESULT
from biprop.search import pack
from biprop.ticket import entropy_coding

GOLDEN = (
    "conv4wide_025_p20",
    "conv4wide_025_BinAct_affine_p40",
    "cresnet20_affine_p50",
    "cresnet20_global_p30",
)


@pytest.mark.parametrize("name", GOLDEN)
def test_checkpoints_of_the_original_research_code_become_tickets(
    name: str, tmp_path: Path
) -> None:
    path = shared(f"golden/{name}.pth")
    ticket = pack.pack(path, {})
    ticket.save(tmp_path / "a.mpt")
    loaded = Ticket.load(tmp_path / "a.mpt")
    assert {layer.signs for layer in loaded.layers} == {"stored"}
    network = checkpoint.restore(path, {}).network.model.eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.to_model()(images), network(images))


@pytest.mark.parametrize(
    "options",
    [
        {"arch": "Conv2"},
        {
            "arch": "Wide_VGG_Small",
            "width_mult": 0.5,
            "bn_type": "AffineBatchNorm",
            "last_layer_dense": True,
        },
        {"arch": "cResNet20_BinAct", "conv_type": "GlobalSubnetConv", "first_layer_dense": True},
        {"arch": "cResNet20", "init": "unsigned_constant"},
        {"arch": "cResNet20", "init": "bernoulli"},
        {"arch": "Conv2", "init": "usc_bernoulli", "layer_prune_rates": {"linear.0": 0.01}},
    ],
    ids=str,
)
def test_a_packed_network_computes_what_the_trained_one_does(options: dict[str, Any]) -> None:
    made = build_network(Config(**{"prune_rate": 0.2, "seed": 5, **options}), Task(10, 3, (32, 32)))
    assert made.subnetwork
    for name, value in made.model.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bias")):
            value.copy_(torch.rand_like(value) + 0.5)
    ticket = Ticket.from_bytes(Ticket.from_model(made.model, made.subnetwork).to_bytes())
    unsigned = options.get("init", "") in ("unsigned_constant", "bernoulli", "usc_bernoulli")
    assert {layer.signs for layer in ticket.layers} == {"positive" if unsigned else "seed"}
    assert ticket.seed == (None if unsigned else 5)
    fresh = build_network(
        Config(
            conv_type="DenseConv",
            seed=9,
            **{
                k: v
                for k, v in options.items()
                if k in ("arch", "width_mult", "bn_type", "last_layer_dense")
            },
        ),
        Task(10, 3, (32, 32)),
    ).model
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ticket.to_model(fresh)(images), made.model.eval()(images))


class Own(nn.Module):
    """A network that biprop does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.ConvTranspose1d(6, 4, 2)
        )
        self.head = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean(2) * self.scale)


def test_a_network_of_the_users_own(tmp_path: Path) -> None:
    model = Own()
    subnetwork = convert(model, {"*": 0.3, "head": "dense"}, seed=2)
    model(torch.randn(8, 2, 9))
    ticket = Ticket.from_model(model, subnetwork, classes=["x", "y", "z"])
    ticket.save(tmp_path / "own.mpt")
    loaded = Ticket.load(tmp_path / "own.mpt")
    with pytest.raises(TicketError, match="pass to_model a new module of its class"):
        loaded.to_model()
    rebuilt = loaded.to_model(Own())
    x = torch.randn(5, 2, 9)
    assert torch.equal(rebuilt(x), model.eval()(x))
    with pytest.raises(TicketError, match="does not fit the model: "):
        loaded.to_model(nn.Linear(3, 3))
    with torch.device("meta"):
        empty = Own()
    with pytest.raises(TicketError, match=r"on the meta device: call model\.to_empty"):
        loaded.to_model(empty)
    assert torch.equal(loaded.to_model(empty.to_empty(device="cpu"))(x), rebuilt(x))
    with pytest.raises(TicketError, match=r"does not fit|subnetwork already"):
        loaded.to_model(model)


def test_weights_kept_as_they_were_store_their_signs() -> None:
    model = nn.Linear(50, 40)
    ticket = Ticket.from_model(model, convert(model, 0.5, init="keep"))
    assert ticket.layers[0].signs == "stored"
    assert torch.equal(torch.from_numpy(ticket.weight(ticket.layers[0])), model.effective_weight())


def test_a_single_layer_and_parameters_named_scores_come_back() -> None:
    model = nn.Linear(6, 5)
    subnetwork = convert(model, 0.5)
    rebuilt = Ticket.from_model(model, subnetwork).to_model(nn.Linear(6, 5))
    x = torch.randn(3, 6)
    assert torch.equal(rebuilt(x), model(x))

    def attention() -> nn.Module:
        own = nn.Sequential(nn.Linear(4, 4), nn.Module())
        own[1].scores = nn.Parameter(torch.randn(3))
        return own

    own = attention()
    ticket = Ticket.from_model(own, convert(own, 0.5))
    assert torch.equal(ticket.to_model(attention())[1].scores, own[1].scores)


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def packs_as(model: nn.Module, subnetwork: Any, plain: nn.Module, fresh: nn.Module) -> None:
    """The ticket of `model` makes `fresh` compute what `plain` does."""
    x = torch.randn(5, 8)
    ticket = Ticket.from_bytes(Ticket.from_model(model, subnetwork).to_bytes())
    assert torch.equal(ticket.to_model(fresh)(x), plain.eval()(x))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize(
    "make",
    [
        copy.deepcopy,
        lambda model: torch.optim.swa_utils.AveragedModel(model).module,
        lambda model: pickle.loads(pickle.dumps(model)),
    ],
    ids=["deepcopy", "AveragedModel.module", "pickle"],
)
def test_a_copy_is_packed_with_its_own_masks(make: Any, scope: Any) -> None:
    model = perceptron()
    subnetwork = convert(model, 0.5, scope)
    best = make(model)
    with torch.no_grad():
        best[0].scores.copy_(torch.randn_like(best[0].scores))
    packs_as(best, subnetwork, best, perceptron())
    packs_as(model, subnetwork, model, perceptron())
    packs_as(best, best[0].subnetwork, best, perceptron())
    assert not torch.equal(best[0].mask, model[0].mask)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_models_are_packed_under_their_plain_names(wrap: Any) -> None:
    model = perceptron()
    subnetwork = convert(model, 0.5)
    packs_as(wrap(model), subnetwork, model, perceptron())
    assert (
        Ticket.from_model(wrap(model), subnetwork).to_bytes()
        == Ticket.from_model(model, subnetwork).to_bytes()
    )

    wrapped = wrap(perceptron())
    subnetwork = convert(wrapped, 0.5)
    plain = wrapped
    while type(plain) is not nn.Sequential:
        plain = plain.module if hasattr(plain, "module") else plain._orig_mod
    packs_as(wrapped, subnetwork, plain, perceptron())

    part = nn.Sequential(wrap(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3))
    ticket = Ticket.from_model(part, convert(part, 0.5))
    assert [layer.name for layer in ticket.layers] == ["0", "2"]


def test_tickets_load_into_wrapped_models() -> None:
    model = perceptron()
    ticket = Ticket.from_model(model, convert(model, 0.5))
    x = torch.randn(5, 8)
    assert torch.equal(ticket.to_model(nn.DataParallel(perceptron()))(x), model.eval()(x))


def test_a_new_head_is_packed_as_it_is() -> None:
    model = perceptron()
    subnetwork = convert(model, 0.5)
    model[3] = nn.Linear(16, 7)
    fresh = perceptron()
    fresh[3] = nn.Linear(16, 7)
    packs_as(model, subnetwork, model, fresh)
    assert [layer.name for layer in Ticket.from_model(model, subnetwork).layers] == ["0"]


def test_a_part_and_a_larger_model_are_packed_under_their_own_names() -> None:
    body = perceptron()
    subnetwork = convert(body, 0.5)
    model = nn.Sequential(body, nn.ReLU())
    packs_as(model, subnetwork, model, nn.Sequential(perceptron(), nn.ReLU()))
    assert [layer.name for layer in Ticket.from_model(body[:3], subnetwork).layers] == ["0"]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_belongs_to_no_subnetwork_or_another_is_refused() -> None:
    model, other = perceptron(), perceptron()
    subnetwork, other_subnetwork = convert(model, 0.5), convert(other, 0.5)
    for wrong, given, message in (
        (perceptron(), subnetwork, "has no masked layer: pass the model"),
        (model, other_subnetwork, "another model's: pass the one that convert returned"),
        (
            nn.Sequential(model, copy.deepcopy(model)),
            subnetwork,
            "layers of 2 subnetworks: pass the part",
        ),
    ):
        with pytest.raises(TicketError, match=message):
            Ticket.from_model(wrong, given)
    with torch.device("meta"):
        empty = perceptron()
        of_meta = convert(empty, 0.5)
    with pytest.raises(TicketError, match="on the meta device"):
        Ticket.from_model(empty, of_meta)
    with pytest.raises(TicketError, match="run one batch through the model"):
        Ticket.from_model(model, subnetwork).to_model(nn.Sequential(nn.LazyLinear(16)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_sixteen_bits_are_packed_exactly(dtype: torch.dtype) -> None:
    model = perceptron().to(dtype)
    subnetwork = convert(model, 0.5)
    ticket = Ticket.from_model(model, subnetwork)
    x = torch.randn(3, 8).to(dtype)
    assert torch.equal(ticket.to_model(perceptron().to(dtype))(x), model.eval()(x))


def test_one_module_under_two_names_is_refused() -> None:
    model = nn.Module()
    model.a = model.b = nn.Linear(4, 4)
    with pytest.raises(TicketError, match=r"b\.weight and a\.weight are one weight"):
        Ticket.from_model(model, convert(model, 0.5))


def test_what_cannot_be_rebuilt_is_refused_and_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    subnetwork = convert(model, 0.5)
    with pytest.raises(TicketError, match=r"layer 0 is float64, .* call model\.float\(\) first"):
        Ticket.from_model(model.double(), subnetwork)
    Ticket.from_model(model.float(), subnetwork)
    norm = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    subnetwork = convert(norm, 0.5)
    norm[1].running_var[0] = torch.nan
    with pytest.raises(
        TicketError, match=r"1\.running_var has a number that float32 does not hold"
    ):
        Ticket.from_model(norm, subnetwork)
    with pytest.raises(UserError, match="not a run folder"):
        pack.pack(tmp_path, {})
    with pytest.raises(UserError, match="no such checkpoint"):
        pack.pack(tmp_path / "x.pth", {})


def ideal_bytes(ticket: Ticket) -> float:
    """H(k) n / 8 over the layers: the masks' bytes, if of each only the count were known."""
    return sum(entropy_coding.entropy(layer.kept, layer.weights) for layer in ticket.layers) / 8


def bytes_of_masks(ticket: Ticket) -> float:
    return sum(map(ticket.bits, ticket.layers)) / 8


def test_masks_that_a_search_found_take_at_most_half_a_percent_more_than_the_ideal(
    found_run: Path,
) -> None:
    ticket = pack.pack(found_run, {})
    first = checkpoint.restore(found_run / "checkpoints" / "initial.state", {}).network.subnetwork
    assert first
    for layer in ticket.layers:  # found, not drawn
        drawn = first.layers[layer.name].mask.numpy()
        assert (layer.kept_mask() & ~drawn).sum() > 0.1 * layer.kept
    ideal = ideal_bytes(ticket)
    assert len(ticket.coded_masks()[0]) < 1.005 * ideal
    assert bytes_of_masks(ticket) < 1.0005 * ideal


def test_masks_of_a_million_weights_take_hardly_more_than_the_ideal() -> None:
    """Drawn ones, in which there is nothing to gain: the worst case of the coder's models."""
    made = build_network(Config(arch="VGG_Small", prune_rate=0.05), Task(10, 3, (32, 32)))
    assert made.subnetwork
    ticket = Ticket.from_model(made.model, made.subnetwork)
    assert len(ticket.coded_masks()[0]) < 1.005 * ideal_bytes(ticket)
    assert bytes_of_masks(ticket) < 1.0005 * ideal_bytes(ticket)


def clean_accuracy(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 100
) -> float:
    """As RobustBench measures a model: images [N, C, H, W] in [0, 1], batch by batch, the share of
    images of the right class.
    """
    right = 0.0
    for first in range(0, len(images), batch_size):
        with torch.no_grad():
            output = model(images[first : first + batch_size])
        right += float((output.argmax(1) == labels[first : first + batch_size]).float().sum())
    return right / len(images)


def test_a_model_on_pixels_has_the_accuracy_that_the_search_measured(found_run: Path) -> None:
    test = data.load(resolve(None, {})[0]).test
    measured = json.loads((found_run / RESULT).read_text())["test"]
    model = pack.pack(found_run, {}).to_model(on_pixels=True)
    images, accuracy = test.images.float() / 255, measured["right"] / measured["images"]
    assert not model.training
    assert 0.5 < accuracy < 1
    assert clean_accuracy(model, images, test.labels) == pytest.approx(accuracy, abs=1e-9)
    assert clean_accuracy(model, test.images, test.labels) == pytest.approx(
        accuracy, abs=1e-9
    )  # uint8 in 0 .. 255
    pixels = images[:3].clone().requires_grad_()
    model(pixels).sum().backward()
    assert pixels.grad is not None  # attacks need it
    assert float(pixels.grad.abs().max()) > 0


def test_a_ticket_without_a_normalisation_has_no_model_on_pixels() -> None:
    model = nn.Linear(6, 5)
    ticket = Ticket.from_model(model, convert(model, 0.5))
    with pytest.raises(
        TicketError, match="has no normalisation: normalise the input, and leave out on_pixels"
    ):
        ticket.to_model(nn.Linear(6, 5), on_pixels=True)


def test_all_else_in_the_file_takes_less_than_4_kb(tmp_path: Path) -> None:
    """A ResNet-18 of which everything is told: classes, options, accuracies."""
    config, name = resolve(
        "resnet18-affine-kn-unsigned",
        {"prune_rate": "0.2", "learn_batchnorm": True, "device": "cpu"},
    )
    made = build_network(config, Task(10, 3, (32, 32)))
    assert made.subnetwork
    ours = {
        "format": 1,
        "version": "0.1.0",
        "config": as_dict(config),
        "config_name": name,
        "selected_on": "validation",
        "best_validation": {
            "images": 5000,
            "right": 4700,
            "right_in_5": 4990,
            "loss_sum": 1234.5678901234,
        },
        "densities": made.subnetwork.densities,
        "num_classes": 10,
        "channels": 3,
        "input_size": [32, 32],
        "classes": list(CIFAR10_CLASSES),
        "mean": list(CIFAR_MEAN),
        "std": list(CIFAR_STD),
    }
    checkpoint.save(
        tmp_path / "a.pth",
        {"arch": config.arch, "epoch": 100, "state_dict": made.model.state_dict(), "biprop": ours},
    )
    ticket = pack.pack(tmp_path / "a.pth", {})
    size = ticket.save(tmp_path / "a.mpt")
    state = 4 * sum(value.size for value in ticket.state.values())
    assert size - state - len(ticket.coded_masks()[0]) < 4096
    assert 8 * size < ticket.weights


HOSTILE = [
    {"classes": [torch.ones(2)] * 10},
    {"classes": 3},
    {"best_validation": torch.ones(2)},
    {"best_validation": {"images": 1}},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=range(4))
def test_what_a_checkpoint_tells_of_its_search_is_checked(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    options = Config(arch="Conv2Wide", width_mult=0.0625, prune_rate=0.3)
    made = build_network(options, Task(10, 3, (8, 8)))
    assert made.subnetwork
    fields = {
        "format": 1,
        "version": "0",
        "config": as_dict(options),
        "densities": made.subnetwork.densities,
    }
    task = {"num_classes": 10, "channels": 3, "input_size": [8, 8], "mean": [0.5], "std": [0.5]}
    ours = {**fields, **task, **changes}
    checkpoint.save(
        tmp_path / "a.pth",
        {"arch": options.arch, "state_dict": made.model.state_dict(), "biprop": ours},
    )
    with pytest.raises(UserError, match=r"a damaged checkpoint: (classes|ValueError|no counts)"):
        pack.pack(tmp_path / "a.pth", {})
