"""Bit for bit what the Python runtime computes, for any mask, scheduler and guidance."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import compiled
from libdipgo import Library

from dipgo_compile.plan import Plan
from dipgo_compile.runtime import Runtime

CALLS = 6
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "ancestral": ("EulerAncestralDiscreteScheduler", {}),
}


def random_rows(seed: int) -> list[str]:
    drawn = np.random.default_rng(seed).integers(0, 2, (CALLS - 1, 2))
    return ["11", *("".join(map(str, row)) for row in drawn)]


def inputs(plan: Plan, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], list[np.ndarray]]:
    """Noise, conditions, draws."""
    generator = np.random.default_rng(seed)

    def drawn(name: str) -> np.ndarray:
        return generator.standard_normal(plan.program.specs[name].shape, np.float32)

    interface = plan.interface
    conditions = {name: drawn(name) for name in interface.conditions}
    return drawn(interface.latents), conditions, [drawn(name) for name in interface.draws]


@pytest.mark.parametrize("fuse", ["none", "patterns"])
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_latents_are_the_same_to_the_last_bit(library: Library, tmp_path, scheduler, guided, fuse):
    class_name, config = SCHEDULERS[scheduler]
    seed = list(SCHEDULERS).index(scheduler) * 2 + guided
    path = tmp_path / "m.dipgo"
    plan = compiled(path, class_name, config, random_rows(seed), guided=guided, fuse=fuse)
    latents, conditions, draws = inputs(plan, seed)
    assert bool(draws) == (scheduler == "ancestral")
    session = library.load(path, threads=1).session()
    with Runtime.load(path, threads=1) as runtime:
        reference = runtime.session()
        for scale in (1.0, 7.5) if guided else (None,):
            given = {} if scale is None else {"guidance_scale": scale}
            ours = session.denoise(latents, conditions, draws=draws, **given)
            theirs = reference.denoise(latents, conditions, draws=draws, **given)
            np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("seed", range(3))
def test_calls_are_the_same_to_the_last_bit(library: Library, tmp_path, seed):
    path = tmp_path / "m.dipgo"
    plan = compiled(path, *SCHEDULERS["ddim"], random_rows(seed), guided=True, fuse="auto")
    _, conditions, _ = inputs(plan, seed)
    generator = np.random.default_rng(seed)
    session = library.load(path, threads=1).session()
    shape = plan.program.specs[plan.program.calls[0].sample].shape
    with Runtime.load(path, threads=1) as runtime:
        reference = runtime.session()
        for call in range(CALLS):
            sample = generator.standard_normal(shape, np.float32)
            ours = session.run_call(call, sample, conditions if call == 0 else None)
            np.testing.assert_array_equal(ours, reference.run_call(call, sample, conditions))


def test_conditions_come_in_any_order_and_a_plan_survives_its_handle(library: Library, bundle):
    from tests.runtime import toy

    image = toy.image()
    plan = library.load(bundle, threads=1)
    session = plan.session()
    expected = session.denoise(image["latents"], {"text": image["text"]}, draws=[image["draw"]])
    library.dipgo_plan_free(plan.handle)
    plan.handle = None
    other = library.load(bundle, threads=1)
    session.plan = other  # for the shape of the result; the session's own plan is gone
    again = session.denoise(image["latents"], {"text": image["text"]}, draws=[image["draw"]])
    np.testing.assert_array_equal(again, expected)
