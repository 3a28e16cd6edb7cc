"""mask.json in, bundle out: the steps of a build, in order. Each step is a module of ``building/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dipgo_compile.building.clock import Clock, Progress
from dipgo_compile.building.compiling import CompiledShape, compile_shape, largest_first, surround
from dipgo_compile.building.exported import Exported
from dipgo_compile.building.fitting import begun, check
from dipgo_compile.building.guidance import geometry_of, guidance_of
from dipgo_compile.building.options import BuildOptions
from dipgo_compile.building.planning import compile_plan
from dipgo_compile.building.writing import prepare, write, write_shapes
from dipgo_compile.drawing.surroundings import load_surroundings, model_index
from dipgo_compile.generate import trained_guidance_scale
from dipgo_compile.graphs.weights import SharedWeights
from dipgo_compile.mask import Mask
from dipgo_compile.models import Denoiser
from dipgo_compile.models.opening import open_masked
from dipgo_compile.models.reading import Reading, is_onnx
from dipgo_compile.models.source import Model
from dipgo_compile.plan import Plan
from dipgo_compile.shapes import Shapes

__all__ = [
    "BuildOptions",
    "BuildReport",
    "Exported",
    "build",
    "check",
    "compile_plan",
    "guidance_of",
    "write",
]


@dataclass(frozen=True)
class BuildReport:
    """What a build made, and the seconds each of its steps took, all shapes together. ``plan`` is that of
    plan.json, which names the ``shapes``.
    """

    path: Path
    plan: Plan
    seconds: Mapping[str, float]

    @property
    def shapes(self) -> Shapes:
        """All that were compiled."""
        return Shapes((self.plan.shape, *self.plan.shapes), self.plan.upscaling)


def build(
    mask: Mask,
    *,
    source: str | None = None,
    model: Denoiser | None = None,
    output: Path,
    options: BuildOptions | None = None,
    exported: Exported | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Compile ``mask`` for its model (or for ``source``, or an opened ``model``) into the bundle ``output``.

    ``exported`` is the model's graph for these options, of a single shape, from an earlier build; without it,
    the model is loaded and exported. ``progress`` is told the name of every step as it begins. Raises a
    DipgoError: the mask doesn't fit the model or the scheduler, the scheduler isn't linear, the model can't
    be loaded or cut, or takes no such shape, the disk is full.
    """
    options = options or BuildOptions()
    clock = Clock(progress)
    each = options.each()
    if exported is not None:
        model = exported.model
        exported.check_serves(each)
    place = source or mask.model.source if model is None else model.source
    index = model_index(place) if options.pipeline else None
    if model is None:
        clock.start("load the model")
        model = open_masked(mask, source, reading=_sizes(place, each[0]))
    for one in each:  # refuses before minutes are spent
        model.inputs(geometry_of(model, one))
    pipeline = None
    if index is not None:
        assert isinstance(model, Model)  # an ONNX file has no index
        pipeline = load_surroundings(model, index)
    clock.start("check the mask")
    schedule = check(mask, model)
    made = mask
    if options.start_step is not None:
        made, schedule = begun(mask, model, options.start_step)
    weights = SharedWeights() if len(each) > 1 else None
    compiled: list[CompiledShape] = []
    for one in clock.each(each):
        if exported is None:
            clock.start("export the denoiser")
        graph = exported or Exported.of(model, one)
        clock.start("compile the loop")
        compiled.append(compile_shape(graph, made, schedule, one, weights))
    compiled = largest_first(compiled, model.vae_scale_factor)
    if pipeline is not None:
        scale = trained_guidance_scale(mask)
        compiled = surround(compiled, pipeline, scale, options, weights, clock)
    clock.start("write the bundle")
    recorded = replace(mask, model=replace(mask.model, source=model.source))
    plan = write_shapes(output, compiled, recorded)
    clock.start("pack the weights for this machine")
    prepare(output, options.target)
    return BuildReport(output, plan, clock.stop())


def _sizes(source: str, options: BuildOptions) -> Reading | None:
    """What the options say of an ONNX file's free dimensions."""
    told = {"height": options.height, "width": options.width}
    return Reading(dims={name: size for name, size in told.items() if size}) if is_onnx(source) else None
