"""masked_keys: what a mask adds to the scores of a key is one more channel of that key.

ONNX Runtime's kernel computes scores tile by tile only where no mask is given. Padding of a prompt is masked
for all queries alike, so it can be multiplied in: every head gets another channel, in which queries hold 1
and keys what the mask adds, over the scale. A column of zeros in the projection of the queries and a 1 in its
bias make theirs; keys are made of the prompt, once an image.

A mask adds -10000 to the scores it leaves out. ``exp`` makes that a denormal number, and processors multiply
by those many times slower. Here it is ``LOWEST`` at least, which a softmax in float32 doesn't notice either.

PixArt-alpha at 512x512, attention of 2 x 1024 queries to 120 keys of which half are masked, 2 cores: 25 ms
with the mask, 17 with nothing denormal, 10 like this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from dipgo_compile.program import Array
from dipgo_compile.rewrites.base import Form, Rewrite, constant, describe, dims, producer, weight

LOWEST = -64.0  # exp: 1.6e-28, and no denormal number beside scores that are less than 23 larger
DOMAIN = "com.microsoft"
KNOWN = {"num_heads", "scale"}  # attributes


def _attend(op: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
    return op.MultiHeadAttention(query, key, value, None, None, mask, _domain=DOMAIN, _outputs=["attended"])


def _biased(op: Any, x: Any, matrix: Any, bias: Any, key: Any, value: Any, mask: Any) -> Any:
    query = op.Add(op.MatMul(x, matrix, _outputs=["product"]), bias)
    return _attend(op, query, key, value, mask)


def _unbiased(op: Any, x: Any, matrix: Any, key: Any, value: Any, mask: Any) -> Any:
    return _attend(op, op.MatMul(x, matrix, _outputs=["product"]), key, value, mask)


def _is_valid(
    context: Any,
    matrix: ir.Value,
    product: ir.Value,
    key: ir.Value,
    mask: ir.Value,
    attended: ir.Value,
    bias: ir.Value | None = None,
    **_: ir.Value,
) -> bool:
    queries, keys, narrow = dims(product) or (), dims(key) or (), _one_row(mask)
    projection = (matrix,) if bias is None else (matrix, bias)
    return (
        product.dtype == ir.DataType.FLOAT
        and all(weight(value) is not None and len(value.uses()) == 1 for value in projection)
        and len(dims(matrix) or ()) == 2
        and (bias is None or dims(bias) == queries[-1:])
        and len(keys) == 3
        and narrow is not None
        and dims(narrow) in [(batch, 1, 1, keys[1]) for batch in (1, keys[0])]
        and set(producer(attended).attributes) <= KNOWN
    )


def _one_row(mask: ir.Value) -> ir.Value | None:
    """The mask before it was repeated for every query, if it was."""
    maker = mask.producer()
    return maker.inputs[0] if maker is not None and maker.op_type == "Expand" else None


def _replacement(
    op: Any,
    x: ir.Value,
    matrix: ir.Value,
    product: ir.Value,
    key: ir.Value,
    value: ir.Value,
    mask: ir.Value,
    attended: ir.Value,
    bias: ir.Value | None = None,
    **_: ir.Value,
) -> ir.Value:
    origin, narrow = producer(attended), _one_row(mask)
    assert narrow is not None
    heads = origin.attributes.get_int("num_heads")
    batch, tokens, width = dims(key) or ()
    size = width // heads
    scale = origin.attributes.get_float("scale", 0.0) or size**-0.5

    offsets = np.zeros(width, np.float32) if bias is None else _data(bias)
    columns = _with_channel(op, origin, matrix, _data(matrix), heads, 0.0)
    ones = _with_channel(op, origin, bias or matrix, offsets, heads, 1.0, "bias")
    wider = (*(dims(product) or ())[:-1], heads * (size + 1))
    projected = describe(op.MatMul(x, columns), producer(product), product, wider)
    query = describe(op.Add(projected, ones), producer(product), product, wider)

    def number(content: float) -> ir.Value:
        return constant(op, origin, f"masked_keys.{content}", np.array(content, dtype=np.float32))

    def shaped(kind: str, given: ir.Value, *sizes: int) -> ir.Value:
        name = f"masked_keys.{'x'.join(map(str, sizes))}"
        to = constant(op, origin, name, np.array(sizes, dtype=np.int64))
        return describe(getattr(op, kind)(given, to), origin, key, sizes)

    least = describe(op.Max(narrow, number(LOWEST)), origin, narrow)
    added = describe(op.Div(least, number(scale)), origin, narrow)
    channel = shaped("Reshape", added, (dims(narrow) or ())[0], tokens, 1, 1)
    channel = shaped("Expand", channel, batch, tokens, heads, 1)
    apart = shaped("Reshape", key, batch, tokens, heads, size)
    joined = describe(op.Concat(apart, channel, axis=-1), origin, key, (batch, tokens, heads, size + 1))
    keys = shaped("Reshape", joined, batch, tokens, heads * (size + 1))
    found = op.MultiHeadAttention(
        query, keys, value, num_heads=heads, scale=scale, _domain=DOMAIN, _version=1
    )
    return describe(found, origin, attended)


def _data(value: ir.Value) -> Array:
    tensor = weight(value)
    assert tensor is not None
    return tensor.numpy()


def _with_channel(
    op: Any, origin: ir.Node, old: ir.Value, columns: Array, heads: int, content: float, kind: str = "matrix"
) -> ir.Value:
    """A projection to one more channel a head, which holds ``content`` in every row."""
    rows = columns.shape[:-1]
    apart = columns.reshape(*rows, heads, -1)
    channel = np.full((*rows, heads, 1), content, columns.dtype)
    wider = np.concatenate([apart, channel], axis=-1).reshape(*rows, -1)
    return constant(op, origin, f"{old.name}.{kind}_of_masked_keys", wider)


class MaskedKeys(Rewrite):
    """Linear layer -> MultiHeadAttention with a mask that is the same for all queries and heads loses the
    mask.

    Left alone: queries from elsewhere, or whose projection others read too.
    """

    name = "masked_keys"
    backends = frozenset({"onnxruntime"})
    cpu_only = True
    forms = (
        Form(_biased, _replacement, _is_valid),
        Form(_unbiased, _replacement, _is_valid),
    )
