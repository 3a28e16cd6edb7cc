"""The plan: a compiled denoising loop with everything a runtime must know to follow it.

``plan_json.py`` holds its file format, ``bundle.py`` the directory it is stored in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dipgo_compile.program import MemoryPlan, Program


@dataclass(frozen=True, slots=True)
class Interface:
    """How the outside names what the program reads.

    ``sample`` and ``timestep`` are the denoiser's keywords, for hosts that call it themselves. ``conditions``
    are program inputs, named by the denoiser's keywords; under guidance their batch is already doubled.
    ``latents`` is the program input that takes the initial noise, of unit variance and shape (batch,
    channels, height, width); ``draws`` take the unit noise of stochastic schedulers, in order of use.
    ``guidance`` is the order in which the halves of a guided batch lie, such as ``("uncond", "cond")``, or
    None where the plan was built without guidance.
    """

    sample: str
    timestep: str
    conditions: tuple[str, ...]
    latents: str
    draws: tuple[str, ...] = ()
    guidance: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan was compiled for: the execution provider (``cpu``, ``cuda``) of a backend (``onnxruntime``,
    ``openvino``) and the precision it computes in (``fp32``, ``bf16``). ``backends/registry.py`` has the
    combinations.
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


@dataclass(frozen=True)
class Plan:
    """A program, where its tensors live, and where both come from.

    ``model`` has ``source``, ``class``, ``config_sha256`` and ``config``; ``schedule`` has ``class``,
    ``num_inference_steps``, ``timesteps`` and ``init_noise_sigma``; ``macs`` has ``dense`` and ``kept``, the
    multiply-accumulates of one image. ``engine_files`` maps engines to files of the bundle; ``engine_macs``
    has the multiply-accumulates of one run for one sample, where they are known; ``files`` is filled in when
    the bundle is written.
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
