"""Any linear diffusers scheduler as a table of coefficients.

With clipping and thresholding off, a scheduler's next sample is a linear combination of the samples, the
noise predictions and the noise drawn so far. Its coefficients come from the real scheduler object: every
sample, noise prediction and noise draw gets its own basis vector, and the vector that ``step`` returns is the
row of the table. So no scheduler is reimplemented, and a compiled plan holds no scheduler code. The table is
then compared with the real scheduler on random tensors, which also finds what isn't linear.

Rows are short: a row reaches back a few calls, so few tensors are alive at a time. Schedulers that carry a
corrected sample inside (UniPC) give rows that reach back to the first call; ``shortened`` mends that.

Image-to-image begins in the middle: a scheduler's ``add_noise`` is linear, too, and ``Start`` holds its two
coefficients.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dipgo_compile.errors import DipgoError, ScheduleError
from dipgo_compile.schedules.table import Kind, Schedule, ScheduleStep, ScheduleTerm, Start

if TYPE_CHECKING:
    import torch

NONLINEAR_OPTIONS = ("clip_sample", "thresholding")
DRAWS_PER_CALL = 2  # room in the basis; no known scheduler draws noise more than once a call
# Some schedulers compute in float32 whatever they are given: a few roundings of 6e-8, relative to the terms.
# A clipped or thresholded sample is off by more than 1e-2.
TOLERANCE = 1e-5
# Rows are computed in float64: what is left of a coefficient that cancels out is a few roundings of 1e-16.
CANCELLED = 1e-12
WAY_OUT = "keep this scheduler on the host: load the bundle and call Runtime.as_unet in your own loop"


def probe(
    class_name: str,
    config: Mapping[str, Any],
    num_inference_steps: int,
    start_step: int | None = None,
) -> Schedule:
    """The table of a diffusers scheduler; with ``start_step``, of its loop from that step on, as diffusers'
    image-to-image pipelines cut it.

    Not thread-safe: it replaces the scheduler's source of noise for a moment. Raises ScheduleError, naming
    the option that isn't linear where it is a known one.
    """

    def fresh() -> _Loop:
        scheduler = _fresh(class_name, config, num_inference_steps)
        return _Loop(scheduler, num_inference_steps, start_step)

    loop = fresh()
    for option in NONLINEAR_OPTIONS:
        if loop.scheduler.config.get(option, False):
            raise ScheduleError(
                f"{class_name} with {option}=True is not a linear update",
                where=f"scheduler config: {option}",
                mend=f"set {option} to false in the scheduler's config if the model allows it, or {WAY_OUT}",
            )
    try:
        schedule = _table(loop, class_name, num_inference_steps)
        distance = _disagreement(schedule, fresh())
    except DipgoError:
        raise
    except (
        Exception
    ) as error:  # missing packages, other signatures, learned variances: it raises what it likes
        raise _not_linear(class_name, f"{type(error).__name__}: {error}") from error
    if not distance <= TOLERANCE:  # NaN is a disagreement, too
        raise _not_linear(class_name, f"a linear table is off by {distance:.1e}, more than {TOLERANCE:.0e}")
    return schedule


class _Loop:
    """A fresh scheduler, and the calls that are made of its loop. Raises ScheduleError for a step that it
    can't begin with.
    """

    def __init__(self, scheduler: Any, steps: int, start_step: int | None) -> None:
        self.scheduler, self.start_step = scheduler, start_step
        self.first_call = 0
        self.timesteps = list(scheduler.timesteps)
        if start_step is None:
            return
        name = type(scheduler).__name__
        if not 0 <= start_step < steps:
            raise ScheduleError(
                f"{name} cannot begin with step {start_step} of {steps}",
                available=(f"0 to {steps - 1}",),
                mend="a strength s of diffusers' pipelines is the start step N - floor(s * N) of N steps",
            )
        if not hasattr(scheduler, "add_noise"):
            raise ScheduleError(f"{name} cannot begin with an image: it has no add_noise", mend=WAY_OUT)
        self.first_call = start_step * getattr(scheduler, "order", 1)
        self.timesteps = self.timesteps[self.first_call :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.first_call)

    def noisy(self, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The first sample of an image-to-image loop."""
        mixed: torch.Tensor = self.scheduler.add_noise(
            image, noise, self.scheduler.timesteps[self.first_call :][:1]
        )
        return mixed


def _fresh(class_name: str, config: Mapping[str, Any], num_inference_steps: int) -> Any:
    from dipgo_compile.models.source import make_scheduler

    if num_inference_steps < 1:
        raise ScheduleError(f"{num_inference_steps} inference steps: at least one is needed")
    try:
        scheduler = make_scheduler(class_name, config)
        scheduler.set_timesteps(num_inference_steps)
    except DipgoError:
        raise
    except Exception as error:  # each scheduler has its own conditions, and raises what it likes
        reason = str(error).strip() or type(error).__name__
        raise ScheduleError(
            f"{class_name} refuses {num_inference_steps} steps with this config: {reason}",
            mend=f"correct the scheduler's config, or {WAY_OUT}",
        ) from error
    return scheduler


def _table(loop: _Loop, class_name: str, num_inference_steps: int) -> Schedule:
    import torch

    scheduler, calls = loop.scheduler, len(loop.timesteps)
    sizes: dict[Kind, int] = {"sample": calls, "noise_pred": calls, "noise": DRAWS_PER_CALL * calls}
    names = [(kind, index) for kind, size in sizes.items() for index in range(size)]
    # Four dimensions, because some schedulers contract over a batch and channels (UniPC).
    basis = torch.eye(len(names), dtype=torch.float64).reshape(len(names), 1, 1, 1, len(names))
    draws = 0

    def draw(*_: Any, **__: Any) -> torch.Tensor:
        nonlocal draws
        draws += 1
        return basis[2 * calls + draws - 1].clone()

    start = None
    if loop.start_step is not None:
        image, noise = loop.noisy(basis[0].clone(), basis[1].clone()).flatten()[:2].tolist()
        start = Start(loop.start_step, loop.first_call, image, noise)
    scales, rows = [], []
    with _noise_from(type(scheduler), draw):
        for call, timestep in enumerate(loop.timesteps):
            one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
            scales.append(_scale_input(scheduler, one, timestep).item())
            row = _step(scheduler, basis[calls + call], timestep, basis[call])
            if not row.isfinite().all():
                raise _not_linear(class_name, f"the coefficients of call {call} are not finite")
            rows.append(row.flatten())
    steps = tuple(
        ScheduleStep(
            float(timestep),
            scale,
            tuple(
                ScheduleTerm(kind, index, coefficient)
                for (kind, index), coefficient in zip(names, row.tolist(), strict=True)
                if coefficient
            ),
        )
        for timestep, scale, row in zip(loop.timesteps, scales, shortened(rows), strict=True)
    )
    sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))  # flow matching starts from unit noise
    return Schedule(class_name, num_inference_steps, sigma, draws, steps, start)


def shortened(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same loop with fewer terms. Columns begin with the samples, one a call.

    In a loop a sample *is* the row before it, so any multiple of (row before - sample) may be taken from a
    row. UniPC hides a vector that both rows hold a multiple of: the right multiple takes it out, with all
    that reaches back to the first call. Rows that wouldn't have fewer terms stay as they are.
    """
    short = rows[:1]
    for call, (before, row) in enumerate(pairwise(rows), start=1):
        for oldest in (before * row).nonzero()[:1].flatten().tolist():
            multiple = row[oldest] / before[oldest]
            candidate = row - multiple * before
            candidate[call] += multiple
            candidate[candidate.abs() <= CANCELLED * row.abs().max()] = 0
            if candidate.count_nonzero() < row.count_nonzero():
                row = candidate
        short.append(row)
    return short


def _disagreement(schedule: Schedule, loop: _Loop) -> float:
    """The largest difference between table and scheduler on random tensors, relative to the terms' size."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal(*_: Any, **__: Any) -> torch.Tensor:
        return torch.randn(1, 1, 2, 8, generator=generator, dtype=torch.float64)

    tensors: dict[Kind, list[torch.Tensor]] = {"sample": [], "noise_pred": [], "noise": []}

    def draw(*_: Any, **__: Any) -> torch.Tensor:
        tensors["noise"].append(normal())
        return tensors["noise"][-1].clone()

    def distance(actual: torch.Tensor, parts: list[torch.Tensor]) -> float:
        stacked = torch.stack(parts)
        return float((actual - stacked.sum(0)).abs().max() / stacked.abs().sum(0).max())

    distances = []
    scheduler, start = loop.scheduler, schedule.start
    if start is None:
        sample = schedule.init_noise_sigma * normal()
    else:
        image, noise = normal(), normal()
        sample = loop.noisy(image, noise)
        distances.append(distance(sample, [start.image * image, start.noise * noise]))
    with _noise_from(type(scheduler), draw):
        for step, timestep in zip(schedule.steps, loop.timesteps, strict=True):
            tensors["sample"].append(sample)
            tensors["noise_pred"].append(normal())
            _scale_input(scheduler, sample, timestep)
            sample = _step(scheduler, tensors["noise_pred"][-1], timestep, sample)
            parts = [term.coefficient * tensors[term.kind][term.index] for term in step.terms]
            distances.append(distance(sample, parts))
    return math.nan if any(map(math.isnan, distances)) else max(distances)


def _scale_input(scheduler: Any, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
    """What the denoiser reads. Flow-matching schedulers don't scale it and have no such method."""
    scale = getattr(scheduler, "scale_model_input", None)
    scaled: torch.Tensor = sample if scale is None else scale(sample.clone(), timestep)
    return scaled


def _step(scheduler: Any, noise_pred: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
    """The next sample. The scheduler gets copies: some keep their arguments, some write into them."""
    advanced: torch.Tensor = scheduler.step(noise_pred.clone(), timestep, sample.clone(), return_dict=False)[
        0
    ]
    return advanced


@contextmanager
def _noise_from(scheduler_class: type, draw: Callable[..., Any]) -> Iterator[None]:
    """Within, the scheduler's modules draw their noise from ``draw`` instead of a random generator."""
    modules = {sys.modules[cls.__module__] for cls in scheduler_class.__mro__}
    saved = {
        module: module.__dict__["randn_tensor"] for module in modules if "randn_tensor" in module.__dict__
    }
    try:
        for module in saved:
            module.__dict__["randn_tensor"] = draw
        yield
    finally:
        for module, original in saved.items():
            module.__dict__["randn_tensor"] = original


def _not_linear(class_name: str, reason: str) -> ScheduleError:
    return ScheduleError(f"{class_name} does not give a table of coefficients: {reason}", mend=WAY_OUT)
