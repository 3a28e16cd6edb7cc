"""Every sampler, end to end: a pruned bundle against the SuperNet, an unpruned one in the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from whole import Whole, Wholes

from dipgo_compile.compare import compare
from dipgo_compile.drawing.conditions import encode
from dipgo_compile.errors import InputError, ScheduleError
from dipgo_compile.measure.comparison import relative_l2
from dipgo_compile.program import Array
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedules.schedulers import SCHEDULER_ALIASES, SUFFIXES

STEPS, SEED, SCALE = 5, 5, 3.0
PROMPT = "a photo of a dress"
TOLERANCE = 1e-3  # relative L2; float32 rounding gives 1e-6, a wrong call or coefficient 1e-1
SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {"prediction_type": "v_prediction"}),
    ("ddpm", {}),
    ("plms", {}),
    ("pndm", {"skip_prk_steps": False}),
    ("dpm++2m-karras", {}),
    ("dpm++3m", {}),
    ("dpm++sde", {}),
    ("deis", {}),
    ("unipc-karras", {"solver_order": 3}),
    ("euler-trailing", {"prediction_type": "v_prediction"}),
    ("euler-karras", {}),
    ("euler-ancestral", {}),
    ("heun-karras", {}),
    ("lms", {}),
    ("lcm", {"original_inference_steps": 20}),
]


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


def test_every_name_is_tried_and_documented(repository: Path) -> None:
    tried = {name for name, _ in SAMPLERS}
    for ending in SUFFIXES:
        assert any(name.endswith(ending) for name in tried)
        tried = {name.removesuffix(ending) for name in tried}
    assert {SCHEDULER_ALIASES[name] for name in tried} == set(SCHEDULER_ALIASES.values())
    table = (repository / "docs" / "samplers.md").read_text()
    for name, class_name in SCHEDULER_ALIASES.items():
        assert f"`{name}`" in table and f"`{class_name}`" in table


@pytest.mark.parametrize(("name", "options"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
def test_a_pruned_bundle(name: str, options: dict[str, Any], whole: Whole, tmp_path: Path) -> None:
    """It is the SuperNet, call by call and by itself, and in an unchanged pipeline it is itself."""
    mask = whole.mask(STEPS, name, seed=4, **options)
    bundle = whole.build(mask, tmp_path / "m.dipgo")
    compare(bundle, seed=SEED, guidance_scale=SCALE).check()
    pipeline = whole.scheduled(mask)
    with Runtime.load(bundle) as runtime:
        conditions = encode(pipeline, runtime.plan, [PROMPT], "")
        expected = runtime.denoise(seed=SEED, guidance_scale=SCALE, **conditions)
        assert relative_l2(drawn(whole.host(runtime.as_unet())), expected) < TOLERANCE


@pytest.mark.parametrize(("name", "options"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
def test_an_unpruned_bundle_is_the_pipeline(
    name: str, options: dict[str, Any], whole: Whole, tmp_path: Path
) -> None:
    mask = whole.mask(STEPS, name, **options)
    expected = drawn(whole.scheduled(mask))
    with Runtime.load(whole.build(mask, tmp_path / "m.dipgo")) as runtime:
        conditions = encode(whole.pipeline, runtime.plan, [PROMPT], "")
        assert (
            relative_l2(runtime.denoise(seed=SEED, guidance_scale=SCALE, **conditions), expected) < TOLERANCE
        )


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
        ("ddim-karras", 5, "not know Karras"),
        ("lcm", 60, "refuses 60 steps"),
        ("CosineDPMSolverMultistepScheduler", 5, "torchsde"),
    ],
)
def test_what_is_refused(name: str, steps: int, message: str, whole: Whole) -> None:
    with pytest.raises(ScheduleError, match=message) as caught:
        whole.mask(steps, name)
    assert caught.value.mend
