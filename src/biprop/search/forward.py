"""The forward pass in training: data parallel, compiled, in bfloat16, channels last."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import distributed
from ..config import Config
from ..distributed import Group, sync_batchnorm
from ..errors import UserError
from ..evaluation.memory_format import channels_last, is_in_channels_last
from ..models.network import Network, Task

COMPILER_MODULES = ("torch._dynamo", "torch._inductor")
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""Processor features that multiply in bfloat16. Without them a convolution in bfloat16 is slower
than in float32, because it is emulated. With AMX it was not measured.
"""


class TrainingForward:
    """Computes the logits of training batches, as the options ask for it.

    Args:
        network: on `device`.
        task: what it takes.
        config: the options `compile`, `amp`, `channels_last`, `sync_batchnorm`, `bf16_gradients`.
        device: of the network and the images.
        group: the processes that train together.

    Attributes:
        is_in_channels_last: whether the network is given images in that memory format.

    Raises:
        UserError: `channels_last` is asked for, and the network does not take it.
    """

    def __init__(
        self, network: Network, task: Task, config: Config, device: torch.device, group: Group
    ) -> None:
        self._device = device
        self._is_compiled = config.compile
        is_automatic = config.amp == "auto"
        self._is_bfloat16 = config.amp == "bf16" or (is_automatic and has_fast_bfloat16(device))
        self.is_in_channels_last = is_in_channels_last(config, network.model, task, device)
        self._module = network.model
        if group.size > 1:
            self._module = _data_parallel(network.model, config, device)
        if config.compile:
            if network.subnetwork:
                # Moving the model to a device made its masks stale: the compiler would trace the
                # branch that recomputes them.
                network.subnetwork.update()
            self._module = torch.compile(self._module)  # type: ignore[assignment]

    def set_training_mode(self) -> None:
        """Put the model into training mode."""
        self._module.train()

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W], in float32 whatever they are computed in.

        Raises:
            UserError: torch.compile cannot compile this network here.
        """
        return self._logits_of(self._module, images)

    @torch.no_grad()
    def logits_of(self, teacher: nn.Module, images: Tensor) -> Tensor:
        """The same of another network on the same device, without a gradient."""
        return self._logits_of(teacher, images)

    def _logits_of(self, module: nn.Module, images: Tensor) -> Tensor:
        if self.is_in_channels_last:
            images = channels_last(images)
        try:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bfloat16):
                logits: Tensor = module(images)
                return logits.float()
        except RuntimeError as e:
            if self._is_compiled and type(e).__module__.startswith(COMPILER_MODULES):
                reason = str(e).splitlines()[0]
                raise UserError(
                    f"--compile: torch.compile fails here: {reason}; leave it out"
                ) from None
            raise


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` computes in bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in BFLOAT16_INSTRUCTIONS)


def _data_parallel(model: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """The model in a wrapper that averages gradients over processes while they are computed.

    Batch-norm statistics are not sent in every step: `average_batch_norm_statistics` averages them
    once an epoch.
    """
    wrapper = nn.parallel.DistributedDataParallel
    new_name = "forward_sync_buffers"  # since PyTorch 2.13
    has_new_name = new_name in inspect.signature(wrapper).parameters
    no_buffers: dict[str, Any] = {new_name if has_new_name else "broadcast_buffers": False}
    if config.sync_batchnorm:
        sync_batchnorm.synchronise(model)
    device_ids = [device] if device.type == "cuda" else None
    wrapped = wrapper(model, device_ids=device_ids, **no_buffers)
    if config.bf16_gradients:
        # A lambda: of a function PyTorch would check the annotations.
        wrapped.register_comm_hook(
            None, lambda state, bucket: distributed.average_as_bfloat16(bucket)
        )
    return wrapped


def average_batch_norm_statistics(model: nn.Module, group: Group) -> None:
    """Replace the running statistics of all batch norms by their means over all processes."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    statistics = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
    group.average([tensor for tensor in statistics if tensor is not None])


@torch.no_grad()
def where_not_finite(model: nn.Module, images: Tensor) -> str:
    """A sentence that names the first layer whose output on `images` is not finite."""
    names: list[str] = []
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    handles = [
        module.register_forward_hook(_non_finite_hook(name, names))
        for name, module in leaves.items()
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    place = f"in layer {names[0]}" if names else "in the loss itself"
    return f"the loss is not finite: the first infinite or undefined value is {place}"


def _non_finite_hook(name: str, names: list[str]) -> Any:
    """A forward hook that appends `name` to `names` if its module's output is not finite."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            names.append(name)

    return hook
