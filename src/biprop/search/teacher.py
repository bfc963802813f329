"""The network whose predictions a search learns: distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint
from .. import config as options
from ..config import Config
from ..data import DataSet
from ..errors import UserError, abbreviated
from ..evaluation import subject
from ..evaluation.subject import Subject
from ..names import DECK_SUFFIX, TICKET_SUFFIX
from ..runs.folder import find_checkpoint


class Teacher(nn.Module):
    """A network that takes the images of a search, normalised as the search normalises them.

    Args:
        network: its model takes images that are normalised by its own mean and standard deviation,
            or by the search's where these are unknown.
        images: the data of the search.

    Attributes:
        arch: name of the network.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, network: Subject, images: DataSet) -> None:
        super().__init__()
        self.model, self.arch = network.model, network.config.arch
        searched = torch.tensor([images.mean, images.std])
        is_known = network.mean and network.std
        own = torch.tensor([network.mean, network.std]) if is_known else searched
        # (x * std + mean - own mean) / own std, for x as the search normalises it
        by_channel = (-1, *[1] * len(images.input_size))
        self.register_buffer("factor", (searched[1] / own[1]).view(by_channel))
        self.register_buffer("shift", ((searched[0] - own[0]) / own[1]).view(by_channel))
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, ...]."""
        logits: Tensor = self.model(images * self.factor + self.shift)
        return logits


def load(config: Config, images: DataSet, device: torch.device) -> Teacher | None:
    """The teacher that the option `teacher` names; None: there is none.

    Args:
        config: the options of the search.
        images: its data.
        device: where the search runs.

    Raises:
        UserError: the file cannot be read, is of another task or of other classes, or of a network
            of the user's own that is not the one that is searched; or plain images are asked for,
            and the search sees random parts of them.
    """
    if config.teacher is None:
        return None
    if config.teacher.endswith(DECK_SUFFIX):
        raise UserError(
            f"--teacher {config.teacher}: a deck: a teacher is one network: pass a ticket"
            f" ({TICKET_SUFFIX}), a run folder or a checkpoint"
        )
    if config.teacher_views == "plain" and images.train.crops:
        raise UserError(
            "--teacher-views plain: the search sees random parts of streamed images, of which the"
            " teacher's prediction for the whole image says little: leave it out"
        )
    flags = {"set": config.set}
    if config.set != "digits":  # which are in no folder
        flags["data"] = config.data
    try:
        network = subject.of_file(config.teacher, flags | _code(config))
        subject.check_task(network, images)
    except UserError as e:
        raise UserError(f"--teacher {e}") from None
    return Teacher(network, images).to(device)


def _code(config: Config) -> dict[str, Any]:
    """The options `arch` and `arch_args` for a teacher whose network is code: only the code that
    is searched is run.

    Raises:
        UserError: the teacher's network is other code.
    """
    assert config.teacher
    if config.teacher.endswith(TICKET_SUFFIX):
        return {}  # which holds the operations of its network
    arch = checkpoint.load(find_checkpoint(config.teacher))["arch"]
    if not (isinstance(arch, str) and options.is_own(arch)):
        return {}
    if not options.is_same(arch, config.arch):
        raise UserError(
            f"{config.teacher}: its network is code, {abbreviated(arch)}, and only that of --arch"
            " is run: pass a ticket of it (biprop pack), or a teacher of another network"
        )
    return {"arch": config.arch, "arch_args": config.arch_args}
