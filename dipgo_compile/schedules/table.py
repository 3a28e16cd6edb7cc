"""A denoising loop's arithmetic: what a linear scheduler does at each call, as coefficients.

``probe.py`` finds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["sample", "noise_pred", "noise"]


@dataclass(frozen=True, slots=True)
class ScheduleTerm:
    """``coefficient`` times a tensor.

    ``index`` is the call for the ``sample`` it starts from (unscaled) and its ``noise_pred``. Draws of
    ``noise`` are numbered in the order in which the scheduler draws them from its generator.
    """

    kind: Kind
    index: int
    coefficient: float


@dataclass(frozen=True, slots=True)
class ScheduleStep:
    """One denoiser call: it reads ``input_scale * sample``, and the next sample is the sum of ``terms``."""

    timestep: float
    input_scale: float
    terms: tuple[ScheduleTerm, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a loop begins that turns one image into another.

    ``step`` counts inference steps, ``call`` denoiser calls: the first ones of the whole loop that are made.
    The first sample is ``image`` times the clean latents plus ``noise`` times unit normal noise.
    """

    step: int
    call: int
    image: float
    noise: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """A denoising loop's arithmetic. The first sample is ``init_noise_sigma`` times unit normal noise, unless
    ``start`` says otherwise; calls are counted from the first that is made.

    ``noise_draws`` counts all draws, also those that no term reads: they advance the generator all the same.
    Coefficients are float64, but only float32-accurate where the scheduler itself computes in float32.
    """

    class_name: str
    num_inference_steps: int
    init_noise_sigma: float
    noise_draws: int
    steps: tuple[ScheduleStep, ...]
    start: Start | None = None

    @property
    def timesteps(self) -> tuple[float, ...]:
        """One per denoiser call."""
        return tuple(step.timestep for step in self.steps)
