"""An ONNX denoiser under a mask, as it is defined: the oracle where there is no SuperNet.

At every call the file's own graph runs in ONNX Runtime, and what a reused block gave last stands where the
block would compute: its outputs become inputs of the graph. No dimension is fixed, nothing folded, no pass
run. Of an all-ones mask nothing is reused, and the file runs as it is.

A block's outputs are the tensors that others read and that depend on the sample. What depends on the timestep
or the conditions alone is computed anew, wherever the exporter put it: several blocks may share it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from dipgo_compile.backends.onnxruntime import ERRORS_ONLY
from dipgo_compile.bundle import WEIGHTS
from dipgo_compile.errors import BackendError, MaskError
from dipgo_compile.graphs.engines import INLINE_BYTES
from dipgo_compile.graphs.partition import node_scopes, varying_values
from dipgo_compile.graphs.subgraph import boundary, extract
from dipgo_compile.mask import Mask
from dipgo_compile.models.onnx_file import OnnxModel
from dipgo_compile.program import Array

SESSIONS = 4  # kept open: each holds the weights of a large model


class OnnxReference:
    """A context manager, to be called once a denoiser call, in order. Raises MaskError for residual reuse,
    BackendError where ONNX Runtime refuses the graph.
    """

    def __init__(self, model: OnnxModel, mask: Mask, threads: int | None = None) -> None:
        if mask.reuse != "output":
            raise MaskError(
                f"there is no reference for reuse {mask.reuse!r} in an ONNX file", available=("output",)
            )
        self._model, self._mask, self._threads = model, mask, threads
        self._graph = model.given.clone()
        self._outputs = block_outputs(self._graph.graph, model.roles.sample, mask.blocks)
        self._cache: dict[str, Array] = {}
        self._opened = functools.lru_cache(SESSIONS)(self._open)

    def __enter__(self) -> OnnxReference:
        self._directory = tempfile.TemporaryDirectory(prefix="dipgo-reference-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.cache_clear()
        self._directory.cleanup()

    def __call__(self, call: int, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The noise prediction. ``inputs``: by the names of ``OnnxModel.inputs``."""
        given = {name: value.numpy() for name, value in inputs.items()}
        if all(map(all, self._mask.keep)):
            return torch.from_numpy(self._whole(given))
        session = self._opened(self._mask.keep[call])
        if session is not None:
            known = {**self._cache, **given}
            feeds = {value.name: known[value.name] for value in session.get_inputs()}
            names = [value.name for value in session.get_outputs()]
            self._cache |= dict(zip(names, session.run(names, feeds), strict=True))
        return torch.from_numpy(self._cache[self._model.roles.noise_pred])

    def _whole(self, given: Mapping[str, Array]) -> Array:
        """The file itself. Inputs that nothing reads must be given all the same."""
        session = self._file
        names = {old: new for new, old in self._model.names.items()}
        feeds = {}
        for value in session.get_inputs():
            if value.name in names:
                feeds[value.name] = given[names[value.name]]
            else:
                shape = [size if isinstance(size, int) else 1 for size in value.shape]
                feeds[value.name] = np.zeros(shape, _dtype(value.type))
        old = self._model.names[self._model.roles.noise_pred]
        noise_pred: Array = session.run([old], feeds)[0]
        return noise_pred

    @functools.cached_property
    def _file(self) -> ort.InferenceSession:
        return self._session(Path(self._model.source))

    def _open(self, row: Sequence[bool]) -> ort.InferenceSession | None:
        """The graph for a row of the mask, which computes the noise prediction and what kept blocks hand on;
        None where all of that is reused.
        """
        self._store_weights()
        reused, wanted = set(), []
        for block, keep in zip(self._mask.blocks, row, strict=True):
            for value in self._outputs[block]:
                name = str(value.name)
                if keep:
                    wanted.append(name)
                else:
                    array = self._cache[name]
                    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
                    value.shape = ir.Shape(array.shape)
                    reused.add(name)
        inputs = [str(value.name) for value in self._graph.graph.inputs]
        if self._model.roles.noise_pred not in reused.union(wanted):
            wanted.append(self._model.roles.noise_pred)
        if not wanted:
            return None
        part = extract(self._graph, boundary(self._graph, inputs, wanted, reused), wanted)
        file = Path(self._directory.name) / "row.onnx"
        ir.save(part, file)
        return self._session(file)

    def _store_weights(self) -> None:
        """Once, beside the graphs that refer to them: a graph of more than 2 GB can't hold its own."""
        if Path(self._directory.name, WEIGHTS).exists():
            return
        weights = [(v, v.const_value) for v in self._graph.graph.initializers.values()]
        large = [(v, tensor) for v, tensor in weights if tensor is not None and tensor.nbytes >= INLINE_BYTES]
        stored = ir.external_data.convert_tensors_to_external(
            [tensor for _, tensor in large], self._directory.name, WEIGHTS
        )
        for (value, _), tensor in zip(large, stored, strict=True):
            value.const_value = tensor

    def _session(self, file: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        options.log_severity_level = ERRORS_ONLY
        try:
            return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class per status code, without a common base
            raise BackendError(
                f"ONNX Runtime refuses the graph: {error}", where=self._model.source
            ) from error


def block_outputs(graph: ir.Graph, sample: str, blocks: Sequence[str]) -> dict[str, list[ir.Value]]:
    """For each block the tensors that it hands on."""
    varying = varying_values(graph, sample)
    found: dict[str, list[ir.Value]] = {}
    for block in blocks:
        members = {node for node in graph if block in node_scopes(node)}
        found[block] = [
            value
            for node in graph
            if node in members
            for value in node.outputs
            if value in varying
            and (value.is_graph_output() or any(use.node not in members for use in value.uses()))
        ]
    return found


def _dtype(kind: str) -> np.dtype[np.generic]:
    """From ONNX Runtime's name of a type, such as ``tensor(float)``."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
