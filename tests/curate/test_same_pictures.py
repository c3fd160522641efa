"""Perceptual hashes: what is the same picture, and what is not, against distances counted bit by bit."""

import imagehash
import numpy as np
import pytest
from PIL import Image
from planted import PICTURES, radiograph

from mede2_jax.curate.pictures import BITS, MIRROR, hashes, neighbours, stacked


def test_the_first_hash_is_imagehashs():
    image = radiograph(0, size=(256, 200))
    assert ((hashes(image)[0] > 0) == imagehash.phash(image, hash_size=16).hash.ravel()).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (2000, 12)])
def test_any_size_has_hashes(size):
    assert hashes(Image.new("RGB", size, "grey")).shape == (MIRROR + 1, BITS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICTURES)
def test_a_changed_image_is_near_its_original_and_far_from_others(kind):
    originals = [radiograph(seed) for seed in range(20)]
    all_of = stacked([hashes(image) for image in originals])
    copies = stacked([hashes(PICTURES[kind](image).convert("L")) for image in originals])
    found = {(copy, original) for copy, original, _, _ in neighbours(copies[:, 0], all_of, 0.2)}
    assert found == {(number, number) for number in range(20)}


def test_neighbours_are_those_that_counting_bits_finds():
    rng = np.random.default_rng(3)
    whole = rng.choice([-1, 1], (40, BITS)).astype(np.int8)
    others = np.stack(
        [np.where(rng.random((5, BITS)) < share, -whole[number], whole[number]) for number, share in enumerate(np.linspace(0, 0.4, 40))]
    )
    others = others.astype(np.int8)
    found = {(one, other): (crop, share) for one, other, crop, share in neighbours(whole, others, 0.25)}
    apart = (whole[:, None, None] != others[None]).mean(-1)
    wanted = {(int(one), int(other)) for one, other in zip(*np.nonzero(apart.min(-1) <= 0.25), strict=True)}
    assert found.keys() == wanted and len(wanted) > 10
    for pair, (crop, share) in found.items():
        assert share == pytest.approx(apart[pair].min()) and apart[pair][crop] == apart[pair].min()


def test_no_images_have_no_neighbours():
    assert list(neighbours(stacked([])[:, 0], stacked([hashes(radiograph(1))]), 0.2)) == []
    assert list(neighbours(stacked([hashes(radiograph(1))])[:, 0], stacked([]), 0.2)) == []
