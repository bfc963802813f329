import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn.utils import prune as torch_prune

from biprop import BinaryActivation, Ticket, TicketError, UserError, convert, rng
from biprop.models import build
from biprop.subnetwork import Subnetwork
from biprop.subnetwork.layers import Masked, MaskSource


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()


def test_what_is_frozen_trained_and_left_alone() -> None:
    model = net()
    subnetwork = convert(model, 0.25)
    assert list(subnetwork.layers) == ["0", "4"]
    assert subnetwork.left_alone == {"1": "BatchNorm2d"}
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "0.scores",
        "1.weight",
        "1.bias",
        "4.scores",
    ]
    assert "left alone: 1 (BatchNorm2d)" in repr(subnetwork)


@settings(max_examples=30)
@given(st.floats(0.001, 1), st.sampled_from(["layer", "global"]))
def test_exactly_k_are_kept(density: float, scope: Any) -> None:
    model = net()
    subnetwork = convert(model, density, scope, floor=0)
    sizes = [layer.weight.numel() for layer in subnetwork.layers.values()]
    if scope == "layer":
        assert [r.kept for r in subnetwork.report()] == [n - int((1 - density) * n) for n in sizes]
    else:
        assert subnetwork.kept == sum(sizes) - int((1 - density) * sum(sizes))


def test_gain_divisors_are_the_methods() -> None:
    """Layerwise: int(k * n), which is not always the number kept.

    Global: the number kept in the layer.
    """
    layer = nn.Linear(
        7, 3, bias=False
    )  # n = 21; k = 0.3 keeps 21 - int(14.7) = 7, and divides by int(6.3) = 6
    convert(layer, 0.3)
    assert isinstance(layer, Masked)
    kept = (layer.weight.abs() * layer.mask).sum()
    assert int(layer.mask.sum()) == 7
    torch.testing.assert_close(layer.gain, kept / 6)
    other = nn.Linear(7, 3, bias=False)
    convert(other, 0.3, "global")
    assert isinstance(other, Masked)
    torch.testing.assert_close(other.gain, (other.weight.abs() * other.mask).sum() / 7)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.5),
        lambda p: torch.optim.SGD(p, 0.5, foreach=True),
        lambda p: torch.optim.Adam(p, 0.5),
        lambda p: torch.optim.Adam(p, 0.5, fused=True),  # does not count up the tensors' versions
    ],
)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_follow_the_scores_by_themselves(make: Any, scope: Any) -> None:
    model = net()
    subnetwork = convert(model, 0.3, scope)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    before = [layer.mask.clone() for layer in subnetwork.layers.values()]
    step(model, optimizer)
    model[0](torch.randn(1, 3, 8, 8))  # a part of the model alone is enough
    stale = [layer.mask.clone() for layer in subnetwork.layers.values()]
    assert not all(torch.equal(a, b) for a, b in zip(before, stale, strict=True))
    subnetwork.update()
    assert all(
        torch.equal(a, b.mask) for a, b in zip(stale, subnetwork.layers.values(), strict=True)
    )


State = dict[str, Tensor]
Change = Callable[[nn.Module, State], object]


def set_parameters(model: nn.Module, state: State) -> None:
    for name in ("0.scores", "4.scores"):
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(state[name].clone()))


def set_in_dictionary(model: nn.Module, state: State) -> None:
    for name in ("0.scores", "4.scores"):
        model.get_submodule(name[0])._parameters["scores"] = nn.Parameter(state[name].clone())


def set_data(model: nn.Module, state: State) -> None:
    for name in ("0.scores", "4.scores"):
        model.get_parameter(name).data = state[name].clone()


def from_vector(model: nn.Module, state: State) -> None:
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    vector = torch.cat([state[name].flatten() for name in names])
    nn.utils.vector_to_parameters(vector, [model.get_parameter(name) for name in names])


def by_gradient_and_data(model: nn.Module, state: State) -> None:
    """An optimiser of one's own, out of sight of version counters."""
    own = [model.get_parameter(name) for name in ("0.scores", "4.scores")]
    torch.autograd.grad(model(torch.randn(2, 3, 8, 8)).sum(), own)
    for parameter, name in zip(own, ("0.scores", "4.scores"), strict=True):
        parameter.data.copy_(state[name])


CHANGES: dict[str, Change] = {
    "load_state_dict": lambda model, state: model.load_state_dict(state),
    "load_state_dict(assign=True)": lambda model, state: model.load_state_dict(
        dict(state), assign=True
    ),
    "layer.scores = Parameter": set_parameters,
    "layer._parameters": set_in_dictionary,
    "parameter.data =": set_data,
    "vector_to_parameters": from_vector,
    "autograd.grad, then .data.copy_": by_gradient_and_data,
}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_network_computes_with_the_scores_it_holds(change: Change, scope: Any) -> None:
    model, x = net().eval(), torch.randn(2, 3, 8, 8)
    convert(model, 0.3, scope)
    for seed in (5, 6):  # the second time other tensors replace other tensors
        other = net().eval()
        convert(other, 0.3, scope, seed=seed)
        # `change` may leave the weights as they are, so the expected output has them too.
        state = {k: v for k, v in other.state_dict().items() if k.endswith("scores")} | {
            k: v.clone() for k, v in model.state_dict().items() if not k.endswith("scores")
        }
        expected = net().eval()
        subnetwork = convert(expected, 0.3, scope)
        expected.load_state_dict(state)
        subnetwork.update()
        before = model(x)
        change(model, state)
        after = model(x)
        assert torch.equal(after, expected(x))
        assert not torch.equal(after, before)


def test_in_a_common_ranking_the_scores_of_other_layers_count() -> None:
    model = net()
    subnetwork = convert(model, 0.3, "global")
    before = model[0].mask.clone()
    with torch.no_grad():
        model[4].scores.mul_(100)
    model[0](torch.randn(1, 3, 8, 8))  # this part alone: its own scores are as they were
    assert int(model[0].mask.sum()) < int(before.sum())
    assert subnetwork.kept == 1656 - int(0.7 * 1656)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_each_layer_looks_at_itself_alone(scope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build.build("cResNet20").eval()
    subnetwork = convert(model, 0.3, scope)
    looks, holds = 0, MaskSource.holds

    def counted(source: MaskSource, scores: Tensor, weight: Tensor) -> bool:
        nonlocal looks
        looks += 1
        return holds(source, scores, weight)

    monkeypatch.setattr(MaskSource, "holds", counted)
    model(torch.randn(1, 3, 32, 32))
    layers = len(subnetwork.layers)
    assert looks == (
        layers if scope == "layer" else 2 * layers
    )  # a common ranking is looked at once, too


@pytest.mark.parametrize(
    "change",
    [
        set_parameters,
        CHANGES["load_state_dict"],
        CHANGES["load_state_dict(assign=True)"],
        lambda model, _: model.to(torch.half),
    ],
)
def test_changes_that_a_compiled_program_must_see_are_noted_at_once(change: Change) -> None:
    """It looks at this flag alone; and FSDP sets the same tensors, filled anew, in each pass."""
    model = net()
    convert(model, 0.3)
    assert not model[0].source.stale
    change(model, {name: value.clone() for name, value in model.state_dict().items()})
    assert model[0].source.stale


def test_a_pass_that_fails_does_not_count_as_under_way() -> None:
    model = net()
    convert(model, 0.3, "global")
    with pytest.raises(RuntimeError):
        model(torch.randn(1, 5, 8, 8))
    with torch.no_grad():
        model[4].scores.mul_(100)
    before = int(model[0].mask.sum())
    model[0](torch.randn(1, 3, 8, 8))
    assert int(model[0].mask.sum()) < before


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_lent_parameters_have_their_own_masks(scope: Any) -> None:
    model, x = net().eval(), torch.randn(2, 3, 8, 8)
    convert(model, 0.3, scope)
    expected = model(x)
    for seed in (1, 2):
        other = net().eval()
        convert(other, 0.3, scope, seed=seed)
        lent = {name: p.detach().clone() for name, p in other.named_parameters()}
        assert torch.equal(functional_call(model, lent, (x,)), other(x))
    assert torch.equal(model(x), expected)  # and the model has its own again


def mlp(seed: int = 0, scope: Any = "layer") -> tuple[nn.Module, Subnetwork]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), BinaryActivation(), nn.Linear(16, 4)).eval()
    return model, convert(model, 0.5, scope, seed=seed)


def test_per_sample_gradients_add_up_to_the_gradient() -> None:
    model, _ = mlp()
    x, parameters = torch.randn(6, 8), {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: State, sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample[None],)).square().sum()

    each = vmap(grad(loss), (None, 0))(parameters, x)
    model(x).square().sum().backward()
    for name in ("0.scores", "2.scores"):
        torch.testing.assert_close(each[name].sum(0), model.get_parameter(name).grad)
    assert not each["0.weight"].any()  # random weights get no gradient


def test_a_stacked_ensemble_computes_what_its_members_do() -> None:
    members = [mlp(seed)[0] for seed in range(3)]
    parameters, buffers = stack_module_state(members)  # type: ignore[arg-type]
    base, x = copy.deepcopy(members[0]), torch.randn(5, 8)

    def call(parameters: State, buffers: State) -> Any:
        return functional_call(base, (parameters, buffers), (x,))

    torch.testing.assert_close(
        vmap(call)(parameters, buffers), torch.stack([member(x) for member in members])
    )
    alone = vmap(lambda scores: functional_call(base, {"0.scores": scores}, (x,)))(
        parameters["0.scores"]
    )
    with torch.no_grad():
        base[0].scores.copy_(parameters["0.scores"][2])
    torch.testing.assert_close(alone[2], base(x))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_are_brought_up_to_date_inside_transforms(scope: Any) -> None:
    model, subnetwork = mlp(scope=scope)
    x = torch.randn(6, 8)

    def derivative(image: Tensor) -> Tensor:
        return grad(lambda image: model(image).sum())(image)  # type: ignore[no-any-return]

    for transformed in (jacrev(model), derivative, vmap(derivative), vmap(model)):
        with torch.no_grad():
            for layer in subnetwork.layers.values():
                layer.scores.copy_(torch.randn_like(layer.scores))
        image = x if transformed not in (derivative,) else x[0]
        found = transformed(image)
        subnetwork.update()
        torch.testing.assert_close(found, transformed(image))


def test_scores_that_are_no_number_are_not_hidden_by_a_transform() -> None:
    model, _ = mlp()
    scores = torch.randn(2, 4, 16)
    scores[1, 0, 0] = torch.nan
    found = vmap(lambda scores: functional_call(model, {"2.scores": scores}, (torch.ones(5, 8),)))(
        scores
    )
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_what_cannot_be_followed_is_refused() -> None:
    model, _ = mlp(scope="global")
    stacked, _ = stack_module_state([model, mlp(1, "global")[0]])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="scope='layer'"):
        vmap(lambda p: functional_call(model, p, (torch.ones(5, 8),)))(stacked)
    with pytest.raises(UserError, match="scope='layer'"):
        torch.export.export(model, (torch.randn(5, 8),))
    with pytest.raises(UserError, match=r"torch\.fx would keep the masks"):
        torch.fx.symbolic_trace(model)
    with torch.no_grad():
        model[0].scores.add_(1)
    with pytest.raises(UserError, match=r"subnetwork\.update"):
        torch.jit.trace(model, torch.randn(5, 8))
    model[0].scores = nn.Parameter(torch.randn(3, 3))
    with pytest.raises(
        UserError, match=r"layer 0: its scores are \[3, 3\] and its weight is \[16, 8\]"
    ):
        model(torch.randn(5, 8))


def test_an_exported_program_has_the_masks_of_its_scores() -> None:
    model = net()
    convert(model, 0.3)
    step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 5.0))
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(model.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:The .grad attribute"
)  # from inside torch's tracer
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("scope", ["layer", pytest.param("global", marks=pytest.mark.slow)])
def test_a_compiled_model_follows_its_scores(scope: Any) -> None:
    outputs = []
    for compiled in (False, True):
        model, _ = mlp(scope=scope)
        run = torch.compile(model, backend="eager") if compiled else model
        x = torch.arange(32.0).view(4, 8) / 32
        # fused: version counters tell nothing
        optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], 0.5, fused=True
        )
        for _ in range(2):
            optimizer.zero_grad()
            run(x).square().sum().backward()
            optimizer.step()
        outputs.append(run(x))
        model.load_state_dict(mlp(7, scope)[0].state_dict())
        outputs.append(run(x))
    torch.testing.assert_close(outputs[:2], outputs[2:])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_copies_are_independent(scope: Any) -> None:
    model = net()
    convert(model, 0.3, scope)
    for copied in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        twin = copied(model)
        with torch.no_grad():
            twin[0].scores.mul_(-1).add_(1)
        x = torch.randn(2, 3, 8, 8)
        before = model.eval()(x)
        assert not torch.equal(twin.eval()(x), before)
        assert torch.equal(model(x), before)
        if scope == "layer":
            largest = torch.topk(twin[0].scores.abs().flatten(), 65).values
            assert torch.equal(twin[0].mask, largest.min() <= twin[0].scores.abs())


def test_masks_are_neither_parameters_nor_buffers() -> None:
    """What averages, sends or shards a model's state need not know of them."""
    model = net()
    convert(model, 0.3)
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(2):
        step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0))
        averaged.update_parameters(model)
    assert all(name.startswith("1.") for name, _ in model.named_buffers())  # those of batch norm
    x = torch.randn(2, 3, 8, 8)
    found = averaged.eval()(x)
    averaged.module[0].subnetwork.update()
    assert torch.equal(found, averaged(x))


def test_double_precision_after_conversion() -> None:
    model = net().eval()
    subnetwork = convert(model, 0.3)
    masks = [layer.mask.clone() for layer in subnetwork.layers.values()]
    x = torch.randn(2, 3, 8, 8)
    single = model(x)
    model.double()
    subnetwork.update()
    assert {layer.gain.dtype for layer in subnetwork.layers.values()} == {torch.float64}
    assert all(
        torch.equal(a, layer.mask)
        for a, layer in zip(masks, subnetwork.layers.values(), strict=True)
    )
    exact = (model[0].weight.abs() * model[0].mask).sum() / int(0.3 * 216)
    assert model[0].weight.dtype == torch.float64
    torch.testing.assert_close(model[0].gain, exact, rtol=1e-14, atol=0)
    torch.testing.assert_close(model(x.double()).float(), single)
    model.float()
    assert torch.equal(model(x), single)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype: torch.dtype) -> None:
    """The sum of the kept magnitudes does not fit float16."""
    layer = nn.Linear(512, 512, bias=False).to(dtype)
    nn.init.constant_(layer.weight, 2.0)
    subnetwork = convert(layer, 0.5)
    assert isinstance(layer, Masked)
    assert float(layer.gain) == 2
    assert layer.gain.dtype == dtype
    assert subnetwork.kept == 512 * 256


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_meta_models_get_their_numbers_later(scope: Any, assign: bool) -> None:
    trained, x = net().eval(), torch.randn(2, 3, 8, 8)
    convert(trained, 0.3, scope, seed=4)
    with torch.device("meta"):
        model = net().eval()
        subnetwork = convert(model, 0.3, scope)
    assert "on the meta device" in repr(subnetwork)
    with pytest.raises(UserError, match="meta device"):
        subnetwork.report()
    assert model(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 5)
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(trained.state_dict(), assign=assign)
    assert torch.equal(model(x), trained(x))
    assert subnetwork.kept == 1656 - int(0.7 * 1656) if scope == "global" else 65 + 432


def test_the_replicas_of_data_parallel() -> None:
    model = net().eval()
    subnetwork = convert(model, 0.3)
    replica = model[0]._replicate_for_data_parallel()
    with torch.no_grad():
        model[0].scores.copy_(torch.randn_like(model[0].scores))
    for name, parameter in model[0].named_parameters():
        setattr(replica, name, parameter.clone())
    x = torch.randn(1, 3, 8, 8)
    found = replica(x)
    subnetwork.update()
    assert torch.equal(found, model[0](x))


def train_sharded(
    parts: list[str], mesh: Any, scope: Any = "layer"
) -> tuple[Tensor, nn.Module, Subnetwork]:
    """The output after a few steps, of a model whose `parts` ("": all of it) are sharded."""
    from torch.distributed.fsdp import fully_shard

    model, subnetwork = mlp(scope=scope)
    for part in parts:
        fully_shard(model.get_submodule(part), mesh=mesh)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    for i in range(3):
        optimizer.zero_grad()
        model(torch.arange(32.0).view(4, 8) / 32 + i).pow(2).mean().backward()
        optimizer.step()
        if i:
            subnetwork.update()
    with torch.no_grad():
        model(torch.ones(4, 8))
        for parameter in model.parameters():
            parameter.mul_(-3).add_(0.01)  # a change without a gradient
        return model(torch.ones(4, 8)), model, subnetwork


def check_sharded(rank: int, size: int, place: str) -> None:
    """In one of `size` processes: sharded models compute what others do, or refuse."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.FileStore(place, size), rank=rank, world_size=size)
    try:
        mesh = init_device_mesh("cpu", (size,))
        for scope, parts in (("layer", [""]), ("layer", ["0", "2", ""]), ("global", [""])):
            torch.testing.assert_close(
                train_sharded(parts, mesh, scope)[0], train_sharded([], mesh, scope)[0]
            )
        _, model, subnetwork = train_sharded([""], mesh)
        with pytest.raises(TicketError, match="is sharded: load"):
            Ticket.from_model(model, subnetwork)
        with pytest.raises(UserError, match="convert the model first"):
            convert(fully_shard(nn.Sequential(nn.Linear(4, 4)), mesh=mesh))
        with pytest.raises(UserError, match="in one call"):
            train_sharded(["0", "2", ""], mesh, "global")
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning"
)  # from inside torch.distributed
def test_fully_sharded_models_have_the_masks_of_others(tmp_path: Path) -> None:
    check_sharded(0, 1, str(tmp_path / "store"))


@pytest.mark.slow
def test_fully_sharded_models_have_the_masks_of_others_in_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(check_sharded, (2, str(tmp_path / "store")), nprocs=2)


def test_signs_come_from_seed_and_layer_number_alone() -> None:
    model, other = net(), net()
    magnitudes = model[4].weight.abs().clone()
    convert(model, 0.3, seed=11)
    bits = torch.from_numpy(rng.sign_bits(11, 1, 1440)).view(5, 288)
    assert torch.equal(model[4].weight > 0, bits == 1)
    assert torch.equal(model[4].weight.abs(), magnitudes)
    convert(
        other, 0.3, exempt=["0"], seed=11, init="kaiming_normal"
    )  # an exempt layer shifts no other
    assert torch.equal(other[4].weight > 0, bits == 1)


def test_keep_leaves_the_weights() -> None:
    model = net()
    before = model[0].weight.clone()
    convert(model, init="keep")
    assert torch.equal(model[0].weight, before)


def test_densities_by_pattern_and_exempt_layers() -> None:
    model = build.build("cResNet20")
    subnetwork = convert(
        model, {"*": 0.2, "layer3.*": 0.1, "fc": 0.5, "conv1": "dense"}, exempt=["layer1.0.*"]
    )
    assert subnetwork.exempt == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert model.get_parameter("conv1.weight").requires_grad
    by_name = {r.name: r for r in subnetwork.report()}
    assert by_name["fc"].kept == 640 - int(0.5 * 640)
    assert by_name["layer3.0.conv1"].density == pytest.approx(0.1, abs=1e-4)
    assert by_name["layer2.0.conv1"].density == pytest.approx(0.2, abs=1e-3)
    only_linear = convert(net(), exempt=lambda name, module: isinstance(module, nn.Conv2d))
    assert list(only_linear.layers) == ["4"]


def test_a_transformer_layer_uses_its_masked_weights_in_evaluation_too() -> None:
    """Its fused evaluation path reads the raw weights; split attention keeps it off that path."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    subnetwork = convert(model, 0.5)
    assert list(subnetwork.layers)[-2:] == ["linear1", "linear2"]
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), model.train()(x))


def test_a_density_that_cannot_be_changes_nothing() -> None:
    model = net()
    subnetwork = convert(model, 0.3, "global", floor=0.1)
    before = [layer.mask.clone() for layer in subnetwork.layers.values()]
    with pytest.raises(UserError, match="lower the floor or raise the density"):
        subnetwork.set_density(0.01)
    with pytest.raises(UserError, match="one density"):
        subnetwork.set_densities({"0": 0.3, "4": 0.5})
    with pytest.raises(UserError, match="other layers"):
        subnetwork.set_densities({"0": 0.3})
    assert subnetwork.densities == {"0": 0.3, "4": 0.3}
    assert all(
        torch.equal(a, layer.mask)
        for a, layer in zip(before, subnetwork.layers.values(), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0}, "above 0"),
        ({"density": 1.5}, "at most 1"),
        ({"density": float("nan")}, "above 0"),
        ({"density": {"*": 0.2, "fcc": 0.5}}, "no layer is named 'fcc'"),
        ({"density": {"0": 0.2}}, "no density for layer '4'"),
        ({"density": {"*": "thick"}}, "must be a number or 'dense'"),
        ({"density": {"*": 0.2, "4": 0.5}, "scope": "global"}, "one density"),
        ({"scope": "local"}, "scope"),
        ({"exempt": ["*"]}, "nothing to mask"),
        ({"exempt": ["9"]}, "no layer is named '9'"),
        ({"init": "kaiming"}, "init"),
        ({"init": "kaiming_normal", "mode": "fan"}, "mode = 'fan': must be"),
        ({"init": "kaiming_normal", "nonlinearity": "softsign"}, "nonlinearity = 'softsign'"),
        (
            {"init": "kaiming_normal", "scale_fan": True, "density": {"0": 0.5, "4": 1.0}},
            "scale_fan",
        ),
        ({"floor": 2.0}, "floor"),
        ({"floor": 0.5, "density": 0.1, "scope": "global"}, "lower the floor or raise the density"),
        ({"floor": 0.0, "density": 0.0001, "scope": "global"}, "to keep: raise the density"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_refused_and_leave_the_model_as_it_was(
    options: dict[str, Any], message: str
) -> None:
    assert_refused(net(), message, **options)


def assert_refused(model: nn.Module, message: str, **options: Any) -> None:
    """`convert` refuses, in one line, and changes nothing."""

    def now() -> list[Any]:
        state = [
            (name, value.detach().clone())
            for name, value in model.named_parameters()
            if not nn.parameter.is_lazy(value)
        ]
        kinds = [
            (name, type(m), len(m._forward_pre_hooks), sorted(m.__dict__))
            for name, m in model.named_modules()
        ]
        return [state, kinds, [p.requires_grad for p in model.parameters()]]

    before = now()
    with pytest.raises(ValueError, match=message) as caught:
        convert(model, **options)
    assert "\n" not in str(caught.value)
    after = now()
    assert after[1:] == before[1:]
    for (name, one), (other_name, other) in zip(before[0], after[0], strict=True):
        assert name == other_name
        assert one.device.type == "meta" or torch.equal(one.nan_to_num(7), other.nan_to_num(7))


def ends_with(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), last)


def with_weight(value: float) -> nn.Module:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.fill_(0).view(-1)[5:6].fill_(value)
    return layer


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(4, 4)


def expanded() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.randn(4, 1).expand(4, 4))
    return layer


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (
        lambda: nn.LazyLinear(3),
        r"layer '2' is lazy \(LazyLinear\).*run one batch through the model",
    ),
    (lambda: nn.Linear(4, 3).double(), r"'2\.weight' is float64.*call model\.float\(\)"),
    (lambda: nn.BatchNorm1d(4).double(), r"'2\.weight' is float64.*call model\.float\(\)"),
    (lambda: nn.Linear(4, 3, dtype=torch.complex64), "layer '2' is torch.complex64"),
    (lambda: nn.Linear(4, 0), "layer '2' has no weights"),
    (lambda: with_weight(0.0), "all weights of layer '2' are 0"),
    (lambda: with_weight(torch.inf), "layer '2' has a weight that is infinite or not a number"),
    (made_in_inference_mode, "layer '2' cannot be changed in place"),
    (expanded, "layer '2' cannot be changed in place"),
]


@pytest.mark.filterwarnings(
    "ignore:Lazy modules", "ignore:Initializing zero-element tensors", "ignore:Complex modules"
)
@pytest.mark.parametrize(("last", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_layers_that_cannot_be_masked_are_refused_before_anything_is_changed(
    last: Callable[[], nn.Module], message: str
) -> None:
    assert_refused(ends_with(last()), message)


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:Initializing zero-element tensors")
def test_the_advice_in_messages_can_be_followed() -> None:
    lazy = ends_with(nn.LazyLinear(3))
    lazy(torch.randn(1, 4))
    assert list(convert(lazy).layers) == ["0", "2"]
    assert list(convert(ends_with(nn.Linear(4, 3)).double().float()).layers) == ["0", "2"]
    assert list(convert(ends_with(nn.Linear(4, 0)), exempt="2").layers) == ["0"]
    assert list(convert(ends_with(with_weight(0.0)), exempt="2").layers) == ["0"]
    assert list(convert(ends_with(with_weight(0.0)), init="kaiming_normal").layers) == ["0", "2"]
    for layer in (made_in_inference_mode(), expanded()):
        layer.weight = nn.Parameter(layer.weight.clone())  # type: ignore[operator]
        assert list(convert(ends_with(layer)).layers) == ["0", "2"]
    rest = convert(
        ends_with(nn.Linear(4, 3)), {"*": 0.2, "0": 0.5}
    )  # "begin with a pattern for the rest"
    assert rest.densities == {"0": 0.5, "2": 0.2}
    with torch.inference_mode(), pytest.raises(UserError, match="outside of it"):
        convert(net())


def tied(*modules: nn.Module) -> nn.Module:
    for module in modules[1:]:
        module.weight = modules[0].weight
    return nn.Sequential(*modules, nn.Linear(3, 3))


def same_memory() -> nn.Module:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight.data = one.weight.data
    return nn.Sequential(one, other, nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("make", "exempt"),
    [
        (lambda: tied(nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)), ["1"]),
        (
            lambda: tied(nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4), nn.Linear(4, 4)),
            ["0", "1", "3"],
        ),
        (same_memory, ["0", "1"]),
    ],
)
def test_shared_weights_are_refused_and_exempting_them_helps(
    make: Callable[[], nn.Module], exempt: list[str]
) -> None:
    assert_refused(make(), rf"share a weight or bias: add {str(exempt)[:-1]}".replace("[", r"\["))
    model = make()
    assert convert(model, exempt=exempt).exempt == exempt


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model is of type function: must be a torch\.nn"):
        convert(lambda x: x, 0.5)  # type: ignore[arg-type,return-value]


def test_a_second_conversion_is_refused() -> None:
    model = net()
    convert(model)
    assert_refused(model, "already")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older weight_norm
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: torch_prune.l1_unstructured(layer, "weight", amount=0.5),
        lambda layer: torch_prune.l1_unstructured(layer, "bias", amount=0.5),
    ],
)
def test_layers_whose_weight_something_else_computes_are_left_alone(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    layer = wrap(nn.Linear(4, 3))
    trains = {name for name, p in layer.named_parameters() if p.requires_grad}
    subnetwork = convert(ends_with(layer))
    assert list(subnetwork.layers) == ["0"]
    assert any(name == "2" or name.startswith("2.") for name in subnetwork.left_alone)
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == trains


def test_a_layer_whose_forward_was_replaced_is_left_alone() -> None:
    layer = nn.Linear(4, 3)
    layer.forward = lambda x: x @ layer.weight.T  # type: ignore[method-assign]
    assert convert(ends_with(layer)).left_alone == {"2": "Linear"}


def test_names_with_brackets_are_names() -> None:
    model = nn.ModuleDict({"a[0]": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    assert convert(model, {"*": 0.5, "a[0]": "dense"}).exempt == ["a[0]"]


@pytest.mark.parametrize(
    "init", ["own", "kaiming_normal", "kaiming_uniform", "signed_constant", "bernoulli"]
)
def test_draws_do_not_depend_on_torchs_defaults(init: str) -> None:
    expected, model = net(), net()
    model.load_state_dict(expected.state_dict())
    convert(expected, init=init)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            convert(model, init=init)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(
        torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True)
    )


def test_a_module_used_twice_is_one_layer() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    assert list(convert(model, 0.5).layers) == ["0"]
    assert model[0] is model[2]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_score_that_is_no_number_names_its_layer(scope: Any) -> None:
    model = net()
    subnetwork = convert(model, 0.3, scope)
    with torch.no_grad():
        model[4].scores[2, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="layer 4"):
        subnetwork.update()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch's tracer
def test_torch_compile_sees_a_plain_network() -> None:
    model = net()
    subnetwork = convert(model, 0.3)
    model.eval()
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    with torch.no_grad():
        model[0].scores.neg_().add_(0.1)
    subnetwork.update()
    torch.testing.assert_close(compiled(x), model(x))


def test_meta_tensors_convert_without_memory() -> None:
    with torch.device("meta"):
        model = build.build("cResNet18")
    assert convert(model, 0.2).weights == 11_164_352
