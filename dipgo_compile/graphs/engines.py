"""Writing engines as ONNX files over one shared weight file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import onnx_ir as ir

from dipgo_compile.bundle import WEIGHTS
from dipgo_compile.graphs.partition import SCOPES
from dipgo_compile.graphs.subgraph import extract
from dipgo_compile.program import Engine

INLINE_BYTES = (
    1024  # smaller tensors (shapes, scalars, biases) stay in the ONNX file, where ONNX Runtime can fold them
)
ONNX = ".onnx"
PUNCTUATION = re.compile(r"[^\w.-]", re.ASCII)  # names of tensors, after which blocks may be named, have any


def engine_files(engines: Iterable[Engine], ending: str = "", others: Collection[str] = ()) -> dict[str, str]:
    """The file of each engine, a plain name, none of ``others``. Engines of one block are named after it;
    ``ending`` is put to every name.
    """
    files: dict[str, str] = {}
    taken = {file.removesuffix(ONNX) for file in others}
    for engine in engines:
        stem = file = PUNCTUATION.sub("_", engine.name).lstrip(".") + ending
        while file in taken:
            file = f"{stem}_{len(taken)}"
        taken.add(file)
        files[engine.name] = f"{file}{ONNX}"
    return files


def weight_bytes(*models: ir.Model) -> int:
    """Bytes of all weights of some graphs: what their engines need on disk, but for a few KB."""
    tensors = (value.const_value for model in models for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def write_engines(
    model: ir.Model,
    engines: Iterable[Engine],
    files: Mapping[str, str],
    directory: Path,
    others: Mapping[str, ir.Model] | None = None,
) -> None:
    """Cut every engine out of ``model`` and write it, and ``others``, whole graphs by their files, beside
    them. A weight that several engines use is stored once.
    """
    parts = {**cut_engines(model, engines, files), **(others or {})}
    stored = _store_weights(parts.values(), directory)
    for file, part in parts.items():
        for value in part.graph.initializers.values():
            if id(value.const_value) in stored:
                value.const_value = stored[id(value.const_value)]
        _strip_metadata(part)
        ir.save(part, directory / file)


def cut_engines(model: ir.Model, engines: Iterable[Engine], files: Mapping[str, str]) -> dict[str, ir.Model]:
    """Every engine as a graph of its own, by its file. Weights are the tensors of ``model``."""
    return {files[engine.name]: extract(model, engine.inputs, engine.outputs) for engine in engines}


def _store_weights(parts: Iterable[ir.Model], directory: Path) -> dict[int, ir.ExternalTensor]:
    """By the identity of the tensors: engines of one graph share theirs, graphs of several shapes what
    ``SharedWeights`` made one, and other graphs have other tensors of the same names.
    """
    large: dict[int, ir.TensorProtocol] = {}
    for part in parts:
        for value in part.graph.initializers.values():
            if value.const_value is not None and value.const_value.nbytes >= INLINE_BYTES:
                large[id(value.const_value)] = value.const_value
    external = ir.external_data.convert_tensors_to_external(list(large.values()), directory, WEIGHTS)
    return dict(zip(large, external, strict=True))


def _strip_metadata(model: ir.Model) -> None:
    """The exporter's notes (stack traces among them) are not the bundle's business; module scopes are."""
    for node in model.graph:
        kept = {key: value for key, value in node.metadata_props.items() if key == SCOPES}
        node.metadata_props.clear()
        node.metadata_props.update(kept)
