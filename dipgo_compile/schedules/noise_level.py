"""What a denoiser reads at each call to know how noisy its sample is.

diffusers' denoisers read the scheduler's timestep. Others, trained on continuous noise levels, read its
sigma: for variance-exploding schedulers (Euler, Heun) the noise's deviation, for flow matching the noise's
share. It is the ``sigmas`` entry that the scheduler itself scales the sample by at that call. A sigma that
was transformed before training (EDM's quarter logarithm) is the timestep of diffusers' EDM schedulers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dipgo_compile.errors import ScheduleError
from dipgo_compile.mask import SchedulerRef
from dipgo_compile.models import Denoiser
from dipgo_compile.program import TensorSpec
from dipgo_compile.schedules.probe import probe
from dipgo_compile.schedules.table import Schedule


def schedule_of(reference: SchedulerRef, model: Denoiser, start_step: int | None = None) -> Schedule:
    """The schedule of a mask, with what ``model`` reads as timesteps. ``start_step``: see ``probe``. Raises
    ScheduleError.
    """
    schedule = probe(reference.class_name, reference.config, reference.num_inference_steps, start_step)
    timestep = next(spec.spec for spec in model.inputs(model.geometry()) if spec.role == "timestep")
    return as_read(schedule, reference.config, model.timestep_kind, timestep)


def as_read(schedule: Schedule, config: Mapping[str, Any], kind: str, spec: TensorSpec) -> Schedule:
    """``schedule`` with, as timesteps, the numbers that the denoiser reads.

    ``config`` is the scheduler's, ``kind`` is ``timestep`` or ``sigma``, ``spec`` that of the denoiser's
    input. Raises ScheduleError where the scheduler has no sigma for each call, and where the input can't hold
    the numbers: an integer input and fractional timesteps.
    """
    if kind == "sigma":
        levels = _sigmas(schedule, config)
        steps = zip(schedule.steps, levels, strict=True)
        schedule = replace(schedule, steps=tuple(replace(step, timestep=level) for step, level in steps))
    if np.dtype(spec.dtype).kind in "iu":
        fractional = [timestep for timestep in schedule.timesteps if not timestep.is_integer()]
        if fractional:
            raise ScheduleError(
                f"the denoiser reads integers, and {schedule.class_name} gives it {fractional[0]:g}",
                where=f"scheduler: {kind}s",
                mend="use a scheduler with whole timesteps (ddim, plms), or export the denoiser with a "
                "floating-point timestep",
            )
    return schedule


def _sigmas(schedule: Schedule, config: Mapping[str, Any]) -> list[float]:
    from dipgo_compile.models.source import make_scheduler

    scheduler = make_scheduler(schedule.class_name, config)
    scheduler.set_timesteps(schedule.num_inference_steps)
    noted = getattr(scheduler, "sigmas", None)
    sigmas = [] if noted is None else [float(sigma) for sigma in noted]
    first = 0 if schedule.start is None else schedule.start.call
    calls = first + len(schedule.steps)
    if len(sigmas) not in (calls, calls + 1):  # most end with the sigma after the last call
        raise ScheduleError(
            f"the denoiser reads sigmas, and {schedule.class_name} has none for each of its {calls} calls",
            available=("euler", "euler-ancestral", "heun", "dpm++", "FlowMatchEulerDiscreteScheduler"),
            mend="make the mask for one of these schedulers, or pass --timestep-kind timestep",
        )
    return sigmas[first:calls]
