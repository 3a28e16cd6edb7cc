"""Every kind of pipeline from diffusers: as it is, with a bundle in the denoiser's place, and without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whole import Whole, Wholes

from dipgo_compile.compare import compare
from dipgo_compile.drawing.conditions import encode
from dipgo_compile.generate import Job, generate
from dipgo_compile.measure.comparison import relative_l2
from dipgo_compile.program import Array
from dipgo_compile.runtime import Runtime

STEPS, SEED, SCALE = 4, 5, 3.0
PROMPT = "a photo of a dress"
TOLERANCE = 1e-3  # relative L2; float32 rounding gives 1e-6, a wrong condition or draw 1e-1
GRAY_LEVELS = 1  # of 255: what differs in the last bits may round to neighbouring levels
CALLS: dict[str, dict[str, Any]] = {
    "stable_diffusion": {"prompt": PROMPT},
    "stable_diffusion_2": {"prompt": PROMPT},
    "bk_sdm": {"prompt": PROMPT},
    "latent_consistency": {"prompt": PROMPT},
    "stable_diffusion_xl": {"prompt": PROMPT},
    "dit": {"class_labels": [1]},
    "pixart": {"prompt": PROMPT, "use_resolution_binning": False},
}
GUIDED = {kind: kind != "latent_consistency" for kind in CALLS}  # those read the scale as a condition


@pytest.fixture(scope="module", params=CALLS)
def whole(request: pytest.FixtureRequest, wholes: Wholes) -> Whole:
    return wholes(request.param)


@pytest.fixture(scope="module")
def prompt(whole: Whole) -> str:
    return "ankle boot" if whole.kind == "dit" else PROMPT


@pytest.fixture(scope="module")
def dense(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "m.dipgo"
    return whole.build(whole.mask(STEPS), path, guidance=GUIDED[whole.kind])


@pytest.fixture(scope="module")
def pruned(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pruned") / "m.dipgo"
    return whole.build(whole.mask(STEPS, seed=4), path, guidance=GUIDED[whole.kind])


def drawn(pipeline: Any, **arguments: Any) -> tuple[Array, Array]:
    """Final latents and pixels, 0 to 255. Not every pipeline gives its latents: the image decoder's input is
    looked at.
    """
    seen: list[torch.Tensor] = []
    decode: Callable[..., Any] = pipeline.vae.decode

    def look(latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(latents * pipeline.vae.config.scaling_factor)
        return decode(latents, *rest, **options)

    pipeline.vae.decode = look
    try:
        (image,) = pipeline(
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            generator=torch.Generator().manual_seed(SEED),
            **arguments,
        ).images
    finally:
        pipeline.vae.decode = decode
    return seen[0].numpy(), np.asarray(image, np.int16)


def denoised(runtime: Runtime, whole: Whole, prompt: str) -> Array:
    plan = runtime.plan
    conditions = encode(whole.pipeline, plan, [prompt], "", SCALE)
    scale = SCALE if plan.interface.guidance else None
    return runtime.denoise(seed=SEED, guidance_scale=scale, **conditions)


def test_the_unpruned_bundle_is_the_pipeline(whole: Whole, dense: Path, prompt: str) -> None:
    mask = whole.mask(STEPS)
    expected, pixels = drawn(whole.scheduled(mask), **CALLS[whole.kind])
    with Runtime.load(dense) as runtime:
        hosted, _ = drawn(whole.host(runtime.as_unet()), **CALLS[whole.kind])
        whole.scheduled(mask)
        (image,) = generate(runtime, whole.pipeline, [Job(prompt, SEED)], guidance_scale=SCALE)
        assert relative_l2(denoised(runtime, whole, prompt), expected) < TOLERANCE
    assert relative_l2(hosted, expected) < TOLERANCE
    np.testing.assert_allclose(image.pixels.astype(np.int16), pixels, atol=GRAY_LEVELS, rtol=0)
    assert pixels.std() > 0


def test_a_pruned_bundle_is_the_supernet(whole: Whole, pruned: Path, prompt: str) -> None:
    compare(pruned, prompt=prompt, guidance_scale=SCALE).check()


def test_a_pruned_bundle_is_the_same_in_the_pipeline(whole: Whole, pruned: Path, prompt: str) -> None:
    with Runtime.load(pruned) as runtime:
        assert runtime.plan.macs["kept"] < runtime.plan.macs["dense"]
        whole.scheduled(whole.mask(STEPS))
        expected = denoised(runtime, whole, prompt)
        hosted, _ = drawn(whole.host(runtime.as_unet()), **CALLS[whole.kind])
        whole.scheduled(whole.mask(STEPS))
    assert relative_l2(hosted, expected) < TOLERANCE
