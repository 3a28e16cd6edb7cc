"""hoist_prompt: what it takes, what it leaves, and that an image never sees the prompt of the one before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from reference import GUIDANCE_SCALE, assert_parity, make_mask, options
from toy_denoiser import GUIDANCE, SPECS, toy_mask, toy_model, toy_schedule

from dipgo_compile.backends.base import MEMORY_MODES
from dipgo_compile.build import Exported, check, compile_plan, write
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.partition import SCOPES, partition
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import example_inputs
from dipgo_compile.passes.apply_mask import ApplyMask
from dipgo_compile.passes.base import Sequential
from dipgo_compile.passes.eliminate_dead import EliminateDead
from dipgo_compile.passes.fold_timestep import FoldTimestep
from dipgo_compile.passes.hoist_prompt import HoistPrompt, settled_tensors
from dipgo_compile.passes.unroll import unroll
from dipgo_compile.passes.value_numbering import ValueNumbering
from dipgo_compile.plan import Plan
from dipgo_compile.program import PROLOGUE, Program
from dipgo_compile.report import as_text, facts
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.runtime import Runtime
from tests.families.tiny import make


def parsed(text: str, scopes: Mapping[str, str] | None = None) -> ir.Model:
    """An ONNX graph; ``scopes`` has the module scope of the node that makes a tensor."""
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True)
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
        scope = (scopes or {}).get(node.outputs[0].name or "")
        if scope is not None:
            node.metadata_props[SCOPES] = repr(["", scope])
    return model


def hoisted(program: Program) -> set[str]:
    return {name for engine in program.engines if engine.name == "prologue" for name in engine.outputs}


def small(name: str) -> Exported:
    """A denoiser of a few thousand random weights, exported for one guided image."""
    model = make(name)
    geometry = model.geometry(batch=2)
    return Exported(model, geometry, export(model, geometry))


def mask_of(exported: Exported, *rows: str) -> Mask:
    blocks = exported.model.blocks()
    return make_mask(
        exported.model, blocks, "ddim", len(rows), lambda calls: [[c == "1" for c in row] for row in rows]
    )


def compiled(exported: Exported, mask: Mask, **changes) -> Plan:
    schedule = check(mask, exported.model)
    return compile_plan(exported.model, exported.geometry, exported.onnx, mask, schedule, options(**changes))


def cross_attentions(exported: Exported, kept_twice: set[str]) -> int:
    """How many cross-attentions lie in the blocks ``kept_twice``."""
    names = [name for name, _ in exported.model.denoiser.named_modules() if name.endswith(".attn2")]
    return sum(any(name.startswith(f"{block}.") for block in kept_twice) for name in names)


ANALYSED = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[2,4] sample, float[1] timestep, float[2,3,4] text, int64[2] label, float[2,3] mask)
  => (float[2,4] out)
<float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float one = {1},
 float[2,4] table = {1,2,3,4,5,6,7,8}, int64[4] heads = {2,3,2,2}, int64[3] wide = {20,3,4},
 int64[1] last = {2}>
{
  caption = MatMul(text, w)
  key = MatMul(caption, w)
  split = Reshape(key, heads)
  turned = Transpose <perm = [0,2,1,3]> (split)
  pooled = ReduceMean <keepdims = 0> (caption, last)
  repeated = Expand(one, wide)
  masked = Sub(one, mask)
  bias = Unsqueeze(masked, last)
  looked_up = Gather(table, label)
  projected = MatMul(looked_up, w)
  mixed = Add(projected, timestep)
  modulation = MatMul(mixed, w)
  out = Add(sample, modulation)
}
"""


def test_what_is_settled_and_worked_on():
    found = settled_tensors(parsed(ANALYSED).graph, ("text", "label", "mask"))
    assert list(found) == ["caption", "key", "split", "turned", "pooled", "projected"]
    assert found["turned"].shape == (2, 2, 3, 2)


def test_a_large_broadcast_and_what_follows_it_stay():
    model = parsed("""
        <ir_version: 10, opset_import: ["" : 18]>
        net (float[1,4] text, float[64,4] sample) => (float[64,4] out)
        <float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, int64[2] wide = {64,4}>
        {
          caption = MatMul(text, w)
          repeated = Expand(caption, wide)
          doubled = Add(repeated, repeated)
          out = Add(doubled, sample)
        }
    """)
    assert list(settled_tensors(model.graph, ("text",))) == ["caption"]


TOY_HOISTED = [
    (("11", "00", "01", "11"), {"projected"}),
    (("11", "00", "01", "01"), set()),  # `down` is computed in one call only
]


@pytest.mark.parametrize(("rows", "expected"), TOY_HOISTED)
def test_two_calls_have_to_read_it(rows, expected):
    model, mask = toy_model(), toy_mask(*rows)
    graph = partition(model, mask.blocks, SPECS)
    before = [ApplyMask(mask, graph), ValueNumbering(), EliminateDead(), FoldTimestep(model, graph)]
    program, _ = Sequential(before)(unroll(graph, toy_schedule(len(rows)), GUIDANCE))
    result = HoistPrompt(model, graph)(program)
    assert result.modified == bool(expected)
    assert hoisted(result.program) == expected
    if not expected:
        assert result.program is program


def test_what_one_call_reads_is_computed_from_what_is_hoisted():
    """`down` runs once and its key stays there; `up` runs twice and reads the caption, which is hoisted."""
    text = """
        <ir_version: 10, opset_import: ["" : 18]>
        toy (float[2,1,2,2] sample, float[1] timestep, float[2,1,2,2] text) => (float[2,1,2,2] noise_pred)
        <float[2,2] w = {0.5, -0.25, 0.75, 1.0}>
        {
          caption = MatMul(text, w)
          key = MatMul(caption, w)
          hidden = Mul(sample, key)
          aged = Mul(hidden, timestep)
          noise_pred = Add(aged, caption)
        }
    """
    scopes = {"caption": "caption", "key": "down", "hidden": "down", "aged": "up", "noise_pred": "up"}
    model, mask = parsed(text, scopes), toy_mask("11", "01", "00")
    graph = partition(model, mask.blocks, SPECS)
    program, _ = Sequential([ApplyMask(mask, graph), ValueNumbering(), EliminateDead()])(
        unroll(graph, toy_schedule(3), GUIDANCE)
    )
    assert [run.engine for run in program.runs()] == ["glue", "down", "up", "up"]
    program = HoistPrompt(model, graph)(program).program
    assert [run.engine for run in program.runs()] == ["prologue", "down", "up", "up"]
    assert hoisted(program) == {"caption"}
    assert program.engine("down").inputs == ("sample", "caption")


@pytest.mark.parametrize("fuse", ["none", "auto"])
def test_keys_and_values_of_tiny_sd(fuse, tiny_sd):
    mask = mask_of(tiny_sd, "1" * 9, "000000111", "0" * 9, "000000011")
    program = compiled(tiny_sd, mask, fuse=fuse).program
    expected = 2 * cross_attentions(tiny_sd, set(mask.blocks[6:]))
    assert 0 < expected < 2 * cross_attentions(tiny_sd, set(mask.blocks))
    assert len(hoisted(program)) == expected
    first = program.instructions[0]
    assert first.call == PROLOGUE and first.inputs == ("encoder_hidden_states",)
    assert sum(run.call == PROLOGUE for run in program.runs()) == 1
    assert not any("encoder_hidden_states" in run.inputs for run in program.runs() if run.call == 3)


def test_a_mask_that_computes_all_once_hoists_nothing(tiny_sd):
    plan = compiled(tiny_sd, mask_of(tiny_sd, "1" * 9, "0" * 9))
    assert hoisted(plan.program) == set()
    assert not next(step for step in plan.passes if step.name == "hoist_prompt").modified


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_small_unet(rewritten, tmp_path):
    """Attention as exported reads keys and values with heads apart, as rewritten straight from the matrix
    product.
    """
    unet = small("sd15")
    if rewritten:
        apply(unet.onnx, default_rewrites("onnxruntime"))
    blocks = unet.model.blocks()
    mask = mask_of(unet, "1" * len(blocks), "1" * len(blocks))
    assert len(hoisted(compiled(unet, mask).program)) == 2 * cross_attentions(unet, set(blocks))
    assert_parity(unet, mask, options(), tmp_path / "m.dipgo", seed=1)


def test_a_small_dit(tmp_path):
    """All that its class decides depends on the timestep too."""
    dit = small("dit")
    blocks = dit.model.blocks()
    mask = mask_of(dit, "1" * len(blocks), "1" * len(blocks))
    assert hoisted(compiled(dit, mask).program) == set()
    assert_parity(dit, mask, options(), tmp_path / "m.dipgo", seed=1)


@pytest.fixture(scope="module")
def bundle(tiny_sd, tmp_path_factory) -> Path:
    mask = mask_of(tiny_sd, "1" * 9, "0" * 9, "000000111", "111111111")
    plan = compiled(tiny_sd, mask)
    assert hoisted(plan.program)
    path = tmp_path_factory.mktemp("hoisted") / "m.dipgo"
    write(path, plan, tiny_sd.onnx, mask)
    return path


def image(tiny_sd: Exported, plan: Plan, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    inputs = example_inputs(tiny_sd.model.inputs(tiny_sd.geometry), seed)
    conditions = {name: inputs[name].numpy() for name in plan.interface.conditions}
    return inputs[plan.interface.sample][:1].numpy(), conditions


def test_the_next_image_sees_its_own_prompt(bundle, tiny_sd):
    """In one session and in a fresh one, whole and call by call."""
    with Runtime.load(bundle, threads=1) as runtime:
        calls = range(len(runtime.plan.program.calls))
        used = runtime.session()
        for seed in (0, 1, 2):
            noise, conditions = image(tiny_sd, runtime.plan, seed)
            fresh, sample = runtime.session(), np.concatenate([noise, noise])
            np.testing.assert_array_equal(
                used.denoise(noise, conditions, guidance_scale=GUIDANCE_SCALE),
                fresh.denoise(noise, conditions, guidance_scale=GUIDANCE_SCALE),
            )
            fresh = runtime.session()
            for call in calls:
                np.testing.assert_array_equal(
                    used.run_call(call, sample, conditions), fresh.run_call(call, sample, conditions)
                )
        noise, _ = image(tiny_sd, runtime.plan, 0)
        _, other = image(tiny_sd, runtime.plan, 1)
        before, after = (used.denoise(noise, prompt, guidance_scale=9.0) for prompt in (conditions, other))
        assert np.abs(before - after).max() > 1e-3  # the prompt matters


def test_memory_modes_make_the_same_images(bundle, tiny_sd):
    """With ``low``, the prologue is opened anew for every image."""
    made = []
    for memory in MEMORY_MODES:
        with Runtime.load(bundle, threads=1, memory=memory) as runtime:
            assert runtime.plan.program.prologue_engines() == {"prologue"}
            images = [image(tiny_sd, runtime.plan, seed) for seed in (0, 1)]
            made.append([runtime.denoise(noise, **conditions) for noise, conditions in images])
    np.testing.assert_array_equal(made[1:], [made[0]] * (len(made) - 1))


def test_callbacks_and_reports_do_not_count_the_prologue(bundle, tiny_sd):
    with Runtime.load(bundle, threads=1) as runtime:
        plan, seen = runtime.plan, []
        noise, conditions = image(tiny_sd, plan, 0)
        runtime.session().denoise(noise, conditions, callback=seen.append)
    assert seen == [0, 2, 3]
    found = facts(plan)
    assert found["calls"] == {"total": 4, "run": 3}
    assert found["prologue"] == ["prologue"]
    assert [span["engines"] for span in found["timeline"]] == [["pattern0"], [], ["pattern1"], ["pattern0"]]
    lines = as_text(plan).splitlines()
    at = lines.index("timeline")
    assert lines[at + 1].split() == ["prologue", "once", "an", "image", "prologue"]
    assert lines[at + 2].split()[:2] == ["call", "0"]


def test_older_readers_find_the_prologue_in_call_0(bundle):
    document = json.loads((bundle / "plan.json").read_text())
    runs = [row for row in document["instructions"] if "run" in row]
    assert [(row["call"], row.get("prologue", False)) for row in runs] == [
        (0, True),
        (0, False),
        (2, False),
        (3, False),
    ]
