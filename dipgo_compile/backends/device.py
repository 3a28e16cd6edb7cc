"""Tensors in the memory of a device, through ONNX Runtime: ``cuda``, and ``cpu``, with which tests go the
same way on any machine.

ONNX Runtime's Python interface can bind an address within device memory, but copies only to and from tensors
that it has made itself. So there is no arena to cut: tensors of one offset and one spec are one allocation,
which plans of many calls come back to at every call, and others have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from dipgo_compile.backends.base import EngineSession
from dipgo_compile.errors import BackendError
from dipgo_compile.program import Array, TensorSpec

SumEngine: TypeAlias = Callable[[tuple[float, ...], TensorSpec], EngineSession]
"""Opens what sums tensors like a spec with these signs."""


class DeviceMemory:
    """See ``Memory``. ``kind`` is ONNX Runtime's name for the memory of a device; the engines of
    ``sum_engine`` compute there.
    """

    def __init__(self, kind: str, sum_engine: SumEngine) -> None:
        self._kind, self._sum_engine = kind, sum_engine
        self._places: dict[tuple[int, TensorSpec], ort.OrtValue] = {}

    @property
    def nbytes(self) -> int:
        """What the arena takes."""
        return sum(spec.nbytes for _, spec in self._places)

    def place(self, offset: int, spec: TensorSpec) -> ort.OrtValue:
        """See ``Memory.place``."""
        value = self._places.get((offset, spec))
        if value is None:
            value = self._places[offset, spec] = self._allocate(spec)
        return value

    def constant(self, array: Array) -> ort.OrtValue:
        """See ``Memory.constant``."""
        value = self._allocate(TensorSpec(array.dtype.name, array.shape))
        self.upload(array, value)
        return value

    def upload(self, array: Array, buffer: ort.OrtValue) -> None:
        """See ``Memory.upload``."""
        buffer.update_inplace(array)

    def download(self, buffer: ort.OrtValue, array: Array) -> None:
        """See ``Memory.download``."""
        np.copyto(array, buffer.numpy())

    def sum(
        self, output: ort.OrtValue, spec: TensorSpec, terms: Sequence[tuple[ort.OrtValue, float]]
    ) -> Callable[[], Any]:
        """See ``Memory.sum``."""
        engine = self._sum_engine(tuple(sign for _, sign in terms), spec)
        return engine.bind([buffer for buffer, _ in terms], [output])

    def _allocate(self, spec: TensorSpec) -> ort.OrtValue:
        try:
            return ort.OrtValue.ortvalue_from_shape_and_type(spec.shape, np.dtype(spec.dtype), self._kind)
        except Exception as error:  # ONNX Runtime raises a class per status code, without a common base
            raise BackendError(
                f"the device {self._kind} gives no {spec.nbytes:,} bytes for a tensor: {error}",
                mend="build the bundle for fewer or smaller images, or with --precision fp16",
            ) from error
