"""attention: heads are split inside the attention kernel, not around it.

The exporter splits heads by Reshape and Transpose, runs ``Attention`` and merges them by Transpose and
Reshape. ONNX Runtime's CPU kernel for ``Attention`` also writes out all scores: 2 x 8 x 4096 x 4096 floats,
1 GB, in the largest layer of Stable Diffusion 1.5 at 512x512. ``com.microsoft.MultiHeadAttention`` reads
(batch, tokens, hidden) as the projections wrote it, computes scores tile by tile where no mask is given, and
writes what the next projection reads.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from dipgo_compile.rewrites.base import Form, Rewrite, describe, dims, producer

HEADS_FIRST = [0, 2, 1, 3]  # (batch, tokens, heads, head size) <-> (batch, heads, tokens, head size)
UNSUPPORTED = ("is_causal", "softcap", "softmax_precision")  # attributes that MultiHeadAttention lacks


def _heads(op: Any, tokens: Any, shape: Any) -> Any:
    return op.Transpose(op.Reshape(tokens, shape), perm=HEADS_FIRST)


def _merge(op: Any, attended: Any, shape: Any) -> Any:
    return op.Reshape(op.Transpose(attended, perm=HEADS_FIRST), shape, _outputs=["merged"])


def _plain(op: Any, query: Any, key: Any, value: Any, q: Any, k: Any, v: Any, out: Any) -> Any:
    heads = (_heads(op, query, q), _heads(op, key, k), _heads(op, value, v))
    return _merge(op, op.Attention(*heads, _outputs=["attended"]), out)


def _masked(op: Any, query: Any, key: Any, value: Any, q: Any, k: Any, v: Any, mask: Any, out: Any) -> Any:
    heads = (_heads(op, query, q), _heads(op, key, k), _heads(op, value, v))
    return _merge(op, op.Attention(*heads, mask, _outputs=["attended"]), out)


def _is_valid(
    context: Any,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attended: ir.Value,
    merged: ir.Value,
    mask: ir.Value | None = None,
    **_: ir.Value,
) -> bool:
    node = producer(attended)
    scale = node.attributes.get("scale")
    if any(node.attributes[name].value for name in UNSUPPORTED if name in node.attributes):
        return False
    if scale is not None and scale.as_float() <= 0:  # MultiHeadAttention takes 0 for its default
        return False
    split = [shape for x in node.inputs[:3] if x is not None and (shape := dims(x))]
    flat = [shape for x in (query, key, value) if (shape := dims(x))]
    if len(split) != 3 or [(b, tokens, n * size) for b, n, tokens, size in split] != flat:
        return False
    batch, heads, tokens, _size = split[0]
    kv_heads, kv_tokens, v_size = split[1][1], split[1][2], split[2][3]
    if kv_heads != heads or dims(merged) != (batch, tokens, heads * v_size):
        return False
    return mask is None or _is_bias(mask, query, (batch, heads, tokens, kv_tokens))


def _is_bias(mask: ir.Value, query: ir.Value, scores: tuple[int, ...]) -> bool:
    """The kernel broadcasts over batch and heads alone, and adds: a boolean mask means something else."""
    shape = dims(mask)
    if shape is None or len(shape) != 4 or mask.dtype != query.dtype:
        return False
    return shape[2:] == scores[2:] and all(a in (1, b) for a, b in zip(shape[:2], scores[:2], strict=True))


def _replacement(
    op: Any,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attended: ir.Value,
    merged: ir.Value,
    mask: ir.Value | None = None,
    **_: ir.Value,
) -> ir.Value:
    node = producer(attended)
    scale = {"scale": node.attributes["scale"].as_float()} if "scale" in node.attributes else {}
    heads = (dims(attended) or ())[1]
    bias = () if mask is None else (None, None, mask)  # between them: bias of projections, padding mask
    fused = op.MultiHeadAttention(
        query, key, value, *bias, num_heads=heads, **scale, _domain="com.microsoft", _version=1
    )
    return describe(fused, node, merged)


class FuseAttention(Rewrite):
    """Attention between head reshapes becomes MultiHeadAttention, with or without an additive mask.

    Left alone: a mask that broadcasts over queries, which the kernel doesn't do; attention with caches, and
    with fewer heads of keys than of queries; heads reshaped elsewhere, or read by somebody else.
    """

    name = "attention"
    backends = frozenset({"onnxruntime"})
    forms = (
        Form(_plain, _replacement, _is_valid),
        Form(_masked, _replacement, _is_valid),
    )
