"""Residual reuse: a reused block gives its input plus what it last added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.samples import class_conditions
from dipgo_trainer.supernet import SuperNet
from dipgo_trainer.topology import topology_of
from dipgo_trainer.train import Task, Trainer
from golden import assert_golden
from reference import TINY_SD, assert_parity, make_mask, options, random_mask
from toy_denoiser import toy_graph, toy_schedule
from toy_transformer import (
    Reference,
    graph_of,
    program_of,
    residual_mask,
    transformer,
)

from dipgo_compile.build import Exported, check, compile_plan
from dipgo_compile.errors import MaskError
from dipgo_compile.executor import Session
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.subgraph import evaluate
from dipgo_compile.mask import Mask, legalize
from dipgo_compile.models import family_of
from dipgo_compile.models.base import GRANULARITIES
from dipgo_compile.models.presets import SD_BETAS
from dipgo_compile.models.source import Model, load
from dipgo_compile.passes.apply_mask import ApplyMask
from dipgo_compile.passes.base import Sequential
from dipgo_compile.passes.fuse import STRATEGIES
from dipgo_compile.passes.plan_memory import plan_memory
from dipgo_compile.passes.unroll import LATENTS, unroll
from dipgo_compile.pipeline import default_passes
from dipgo_compile.plan import Interface, Plan, Target
from dipgo_compile.program import PROLOGUE, Combine, Engine, Program, Run
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.schedules.schedulers import scheduler_ref
from dipgo_compile.text import program_text
from dipgo_compile.verifier import verify_memory

MASK = residual_mask("111", "100", "000", "010", "000")
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 4,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}
OPTIONAL_PASSES = (
    "value_numbering",
    "eliminate_dead",
    "fold_timestep",
    "fold_schedule",
    "fuse",
    "share_sums",
)


def compiled(mask: Mask = MASK, passes: int = 9, fuse: str = "patterns") -> Program:
    model = transformer()
    done = default_passes(model, graph_of(model), mask, fuse)[:passes]
    return Sequential(done)(program_of(model, mask.calls))[0]


def sums(program: Program) -> dict[str, str]:
    """The combinations that are no scheduler's, as text."""
    lines = (line.split(maxsplit=1)[-1] for line in program_text(program).splitlines())
    return dict(line.split(" = ") for line in lines if line.partition("_")[0] in "abc" and "(" not in line)


@pytest.mark.parametrize("index", [1, 7, 8, 9])
def test_pass(index):
    """Reused blocks become sums, sums of chains become one, runs are joined between them, and sums read
    earlier ones.
    """
    name = default_passes(transformer(), graph_of(transformer()), MASK)[index - 1].name
    assert_golden(f"residual_{index}_{name}", program_text(compiled(passes=index)))


def test_a_chain_of_reused_blocks_is_one_sum_of_three_terms():
    program = compiled(residual_mask("111", "100", "000"))
    assert sums(program)["c_out@1"] == "a_out@1 + -1 * a_out@0 + c_out@0"


def test_blocks_computed_in_different_calls_do_not_cancel():
    program = compiled(residual_mask("111", "100", "000"), passes=8)
    assert sums(program)["c_out@2"] == "stem@2 + a_out@1 + -1 * stem@1 + -1 * a_out@0 + c_out@0"


def test_a_sum_reads_the_earlier_one_that_it_holds():
    rows = ("111", "100", "000", "100", "000")
    assert sums(compiled(residual_mask(*rows))) == {
        "c_out@1": "a_out@1 + -1 * a_out@0 + c_out@0",
        "c_out@2": "stem@2 + -1 * stem@1 + c_out@1",
        "c_out@3": "a_out@3 + -1 * a_out@0 + c_out@0",
        "c_out@4": "stem@4 + -1 * stem@3 + c_out@3",
    }


def test_a_sum_is_read_through_where_that_is_shorter():
    """`c` was computed at call 1 from a sum of call 0's values, most of which cancel at call 2."""
    program = compiled(residual_mask("111", "101", "000"))
    assert sums(program) == {
        "b_out@1": "a_out@1 + b_out@0 + -1 * a_out@0",
        "c_out@2": "stem@2 + -1 * stem@1 + c_out@1",
    }


def test_every_call_reads_its_sample():
    """Unlike under output reuse, where a call that keeps nothing repeats the noise prediction."""
    program = compiled(residual_mask("111", "000", "000"))
    assert len({call.noise_preds for call in program.calls}) == 3
    assert all(call.sample is not None for call in program.calls)


@pytest.mark.parametrize("fuse", STRATEGIES)
def test_engines_are_joined_only_between_sums(fuse):
    program = compiled(residual_mask("111", "101", "101", "010"), fuse=fuse)
    reused = {Run: 0, Combine: 0}
    for instruction in program.instructions:
        if isinstance(instruction, Run) and instruction.call == 1:
            blocks = program.engine(instruction.engine).blocks
            assert not {"a", "c"} <= set(blocks)
        reused[type(instruction)] += 1
    assert sums(program).keys() >= {"b_out@1", "b_out@2"}


def test_patterns_are_shared_by_the_stretches_of_all_calls():
    program = compiled(residual_mask("111", "101", "101", "101"))
    later = [run for run in program.runs() if run.call not in (0, PROLOGUE)]
    assert len(later) == 2 * 3
    assert len({run.engine for run in later}) == 2


def test_a_block_adds_to_the_only_input_like_its_output():
    graph = graph_of(transformer())
    assert {block.name: block.adds_to for block in graph.blocks if block.scope} == {
        "a": "stem",
        "b": "a_out",  # not the text, though its shape is the same: it doesn't depend on the sample
        "c": "b_out",
    }


def test_blocks_without_a_residual_are_named_together():
    graph = toy_graph()  # `down` has two outputs, `up` reads two tensors like its output
    mask = replace(residual_mask("111"), blocks=("down", "up"), keep=((True, True),))
    with pytest.raises(MaskError, match="2 of these blocks") as error:
        ApplyMask(mask, graph)
    assert error.value.where == "down, up"


def test_residual_reuse_keeps_what_feeds_a_reused_block():
    graph = graph_of(transformer())
    keep = ((True,) * 3, (True, False, False))
    assert legalize(keep, graph.scopes, graph.consumers("residual")) == keep
    assert legalize(keep, graph.scopes, graph.consumers("output"))[1] == (False, False, False)
    assert graph.consumers("residual")["a"] == {"b", "c", None}


class Evaluated:
    """An engine session that evaluates the graph with ONNX Runtime, for programs without a bundle."""

    def __init__(self, model: ir.Model, engine: Engine) -> None:
        self._model, self._engine = model, engine

    def bind(self, inputs, outputs):
        wanted = [
            name for name, array in zip(self._engine.outputs, outputs, strict=True) if array is not None
        ]
        given = [array for array in outputs if array is not None]

        def run() -> None:
            feeds = dict(zip(self._engine.inputs, inputs, strict=True))
            for array, value in zip(given, evaluate(self._model, [feeds], wanted)[0], strict=True):
                np.copyto(array, value)

        return run


def session_of(model: ir.Model, program: Program, sessions: Mapping[str, Evaluated]) -> Session:
    memory = plan_memory(program)
    verify_memory(program, memory)
    interface = Interface("sample", "timestep", ("text",), LATENTS)
    plan = Plan(program, memory, {}, interface, Target("cpu", "fp32"), {}, {}, (), {})
    return Session(plan, sessions)


@pytest.mark.parametrize("disabled", [None, *OPTIONAL_PASSES])
def test_sums_at_the_ends_of_a_call(disabled):
    """Without glue and guidance, a sum reads the sample itself and answers with the noise prediction."""
    model = transformer(glue=False, batch=1)
    graph, schedule = graph_of(model, batch=1), toy_schedule(MASK.calls)
    passes = [step for step in default_passes(model, graph, MASK) if step.name != disabled]
    program, _ = Sequential(passes)(unroll(graph, schedule, None))
    sessions = {engine.name: Evaluated(model, engine) for engine in program.engines}
    session = session_of(model, program, sessions)
    generator = np.random.default_rng(0)
    latents, text = (generator.standard_normal((1, 1, 2, 2), np.float32) for _ in range(2))

    reference, x, predictions = Reference(text), schedule.init_noise_sigma * latents, []
    hosted = []
    for call, (step, row) in enumerate(zip(schedule.steps, MASK.keep, strict=True)):
        hosted.append(session.run_call(call, x.astype(np.float32), {"text": text}))
        predictions.append(reference(x.astype(np.float32), step.timestep, row))
        known = {("sample", call): x, **{("noise_pred", i): e for i, e in enumerate(predictions)}}
        x = sum(term.coefficient * known[term.kind, term.index] for term in step.terms)
    for ours, theirs in zip(hosted, predictions, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)  # float32, values near 1
    np.testing.assert_allclose(session.denoise(latents, {"text": text}), x, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def tiny_dit() -> Exported:
    """A DiT of four blocks for one guided image, rewritten as ``build`` does."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    denoiser = DiTTransformer2DModel(**DIT).eval().requires_grad_(False)
    for parameter in denoiser.parameters():  # adaLN-zero starts as the identity, where every mask is right
        parameter += 0.05 * torch.randn_like(parameter)
    family = family_of("DiTTransformer2DModel")
    scheduler = {**SD_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    model = Model("tests/dit", family, denoiser, dict(denoiser.config), "DDIMScheduler", scheduler, 0, 1)
    geometry = model.geometry(batch=2)
    onnx = export(model, geometry)
    apply(onnx, default_rewrites("onnxruntime"))
    return Exported(model, geometry, onnx)


CASES = [("residual", granularity, fuse) for granularity in GRANULARITIES for fuse in STRATEGIES]
CASES += [("output", GRANULARITIES[index % 2], fuse) for index, fuse in enumerate(STRATEGIES)]


@pytest.mark.parametrize("seed", range(len(CASES)), ids=map("-".join, CASES))
def test_random_mask(seed, tiny_dit, tmp_path):
    reuse, granularity, fuse = CASES[seed]
    mask = random_mask(tiny_dit.model, granularity, ("ddim", "plms")[seed // 2 % 2], reuse, seed)
    assert_parity(tiny_dit, mask, options(fuse=fuse), tmp_path / "m.dipgo", seed)


@pytest.mark.parametrize("disabled", OPTIONAL_PASSES)
def test_every_pass_can_be_left_out(disabled, tiny_dit, tmp_path):
    mask = random_mask(tiny_dit.model, "block", "plms", "residual", 3)
    assert_parity(tiny_dit, mask, options(disabled=(disabled,)), tmp_path / "m.dipgo", 3)


def test_layers_keep_their_modulation_and_gates_current(tiny_dit):
    """What is reused is gated by the timestep at hand: gates are glue, and stay in the calls."""
    blocks = tiny_dit.model.blocks("layer")
    mask = make_mask(
        tiny_dit.model, blocks, "ddim", 4, lambda calls: [[call == 0] * 8 for call in range(calls)]
    )
    plan = compile_plan(
        tiny_dit.model, tiny_dit.geometry, tiny_dit.onnx, mask, check(mask, tiny_dit.model), options()
    )
    program = plan.program
    assert program.calls_with_runs() == (0, 1, 2, 3)
    for index, call in enumerate(program.calls):
        runs = [run for run in program.runs() if run.call == index]
        computed = {block for run in runs for block in program.engine(run.engine).blocks}
        assert computed.isdisjoint(blocks) == (index > 0)
        read = {name for run in runs for name in run.inputs if "@t" in name}
        assert {name.partition("@t")[2] for name in read} == {f"{call.timestep:.10g}"}
        assert len(read) >= DIT["num_layers"]
    assert 0 < plan.macs["kept"] - plan.macs["dense"] / 4 < 0.5 * plan.macs["dense"], (
        "the glue of three calls"
    )


@pytest.mark.parametrize("reuse", ["output", "residual"])
def test_macs_count_what_calls_without_a_block_compute(reuse, tiny_dit):
    """The head of a DiT reads the timestep: its noise prediction changes even when no block gives anything
    new.
    """
    blocks = tiny_dit.model.blocks()
    mask = make_mask(tiny_dit.model, blocks, "ddim", 2, lambda calls: [[True] * 4, [False] * 4])
    mask = replace(mask, reuse=reuse)
    plan = compile_plan(
        tiny_dit.model, tiny_dit.geometry, tiny_dit.onnx, mask, check(mask, tiny_dit.model), options()
    )
    computed = {
        name for r in plan.program.runs() if r.call == 1 for name in plan.program.engine(r.engine).blocks
    }
    assert ("pos_embed" in computed) == (reuse == "residual")
    assert "proj_out_2" in computed
    assert 0 < plan.macs["kept"] - plan.macs["dense"] / 2 < 0.2 * plan.macs["dense"]


def test_training_then_building(tiny_dit, tmp_path):
    model = tiny_dit.model
    topology = topology_of(model, model.blocks(), "residual")
    schedule = scheduler_ref("ddim", model, 4)
    task = Task(model, schedule, topology, class_conditions(model, seed=0), reuse="residual")
    trainer = Trainer(task, TrainConfig(ratio=0.4, train_steps=2, samples=1, lr=50.0))
    with SuperNet(model.denoiser, task.topology.blocks, task.reuse) as net:
        for _ in range(2):
            trainer.advance(net)
    mask = trainer.mask()
    assert mask.reuse == "residual"
    assert not all(map(all, mask.keep))
    assert_parity(tiny_dit, mask, options(), tmp_path / "m.dipgo", 0)


def test_a_unet_is_refused_before_it_is_exported():
    model = load(str(TINY_SD), weights=False)
    blocks = model.blocks()
    mask = make_mask(model, blocks, "ddim", 2, lambda calls: [[True] * len(blocks)] * calls)
    with pytest.raises(MaskError, match="reuse 'residual' needs blocks") as error:
        check(replace(mask, reuse="residual"), model)
    assert "down_blocks.0" in error.value.where
    assert "mid_block" not in error.value.where, "it keeps the shape"
    assert "output" in error.value.mend
