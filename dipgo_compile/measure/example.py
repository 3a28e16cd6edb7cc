"""Seeded inputs for a plan, when only speed or agreement matters and no prompt is at hand. Needs numpy
only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dipgo_compile.executor import unit_noise
from dipgo_compile.models import Geometry, family_of
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array


@dataclass(frozen=True)
class Example:
    """What ``Runtime.denoise`` takes: unit noise, conditions by name (doubled under guidance), draws, and for
    an image-to-image plan the latents of an image.
    """

    latents: Array
    conditions: dict[str, Array]
    draws: tuple[Array, ...]
    image_latents: Array | None = None


def example_inputs(plan: Plan, seed: int = 0) -> Example:
    """Unit normal floats, and class ids below the model's limit. The same seed gives the same inputs."""
    generator = np.random.default_rng(seed)
    specs, interface = plan.program.specs, plan.interface
    latents = unit_noise(specs[interface.latents].shape, generator)
    limits = _limits(plan)
    conditions: dict[str, Array] = {}
    for name in interface.conditions:
        spec = plan.condition(name)
        if np.dtype(spec.dtype).kind == "f":
            conditions[name] = unit_noise(spec.shape, generator).astype(spec.dtype)
        else:
            conditions[name] = generator.integers(limits[name], size=spec.shape, dtype=spec.dtype)
    draws = tuple(unit_noise(specs[name].shape, generator) for name in interface.draws)
    image = None
    if interface.image_latents is not None:
        image = unit_noise(specs[interface.image_latents].shape, generator)
    return Example(latents, conditions, draws, image)


def _limits(plan: Plan) -> dict[str, int]:
    """The exclusive bounds of integer conditions."""
    batch, _, height, width = plan.program.specs[plan.interface.latents].shape
    family = family_of(plan.model["class"])
    inputs = family.inputs(plan.model["config"], Geometry(batch, height, width, tokens=1))
    return {item.name: item.limit or 2 for item in inputs}
