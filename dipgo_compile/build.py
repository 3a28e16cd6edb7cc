"""mask.json in, bundle out: the steps of a build, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir

from dipgo_compile.backends.registry import check_target, make_backend
from dipgo_compile.bundle import open_bundle, write_bundle
from dipgo_compile.drawing.conditions import GUIDANCE_EMBEDDING
from dipgo_compile.drawing.surroundings import (
    Surroundings,
    export_surroundings,
    load_surroundings,
    model_index,
)
from dipgo_compile.errors import BackendError, InputError, MaskError
from dipgo_compile.generate import trained_guidance_scale
from dipgo_compile.graphs.engines import cut_engines, engine_files, weight_bytes, write_engines
from dipgo_compile.graphs.float16 import in_precision
from dipgo_compile.graphs.stacking import remove_stacked
from dipgo_compile.graphs.weights import SharedWeights
from dipgo_compile.mask import Mask
from dipgo_compile.models import Denoiser, Geometry
from dipgo_compile.models.opening import open_masked
from dipgo_compile.models.reading import Reading, is_onnx
from dipgo_compile.models.source import Model
from dipgo_compile.noise_level import as_read, schedule_of
from dipgo_compile.partition import partition
from dipgo_compile.passes.fuse import MAX_ENGINES
from dipgo_compile.passes.plan_memory import plan_memory
from dipgo_compile.passes.unroll import IMAGE, LATENTS, Guidance, is_draw
from dipgo_compile.pipeline import compile_program
from dipgo_compile.plan import Interface, Part, Plan, Target
from dipgo_compile.program import PROLOGUE, BlockGraph, Program
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.schedule import Schedule, probe
from dipgo_compile.shapes import Shapes, Size, check_distinct
from dipgo_compile.verifier import verify_memory

Progress = Callable[[str], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class BuildOptions:
    """What a bundle is compiled for.

    ``images`` are denoised together; ``height`` and ``width`` are pixels, those of an ONNX file the latents'
    (None: the model's own size). ``batches`` and ``sizes``, (height, width) each, take their places for a
    bundle that serves several shapes: every number of images in every size. With ``guidance`` the denoiser
    runs on twice as many samples, and the guidance scale stays a run-time number; None: where the model knows
    the order of the two halves, and wasn't distilled to read the scale.
    ``split_guidance`` computes those halves one after the other, with engines for half the batch: less memory
    for activations, and half the work at a guidance scale of 1.
    ``start_step`` makes an image-to-image bundle, which begins with that inference step: see ``begun``.
    ``fuse`` and ``max_engines`` say how runs become engines (``passes/fuse.py``). ``disabled`` names
    passes and rewrites to leave out, for bisecting a wrong result. ``provider``, ``precision`` and
    ``backend`` make the target: see ``backends/registry.py``, whose BackendError refuses what no backend
    offers. With ``pipeline`` the bundle gets the text encoder, the tokenizer and the image decoder too
    (``drawing/surroundings.py``).
    """

    images: int = 1
    height: int | None = None
    width: int | None = None
    batches: tuple[int, ...] = ()
    sizes: tuple[Size, ...] = ()
    guidance: bool | None = None
    split_guidance: bool = False
    start_step: int | None = None
    fuse: str = "auto"
    max_engines: int = MAX_ENGINES
    disabled: tuple[str, ...] = ()
    provider: str = "cpu"
    precision: str = "fp32"
    backend: str = "onnxruntime"
    pipeline: bool = False

    def __post_init__(self) -> None:
        check_target(self.target)
        if self.sizes and (self.height or self.width):
            raise InputError(
                "sizes are given, and a height or a width", mend="put all of them into the sizes"
            )
        check_distinct([(one.images, one.height, one.width) for one in self.each()])

    @property
    def target(self) -> Target:
        return Target(self.provider, self.precision, self.backend)

    def each(self) -> tuple[BuildOptions, ...]:
        """The same options for each of the shapes alone."""
        if not self.batches and not self.sizes:
            return (self,)
        return tuple(
            replace(self, images=images, height=height, width=width, batches=(), sizes=())
            for height, width in self.sizes or ((self.height, self.width),)
            for images in self.batches or (self.images,)
        )


@dataclass(frozen=True)
class Exported:
    """A denoiser and its graph at one size: all that a build needs besides the mask, so that several masks of
    one model can share it. ``onnx`` is as the exporter gave it.
    """

    model: Denoiser
    geometry: Geometry
    onnx: ir.Model

    @classmethod
    def of(cls, model: Denoiser, options: BuildOptions) -> Exported:
        """Export ``model`` at the size and batch of ``options``. Raises ModelError, InputError."""
        geometry = _geometry(model, options)
        return cls(model, geometry, model.graph(geometry))


@dataclass(frozen=True)
class Compiled:
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
    clock = _Clock(progress)
    each = options.each()
    if exported is not None:
        model = exported.model
        _check_size(exported, each)
    place = source or mask.model.source if model is None else model.source
    index = model_index(place) if options.pipeline else None
    if model is None:
        clock.start("load the model")
        model = open_masked(mask, source, reading=_sizes(place, each[0]))
    for one in each:  # refuses before minutes are spent
        model.inputs(_geometry(model, one))
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
    compiled: list[Compiled] = []
    for one in clock.each(each):
        if exported is None:
            clock.start("export the denoiser")
        graph = exported or Exported.of(model, one)
        clock.start("compile the loop")
        compiled.append(_compiled(graph, made, schedule, one, weights))
    compiled = _largest_first(compiled, model.vae_scale_factor)
    if pipeline is not None:
        compiled = _surrounded(compiled, pipeline, trained_guidance_scale(mask), options, weights, clock)
    clock.start("write the bundle")
    recorded = replace(mask, model=replace(mask.model, source=model.source))
    plan = write_shapes(output, compiled, recorded)
    clock.start("pack the weights for this machine")
    prepare(output, options.target)
    return BuildReport(output, plan, clock.stop())


def _compiled(
    exported: Exported,
    mask: Mask,
    schedule: Schedule,
    options: BuildOptions,
    weights: SharedWeights | None,
) -> Compiled:
    """One shape, that of ``options``."""
    onnx_model = exported.onnx.clone()
    rewritten = apply(onnx_model, default_rewrites(options.backend), options.disabled)
    converted = in_precision(onnx_model, options.precision, exported.model.inputs(exported.geometry))
    plan = compile_plan(exported.model, exported.geometry, onnx_model, mask, schedule, options)
    if weights is not None:
        weights.share(onnx_model)
    return Compiled(replace(plan, passes=(*rewritten, *converted, *plan.passes)), onnx_model)


def _largest_first(compiled: Sequence[Compiled], upscaling: int) -> list[Compiled]:
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


def _ending(plan: Plan) -> str:
    return f"-{plan.shape}"


def _surrounded(
    compiled: Sequence[Compiled],
    pipeline: Any,
    guidance_scale: float,
    options: BuildOptions,
    weights: SharedWeights | None,
    clock: _Clock,
) -> list[Compiled]:
    """The shapes of one bundle with what surrounds the loop, exported at the sizes of each."""
    made: list[Compiled] = []
    encoders: list[Part] = []
    for shape in clock.each(compiled):
        clock.start("export the pipeline")
        ending = _ending(shape.plan) if made else ""
        around = export_surroundings(pipeline, shape.plan, guidance_scale, ending, encoders)
        for graph in around.graphs.values():
            apply(graph, default_rewrites(options.backend), options.disabled)
            if weights is not None:
                weights.share(graph)
        if around.parts.text_encoder is not None:
            encoders.append(around.parts.text_encoder)
        made.append(replace(shape, plan=replace(shape.plan, pipeline=around.parts), surroundings=around))
    return made


def compile_plan(
    model: Denoiser,
    geometry: Geometry,
    onnx_model: ir.Model,
    mask: Mask,
    schedule: Schedule,
    options: BuildOptions,
) -> Plan:
    """From the exported denoiser, rewritten or not, and a mask that fits it to the plan, for which nodes may
    be added to ``onnx_model``.

    Raises GraphError, CompileError.
    """
    remove_stacked(onnx_model)  # of another mask
    graph = partition(onnx_model, mask.blocks, model.inputs(geometry))
    guidance = guidance_of(model, options)
    program, passes = compile_program(
        onnx_model,
        graph,
        mask,
        schedule,
        guidance,
        fuse=options.fuse,
        max_engines=options.max_engines,
        disabled=options.disabled,
    )
    memory = plan_memory(program)
    verify_memory(program, memory)
    macs = model.macs(geometry, mask.blocks, mask.reuse)
    return Plan(
        program=program,
        memory=memory,
        model=_model_fields(model),
        interface=_interface(graph, program, guidance),
        target=options.target,
        schedule=_schedule_fields(schedule),
        macs={"dense": mask.calls * macs.total, "kept": mask.kept_macs(macs)},
        passes=passes,
        engine_files=engine_files(program.engines),
        engine_macs=_engine_macs(program, model, geometry),
    )


def write(
    output: Path, plan: Plan, onnx_model: ir.Model, mask: Mask, surroundings: Surroundings | None = None
) -> Plan:
    """Write a bundle for one shape: engines cut out of ``onnx_model``, what surrounds them, constants, plan,
    mask. Raises BundleError.
    """
    return write_shapes(output, [Compiled(plan, onnx_model, surroundings)], mask)


def write_shapes(output: Path, compiled: Sequence[Compiled], mask: Mask) -> Plan:
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


def _sizes(source: str, options: BuildOptions) -> Reading | None:
    """What the options say of an ONNX file's free dimensions."""
    told = {"height": options.height, "width": options.width}
    return Reading(dims={name: size for name, size in told.items() if size}) if is_onnx(source) else None


def guidance_of(model: Denoiser, options: BuildOptions) -> Guidance | None:
    """How the guided batch lies; None without guidance. Raises InputError where nobody knows the order, for
    guidance of a denoiser that was distilled to do without, and where there is nothing to split.
    """
    order = model.guidance_order
    distilled = any(spec.name == GUIDANCE_EMBEDDING for spec in model.inputs(model.geometry()))
    if options.guidance and distilled:
        raise InputError(
            f"{model.source} takes the guidance scale as an input: it would be guided twice",
            where=GUIDANCE_EMBEDDING,
            mend="build it with --no-guidance; generate --guidance-scale still works",
        )
    if options.guidance and order is None:
        raise InputError(
            "the order of the guided batch's halves is unknown: an ONNX file doesn't tell",
            where=model.source,
            mend="state it as --guidance-order uncond,cond (Stable Diffusion's) or cond,uncond (DiT's)",
        )
    if order is None or distilled or options.guidance is False:
        if options.split_guidance:
            raise InputError(
                "there is no guidance to split: the bundle is built without",
                where=model.source,
                mend="leave --split-guidance out, or build with --guidance",
            )
        return None
    return Guidance(order, options.split_guidance)


def check(mask: Mask, model: Denoiser) -> Schedule:
    """The schedule of a mask that fits the model, with what the denoiser reads as timesteps. Raises
    MaskError, ScheduleError.
    """
    mask.check_against(model, model.scopes)
    if mask.reuse == "residual":
        model.check_residuals(mask.blocks)
    reference = mask.scheduler
    schedule = probe(reference.class_name, reference.config, reference.num_inference_steps)
    if schedule.timesteps != reference.timesteps:
        raise MaskError(
            f"the mask's {len(reference.timesteps)} timesteps are not the {len(schedule.timesteps)} of "
            f"{reference.class_name} with {reference.num_inference_steps} steps",
            where="scheduler.timesteps",
            available=[f"{timestep:.10g}" for timestep in schedule.timesteps],
            mend="give one row per denoiser call: PLMS makes one call more than steps",
        )
    timestep = next(spec.spec for spec in model.inputs(model.geometry()) if spec.role == "timestep")
    return as_read(schedule, reference.config, model.timestep_kind, timestep)


def begun(mask: Mask, model: Denoiser, start_step: int) -> tuple[Mask, Schedule]:
    """The part of a mask and of its schedule that image-to-image makes from an inference step on. Raises
    ScheduleError.

    diffusers' pipelines name the step by its strength s: of N steps they leave out the first
    N - floor(s * N).
    """
    schedule = schedule_of(mask.scheduler, model, start_step)
    assert schedule.start is not None
    return mask.from_call(schedule.start.call), schedule


def _geometry(model: Denoiser, options: BuildOptions) -> Geometry:
    """Of the denoiser's samples: one an image, two where both halves of a guided batch are in one run."""
    guidance = guidance_of(model, options)
    split = guidance is not None and guidance.split
    samples = 1 if guidance is None or split else 2
    geometry = model.geometry(options.images * samples, options.height, options.width)
    if split:
        _check_batches(model, geometry)
    return geometry


def _check_batches(model: Denoiser, geometry: Geometry) -> None:
    for given in model.inputs(geometry):
        if given.role == "condition" and given.spec.shape[:1] != (geometry.batch,):
            raise InputError(
                f"the condition {given.name!r} has no batch, so guidance can't be split",
                where=model.source,
                mend="leave --split-guidance out",
            )


def _check_size(exported: Exported, each: Sequence[BuildOptions]) -> None:
    if len(each) > 1:
        raise InputError(
            "an exported graph has one shape, and several are asked for", mend="leave the graph out"
        )
    wanted = _geometry(exported.model, each[0])
    if exported.geometry != wanted:
        raise InputError(
            f"the graph was exported for {exported.geometry}, the build asks for {wanted}",
            mend="export the model with the same options",
        )


def _engine_macs(program: Program, model: Denoiser, geometry: Geometry) -> dict[str, int]:
    """MACs of one run for one sample, by engine. Glue is counted where it is named after its module; the
    prologue's part is still in the blocks that it was taken from.
    """
    calls = {run.engine for run in program.runs() if run.call != PROLOGUE}
    engines = [engine for engine in program.engines if engine.name in calls]
    blocks = {block for engine in engines for block in engine.blocks}
    counted = model.macs(geometry, blocks.intersection(model.scopes))
    return {engine.name: sum(counted.by_scope.get(block, 0) for block in engine.blocks) for engine in engines}


def _model_fields(model: Denoiser) -> dict[str, object]:
    return {
        "source": model.source,
        "class": model.class_name,
        "config_sha256": model.config_sha256,
        "config": {key: value for key, value in model.config.items() if not key.startswith("_")},
    }


def _schedule_fields(schedule: Schedule) -> dict[str, object]:
    started = {} if schedule.start is None else {"start_step": schedule.start.step}
    return {
        "class": schedule.class_name,
        "num_inference_steps": schedule.num_inference_steps,
        "timesteps": list(schedule.timesteps),
        "init_noise_sigma": schedule.init_noise_sigma,
        **started,
    }


def _interface(graph: BlockGraph, program: Program, guidance: Guidance | None) -> Interface:
    return Interface(
        sample=graph.sample,
        timestep=graph.timestep,
        conditions=graph.conditions,
        latents=LATENTS,
        draws=tuple(name for name in program.inputs if is_draw(name)),
        guidance=guidance.order if guidance else None,
        image_latents=IMAGE if IMAGE in program.inputs else None,
        split=guidance is not None and guidance.split,
    )


class _Clock:
    """Times the steps of a build and announces them, each with the shape it is about."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self._step, self._of = "", ""
        self._since = 0.0

    def each(self, shapes: Sequence[Item]) -> Iterator[Item]:
        """The shapes in turn; until the next, steps are announced as this one's."""
        for number, shape in enumerate(shapes, 1):
            self._of = f" ({number} of {len(shapes)})" if len(shapes) > 1 else ""
            yield shape
        self._of = ""

    def start(self, step: str) -> None:
        self.stop()
        self._step, self._since = step, time.perf_counter()
        if self._progress is not None:
            self._progress(step + self._of)

    def stop(self) -> dict[str, float]:
        if self._step:
            spent = time.perf_counter() - self._since
            self._seconds[self._step] = self._seconds.get(self._step, 0.0) + spent
            self._step = ""
        return self._seconds
