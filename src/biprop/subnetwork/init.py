"""First weights and scores: magnitudes from the chosen initialisation, signs from the ticket's own
generator.

A ticket keeps only signs and one gain per layer, so the magnitudes need no generator of ours: they
act on the search (they scale the gradient of the scores) and on the gain, which is stored.
"""

from __future__ import annotations

import math
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
SCALES_FAN = ("kaiming_normal", "signed_constant", "unsigned_constant", "usc_bernoulli", "binary")
"""Initialisations on which `scale_fan` acts."""

_FLOAT32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Whatever torch's defaults are: a draw depends on the seed alone."""


def fans(shape: torch.Size) -> tuple[int, int]:
    """(fan in, fan out) of a weight, as `torch.nn.init` counts them: [out, in / groups, ...] times
    the kernel's size.
    """
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _generator(seed: int, stream: rng.Stream, layer: int) -> torch.Generator:
    return torch.Generator().manual_seed(rng.derive(seed, stream, layer))


def check(
    init: str, scale_fan: bool, density: float, mode: str = "fan_in", nonlinearity: str = "relu"
) -> None:
    """Raise UserError unless `draw_weight` can follow these."""
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
        shape: of the weight.
        seed: of the ticket, 0 .. 2**64 - 1.
        layer: the layer's number; no other layer changes the draw.
        init: one of `INITS`. With std = gain(nonlinearity) / sqrt(fan):
            kaiming_normal N(0, std), kaiming_uniform the uniform one of that std, xavier_normal,
            xavier_constant +-sqrt(2 / (fan_in + fan_out)), signed_constant +-std, unsigned_constant
            +std, standard U(+-1 / sqrt(fan_in)), ones, binary +-1, bernoulli 0 or 1 at one half,
            usc_bernoulli 0 or std.
        mode: fan_in or fan_out.
        nonlinearity: a name that `torch.nn.init.calculate_gain` knows.
        scale_fan: multiply the fan by (1 - density). With density the fraction kept this widens the
            weights of dense layers rather than sparse ones; it is what the published results used.
        density: see `scale_fan`.

    Returns:
        float32 tensor on the CPU.

    Raises:
        UserError: unknown `init`, `mode` or `nonlinearity`, or `scale_fan` at density 1.
    """
    check(init, scale_fan, density, mode, nonlinearity)
    fan_in, fan_out = fans(shape)
    fan: float = fan_in if mode == "fan_in" else fan_out
    if scale_fan and init in SCALES_FAN:
        fan *= 1 - density
    std = torch.nn.init.calculate_gain(nonlinearity) / math.sqrt(fan)  # type: ignore[arg-type]
    xavier = math.sqrt(2 / (fan_in + fan_out))
    generator = _generator(seed, rng.Stream.MAGNITUDES, layer)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, **_FLOAT32).abs_()

    def uniform() -> Tensor:
        return torch.rand(shape, generator=generator, **_FLOAT32)

    def coin() -> Tensor:
        return (uniform() < 0.5).float()

    magnitude = {
        "kaiming_normal": lambda: normal() * std,
        "kaiming_uniform": lambda: uniform() * std * math.sqrt(3),
        "xavier_normal": lambda: normal() * xavier,
        "xavier_constant": lambda: torch.full(shape, xavier, **_FLOAT32),
        "signed_constant": lambda: torch.full(shape, std, **_FLOAT32),
        "standard": lambda: uniform() / math.sqrt(fan_in),
        "binary": lambda: torch.ones(shape, **_FLOAT32),
        "unsigned_constant": lambda: torch.full(shape, std, **_FLOAT32),
        "ones": lambda: torch.ones(shape, **_FLOAT32),
        "bernoulli": coin,
        "usc_bernoulli": lambda: coin() * std,
    }[init]()
    return magnitude * draw_signs(shape, seed, layer) if init in SIGNED else magnitude


def draw_signs(shape: torch.Size, seed: int, layer: int) -> Tensor:
    """The layer's random signs, +1 or -1, float32 on the CPU: bits of `rng.sign_bits` in C order."""
    bits = rng.sign_bits(seed, layer, shape.numel())
    return torch.from_numpy(bits).view(shape).float().mul_(2).sub_(1)


def draw_scores(shape: torch.Size, seed: int, layer: int) -> Tensor:
    """First scores of one layer: Kaiming uniform with a = sqrt(5), that is U(+-1 / sqrt(fan_in));
    float32 on the CPU.
    """
    generator = _generator(seed, rng.Stream.SCORES, layer)
    return (torch.rand(shape, generator=generator, **_FLOAT32) * 2 - 1) / math.sqrt(fans(shape)[0])
