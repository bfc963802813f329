import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from biprop.data import augment


def crop_and_flip(images: torch.Tensor, padding: int, flip: bool, seed: int) -> torch.Tensor:
    height, width = images.shape[2:]
    drawn = augment.draw_crop_and_flip(
        len(images), (height, width), padding, flip, np.random.default_rng(seed)
    )
    picked = augment.pick(images, *drawn)
    assert torch.equal(
        picked, augment.pick_columns(augment.pick_rows(images, drawn[0]), drawn[1])
    )  # compiled or not
    return picked


def add_noise(images: torch.Tensor, std: float, p_clean: float) -> torch.Tensor:
    return augment.gaussian_noise(
        images, std, *augment.draw_noisy(len(images), p_clean, np.random.default_rng(3))
    )


@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12),
    st.integers(0, 15), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_every_result_is_a_window_of_its_padded_image_mirrored_or_not(
    batch: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        1, 255, (batch, channels, height, width), dtype=torch.uint8, generator=generator
    )
    results = crop_and_flip(images, padding, flip, seed)
    assert results.dtype == torch.uint8
    assert results.shape == images.shape
    for image, result in zip(images, results, strict=True):
        padded = torch.nn.functional.pad(image, [padding] * 4)
        windows = [
            padded[:, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any(
            torch.equal(result, w) or (flip and torch.equal(result, w.flip(2))) for w in windows
        )


def test_crops_cover_all_places_evenly() -> None:
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[0, 0, 4, 4] = 1
    crops = crop_and_flip(image.expand(8100, 1, 9, 9), 4, False, 0)
    counts = crops.sum(
        dim=(0, 1)
    ).float()  # the one bright pixel lands on each of the 81 places about 100 times
    assert counts.sum() == 8100
    assert counts.min() > 50
    assert counts.max() < 160


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.arange(4 * 6, dtype=torch.uint8).view(1, 1, 4, 6).repeat(1000, 2, 1, 1)
    flipped = crop_and_flip(images, 0, True, 0)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 420 < int(mirrored.sum()) < 580


def test_the_same_seed_gives_the_same_images() -> None:
    images = torch.randint(0, 255, (5, 3, 8, 8), dtype=torch.uint8)
    a, b = (crop_and_flip(images, 4, True, 3) for _ in range(2))
    assert torch.equal(a, b)
    a, b = (add_noise(images, 0.1, 0.5) for _ in range(2))
    assert torch.equal(a, b)


def test_noise_has_its_deviation_on_its_share_of_the_images() -> None:
    images = torch.full((1000, 3, 16, 16), 128, dtype=torch.uint8)
    noisy = add_noise(images, 0.1, 0.3)
    changed = (noisy != 128).flatten(1).any(1)
    assert 650 < int(changed.sum()) < 750
    assert abs(float(noisy[changed].std()) - 25.5) < 0.2
    assert abs(float(noisy[changed].mean()) - 128) < 0.1
    assert torch.equal(add_noise(images, 0.1, 1.0), images.float())
    bounded = add_noise(images, 5.0, 0.0)
    assert (float(bounded.min()), float(bounded.max())) == (0, 255)


def test_reflection_is_pytorchs() -> None:
    image = torch.arange(20.0).view(1, 1, 4, 5)
    padded = torch.nn.functional.pad(image, (4, 4, 3, 3), mode="reflect")
    rows = augment.reflected(np.arange(-3, 7), 4)
    columns = augment.reflected(np.arange(-4, 9), 5)
    assert torch.equal(image[:, :, rows][..., columns], padded)
