"""What the compiler must know about a family of denoisers, and nothing more.

An adapter is a few dozen lines: the tensors a denoiser reads and answers with, the module scopes a mask may
name, and how its pipeline lays out classifier-free guidance. No adapter imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dipgo_compile.program import TensorSpec

Config = Mapping[str, Any]
Role = Literal["sample", "timestep", "condition"]
GRANULARITIES = ("block", "layer")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the denoiser's ``forward``, by keyword. ``limit``: integer inputs are class or token ids
    below it.
    """

    name: str
    role: Role
    spec: TensorSpec
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Geometry:
    """The static sizes a denoiser is compiled for. ``height`` and ``width`` are the latents', not the
    image's.
    """

    batch: int
    height: int
    width: int
    tokens: int


class Family(Protocol):
    """One class of denoiser."""

    class_name: str
    guidance_order: tuple[str, str]
    """How the pipeline stacks the guided batch: ``("uncond", "cond")`` or the reverse."""

    def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]: ...

    def unconditional_classes(self, config: Config) -> int | None:
        """The class id that stands for "no class", for class-conditional models."""
        ...

    def blocks(self, config: Config, scopes: Iterable[str], granularity: str) -> tuple[str, ...]:
        """Of the module scopes of a denoiser, in execution order, those that serve as blocks."""
        ...
