"""Each operation against Pillow's on the same parameters, and the parameters against their
definition.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from biprop import native
from biprop.data import augmix
from biprop.data.augmix import ENHANCEMENTS, OPERATIONS, Array, AugMix

COUNT = 60
# Largest mean absolute difference per pixel, in grey levels: of what maps grey levels none; where
# Pillow computes in double precision and truncates, a few pixels differ by one level.
BOUNDS = dict.fromkeys(OPERATIONS + ENHANCEMENTS, 0.0) | {
    "autocontrast": 0.03, "rotate": 0.01, "shear_x": 0.01, "shear_y": 0.01,
    "color": 0.02, "contrast": 0.02, "brightness": 0.02, "sharpness": 0.02,
}  # fmt: skip


@pytest.fixture(params=["compiled", "tensors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute: the compiled core, and tensor operations."""
    if request.param == "tensors":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("installed without the compiled core")
    return str(request.param)


def one_operation(
    images: torch.Tensor, operation: int, levels: Array, signs: Array
) -> torch.Tensor:
    """Image i after one operation at levels[i]: a mixture of one chain of one operation, and
    nothing of the image itself.
    """
    count = len(images)
    ones = np.ones((count, 1))
    operations, levels, signs = (
        np.full((count, 1, 1), operation),
        levels.reshape(-1, 1, 1),
        signs.reshape(-1, 1, 1),
    )
    drawn = augmix.Draw(operations, levels, signs, ones.astype(np.int64), ones, np.ones(count))
    return augmix.augmix(images, drawn)


def random_images(
    channels: int = 3, height: int = 32, width: int = 32, count: int = COUNT, seed: int = 0
) -> torch.Tensor:
    """Smooth ones, noise, and flat ones: the same for a seed, whatever was drawn before."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    smooth = (
        torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        .clamp(0, 1)
        .mul(255)
        .to(torch.uint8)
    )
    smooth[1::6] = torch.randint(0, 256, smooth[1::6].shape, dtype=torch.uint8, generator=generator)
    smooth[2::6] = 77
    smooth[3::6, :, : height // 2] = 200
    return smooth


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


PILLOW: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "autocontrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "posterize": lambda image, level, sign: ImageOps.posterize(image, 4 - int(0.4 * level)),
    "solarize": lambda image, level, sign: ImageOps.solarize(image, 256 - int(25.6 * level)),
    "rotate": lambda image, level, sign: image.rotate(
        sign * int(3 * level), Image.Resampling.BILINEAR
    ),
    "shear_x": lambda image, level, sign: affine(image, 1, sign * 0.03 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level, sign: affine(image, 1, 0, 0, sign * 0.03 * level, 1, 0),
    "translate_x": lambda image, level, sign: affine(
        image, 1, 0, sign * int(level * image.size[0] / 30), 0, 1, 0
    ),
    "translate_y": lambda image, level, sign: affine(
        image, 1, 0, 0, 0, 1, sign * int(level * image.size[1] / 30)
    ),
    "color": lambda image, level, sign: ImageEnhance.Color(image).enhance(0.18 * level + 0.1),
    "contrast": lambda image, level, sign: ImageEnhance.Contrast(image).enhance(0.18 * level + 0.1),
    "brightness": (
        lambda image, level, sign: ImageEnhance.Brightness(image).enhance(0.18 * level + 0.1)
    ),
    "sharpness": (
        lambda image, level, sign: ImageEnhance.Sharpness(image).enhance(0.18 * level + 0.1)
    ),
}


def by_pillow(name: str, image: torch.Tensor, level: float, sign: float) -> torch.Tensor:
    pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
    result = torch.from_numpy(np.array(PILLOW[name](Image.fromarray(pixels), level, sign)))
    return result[None] if len(image) == 1 else result.permute(2, 0, 1)


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 33)], ids=str)
def test_each_operation_is_pillows(name: str, shape: tuple[int, int, int], way: str) -> None:
    images = random_images(*shape)
    rng = np.random.default_rng(1)
    levels, signs = (
        rng.uniform(0.1, 9.9 if name in ENHANCEMENTS else 3, COUNT),
        rng.choice([-1.0, 1.0], COUNT),
    )
    ours = one_operation(images, (OPERATIONS + ENHANCEMENTS).index(name), levels, signs)
    theirs = torch.stack(
        [by_pillow(name, *case) for case in zip(images, levels, signs, strict=True)]
    )
    difference = (ours.int() - theirs.int()).abs().float()
    print(
        f"{name} {shape} {way}: mean absolute difference {difference.mean():.5f} grey levels,"
        f" largest {difference.max():.0f}"
    )
    assert float(difference.mean()) <= BOUNDS[name]
    assert float((difference > 1).float().mean()) < 1e-4


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # `way` is one and the same for all examples
@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.sampled_from([-1, 1, 2, 4]),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_batch_is_what_its_images_are_alone(
    way: str, count: int, width: int, depth: int, everything: bool, seed: int
) -> None:
    images = random_images(count=count, seed=seed)
    drawn = augmix.draw(count, AugMix(width, depth, 3, everything), np.random.default_rng(seed))
    mixed = augmix.augmix(images, drawn)
    for i in {0, count // 2, count - 1}:
        expected = (1 - drawn.mix[i]) * images[i].double()
        for chain in range(width):
            one = images[i : i + 1]
            for step in range(drawn.depths[i, chain]):
                at = (i, chain, slice(step, step + 1))
                one = one_operation(
                    one, drawn.operations[at].item(), drawn.levels[at], drawn.signs[at]
                ).to(torch.uint8)
            expected += drawn.mix[i] * drawn.weights[i, chain] * one[0]
        assert float((mixed[i] - expected).abs().max()) < 1e-3
    assert mixed.dtype == torch.float32
    assert float(mixed.min()) >= 0
    assert float(mixed.max()) < 255.01


def test_the_parameters_follow_their_definition() -> None:
    count = 20_000
    drawn = augmix.draw(count, AugMix(3, -1, 3), np.random.default_rng(0))
    assert drawn.operations.shape == (count, 3, 3)
    shares = np.bincount(drawn.operations.ravel()) / drawn.operations.size
    assert len(shares) == 9
    assert shares == pytest.approx(1 / 9, abs=0.004)
    assert np.bincount(drawn.depths.ravel())[1:] / drawn.depths.size == pytest.approx(
        [1 / 3] * 3, abs=0.01
    )
    assert (drawn.levels.min(), drawn.levels.max()) == pytest.approx((0.1, 3), abs=1e-3)
    assert np.quantile(drawn.levels, [0.25, 0.5, 0.75]) == pytest.approx(
        [0.825, 1.55, 2.275], abs=0.02
    )
    assert drawn.signs.mean() == pytest.approx(0, abs=0.01)
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, covariance -1/36; Beta(1, 1) is uniform
    assert drawn.weights.sum(1) == pytest.approx(1)
    covariance = np.cov(drawn.weights.T)
    assert np.diag(covariance) == pytest.approx(1 / 18, rel=0.05)
    assert covariance[0, 1] == pytest.approx(-1 / 36, rel=0.05)
    assert np.quantile(drawn.mix, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.02)


def test_fixed_depth_and_all_operations() -> None:
    drawn = augmix.draw(500, AugMix(2, 4, 1, all_operations=True), np.random.default_rng(0))
    assert drawn.operations.shape == (500, 2, 4)
    assert set(drawn.depths.ravel()) == {4}
    assert set(drawn.operations.ravel()) == set(range(13))
    assert drawn.levels.max() <= 1


@pytest.mark.gpu
def test_a_gpu_gives_the_same_images() -> None:
    images = random_images()
    drawn = augmix.draw(COUNT, AugMix(all_operations=True), np.random.default_rng(0))
    on_gpu = augmix.augmix(images.cuda(), drawn).cpu()
    assert float((on_gpu - augmix.augmix(images, drawn)).abs().mean()) < 0.02
