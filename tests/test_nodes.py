"""Networks of a user's own on the compiled engine, where it has all their operations."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_networks import NETWORKS, batch_for, packed, trained
from test_trace import Of, ticket_of
from torch import Tensor, nn

from biprop import Engine, Ticket, TicketError, UserError
from biprop.engine import instruction_sets
from biprop.engine.lower import lower
from biprop.engine.reference import Reference
from biprop.engine.timing import measure


class Pools(nn.Module):
    """Every operation that the engine has, of dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, (3, 2), padding=1)
        self.norm = nn.BatchNorm2d(8, affine=False, eps=0.1)
        self.other = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8, 6)
        self.norm2 = nn.BatchNorm1d(6, eps=0.5)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.avg_pool2d(F.max_pool2d(x, 3, 2, 1), (2, 3), 2)
        x = self.other(x).amax((2, 3), keepdim=True) + self.other(F.adaptive_avg_pool2d(x, 1))
        features = self.head(x.flatten(1)[:, :, None, None].flatten(1))
        logits: Tensor = self.last(F.relu(self.norm2(torch.sign(features))))
        return logits


def test_the_engine_runs_what_it_has() -> None:
    engines = [Engine(packed(name)[1]) for name in ("resnet", "perceptron")]
    if instruction_sets():
        assert all(engine.compiled and not engine.fallback for engine in engines)


@pytest.mark.parametrize("name", ["resnet", "perceptron"])
@pytest.mark.skipif(not instruction_sets(), reason="no compiled core")
def test_logits_are_the_references(name: str) -> None:
    _, ticket = packed(name)
    batch = batch_for(name, 5).numpy()
    engine = Engine(ticket)
    expected = Reference(ticket).run(batch)
    np.testing.assert_allclose(engine.run(batch), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(engine.run(batch[0]), expected[:1], rtol=1e-4, atol=1e-5)
    pixels = (255 * np.random.default_rng(0).random(batch.shape)).astype(np.uint8)
    expected = Reference(ticket).run(pixels.astype(np.float32) / 255)
    np.testing.assert_allclose(engine.run(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not instruction_sets(), reason="no compiled core")
def test_every_pool_and_norm() -> None:
    ticket = ticket_of(Pools(), torch.randn(2, 3, 9, 11))
    batch = np.random.default_rng(0).standard_normal((4, 3, 9, 11)).astype(np.float32)
    expected = Reference(ticket).run(batch)
    np.testing.assert_allclose(Engine(ticket).run(batch), expected, rtol=1e-4, atol=1e-5)


REFUSALS: list[tuple[Any, str]] = [
    (lambda _, x: F.silu(x).mean((2, 3)), "no operation for silu$"),
    (lambda _, x: F.relu(x), "that gives maps as output"),
    (lambda _, x: x.mean(2).amax(2), "for mean: means and maxima of whole maps"),
    (lambda _, x: (x + x[:, :, :1]).mean((2, 3)), "no operation for slice"),
    (lambda self, x: x.amax((2, 3)) @ self.weight, "no operation for tensor weight"),
    (lambda _, x: x.transpose(2, 3).mean((2, 3)), "no operation for permute"),
    (lambda _, x: F.relu(x.reshape(-1, 24, 3, 1)).flatten(1), "no operation for reshape of"),
    (lambda _, x: F.avg_pool2d(x, 2, 1, 1).mean((2, 3)), "for avg_pool: pools with equal"),
    (lambda _, x: F.max_pool2d(x, 2, (1, 2)).mean((2, 3)), "for max_pool: pools with equal"),
    (lambda self, x: self.children_[0](x).mean((2, 3)), r"for conv children_\.0\.weight: conv"),
    (lambda self, x: self.children_[1](x).mean((2, 3)), r"for conv children_\.1\.weight: conv"),
    (lambda self, x: F.linear(x, self.weight[:, :3]).mean((2, 3)), "no operation for linear"),
    (lambda self, x: F.linear(x.amax((2, 3)), self.weight[:, :4]), "not one module's"),
]


@pytest.mark.parametrize(("function", "message"), REFUSALS)
def test_what_it_lacks_is_one_line_that_names_the_operation(function: Any, message: str) -> None:
    convs = (nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, stride=(1, 2)))
    ticket = ticket_of(Of(function, *convs), torch.randn(2, 4, 6, 3))
    with pytest.raises(TicketError, match=message) as e:
        lower(ticket)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"resnet", "perceptron"}))
def test_numpy_runs_the_others_and_the_warning_says_why(name: str) -> None:
    _, ticket = packed(name)
    with pytest.warns(RuntimeWarning, match="the engine .*: numpy runs this network, slowly"):
        engine = Engine(ticket)
    batch = batch_for(name, 2).numpy()
    assert not engine.compiled
    np.testing.assert_array_equal(engine.run(batch), Reference(ticket).run(batch))
    assert engine.shape == batch.shape[1:]
    with pytest.raises(UserError, match="not written, as no core could load it: the engine"):
        engine.save_program("x.bprog")


def test_inputs_of_another_kind_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        words, series = Engine(packed("words")[1]), Engine(packed("series")[1])
    for engine, batch, message in (
        (words, np.zeros((2, 6)), "of type float64: the network takes whole numbers"),
        (words, np.full((2, 6), 11), "from 11 to 11: the network's embedding takes 0 .. 10"),
        (words, np.zeros((2, 5), np.int64), r"shape \(2, 5\): the network takes \[B, 6\]"),
        (series, np.zeros((3, 24)), r"shape \(3, 24\): the network takes \[B, 2, 24\]"),
        (series, np.full((1, 2, 24), np.nan), "NaN or infinite"),
    ):
        with pytest.raises(UserError, match=re.sub(r"\.\. ", r"\\.\\. ", message)):
            engine.run(batch)
    assert next(iter(measure(words, [2], 0.01))).images_per_second > 0


def test_normalisation_is_of_the_channels_of_any_input() -> None:
    model, subnetwork = trained("series")
    about = {"mean": (0.25, 0.5), "std": (0.5, 2.0)}
    ticket = Ticket.from_model(model, subnetwork, example=batch_for("series"), **about)
    ticket = Ticket.from_bytes(ticket.to_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        engine = Engine(ticket)
    samples = np.random.default_rng(0).random((2, 2, 24), np.float32)
    mean, std = (np.array(about[name], np.float32).reshape(1, 2, 1) for name in ("mean", "std"))
    expected = Reference(ticket).run((samples - mean) / std)
    np.testing.assert_allclose(engine.run(samples), expected, rtol=1e-5, atol=1e-6)
