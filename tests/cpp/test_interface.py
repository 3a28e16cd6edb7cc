"""The C interface: what a plan tells, what a session refuses, and what stays usable afterwards."""

from __future__ import annotations

import ctypes
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from libdipgo import (
    ABORTED,
    BACKEND,
    BUNDLE,
    BUSY,
    CONDITION,
    DRAW,
    GUIDANCE,
    INPUT,
    LATENTS,
    NOISE_PRED,
    OUTPUT,
    PIXELS,
    SAMPLE,
    TOKENS,
    CallError,
    Library,
    PlanParams,
    Session,
)

from dipgo_compile import __version__
from tests.runtime import toy


@pytest.fixture(scope="module")
def plan(library: Library, bundle: Path):
    return library.load(bundle, threads=1)


def denoise(session: Session, seed: int = 0, **changes: object) -> np.ndarray:
    image = toy.image(seed)
    given = {"draws": [image["draw"]], "guidance_scale": 3.0} | changes
    return session.denoise(image["latents"], {"text": image["text"]}, **given)


def refused(call, *arguments, status: int = INPUT, **keywords) -> str:
    with pytest.raises(CallError) as caught:
        call(*arguments, **keywords)
    assert caught.value.status == status, caught.value.message
    return caught.value.message


def test_versions(library: Library):
    assert library.dipgo_version().decode() == __version__
    assert library.dipgo_api_version() == 3
    assert library.dipgo_status_name(BUSY) == b"DIPGO_BUSY"


def test_a_plan_says_what_it_reads_and_writes(plan):
    info = plan.info
    assert (info.images, info.calls, info.instructions, info.engines) == (1, 4, 13, 2)
    assert tuple(info.timesteps[: info.calls]) == toy.TIMESTEPS
    assert (GUIDANCE[info.guidance], info.split_guidance) == (("uncond", "cond"), 0)
    assert (info.has_text_encoder, info.has_image_decoder, info.tokenizer) == (0, 0, None)
    assert plan.tensors(LATENTS) == [("latents", "float32", toy.LATENTS)]
    assert plan.tensors(CONDITION) == [("text", "float32", toy.TEXT)]
    assert plan.tensors(DRAW) == [("draw", "float32", toy.LATENTS)]
    assert plan.tensors(OUTPUT) == [("x4", "float32", toy.LATENTS)]
    assert plan.tensors(SAMPLE) == [("s0", "float32", toy.GUIDED)]
    assert plan.tensors(NOISE_PRED) == [("e0", "float32", toy.GUIDED)]
    assert plan.tensors(TOKENS) == plan.tensors(PIXELS) == []


def test_an_older_program_gets_the_fields_it_knows(library: Library, plan):
    """A structure that ends before the newest fields is filled in as far as it goes, and no further."""
    info = ctypes.create_string_buffer(b"\xee" * 200, 200)
    size = 24  # size, images, calls
    ctypes.memmove(info, size.to_bytes(8, "little"), 8)
    library.check(library.dipgo_plan_get_info(plan.handle, info))
    assert info.raw[:24] == b"".join(number.to_bytes(8, "little") for number in (size, 1, 4))
    assert info.raw[24:] == b"\xee" * 176


def test_a_newer_program_is_refused(library: Library, bundle: Path):
    params = PlanParams(size=ctypes.sizeof(PlanParams) + 8)
    status = library.dipgo_plan_load(
        str(bundle).encode(), ctypes.byref(params), ctypes.byref(ctypes.c_void_p())
    )
    assert status == INPUT
    assert b"begin with the function that gives its defaults" in library.dipgo_last_error()


def test_null_is_refused_everywhere(library: Library, bundle: Path):
    null = None
    session = library.load(bundle).session()
    size = ctypes.c_size_t(8)
    assert library.dipgo_plan_load(null, null, null) == INPUT
    assert library.dipgo_plan_load(null, null, ctypes.byref(ctypes.c_void_p())) == INPUT
    assert library.dipgo_plan_get_info(null, null) == INPUT
    assert library.dipgo_plan_get_tensor(null, 0, size, null) == INPUT
    assert library.dipgo_plan_tensor_count(null, 0) == 0
    assert library.dipgo_session_create(null, null, null) == INPUT
    for function in (
        library.dipgo_session_denoise,
        library.dipgo_session_run_call,
        library.dipgo_session_reset,
        library.dipgo_session_abort,
        library.dipgo_session_encode,
        library.dipgo_session_decode,
        library.dipgo_session_get_times,
    ):
        assert function(*[null] * 7) == INPUT, function
    image = library.dipgo_image_default_params()
    assert library.dipgo_session_denoise(session.handle, ctypes.byref(image), null, size) == INPUT
    assert library.dipgo_session_run_call(session.handle, size, null, null, size, null, size) == INPUT
    assert library.dipgo_noise(ctypes.c_uint64(0), null, ctypes.c_size_t(1), null) == INPUT
    library.dipgo_plan_free(null)
    library.dipgo_session_free(null)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": np.zeros((1, 2, 4, 5), np.float32)}, r"shape (1, 2, 4, 5), the plan was compiled for"),
        ({"latents": np.zeros(toy.LATENTS)}, "latents is float64, the plan takes float32"),
        ({"conditions": {}}, "not those of the plan: none"),
        ({"conditions": {"prompt": np.zeros(toy.TEXT, np.float32)}}, "available: text"),
        ({"conditions": {"text": np.zeros(toy.TEXT[1:], np.float32)}}, "text has shape (3, 5)"),
        ({"draws": []}, "takes 1 noise draws, 0 were given"),
        ({"draws": [np.zeros(toy.GUIDED, np.float32)]}, "draw has shape (2, 2, 4, 4)"),
    ],
)
def test_wrong_inputs_are_refused_and_the_session_stays_usable(plan, change, message):
    session = plan.session()
    image = toy.image()
    given = {"latents": image["latents"], "conditions": {"text": image["text"]}, "draws": [image["draw"]]}
    assert message in refused(session.denoise, **{**given, **change})
    np.testing.assert_array_equal(session.denoise(**given), plan.session().denoise(**given))


def test_an_unguided_plan_takes_no_guidance_scale(library: Library, tmp_path: Path):
    from compiled import compiled

    compiled(tmp_path / "m.dipgo", "DDIMScheduler", {"clip_sample": False}, ["11"], guided=False, fuse="auto")
    session = library.load(tmp_path / "m.dipgo").session()
    text = {"text": np.zeros((2, 1, 2, 2), np.float32)}
    message = refused(session.denoise, None, text, guidance_scale=7.5)
    assert "built without guidance" in message
    assert np.isfinite(session.denoise(None, text)).all()


def test_the_default_guidance_scale(plan):
    np.testing.assert_array_equal(
        denoise(plan.session(), guidance_scale=math.nan), denoise(plan.session(), guidance_scale=7.5)
    )


def test_progress_comes_before_each_call_that_computes(plan):
    seen: list[tuple[int, int]] = []
    session = plan.session(progress=lambda call, calls: seen.append((call, calls)))
    denoise(session)
    assert seen == [(0, 4), (1, 4), (2, 4)]  # call 3 computes nothing


@pytest.mark.parametrize("after", [0, 1, 7, 13])
def test_an_aborted_image_leaves_the_session_usable(plan, after):
    asked = 0

    def should_abort() -> bool:
        nonlocal asked
        asked += 1
        return asked == after + 1

    session = plan.session(should_abort=should_abort)
    assert "aborted" in refused(denoise, session, status=ABORTED)
    assert asked == after + 1  # and nothing was computed since
    assert session.times.instructions == min(after, 13)
    np.testing.assert_array_equal(denoise(session), denoise(plan.session()))


def test_abort_from_another_place_ends_the_image_at_work_alone(plan):
    session = plan.session(progress=lambda call, calls: session.abort() if call == 1 else None)
    session.abort()  # idle: nothing happens
    refused(denoise, session, status=ABORTED)
    calm = plan.session()
    calm.abort()
    np.testing.assert_array_equal(denoise(calm), denoise(plan.session()))


def test_a_session_is_busy_while_it_works(plan):
    seen: list[int] = []

    def progress(call: int, calls: int) -> None:
        for attempt in (lambda: denoise(session), session.reset, lambda: session.times):
            refused(attempt, status=BUSY)
        worker = threading.Thread(target=lambda: seen.append(bool(refused(session.reset, status=BUSY))))
        worker.start()
        worker.join()

    session = plan.session(progress=progress)
    np.testing.assert_array_equal(denoise(session), denoise(plan.session()))
    assert seen == [1, 1, 1]


def test_threads_with_a_session_each_get_what_one_gets(library: Library, bundle: Path):
    plan = library.load(bundle, threads=1)
    alone = plan.session()
    expected = [denoise(alone, seed) for seed in range(40)]
    results: dict[int, np.ndarray] = {}

    def work(first: int) -> None:
        session = plan.session()
        for seed in range(first, 40, 4):
            results[seed] = denoise(session, seed)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed, latents in enumerate(expected):
        np.testing.assert_array_equal(results[seed], latents)


def test_each_thread_has_its_own_message(library: Library, plan):
    refused(plan.session().denoise, None, {})
    others: list[bytes] = []
    worker = threading.Thread(target=lambda: others.append(library.dipgo_last_error()))
    worker.start()
    worker.join()
    assert others == [b""]
    assert b"conditions" in library.dipgo_last_error()


def test_calls_come_in_order(plan):
    session, image = plan.session(), toy.image()
    sample = np.concatenate([image["latents"]] * 2)
    text = {"text": image["text"]}
    first = session.run_call(0, sample, text)
    assert "the next is 1, or 0" in refused(session.run_call, 2, sample)
    np.testing.assert_array_equal(session.run_call(0, sample, text), first)
    session.run_call(1, sample)
    session.reset()
    assert "the next is 0" in refused(session.run_call, 2, sample)
    session.run_call(0, sample, text)
    denoise(session)
    assert "the next is 0" in refused(session.run_call, 1, sample)
    assert "sample has shape" in refused(session.run_call, 0, image["latents"], text)


def test_the_times_of_an_image(plan):
    session = plan.session()
    denoise(session)
    times = session.times
    assert (times.runs, times.instructions) == (5, 13)
    assert 0 < times.engine_seconds < times.seconds


def test_what_is_not_given_is_drawn_from_the_seed(library: Library, plan):
    text = {"text": toy.image()["text"]}
    size = math.prod(toy.LATENTS)
    drawn = library.noise(5, [size, size])
    latents, draw = (part.reshape(toy.LATENTS) for part in np.split(drawn, 2))
    session = plan.session()
    np.testing.assert_array_equal(
        session.denoise(None, text, seed=5), session.denoise(latents, text, draws=[draw])
    )


@pytest.mark.parametrize("counts", [[1], [15], [16], [17], [64], [100], [3, 16, 4, 40, 1]])
@pytest.mark.parametrize("seed", [0, 1234, 2**32 + 7])
def test_noise_is_what_torch_draws(library: Library, seed, counts):
    import torch

    generator = torch.Generator().manual_seed(seed % 2**32)
    expected = torch.cat([torch.randn(count, generator=generator) for count in counts]).numpy()
    # torch rounds its logarithm, cosine and sine in float32: two units in the last place of values up to 6.
    np.testing.assert_allclose(library.noise(seed, counts), expected, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("memory", [0, 1, 2])
def test_memory_modes_change_no_result(library: Library, bundle: Path, plan, memory):
    session = library.load(bundle, threads=1, memory=memory).session()
    np.testing.assert_array_equal(denoise(session), denoise(plan.session()))


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"threads": -1}, INPUT, "-1 threads"),
        ({"memory": 9}, INPUT, "available: low, balanced, fast"),
        ({"provider": b"abacus"}, BACKEND, "unknown execution provider 'abacus'"),
        ({"provider": b"cuda"}, BACKEND, "no CUDAExecutionProvider"),
    ],
)
def test_wrong_parameters(library: Library, bundle: Path, params, status, message):
    if b"cuda" in params.values():
        pytest.importorskip("onnxruntime")
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime has CUDA")
    assert message in refused(library.load, bundle, status=status, **params)


def test_bundles_that_are_none(library: Library, tmp_path: Path):
    message = refused(library.load, tmp_path / "no.dipgo", status=BUNDLE)
    assert "there is no bundle at" in message and "dipgo-compile build" in message
    assert "is not a bundle: it has no plan.json" in refused(library.load, tmp_path, status=BUNDLE)


def test_a_cache_of_this_machine_is_used_and_a_damaged_one_is_not(library: Library, bundle, tmp_path):
    """The key of the cache is that of the Python runtime; without a valid cache, the portable engines run."""
    import shutil

    from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
    from dipgo_compile.bundle import open_bundle

    path = Path(shutil.copytree(bundle, tmp_path / "m.dipgo", ignore=shutil.ignore_patterns("cache")))
    portable = library.load(path, threads=1)
    assert portable.info.prepacked == 0
    OnnxRuntimeBackend().prepare(open_bundle(path))
    packed = library.load(path, threads=1)
    assert packed.info.prepacked == 1
    np.testing.assert_array_equal(denoise(packed.session()), denoise(portable.session()))
    (manifest,) = path.glob("cache/*/manifest.json")
    entries = json.loads(manifest.read_text())
    entries["weights.bin"]["nbytes"] += 1
    manifest.write_text(json.dumps(entries))
    assert library.load(path, threads=1).info.prepacked == 0


def test_files_found_right_are_written_down_for_the_next_time(library: Library, bundle, tmp_path):
    """In the form that the Python runtime writes and reads."""
    import os
    import shutil
    import time

    from dipgo_compile.bundle import open_bundle
    from dipgo_compile.formats import integrity

    path = Path(shutil.copytree(bundle, tmp_path / "m.dipgo", ignore=shutil.ignore_patterns("cache")))
    time.sleep(integrity.SETTLED_SECONDS * 1.1)  # files changed just now are not written down
    library.load(path, threads=1)
    stamps = path / "cache" / integrity.STAMPS
    records = open_bundle(path).plan.files
    written = json.loads(stamps.read_text())
    assert written == {name: integrity._stamp(path / name, record) for name, record in records.items()}
    weights = path / "weights.bin"
    before = weights.stat()
    weights.write_bytes(bytes(len(weights.read_bytes())))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "weights.bin was altered" in refused(library.load, path, status=BUNDLE)
