"""One graph, one mask: the plan."""

from __future__ import annotations

import onnx_ir as ir

from dipgo_compile.building.guidance import guidance_of
from dipgo_compile.building.options import BuildOptions
from dipgo_compile.graphs.engines import engine_files
from dipgo_compile.graphs.partition import partition
from dipgo_compile.graphs.stacking import remove_stacked
from dipgo_compile.mask import Mask
from dipgo_compile.models import Denoiser, Geometry
from dipgo_compile.passes.plan_memory import plan_memory
from dipgo_compile.passes.unroll import IMAGE, LATENTS, Guidance, is_draw
from dipgo_compile.pipeline import compile_program
from dipgo_compile.plan import Interface, Plan
from dipgo_compile.program import PROLOGUE, BlockGraph, Program
from dipgo_compile.schedules.table import Schedule
from dipgo_compile.verifier import verify_memory


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
        engine_macs=_engine_macs(program, graph, model, geometry),
    )


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


def _engine_macs(program: Program, graph: BlockGraph, model: Denoiser, geometry: Geometry) -> dict[str, int]:
    """MACs of one run for one sample, by engine. Glue is counted where it is named after its module, less
    what lies in other blocks of that module; the prologue's part is still in the blocks that it was taken
    from.
    """
    blocks = {block.name for block in graph.blocks}
    macs = dict(model.macs_by_scope(geometry, blocks.intersection(model.scopes)))
    for block in sorted(macs, key=len, reverse=True):  # those inside before those around
        macs[block] -= sum(macs[inner] for inner in macs if inner.startswith(f"{block}."))
    calls = {run.engine for run in program.runs() if run.call != PROLOGUE}
    engines = [engine for engine in program.engines if engine.name in calls]
    return {engine.name: sum(macs.get(block, 0) for block in engine.blocks) for engine in engines}
