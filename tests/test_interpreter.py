"""A graph as a module: what PyTorch does with modules works, and hostile names are refused."""

import copy
import pickle

import pytest
import torch
from own_networks import batch_for, packed

from biprop import TicketError
from biprop.models.interpreter import Interpreter
from biprop.models.operations import Graph, Operation

RELU = Graph((-1, 3), (Operation("relu", (0,)),))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a.b"], "no module has a tensor of the name 'a.b'"),
        (["a.b", "a"], "no module has a tensor of the name 'a'"),
        (["a..b"], "no module has a tensor of the name 'a..b'"),
        (["train.weight"], "no module has a tensor of the name 'train.weight'"),
        (["training"], "no module has a tensor of the name 'training'"),
        (["a." * 101 + "b"], "a tensor in 101 modules"),
    ],
)
def test_names_that_no_module_has_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(TicketError, match=message):
        Interpreter(RELU, dict.fromkeys(names, (2,)))


def test_it_is_copied_moved_and_saved_as_any_module() -> None:
    _, ticket = packed("transformer")
    model, batch = ticket.to_model(), batch_for("transformer")
    expected = model(batch)
    copied = copy.deepcopy(model).double()
    assert torch.allclose(copied(batch.double()).float(), expected, atol=1e-5)
    assert torch.equal(pickle.loads(pickle.dumps(model))(batch), expected)
    other = ticket.to_model()
    with torch.no_grad():
        other.head.weight.zero_()
    assert not torch.allclose(other(batch), expected)
    other.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(other(batch), expected)


def test_gradients_reach_the_input_and_batch_norm_stays() -> None:
    _, ticket = packed("depthwise")
    model = ticket.to_model().train()
    before = model.state_dict()["blocks.0.norm1.running_mean"].clone()
    batch = batch_for("depthwise").requires_grad_()
    model(batch).square().sum().backward()
    assert batch.grad is not None and float(batch.grad.abs().max()) > 0
    assert torch.equal(model.state_dict()["blocks.0.norm1.running_mean"], before)
