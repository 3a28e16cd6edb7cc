"""From a block graph and a mask to the program that runs: the whole compiler on one screen."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from dipgo_compile.errors import CompileError
from dipgo_compile.graphs import halves
from dipgo_compile.mask import Mask
from dipgo_compile.passes.apply_mask import ApplyMask
from dipgo_compile.passes.base import Pass, Sequential
from dipgo_compile.passes.eliminate_dead import EliminateDead
from dipgo_compile.passes.fold_schedule import FoldSchedule
from dipgo_compile.passes.fold_timestep import FoldTimestep
from dipgo_compile.passes.fuse import MAX_ENGINES, Fuse
from dipgo_compile.passes.hoist_modulation import HoistModulation
from dipgo_compile.passes.hoist_prompt import HoistPrompt
from dipgo_compile.passes.share_sums import ShareSums
from dipgo_compile.passes.unroll import Guidance, unroll
from dipgo_compile.passes.value_numbering import ValueNumbering
from dipgo_compile.plan import PassReport
from dipgo_compile.program import BlockGraph, Program
from dipgo_compile.rewrites import NAMES
from dipgo_compile.schedules.table import Schedule

REQUIRED = frozenset({ApplyMask.name})


def default_passes(
    model: ir.Model, graph: BlockGraph, mask: Mask, fuse: str = "auto", max_engines: int = MAX_ENGINES
) -> list[Pass]:
    """In order. All but ``apply_mask`` can be left out: the program stays right and gets slower."""
    return [
        ApplyMask(mask, graph),
        ValueNumbering(),
        EliminateDead(),
        FoldTimestep(model, graph),
        HoistPrompt(model, graph),
        HoistModulation(model, graph),
        FoldSchedule(),
        Fuse(model, fuse, max_engines),
        ShareSums(),
    ]


def compile_program(
    model: ir.Model,
    graph: BlockGraph,
    mask: Mask,
    schedule: Schedule,
    guidance: Guidance | None,
    *,
    fuse: str = "auto",
    max_engines: int = MAX_ENGINES,
    disabled: Collection[str] = (),
) -> tuple[Program, tuple[PassReport, ...]]:
    """Unroll the loop and run the passes, except those named in ``disabled``, which may name rewrites too.

    Raises CompileError.
    """
    passes = default_passes(model, graph, mask, fuse, max_engines)
    optional = [*(step.name for step in passes if step.name not in REQUIRED), *NAMES, halves.NAME]
    unknown = sorted(set(disabled) - set(optional))
    if unknown:
        raise CompileError(f"cannot disable the pass {unknown[0]!r}", available=optional)
    return Sequential(step for step in passes if step.name not in disabled)(unroll(graph, schedule, guidance))
