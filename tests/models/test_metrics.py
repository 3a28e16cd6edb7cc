from __future__ import annotations

import pytest
import torch

from models.recipes.classifier import FashionClassifier, load_classifier, predict
from models.recipes.metrics import class_agreement, fid


@pytest.fixture(scope="module")
def classifier() -> FashionClassifier:
    return load_classifier()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """300 smooth random shapes on black, [300, 1, 32, 32]."""
    coarse = torch.rand(300, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)


def test_agreement_counts_matching_labels(classifier: FashionClassifier, images: torch.Tensor) -> None:
    labels = predict(classifier, images)
    assert class_agreement(images, labels, classifier) == 1.0
    labels[:75] = (labels[:75] + 1) % 10
    assert class_agreement(images, labels, classifier) == pytest.approx(0.75)


def test_gray_and_its_rgb_copy_are_judged_alike(classifier: FashionClassifier, images: torch.Tensor) -> None:
    labels = predict(classifier, images)
    assert class_agreement(images.expand(-1, 3, -1, -1), labels, classifier) > 0.99


def test_fid_of_a_set_with_itself_is_zero(classifier: FashionClassifier, images: torch.Tensor) -> None:
    assert fid(images, images.flip(0), classifier) == pytest.approx(0.0, abs=1e-3)


def test_fid_grows_with_the_noise(classifier: FashionClassifier, images: torch.Tensor) -> None:
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    distances = [fid(images.lerp(noise, share), images, classifier) for share in (0.1, 0.3, 1.0)]
    assert 1e-3 < distances[0] < distances[1] < distances[2]
    assert distances[2] > 1.0


@pytest.mark.parametrize("spoil", [lambda x: x * 255, lambda x: x * 2 - 1, lambda x: x / 0.0 * 0.0])
def test_images_outside_zero_to_one_are_refused(classifier: FashionClassifier, images, spoil) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        class_agreement(spoil(images), torch.zeros(300, dtype=torch.long), classifier)
