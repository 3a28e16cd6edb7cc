"""What all rows read: seeded inputs, the schedule as a table, and the unpruned denoiser as one ONNX graph."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dipgo_compile.build import Exported
from dipgo_compile.bundle import MASK, Bundle
from dipgo_compile.graphs.engines import write_engines
from dipgo_compile.graphs.float16 import in_precision
from dipgo_compile.mask import Mask
from dipgo_compile.measure.example import example_inputs
from dipgo_compile.measure.rows import (
    CONDITION,
    DENSE,
    DRAW,
    IMAGE_LATENTS,
    INPUTS,
    LATENTS,
    SCHEDULE,
    SHAPES,
)
from dipgo_compile.models import Geometry
from dipgo_compile.models.onnx_file import OnnxModel
from dipgo_compile.models.opening import open_built
from dipgo_compile.program import Engine
from dipgo_compile.schedules.noise_level import schedule_of


def store_inputs(bundle: Bundle, workspace: Path) -> None:
    """Unit noise, conditions and draws, the same for every row."""
    inputs = example_inputs(bundle.plan)
    arrays: dict[str, Any] = {LATENTS: inputs.latents}
    arrays |= {f"{CONDITION}{name}": array for name, array in inputs.conditions.items()}
    arrays |= {f"{DRAW}{index}": array for index, array in enumerate(inputs.draws)}
    if inputs.image_latents is not None:
        arrays[IMAGE_LATENTS] = inputs.image_latents
    np.savez(workspace / INPUTS, **arrays)


def store_dense(bundle: Bundle, source: str, workspace: Path, exported: Exported | None = None) -> None:
    """The whole denoiser at the plan's sizes and precision, exported unless it is given, by the plan's own
    writer; the shapes of its inputs and outputs, and the inputs' dtypes; and the schedule as a table.
    Raises InputError for an ONNX file whose fixed batch is another.
    """
    plan, mask = bundle.plan, Mask.load(bundle.path / MASK)
    images, _, height, width = plan.program.specs[plan.interface.latents].shape
    batch = images if plan.interface.guidance is None else 2 * images
    if exported is None:
        model = open_built(plan, source)
        if isinstance(model, OnnxModel):
            model.geometry(batch, height, width)  # refuses what the file has not
        geometry = Geometry(batch, height, width, model.tokens)
        exported = Exported(model, geometry, model.graph(geometry))
    model, geometry, graph = exported.model, exported.geometry, exported.onnx.clone()
    in_precision(graph, plan.target.precision, model.inputs(geometry))
    inputs, outputs = (
        {str(value.name): value.shape.numpy() for value in values if value.shape is not None}
        for values in (graph.graph.inputs, graph.graph.outputs)
    )
    write_engines(graph, [Engine("dense", (), tuple(inputs), tuple(outputs))], {"dense": DENSE}, workspace)
    specs = {spec.role: spec.spec for spec in model.inputs(geometry)}
    shapes = {"inputs": inputs, "outputs": outputs, "timestep": specs["timestep"].dtype}
    (workspace / SHAPES).write_text(json.dumps(shapes))
    schedule = schedule_of(mask.scheduler, model, plan.schedule.get("start_step"))
    (workspace / SCHEDULE).write_text(json.dumps(asdict(schedule)))
