"""Each pass on a program small enough to read: the text before and after is in tests/golden."""

from __future__ import annotations

import pytest
from golden import assert_golden
from toy_denoiser import GUIDANCE, toy_graph, toy_mask, toy_model, toy_program, toy_schedule

from dipgo_compile.errors import CompileError, InputError
from dipgo_compile.mask import Mask
from dipgo_compile.passes.apply_mask import ApplyMask
from dipgo_compile.passes.base import Pass, PassResult, Sequential
from dipgo_compile.passes.eliminate_dead import EliminateDead
from dipgo_compile.passes.fold_schedule import FoldSchedule
from dipgo_compile.passes.fold_timestep import FoldTimestep
from dipgo_compile.passes.fuse import Fuse
from dipgo_compile.passes.value_numbering import ValueNumbering
from dipgo_compile.pipeline import compile_program, default_passes
from dipgo_compile.program import PROLOGUE, Combine
from dipgo_compile.text import program_text

MASK = toy_mask("11", "00", "01", "00", "00", "11")


def passes(fuse: str = "auto", max_engines: int = 8, mask: Mask = MASK) -> list[Pass]:
    model = toy_model()
    return default_passes(model, toy_graph(model), mask, fuse, max_engines)


def test_unroll():
    assert_golden("unroll", program_text(toy_program(2)))


@pytest.mark.parametrize("index", range(8))
def test_pass(index):
    """The program after each prefix of the default passes."""
    done = passes()[: index + 1]
    program, reports = Sequential(done)(toy_program(MASK.calls))
    summary = "\n".join(f"# {r.name}: {r.summary}" for r in reports)
    assert_golden(f"{index + 1}_{done[-1].name}", f"{summary}\n{program_text(program)}")


@pytest.mark.parametrize("index", range(1, 7))
def test_a_pass_with_nothing_to_do_says_so(index):
    program, _ = Sequential(passes())(toy_program(MASK.calls))
    again = passes()[index](program)
    assert not again.modified
    assert program_text(again.program) == program_text(program)


def test_apply_mask_of_all_ones_changes_nothing():
    program = toy_program(3)
    result = ApplyMask(toy_mask("11", "11", "11"), toy_graph())(program)
    assert not result.modified
    assert result.program == program


def test_a_block_computed_only_for_its_cache_stays():
    """Call 1 computes `down`, and its only reader `up` is reused; call 2 reuses what call 1 put into the
    cache.
    """
    mask = toy_mask("11", "10", "01")
    program, _ = Sequential([ApplyMask(mask, toy_graph()), ValueNumbering(), EliminateDead()])(toy_program(3))
    assert [(run.call, run.engine) for run in program.runs() if run.engine in ("down", "up")] == [
        (0, "down"),
        (0, "up"),
        (1, "down"),
        (2, "up"),
    ]


def test_idle_calls_leave_one_combination_between_runs():
    program, _ = Sequential([*passes()[:3], FoldSchedule()])(toy_program(MASK.calls))
    assert program.calls_with_runs() == (0, 2, 5)
    combined = [i.output for i in program.instructions if isinstance(i, Combine)]
    # Nothing reads the sample of call 2: all the steps between the full calls 0 and 5 are one.
    assert [name for name in combined if name.startswith("latents")] == [
        "latents@0",
        "latents@5",
        "latents@6",
    ]


def test_fold_timestep_keeps_one_table_entry_a_timestep():
    model = toy_model()
    program, _ = Sequential([FoldTimestep(model, toy_graph(model))])(toy_program(2))
    assert sorted(program.constants) == ["activated@t100", "activated@t200"]
    assert all("timestep" not in engine.inputs for engine in program.engines)


def test_fuse_shares_an_engine_between_calls_that_compute_the_same():
    model = toy_model()
    program, _ = Sequential([EliminateDead(), Fuse(model)])(toy_program(4))
    assert [engine.name for engine in program.engines] == ["pattern0"]
    assert [run.call for run in program.runs()] == [0, 1, 2, 3]


def test_fuse_none_leaves_one_engine_a_block():
    program, _ = Sequential(passes("none"))(toy_program(MASK.calls))
    assert all(len(engine.blocks) == 1 for engine in program.engines)


def test_fuse_patterns_runs_one_engine_a_call():
    program, _ = Sequential(passes("patterns"))(toy_program(MASK.calls))
    calls = [run.call for run in program.runs() if run.call != PROLOGUE]
    assert calls == list(program.calls_with_runs())


def test_fuse_atoms_puts_every_block_into_one_engine():
    program, _ = Sequential(passes("atoms"))(toy_program(MASK.calls))
    unfused, _ = Sequential(passes("none"))(toy_program(MASK.calls))
    blocks = [block for engine in program.engines if engine.name != "prologue" for block in engine.blocks]
    assert sorted(blocks) == sorted(e.name for e in unfused.engines if e.name != "prologue")
    assert len(program.engines) < len(unfused.engines)


def fused(fuse: str, max_engines: int, mask: Mask) -> tuple[set[tuple[str, ...]], str]:
    """The blocks of each engine, and what the pass says."""
    program, reports = Sequential(passes(fuse, max_engines, mask))(toy_program(mask.calls))
    (summary,) = (report.summary for report in reports if report.name == "fuse")
    return {engine.blocks for engine in program.engines}, summary


def test_fuse_auto_keeps_within_its_bound_and_says_what_it_compared():
    mask = toy_mask("11", "01", "10", "01", "11")
    atoms, patterns = (fused(strategy, 8, mask)[0] for strategy in ("atoms", "patterns"))
    assert len(atoms) < len(patterns)
    engines, summary = fused("auto", 0, mask)
    assert engines == atoms
    assert "atoms alone" in summary and "one engine a block" in summary
    assert fused("auto", 8, mask)[0] == patterns


def test_fuse_auto_goes_beyond_its_bound_for_no_more_engines():
    atoms, patterns = (fused(strategy, 8, MASK)[0] for strategy in ("atoms", "patterns"))
    assert atoms != patterns and len(atoms) == len(patterns)
    assert fused("auto", 0, MASK)[0] == patterns


def test_fuse_refuses_an_unknown_strategy():
    with pytest.raises(InputError, match="'magic'") as error:
        Fuse(toy_model(), "magic")
    assert error.value.available == ("auto", "patterns", "atoms", "none")


def test_disabled_pass_is_left_out_and_unknown_ones_are_refused():
    model = toy_model()
    graph, schedule = toy_graph(model), toy_schedule(MASK.calls)
    _, reports = compile_program(model, graph, MASK, schedule, GUIDANCE, disabled=["fuse", "fold_timestep"])
    assert [report.name for report in reports] == [
        "apply_mask",
        "value_numbering",
        "eliminate_dead",
        "hoist_prompt",
        "hoist_modulation",
        "fold_schedule",
        "share_sums",
    ]
    with pytest.raises(CompileError, match="apply_mask") as error:
        compile_program(model, graph, MASK, schedule, GUIDANCE, disabled=["apply_mask"])
    assert "fuse" in error.value.available


def test_a_failing_pass_is_named_with_those_before_it():
    class DropsEverything(Pass):
        name = "drops_everything"

        def __call__(self, program):
            return PassResult(program.with_instructions(()), True)

    with pytest.raises(CompileError) as error:
        Sequential([ValueNumbering(), DropsEverything()])(toy_program(2))
    assert "drops_everything" in error.value.what
    assert "value_numbering" in str(error.value)


def test_fuse_leaves_dead_code_alone():
    """Without eliminate_dead, calls 1 and 3 still compute glue that nobody reads."""
    model = toy_model()
    graph = toy_graph(model)
    program, _ = Sequential([ApplyMask(MASK, graph), ValueNumbering(), Fuse(model)])(toy_program(MASK.calls))
    assert all(engine.outputs for engine in program.engines)
