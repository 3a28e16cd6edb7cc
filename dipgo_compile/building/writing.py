"""Compiled shapes on disk: a bundle, and beside it what the backend of this machine wants to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from dipgo_compile.backends.registry import make_backend
from dipgo_compile.building.compiling import CompiledShape
from dipgo_compile.bundle import open_bundle, write_bundle
from dipgo_compile.drawing.surroundings import Surroundings
from dipgo_compile.errors import BackendError
from dipgo_compile.graphs.engines import weight_bytes, write_engines
from dipgo_compile.mask import Mask
from dipgo_compile.plan import Plan, Target


def write(
    output: Path, plan: Plan, onnx_model: ir.Model, mask: Mask, surroundings: Surroundings | None = None
) -> Plan:
    """Write a bundle for one shape: engines cut out of ``onnx_model``, what surrounds them, constants, plan,
    mask. Raises BundleError.
    """
    return write_shapes(output, [CompiledShape(plan, onnx_model, surroundings)], mask)


def write_shapes(output: Path, compiled: Sequence[CompiledShape], mask: Mask) -> Plan:
    """Write a bundle for some shapes, plan.json's first, and return the plan of that. Raises BundleError."""
    first, *others = compiled
    graphs = {file: graph for shape in others for file, graph in shape.graphs().items()}
    graphs |= first.around()

    def write_files(directory: Path) -> None:
        write_engines(first.onnx, first.plan.program.engines, first.plan.engine_files, directory, graphs)
        if first.surroundings is not None:
            first.surroundings.write_tokenizer(directory)

    needed = weight_bytes(first.onnx, *first.around().values())
    plans = [shape.plan for shape in others]
    return write_bundle(output, first.plan, write_files, mask.to_text(), others=plans, needed_bytes=needed)


def prepare(path: Path, target: Target) -> None:
    """Let the backend keep beside the bundle what speeds it up here, if it is one of this machine's. Raises
    BackendError when it refuses an engine.
    """
    try:
        backend = make_backend(target)
    except BackendError:
        return  # compiled here, to be run elsewhere
    backend.prepare(open_bundle(path, verify=False))
