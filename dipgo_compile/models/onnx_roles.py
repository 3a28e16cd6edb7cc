"""Which input of an ONNX file is the sample, which the timestep, and which output the noise prediction.

Told by name, or guessed where only one guess is possible. A guess always comes with its reason, for the user
to check: a denoiser that is fed the wrong way still answers, with noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from dipgo_compile.errors import ModelError
from dipgo_compile.models.reading import Reading

SAMPLES = ("sample", "latent_model_input", "noisy_latents", "latents", "latent", "hidden_states", "x_t", "x")
TIMESTEPS = ("timestep", "timesteps", "time_step", "sigma", "sigmas", "noise_level", "time", "t")
PREDICTIONS = ("noise_pred", "out_sample", "sample", "eps", "epsilon", "output")
SAMPLE_AXES = 4  # batch, channels, height, width

Test: TypeAlias = Callable[[ir.Value], bool]


@dataclass(frozen=True)
class Roles:
    """Names of tensors, and the reasons for those that were guessed, one sentence each."""

    sample: str
    timestep: str
    timestep_kind: str
    noise_pred: str
    guesses: tuple[str, ...]


def find_roles(graph: ir.Graph, reading: Reading) -> Roles:
    """Raises ModelError for a name that isn't there, and where a guess would be one of several."""
    guesses: list[str] = []
    sample = _choose(reading.sample, graph.inputs, "sample", "--sample", SAMPLES, _is_image, guesses)
    others = [value for value in graph.inputs if value.name != sample]
    timestep = _choose(reading.timestep, others, "timestep", "--timestep", TIMESTEPS, _is_number, guesses)
    kind = reading.timestep_kind
    if kind is None:
        kind = "sigma" if "sigma" in timestep.lower() else "timestep"
        other = "timestep" if kind == "sigma" else "sigma"
        guesses.append(f"{timestep!r} reads the scheduler's {kind}; --timestep-kind {other} if it does not")
    prediction = _choose(
        reading.noise_pred,
        graph.outputs,
        "noise prediction",
        "--noise-pred",
        PREDICTIONS,
        _may_be_image,
        guesses,
    )
    return Roles(sample, timestep, kind, prediction, tuple(guesses))


def _choose(
    told: str | None,
    values: Iterable[ir.Value],
    role: str,
    option: str,
    usual: Sequence[str],
    fits: Test,
    guesses: list[str],
) -> str:
    known = {str(value.name): value for value in values}
    if told is not None:
        if told not in known:
            raise ModelError(
                f"the file has no tensor {told!r} to be the {role}",
                where=option,
                available=map(describe, known.values()),
            )
        if not fits(known[told]):
            raise ModelError(
                f"{describe(known[told])} can't be the {role}", where=option, mend=_expectation(fits)
            )
        return told
    fitting = [name for name, value in known.items() if fits(value)]
    named = [name for name in usual if name in fitting]
    if len(fitting) == 1:
        guesses.append(f"{fitting[0]!r} is taken for the {role}: nothing else can be")
        return fitting[0]
    if named:
        guesses.append(f"{named[0]!r} is taken for the {role} by its name; {option} if it is not")
        return named[0]
    raise ModelError(
        f"the file doesn't say which tensor is the {role}"
        if fitting
        else f"no tensor of the file can be the {role}",
        available=[describe(known[name]) for name in fitting or known],
        mend=f"name it: {option} NAME" if fitting else _expectation(fits),
    )


def _is_image(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == SAMPLE_AXES and _is_floating(value)


def _may_be_image(value: ir.Value) -> bool:
    """Files needn't tell the shape of an output: it is checked once it can be inferred."""
    return _is_image(value) or (value.shape is None and _is_floating(value))


def _is_number(value: ir.Value) -> bool:
    """One number, or one per sample."""
    return value.shape is not None and len(value.shape) <= 1 and value.dtype != ir.DataType.BOOL


def _is_floating(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _expectation(fits: Test) -> str:
    if fits is _is_number:
        return "it is a number, or one number per sample"
    return "it is a tensor of floats with four axes: batch, channels, height and width"


def describe(value: ir.Value) -> str:
    """``x: float32 (batch, 4, 64, 64)``."""
    axes = "?" if value.shape is None else ", ".join(str(size) for size in value.shape)
    kind = "?" if value.dtype is None else value.dtype.name.lower()
    return f"{value.name}: {kind} ({axes})"
