"""Which class and configuration a scheduler's name stands for."""

from __future__ import annotations

from typing import Any

import pytest

from dipgo_compile.errors import ScheduleError
from dipgo_compile.models.source import load
from dipgo_compile.schedules.schedulers import SCHEDULER_ALIASES, resolve_scheduler, scheduler_ref


class Described:
    """A model, as far as schedulers are concerned."""

    def __init__(self, scheduler_class: str, **scheduler_config: Any) -> None:
        self.scheduler_class, self.scheduler_config = scheduler_class, scheduler_config


@pytest.mark.parametrize("alias", SCHEDULER_ALIASES)
def test_every_alias_gives_a_table_for_stable_diffusion(alias: str) -> None:
    sd15 = load("random:sd15", weights=False)
    reference = scheduler_ref(alias, sd15, 8)
    assert reference.class_name == SCHEDULER_ALIASES[alias]
    assert reference.config["beta_start"] == 0.00085
    assert len(reference.timesteps) >= 8


def test_the_model_s_own_is_the_default() -> None:
    model = Described("EulerDiscreteScheduler", beta_start=0.5, timestep_spacing="leading")
    class_name, config = resolve_scheduler(None, model)
    assert class_name == "EulerDiscreteScheduler"
    assert (config["beta_start"], config["timestep_spacing"]) == (0.5, "leading")


def test_another_class_takes_over_what_it_knows() -> None:
    model = Described("PNDMScheduler", beta_start=0.5, skip_prk_steps=True)
    _, config = resolve_scheduler("ddim", model)
    assert config["beta_start"] == 0.5
    assert "skip_prk_steps" not in config
    assert not config["clip_sample"]


def test_plms_starts_without_runge_kutta_steps_unless_the_model_says_so() -> None:
    assert resolve_scheduler("plms", Described("DDIMScheduler"))[1]["skip_prk_steps"] is True
    own = Described("PNDMScheduler", skip_prk_steps=False)
    assert resolve_scheduler("plms", own)[1]["skip_prk_steps"] is False


def test_defaults_of_the_model_s_class_are_not_statements() -> None:
    """diffusers notes which options took their default value; another class has its own defaults."""
    model = Described("X", timestep_spacing="leading", _use_default_values=["timestep_spacing"])
    assert resolve_scheduler("dpm++", model)[1]["timestep_spacing"] == "linspace"


@pytest.mark.parametrize("own", ["DDIMScheduler", "DDPMScheduler"])
def test_an_option_that_is_not_linear_is_refused_not_changed(own: str) -> None:
    model = Described(own, clip_sample=True)
    assert resolve_scheduler("ddim", model)[1]["clip_sample"] is True
    with pytest.raises(ScheduleError, match="clip_sample=True"):
        scheduler_ref("ddim", model, 10)


def test_the_configuration_is_plain_json() -> None:
    """Also that of DPM-Solver, whose default for one option is minus infinity."""
    import json

    _, config = resolve_scheduler("dpm++", Described("DDIMScheduler"))
    assert json.loads(json.dumps(config, allow_nan=False)) == config
    assert not [option for option in config if option.startswith("_")]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("dimm", "ddim"), ("EulerDiscretScheduler", "EulerDiscreteScheduler"), ("Tensor", "use")],
)
def test_unknown_names_are_refused(name: str, suggestion: str) -> None:
    with pytest.raises(ScheduleError, match=f"unknown scheduler '{name}'") as caught:
        resolve_scheduler(name, Described("DDIMScheduler"))
    assert suggestion in str(caught.value.mend)


@pytest.mark.parametrize(
    ("name", "class_name", "options"),
    [
        ("dpm++3m", "DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "dpmsolver++"}),
        ("dpm++sde-karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("Euler-karras", "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("UniPCMultistepScheduler-karras", "UniPCMultistepScheduler", {"use_karras_sigmas": True}),
        ("ddim-trailing", "DDIMScheduler", {"timestep_spacing": "trailing"}),
        (
            "dpm++2m-trailing-karras",
            "DPMSolverMultistepScheduler",
            {"timestep_spacing": "trailing", "use_karras_sigmas": True, "solver_order": 2},
        ),
    ],
)
def test_a_name_says_more_than_a_class(name: str, class_name: str, options: dict[str, Any]) -> None:
    """What it says goes before what the model says."""
    own = Described("DPMSolverMultistepScheduler", solver_order=1, use_karras_sigmas=False)
    found, config = resolve_scheduler(name, own)
    assert found == class_name
    assert {option: config[option] for option in options} == options


def test_noise_levels_that_a_scheduler_does_not_know() -> None:
    with pytest.raises(ScheduleError, match="DDIMScheduler does not know Karras") as caught:
        resolve_scheduler("ddim-karras", Described("PNDMScheduler"))
    assert "euler-karras" in caught.value.available
    assert "ddim-karras" not in caught.value.available


def test_trailing_timesteps_start_at_the_last_one_whatever_the_number_of_steps() -> None:
    own = Described("DDIMScheduler", timestep_spacing="leading", steps_offset=1, clip_sample=False)
    for steps in (5, 10, 50):
        first, *_, last = scheduler_ref("ddim-trailing", own, steps).timesteps
        assert (first, last) == (999, 1000 / steps - 1)
        assert scheduler_ref("ddim", own, steps).timesteps[-1] == 1


def test_trailing_timesteps_that_a_scheduler_does_not_know() -> None:
    with pytest.raises(ScheduleError, match="does not know timesteps spaced") as caught:
        resolve_scheduler("FlowMatchEulerDiscreteScheduler-trailing", Described("DDIMScheduler"))
    assert "ddim-trailing" in caught.value.available


def test_a_scheduler_whose_package_is_missing() -> None:
    with pytest.raises(ScheduleError, match="torchsde"):
        resolve_scheduler("CosineDPMSolverMultistepScheduler", Described("PNDMScheduler"))
