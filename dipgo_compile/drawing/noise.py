"""Unit noise from a seed, without torch: what ``torch.randn`` draws on a CPU, but for a rounding or two.

``schema/README.md`` says exactly what is drawn, so that every runtime draws the same image from a seed. torch
rounds logarithms, cosines and sines as its vector library happens to; here they are computed in float64 and
rounded once, which other languages can repeat to the last bit. The Mersenne Twister is numpy's old
``RandomState``, whose stream is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Noise = npt.NDArray[np.float32]

BLOCK = 16
SEEDS = 1 << 32  # torch keeps the low 32 bits of a seed
TWO_PI = np.float32(2 * math.pi)


class NoiseSource:
    """The generator of one image: what it draws depends on what it drew before."""

    def __init__(self, seed: int) -> None:
        self._twister = np.random.RandomState(seed % SEEDS)
        self._spare: float | None = None

    def draw(self, shape: tuple[int, ...]) -> Noise:
        """Independent normal values, float32 of that shape, with mean 0 and variance 1."""
        size = math.prod(shape)
        drawn = self._many(size) if size >= BLOCK else self._few(size)
        return drawn.reshape(shape)

    def _many(self, size: int) -> Noise:
        uniform = self._uniform(size)
        normal = np.empty(size, np.float32)
        whole = size - size % BLOCK
        normal[:whole] = box_muller(uniform[:whole])
        if whole < size:
            normal[-BLOCK:] = box_muller(self._uniform(BLOCK))
        return normal

    def _few(self, size: int) -> Noise:
        return np.array([self._one() for _ in range(size)], np.float32)

    def _one(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        u, v = self._double(), self._double()
        radius, angle = math.sqrt(-2 * math.log1p(-v)), 2 * math.pi * u
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)

    def _words(self, count: int) -> npt.NDArray[np.uint32]:
        return self._twister.randint(1 << 32, size=count, dtype=np.uint32)

    def _uniform(self, count: int) -> Noise:
        """In [0, 1), in steps of 2^-24."""
        return (self._words(count) & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2**-24)

    def _double(self) -> float:
        """In [0, 1), in steps of 2^-53."""
        high, low = (int(word) for word in self._words(2))
        return ((high << 32 | low) & ((1 << 53) - 1)) * 2**-53


def box_muller(uniform: Noise) -> Noise:
    """Normal values from values in [0, 1), in blocks of 16: eight make radii, eight make angles."""
    halves = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * _rounded(np.log, 1 - halves[:, 0]))
    angle = TWO_PI * halves[:, 1]
    return np.stack([radius * _rounded(np.cos, angle), radius * _rounded(np.sin, angle)], axis=1).ravel()


def image_noise(seed: int, shapes: Sequence[tuple[int, ...]]) -> list[Noise]:
    """Noise for images that are denoised together, one array for each of ``shapes``: the initial noise, then
    the scheduler's draws, in order. All shapes begin with the number of images; image ``i`` gets what a
    pipeline draws for the seed ``seed + i``.
    """
    images = shapes[0][0] if shapes else 0
    return seeded_noise([seed + index for index in range(images)], shapes)


def seeded_noise(seeds: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Noise]:
    """The same, with a seed given for each image."""
    sources = [NoiseSource(seed) for seed in seeds]
    return [np.concatenate([source.draw((1, *shape[1:])) for source in sources]) for shape in shapes]


def _rounded(function: np.ufunc, values: Noise) -> Noise:
    """Computed in float64, rounded to float32 once."""
    result: Noise = function(values.astype(np.float64)).astype(np.float32)
    return result
