"""The halves of a guided batch share what no condition reaches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from reference import assert_parity, options, random_mask
from rewriting import assert_close, feeds_of, operators, parsed, run

from dipgo_compile.build import BuildOptions, Exported, build, check
from dipgo_compile.building.compiling import CompiledShape, compile_shape
from dipgo_compile.errors import InputError
from dipgo_compile.graphs import halves
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.halves import share_halves
from dipgo_compile.graphs.partition import SCOPES
from dipgo_compile.models import InputSpec
from dipgo_compile.models.source import example_inputs
from dipgo_compile.program import TensorSpec
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.runtime import Runtime
from dipgo_compile.verifier import verify_interface
from tests.families.tiny import make


@pytest.fixture
def always(monkeypatch):
    """Share whatever can be shared: tests are too small for it to pay."""
    monkeypatch.setattr(halves, "MACS_PER_ELEMENT", -1)


@pytest.fixture(scope="module", params=["sd15", "sd21", "pixart-alpha-512", "dit", "sdxl", "lcm"])
def denoiser(request) -> Exported:
    """For two guided images, as the exporter gave it. Not to be changed."""
    model = make(request.param)
    geometry = model.geometry(batch=4)
    return Exported(model, geometry, export(model, geometry))


def test_half_of_the_samples_gives_the_same_result(denoiser, always):
    inputs = denoiser.model.inputs(denoiser.geometry)
    feeds = {name: tensor.numpy() for name, tensor in example_inputs(inputs, seed=1).items()}
    sample = next(spec.name for spec in inputs if spec.role == "sample")
    half = feeds[sample][:2]
    feeds[sample] = np.concatenate([half, half])
    shared = denoiser.onnx.clone()
    assert share_halves(shared, inputs).modified
    assert_close(run(shared, {**feeds, sample: half}), run(denoiser.onnx, feeds))


def test_everything_new_is_named_typed_and_placed(denoiser, always):
    shared = denoiser.onnx.clone()
    share_halves(shared, denoiser.model.inputs(denoiser.geometry))
    old = {node.name: node for node in denoiser.onnx.graph}
    assert len({node.name for node in shared.graph}) == len(shared.graph)
    for node in shared.graph:
        assert node.name in old or SCOPES in node.metadata_props
        assert all(v.name and v.dtype and v.shape is not None and v.shape.is_static() for v in node.outputs)
    assert {value.name for value in shared.graph.inputs} == {v.name for v in denoiser.onnx.graph.inputs}
    assert shared.graph.outputs[0].shape == denoiser.onnx.graph.outputs[0].shape


@pytest.mark.parametrize(
    ("name", "attentions"), [("sd15", 1), ("sd21", 1), ("pixart-alpha-512", 1), ("dit", 0), ("sdxl", 0)]
)
def test_shared_is_what_lies_before_the_first_condition(name, attentions, always):
    model = make(name)
    geometry = model.geometry(batch=2)
    graph = export(model, geometry)
    share_halves(graph, model.inputs(geometry))
    kinds = [node.op_type for node in graph.graph if node.outputs[0].shape[0] == 1 and node.inputs[0]]
    assert kinds.count("Attention") == attentions


@pytest.mark.parametrize("name", ["sdxl", "dit", "pixart-alpha", "lcm"])
def test_too_little_in_common_changes_nothing(name):
    model = make(name)
    geometry = model.geometry(batch=2)
    graph = export(model, geometry)
    before = operators(graph)
    assert not share_halves(graph, model.inputs(geometry)).modified
    assert operators(graph) == before
    assert graph.graph.inputs[0].shape[0] == 2


INPUTS = (
    InputSpec("x", "sample", TensorSpec("float32", (4, 3, 6))),
    InputSpec("t", "timestep", TensorSpec("float32", (1,))),
    InputSpec("c", "condition", TensorSpec("float32", (4, 3, 6))),
)
ROWS = ", ".join(str(i) for i in range(4))


def small(body: str, weights: str = "") -> ir.Model:
    """``body`` computes ``y`` from ``x`` and ``t``; the output adds the condition to it."""
    return parsed(
        f"""
        denoiser (float[4,3,6] x, float[1] t, float[4,3,6] c) => (float[4,3,6] z)
        <int64[3] as_is = {{4,3,6}}, int64[3] copied = {{0,3,6}}, int64[2] flat = {{12,6}} {weights}>
        {{
          {body}
          z = Add(y, c)
        }}
        """
    )


SHARED = {
    "elementwise": "y = Sigmoid(x)",
    "the timestep's row": "a = Mul(x, t) y = Tanh(a)",
    "layer norm": "y = LayerNormalization<axis=-1>(x, scale)",
    "softmax": "y = Softmax<axis=2>(x)",
    "a product with weights": "y = MatMul(x, square)",
    "a product of its own": "a = Transpose<perm=[0,2,1]>(x) b = MatMul(x, a) y = MatMul(b, x)",
    "attention": "y = Attention<q_num_heads=2, kv_num_heads=2>(x, x, x)",
    "reshapes": "a = Reshape(x, as_is) b = Reshape(a, copied) y = Sigmoid(b)",
    "a row for each sample": "r = Expand(t, each) a = Sin(r) y = Add(x, a)",
}
SQUARE = ",".join(str(i * 7 % 5 - 2) for i in range(36))
WEIGHTS = f", float[6] scale = {{1,2,3,4,5,6}}, int64[3] each = {{4,1,1}}, float[6,6] square = {{{SQUARE}}}"


@pytest.mark.parametrize("body", SHARED.values(), ids=SHARED)
def test_what_treats_samples_alone_is_shared(body, always):
    whole = small(body, WEIGHTS)
    shared = whole.clone()
    assert share_halves(shared, INPUTS).modified
    (repeat,) = (node for node in shared.graph if node.op_type == "Concat")
    assert repeat.outputs[0] in shared.graph.outputs[0].producer().inputs  # right before the condition
    feeds = feeds_of(whole)
    feeds["x"][2:] = feeds["x"][:2]
    assert_close(run(shared, {**feeds, "x": feeds["x"][:2]}), run(whole, feeds))


APART = {
    "weights for each sample": ("y = Add(x, rows)", f", float[4,1,1] rows = {{{ROWS}}}"),
    "samples exchanged": ("y = Gather<axis=0>(x, order)", ", int64[4] order = {3,2,1,0}"),
    "softmax over samples": ("y = Softmax<axis=0>(x)", ""),
    "samples in another axis": ("a = Transpose<perm=[1,0,2]>(x) y = Transpose<perm=[1,0,2]>(a)", ""),
    "samples and rows in one axis": ("a = Reshape(x, flat) y = Reshape(a, as_is)", ""),
    "an operator of another domain": ("y = com.microsoft.QuickGelu(x)", ""),
    "a part along the batch": ("a, b = Split<axis=0, num_outputs=2>(x) y = Concat<axis=0>(b, a)", ""),
}


@pytest.mark.parametrize(("body", "weights"), APART.values(), ids=APART)
def test_all_else_computes_both_halves(body, weights, always):
    whole = small(body, weights)
    shared = whole.clone()
    assert share_halves(shared, INPUTS).modified  # of the sample, one half is read all the same
    first = next(node for node in shared.graph)
    assert (first.op_type, [value.name for value in first.inputs]) == ("Concat", ["x", "x"])
    assert operators(shared) == operators(whole) + operators(parsed_concat())
    feeds = feeds_of(whole)
    feeds["x"][2:] = feeds["x"][:2]
    assert_close(run(shared, {**feeds, "x": feeds["x"][:2]}), run(whole, feeds))


def parsed_concat() -> ir.Model:
    return parsed("one (float[1] x) => (float[2] y) { y = Concat<axis=0>(x, x) }")


UNTOUCHED = {
    "no condition is read": "a = Identity(c) y = Sigmoid(x) z = Sigmoid(y)",
    "control flow": """
      no = Cast<to=9>(t)
      one = Squeeze(no)
      y = If(one) <then_branch = a () => (float[4,3,6] p) { p = Sin(x) },
                   else_branch = b () => (float[4,3,6] q) { q = Cos(x) }>
      z = Add(y, c)
    """,
}


@pytest.mark.parametrize("body", UNTOUCHED.values(), ids=UNTOUCHED)
def test_a_graph_is_left_alone(body, always):
    graph = parsed(f"denoiser (float[4,3,6] x, float[1] t, float[4,3,6] c) => (float[4,3,6] z) {{ {body} }}")
    before = operators(graph)
    assert not share_halves(graph, INPUTS).modified
    assert operators(graph) == before


@pytest.mark.parametrize("granularity", ["block", "layer"])
@pytest.mark.parametrize("name", ["sd15", "pixart-alpha-512"])
@pytest.mark.parametrize("seed", range(2))
def test_random_masks(name, granularity, seed, always, tmp_path):
    """Two images, against the SuperNet: whichever blocks are reused, and wherever the condition is read."""
    chosen = options(images=2)
    exported = Exported.of(make(name), chosen)
    assert share_halves(exported.onnx, exported.model.inputs(exported.geometry)).modified
    apply(exported.onnx, default_rewrites("onnxruntime"))
    mask = random_mask(exported.model, granularity, "ddim", "output", seed)
    assert_parity(exported, mask, chosen, tmp_path / "m.dipgo", seed)


def compiled(chosen: BuildOptions, reuse: str = "output", name: str = "sd15") -> CompiledShape:
    exported = Exported.of(make(name), chosen)
    mask = random_mask(exported.model, "block", "ddim", reuse, seed=0)
    return compile_shape(exported, mask, check(mask, exported.model), chosen, None)


def batch_of_samples(shape: CompiledShape) -> int:
    program = shape.plan.program
    return next(program.specs[call.sample].shape[0] for call in program.calls if call.sample)


def test_a_build_shares_halves_and_says_so(always):
    shape = compiled(options(images=2))
    report = next(step for step in shape.plan.passes if step.name == halves.NAME)
    assert report.modified and "compute half of the guided batch" in report.summary
    assert (batch_of_samples(shape), shape.plan.samples) == (2, 4)
    verify_interface(shape.plan.program, shape.plan.interface)


@pytest.mark.parametrize(
    ("chosen", "reuse", "name", "samples"),
    [
        (options(disabled=(halves.NAME,)), "output", "sd15", 2),
        (options(split_guidance=True), "output", "sd15", 1),
        (options(guidance=False), "output", "sd15", 1),
        (options(), "residual", "pixart-alpha-512", 2),
    ],
    ids=["left out", "split guidance", "no guidance", "residual reuse"],
)
def test_a_build_that_shares_no_halves(chosen, reuse, name, samples, always):
    shape = compiled(chosen, reuse, name)
    assert halves.NAME not in {step.name for step in shape.plan.passes}
    assert batch_of_samples(shape) == samples


def test_a_host_sends_one_sample_twice(always, tmp_path):
    model, path = make("sd15"), tmp_path / "m.dipgo"
    build(
        random_mask(model, "block", "ddim", "output", seed=0),
        model=model,
        output=path,
        options=options(images=2),
    )
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((2, 4, 8, 8), np.float32)
    conditions = {"encoder_hidden_states": generator.standard_normal((4, 3, 8), np.float32)}
    with Runtime.load(path, threads=1) as runtime:
        session = runtime.session()
        assert session.run_call(0, np.concatenate([latents, latents]), conditions).shape == (4, 4, 8, 8)
        with pytest.raises(InputError, match="the halves of sample differ") as error:
            session.run_call(0, np.concatenate([latents, latents + 1]), conditions)
        assert "--disable-pass share_halves" in str(error.value)
        with pytest.raises(InputError, match=r"shape \(2, .* compiled for \(4, "):
            session.run_call(0, latents, conditions)
