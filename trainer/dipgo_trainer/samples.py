"""What the chains start from: noise and conditions, a fixed, seeded pool of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dipgo_compile.errors import InputError
from dipgo_compile.models.base import Geometry, InputSpec
from dipgo_compile.models.source import Model, example_inputs
from dipgo_trainer.config import TrainConfig

Guided = dict[str, dict[str, Tensor]]
"""By half ("uncond", "cond"), then by input name: tensors for one image, leading axis 1."""

Conditions = Callable[[int], Guided]
"""The conditions of the n-th image of a run; the same ones whenever asked."""


@dataclass(frozen=True)
class Batch:
    """Start noise (images, channels, height, width), the denoiser's conditions, a seed for the scheduler's
    draws."""

    latents: Tensor
    conditions: dict[str, Tensor]
    noise_seed: int

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.noise_seed)


def make_batch(model: Model, conditions: Conditions, config: TrainConfig, index: int) -> Batch:
    """The ``index``-th batch of the pool. It depends on the seed and the index only."""
    geometry = model.geometry(config.batch_size)
    sample = next(spec.spec for spec in model.inputs(geometry) if spec.role == "sample")
    seed = _seed(config.seed, index)
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(seed))
    images = [conditions(index * config.batch_size + image) for image in range(config.batch_size)]
    halves = ("cond",) if config.guidance_scale is None else model.family.guidance_order
    stacked = {
        name: torch.cat([image[half][name] for half in halves for image in images])
        for name in images[0]["cond"]
    }
    return Batch(noise, stacked, seed + 1)


def order_of(config: TrainConfig, step: int) -> int:
    """Which batch a training step uses: the pool is shuffled anew for each round."""
    round_, position = divmod(step, config.samples)
    generator = torch.Generator().manual_seed(_seed(config.seed, -1 - round_))
    return int(torch.randperm(config.samples, generator=generator)[position])


def text_conditions(model: Model, pipeline: Any, prompts: Sequence[str]) -> Conditions:
    """Prompts, encoded by the pipeline's text encoder; "" is the unconditional half. Raises InputError for
    denoisers that read more than one embedding of the prompt.
    """
    spec, *others = _condition_specs(model)
    if others:
        raise InputError(
            f"{model.class_name} reads {', '.join(other.name for other in others)} besides {spec.name}",
            where=model.source,
            available=(spec.name,),
            mend="call dipgo_trainer.train.train with a Task whose conditions you encode yourself",
        )

    def encode(prompt: str) -> Tensor:
        with torch.no_grad():
            embedding: Tensor = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
        return embedding

    unconditional = encode("")

    def conditions(index: int) -> Guided:
        prompt = prompts[index % len(prompts)]
        return {"uncond": {spec.name: unconditional}, "cond": {spec.name: encode(prompt)}}

    return conditions


def class_conditions(model: Model, seed: int) -> Conditions:
    """Random class labels; the family's "no class" is the unconditional half."""
    (spec,) = _condition_specs(model)
    nothing = model.family.unconditional_classes(model.config)
    if nothing is None or spec.limit is None:
        raise InputError(f"{model.class_name} takes no class labels", where=model.source)

    def conditions(index: int) -> Guided:
        generator = torch.Generator().manual_seed(_seed(seed, index))
        label = torch.randint(spec.limit or 0, (1,), generator=generator)
        return {"uncond": {spec.name: torch.tensor([nothing])}, "cond": {spec.name: label}}

    return conditions


def random_conditions(model: Model, seed: int) -> Conditions:
    """Unit normal embeddings, and classes and masks at random, for architectures with random weights, which
    have no text encoder. The unconditional half has zeros, and the family's "no class".
    """
    specs = _condition_specs(model)
    nothing = model.family.unconditional_classes(model.config)

    def without(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return torch.zeros_like(value)
        return value if nothing is None else torch.full_like(value, nothing)

    def conditions(index: int) -> Guided:
        drawn = example_inputs(specs, _seed(seed, index))
        return {"uncond": {name: without(value) for name, value in drawn.items()}, "cond": drawn}

    return conditions


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, empty lines ignored. Raises InputError."""
    try:
        prompts = tuple(
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the prompts: {error}", where=path, mend="a text file, one prompt a line"
        ) from error
    if not prompts:
        raise InputError("the prompts file is empty", where=path, mend="a text file, one prompt a line")
    return prompts


def _condition_specs(model: Model) -> tuple[InputSpec, ...]:
    size = model.geometry(1)
    specs = model.inputs(Geometry(1, size.height, size.width, size.tokens))
    return tuple(spec for spec in specs if spec.role == "condition")


def _seed(seed: int, index: int) -> int:
    """Far apart for neighbouring seeds and indices; even, so that ``+ 1`` is a seed of its own."""
    return (seed * 1_000_003 + index * 2 + 2**40) % 2**62
