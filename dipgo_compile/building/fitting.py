"""Does a mask fit its model? What comes of that is the schedule of its calls."""

from __future__ import annotations

from dipgo_compile.errors import MaskError
from dipgo_compile.mask import Mask
from dipgo_compile.models import Denoiser
from dipgo_compile.schedules.noise_level import as_read, schedule_of
from dipgo_compile.schedules.probe import probe
from dipgo_compile.schedules.table import Schedule


def check(mask: Mask, model: Denoiser) -> Schedule:
    """The schedule of a mask that fits the model, with what the denoiser reads as timesteps. Raises
    MaskError, ScheduleError.
    """
    mask.check_against(model, model.scopes)
    if mask.reuse == "residual":
        model.check_residuals(mask.blocks)
    reference = mask.scheduler
    schedule = probe(reference.class_name, reference.config, reference.num_inference_steps)
    if schedule.timesteps != reference.timesteps:
        raise MaskError(
            f"the mask's {len(reference.timesteps)} timesteps are not the {len(schedule.timesteps)} of "
            f"{reference.class_name} with {reference.num_inference_steps} steps",
            where="scheduler.timesteps",
            available=[f"{timestep:.10g}" for timestep in schedule.timesteps],
            mend="give one row per denoiser call: PLMS makes one call more than steps",
        )
    timestep = next(spec.spec for spec in model.inputs(model.geometry()) if spec.role == "timestep")
    return as_read(schedule, reference.config, model.timestep_kind, timestep)


def begun(mask: Mask, model: Denoiser, start_step: int) -> tuple[Mask, Schedule]:
    """The part of a mask and of its schedule that image-to-image makes from an inference step on. Raises
    ScheduleError.

    diffusers' pipelines name the step by its strength s: of N steps they leave out the first
    N - floor(s * N).
    """
    schedule = schedule_of(mask.scheduler, model, start_step)
    assert schedule.start is not None
    return mask.from_call(schedule.start.call), schedule
