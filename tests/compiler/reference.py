"""The compiled plan against the oracle: the SuperNet in PyTorch with the real scheduler."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from dipgo_trainer.chain import Trace, reference_chain

from dipgo_compile.backends.base import Backend, LoadOptions
from dipgo_compile.build import BuildOptions, Exported, check, compile_plan, write
from dipgo_compile.bundle import open_bundle
from dipgo_compile.executor import Session
from dipgo_compile.mask import Mask, ModelRef, SchedulerRef
from dipgo_compile.models.source import Model, example_inputs
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedules.probe import probe
from dipgo_compile.schedules.table import Schedule

# The plan and PyTorch round differently in float32 (1e-6 a call), and the chain carries it on: 100 times of
# room. A block that reads a wrong version of a tensor is off by 1e-2 and more.
LATENTS_TOLERANCE = 1e-3  # relative L2
NOISE_TOLERANCE = 1e-3  # absolute, on noise predictions of unit size
GUIDANCE_SCALE = 3.0

TINY_SD = Path(__file__).parents[2] / "models" / "tiny-sd"

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_mask(model: Model, blocks: Sequence[str], scheduler: str, steps: int, rows) -> Mask:
    """A mask whose rows ``rows(calls)`` gives; the first is made whole."""
    class_name, config = SCHEDULERS[scheduler]
    config = {**BETAS, **config}
    timesteps = probe(class_name, config, steps).timesteps
    first, *rest = rows(len(timesteps))
    return Mask(
        ModelRef(model.source, model.class_name, model.config_sha256),
        SchedulerRef(class_name, config, steps, timesteps),
        tuple(blocks),
        (tuple(True for _ in first), *(tuple(row) for row in rest)),
        provenance={"blocks": "|".join(block.replace(".", r"\.") for block in blocks)},
    )


def random_mask(model: Model, granularity: str, scheduler: str, reuse: str, seed: int) -> Mask:
    """Five steps, with rows of every density."""
    generator = random.Random(seed)
    blocks = model.blocks(granularity)

    def rows(calls: int) -> list[list[bool]]:
        densities = [generator.choice([0.0, 0.3, 0.7, 1.0]) for _ in range(calls)]
        return [[generator.random() < density for _ in blocks] for density in densities]

    return replace(make_mask(model, blocks, scheduler, 5, rows), reuse=reuse)


def assert_parity(
    exported: Exported,
    mask: Mask,
    options: BuildOptions,
    path: Path,
    seed: int,
    noise_tolerance: float = NOISE_TOLERANCE,
    latents_tolerance: float = LATENTS_TOLERANCE,
    backend: Backend | None = None,
) -> None:
    """Whole loop and call by call, on random noise and conditions; in ``backend``, or that of ``options``."""
    model = exported.model
    schedule = check(mask, model)
    plan = compile_plan(model, exported.geometry, exported.onnx, mask, schedule, options)
    write(path, plan, exported.onnx, mask)
    samples = replace(exported.geometry, batch=plan.samples)  # twice the graph's where guidance is split
    inputs = example_inputs(model.inputs(samples), seed)
    conditions = {name: inputs[name] for name in plan.interface.conditions}
    noise = inputs[plan.interface.sample][: options.images]
    scale = None if plan.interface.guidance is None else GUIDANCE_SCALE
    trace = reference_chain(model, mask, noise, conditions, scale)
    with _loaded(path, backend) as runtime:
        final = runtime.denoise(noise, guidance_scale=scale, **conditions)
        hosted = host_chain(runtime.session(), schedule, trace, noise, conditions)
    expected = trace.final.numpy()
    assert np.linalg.norm(final - expected) <= latents_tolerance * np.linalg.norm(expected)
    for ours, theirs in zip(hosted, trace.noise_pred, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=noise_tolerance)


def _loaded(path: Path, backend: Backend | None) -> Runtime:
    if backend is None:
        return Runtime.load(path, threads=1, verify=False)
    return Runtime(open_bundle(path, verify=False), backend, LoadOptions(threads=1, verify=False))


def host_chain(session: Session, schedule: Schedule, trace: Trace, noise, conditions) -> list[np.ndarray]:
    """Every call's noise prediction, the samples coming from the reference."""
    samples = [noise * schedule.init_noise_sigma, *trace.latents[:-1]]
    halves = 1 if session.plan.interface.guidance is None else 2
    return [
        session.run_call(call, torch.cat([sample] * halves) * step.input_scale, conditions)
        for call, (sample, step) in enumerate(zip(samples, schedule.steps, strict=True))
    ]


def options(**changes) -> BuildOptions:
    return replace(BuildOptions(), **changes)
