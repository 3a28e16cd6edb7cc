"""A denoiser from a MODEL specifier: a diffusers model, or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.models.reading import Reading, is_onnx

if TYPE_CHECKING:
    from dipgo_compile.mask import Mask
    from dipgo_compile.models import Denoiser
    from dipgo_compile.plan import Plan


def open_model(
    source: str,
    *,
    reading: Reading | None = None,
    scheduler_config: str | Path | None = None,
    weights: bool = True,
) -> Denoiser:
    """Open a denoiser. ``reading`` and ``scheduler_config`` are for ONNX files: see ``open_onnx``.

    With ``weights=False`` a diffusers model has shapes only; an ONNX file's weights are read when they are
    used. Raises ModelError, InputError, GraphError.
    """
    if is_onnx(source):
        from dipgo_compile.models.onnx_file import open_onnx

        return open_onnx(source, reading, scheduler_config)
    if (reading is not None and reading != Reading()) or scheduler_config is not None:
        raise InputError(
            f"{source} is not an ONNX file: what its inputs and sizes are is known",
            mend="leave out the options for ONNX files",
        )
    from dipgo_compile.models.source import load

    return load(source, weights=weights)


def open_masked(
    mask: Mask, source: str | None = None, *, reading: Reading | None = None, weights: bool = True
) -> Denoiser:
    """Open the denoiser that a mask was made for, or ``source`` in its place. What ``reading`` leaves open of
    an ONNX file is as the mask has it.
    """
    source = source or mask.model.source
    if is_onnx(source):
        reading = (reading or Reading()).over(Reading.from_json(mask.model.onnx))
    return open_model(source, reading=reading, weights=weights)


def open_built(plan: Plan, source: str | None = None) -> Denoiser:
    """Open the denoiser that a plan was built from, or ``source`` in its place. Raises ModelError where that
    is another architecture.
    """
    source = source or str(plan.model["source"])
    reading = Reading.from_json(plan.model["config"].get("reading", {})) if is_onnx(source) else None
    model = open_model(source, reading=reading)
    if model.config_sha256 != plan.model["config_sha256"]:
        raise ModelError(
            f"{source} is not the architecture that the bundle was built for",
            where="model.config_sha256",
            mend="pass the model it was built from, or build the bundle again",
        )
    return model
