"""A bundle in the place of a diffusers pipeline's denoiser.

The pipeline keeps its scheduler, its guidance and its image decoder, and calls this instead of its U-Net or
transformer; which blocks are computed follows from how many calls went before. Timesteps are compared with
the plan's, so another scheduler or step count is an error instead of a wrong image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from dipgo_compile.errors import InputError
from dipgo_compile.executor import Session
from dipgo_compile.program import Array
from dipgo_compile.running.opened import Workspace, sample_shape
from dipgo_compile.shapes import Shape

TIMESTEP_TOLERANCE = 1e-5  # relative: hosts carry fractional timesteps in float32


class DenoiserOutput(NamedTuple):
    """Serves both ways of reading it: ``.sample``, and ``[0]`` as under ``return_dict=False``."""

    sample: Any


class Config(dict[str, Any]):
    """The model's configuration, readable as attributes, as pipelines do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model's config has no {name!r}") from None


class HostedDenoiser:
    """Called like the denoiser it stands for: torch tensors in, torch tensors out; numpy arrays in, numpy
    arrays out.

    It serves one pipeline at a time. An image ends with its last call; the first timestep always starts a new
    one, so an interrupted image leaves nothing behind. Only where the first two calls share a timestep does
    that take other conditions, too.
    """

    def __init__(self, session: Session, workspace: Workspace | None = None) -> None:
        """``workspace`` has sessions for other shapes; without it, all images are of the session's own."""
        self._session, self._workspace = session, workspace
        self._plan = session.plan
        self._index = 0
        self._conditions: dict[str, Array] = {}
        self.config = Config(self._plan.model["config"])

    @property
    def dtype(self) -> Any:
        """The ``torch.dtype`` of sample and answer."""
        import torch

        first, *_ = self._plan.program.calls[0].noise_preds
        return getattr(torch, self._plan.program.specs[first].dtype)

    @property
    def device(self) -> Any:
        """The ``torch.device`` that tensors are exchanged on."""
        import torch

        return torch.device("cpu")

    @property
    def add_embedding(self) -> Any:
        """Stable Diffusion XL's pipelines look here for how wide their added conditions are to be."""
        width = self.config.projection_class_embeddings_input_dim
        return SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    def __call__(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> DenoiserOutput:
        """The noise prediction of the next call. Takes the denoiser's own arguments, conditions also inside
        dictionaries (``added_cond_kwargs``); raises InputError.
        """
        interface = self._plan.interface
        order = (interface.sample, interface.timestep, *interface.conditions)
        given = {**dict(zip(order, args, strict=False)), **_flat(kwargs)}
        unknown = [name for name, value in given.items() if name not in order and value is not None]
        missing = [name for name in order if given.get(name) is None]
        if unknown or missing or len(args) > len(order):
            raise InputError(
                f"the denoiser was called with unknown arguments {unknown} and without {missing}",
                available=order,
                mend="a bundle holds the denoiser alone: no ControlNet, no adapters, no attention control",
            )
        sample = given[interface.sample]
        timestep = _timestep(given[interface.timestep])
        self._take_shape(tuple(sample.shape))
        index = self._expect(timestep)
        self._check_batch(tuple(sample.shape))
        conditions = {name: _array(given[name]) for name in interface.conditions}
        if index != 0 and self._is_at(timestep, 0) and self._changed(conditions):
            index = 0  # the first timestep comes twice, and this is the first time of another image
        if index == 0:
            self._conditions = {name: array.copy() for name, array in conditions.items()}
        elif self._changed(conditions):
            self._index = 0
            raise InputError(
                f"the conditions changed at call {index}, in the middle of an image",
                mend="the plan reads them once per image: keep them, or start a new image",
            )
        self._index = 0  # should the call fail, the image has to start again
        noise_pred = self._session.run_call(index, _array(sample), conditions)
        self._index = (index + 1) % len(self._plan.program.calls)
        return DenoiserOutput(_like(noise_pred, sample))

    def _take_shape(self, sample: tuple[int, ...]) -> None:
        """Follow the plan that is for samples like this. Its first call is the next."""
        if self._workspace is not None and Shape.of(sample) != sample_shape(self._plan):
            self._session = self._workspace.reading(sample)
            self._plan, self._index = self._session.plan, 0

    def _expect(self, timestep: float) -> int:
        """The index of the call that this timestep stands for."""
        calls = self._plan.program.calls
        for index in (self._index, 0):
            if self._is_at(timestep, index):
                return index
        expected, self._index = self._index, 0
        schedule: Mapping[str, Any] = self._plan.schedule
        raise InputError(
            f"call {expected} of {len(calls)} has timestep {calls[expected].timestep:g} in the plan; "
            f"the pipeline asks for {timestep:g}",
            mend=f"use {schedule.get('class')} with {schedule.get('num_inference_steps')} steps as compiled, "
            "or build a bundle for this schedule",
        )

    def _is_at(self, timestep: float, index: int) -> bool:
        stated = self._plan.program.calls[index].timestep
        return math.isclose(timestep, stated, rel_tol=TIMESTEP_TOLERANCE, abs_tol=TIMESTEP_TOLERANCE)

    def _changed(self, conditions: Mapping[str, Array]) -> bool:
        return any(not _same(array, self._conditions[name]) for name, array in conditions.items())

    def _check_batch(self, shape: tuple[int, ...]) -> None:
        compiled = self._plan.samples
        batch = shape[0] if shape else 0
        if batch == compiled:
            return
        guided = self._plan.interface.guidance is not None
        if guided and 2 * batch == compiled:
            mend = "the bundle was built with guidance: call the pipeline with guidance_scale > 1"
        elif not guided and batch == 2 * compiled:
            mend = "the bundle was built without guidance: call the pipeline with guidance_scale=1"
        else:
            mend = "generate that many images at a time, or build a bundle for this batch"
        raise InputError(
            f"the pipeline sends a batch of {batch}, the plan was compiled for {compiled}", mend=mend
        )


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Dictionaries among the arguments replaced by what they hold, as the plan names its conditions."""
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _array(value: Any) -> Array:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    try:
        return np.asarray(value.detach().cpu().numpy())
    except TypeError:  # bfloat16 has no counterpart in numpy
        raise InputError(
            f"the pipeline sends {value.dtype}", mend="load the pipeline with dtype=torch.float32"
        ) from None


def _same(one: Array, other: Array) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _timestep(value: Any) -> float:
    """A number, or the same one for every sample of the batch."""
    steps = np.ravel(_array(value))
    if steps.size == 0 or not np.all(steps == steps[0]):
        raise InputError(f"one timestep for the whole batch is expected, found {steps.tolist()}")
    return float(steps[0])


def _like(result: Array, sample: Any) -> Any:
    if not hasattr(sample, "detach"):
        return result
    import torch

    return torch.from_numpy(result).to(sample.device)
