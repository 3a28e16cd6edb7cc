"""Noise from a seed against torch, whose noise it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from dipgo_compile.drawing.noise import NoiseSource, image_noise, seeded_noise

SEEDS = (0, 1, 7, 2**31, 2**32 - 1, 2**32 + 5, -1)
TOLERANCE = 5e-7
"""Two float32 roundings of the largest radius, sqrt(-2 log(2^-24)) = 5.8, where one is at most 2.4e-7."""
SCALAR_TOLERANCE = 2.1e-6
"""Where torch has no vector code, angles are rounded otherwise: 2.4e-7 more of an angle, times the radius."""


def tolerance() -> float:
    return SCALAR_TOLERANCE if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else TOLERANCE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "sizes", [(1,), (5, 3, 15, 4), (16, 16384), (17, 31, 100), (3, 48, 7, 20, 1)], ids=str
)
def test_draws_what_torch_draws(seed: int, sizes: tuple[int, ...]) -> None:
    """One draw after another: fewer values than 16, whole blocks and others mixed."""
    generator, source = torch.Generator().manual_seed(seed), NoiseSource(seed)
    for size in sizes:
        expected = torch.randn(size, generator=generator).numpy()
        drawn = source.draw((size,))
        assert drawn.dtype == np.float32
        np.testing.assert_allclose(drawn, expected, atol=tolerance(), rtol=0)


def test_agrees_with_torch_for_a_million_values() -> None:
    expected = torch.randn(1 << 20, generator=torch.Generator().manual_seed(3)).numpy()
    np.testing.assert_allclose(NoiseSource(3).draw((1 << 20,)), expected, atol=tolerance(), rtol=0)


def test_few_values_are_torchs_to_the_last_bit() -> None:
    """Both compute them in float64."""
    expected = torch.randn(15, generator=torch.Generator().manual_seed(2)).numpy()
    np.testing.assert_array_equal(NoiseSource(2).draw((3, 5)).ravel(), expected)


def test_images_of_a_batch_draw_as_a_pipeline_does() -> None:
    shape = (3, 4, 5, 6)
    generators = [torch.Generator().manual_seed(seed) for seed in (8, 9, 10)]
    drawn = image_noise(8, [shape, shape])
    for noise in drawn:
        expected = randn_tensor(shape, generator=generators, dtype=torch.float32)
        np.testing.assert_allclose(noise, expected.numpy(), atol=tolerance(), rtol=0)


def test_an_image_draws_the_same_in_any_batch() -> None:
    alone = image_noise(9, [(1, 4, 2, 3)])
    together = seeded_noise([5, 9], [(2, 4, 2, 3)])
    np.testing.assert_array_equal(alone[0][0], together[0][1])


def test_the_stream_is_frozen() -> None:
    """To the last bit, as it is for other runtimes. These values never change."""
    first = np.array([0xBF901B85, 0xBF93808A, 0xBE804BD6, 0xBEDE255E], np.uint32)
    np.testing.assert_array_equal(NoiseSource(0).draw((16,))[:4].view(np.uint32), first)
