"""The interpreter against the same program in numpy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import toy

from dipgo_compile.errors import InputError
from dipgo_compile.executor import Session, aligned, linear, signed_sum
from dipgo_compile.runtime import Runtime

# float32 against float64: a dozen operations on values below 10, each rounding to 6e-8 of that.
TOLERANCE = 1e-5


def denoise(session: Session, image: dict[str, np.ndarray], scale: float = 3.0) -> np.ndarray:
    return session.denoise(
        image["latents"], {"text": image["text"]}, guidance_scale=scale, draws=[image["draw"]]
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_follows_the_program(runtime: Runtime, scale: float) -> None:
    image = toy.image()
    result = denoise(runtime.session(), image, scale)
    np.testing.assert_allclose(result, toy.expected(**image, scale=scale), atol=TOLERANCE, rtol=0)


def test_nothing_of_an_image_reaches_the_next(runtime: Runtime) -> None:
    session = runtime.session()
    alone = denoise(runtime.session(), toy.image(1))
    denoise(session, toy.image(0), scale=9.0)
    np.testing.assert_array_equal(denoise(session, toy.image(1)), alone)


def test_nan_comes_out_as_nan(runtime: Runtime) -> None:
    session = runtime.session()
    image = toy.image()
    image["latents"][0, 0, 0, 0] = np.nan
    result = denoise(session, image)
    assert np.isnan(result[0, 0, 0, 0])
    assert np.isfinite(denoise(session, toy.image())).all()


def test_the_result_is_the_callers_own(runtime: Runtime) -> None:
    session = runtime.session()
    first = denoise(session, toy.image(0))
    kept = first.copy()
    denoise(session, toy.image(1))
    np.testing.assert_array_equal(first, kept)


def test_engines_write_into_the_arena_itself(runtime: Runtime) -> None:
    """No copy between engine and arena: what a run computes is in the value's own bytes."""
    session = runtime.session()
    image = toy.image()
    addresses = {name: array.ctypes.data for name, array in session._tensors.items()}
    denoise(session, image)
    x = 2.0 * image["latents"]
    h = toy.early(np.concatenate([x, x]), 0)
    session._tensors["s0"][:] = 2.0 * image["latents"]
    session._steps[2]()  # the run of "early" at call 0
    np.testing.assert_allclose(session._tensors["h0"], h, atol=TOLERANCE, rtol=0)
    assert addresses == {name: array.ctypes.data for name, array in session._tensors.items()}


def test_no_memory_is_kept_per_image(runtime: Runtime) -> None:
    session, image = runtime.session(), toy.image()
    ours = [
        tracemalloc.Filter(True, "*/dipgo_compile/*")
    ]  # what ONNX Runtime's binding keeps is its own affair
    for _ in range(10):
        denoise(session, image)
    tracemalloc.start()
    try:
        denoise(session, image)
        before = tracemalloc.take_snapshot().filter_traces(ours)
        for _ in range(10):
            denoise(session, image)
        after = tracemalloc.take_snapshot().filter_traces(ours)
    finally:
        tracemalloc.stop()
    grown = [change for change in after.compare_to(before, "lineno") if change.size_diff > 0]
    assert not grown, grown


def test_a_combine_allocates_no_array() -> None:
    terms = [(np.ones(4096, np.float32), index) for index in range(3)]
    output, scratch = np.empty(4096, np.float32), np.empty(4096, np.float32)
    step = linear(output, scratch, (), terms, [1.0, 2.0, -4.0])
    step()
    tracemalloc.start()
    try:
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < output.nbytes
    np.testing.assert_array_equal(output, -1.0)


@pytest.mark.parametrize("signs", [(1.0, 1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0, 1.0), (-1.0,), (1.0,)])
def test_a_sum_without_products_changes_no_bit(signs: tuple[float, ...]) -> None:
    generator = np.random.default_rng(0)
    values = [generator.standard_normal(100, np.float32) for _ in signs]
    by_product, by_sign, scratch = (np.empty(100, np.float32) for _ in range(3))
    linear(by_product, scratch, (), list(zip(values, range(len(signs)), strict=True)), list(signs))()
    signed_sum(by_sign, (), list(zip(values, signs, strict=True)))()
    np.testing.assert_array_equal(by_sign.view(np.uint32), by_product.view(np.uint32))


def test_a_callback_sees_the_calls_that_compute(runtime: Runtime) -> None:
    seen: list[int] = []
    image = toy.image()
    with_callback = runtime.session().denoise(
        image["latents"],
        {"text": image["text"]},
        guidance_scale=3.0,
        draws=[image["draw"]],
        callback=seen.append,
    )
    assert seen == [0, 1, 2]  # call 3 computes nothing
    np.testing.assert_array_equal(with_callback, denoise(runtime.session(), image))


def test_an_interrupted_image_leaves_the_session_usable(runtime: Runtime) -> None:
    session, image = runtime.session(), toy.image()

    def interrupt(call: int) -> None:
        if call == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.denoise(image["latents"], {"text": image["text"]}, draws=[image["draw"]], callback=interrupt)
    np.testing.assert_array_equal(denoise(session, image), denoise(runtime.session(), image))


def test_a_session_refuses_a_second_user(runtime: Runtime) -> None:
    session, image = runtime.session(), toy.image()

    def intrude(call: int) -> None:
        denoise(session, image)

    with pytest.raises(InputError, match="at work"):
        session.denoise(image["latents"], {"text": image["text"]}, draws=[image["draw"]], callback=intrude)


def test_host_calls_come_in_order(runtime: Runtime) -> None:
    session, image = runtime.session(), toy.image()
    sample = np.concatenate([image["latents"]] * 2)
    conditions = {"text": image["text"]}
    session.run_call(0, sample, conditions)
    with pytest.raises(InputError, match="the next is 1, or 0"):
        session.run_call(2, sample, conditions)
    denoise(session, image)
    with pytest.raises(InputError, match="the next is 0"):
        session.run_call(1, sample, conditions)


@pytest.mark.parametrize("nbytes", [1, 64, 1000])
def test_memory_is_aligned(nbytes: int) -> None:
    memory = aligned(nbytes)
    assert memory.nbytes == nbytes
    assert memory.ctypes.data % 64 == 0
