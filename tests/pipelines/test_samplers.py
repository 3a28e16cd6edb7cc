"""Every sampler, end to end: a pruned bundle against the SuperNet, an unpruned one in the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from whole import Whole, Wholes

from dipgo_compile.compare import compare
from dipgo_compile.comparison import relative_l2
from dipgo_compile.conditions import encode
from dipgo_compile.errors import InputError, ScheduleError
from dipgo_compile.program import Array
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedulers import SCHEDULER_ALIASES

STEPS, SEED, SCALE = 5, 5, 3.0
PROMPT = "a photo of a dress"
TOLERANCE = 1e-3  # relative L2; float32 rounding gives 1e-6, a wrong call or coefficient 1e-1
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("plms", {"skip_prk_steps": False}),
    ("dpm++2m-karras", {}),
    ("dpm++3m-karras", {}),
    ("euler-karras", {}),
    ("heun-karras", {}),
    ("unipc-karras", {"solver_order": 3}),
    ("ddim", {"prediction_type": "v_prediction"}),
    ("euler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("dpm++", {"prediction_type": "sample"}),
    ("lcm", {"original_inference_steps": 20}),
]
SAMPLERS = [*((name, {}) for name in SCHEDULER_ALIASES if name not in ("pndm", "dpm")), *OTHERS]


@pytest.fixture(scope="module")
def whole(wholes: Wholes) -> Whole:
    return wholes("stable_diffusion")


def drawn(pipeline: Any, scale: float = SCALE) -> Array:
    """Final latents of an unchanged pipeline."""
    made: torch.Tensor = pipeline(
        PROMPT,
        num_inference_steps=STEPS,
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    return made.numpy()


@pytest.mark.parametrize(("name", "options"), SAMPLERS, ids=lambda value: value or None)
def test_every_sampler(name: str, options: dict[str, Any], whole: Whole, tmp_path: Path) -> None:
    pruned = whole.build(whole.mask(STEPS, name, seed=1, **options), tmp_path / "pruned.dipgo")
    compare(pruned, seed=SEED, guidance_scale=SCALE).check()

    mask = whole.mask(STEPS, name, **options)
    bundle = whole.build(mask, tmp_path / "dense.dipgo")
    expected = drawn(whole.scheduled(mask))
    with Runtime.load(bundle) as runtime:
        conditions = encode(whole.pipeline, runtime.plan, [PROMPT], "")
        assert (
            relative_l2(runtime.denoise(seed=SEED, guidance_scale=SCALE, **conditions), expected) < TOLERANCE
        )
        assert relative_l2(drawn(whole.host(runtime.as_unet())), expected) < TOLERANCE


def test_without_guidance(whole: Whole, tmp_path: Path) -> None:
    """A bundle without guidance, and one with guidance at scale 1: the pipeline without guidance."""
    mask = whole.mask(STEPS)
    expected = drawn(whole.scheduled(mask), scale=1.0)
    with Runtime.load(whole.build(mask, tmp_path / "guided.dipgo")) as runtime:
        conditions = encode(whole.pipeline, runtime.plan, [PROMPT], "a bag")
        assert relative_l2(runtime.denoise(seed=SEED, guidance_scale=1.0, **conditions), expected) < TOLERANCE
        whole.host(runtime.as_unet())
        with pytest.raises(InputError, match="guidance_scale > 1"):
            drawn(whole.pipeline, scale=1.0)
    with Runtime.load(whole.build(mask, tmp_path / "single.dipgo", guidance=False)) as runtime:
        conditions = encode(whole.pipeline, runtime.plan, [PROMPT], "a bag")
        assert relative_l2(runtime.denoise(seed=SEED, **conditions), expected) < TOLERANCE
        assert relative_l2(drawn(whole.host(runtime.as_unet()), scale=1.0), expected) < TOLERANCE
        with pytest.raises(InputError, match="guidance_scale=1"):
            drawn(whole.pipeline)
        with pytest.raises(InputError, match="without guidance"):
            runtime.denoise(seed=SEED, guidance_scale=SCALE, **conditions)


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("ddim-karras", 5, "no Karras"),
        ("lcm", 60, "original_inference_steps"),
        ("CosineDPMSolverMultistepScheduler", 5, "torchsde"),
    ],
)
def test_what_is_refused(name: str, steps: int, message: str, whole: Whole) -> None:
    with pytest.raises(ScheduleError, match=message) as caught:
        whole.mask(steps, name)
    assert caught.value.mend
