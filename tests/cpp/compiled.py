"""The compiler's toy denoiser, compiled with a real scheduler and a mask, as a bundle."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from dipgo_compile.build import write
from dipgo_compile.graphs import halves
from dipgo_compile.graphs.engines import engine_files
from dipgo_compile.graphs.halves import share_halves
from dipgo_compile.mask import Mask, ModelRef, SchedulerRef
from dipgo_compile.passes.plan_memory import plan_memory
from dipgo_compile.passes.unroll import LATENTS, Guidance, is_draw
from dipgo_compile.pipeline import compile_program
from dipgo_compile.plan import Interface, Plan, Target
from dipgo_compile.schedules.probe import probe
from tests.compiler.toy_denoiser import BLOCKS, SPECS, toy_graph, toy_model

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def compiled(
    path: Path,
    scheduler: str,
    config: dict[str, object],
    rows: list[str],
    *,
    guided: bool,
    fuse: str,
    split: bool = False,
    shared: bool = False,
) -> Plan:
    """Write the bundle; ``rows`` are those of the mask, one for each call, and so many steps as give them.
    The toy computes two samples at a time; with ``split`` guidance they are one half of two images. With
    ``shared`` halves it reads one of the two.
    """
    schedule = probe(scheduler, {**BETAS, **config}, len(rows))
    rows = (rows * 2)[: len(schedule.timesteps)]  # PLMS and Heun make more calls than steps
    model = toy_model()
    if shared:
        with mock.patch.object(halves, "MACS_PER_ELEMENT", -1):  # the toy multiplies nothing
            assert share_halves(model, SPECS).modified
    graph = toy_graph(model)
    keep = tuple(tuple(letter == "1" for letter in row) for row in rows)
    timesteps = schedule.timesteps
    mask = Mask(
        ModelRef("toy", "Toy", "0" * 64), SchedulerRef(scheduler, config, len(rows), timesteps), BLOCKS, keep
    )
    guidance = Guidance(("uncond", "cond"), split) if guided else None
    program, passes = compile_program(model, graph, mask, schedule, guidance, fuse=fuse)
    draws = tuple(name for name in program.inputs if is_draw(name))
    plan = Plan(
        program=program,
        memory=plan_memory(program),
        model={"source": "toy", "class": "Toy", "config_sha256": "0" * 64, "config": {}},
        interface=Interface(
            "sample",
            "timestep",
            graph.conditions,
            LATENTS,
            draws,
            guidance.order if guidance else None,
            split=split,
        ),
        target=Target("cpu", "fp32"),
        schedule={"class": scheduler, "num_inference_steps": len(rows), "timesteps": list(timesteps)},
        macs={"dense": 1, "kept": 1},
        passes=passes,
        engine_files=engine_files(program.engines),
    )
    return write(path, plan, model, mask)
