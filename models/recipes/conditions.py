"""What a denoiser is told about each image it learns from: a caption or a class, and now and then nothing.

Nothing, which guidance calls unconditional, is the entry behind the last one. Both classes are called with
the `index` [B] of the images and a generator, and return int64 [B].
"""

from __future__ import annotations

import torch

from models.recipes.fashion_mnist import CLASS_NAMES, TEMPLATES

DROP = 0.12
NO_CAPTION = len(CLASS_NAMES) * len(TEMPLATES)
NO_CLASS = len(CLASS_NAMES)


class Captions:
    """Indices into `fashion_mnist.all_captions()`, in words that are drawn anew each time."""

    def __init__(self, labels: torch.Tensor):
        self.labels = labels

    def __call__(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        template = torch.randint(len(TEMPLATES), (len(index),), generator=generator)
        return _drop(self.labels[index] * len(TEMPLATES) + template, NO_CAPTION, generator)


class Classes:
    """Fashion-MNIST's labels."""

    def __init__(self, labels: torch.Tensor):
        self.labels = labels

    def __call__(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return _drop(self.labels[index], NO_CLASS, generator)


def _drop(choice: torch.Tensor, nothing: int, generator: torch.Generator) -> torch.Tensor:
    dropped = torch.rand(len(choice), generator=generator) < DROP
    return torch.where(dropped, nothing, choice)
