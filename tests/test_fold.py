"""Folded batch norms: half the numbers, the same results."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, network_of, random_ticket
from own_networks import batch_for, packed, trained
from test_ticket import taken_apart, with_sum

from biprop import Ticket, TicketError
from biprop.engine.reference import Reference
from biprop.ticket.fold import batch_norms, fold, folded_norms
from biprop.ticket.report import ticket_report

NETWORK = network_of("Conv2Wide", (8, 8), width_mult=0.0625, bn_type="AffineBatchNorm")


def folded(ticket: Ticket) -> Ticket:
    norms = batch_norms(ticket.network, ticket.graph, ticket.state)
    return replace(ticket, state=fold(ticket.state, norms))


def affine_ticket() -> Ticket:
    return random_ticket(network_of("Wide_VGG_Small_132", channels=1, bn_type="AffineBatchNorm"))


def test_a_folded_network_computes_the_same() -> None:
    ticket = affine_ticket()
    images = np.random.default_rng(0).random((3, *(ticket.input_shape or ())), np.float32)
    expected = Reference(ticket).run(images)
    np.testing.assert_allclose(
        Reference(folded(ticket)).run(images), expected, rtol=1e-4, atol=1e-4 * expected.std()
    )
    _, own = packed("resnet")
    batch = batch_for("resnet").numpy()
    np.testing.assert_allclose(
        Reference(folded(own)).run(batch), Reference(own).run(batch), rtol=1e-4, atol=1e-5
    )


def test_compact_tickets_take_four_bytes_a_channel(tmp_path: Path) -> None:
    ticket = replace(affine_ticket(), compact=True)
    small = folded(ticket)
    channels = sum(value.size for name, value in ticket.state.items() if "running_var" in name)
    saved = len(ticket.to_bytes()) - len(small.to_bytes())
    assert abs(saved - 4 * channels) < 60 + 0.1 * 4 * channels
    assert small.left_out == 2 * channels
    (row,) = (value for name, value in ticket_report(small, 9999).totals if "batch norm" in name)
    assert row.startswith(f"{4 * channels:,} bytes: {2 * channels:,} numbers in 16 bits")
    again = Ticket.from_bytes(small.to_bytes())
    assert again.to_bytes() == small.to_bytes()
    assert again.state.keys() == small.state.keys()
    mean, variance = (again.state[f"convs.1.running_{part}"] for part in ("mean", "var"))
    assert not mean.any() and (variance == np.float32(1 - 1e-5)).all()
    again.to_model()


def test_only_compact_tickets_leave_numbers_out() -> None:
    ticket = affine_ticket()
    assert b'"version":"1"' in replace(ticket, compact=True).to_bytes()
    assert b'"version":"1"' in folded(ticket).to_bytes()
    assert b'"version":"2"' in replace(folded(ticket), compact=True).to_bytes()


def test_batch_norms_without_factors_or_scale_stay() -> None:
    plain = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    assert not batch_norms(plain.network, None, plain.state)
    assert not batch_norms({**NETWORK, "name": "Conv9"}, None, plain.state)
    ticket = affine_ticket()
    name = next(name for name in ticket.state if name.endswith("running_var"))
    ticket.state[name] = -ticket.state[name]
    kept = folded(ticket).state
    assert np.array_equal(kept[name], ticket.state[name])
    norms = batch_norms(ticket.network, None, ticket.state)
    assert len(folded_norms(kept, norms)) == len(norms) - 1


def test_a_norm_that_is_read_twice_is_not_folded() -> None:
    _, ticket = packed("resnet")
    assert ticket.graph
    norms = batch_norms(None, ticket.graph, ticket.state)
    assert norms == {"norm1": 1e-3, "norm2": 1e-5}
    operations = (*ticket.graph.operations, ticket.graph.operations[1])
    twice = replace(ticket.graph, operations=operations)
    assert list(batch_norms(None, twice, ticket.state)) == ["norm2"]


def test_from_model_folds_where_the_ticket_is_compact() -> None:
    model, subnetwork = trained("resnet")
    batch = batch_for("resnet")
    ticket = Ticket.from_model(model, subnetwork, example=batch, compact=True)
    assert ticket.left_out == 2 * (16 + 16)
    rebuilt = Ticket.from_bytes(ticket.to_bytes()).to_model()
    with torch.no_grad():
        expected = model(batch)
        assert (rebuilt(batch) - expected).abs().max() < 0.1 * expected.std()


@pytest.mark.parametrize(
    "group",
    [
        [["norm1"], ["weight", "bias"], [16], 1.0],
        [["norm1"], ["weight", "bias"], [16], -1e-5],
        [["norm1"], ["weight", "bias"], [16], True],
        [["norm1"], ["bias", "weight"], [16], 1e-3],
        [["norm1"], ["weight", "bias"], [4, 4], 1e-3],
        [["norm1"], ["weight", "bias"], [16], 1e-3, 0],
        [["norm1"], ["weight"], [32], 1e-3],
    ],
)
def test_hostile_directories_are_refused(group: list[Any]) -> None:
    header, description, data = taken_apart((ROOT / "tests" / "golden" / "folded.mpt").read_bytes())
    assert description["state"][0] == [["norm1"], ["weight", "bias"], [16], 0.001]
    description["state"][0] = group
    header["__metadata__"]["ticket"] = json.dumps(description)
    with pytest.raises(TicketError, match="damaged"):
        Ticket.from_bytes(with_sum(header, data))


def test_version_1_has_no_folded_batch_norms() -> None:
    header, _, data = taken_apart((ROOT / "tests" / "golden" / "folded.mpt").read_bytes())
    header["__metadata__"]["version"] = "1"
    with pytest.raises(TicketError, match="the directory of the state"):
        Ticket.from_bytes(with_sum(header, data))
