"""Initial weights and scores: magnitudes from the chosen initialisation, signs from the ticket's
own generator.

A ticket stores only signs and one gain per layer, so magnitudes are drawn by PyTorch's generator:
they scale the gradients of the scores during the search, and enter the gain, which is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..errors import UserError

SIGNED = (
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_constant",
    "signed_constant",
    "standard",
    "binary",
)
"""Initialisations with random signs."""
UNSIGNED = ("unsigned_constant", "ones", "bernoulli", "usc_bernoulli")
"""Initialisations whose weights are all >= 0."""
INITS = SIGNED + UNSIGNED
"""All initialisations. With std = gain(nonlinearity) / sqrt(fan):

kaiming_normal N(0, std), kaiming_uniform the uniform distribution of that std, xavier_normal
N(0, s) and xavier_constant +-s with s = sqrt(2 / (fan_in + fan_out)), signed_constant +-std,
standard U(+-1 / sqrt(fan_in)), binary +-1, unsigned_constant std, ones 1, bernoulli 0 or 1 with
probability one half, usc_bernoulli 0 or std.
"""
SCALES_FAN = ("kaiming_normal", "signed_constant", "unsigned_constant", "usc_bernoulli", "binary")
"""Initialisations on which `scale_fan` acts."""

_FLOAT32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Given explicitly: a draw depends on the seed alone, not on PyTorch's default dtype or device."""


def fans(shape: torch.Size) -> tuple[int, int]:
    """(fan in, fan out) of a weight of shape [out, in / groups, *kernel], as `torch.nn.init` counts
    them: channels times the kernel's size.
    """
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _generator(seed: int, stream: rng.Stream, layer: int) -> torch.Generator:
    """PyTorch's generator for one layer's magnitudes or scores."""
    return torch.Generator().manual_seed(rng.derive(seed, stream, layer))


def check(
    init: str, scale_fan: bool, density: float, mode: str = "fan_in", nonlinearity: str = "relu"
) -> None:
    """Raise UserError unless `draw_weight` accepts these arguments."""
    if mode not in ("fan_in", "fan_out"):
        raise UserError(f"mode = {mode!r}: must be 'fan_in' or 'fan_out'")
    try:
        torch.nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]
    except ValueError:
        raise UserError(
            f"nonlinearity = {nonlinearity!r}: torch.nn.init.calculate_gain does not know it; try"
            " 'relu'"
        ) from None
    if init not in INITS:
        raise UserError(f"init = {init!r}: must be one of {', '.join(INITS)}")
    if scale_fan and init in SCALES_FAN and density >= 1:
        raise UserError(
            "scale_fan multiplies the fan by (1 - density), which is 0 at density 1: turn it off or"
            " keep fewer"
        )


def draw_weight(
    shape: torch.Size,
    seed: int,
    layer: int,
    *,
    init: str = "kaiming_normal",
    mode: str = "fan_in",
    nonlinearity: str = "relu",
    scale_fan: bool = False,
    density: float = 1.0,
) -> Tensor:
    """Random weights of one layer.

    Args:
        shape: of the weight, [out, in / groups, *kernel].
        seed: of the ticket, 0 .. 2**64 - 1.
        layer: the layer's number; no other layer changes the draw.
        init: one of `INITS`.
        mode: "fan_in" or "fan_out", which fan std is computed from.
        nonlinearity: a name that `torch.nn.init.calculate_gain` knows.
        scale_fan: multiply the fan by (1 - density). As density is the fraction kept, this widens
            the weights of dense layers, not of sparse ones; the published results used it.
        density: see `scale_fan`.

    Returns:
        float32 tensor of `shape` on the CPU.

    Raises:
        UserError: unknown `init`, `mode` or `nonlinearity`, or `scale_fan` at density 1.
    """
    check(init, scale_fan, density, mode, nonlinearity)
    fan_in, fan_out = fans(shape)
    fan: float = fan_in if mode == "fan_in" else fan_out
    if scale_fan and init in SCALES_FAN:
        fan *= 1 - density
    gain = torch.nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]
    std = gain / math.sqrt(fan)
    magnitude = _MAGNITUDES[init](
        _Magnitudes(shape, _generator(seed, rng.Stream.MAGNITUDES, layer), std)
    )
    return magnitude * draw_signs(shape, seed, layer) if init in SIGNED else magnitude


@dataclass(frozen=True)
class _Magnitudes:
    """The distributions of one layer's magnitudes; each returns float32 of `shape` on the CPU.

    Attributes:
        generator: what they are drawn from.
        std: gain(nonlinearity) / sqrt(fan).
    """

    shape: torch.Size
    generator: torch.Generator
    std: float

    def normal(self) -> Tensor:
        """|N(0, 1)|."""
        return torch.randn(self.shape, generator=self.generator, **_FLOAT32).abs_()

    def uniform(self) -> Tensor:
        """U(0, 1)."""
        return torch.rand(self.shape, generator=self.generator, **_FLOAT32)

    def bernoulli(self) -> Tensor:
        """0 or 1, each with probability one half."""
        return (self.uniform() < 0.5).float()

    def constant(self, value: float) -> Tensor:
        return torch.full(self.shape, value, **_FLOAT32)

    @property
    def xavier(self) -> float:
        """The standard deviation of Xavier's initialisation: sqrt(2 / (fan_in + fan_out))."""
        return math.sqrt(2 / sum(fans(self.shape)))

    def standard(self) -> Tensor:
        """U(0, 1 / sqrt(fan_in))."""
        return self.uniform() / math.sqrt(fans(self.shape)[0])

    def kaiming_uniform(self) -> Tensor:
        """U(0, std sqrt(3)): its standard deviation over both signs is std."""
        uniform = self.uniform()
        return uniform * self.std * math.sqrt(3)


_MAGNITUDES: dict[str, Callable[[_Magnitudes], Tensor]] = {
    "kaiming_normal": lambda draw: draw.normal() * draw.std,
    "kaiming_uniform": _Magnitudes.kaiming_uniform,
    "xavier_normal": lambda draw: draw.normal() * draw.xavier,
    "xavier_constant": lambda draw: draw.constant(draw.xavier),
    "signed_constant": lambda draw: draw.constant(draw.std),
    "standard": _Magnitudes.standard,
    "binary": lambda draw: draw.constant(1),
    "unsigned_constant": lambda draw: draw.constant(draw.std),
    "ones": lambda draw: draw.constant(1),
    "bernoulli": _Magnitudes.bernoulli,
    "usc_bernoulli": lambda draw: draw.bernoulli() * draw.std,
}
"""Initialisation -> magnitudes of a layer's weights."""


def draw_signs(shape: torch.Size, seed: int, layer: int) -> Tensor:
    """Random signs of one layer: +1 or -1, float32 of `shape` on the CPU, from the bits of
    `rng.sign_bits` in C order.
    """
    bits = rng.sign_bits(seed, layer, shape.numel())
    return torch.from_numpy(bits).view(shape).float().mul_(2).sub_(1)


def draw_scores(shape: torch.Size, seed: int, layer: int) -> Tensor:
    """Initial scores of one layer: Kaiming uniform with a = sqrt(5), that is U(+-1 / sqrt(fan_in));
    float32 of `shape` on the CPU.
    """
    generator = _generator(seed, rng.Stream.SCORES, layer)
    uniform = torch.rand(shape, generator=generator, **_FLOAT32) * 2 - 1
    return uniform / math.sqrt(fans(shape)[0])
