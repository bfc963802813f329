import torch
from hypothesis import given
from hypothesis import strategies as st

from biprop.data import augment


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 99))
def test_every_crop_is_a_window_of_its_padded_image(
    batch: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    images = torch.randint(1, 255, (batch, channels, height, width), dtype=torch.uint8)
    crops = augment.random_crop(images, padding, generator(seed))
    assert crops.dtype == torch.uint8
    assert crops.shape == images.shape
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator(seed)).tolist()
    for image, crop, top, left in zip(images, crops, tops, lefts, strict=True):
        padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + height, padding : padding + width] = image
        assert torch.equal(crop, padded[:, top : top + height, left : left + width])


def test_crops_cover_all_places_evenly() -> None:
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[0, 0, 4, 4] = 1
    crops = augment.random_crop(image.expand(8100, 1, 9, 9), 4, generator(0))
    counts = crops.sum(dim=(0, 1)).float()  # the one bright pixel lands on each of the 81 places about 100 times
    assert counts.sum() == 8100
    assert counts.min() > 50
    assert counts.max() < 160


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.arange(4 * 6, dtype=torch.uint8).view(1, 1, 4, 6).repeat(1000, 2, 1, 1)
    flipped = augment.random_flip(images, generator(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 420 < int(mirrored.sum()) < 580


def test_the_same_seed_gives_the_same_images() -> None:
    images = torch.randint(0, 255, (5, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment.random_crop(images, 4, generator(3)), augment.random_crop(images, 4, generator(3)))
