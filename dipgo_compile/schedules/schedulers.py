"""From a scheduler's short name to its diffusers class and configuration, for a model.

``docs/samplers.md`` lists the names, and what is tested with each.
"""

from __future__ import annotations

import difflib
import inspect
import math
from dataclasses import dataclass
from typing import Any

from dipgo_compile.errors import ScheduleError
from dipgo_compile.mask import SchedulerRef
from dipgo_compile.models import Denoiser
from dipgo_compile.schedules.probe import NONLINEAR_OPTIONS, probe

PNDM, DPM = "PNDMScheduler", "DPMSolverMultistepScheduler"
SCHEDULER_ALIASES: dict[str, str] = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": PNDM,
    "plms": PNDM,
    "dpm": DPM,
    "dpm++": DPM,
    "dpm++2m": DPM,
    "dpm++3m": DPM,
    "dpm++sde": DPM,
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "lcm": "LCMScheduler",
}
ALIAS_OPTIONS: dict[str, dict[str, Any]] = {
    "dpm++2m": {"algorithm_type": "dpmsolver++", "solver_order": 2},
    "dpm++3m": {"algorithm_type": "dpmsolver++", "solver_order": 3},
    "dpm++sde": {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
}
"""What a name says beyond its class. It goes before what the model says."""


@dataclass(frozen=True)
class Suffix:
    """What the end of a name says: the value of an option, for the classes that have it."""

    option: str
    value: Any
    about: str


SUFFIXES: dict[str, Suffix] = {
    "-karras": Suffix("use_karras_sigmas", True, "Karras' noise levels"),
    "-trailing": Suffix("timestep_spacing", "trailing", "timesteps spaced from the noisiest on"),
}
NAMES_HELP = (
    f"{', '.join(SCHEDULER_ALIASES)}, or a diffusers class. "
    + ", ".join(f"NAME{ending} for {suffix.about}" for ending, suffix in SUFFIXES.items())
    + "."
)


def resolve_scheduler(name: str | None, model: Denoiser) -> tuple[str, dict[str, Any]]:
    """A scheduler's class name and its whole configuration, without diffusers' private keys.

    ``name``: a short name or a diffusers class name, either with endings (``SUFFIXES``), or None for the
    model's own. The model's own class keeps its configuration; another class takes over what it knows of it,
    as ``from_config`` does. Only what the name itself says changes it (``ALIAS_OPTIONS``): an option that
    isn't linear is refused by ``probe``. Where the model says nothing, clipping and thresholding are off, as
    they must be for latents, and PNDM starts without Runge-Kutta steps, as Stable Diffusion uses it. Raises
    ScheduleError for an unknown name.
    """
    from dipgo_compile.models.source import make_scheduler

    if name is None and not model.scheduler_class:
        raise ScheduleError(
            "the model comes without a scheduler", available=SCHEDULER_ALIASES, mend="choose one: --scheduler"
        )
    class_name, said = (model.scheduler_class, {}) if name is None else _named(name)
    given = dict(model.scheduler_config)
    if class_name != model.scheduler_class:
        stated = given.keys() - set(given.get("_use_default_values", ()))
        defaults: dict[str, Any] = dict.fromkeys(NONLINEAR_OPTIONS, False)
        if class_name == PNDM:
            defaults["skip_prk_steps"] = True
        known = _options(class_name)
        given = {option: given[option] for option in stated & known}
        given |= {option: defaults[option] for option in defaults.keys() & known - stated}
    try:
        config = make_scheduler(class_name, given | said).config
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise ScheduleError(reason, mend="install that package, or choose another scheduler") from error
    return class_name, {
        option: value
        for option, value in config.items()
        if not option.startswith("_") and not _infinite(value)
    }


def scheduler_ref(name: str | None, model: Denoiser, num_inference_steps: int) -> SchedulerRef:
    """The schedule as a mask records it. Raises ScheduleError, also for a scheduler that isn't linear."""
    class_name, config = resolve_scheduler(name, model)
    schedule = probe(class_name, config, num_inference_steps)
    return SchedulerRef(class_name, config, num_inference_steps, schedule.timesteps)


def _named(name: str) -> tuple[str, dict[str, Any]]:
    """The class of a name, and the options that it states."""
    stem, endings = name, []
    while ending := next((ending for ending in SUFFIXES if stem.endswith(ending)), None):
        stem = stem.removesuffix(ending)
        endings.append(ending)
    class_name = _class_name(stem)
    said = dict(ALIAS_OPTIONS.get(stem.lower(), {}))
    for ending in endings:
        suffix = SUFFIXES[ending]
        if suffix.option not in _options(class_name):
            raise ScheduleError(
                f"{class_name} does not know {suffix.about}",
                available=[
                    f"{alias}{ending}"
                    for alias, known in SCHEDULER_ALIASES.items()
                    if suffix.option in _options(known)
                ],
                mend=f"leave {ending} out",
            )
        said[suffix.option] = suffix.value
    return class_name, said


def _class_name(name: str) -> str:
    import diffusers

    class_name = SCHEDULER_ALIASES.get(name.lower(), name)
    if class_name.endswith("Scheduler") and hasattr(diffusers, class_name):
        return class_name
    close = difflib.get_close_matches(name, [*SCHEDULER_ALIASES, *SCHEDULER_ALIASES.values()], n=1)
    raise ScheduleError(
        f"unknown scheduler {name!r}",
        available=SCHEDULER_ALIASES,
        mend=f"did you mean {close[0]!r}?" if close else "use one of these, or the name of a diffusers class",
    )


def _options(class_name: str) -> set[str]:
    import diffusers

    return set(inspect.signature(getattr(diffusers, class_name).__init__).parameters)


def _infinite(value: object) -> bool:
    """JSON has no infinities. Schedulers use them as defaults only, so they can be left out."""
    return isinstance(value, float) and math.isinf(value)
