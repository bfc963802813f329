"""Before data are read and a search begins: a network that is no registry's takes such data, trains
and can be packed. What fails here would otherwise fail after the search.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from .. import config as options
from ..config import Config
from ..errors import UserError
from ..models import own, plans
from ..models.network import Network, Task, build_network
from ..ticket import Ticket
from .pack import example_batch


def rehearse(config: Config, task: Task) -> None:
    """Build the network of a search, run a batch of random numbers through it, train one step, and
    pack it.

    Of a network of the registry only the name is checked: all else is known.

    Args:
        config: the options of the search.
        task: classes and shape of the data.

    Raises:
        UserError: the network cannot be built, does not take such data, does not give their
            classes, cannot be trained or packed; the message names it.
    """
    if not options.has_graph(config.arch):
        plans.check_name(config.arch)
        return
    network = build_network(config, task)
    with torch.random.fork_rng(devices=[]):
        _check_logits(config.arch, network, task)
        _check_training(config.arch, network, task)
        if network.subnetwork:
            with own.errors_of(config.arch, ""):
                Ticket.from_model(network.model, network.subnetwork, example=example_batch(task))


def _check_logits(arch: str, network: Network, task: Task) -> None:
    batch = example_batch(task)
    model = network.model.eval()
    with torch.no_grad(), own.errors_of(arch, f": a batch {list(batch.shape)}"):
        logits = model(batch)
    own.check_logits(arch, logits, len(batch), task.num_classes)


def _check_training(arch: str, network: Network, task: Task) -> None:
    """One forward and one backward pass in training mode, of a copy."""
    batch = example_batch(task)
    with own.errors_of(arch, f": a training step on a batch {list(batch.shape)}"):
        model = copy.deepcopy(network.model).train()
        logits = model(batch)
    own.check_logits(arch, logits, len(batch), task.num_classes)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = F.cross_entropy(logits, torch.zeros(len(batch), dtype=torch.int64))
    if not loss.requires_grad:
        raise UserError(f"--arch {arch}: its logits depend on no parameter that trains")
    with own.errors_of(arch, ": a backward pass"):
        torch.autograd.grad(loss, parameters, allow_unused=True)
