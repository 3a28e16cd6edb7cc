"""Cutting engines out of the denoiser's ONNX graph, and evaluating parts of it at build time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import onnx_ir as ir

from dipgo_compile.program import Array


def extract(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The part of ``model`` that computes ``outputs`` from ``inputs``. Weights are shared with ``model``, not
    copied.
    """
    graph = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def boundary(
    model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], known: Set[str] = frozenset()
) -> tuple[str, ...]:
    """Which of ``inputs`` and ``known`` are read on the way to ``outputs`` when nothing behind them is
    computed.

    In the graph's order, so that equal cuts give equal engines.
    """
    order = {value.name: value for value in model.graph.inputs}
    order |= {value.name: value for node in model.graph for value in node.outputs}
    stop = known | set(inputs)
    found: set[str] = set()
    seen: set[str] = set()
    pending = [name for name in outputs if name not in stop]
    while pending:
        producer = order[pending.pop()].producer()
        for value in producer.inputs if producer else ():
            if value is None or value.name is None or value.name in seen or value.is_initializer():
                continue
            seen.add(value.name)
            if value.name in stop:
                found.add(value.name)
            else:
                pending.append(value.name)
    return tuple(name for name in order if name in found)


def evaluate(
    model: ir.Model, feeds: Sequence[Mapping[str, Array]], outputs: Sequence[str]
) -> list[list[Array]]:
    """``outputs`` for each of ``feeds``, which name the same tensors: the part of ``model`` between them, run
    with ONNX Runtime on the CPU.
    """
    import onnxruntime

    part = extract(model, list(feeds[0]), outputs)
    ir.external_data.load_to_model(part)  # the session knows no directory to look for weights in
    proto = ir.to_proto(part).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return [[np.asarray(value) for value in session.run(list(outputs), dict(given))] for given in feeds]
