"""hoist_modulation: what it takes, what it leaves, and that every call reads its own part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from reference import GUIDANCE_SCALE, assert_parity, make_mask, options
from test_hoist_prompt import compiled, mask_of, parsed, small
from toy_denoiser import GUIDANCE, SPECS, toy_mask, toy_schedule

from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.build import write
from dipgo_compile.graphs.engines import engine_files, write_engines
from dipgo_compile.graphs.partition import partition
from dipgo_compile.graphs.stacking import ADDED, Stacker, at
from dipgo_compile.models.source import example_inputs
from dipgo_compile.passes.apply_mask import ApplyMask
from dipgo_compile.passes.base import Sequential
from dipgo_compile.passes.fold_timestep import FoldTimestep
from dipgo_compile.passes.hoist_modulation import ENGINE, HoistModulation
from dipgo_compile.passes.hoist_prompt import HoistPrompt
from dipgo_compile.passes.unroll import unroll
from dipgo_compile.program import PROLOGUE, BlockGraph, Engine, Program, Run
from dipgo_compile.runtime import Runtime

MODULATED = ("dit", "sdxl", "class-unet")


def modulation(program: Program) -> Run | None:
    return next((run for run in program.runs() if run.engine == ENGINE), None)


@pytest.mark.parametrize("name", MODULATED)
def test_small_denoisers(name: str, tmp_path: Path) -> None:
    """Against the SuperNet; and no call reads a condition that only its modulation needed."""
    denoiser = small(name)
    blocks = denoiser.model.blocks()
    mask = mask_of(denoiser, *("1" * len(blocks) for _ in range(3)))
    program = compiled(denoiser, mask).program
    run = modulation(program)
    assert run is not None and run.call == PROLOGUE and len(run.outputs) >= 3
    read = {name for other in program.runs() if other.call != PROLOGUE for name in other.inputs}
    assert set(run.outputs) <= read
    assert not {"class_labels", "text_embeds", "time_ids"} & read
    assert_parity(denoiser, mask, options(), tmp_path / "m.dipgo", seed=1)


@pytest.mark.parametrize("seed", range(3))
def test_random_masks_of_a_dit(seed: int, tmp_path: Path) -> None:
    dit = small("dit")
    blocks = dit.model.blocks("layer")
    draws = np.random.default_rng(seed)
    mask = make_mask(
        dit.model, blocks, "plms", 5, lambda calls: (draws.random((calls, len(blocks))) < 0.5).tolist()
    )
    assert_parity(dit, mask, options(), tmp_path / "m.dipgo", seed)


def test_only_calls_that_read_it_have_a_part() -> None:
    """The last block runs three times, the others twice, the glue at the ends has its own."""
    dit = small("dit")
    mask = mask_of(dit, "111", "001", "000", "111")
    program = compiled(dit, mask, fuse="none").program
    run = modulation(program)
    assert run is not None
    runs = [other for other in program.runs() if other.call != PROLOGUE]
    for output in run.outputs:
        assert sum(output in other.inputs for other in runs) == 1
    last, first = (f"transformer_blocks.{index}" for index in (2, 0))
    assert sum(set(run.outputs) & set(other.inputs) != set() for other in runs if other.engine == last) == 3
    assert sum(set(run.outputs) & set(other.inputs) != set() for other in runs if other.engine == first) == 2


def test_it_can_be_left_out() -> None:
    dit = small("dit")
    mask = mask_of(dit, "111", "111")
    assert modulation(compiled(dit, mask).program) is not None
    without = compiled(dit, mask, disabled=("hoist_modulation",)).program
    assert modulation(without) is None
    assert any("class_labels" in run.inputs for run in without.runs())


def test_a_model_can_be_compiled_again() -> None:
    """For another mask: what the first one added to the graph is gone."""
    dit = small("dit")
    first = compiled(dit, mask_of(dit, "111", "111", "111")).program
    compiled(dit, mask_of(dit, "111", "000", "111"))
    again = compiled(dit, mask_of(dit, "111", "111", "111")).program
    assert again.engines == first.engines
    added = [node for node in dit.onnx.graph if ADDED in node.metadata_props]
    assert len({node.name for node in added}) == len(added)


TOY = """
    <ir_version: 10, opset_import: ["" : 18]>
    toy (float[2,1,2,2] sample, float[1] timestep, float[2,1,2,2] text) => (float[2,1,2,2] noise_pred)
    <float[2,2] w = {0.5, -0.25, 0.75, 1.0}, float[1,1,2,2] bias = {1.0, 2.0, 3.0, 4.0},
     int64[4] shape = {1, 1, 1, 1}, int64[1] first = {0}>
    {
      lifted = Reshape(timestep, shape)
      mixed = Add(text, lifted)
      known = MIX
      projected = MatMul(known, w)
      modulation = Add(projected, bias)
      hidden = Mul(sample, modulation)
      noise_pred = Tanh(hidden)
    }
"""


def toy(mix: str, calls: int) -> tuple[ir.Model, BlockGraph, Program]:
    """A program that the pass can be given. Its weights take 72 bytes, and a call's modulation 32."""
    scopes = {"hidden": "down", "noise_pred": "up"}
    model, mask = parsed(TOY.replace("MIX", mix), scopes), toy_mask(*["11"] * calls)
    graph = partition(model, mask.blocks, SPECS)
    before = [ApplyMask(mask, graph), FoldTimestep(model, graph), HoistPrompt(model, graph)]
    program, _ = Sequential(before)(unroll(graph, toy_schedule(calls), GUIDANCE))
    return model, graph, program


@pytest.mark.parametrize(
    ("mix", "stacked"),
    [
        ("Tanh(mixed)", True),
        ("ReduceSum <keepdims = 1> (mixed, first)", False),  # the sum over the batch
        ("Softmax <axis = 0> (mixed)", False),
    ],
)
def test_what_looks_across_the_batch_stays(mix: str, stacked: bool) -> None:
    model, graph, program = toy(mix, calls=2)
    result = HoistModulation(model, graph)(program)
    assert result.modified is stacked
    assert (modulation(result.program) is not None) is stacked
    if not stacked:
        assert result.program is program


def test_more_rows_than_weights_stay() -> None:
    model, graph, program = toy("Tanh(mixed)", calls=3)
    result = HoistModulation(model, graph)(program)
    assert result.program is program
    assert result.summary == "96 bytes for all calls: more than all weights take"


def test_an_engine_for_hundreds_of_calls_opens(tmp_path: Path) -> None:
    model, graph, _ = toy("Tanh(mixed)", calls=2)
    timesteps = tuple(float(timestep) for timestep in range(250))
    stacker = Stacker(model, graph)
    assert stacker.stack("projected", timesteps)
    parts = tuple(at("projected", timestep) for timestep in timesteps)
    engine = Engine(ENGINE, (ENGINE,), ("text",), parts)
    files = engine_files([engine])
    write_engines(model, [engine], files, tmp_path)
    OnnxRuntimeBackend().open_file(ENGINE, tmp_path / files[ENGINE], engine.inputs, engine.outputs)


def test_the_next_image_has_its_own_class(tmp_path: Path) -> None:
    dit = small("dit")
    mask = mask_of(dit, "111", "011")
    path = tmp_path / "m.dipgo"
    write(path, compiled(dit, mask), dit.onnx, mask)
    noise = example_inputs(dit.model.inputs(dit.geometry), 0)["hidden_states"][:1].numpy()
    with Runtime.load(path, threads=1) as runtime:
        used = runtime.session()
        drawn = []
        for labels in ([10, 1], [10, 2], [10, 1]):
            classes = {"class_labels": np.array(labels)}
            drawn.append(used.denoise(noise, classes, guidance_scale=GUIDANCE_SCALE))
            fresh = runtime.session().denoise(noise, classes, guidance_scale=GUIDANCE_SCALE)
            np.testing.assert_array_equal(drawn[-1], fresh)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-4  # the class matters
    np.testing.assert_array_equal(drawn[0], drawn[2])
