"""A compiled plan against the PyTorch SuperNet, which is the definition of correct.

Two comparisons. *Hosted*: the SuperNet drives the loop, and at every denoiser call the plan is asked for its noise
prediction on exactly the same sample, so the first call that disagrees is the one at fault. *Whole*: the plan
denoises by itself, schedule and guidance included, and its final latents are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dipgo_compile.bundle import MASK
from dipgo_compile.errors import InputError, ModelError, ParityError
from dipgo_compile.example import Example, example_inputs
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import Model, load
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE, Runtime
from dipgo_compile.schedule import probe

Progress = Callable[[int, int], None]
"""Told how many denoiser calls are done, of how many."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``noise_pred``: absolute, per element of every call's prediction. ``latents``: relative L2 of the final ones."""

    noise_pred: float
    latents: float


# fp32: predictions are of unit size, and two correct float32 denoisers that add up in different orders differ by about
# 1e-5; a block computed or reused at the wrong call moves them by more than 1e-2.
TOLERANCES: Mapping[str, Tolerance] = {"fp32": Tolerance(noise_pred=1e-3, latents=1e-3)}


@dataclass(frozen=True, slots=True)
class CallDifference:
    """One denoiser call. ``computed``: the plan runs something in it; otherwise it answers with an older value."""

    call: int
    timestep: float
    computed: bool
    max_abs_diff: float


@dataclass(frozen=True)
class Comparison:
    """What was found, in the order of the calls, and what would have been accepted."""

    bundle: str
    model: str
    seed: int
    prompt: str | None
    guidance_scale: float | None
    tolerance: Tolerance
    calls: tuple[CallDifference, ...]
    latents_relative_l2: float

    @property
    def failed_calls(self) -> tuple[CallDifference, ...]:
        return tuple(call for call in self.calls if not call.max_abs_diff <= self.tolerance.noise_pred)

    @property
    def passed(self) -> bool:
        return not self.failed_calls and self.latents_relative_l2 <= self.tolerance.latents

    def check(self) -> None:
        """Raises ParityError, naming the first call that disagrees."""
        if self.passed:
            return
        if self.failed_calls:
            first = self.failed_calls[0]
            raise ParityError(
                f"{len(self.failed_calls)} of {len(self.calls)} noise predictions differ from the SuperNet's by more "
                f"than {self.tolerance.noise_pred:g}, first that of call {first.call}: {first.max_abs_diff:.3g}",
                where=self.bundle,
                mend="build the bundle again if the model's weights have changed; otherwise find the pass at fault "
                "with: dipgo-compile build --disable-pass",
            )
        raise ParityError(
            f"every noise prediction agrees, but the final latents are off by {self.latents_relative_l2:.3g} (relative "
            f"L2, tolerance {self.tolerance.latents:g}): the schedule or the guidance differs",
            where=self.bundle,
        )

    def to_json(self) -> dict[str, Any]:
        """Differences that aren't finite become null."""
        return {
            **asdict(self),
            "calls": [{**asdict(c), "max_abs_diff": _finite(c.max_abs_diff)} for c in self.calls],
            "latents_relative_l2": _finite(self.latents_relative_l2),
            "passed": self.passed,
        }


def max_abs_diff(actual: Array, expected: Array) -> float:
    """The largest absolute difference; NaN where either has one, infinity for different shapes."""
    if actual.shape != expected.shape:
        return math.inf
    return float(np.max(np.abs(_difference(actual, expected)), initial=0.0))


def relative_l2(actual: Array, expected: Array) -> float:
    """``|actual - expected| / |expected|``; NaN where either has one, infinity for different shapes."""
    if actual.shape != expected.shape:
        return math.inf
    distance = float(np.linalg.norm(_difference(actual, expected)))
    size = float(np.linalg.norm(expected.astype(np.float64)))
    if size == 0.0:
        return math.inf if distance else 0.0
    return distance / size


def compare(
    path: str | Path,
    *,
    source: str | None = None,
    seed: int = 0,
    prompt: str | None = None,
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
    tolerance: Tolerance | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the bundle at ``path`` with the SuperNet of its model (or of ``source``) under its own mask.

    Noise and conditions are drawn from ``seed``; with ``prompt`` the pipeline's text encoder makes the conditions.
    Raises DipgoErrors for what can't be loaded; a disagreement is in the result, see ``Comparison.check``.
    """
    from dipgo_trainer.chain import denoise, drawn, scheduler_of
    from dipgo_trainer.supernet import SuperNet

    with Runtime.load(path, threads=threads) as runtime:
        plan, mask = runtime.plan, Mask.load(Path(path) / MASK)
        model = _load_reference(plan, source or plan.model["source"])
        scale = None if plan.interface.guidance is None else guidance_scale
        inputs = example_inputs(plan, seed)
        if prompt is not None:
            inputs = Example(inputs.latents, _encode(plan, model, prompt), inputs.draws)
        hosted, computing = runtime.as_unet(), set(plan.program.calls_with_runs())
        scheduler = scheduler_of(mask)
        found: list[CallDifference] = []

        def predict(call: int, given: dict[str, torch.Tensor]) -> torch.Tensor:
            net.set_row(mask.keep[call])
            expected: torch.Tensor = model.denoiser(**given, return_dict=False)[0]
            actual = hosted(**given).sample
            difference = max_abs_diff(actual.numpy(), expected.numpy())
            found.append(CallDifference(call, mask.scheduler.timesteps[call], call in computing, difference))
            if progress is not None:
                progress(call + 1, mask.calls)
            return expected

        conditions = {name: torch.from_numpy(value) for name, value in inputs.conditions.items()}
        noise = _all_draws(mask, plan, inputs)
        with (
            torch.no_grad(),
            SuperNet(model.denoiser, mask.blocks, mask.reuse) as net,
            drawn(scheduler, noise),
        ):
            reference = denoise(
                model, scheduler, predict, torch.from_numpy(inputs.latents), conditions, scale
            )
        actual = runtime.denoise(
            inputs.latents, guidance_scale=scale, draws=inputs.draws, **inputs.conditions
        )
    return Comparison(
        bundle=str(path),
        model=model.source,
        seed=seed,
        prompt=prompt,
        guidance_scale=scale,
        tolerance=tolerance or default_tolerance(plan.target.precision),
        calls=tuple(found),
        latents_relative_l2=relative_l2(actual, reference.final.numpy()),
    )


def default_tolerance(precision: str) -> Tolerance:
    """The tolerance for a precision. Raises InputError where none is known to be right."""
    try:
        return TOLERANCES[precision]
    except KeyError:
        raise InputError(
            f"there is no default tolerance for {precision}", available=TOLERANCES, mend="state one"
        ) from None


def _difference(actual: Array, expected: Array) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which fails every comparison: as it should
        return actual.astype(np.float64) - expected.astype(np.float64)


def _load_reference(plan: Plan, source: str) -> Model:
    model = load(source)
    if model.config_sha256 != plan.model["config_sha256"]:
        raise ModelError(
            f"{source} is not the architecture that the bundle was built for",
            where="model.config_sha256",
            mend="pass the model it was built from, or build the bundle again",
        )
    return model


def _all_draws(mask: Mask, plan: Plan, inputs: Example) -> list[torch.Tensor]:
    """Noise for every draw of the scheduler. The plan takes those that its table reads; the others count for nothing."""
    schedule = probe(mask.scheduler.class_name, mask.scheduler.config, mask.scheduler.num_inference_steps)
    read = sorted({term.index for step in schedule.steps for term in step.terms if term.kind == "noise"})
    unread = np.zeros(plan.program.specs[plan.interface.latents].shape, np.float32)
    given = dict(zip(read, inputs.draws, strict=True))
    return [torch.from_numpy(given.get(index, unread)) for index in range(schedule.noise_draws)]


def _encode(plan: Plan, model: Model, prompt: str) -> dict[str, Array]:
    """The prompt for every image, in the halves' order; "" is the unconditional half."""
    from dipgo_compile.models.source import load_pipeline
    from dipgo_trainer.samples import text_conditions

    pipeline = load_pipeline(model.source)
    if getattr(pipeline, "text_encoder", None) is None:
        raise InputError(
            f"{model.source} has no text encoder", mend="leave the prompt out: conditions are then random"
        )
    halves = text_conditions(model, pipeline, [prompt])(0)
    images = plan.program.specs[plan.interface.latents].shape[0]
    order = plan.interface.guidance or ("cond",)
    return {
        name: np.concatenate([np.repeat(halves[half][name].numpy(), images, axis=0) for half in order])
        for name in plan.interface.conditions
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
