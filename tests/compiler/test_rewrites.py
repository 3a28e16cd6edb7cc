"""Rewrites of whole denoisers: the same results, and the same blocks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from reference import make_mask, options
from rewriting import assert_close, operators, parsed, rewrite_named, run
from toy_denoiser import GUIDANCE, toy_graph, toy_mask, toy_model, toy_schedule

from dipgo_compile.build import Exported, build
from dipgo_compile.errors import CompileError
from dipgo_compile.graphs.engines import weight_bytes
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.partition import SCOPES, node_scopes, partition
from dipgo_compile.models.source import example_inputs
from dipgo_compile.pipeline import compile_program
from dipgo_compile.rewrites import NAMES, apply, default_rewrites
from tests.families.tiny import make


@pytest.fixture(scope="module", params=["unet", "dit", "pixart-alpha-512", "tiny-sd"])
def denoiser(request) -> Exported:
    """A denoiser as the exporter gave it. Not to be changed."""
    if request.param == "tiny-sd":
        return request.getfixturevalue("plain_tiny_sd")
    model = make({"unet": "sd15"}.get(request.param, request.param))
    geometry = model.geometry(batch=2)
    return Exported(model, geometry, export(model, geometry))


REPLACED = {"attention": "Attention", "split_linear": "Split", "group_norm": "GroupNormalization"}


@pytest.mark.parametrize("name", REPLACED)
def test_a_rewrite_replaces_every_match_and_keeps_the_result(name, denoiser):
    model, exported = denoiser.model, denoiser.onnx
    inputs = example_inputs(model.inputs(denoiser.geometry), seed=1)
    feeds = {key: tensor.numpy() for key, tensor in inputs.items()}
    rewritten = exported.clone()
    count = rewrite_named(name, rewritten)
    matches = operators(exported)[REPLACED[name]]
    if "Transformer" in model.class_name and name == "split_linear":
        assert matches > 0 == count  # splits of the modulation, in six
    else:
        assert count == matches
        assert REPLACED[name] not in operators(rewritten)
    assert_close(run(rewritten, feeds), run(exported, feeds))


def test_modulated_norms_of_a_transformer(denoiser):
    """Two of every block, and the last."""
    expected = 7 if "Transformer" in denoiser.model.class_name else 0
    inputs, rewritten = denoiser.model.inputs(denoiser.geometry), denoiser.onnx.clone()
    feeds = {key: tensor.numpy() for key, tensor in example_inputs(inputs, seed=1).items()}
    before = operators(rewritten)
    assert rewrite_named("modulated_norm", rewritten) == expected
    assert before["Mul"] - operators(rewritten)["Mul"] == expected
    assert_close(run(rewritten, feeds), run(denoiser.onnx, feeds))


def test_mask_floor_of_a_transformer(denoiser):
    """One, which all blocks of PixArt share."""
    expected = 1 if "PixArt" in denoiser.model.class_name else 0
    inputs, rewritten = denoiser.model.inputs(denoiser.geometry), denoiser.onnx.clone()
    feeds = {key: tensor.numpy() for key, tensor in example_inputs(inputs, seed=1).items()}
    if expected:
        feeds["encoder_attention_mask"][:, 1::2] = 0
    rewrite_named("attention", rewritten)
    assert rewrite_named("mask_floor", rewritten) == expected
    assert_close(run(rewritten, feeds), run(denoiser.onnx, feeds))


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_blocks_are_cut_as_before(granularity, denoiser):
    """Same blocks, which read and write the same tensors. Without the two rewrites that make new tensors for
    other blocks to read: ``mask_floor`` a mask, ``modulated_norm`` the rows after a transformer's last block.
    """
    model, rewritten = denoiser.model, denoiser.onnx.clone()
    specs = model.inputs(denoiser.geometry)
    apply(rewritten, default_rewrites("onnxruntime"), ["mask_floor", "modulated_norm"])
    before, after = (
        partition(graph, model.blocks(granularity), specs) for graph in (denoiser.onnx, rewritten)
    )
    cut = [[(b.name, b.scope, b.inputs, b.outputs) for b in graph.blocks] for graph in (before, after)]
    assert cut[0] == cut[1]
    assert before.tensors == after.tensors


def test_a_block_may_be_a_single_norm(denoiser):
    """All rewrites, which would otherwise merge the layer norms of a transformer with what follows them."""
    model, rewritten = denoiser.model, denoiser.onnx.clone()
    norms = ("LayerNormalization", "GroupNormalization")
    blocks = [node_scopes(node)[-2] for node in rewritten.graph if node.op_type in norms]
    apply(rewritten, default_rewrites("onnxruntime"), blocks=blocks)
    cut = partition(rewritten, blocks, model.inputs(denoiser.geometry))
    assert {*blocks} <= {block.scope for block in cut.blocks}


def test_everything_new_is_named_and_typed(denoiser):
    rewritten = denoiser.onnx.clone()
    apply(rewritten, default_rewrites("onnxruntime"))
    old = {node.name for node in denoiser.onnx.graph}
    assert len({node.name for node in rewritten.graph}) == len(rewritten.graph)
    for node in rewritten.graph:
        assert node.name in old or SCOPES in node.metadata_props
        assert all(v.name and v.dtype and v.shape is not None and v.shape.is_static() for v in node.outputs)


def test_halves_of_a_weight_are_views_of_it(plain_tiny_sd):
    exported, rewritten = plain_tiny_sd.onnx, plain_tiny_sd.onnx.clone()
    rewrite_named("split_linear", rewritten)
    assert weight_bytes(rewritten) <= weight_bytes(exported)
    whole, parts = exported.graph.initializers, rewritten.graph.initializers
    halves = [name for name in parts if name not in whole]
    assert len(halves) == 4 * operators(exported)["Split"]
    for name in halves:
        original = whole[name.rpartition(".")[0]].const_value
        assert np.shares_memory(parts[name].const_value.numpy(), original.numpy())


@pytest.fixture(scope="module")
def mask(tiny_sd):
    return make_mask(tiny_sd.model, tiny_sd.model.blocks(), "ddim", 2, lambda calls: [[True] * 9] * calls)


def test_a_build_reports_its_rewrites_and_can_leave_one_out(mask, plain_tiny_sd, tmp_path):
    without = options(disabled=("attention",))
    report = build(mask, output=tmp_path / "m.dipgo", exported=plain_tiny_sd, options=without)
    names = ["share_halves", *(name for name in NAMES if name != "attention")]
    assert [step.name for step in report.plan.passes[: len(names)]] == names
    modified = {step.name for step in report.plan.passes if step.modified and "replaced" in step.summary}
    assert modified == {"split_linear", "group_norm"}  # no layer norm is modulated, and tokens are few
    engine = operators(ir.load(tmp_path / "m.dipgo" / "pattern0.onnx"))
    assert engine["Attention"] and not engine["MultiHeadAttention"] and not engine["GroupNormalization"]


def test_an_unknown_name_lists_passes_and_rewrites():
    model, mask = toy_model(), toy_mask("11", "10")
    schedule = toy_schedule(mask.calls)
    with pytest.raises(CompileError, match="no_such_pass") as error:
        compile_program(model, toy_graph(model), mask, schedule, GUIDANCE, disabled=["no_such_pass"])
    assert {"fuse", *NAMES} <= set(error.value.available)


def test_a_backend_gets_what_pays_there():
    assert [rewrite.name for rewrite in default_rewrites("openvino")] == ["upsampled_conv"]


def test_nothing_to_replace_is_reported_so():
    model = parsed("f (float[2] x) => (float[2] y) { y = Neg(x) }")
    reports = apply(model, default_rewrites("onnxruntime"))
    assert [(report.name, report.modified) for report in reports] == [(name, False) for name in NAMES]
