"""Tables of coefficients against the real schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers import scheduling_lcm

from dipgo_compile.errors import ModelError, ScheduleError
from dipgo_compile.models.presets import SD_BETAS
from dipgo_compile.schedules.probe import probe, shortened
from dipgo_compile.schedules.table import Schedule

STEPS = 12
SHAPE = (2, 4, 3, 3)
CONFIG: dict[str, Any] = {**SD_BETAS, "clip_sample": False, "thresholding": False}
EXACT = 1e-12  # float64 throughout, a dozen steps
ROUNDED = 1e-5  # the scheduler itself computes in float32 (6e-8), a dozen steps, some of them cancelling
SCHEDULERS = [
    ("DDIMScheduler", {"steps_offset": 1, "set_alpha_to_one": False}, EXACT),
    ("DDIMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, EXACT),
    ("DDIMScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, EXACT),
    ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, EXACT),
    ("PNDMScheduler", {"skip_prk_steps": False}, EXACT),
    ("DPMSolverMultistepScheduler", {}, ROUNDED),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}, ROUNDED),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, ROUNDED),
    ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction", "use_karras_sigmas": True}, ROUNDED),
    ("EulerDiscreteScheduler", {}, ROUNDED),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "prediction_type": "v_prediction"}, ROUNDED),
    ("EulerAncestralDiscreteScheduler", {}, ROUNDED),
    ("DEISMultistepScheduler", {}, EXACT),
    ("DEISMultistepScheduler", {"prediction_type": "sample"}, EXACT),
    ("HeunDiscreteScheduler", {}, EXACT),
    ("HeunDiscreteScheduler", {"prediction_type": "v_prediction", "use_karras_sigmas": True}, ROUNDED),
    ("LMSDiscreteScheduler", {}, ROUNDED),
    ("LCMScheduler", {}, EXACT),
    ("LCMScheduler", {"original_inference_steps": 24, "prediction_type": "v_prediction"}, EXACT),
    ("DDPMScheduler", {}, EXACT),
    ("DDPMScheduler", {"prediction_type": "sample", "variance_type": "fixed_large"}, EXACT),
    ("UniPCMultistepScheduler", {}, EXACT),
    ("UniPCMultistepScheduler", {"prediction_type": "v_prediction", "solver_order": 3}, EXACT),
    ("SASolverScheduler", {}, ROUNDED),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, ROUNDED),
]


def denoise(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """Stands in for a denoiser. Not linear, so that no two terms can be mistaken for each other."""
    return torch.tanh(x) * math.cos(timestep) + 0.1 * x.roll(1, -1)


def follow_scheduler(scheduler: Any, noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The loop of a diffusers pipeline."""
    takes_generator = "generator" in scheduler.step.__code__.co_varnames
    extra = {"generator": generator} if takes_generator else {}
    sample = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        scaled = (
            scheduler.scale_model_input(sample, timestep)
            if hasattr(scheduler, "scale_model_input")
            else sample
        )
        noise_pred = denoise(scaled, float(timestep))
        sample = scheduler.step(noise_pred, timestep, sample, return_dict=False, **extra)[0]
    return sample


def follow_table(schedule: Schedule, noise: torch.Tensor, draws: list[torch.Tensor]) -> torch.Tensor:
    """The loop of a runtime."""
    tensors: dict[str, list[torch.Tensor]] = {
        "sample": [noise * schedule.init_noise_sigma],
        "noise_pred": [],
        "noise": draws,
    }
    for step in schedule.steps:
        tensors["noise_pred"].append(denoise(step.input_scale * tensors["sample"][-1], step.timestep))
        terms = [term.coefficient * tensors[term.kind][term.index] for term in step.terms]
        tensors["sample"].append(torch.stack(terms).sum(0))
    return tensors["sample"][-1]


@pytest.mark.parametrize(
    ("class_name", "options", "tolerance"),
    SCHEDULERS,
    ids=lambda value: "" if isinstance(value, float) else None,
)
def test_a_whole_loop_agrees(class_name: str, options: dict[str, Any], tolerance: float) -> None:
    schedule = probe(class_name, {**CONFIG, **options}, STEPS)
    scheduler = getattr(diffusers, class_name).from_config({**CONFIG, **options})
    scheduler.set_timesteps(STEPS)
    assert schedule.timesteps == tuple(float(timestep) for timestep in scheduler.timesteps)

    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = follow_scheduler(scheduler, noise, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    dtype = torch.float32 if "sde" in str(options) else torch.float64  # in which that scheduler draws
    draws = [
        torch.randn(SHAPE, generator=generator, dtype=dtype).double() for _ in range(schedule.noise_draws)
    ]
    assert (follow_table(schedule, noise, draws) - expected).norm() / expected.norm() < tolerance


def test_ddim_by_its_equation() -> None:
    """Song et al. 2021, equation 12, with sigma = 0."""
    schedule = probe("DDIMScheduler", {**CONFIG, "steps_offset": 1, "set_alpha_to_one": False}, 50)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    for step in schedule.steps:
        now = alphas[int(step.timestep)].item()
        before = alphas[max(int(step.timestep) - 20, 0)].item()
        sample = (before / now) ** 0.5
        noise_pred = (1 - before) ** 0.5 - sample * (1 - now) ** 0.5
        found = {term.kind: term.coefficient for term in step.terms}
        assert found == pytest.approx({"sample": sample, "noise_pred": noise_pred}, rel=1e-4)  # float32 betas
        assert step.input_scale == 1.0
    assert schedule.init_noise_sigma == 1.0


def test_plms_makes_a_call_more_than_steps() -> None:
    schedule = probe("PNDMScheduler", {**CONFIG, "skip_prk_steps": True, "steps_offset": 1}, 50)
    assert len(schedule.steps) == 51
    assert schedule.timesteps[:4] == (981.0, 961.0, 961.0, 941.0)
    assert [(term.kind, term.index) for term in schedule.steps[10].terms] == [
        ("sample", 10),
        ("noise_pred", 7),
        ("noise_pred", 8),
        ("noise_pred", 9),
        ("noise_pred", 10),
    ]


def test_dpm_solver_rows_reach_back_two_calls() -> None:
    schedule = probe("DPMSolverMultistepScheduler", CONFIG, 20)
    assert [(term.kind, term.index) for term in schedule.steps[10].terms] == [
        ("sample", 9),
        ("sample", 10),
        ("noise_pred", 9),
        ("noise_pred", 10),
    ]


@pytest.mark.parametrize(("order", "terms"), [(2, 6), (3, 8)])
def test_rows_of_a_scheduler_that_corrects_its_samples_are_short(order: int, terms: int) -> None:
    """UniPC's own rows reach back to the first call: 98 terms here."""
    schedule = probe("UniPCMultistepScheduler", {**CONFIG, "solver_order": order}, 50)
    assert max(len(step.terms) for step in schedule.steps) == terms
    for call, step in enumerate(schedule.steps):
        assert all(term.index >= call - order for term in step.terms)


def test_rows_that_cannot_be_shortened_stay_as_they_are() -> None:
    identity = torch.eye(6, dtype=torch.float64)  # three samples, three predictions
    first, second = 0.5 * identity[0] + identity[3], 0.25 * identity[1] - identity[3] + identity[4]
    assert torch.equal(torch.stack(shortened([first, second])), torch.stack([first, second]))


def test_a_multiple_of_the_row_before_is_taken_out() -> None:
    """x2 = 2 x1 + e1 with x1 written out, as a scheduler does that keeps it to itself."""
    identity = torch.eye(6, dtype=torch.float64)
    first = 0.5 * identity[0] + identity[3]
    assert torch.equal(shortened([first, 2 * first + identity[4]])[1], 2 * identity[1] + identity[4])


@pytest.mark.parametrize(
    ("class_name", "call"),
    [("DDIMScheduler", 4), ("HeunDiscreteScheduler", 8), ("UniPCMultistepScheduler", 4)],
)
def test_a_table_may_begin_in_the_middle(class_name: str, call: int) -> None:
    whole, begun = probe(class_name, CONFIG, STEPS), probe(class_name, CONFIG, STEPS, start_step=4)
    assert begun.start is not None
    assert (begun.start.step, begun.start.call) == (4, call)
    assert begun.timesteps == whole.timesteps[call:]


def test_the_noise_of_a_start_by_its_equation() -> None:
    """Ho et al. 2020, equation 4."""
    begun = probe("DDIMScheduler", {**CONFIG, "steps_offset": 1}, 50, start_step=10)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[int(begun.timesteps[0])].item()
    assert begun.start is not None
    assert (begun.start.image, begun.start.noise) == pytest.approx((kept**0.5, (1 - kept) ** 0.5), rel=1e-4)


@pytest.mark.parametrize("step", [-1, STEPS])
def test_a_step_that_is_not_there(step: int) -> None:
    with pytest.raises(ScheduleError, match=f"cannot begin with step {step} of {STEPS}") as caught:
        probe("DDIMScheduler", CONFIG, STEPS, start_step=step)
    assert caught.value.available == (f"0 to {STEPS - 1}",)


def test_euler_scales_its_input() -> None:
    schedule = probe("EulerDiscreteScheduler", CONFIG, 10)
    sigma = schedule.init_noise_sigma
    assert sigma > 10
    assert schedule.steps[0].input_scale == pytest.approx((sigma**2 + 1) ** -0.5, rel=1e-6)  # float32 sigmas


@pytest.mark.parametrize(
    ("class_name", "draws"),
    [("DDIMScheduler", 0), ("LCMScheduler", 9), ("EulerAncestralDiscreteScheduler", 10)],
)
def test_noise_draws_are_counted(class_name: str, draws: int) -> None:
    assert probe(class_name, CONFIG, 10).noise_draws == draws


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_what_is_not_linear_is_refused_by_name(option: str) -> None:
    with pytest.raises(ScheduleError, match=f"{option}=True is not a linear update") as caught:
        probe("DDIMScheduler", {**CONFIG, option: True}, 10)
    assert f"set {option} to false" in str(caught.value)
    assert "Runtime.as_unet" in str(caught.value)


def test_unknown_nonlinearity_is_found_by_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clamping(diffusers.DDIMScheduler):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return (super().step(*args, **kwargs)[0].clamp(-2, 2),)

    monkeypatch.setattr(diffusers, "Clamping", Clamping, raising=False)
    with pytest.raises(ScheduleError, match="a linear table is off by"):
        probe("Clamping", CONFIG, 10)


def test_a_scheduler_that_gives_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dividing(diffusers.DDIMScheduler):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return (super().step(*args, **kwargs)[0] * math.nan,)

    monkeypatch.setattr(diffusers, "Dividing", Dividing, raising=False)
    with pytest.raises(ScheduleError, match="coefficients of call 0 are not finite"):
        probe("Dividing", CONFIG, 10)


@pytest.mark.parametrize(
    ("class_name", "steps", "message"),
    [
        ("DDIMScheduler", 0, "at least one is needed"),
        ("DDIMScheduler", 2000, "refuses 2000 steps"),
        ("RePaintScheduler", 10, "does not give a table"),
        ("VQDiffusionScheduler", 10, "refuses 10 steps"),
    ],
)
def test_what_a_scheduler_cannot_do_is_an_error(class_name: str, steps: int, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        probe(class_name, CONFIG, steps)


def test_an_unknown_class_is_an_error() -> None:
    with pytest.raises(ModelError, match="no class 'DIMScheduler'"):
        probe("DIMScheduler", CONFIG, 10)


def test_the_source_of_noise_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = scheduling_lcm.randn_tensor
    probe("LCMScheduler", CONFIG, 4)
    assert scheduling_lcm.randn_tensor is original

    def fail(*_: Any, **__: Any) -> None:
        assert scheduling_lcm.randn_tensor is not original
        raise RuntimeError("no")

    monkeypatch.setattr(diffusers.LCMScheduler, "step", fail)
    with pytest.raises(ScheduleError, match="RuntimeError: no"):
        probe("LCMScheduler", CONFIG, 4)
    assert scheduling_lcm.randn_tensor is original
