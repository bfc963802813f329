"""Attention whose in-projection is a layer: the same results, masked like other layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import biprop
from biprop.subnetwork.attention import SplitAttention, join_attention, split_attention
from biprop.subnetwork.layers import Masked

WIDTH, TOKENS = 8, 5
CAUSAL = nn.Transformer.generate_square_subsequent_mask(TOKENS)
PADDING = torch.arange(TOKENS)[None].repeat(3, 1) >= torch.tensor([[5], [3], [4]])


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(WIDTH, 2, **options)


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"batch_first": True, "bias": False},
        {"batch_first": True, "add_bias_kv": True, "add_zero_attn": True},
        {"batch_first": False},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"need_weights": False},
        {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
        {"average_attn_weights": False},
    ],
    ids=lambda masks: ",".join(masks),
)
@pytest.mark.parametrize("is_cross", [False, True], ids=["self", "cross"])
def test_split_attention_computes_the_same(
    options: dict[str, Any], masks: dict[str, Any], is_cross: bool
) -> None:
    if "attn_mask" in masks and not options["batch_first"]:
        masks = {**masks, "attn_mask": nn.Transformer.generate_square_subsequent_mask(3)}
    plain = attention(**options).eval()
    split = copy.deepcopy(plain)
    assert split_attention(split) == [split] and type(split) is SplitAttention
    x = tokens()
    memory = tokens(1) if is_cross else x
    for result, expected in zip(
        split(x, memory, memory, **masks), plain(x, memory, memory, **masks), strict=True
    ):
        assert (result is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(result, expected)


def test_masks_by_position_and_single_sequences_compute_the_same() -> None:
    plain = attention(batch_first=True).eval()
    split = copy.deepcopy(plain)
    split_attention(split)
    x = tokens()
    for result, expected in zip(
        split(x, x, x, PADDING, True, None, False),
        plain(x, x, x, PADDING, True, None, False),
        strict=True,
    ):
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(split(x[0], x[0], x[0])[0], plain(x[0], x[0], x[0])[0])


def test_joining_undoes_splitting() -> None:
    plain = attention(bias=False)
    before = {name: id(value) for name, value in plain.named_parameters()}
    join_attention(split_attention(plain))
    assert type(plain) is nn.MultiheadAttention and plain.in_proj_bias is None
    assert {name: id(value) for name, value in plain.named_parameters()} == before
    assert type(plain.out_proj) is type(attention().out_proj)


@pytest.mark.parametrize("kind", ["subclass", "other sizes", "own forward"])
def test_attention_of_another_kind_stays(kind: str) -> None:
    class Other(nn.MultiheadAttention):
        pass

    module = {
        "subclass": lambda: Other(WIDTH, 2),
        "other sizes": lambda: attention(kdim=6),
        "own forward": attention,
    }[kind]()
    if kind == "own forward":
        module.forward = lambda *_: None  # type: ignore[method-assign]
    assert split_attention(module) == []


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(40, 3))


def test_convert_masks_both_projections() -> None:
    model = encoder()
    subnetwork = biprop.convert(model, 0.5)
    first = "0.layers.0.self_attn"
    assert {f"{first}.in_proj", f"{first}.out_proj"} <= subnetwork.layers.keys()
    assert not any("attn" in name for name in subnetwork.left_alone)
    layer = model.get_submodule(f"{first}.in_proj")
    assert isinstance(layer, Masked)
    layer.effective_weight = lambda: torch.zeros(24, WIDTH)  # type: ignore[method-assign]
    with_zeros = model.eval()(tokens())
    del layer.effective_weight
    assert not torch.equal(with_zeros, model(tokens())), "attention reads the raw weights"


def test_scores_of_the_in_projection_get_a_gradient() -> None:
    model = encoder()
    subnetwork = biprop.convert(model, 0.5)
    model(tokens()).square().sum().backward()
    gradient = subnetwork.layers["0.layers.1.self_attn.in_proj"].scores.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_a_refused_model_is_unchanged() -> None:
    model = encoder()
    names = list(model.state_dict())
    with pytest.raises(biprop.UserError, match="no layer is named 'nothing'"):
        biprop.convert(model, {"*": 0.5, "nothing": 0.2})
    assert list(model.state_dict()) == names


def test_a_ticket_fills_a_new_transformer() -> None:
    model = encoder()
    subnetwork = biprop.convert(model, 0.5)
    ticket = biprop.Ticket.from_model(model, subnetwork, example=tokens())
    expected = model.eval()(tokens())
    torch.testing.assert_close(ticket.to_model(encoder())(tokens()), expected)
    torch.testing.assert_close(ticket.to_model()(tokens()), expected)
