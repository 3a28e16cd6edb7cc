"""Rewrites of small graphs: every form that they replace, and near misses left alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rewriting import assert_close, feeds_of, operators, parsed, rewrite_named, run

from dipgo_compile.graphs.partition import SCOPES, node_scopes
from dipgo_compile.macs.graph import macs_by_kind, node_macs
from dipgo_compile.rewrites import default_rewrites


def assert_replaced(name: str, model: ir.Model, by: dict[str, int]) -> None:
    feeds = feeds_of(model)
    expected = run(model, feeds)
    assert rewrite_named(name, model) == 1
    assert operators(model) == by
    assert_close(run(model, feeds), expected)


def assert_left_alone(name: str, model: ir.Model) -> None:
    before = operators(model)
    assert rewrite_named(name, model) == 0
    assert operators(model) == before


def attention(mask: str = "", attributes: str = "", perm: str = "0,2,1,3", output: str = "y") -> ir.Model:
    """Two heads of four, five queries on three keys; values of size six."""
    return parsed(
        f"""
        attend (float[2,5,8] q, float[2,3,8] k, float[2,3,12] v {f", float[{mask}] m" if mask else ""})
            => (float[2,5,12] {output})
        <int64[4] s = {{0,0,2,4}}, int64[4] sv = {{0,0,2,6}}, int64[3] so = {{0,0,12}}>
        {{
          q4 = Reshape(q, s)
          k4 = Reshape(k, s)
          v4 = Reshape(v, sv)
          qt = Transpose<perm=[0,2,1,3]>(q4)
          kt = Transpose<perm=[0,2,1,3]>(k4)
          vt = Transpose<perm=[0,2,1,3]>(v4)
          a = Attention{attributes}(qt, kt, vt {", m" if mask else ""})
          at = Transpose<perm=[{perm}]>(a)
          y = Reshape(at, so)
        }}
        """
    )


@pytest.mark.parametrize(
    "model",
    [
        attention(),
        attention(attributes="<scale=0.3>"),
        attention(mask="2,2,5,3"),
        attention(mask="1,2,5,3", attributes="<scale=2.0>"),
        attention(mask="2,1,5,3"),
    ],
    ids=["plain", "scale", "mask", "mask for all samples", "mask for all heads"],
)
def test_attention_of_every_valid_form(model):
    assert_replaced("attention", model, {"MultiHeadAttention": 1})


@pytest.mark.parametrize(
    "model",
    [
        attention(attributes="<is_causal=1>"),
        attention(attributes="<softcap=5.0>"),
        attention(attributes="<scale=0.0>"),
        attention(mask="2,2,1,3"),
        attention(mask="5,3"),
        attention(perm="0,2,3,1"),
        attention(output="y, float[2,2,5,4] qt"),
    ],
    ids=[
        "causal",
        "softcap",
        "scale of 0",
        "mask for all queries",
        "flat mask",
        "another transpose",
        "heads read elsewhere",
    ],
)
def test_attention_that_the_kernel_lacks_is_left_alone(model):
    assert_left_alone("attention", model)


def linear(
    split: str = "axis=-1, num_outputs=2", sizes: str = "", output: str = "", extra: str = ""
) -> ir.Model:
    return parsed(
        f"""
        project (float[2,3,4] x) => (float[2,3,6] first, float[2,3,6] second {output})
        <float[4,12] w, float[12] b {", int64[2] n = {4, 8}" if sizes else ""}>
        {{
          product = MatMul(x, w)
          sum = Add(product, b)
          {extra}
          first, second = Split<{split}>(sum {sizes})
        }}
        """.replace(
            "float[4,12] w", f"float[4,12] w = {{{','.join(str(i % 7) for i in range(48))}}}"
        ).replace("float[12] b", f"float[12] b = {{{','.join(str(i) for i in range(12))}}}")
    )


def test_split_linear():
    assert_replaced("split_linear", linear(), {"MatMul": 2, "Add": 2})


@pytest.mark.parametrize(
    "model",
    [
        linear(split="axis=-1", sizes=", n"),
        linear(split="axis=0, num_outputs=2"),
        linear(output=", float[2,3,12] sum"),
        linear(output=", float[12,4] wt", extra="wt = Transpose(w)"),
    ],
    ids=["unequal parts", "another axis", "sum read elsewhere", "weight read elsewhere"],
)
def test_splits_of_another_kind_are_left_alone(model):
    assert_left_alone("split_linear", model)


def modulated(
    norm: str = "float[4] g = {1,1,1,1}",
    axis: int = -1,
    bias: str = "",
    rows: str = "2,1,4",
    shape: str = "2,3,4",
    output: str = "",
) -> ir.Model:
    return parsed(
        f"""
        norm (float[{shape}] x, float[{rows}] scale, float[{rows}] shift) => (float[{shape}] y {output})
        <{norm}, float[4] b = {{0,0,{bias or 0},0}}>
        {{
          normalized = LayerNormalization<axis={axis}, epsilon=0.01>(x, g {", b" if bias else ""})
          product = Mul(scale, normalized)
          y = Add(product, shift)
        }}
        """
    )


@pytest.mark.parametrize(
    "model",
    [
        modulated(),
        modulated(bias="0"),
        modulated(axis=2),
        modulated(rows="1,1,4", shape="1,3,4"),
        modulated(rows="2,1,1,4", shape="2,5,3,4", axis=3),
    ],
    ids=["plain", "a bias of zeros", "axis 2", "one sample", "more axes"],
)
def test_modulated_norm(model):
    assert_replaced("modulated_norm", model, {"Reshape": 2, "Scan": 1})


@pytest.mark.parametrize(
    "model",
    [
        modulated(rows="1,1,4"),
        modulated(rows="2,3,4"),
        modulated(rows="2,1,4", shape="1,3,4", output=", float[1,3,4] product"),
        modulated(rows="4"),
        modulated(rows="2,4", shape="2,4"),
        modulated(norm="float[4] g = {1,1,2,1}"),
        modulated(bias="3"),
        modulated(norm="float[3,4] g = {1,1,1,1,1,1,1,1,1,1,1,1}", axis=1),
        modulated(output=", float[2,3,4] normalized"),
    ],
    ids=[
        "a row for all samples",
        "a row for each token",
        "rows that repeat a sample",
        "a vector",
        "a row alone",
        "a scale of its own",
        "a bias of its own",
        "another axis",
        "read elsewhere",
    ],
)
def test_other_modulation_is_left_alone(model):
    assert_left_alone("modulated_norm", model)


def group_norm(scale: str = "float[6] s = {1,2,3,4,5,6}", inputs: str = "") -> ir.Model:
    return parsed(
        f"""
        norm (float[2,6,4,4] x {inputs}) => (float[2,6,4,4] y)
        <{scale}{"," if scale else ""} float[6] b = {{1,2,3,4,5,6}}>
        {{ y = GroupNormalization<num_groups=3, epsilon=0.01>(x, s, b) }}
        """
    )


def test_group_norm_is_as_exact_far_from_zero():
    """Where E[x^2] - E[x]^2 cancels."""
    model = group_norm()
    x = feeds_of(model)["x"] + 100
    rows = x.astype(np.float64).reshape(2, 3, -1)
    unit = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 0.01)
    affine = np.arange(1, 7).reshape(6, 1, 1)
    assert rewrite_named("group_norm", model) == 1
    (y,) = run(model, {"x": x})
    np.testing.assert_allclose(y, unit.reshape(x.shape) * affine + affine, rtol=0, atol=3e-4)


def test_group_norm_with_a_computed_scale_is_left_alone():
    model = group_norm(scale="", inputs=", float[6] s")
    assert rewrite_named("group_norm", model) == 0
    assert operators(model) == {"GroupNormalization": 1}


def numbers(*shape: int) -> str:
    return "{" + ",".join(str(index % 7 - 3) for index in range(np.prod(shape))) + "}"


def masked(opset: int = 23) -> ir.Model:
    """Two attentions that share a mask, which is repeated for the five queries of each."""
    model = parsed(
        """
        attend (float[2,5,8] q, float[2,3,8] k, float[2,1,1,3] narrow) => (float[2,5,8] z)
        <int64[4] wide = {2,1,5,3}>
        {
          mask = Expand(narrow, wide)
          y = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, k, , , mask)
          z = com.microsoft.MultiHeadAttention<num_heads=2>(y, k, k, , , mask)
        }
        """
    )
    model.opset_imports[""] = opset
    return model


@pytest.mark.parametrize(
    "row",
    [
        [-10000, 0, 0],
        [-80, -80, -80],
        [-80, -80.5, -79.5],
        [-np.inf, 0, -np.inf],
        [2, 0, -0.3],
    ],
    ids=["a key", "all keys alike", "all keys", "infinite", "a preference"],
)
def test_mask_floor(row):
    model = masked()
    feeds = feeds_of(model) | {"narrow": np.array([row, [0, -10000, 0]], np.float32).reshape(2, 1, 1, 3)}
    expected = run(model, feeds)
    assert rewrite_named("mask_floor", model) == 1
    assert_close(run(model, feeds), expected)
    made = [node.op_type for node in model.graph if node_scopes(node)[-1] == "layer.mask"]
    assert made == ["Expand", "ReduceMax", "Sub", "Max"]  # once, and in no block that reads it


def test_mask_floor_needs_an_opset():
    assert_left_alone("mask_floor", masked(opset=17))


def test_a_mask_that_the_caller_gives_is_left_alone():
    model = masked()
    made = model.graph[0].outputs[0]
    model.graph.inputs.append(ir.Value(name="given", type=made.type, shape=made.shape))
    ir.convenience.replace_all_uses_with(made, model.graph.inputs[-1])
    assert_left_alone("mask_floor", model)


def feed_forward(
    rows: str = "2,768", gated: bool = False, bias: str = "float[3] d", output: str = "", extra: str = ""
) -> ir.Model:
    """Three channels, five hidden ones."""
    gate = (
        "g = MatMul(x, v) gb = Add(g, e) act = Gelu(gb) hidden = Mul(act, up)"
        if gated
        else "hidden = Gelu(up)"
    )
    weights = {"float[3,5] w": (3, 5), "float[5] b": (5,), "float[5,3] u": (5, 3), bias: (3,)}
    if gated:
        weights |= {"float[3,5] v": (3, 5), "float[5] e": (5,)}
    return parsed(
        f"""
        feed_forward (float[{rows},3] x) => (float[{rows},3] y {output})
        <{", ".join(f"{name} = {numbers(*shape)}" for name, shape in weights.items())}>
        {{
          p = MatMul(x, w)
          up = Add(b, p)
          {gate}
          q = MatMul(hidden, u)
          {extra}
          y = Add(q, d)
        }}
        """
    )


@pytest.mark.parametrize("gated", [False, True], ids=["gelu", "geglu"])
@pytest.mark.parametrize(("rows", "tiles"), [("2,768", 3), ("1024", 2), ("3,2,400", 5), ("4,512", 4)])
def test_tile_rows(gated, rows, tiles):
    model = feed_forward(rows, gated)
    feeds, macs = feeds_of(model), macs_by_kind(model.graph)
    expected = run(model, feeds)
    assert rewrite_named("tile_rows", model) == 1
    assert operators(model) == ({"Scan": 1} if rows == "4,512" else {"Reshape": 2, "Scan": 1})
    (scan,) = (node for node in model.graph if node.op_type == "Scan")
    assert scan.inputs[0].shape[0] == tiles
    assert macs_by_kind(ir.from_proto(ir.to_proto(model)).graph) == macs
    assert_close(run(model, feeds), expected)


@pytest.mark.parametrize(
    "model",
    [
        feed_forward("2,256"),
        feed_forward("1031"),
        feed_forward(output=", float[2,768,5] hidden"),
        feed_forward(bias="float[1,1,3] d"),
        feed_forward(extra="r = Neg(q)", output=", float[2,768,3] r"),
    ],
    ids=[
        "few rows",
        "a prime number of rows",
        "hidden read elsewhere",
        "a bias of rank 3",
        "product read elsewhere",
    ],
)
def test_feed_forward_networks_of_another_kind_are_left_alone(model):
    assert_left_alone("tile_rows", model)


def enlarging(
    resize: str = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
    conv: str = "pads=[1,1,1,1]",
    size: int = 6,
    width: int = 5,
    scale: int = 2,
    kernels: str = "float[2,3,3,3] w",
    bias: str = ", b",
    output: str = "",
    inputs: str = "",
) -> ir.Model:
    """Three channels, an oblong image, two of them; two channels as a result."""
    large = f"float[2,3,{scale * size},{scale * width}]"
    weights = "" if inputs else f"{kernels} = {numbers(2, 3, 3, 3)}, "
    return parsed(
        f"""
        enlarge (float[2,3,{size},{width}] x {inputs}) => (float[2,2,h,v] y {output.replace("LARGE", large)})
        <{weights} float[2] b = {{0.5,-2}}, float[4] s = {{1,1,{scale},{scale}}}>
        {{
          u = Resize<{resize}>(x, , s)
          y = Conv<{conv}>(u, w {bias})
        }}
        """
    )


@pytest.mark.parametrize(
    "model",
    [
        enlarging(),
        enlarging(bias=""),
        enlarging(size=7, conv='pads=[1,1,1,1], kernel_shape=[3,3], group=1, auto_pad="NOTSET"'),
        enlarging(resize="antialias=0"),
        enlarging(resize='coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil"'),
    ],
    ids=["as exported", "no bias", "an odd height", "nearest by default", "rounded up"],
)
def test_upsampled_conv(model):
    feeds = feeds_of(model)
    expected = run(model, feeds)
    before = sum(node_macs(model.graph).values())
    assert rewrite_named("upsampled_conv", model) == 1
    assert operators(model) == {"Conv": 4, "Concat": 3, "Reshape": 7}
    assert sum(node_macs(model.graph).values()) * 9 == before * 4
    assert_close(run(model, feeds), expected)


@pytest.mark.parametrize(
    "model",
    [
        enlarging(resize='mode="linear"'),
        enlarging(resize='coordinate_transformation_mode="align_corners"'),
        enlarging(scale=3),
        enlarging(scale=1),
        enlarging(conv="pads=[0,0,0,0]"),
        enlarging(conv="pads=[1,1,1,1], strides=[2,2]"),
        enlarging(conv="pads=[2,2,2,2], dilations=[2,2]"),
        enlarging(output=", LARGE u"),
        enlarging(inputs=", float[2,3,3,3] w"),
        enlarging(size=1, width=1),
    ],
    ids=[
        "interpolated",
        "other pixels",
        "three times",
        "not at all",
        "no padding",
        "every second pixel",
        "dilated",
        "enlarged image read elsewhere",
        "kernels that are computed",
        "more weights than pixels",
    ],
)
def test_other_convolutions_of_enlarged_images_are_left_alone(model):
    assert_left_alone("upsampled_conv", model)


@pytest.mark.parametrize(
    ("name", "model", "part"),
    [
        ("attention", attention, "qt"),
        ("split_linear", linear, "product"),
        ("modulated_norm", modulated, "normalized"),
        ("tile_rows", feed_forward, "p"),
        ("upsampled_conv", enlarging, "u"),
    ],
)
def test_what_is_cut_apart_is_left_alone(name, model, part):
    """A block of a mask may be a single linear layer."""
    for block, count in ((f"layer.{part}", 0), ("layer", 1), ("another", 1)):
        assert rewrite_named(name, model(), [block]) == count


def test_a_node_without_scopes_is_where_the_others_are():
    model = linear()
    del model.graph[-1].metadata_props[SCOPES]  # the exporter forgets them for Split
    assert rewrite_named("split_linear", model, ["layer"]) == 1


def test_rewrites_for_a_cpu_are_not_for_a_gpu():
    names = [
        {rewrite.name for rewrite in default_rewrites("onnxruntime", provider=p)} for p in ("cpu", "cuda")
    ]
    assert names[0] - names[1] == {"mask_floor", "modulated_norm", "tile_rows", "upsampled_conv"}
