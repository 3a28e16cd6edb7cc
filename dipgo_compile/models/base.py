"""What the compiler must know about a family of denoisers, and nothing more.

An adapter is a few dozen lines: the tensors a denoiser reads and answers with, the module scopes a mask may
name, and how its pipeline lays out classifier-free guidance. No adapter imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dipgo_compile.errors import InputError
from dipgo_compile.program import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from dipgo_compile.macs.counts import Macs
    from dipgo_compile.mask import ModelRef, Reuse

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
    tokens: int
    """Length of the prompt's embedding where no pipeline tells it."""

    def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]:
        """In the order of ``forward``. Raises ModelError for a config, InputError for a size that can't be
        compiled.
        """
        ...

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of ``forward`` that ``inputs``, by name, make: it may take some of them in a
        dictionary.
        """
        ...

    def unconditional_classes(self, config: Config) -> int | None:
        """The class id that stands for "no class", for class-conditional models."""
        ...

    def blocks(self, config: Config, scopes: Iterable[str], granularity: str) -> tuple[str, ...]:
        """Of the module scopes of a denoiser, in execution order, those that serve as blocks."""
        ...


class Denoiser(Protocol):
    """What the compiler asks of a denoiser, whatever it is made of: ``source.Model`` is one in PyTorch,
    ``onnx_file.OnnxModel`` one in an ONNX file.
    """

    @property
    def source(self) -> str: ...
    @property
    def class_name(self) -> str: ...
    @property
    def config_sha256(self) -> str: ...
    @property
    def config(self) -> Config: ...
    @property
    def family(self) -> Family: ...
    @property
    def scheduler_class(self) -> str: ...
    @property
    def scheduler_config(self) -> Config: ...
    @property
    def tokens(self) -> int: ...

    @property
    def vae_scale_factor(self) -> int:
        """Pixels for each latent along an axis; 1 where sizes are given as the latents'."""
        ...

    @property
    def guidance_order(self) -> tuple[str, str] | None:
        """How the halves of a guided batch lie; None where that isn't known."""
        ...

    @property
    def timestep_kind(self) -> str:
        """What is read as timestep: the scheduler's ``timestep``, or its ``sigma``."""
        ...

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every module scope, in the order in which a call first enters it."""
        ...

    def ref(self) -> ModelRef:
        """How a mask refers to this denoiser."""
        ...

    def geometry(self, batch: int = ..., height: int | None = ..., width: int | None = ...) -> Geometry:
        """Static sizes; what isn't given is the denoiser's own."""
        ...

    def inputs(self, geometry: Geometry) -> tuple[InputSpec, ...]: ...

    def blocks(self, granularity: str = ...) -> tuple[str, ...]:
        """The scopes that serve as blocks, in execution order."""
        ...

    def graph(self, geometry: Geometry) -> ir.Model:
        """One ONNX graph whose nodes know their module scopes, to be changed at will."""
        ...

    def macs(self, geometry: Geometry, scopes: Iterable[str], reuse: Reuse = ...) -> Macs:
        """MACs of one call for one sample."""
        ...

    def macs_by_scope(self, geometry: Geometry, scopes: Iterable[str]) -> dict[str, int]:
        """As ``macs``, the scopes alone."""
        ...

    def check_residuals(self, blocks: Sequence[str]) -> None:
        """Raises MaskError for blocks without a residual to reuse."""
        ...


def nested(inputs: Mapping[str, Any], keyword: str, names: Collection[str]) -> dict[str, Any]:
    """``inputs`` with those among ``names`` in a dictionary of their own, the argument ``keyword``."""
    inner = {name: value for name, value in inputs.items() if name in names}
    outer = {name: value for name, value in inputs.items() if name not in names}
    return {**outer, keyword: inner} if inner else outer


def scopes_matching(pattern: re.Pattern[str], scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes that ``pattern`` matches whole, in their order."""
    return tuple(scope for scope in scopes if pattern.fullmatch(scope))


def check_patches(config: Config, geometry: Geometry, class_name: str) -> None:
    """Refuse a size that a transformer cannot cut into its patches. Raises InputError."""
    patch = config["patch_size"]
    for name, size in (("height", geometry.height), ("width", geometry.width)):
        if size % patch:
            raise InputError(
                f"a {name} of {size} latents can't be cut into patches of {patch}",
                where=class_name,
                mend=f"choose an image {name} that is a multiple of a patch",
            )
