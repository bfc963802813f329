"""The memory format channels_last of images, in which a CPU computes convolutions faster."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from ..config import Config, has_graph
from ..errors import UserError, one_line
from ..models.network import Task

EXAMPLES = 2


def channels_last(images: Tensor) -> Tensor:
    """Images [B, C, H, W] in the memory format channels_last; other data as they are.

    Convolutions adopt the format of their images. Weights keep theirs, and scores with them the
    order in which ties of the top-k selection are broken.
    """
    if images.dim() != 4:
        return images
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def why_not_channels_last(model: nn.Module, task: Task) -> Exception | None:
    """What a network raises on images in channels_last, in evaluation or training mode:
    `Tensor.view` in a network of the user's own fails there. None: it takes them.

    It is afterwards as before, and so are PyTorch's random numbers.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    like = next(filter(torch.is_floating_point, tensors), torch.empty(0))
    images = channels_last(like.new_zeros(EXAMPLES, *task.shape))
    trial = copy.deepcopy(model)
    try:
        with torch.random.fork_rng(devices=[]):
            trial.eval()(images)
            trial.train()(images)
    except Exception as error:  # whatever the user's code raises
        return error
    return None


def is_in_channels_last(config: Config, model: nn.Module, task: Task, device: torch.device) -> bool:
    """Whether a network is given its images in channels_last: if it takes them, which those of the
    registry do, and the option `channels_last` is set, or is None and the device is the CPU.

    Raises:
        UserError: the option is set, and the network does not take them.
    """
    asked = config.channels_last
    is_wanted = device.type == "cpu" if asked is None else asked
    if not (is_wanted and has_graph(config.arch)):
        return is_wanted
    reason = why_not_channels_last(model, task)
    if asked and reason:
        raise UserError(
            f"--channels-last: --arch {config.arch} does not take images in this memory format:"
            f" {type(reason).__name__}: {one_line(reason)}; leave it out"
        )
    return reason is None
