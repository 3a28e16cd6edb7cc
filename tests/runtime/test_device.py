"""Values in the memory of a device, which here is the CPU: everything goes the way it goes on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import toy

from dipgo_compile.backends.base import LoadOptions
from dipgo_compile.backends.device import DeviceMemory
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.backends.sums import sum_model
from dipgo_compile.bundle import open_bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.executor import Session, signed_sum
from dipgo_compile.program import Array, TensorSpec
from dipgo_compile.running.residence import touched_by_device, touched_by_host
from dipgo_compile.runtime import Runtime

BACKEND = OnnxRuntimeBackend(device="cpu")


class Watched(DeviceMemory):
    """Notes every copy, by the address of the host's side and its direction."""

    def __init__(self) -> None:
        super().__init__("cpu", BACKEND._sum_engine)
        self.copies: list[tuple[str, int]] = []
        self.constants: list[Array] = []

    def constant(self, array: Array) -> ort.OrtValue:
        self.constants.append(array)
        value = super().constant(array)
        self.copies.clear()
        return value

    def upload(self, array: Array, buffer: ort.OrtValue) -> None:
        self.copies.append(("up", array.ctypes.data))
        super().upload(array, buffer)

    def download(self, buffer: ort.OrtValue, array: Array) -> None:
        self.copies.append(("down", array.ctypes.data))
        super().download(buffer, array)


@pytest.fixture(scope="module")
def resident(pristine: Path) -> Iterator[Runtime]:
    backend = OnnxRuntimeBackend("cpu", device="cpu")
    with Runtime(open_bundle(pristine), backend, LoadOptions(threads=1)) as loaded:
        yield loaded


def watched(runtime: Runtime) -> tuple[Session, Watched]:
    memory = Watched()
    return Session(runtime.plan, runtime._opened[runtime.plan.shape].engines(), memory), memory


def denoise(session: Session, seed: int = 0) -> Array:
    image = toy.image(seed)
    return session.denoise(
        image["latents"], {"text": image["text"]}, guidance_scale=3.0, draws=[image["draw"]]
    )


@pytest.mark.parametrize("seed", range(3))
def test_images_are_the_same_to_the_last_bit(seed: int, resident: Runtime, runtime: Runtime) -> None:
    session = resident.session()
    denoise(session, seed + 1)  # nothing of it may stay
    np.testing.assert_array_equal(denoise(session, seed), denoise(runtime.session(), seed))


def test_so_are_calls_of_a_host(resident: Runtime, runtime: Runtime) -> None:
    generator = np.random.default_rng(0)
    ours, theirs, text = resident.session(), runtime.session(), {"text": toy.image()["text"]}
    for call in range(4):
        sample = generator.standard_normal(toy.GUIDED, np.float32)
        np.testing.assert_array_equal(
            ours.run_call(call, sample, text), theirs.run_call(call, sample, text), err_msg=f"call {call}"
        )


def test_only_what_both_sides_touch_crosses_and_once(resident: Runtime) -> None:
    session, memory = watched(resident)
    name_of = {}
    for name in ("text", "s0", "s1", "s2", "e0", "e1", "e2"):
        name_of.setdefault(session._tensors[name].ctypes.data, []).append(name)
    denoise(session)
    found = [(way, name_of[address]) for way, address in memory.copies]
    expected = ["text", "s0", "e0", "s1", "e1", "s2", "e2"]
    assert len(found) == len(expected)
    for (way, names), name in zip(found, expected, strict=True):
        assert name in names
        assert way == ("down" if name.startswith("e") else "up")


def test_constants_are_sent_when_a_session_is_made(resident: Runtime) -> None:
    session, memory = watched(resident)
    assert sorted(float(array[0]) for array in memory.constants) == sorted(toy.TIMES.values())
    denoise(session)
    assert len(memory.constants) == len(toy.TIMES)


def test_values_of_runs_alone_never_reach_the_host(resident: Runtime) -> None:
    program = resident.plan.program
    assert touched_by_device(program) - touched_by_host(program) == {"h0", "h2", "t0", "t2"}
    session, memory = watched(resident)
    denoise(session)  # a device's memory holds anything until it is written, and the run reads some
    host, buffer = session._tensors["h0"], session._residence["h0"]
    host.fill(np.nan)
    memory.upload(host, buffer)
    session._steps[2]()  # the run of "early" at call 0
    assert np.isnan(host).all()
    assert np.isfinite(buffer.numpy()).all()


def test_addresses_stay(resident: Runtime) -> None:
    session, memory = watched(resident)
    addresses = {key: value.data_ptr() for key, value in memory._places.items()}
    assert memory.nbytes == sum(spec.nbytes for _, spec in addresses)
    denoise(session, 0)
    denoise(session, 1)
    assert addresses == {key: value.data_ptr() for key, value in memory._places.items()}


def test_tensors_of_one_offset_and_spec_are_one(resident: Runtime) -> None:
    memory = Watched()
    spec, other = TensorSpec("float32", (2, 3)), TensorSpec("float16", (2, 3))
    assert memory.place(64, spec) is memory.place(64, spec)
    assert len({memory.place(*at).data_ptr() for at in ((64, spec), (0, spec), (64, other))}) == 3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("signs", [(1.0, 1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0, 1.0, 1.0, -1.0)])
def test_sums_are_those_of_the_host(signs: tuple[float, ...], dtype: str) -> None:
    spec, memory, generator = TensorSpec(dtype, (2, 300)), Watched(), np.random.default_rng(0)
    onnx.checker.check_model(onnx.load_from_string(sum_model(signs, spec)), full_check=True)
    terms = [generator.standard_normal(spec.shape).astype(dtype) for _ in signs]
    buffers = [memory.constant(term) for term in terms]
    output, found, expected = memory.place(0, spec), np.empty(spec.shape, dtype), np.empty(spec.shape, dtype)
    memory.sum(output, spec, list(zip(buffers, signs, strict=True)))()
    memory.download(output, found)
    signed_sum(expected, (), list(zip(terms, signs, strict=True)))()
    # ONNX Runtime's CPU provider adds float16 in float32, and may round but once: half a unit of each of at
    # most four sums below 8.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * 2**-9 if dtype == "float16" else 0)


def test_a_kind_of_sum_has_one_engine() -> None:
    spec, other = TensorSpec("float32", (4,)), TensorSpec("float32", (5,))
    engines = [BACKEND._sum_engine(*kind) for kind in (((1, -1), spec), ((1, 1), spec), ((1, -1), other))]
    assert len({id(engine) for engine in engines}) == 3
    assert BACKEND._sum_engine((1, -1), spec) is engines[0]


def test_threads_have_memory_of_their_own(resident: Runtime, runtime: Runtime) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: denoise(resident.session(), seed), range(8)))
    for seed, image in enumerate(found):
        np.testing.assert_array_equal(image, denoise(runtime.session(), seed))


def test_memory_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackendError, match="the device cpu gives no 4,503,599,627,370,496 bytes") as caught:
        Watched().place(0, TensorSpec("float32", (1 << 50,)))
    assert "--precision fp16" in str(caught.value)


def test_the_host_s_arena_takes_no_pages_before_they_are_written(resident: Runtime) -> None:
    """With engines on a device, most of it never is."""
    from dipgo_compile.executor import aligned

    nbytes = 64 << 20
    before = _resident_bytes()
    memory = aligned(nbytes, touch=False)
    assert _resident_bytes() - before < nbytes // 2
    assert not memory[:: 1 << 20].any()


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096
