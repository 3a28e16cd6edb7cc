"""How to read a denoiser that is an ONNX file: what its inputs mean, how large its free dimensions are, where
its blocks end.

A file names its tensors and says no more. What isn't told is guessed where only one guess is possible
(``onnx_roles.py``), and every guess is printed. Masks record the reading, so that a mask is enough to build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.models.base import Config, Geometry, InputSpec
from dipgo_compile.program import TensorSpec

ONNX_CLASS = "onnx"
TimestepKind = Literal["timestep", "sigma"]
TIMESTEP_KINDS: tuple[str, ...] = get_args(TimestepKind)
GUIDANCE_ORDERS = (("uncond", "cond"), ("cond", "uncond"))
SIZES = ("batch", "height", "width", "tokens")  # the free dimensions that a ``Geometry`` fixes


@dataclass(frozen=True)
class Reading:
    """What is known of an ONNX file beside the file. None and empty: not told.

    ``sample``, ``timestep`` and ``noise_pred`` are names of inputs and of the output; all other inputs are
    conditions. ``timestep_kind``: the denoiser reads the scheduler's timestep, or its sigma.
    ``guidance_order``: how the halves of a guided batch lie. ``cuts``: tensors, in order; what lies between
    two of them is a block, named after the second. ``dims``: sizes of free dimensions, by their name in the
    file, as ``INPUT.AXIS``, or as ``height``, ``width`` (the latents') and ``tokens``.
    """

    sample: str | None = None
    timestep: str | None = None
    timestep_kind: str | None = None
    noise_pred: str | None = None
    guidance_order: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ()
    dims: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.timestep_kind not in (None, *TIMESTEP_KINDS):
            raise InputError(f"unknown kind of timestep {self.timestep_kind!r}", available=TIMESTEP_KINDS)
        if self.guidance_order and self.guidance_order not in GUIDANCE_ORDERS:
            raise InputError(
                f"unknown order of guidance {','.join(self.guidance_order)!r}",
                available=(",".join(order) for order in GUIDANCE_ORDERS),
            )
        if len(self.cuts) == 1:
            raise InputError(
                f"one cut, {self.cuts[0]!r}, makes no block",
                where="cuts",
                mend="a block lies between two cuts; the sample and the noise prediction can be cuts, too",
            )
        for name, size in self.dims.items():
            if size < 1:
                raise InputError(f"the dimension {name!r} is {size}", mend="give a positive number")

    def over(self, other: Reading) -> Reading:
        """This reading, and where it says nothing, the ``other``."""
        told = {name: value for name, value in vars(self).items() if value}
        return replace(other, **{**told, "dims": {**other.dims, **self.dims}})

    def is_size_alone(self) -> bool:
        """Whether it tells nothing but ``height`` and ``width``, which other models are told, too."""
        return replace(self, dims={}) == Reading() and self.dims.keys() <= {"height", "width"}

    def to_json(self) -> dict[str, Any]:
        """What is told, as JSON."""
        lists = {"guidance_order": list(self.guidance_order), "cuts": list(self.cuts)}
        return {
            name: value for name, value in {**vars(self), **lists, "dims": dict(self.dims)}.items() if value
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Reading:
        """The inverse of ``to_json``. Unknown fields are ignored. Raises InputError."""
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        for name in ("guidance_order", "cuts"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


class OnnxFamily:
    """The family of all ONNX files: what a diffusers class says of its denoisers, a file's config says of
    itself (``OnnxModel.config``).
    """

    class_name = ONNX_CLASS
    tokens = 0

    def __init__(self, guidance_order: tuple[str, str] = GUIDANCE_ORDERS[0]) -> None:
        self.guidance_order = guidance_order

    def inputs(self, config: Config, geometry: Geometry) -> tuple[InputSpec, ...]:
        """In the file's order. A dimension is a number, or one of ``SIZES``."""
        return tuple(
            InputSpec(
                item["name"],
                item["role"],
                TensorSpec(item["dtype"], tuple(_size(size, geometry) for size in item["shape"])),
            )
            for item in config["inputs"]
        )

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(inputs)

    def unconditional_classes(self, config: Config) -> int | None:
        return None

    def blocks(self, config: Config, scopes: Iterable[str], granularity: str) -> tuple[str, ...]:
        """None by name alone: a regular expression or cuts choose them (``OnnxModel.blocks`` suggests)."""
        return ()


def _size(size: int | str, geometry: Geometry) -> int:
    return size if isinstance(size, int) else int(getattr(geometry, size))


def parse_dims(pairs: Iterable[str]) -> dict[str, int]:
    """``NAME=N`` each. Raises InputError."""
    dims = {}
    for pair in pairs:
        name, equals, size = pair.rpartition("=")
        if not (name and equals and size.isdecimal()):
            raise InputError(f"{pair!r} is not of the form NAME=N", where="--dim", mend="--dim frames=16")
        dims[name] = int(size)
    return dims


def is_onnx(source: str) -> bool:
    """Whether a MODEL specifier names an ONNX file."""
    return source.endswith(".onnx")


def not_pytorch(source: str) -> ModelError:
    """The error for an ONNX file where PyTorch modules are needed."""
    return ModelError(
        f"{source} is an ONNX file, and this needs the denoiser in PyTorch",
        mend="name a diffusers directory, a hub id or random:NAME; ONNX files can be masked by `mask make`, "
        "built, verified and timed",
    )
