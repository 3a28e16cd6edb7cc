"""Bit for bit what the Python runtime computes, for any mask, scheduler and guidance."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import compiled
from libdipgo import CONDITION, INPUT, NOISE_PRED, SAMPLE, CallError, Library

from dipgo_compile.plan import Plan
from dipgo_compile.program import Run
from dipgo_compile.running.unguided import unguided
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
    conditions = {
        name: generator.standard_normal(plan.condition(name).shape, np.float32)
        for name in interface.conditions
    }
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


@pytest.mark.parametrize("fuse", ["none", "auto"])
@pytest.mark.parametrize("scheduler", ["ddim", "plms", "ancestral"])
def test_split_guidance_is_the_same_to_the_last_bit(library: Library, tmp_path, scheduler, fuse):
    """Whole images, at guidance scale 1 too, where both leave out as much, and call by call."""
    class_name, config = SCHEDULERS[scheduler]
    path = tmp_path / "m.dipgo"
    plan = compiled(path, class_name, config, random_rows(4), guided=True, fuse=fuse, split=True)
    latents, conditions, draws = inputs(plan, 4)
    calls: list[int] = []
    loaded = library.load(path, threads=1)
    session = loaded.session(progress=lambda call, _: calls.append(call))
    assert loaded.info.split_guidance == 1
    assert loaded.tensors(CONDITION) == [("text", "float32", (4, 1, 2, 2))]
    assert [shape for role in (SAMPLE, NOISE_PRED) for _, _, shape in loaded.tensors(role)] == [
        (4, 1, 2, 2)
    ] * 2
    with Runtime.load(path, threads=1) as runtime:
        reference = runtime.session()
        runs = len(list(plan.program.runs()))
        left = sum(isinstance(instruction, Run) for instruction in unguided(plan.program))
        for scale, made in ((7.5, runs), (1.0, left), (7.5, runs)):
            expected: list[int] = []
            theirs = reference.denoise(
                latents, conditions, draws=draws, guidance_scale=scale, callback=expected.append
            )
            calls.clear()
            ours = session.denoise(latents, conditions, draws=draws, guidance_scale=scale)
            np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
            assert session.times.runs == made
            assert calls == expected
        assert 0 < left <= runs / 2
        sample = np.concatenate([latents, latents])
        for call in range(len(plan.program.calls)):
            ours = session.run_call(call, sample, conditions if call == 0 else None)
            np.testing.assert_array_equal(ours, reference.run_call(call, sample, conditions))
            sample *= np.float32(0.9)


def test_what_split_guidance_leaves_out_does_no_harm(library: Library, tmp_path):
    path = tmp_path / "m.dipgo"
    plan = compiled(path, *SCHEDULERS["ddim"], random_rows(0), guided=True, fuse="auto", split=True)
    latents, conditions, _ = inputs(plan, 0)
    session = library.load(path, threads=1).session()
    expected = session.denoise(latents, conditions, guidance_scale=1.0)
    conditions["text"][: len(latents)] = np.nan
    assert np.isnan(session.denoise(latents, conditions, guidance_scale=7.5)).any()
    np.testing.assert_array_equal(session.denoise(latents, conditions, guidance_scale=1.0), expected)


def test_a_host_sends_one_sample_twice(library: Library, tmp_path):
    path = tmp_path / "m.dipgo"
    plan = compiled(path, *SCHEDULERS["ddim"], random_rows(0), guided=True, fuse="auto", split=True)
    latents, conditions, _ = inputs(plan, 0)
    session = library.load(path, threads=1).session()
    with pytest.raises(CallError, match="the halves of sample differ") as error:
        session.run_call(0, np.concatenate([latents, latents + 1]), conditions)
    assert error.value.status == INPUT
    with pytest.raises(CallError, match=r"shape \(2, 1, 2, 2\), the plan was compiled for \(4, 1, 2, 2\)"):
        session.run_call(0, latents, conditions)


def test_halves_that_share_what_no_condition_reaches(library: Library, tmp_path):
    """The plan reads one sample for both: given once to make images, twice by a host."""
    path = tmp_path / "m.dipgo"
    plan = compiled(path, *SCHEDULERS["ddim"], random_rows(0), guided=True, fuse="auto", shared=True)
    latents, conditions, _ = inputs(plan, 0)
    loaded = library.load(path, threads=1)
    session = loaded.session()
    assert plan.program.specs[plan.program.calls[0].sample].shape == latents.shape
    assert [shape for _, _, shape in loaded.tensors(SAMPLE)] == [(2, *latents.shape[1:])]
    sample = np.concatenate([latents, latents])
    with Runtime.load(path, threads=1) as runtime:
        expected = runtime.denoise(latents, guidance_scale=3.0, **conditions)
        answer = runtime.session().run_call(0, sample, conditions)
    np.testing.assert_array_equal(session.denoise(latents, conditions, guidance_scale=3.0), expected)
    np.testing.assert_array_equal(session.run_call(0, sample, conditions), answer)
    with pytest.raises(CallError, match="the halves of sample differ") as error:
        session.run_call(0, np.concatenate([latents, latents + 1]), conditions)
    assert "--disable-pass share_halves" in str(error.value)
