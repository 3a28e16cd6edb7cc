"""How good generated Fashion-MNIST images are: class agreement and Fréchet distance.

Both judge by the shipped classifier. The Fréchet distance is torchmetrics' own, on the classifier's 128
penultimate features instead of Inception's: its values compare models of this repository with each other,
not with published FIDs.
"""

from __future__ import annotations

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from models.recipes.classifier import BATCH_SIZE, FashionClassifier, predict


def class_agreement(images: torch.Tensor, labels: torch.Tensor, classifier: FashionClassifier) -> float:
    """The share, in [0, 1], of `images` [N, C, 32, 32] in [0, 1] that are read as `labels` [N]."""
    _check_images(images)
    return (predict(classifier, images) == labels).float().mean().item()


def fid(images: torch.Tensor, reference: torch.Tensor, classifier: FashionClassifier) -> float:
    """The Fréchet distance between two sets of images, each [N, C, 32, 32] in [0, 1]; 0 for equal sets."""
    metric = FrechetInceptionDistance(feature=_Features(classifier))
    with torch.no_grad():
        for dataset, real in ((reference, True), (images, False)):
            _check_images(dataset)
            for batch in dataset.split(BATCH_SIZE):
                metric.update(batch, real=real)
        return metric.compute().item()


def _check_images(images: torch.Tensor) -> None:
    low, high = images.aminmax()
    if not (images.is_floating_point() and low >= 0 and high <= 1):  # put so that NaN fails too
        raise ValueError(f"images must be floats in [0, 1], not {images.dtype} in [{low:g}, {high:g}]")


class _Features(nn.Module):
    """The classifier's penultimate features as the module that torchmetrics asks for."""

    def __init__(self, classifier: FashionClassifier):
        super().__init__()
        self.classifier = classifier
        self.num_features = classifier.head.in_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.features(images)
