"""A compiled plan against the PyTorch SuperNet, which is the definition of correct.

Of an ONNX file there is no SuperNet; ``graphs/reference.py`` takes its place, which runs the file itself.

Two comparisons. *Hosted*: the reference drives the loop, and at every denoiser call the plan is asked for its
noise prediction on exactly the same sample, so the first call that disagrees is the one at fault. *Whole*:
the plan denoises by itself, schedule and guidance included, and its final latents are compared.

Both see whole batches, also where the plan splits the guidance. An ONNX file runs as often as the plan does,
once for each half: its batch may be fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dipgo_compile.bundle import MASK
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import (
    CallDifference,
    Comparison,
    Tolerance,
    default_tolerance,
    max_abs_diff,
    relative_l2,
)
from dipgo_compile.measure.example import Example, example_inputs
from dipgo_compile.models import Denoiser
from dipgo_compile.models.opening import open_built
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE, Runtime
from dipgo_compile.schedules.noise_level import schedule_of
from dipgo_compile.schedules.table import Schedule
from dipgo_compile.shapes import Shape

if TYPE_CHECKING:
    from dipgo_trainer.chain import Predict

Progress = Callable[[int, int], None]
"""Told how many denoiser calls are done, of how many."""


def compare(
    path: str | Path,
    *,
    source: str | None = None,
    model: Denoiser | None = None,
    seed: int = 0,
    prompt: str | None = None,
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
    tolerance: Tolerance | None = None,
    threads: int | None = None,
    precision: str | None = None,
    shape: Shape | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the bundle at ``path`` with its model (or ``source``, or an opened ``model``) under its own
    mask, in one ``shape``, by default that of plan.json.

    Noise and conditions are drawn from ``seed``; with ``prompt`` the pipeline's text encoder makes the
    conditions. ``precision`` overrides the one that the plan computes in, and chooses the default tolerance:
    in ``fp32``, a bundle built for another shows whether the plan is right apart from rounding. Raises
    DipgoErrors for what can't be loaded; a disagreement is in the result, see ``Comparison.check``.
    """
    from dipgo_trainer.chain import Start, denoise, drawn, scheduler_of

    with Runtime.load(path, threads=threads, precision=precision, shape=shape) as runtime:
        plan, mask = runtime.plan, Mask.load(Path(path) / MASK)
        model = model or open_built(plan, source)
        schedule = schedule_of(mask.scheduler, model, plan.schedule.get("start_step"))
        made = mask if schedule.start is None else mask.from_call(schedule.start.call)
        scale = None if plan.interface.guidance is None else guidance_scale
        inputs = example_inputs(plan, seed)
        if prompt is not None:
            inputs = replace(inputs, conditions=_encode(plan, model, prompt, guidance_scale))
        hosted: Any = runtime.as_unet()  # takes whatever keywords its denoiser takes
        computing = set(plan.program.calls_with_runs())
        scheduler = scheduler_of(mask)
        found: list[CallDifference] = []

        def predict(call: int, given: dict[str, torch.Tensor]) -> torch.Tensor:
            expected = oracle(call, given)
            actual = hosted(**given).sample
            difference = max_abs_diff(actual.numpy(), expected.numpy())
            found.append(CallDifference(call, schedule.timesteps[call], call in computing, difference))
            if progress is not None:
                progress(call + 1, made.calls)
            return expected

        conditions = {name: torch.from_numpy(value) for name, value in inputs.conditions.items()}
        noise = _all_draws(schedule, plan, inputs)
        start = None
        if schedule.start is not None and inputs.image_latents is not None:
            start = Start(schedule.start.step, torch.from_numpy(inputs.image_latents))
        with (
            torch.no_grad(),
            _oracle(model, made, plan, threads) as oracle,
            drawn(scheduler, noise),
        ):
            reference = denoise(
                model,
                scheduler,
                predict,
                torch.from_numpy(inputs.latents),
                conditions,
                scale,
                start=start,
                timesteps=schedule.timesteps,
            )
        actual = runtime.session().denoise(
            inputs.latents,
            inputs.conditions,
            guidance_scale=1.0 if scale is None else scale,  # without guidance nothing reads it
            draws=inputs.draws,
            image_latents=inputs.image_latents,
        )
    return Comparison(
        bundle=str(path),
        model=model.source,
        seed=seed,
        prompt=prompt,
        guidance_scale=scale,
        tolerance=tolerance or default_tolerance(precision or plan.target.precision),
        calls=tuple(found),
        latents_relative_l2=relative_l2(actual, reference.final.numpy()),
    )


@contextmanager
def _oracle(model: Denoiser, mask: Mask, plan: Plan, threads: int | None) -> Iterator[Predict]:
    """The definition of correct: answers the calls in order, each as its row of the mask says."""
    from dipgo_trainer.supernet import SuperNet

    from dipgo_compile.models.onnx_file import OnnxModel
    from dipgo_compile.models.source import Model

    if isinstance(model, OnnxModel):
        from dipgo_compile.graphs.reference import OnnxReference

        with ExitStack() as stack:
            halves = 2 if plan.interface.split else 1
            given = [OnnxReference(model, mask, threads) for _ in range(halves)]
            yield _in_parts([stack.enter_context(reference) for reference in given], plan.samples)
        return
    assert isinstance(model, Model)
    with SuperNet(model.denoiser, mask.blocks, mask.reuse) as net:

        def predict(call: int, given: dict[str, torch.Tensor]) -> torch.Tensor:
            net.set_row(mask.keep[call])
            return model.predict(given)

        yield predict


def _in_parts(references: Sequence[Predict], samples: int) -> Predict:
    """Each reference on its part of a batch of ``samples``; what has no batch goes to all."""
    count = len(references)

    def predict(call: int, given: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = {
            name: value.chunk(count) if value.shape[:1] == (samples,) else (value,) * count
            for name, value in given.items()
        }
        each = [{name: part[index] for name, part in parts.items()} for index in range(count)]
        return torch.cat([reference(call, part) for reference, part in zip(references, each, strict=True)])

    return predict


def _all_draws(schedule: Schedule, plan: Plan, inputs: Example) -> list[torch.Tensor]:
    """Noise for every draw of the scheduler. The plan takes those that its table reads; the others count for
    nothing.
    """
    read = sorted({term.index for step in schedule.steps for term in step.terms if term.kind == "noise"})
    unread = np.zeros(plan.program.specs[plan.interface.latents].shape, np.float32)
    given = dict(zip(read, inputs.draws, strict=True))
    return [torch.from_numpy(given.get(index, unread)) for index in range(schedule.noise_draws)]


def _encode(plan: Plan, model: Denoiser, prompt: str, guidance_scale: float) -> dict[str, Array]:
    """The prompt (or the class) for every image of the batch."""
    from dipgo_compile.drawing.conditions import encode
    from dipgo_compile.drawing.draw import images_together
    from dipgo_compile.models.source import load_pipeline

    prompts = [prompt] * images_together(plan)
    encoded = encode(load_pipeline(model.source), plan, prompts, "", guidance_scale)
    return {name: value.numpy() for name, value in encoded.items()}
