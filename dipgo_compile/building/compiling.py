"""The shapes of one bundle, compiled one after the other.

Each has a graph of its own, cloned from the exporter's: compiling rewrites it and may add nodes, and engines
are cut out of it. Where a bundle serves several shapes, their graphs share their weights (``SharedWeights``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from dipgo_compile.building.clock import Clock
from dipgo_compile.building.exported import Exported
from dipgo_compile.building.guidance import guidance_of
from dipgo_compile.building.options import BuildOptions
from dipgo_compile.building.planning import compile_plan
from dipgo_compile.drawing.surroundings import Surroundings, export_surroundings
from dipgo_compile.graphs.engines import cut_engines, engine_files
from dipgo_compile.graphs.float16 import in_precision
from dipgo_compile.graphs.halves import NAME as SHARE_HALVES
from dipgo_compile.graphs.halves import share_halves
from dipgo_compile.graphs.weights import SharedWeights
from dipgo_compile.mask import Mask
from dipgo_compile.models import InputSpec
from dipgo_compile.passes.unroll import Guidance
from dipgo_compile.plan import Part, PassReport, Plan
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.schedules.table import Schedule


@dataclass(frozen=True)
class CompiledShape:
    """One shape of a bundle before it is written: its plan, the graph that its engines are cut out of, and
    what surrounds them.
    """

    plan: Plan
    onnx: ir.Model
    surroundings: Surroundings | None = None

    def around(self) -> Mapping[str, ir.Model]:
        """The graphs around the loop, by file."""
        return {} if self.surroundings is None else self.surroundings.graphs

    def graphs(self) -> dict[str, ir.Model]:
        """All that is written of this shape, by file."""
        parts = cut_engines(self.onnx, self.plan.program.engines, self.plan.engine_files)
        return {**parts, **self.around()}


def compile_shape(
    exported: Exported,
    mask: Mask,
    schedule: Schedule,
    options: BuildOptions,
    weights: SharedWeights | None,
) -> CompiledShape:
    """One shape, that of ``options``."""
    onnx_model = exported.onnx.clone()
    inputs = exported.model.inputs(exported.geometry)
    shared = _share_halves(onnx_model, inputs, mask, guidance_of(exported.model, options), options.disabled)
    rewrites = default_rewrites(options.backend, provider=options.provider)
    rewritten = apply(onnx_model, rewrites, options.disabled, mask.blocks)
    converted = in_precision(onnx_model, options.precision, inputs)
    plan = compile_plan(exported.model, exported.geometry, onnx_model, mask, schedule, options)
    if weights is not None:
        weights.share(onnx_model)
    passes = (*shared, *rewritten, *converted, *plan.passes)
    return CompiledShape(replace(plan, passes=passes), onnx_model)


def _share_halves(
    onnx_model: ir.Model,
    inputs: Sequence[InputSpec],
    mask: Mask,
    guidance: Guidance | None,
    disabled: Collection[str],
) -> tuple[PassReport, ...]:
    """Where both halves of a guided batch are in one run. Blocks whose residuals are reused read as many
    samples as they answer with, so they keep both halves.
    """
    if guidance is None or guidance.split or mask.reuse != "output" or SHARE_HALVES in disabled:
        return ()
    return (share_halves(onnx_model, inputs),)


def largest_first(compiled: Sequence[CompiledShape], upscaling: int) -> list[CompiledShape]:
    """The shapes of one bundle, first the one whose arena holds the others', as plan.json's. The files of the
    others are named after their shapes.
    """
    first, *rest = sorted(compiled, key=lambda shape: -shape.plan.memory.arena_bytes)
    if not rest:
        return [first]
    named = [replace(first, plan=replace(first.plan, upscaling=upscaling))]
    taken = [*first.plan.engine_files.values()]
    for shape in rest:
        files = engine_files(shape.plan.program.engines, _ending(shape.plan), taken)
        taken += files.values()
        named.append(replace(shape, plan=replace(shape.plan, engine_files=files)))
    return named


def surround(
    compiled: Sequence[CompiledShape],
    pipeline: Any,
    guidance_scale: float,
    options: BuildOptions,
    weights: SharedWeights | None,
    clock: Clock,
) -> list[CompiledShape]:
    """The shapes of one bundle with what surrounds the loop, exported at the sizes of each."""
    made: list[CompiledShape] = []
    encoders: list[Part] = []
    for shape in clock.each(compiled):
        clock.start("export the pipeline")
        ending = _ending(shape.plan) if made else ""
        around = export_surroundings(pipeline, shape.plan, guidance_scale, ending, encoders)
        for graph in around.graphs.values():
            apply(graph, default_rewrites(options.backend, provider=options.provider), options.disabled)
            if weights is not None:
                weights.share(graph)
        if around.parts.text_encoder is not None:
            encoders.append(around.parts.text_encoder)
        made.append(replace(shape, plan=replace(shape.plan, pipeline=around.parts), surroundings=around))
    return made


def _ending(plan: Plan) -> str:
    return f"-{plan.shape}"
