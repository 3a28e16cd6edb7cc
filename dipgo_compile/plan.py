"""The plan: a compiled denoising loop with everything a runtime must know to follow it.

``formats/plan_json.py`` holds its file format, ``bundle.py`` the directory it is stored in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dipgo_compile.program import MemoryPlan, Program, TensorSpec
from dipgo_compile.shapes import Shape


@dataclass(frozen=True, slots=True)
class Interface:
    """How the outside names what the program reads.

    ``sample`` and ``timestep`` are the denoiser's keywords, for hosts that call it themselves. ``conditions``
    are program inputs, named by the denoiser's keywords; under guidance their batch is already doubled.
    ``latents`` is the program input that takes the initial noise, of unit variance and shape (batch,
    channels, height, width); ``draws`` take the unit noise of stochastic schedulers, in order of use.
    ``guidance`` is the order in which the halves of a guided batch lie, such as ``("uncond", "cond")``, or
    None where the plan was built without guidance. ``image_latents`` is the program input for the latents of
    the images to begin with, of the same shape as the noise, or None where a plan begins with noise alone.
    ``split``: the program computes the halves of a guided batch one after the other, and has an input for
    each half of a condition (``inputs_of``). Outside, conditions are given as ever, doubled.
    """

    sample: str
    timestep: str
    conditions: tuple[str, ...]
    latents: str
    draws: tuple[str, ...] = ()
    guidance: tuple[str, str] | None = None
    image_latents: str | None = None
    split: bool = False

    def inputs_of(self, condition: str) -> tuple[str, ...]:
        """The program inputs that take a condition, in the order in which it holds them along its batch."""
        if self.split and self.guidance is not None:
            return tuple(half_of(condition, half) for half in self.guidance)
        return (condition,)

    def given(self, condition: str, specs: Mapping[str, TensorSpec]) -> TensorSpec:
        """What is given for a condition from outside. ``specs`` are those of the program."""
        inputs = self.inputs_of(condition)
        return specs[inputs[0]].repeated(len(inputs))


def half_of(condition: str, half: str) -> str:
    """The program input for one half of a condition, under split guidance."""
    return f"{condition}@{half}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan was compiled for: the execution provider (``cpu``, ``cuda``) of a backend (``onnxruntime``,
    ``openvino``) and the precision it computes in (``fp32``, ``fp16``, ``bf16``). The combinations are in
    ``backends/registry.py``.
    """

    provider: str
    precision: str
    backend: str = "onnxruntime"


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one compiler pass did, for people."""

    name: str
    modified: bool
    summary: str


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and SHA-256 (hexadecimal) of a file of the bundle."""

    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Part:
    """An ONNX file of the bundle that is no engine of the program. Its tensors go by name, in the graph's
    order.
    """

    file: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A file of the bundle in the format of the package ``tokenizers``. ``length``: ids of one prompt."""

    file: str
    length: int


@dataclass(frozen=True, slots=True)
class PipelineParts:
    """What surrounds the denoiser in its pipeline: with it, a bundle goes from a prompt to pixels.

    ``text_encoder`` reads ``input_ids``, int64 (samples of the denoiser, tokens), whose halves lie in the
    order of ``Interface.guidance``, and answers with the plan's conditions by their names. It is None, like
    ``tokenizer``, where the condition is a class. ``image_decoder`` reads ``latents``, the program's output,
    and answers with ``pixels``, uint8 (images, height, width, 3), RGB. ``guidance_scale`` is the one to draw
    with unless told otherwise. ``classes`` are the names of classes, for people; a class may have several.
    """

    text_encoder: Part | None
    image_decoder: Part
    tokenizer: TokenizerFile | None
    guidance_scale: float
    classes: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Those of the parts, in the order in which they work."""
        parts = (self.tokenizer, self.text_encoder, self.image_decoder)
        return tuple(part.file for part in parts if part is not None)


@dataclass(frozen=True)
class Plan:
    """A program, where its tensors live, and where both come from.

    ``model`` has ``source``, ``class``, ``config_sha256`` and ``config``; ``schedule`` has ``class``,
    ``num_inference_steps``, ``timesteps`` and ``init_noise_sigma``, and ``start_step`` where the loop begins
    with an image; ``macs`` has ``dense`` and ``kept``, the multiply-accumulates of one image.
    ``engine_files`` maps engines to files of the bundle; ``engine_macs`` has the multiply-accumulates of one
    run for one sample, where they are known; ``files`` is filled in when the bundle is written. ``pipeline``
    is None where the bundle has the denoising loop alone. ``shapes`` has the plan file of every other shape
    that the bundle serves, and ``upscaling`` how many pixels a latent stands for along an axis: plan.json
    alone says so, and where there are other shapes only.
    """

    program: Program
    memory: MemoryPlan
    model: Mapping[str, Any]
    interface: Interface
    target: Target
    schedule: Mapping[str, Any]
    macs: Mapping[str, int]
    passes: tuple[PassReport, ...]
    engine_files: Mapping[str, str]
    engine_macs: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    pipeline: PipelineParts | None = None
    shapes: Mapping[Shape, str] = field(default_factory=dict)
    upscaling: int = 1

    @property
    def shape(self) -> Shape:
        """What this plan was compiled for."""
        return Shape.of(self.program.specs[self.interface.latents].shape)

    def condition(self, name: str) -> TensorSpec:
        """What is given for a condition from outside: under guidance, both halves."""
        return self.interface.given(name, self.program.specs)

    @property
    def samples(self) -> int:
        """How many samples a host sends in a call, and how many predictions it gets: two an image under
        guidance.
        """
        noise_preds = self.program.calls[0].noise_preds
        return self.program.specs[noise_preds[0]].shape[0] * len(noise_preds)
