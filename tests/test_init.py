import math

import pytest
import torch

from biprop import rng
from biprop.subnetwork import init

SHAPE = torch.Size([64, 32, 3, 3])
FAN_IN, FAN_OUT = 32 * 9, 64 * 9


def draw(name: str, **options: object) -> torch.Tensor:
    return init.draw_weight(SHAPE, 5, 2, init=name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("kaiming_normal", math.sqrt(2 / FAN_IN)),
        ("kaiming_uniform", math.sqrt(2 / FAN_IN)),
        ("xavier_normal", math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("xavier_constant", math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("signed_constant", math.sqrt(2 / FAN_IN)),
        ("standard", 1 / math.sqrt(3 * FAN_IN)),
        ("binary", 1.0),
    ],
)
def test_signed_inits_have_their_spread_and_the_generators_signs(name: str, std: float) -> None:
    weight = draw(name)
    assert float(weight.pow(2).mean().sqrt()) == pytest.approx(std, rel=0.03)
    bits = torch.from_numpy(rng.sign_bits(5, 2, SHAPE.numel())).view(SHAPE)
    assert torch.equal(weight > 0, bits == 1)


def test_unsigned_inits() -> None:
    std = math.sqrt(2 / FAN_IN)
    assert torch.equal(draw("unsigned_constant"), torch.full(SHAPE, std))
    assert torch.equal(draw("ones"), torch.ones(SHAPE))
    assert set(draw("bernoulli").unique().tolist()) == {0.0, 1.0}
    assert draw("usc_bernoulli").unique().tolist() == pytest.approx([0.0, std])


def test_mode_nonlinearity_and_scale_fan() -> None:
    assert float(draw("unsigned_constant", mode="fan_out").flatten()[0]) == pytest.approx(
        math.sqrt(2 / FAN_OUT)
    )
    assert float(draw("unsigned_constant", nonlinearity="linear").flatten()[0]) == pytest.approx(
        math.sqrt(1 / FAN_IN)
    )
    # Keeping 20 % multiplies the fan by 0.8: an oddity of the published results.
    scaled = draw("unsigned_constant", scale_fan=True, density=0.2)
    assert float(scaled.flatten()[0]) == pytest.approx(math.sqrt(2 / (0.8 * FAN_IN)))
    assert torch.equal(draw("standard", scale_fan=True, density=0.2), draw("standard"))
    with pytest.raises(ValueError, match="scale_fan"):
        draw("kaiming_normal", scale_fan=True, density=1.0)
    with pytest.raises(ValueError, match="kaiming_normal"):
        draw("kaiming")


def test_scores_are_kaiming_uniform_with_a_sqrt_5() -> None:
    scores = init.draw_scores(SHAPE, 5, 2)
    bound = 1 / math.sqrt(FAN_IN)
    assert float(scores.abs().max()) <= bound
    assert float(scores.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_other_layers_and_torchs_generator_change_nothing() -> None:
    first = draw("kaiming_normal")
    torch.manual_seed(99)
    assert torch.equal(first, draw("kaiming_normal"))
    assert not torch.equal(first, init.draw_weight(SHAPE, 5, 3))
