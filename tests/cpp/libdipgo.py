"""``dipgo.h`` for ctypes: the structures, and the library's calls with Python's types. For tests alone."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path

import numpy as np

OK, INTERNAL, BUNDLE, BACKEND, INPUT, BUSY, ABORTED, MEMORY = 0, 1, 8, 9, 10, 20, 21, 22
DTYPES = (None, "float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool")
LATENTS, CONDITION, DRAW, OUTPUT, SAMPLE, NOISE_PRED, TOKENS, PIXELS = range(8)
GUIDANCE = (None, ("uncond", "cond"), ("cond", "uncond"))
MEMORY_MODES = ("low", "balanced", "fast")

PROGRESS = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_size_t)
SHOULD_ABORT = ctypes.CFUNCTYPE(c_int, c_void_p)


class Tensor(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_int),
        ("rank", c_size_t),
        ("shape", POINTER(c_int64)),
        ("data", c_void_p),
    )


class PlanShape(Structure):
    _fields_ = (("images", c_size_t), ("height", c_size_t), ("width", c_size_t))


class PlanParams(Structure):
    _fields_ = (
        ("size", c_size_t),
        ("threads", c_int32),
        ("memory", c_int),
        ("verify", c_int),
        ("provider", c_char_p),
        ("shape", PlanShape),
    )


class PlanInfo(Structure):
    _fields_ = (
        ("size", c_size_t),
        ("images", c_size_t),
        ("calls", c_size_t),
        ("timesteps", POINTER(c_double)),
        ("guidance", c_int),
        ("guidance_scale", c_double),
        ("instructions", c_size_t),
        ("engines", c_size_t),
        ("arena_bytes", c_uint64),
        ("prepacked", c_int32),
        ("has_text_encoder", c_int32),
        ("has_image_decoder", c_int32),
        ("tokenizer", c_char_p),
        ("split_guidance", c_int32),
    )


class SessionParams(Structure):
    _fields_ = (
        ("size", c_size_t),
        ("progress", PROGRESS),
        ("should_abort", SHOULD_ABORT),
        ("data", c_void_p),
    )


class ImageParams(Structure):
    _fields_ = (
        ("size", c_size_t),
        ("conditions", POINTER(Tensor)),
        ("condition_count", c_size_t),
        ("latents", POINTER(Tensor)),
        ("draws", POINTER(Tensor)),
        ("draw_count", c_size_t),
        ("seed", c_uint64),
        ("guidance_scale", c_double),
    )


class Times(Structure):
    _fields_ = (
        ("size", c_size_t),
        ("seconds", c_double),
        ("engine_seconds", c_double),
        ("runs", c_size_t),
        ("instructions", c_size_t),
    )


class CallError(Exception):
    """A call that did not answer with DIPGO_OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Library:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        self._c = ctypes.CDLL(str(path))
        for name, result in (
            ("dipgo_last_error", c_char_p),
            ("dipgo_version", c_char_p),
            ("dipgo_status_name", c_char_p),
            ("dipgo_onnxruntime_version", c_char_p),
            ("dipgo_api_version", c_uint32),
            ("dipgo_tensor_bytes", c_size_t),
            ("dipgo_plan_tensor_count", c_size_t),
            ("dipgo_plan_shape_count", c_size_t),
            ("dipgo_plan_default_params", PlanParams),
            ("dipgo_session_default_params", SessionParams),
            ("dipgo_image_default_params", ImageParams),
        ):
            getattr(self._c, name).restype = result

    def __getattr__(self, name: str) -> ctypes._CFuncPtr:
        """A function of the library, as C has it."""
        return getattr(self._c, name)

    def check(self, status: int) -> None:
        if status != OK:
            raise CallError(status, self._c.dipgo_last_error().decode())

    def load(self, path: Path, **params: object) -> Plan:
        """A plan; ``params`` are fields of ``PlanParams``. Raises CallError."""
        chosen = self._c.dipgo_plan_default_params()
        for name, value in params.items():
            setattr(chosen, name, value)
        handle = c_void_p()
        self.check(self._c.dipgo_plan_load(str(path).encode(), byref(chosen), byref(handle)))
        return Plan(self, handle)

    def noise(self, seed: int, counts: Sequence[int]) -> np.ndarray:
        result = np.empty(sum(counts), np.float32)
        pointer = result.ctypes.data_as(POINTER(c_float))
        sizes = (c_size_t * len(counts))(*counts)
        self.check(self._c.dipgo_noise(c_uint64(seed), sizes, c_size_t(len(counts)), pointer))
        return result


class Plan:
    def __init__(self, library: Library, handle: c_void_p) -> None:
        self.library, self.handle = library, handle

    def __del__(self) -> None:
        self.library.dipgo_plan_free(self.handle)

    @property
    def info(self) -> PlanInfo:
        info = PlanInfo(size=ctypes.sizeof(PlanInfo))
        self.library.check(self.library.dipgo_plan_get_info(self.handle, byref(info)))
        return info

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Images, height and width of all, this plan's first."""
        return [self.shape(index) for index in range(self.library.dipgo_plan_shape_count(self.handle))]

    def shape(self, index: int) -> tuple[int, int, int]:
        shape = PlanShape()
        self.library.check(self.library.dipgo_plan_get_shape(self.handle, c_size_t(index), byref(shape)))
        return shape.images, shape.height, shape.width

    def select(self, images: int = 0, height: int = 0, width: int = 0) -> Plan:
        """The plan of another shape. Raises CallError."""
        handle, asked = c_void_p(), PlanShape(images, height, width)
        self.library.check(self.library.dipgo_plan_select(self.handle, byref(asked), byref(handle)))
        return Plan(self.library, handle)

    def tensors(self, role: int) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of all tensors of a role."""
        found = []
        for index in range(self.library.dipgo_plan_tensor_count(self.handle, role)):
            tensor = Tensor()
            status = self.library.dipgo_plan_get_tensor(self.handle, role, c_size_t(index), byref(tensor))
            self.library.check(status)
            found.append((tensor.name.decode(), DTYPES[tensor.dtype], tuple(tensor.shape[: tensor.rank])))
        return found

    def empty(self, role: int) -> np.ndarray:
        """Room for the only tensor of a role."""
        ((_, dtype, shape),) = self.tensors(role)
        return np.empty(shape, dtype)

    def session(
        self,
        progress: Callable[[int, int], None] | None = None,
        should_abort: Callable[[], bool] | None = None,
    ) -> Session:
        return Session(self, progress, should_abort)


class Session:
    def __init__(
        self,
        plan: Plan,
        progress: Callable[[int, int], None] | None,
        should_abort: Callable[[], bool] | None,
    ) -> None:
        self.plan, self.library = plan, plan.library
        params = self.library.dipgo_session_default_params()
        if progress is not None:
            params.progress = PROGRESS(lambda _, call, calls: progress(call, calls))
        if should_abort is not None:
            params.should_abort = SHOULD_ABORT(lambda _: int(should_abort()))
        self._params = params  # keeps the callbacks alive
        self.handle = c_void_p()
        status = self.library.dipgo_session_create(plan.handle, byref(params), byref(self.handle))
        self.library.check(status)

    def __del__(self) -> None:
        self.library.dipgo_session_free(self.handle)

    def denoise(
        self,
        latents: np.ndarray | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
        *,
        guidance_scale: float = math.nan,
        draws: Sequence[np.ndarray] | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        given = tensors(conditions or {})
        drawn = None if draws is None else tensors({str(i): draw for i, draw in enumerate(draws)})
        image = self.library.dipgo_image_default_params()
        image.conditions, image.condition_count = given, len(given)
        if latents is not None:
            image.latents = tensors({"latents": latents})
        if drawn is not None:
            image.draws = ctypes.cast(drawn, POINTER(Tensor)) if len(drawn) else (Tensor * 1)()
            image.draw_count = len(drawn)
        image.seed, image.guidance_scale = seed, guidance_scale
        result = self.plan.empty(OUTPUT)
        status = self.library.dipgo_session_denoise(self.handle, byref(image), *_room(result))
        self.library.check(status)
        return result

    def run_call(
        self, call: int, sample: np.ndarray, conditions: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        given = tensors(conditions or {})
        result = self.plan.empty(NOISE_PRED)
        status = self.library.dipgo_session_run_call(
            self.handle,
            c_size_t(call),
            tensors({"sample": sample}),
            given,
            c_size_t(len(given)),
            *_room(result),
        )
        self.library.check(status)
        return result

    def encode(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        wanted = self.plan.tensors(CONDITION)
        result = {name: np.empty(shape, dtype) for name, dtype, shape in wanted}
        places = (c_void_p * len(result))(*(array.ctypes.data for array in result.values()))
        status = self.library.dipgo_session_encode(
            self.handle, tensors({"input_ids": ids}), places, c_size_t(len(result))
        )
        self.library.check(status)
        return result

    def decode(self, latents: np.ndarray) -> np.ndarray:
        pixels = self.plan.empty(PIXELS)
        data = pixels.ctypes.data_as(POINTER(c_uint8))
        given = tensors({"latents": latents})
        self.library.check(
            self.library.dipgo_session_decode(self.handle, given, data, c_size_t(pixels.nbytes))
        )
        return pixels

    def reset(self) -> None:
        self.library.check(self.library.dipgo_session_reset(self.handle))

    def abort(self) -> None:
        self.library.check(self.library.dipgo_session_abort(self.handle))

    @property
    def times(self) -> Times:
        times = Times(size=ctypes.sizeof(Times))
        self.library.check(self.library.dipgo_session_get_times(self.handle, byref(times)))
        return times


def tensors(arrays: Mapping[str, np.ndarray]) -> ctypes.Array[Tensor]:
    """Arrays as the library takes them. The arrays have to outlive the call."""
    made = (Tensor * len(arrays))()
    for place, (name, array) in zip(made, arrays.items(), strict=True):
        assert array.flags.c_contiguous
        place.name, place.dtype, place.rank = name.encode(), DTYPES.index(array.dtype.name), array.ndim
        place.shape = (c_int64 * array.ndim)(*array.shape)
        place.data = array.ctypes.data
    return made


def _room(array: np.ndarray) -> tuple[c_void_p, c_size_t]:
    return c_void_p(array.ctypes.data), c_size_t(array.nbytes)
