"""Operators by kind: those that multiply matrices, and all others under their own names.

ONNX Runtime turns some operators into others when it optimises a graph, ``MatMul`` and ``Add`` into ``Gemm``,
``Conv`` and an activation into ``FusedConv``, but within a kind. So what a portable graph says of a kind
holds for what runs.
"""

from __future__ import annotations

from collections.abc import Mapping

CONVOLUTION, PRODUCT, ATTENTION = "convolutions", "matrix products", "attention"

_KINDS: Mapping[str, tuple[str, ...]] = {
    CONVOLUTION: ("Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv"),
    PRODUCT: ("Gemm", "MatMul", "FusedGemm", "FusedMatMul"),
    ATTENTION: ("Attention", "MultiHeadAttention"),
}
MULTIPLYING = frozenset(_KINDS)
"""The kinds whose work is multiply-accumulates; what the others do is moving memory, nearly all of it."""

_KIND_OF = {operator: kind for kind, operators in _KINDS.items() for operator in operators}


def kind_of(operator: str) -> str:
    """The kind of an operator by its type, such as ``FusedMatMul``; one of no kind is a kind of its own."""
    return _KIND_OF.get(operator, operator)
