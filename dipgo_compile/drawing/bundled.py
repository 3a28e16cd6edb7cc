"""The text encoder and the image decoder that a bundle brings, as engines beside those of its plan.

They run once an image, in float32 whatever the plan's precision: rounding to 256 levels asks for more
than the 8 bits of a bfloat16. Each is opened when it is first needed, so a program with a text encoder of its
own never pays for the bundle's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dipgo_compile.backends.base import Backend, EngineSession, LoadOptions
from dipgo_compile.bundle import Bundle
from dipgo_compile.drawing.draw import class_ids
from dipgo_compile.drawing.tokens import Ids, PromptTokenizer, halves
from dipgo_compile.errors import InputError
from dipgo_compile.executor import checked
from dipgo_compile.formats.pipeline_json import INPUT_IDS, LATENTS, PIXELS
from dipgo_compile.plan import Part, PipelineParts, Plan
from dipgo_compile.program import Array


class BundlePipeline:
    """From prompts to conditions, and from latents to pixels. Threads may share it."""

    def __init__(self, bundle: Bundle, parts: PipelineParts, backend: Backend, options: LoadOptions) -> None:
        """``parts`` are those of the bundle's plan. Its other shapes have parts of their own, over the same
        weights, and which are used follows from the arrays.
        """
        self.parts = parts
        self._all = [plan.pipeline for plan in bundle.plans if plan.pipeline is not None]
        self._bundle, self._backend, self._options = bundle, backend, options
        self._opening = threading.Lock()
        self._engines: dict[str, EngineSession] = {}
        self._tokenizer: PromptTokenizer | None = None

    def tokenize(self, prompts: Sequence[str], negative_prompt: str = "") -> Ids:
        """The ids that ``encode`` takes, for one prompt an image. Raises what PromptTokenizer raises."""
        with self._opening:
            if self._tokenizer is None:
                self._tokenizer = PromptTokenizer(self._bundle)
        return self._tokenizer.input_ids(prompts, negative_prompt)

    def encode(self, input_ids: npt.ArrayLike) -> dict[str, Array]:
        """The denoiser's conditions by name, from token ids: int64 (samples, length), under guidance both
        halves in the order of ``plan.interface.guidance``. Raises InputError, BackendError.
        """
        if self.parts.text_encoder is None:
            raise InputError(
                "the bundle has no text encoder: its condition is a class",
                available=self._bundle.plan.interface.conditions,
                mend="pass the numbers of classes to Runtime.denoise",
            )
        encoders = [parts.text_encoder for parts in self._all if parts.text_encoder is not None]
        encoder = self._reading(INPUT_IDS, input_ids, self.parts.text_encoder, encoders)
        return self._run("text encoder", encoder, {INPUT_IDS: input_ids})

    def decode(self, latents: npt.ArrayLike) -> Array:
        """The images of final latents, uint8 (images, height, width, 3), RGB. Raises InputError,
        BackendError.
        """
        decoders = [parts.image_decoder for parts in self._all]
        decoder = self._reading(LATENTS, latents, self.parts.image_decoder, decoders)
        return self._run("image decoder", decoder, {LATENTS: latents})[PIXELS]

    def conditions(self, plan: Plan, prompts: Sequence[str], negative_prompt: str) -> Mapping[str, Array]:
        """For one prompt, or class, an image."""
        if self.parts.text_encoder is not None:
            return self.encode(self.tokenize(prompts, negative_prompt))
        (name,) = plan.interface.conditions
        ids = class_ids(plan, self.parts.classes, prompts)
        return {name: np.concatenate([np.array(ids[half], np.int64) for half in halves(plan)])}

    def image_latents(self, noise: Array) -> Array:
        """No bundle has an image encoder: raises InputError."""
        raise InputError(
            "the bundle has no image encoder",
            where=self._bundle.path,
            mend="draw with a diffusers pipeline (dipgo_compile.generate), or call Runtime.denoise",
        )

    def _reading(self, name: str, given: npt.ArrayLike, own: Part, parts: Sequence[Part]) -> Part:
        """The part that reads an array of this shape, if possible that of the bundle's plan. Raises
        InputError.
        """
        shape = tuple(np.shape(given))
        found = next((part for part in (own, *parts) if part.inputs[name].shape == shape), None)
        if found is None and len(parts) > 1:
            raise self._bundle.shapes.refusal(f"{name} of shape {shape}")
        return found or own  # whose check says what is wrong

    def _run(self, name: str, part: Part, given: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        inputs = [np.ascontiguousarray(checked(key, given[key], spec)) for key, spec in part.inputs.items()]
        outputs: dict[str, Array] = {
            key: np.empty(spec.shape, spec.dtype) for key, spec in part.outputs.items()
        }
        self._engine(name, part).bind(inputs, list(outputs.values()))()
        return outputs

    def _engine(self, name: str, part: Part) -> EngineSession:
        with self._opening:
            if part.file not in self._engines:
                self._engines[part.file] = self._backend.open_file(
                    name,
                    self._bundle.path / part.file,
                    tuple(part.inputs),
                    tuple(part.outputs),
                    self._options.threads,
                    self._options.memory,
                )
            return self._engines[part.file]
