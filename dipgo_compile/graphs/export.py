"""A denoiser, or another module, as one ONNX graph whose nodes remember their module scopes.

Opset 23 keeps attention and group normalisation whole, which lets ONNX Runtime choose a kernel for each; the
same graph is the dense baseline.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from dipgo_compile.errors import ModelError
from dipgo_compile.graphs.repair import repair
from dipgo_compile.models import Geometry
from dipgo_compile.models.source import Model, example_inputs

OPSET = 23
OUTPUT = "noise_pred"


def export(model: Model, geometry: Geometry) -> ir.Model:
    """Export with static shapes. Inputs are named as the denoiser's keywords, the output ``noise_pred``.

    Weights stay references to the denoiser's own memory. Raises ModelError when the denoiser can't be traced.
    """
    specs = model.inputs(geometry)
    inputs = example_inputs(specs)
    arguments = {**model.family.arguments(inputs), "return_dict": False}
    return trace("the denoiser", model.denoiser, arguments, list(inputs), OUTPUT, where=model.source)


def trace(
    what: str, module: nn.Module, arguments: Mapping[str, Any], inputs: list[str], output: str, *, where: str
) -> ir.Model:
    """The graph of a call ``module(**arguments)``, in which ``inputs`` name the tensors. ``what`` and
    ``where`` are for messages. Raises ModelError when the module can't be traced.
    """
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                kwargs=dict(arguments),
                input_names=inputs,
                output_names=[output],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"{what} cannot be exported to ONNX: {_reason(error)}", where=where) from error
    assert program is not None
    repair(program.model.graph)
    return program.model


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom: the exporter's own message names the step that failed, and advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about things that are none of the user's business (torchvision's absence, for
    one).
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
