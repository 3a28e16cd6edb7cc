"""A bundle for two shapes in C++: each is what Python computes, and what isn't there is refused alike."""

from __future__ import annotations

import ctypes
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from libdipgo import INPUT, CallError, PlanShape

from dipgo_compile.errors import InputError
from dipgo_compile.runtime import Runtime
from tests.runtime import toy

SEVEN = 7.0


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_two_shapes(tmp_path_factory.mktemp("two") / "two.dipgo")


def denoise(session, image: dict[str, np.ndarray]) -> np.ndarray:
    return session.denoise(
        image["latents"], {"text": image["text"]}, guidance_scale=SEVEN, draws=[image["draw"]]
    )


def expected(runtime: Runtime, image: dict[str, np.ndarray]) -> np.ndarray:
    return runtime.denoise(image["latents"], draws=[image["draw"]], guidance_scale=SEVEN, text=image["text"])


def test_every_shape_bit_for_bit(library, two) -> None:
    plan = library.load(two, threads=1)
    assert plan.shapes == [(2, 4, 4), (1, 4, 4)]
    with Runtime.load(two, threads=1) as runtime:
        for images in (2, 1):
            selected = plan.select(images=images)
            assert selected.info.images == images
            assert selected.shapes == [(images, 4, 4), (3 - images, 4, 4)]
            image = toy.image(images, images)
            np.testing.assert_array_equal(denoise(selected.session(), image), expected(runtime, image))


def test_a_shape_can_be_chosen_as_the_bundle_is_loaded(library, two) -> None:
    plan = library.load(two, threads=1, shape=PlanShape(1, 0, 0))
    image = toy.image()
    with Runtime.load(two, threads=1) as runtime:
        np.testing.assert_array_equal(denoise(plan.session(), image), expected(runtime, image))


@pytest.mark.parametrize("asked", [{"images": 3}, {"height": 8}, {"images": 1, "height": 4, "width": 8}])
def test_a_shape_that_is_not_there_is_refused_as_in_python(library, two, asked) -> None:
    with Runtime.load(two, threads=1) as runtime, pytest.raises(InputError) as in_python:
        runtime.session(**asked)
    with pytest.raises(CallError) as refused:
        library.load(two, threads=1).select(**asked)
    assert (refused.value.status, refused.value.message) == (INPUT, str(in_python.value))
    with pytest.raises(CallError) as at_once:
        library.load(two, shape=PlanShape(*(asked.get(name, 0) for name in ("images", "height", "width"))))
    assert at_once.value.message == refused.value.message


def test_threads_select_shapes_at_once(library, two) -> None:
    """Of one plan handle."""
    plan = library.load(two, threads=1)
    images = [toy.image(seed, 1 + seed % 2) for seed in range(12)]

    def work(image: dict[str, np.ndarray]) -> np.ndarray:
        return denoise(plan.select(images=len(image["latents"])).session(), image)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, images))
    with Runtime.load(two, threads=1) as runtime:
        for image, ours in zip(images, found, strict=True):
            np.testing.assert_array_equal(ours, expected(runtime, image))


def test_a_shape_outlives_the_plan_that_it_was_selected_from(library, two) -> None:
    alone = library.load(two, threads=1).select(images=1)
    with Runtime.load(two, threads=1) as runtime:
        image = toy.image()
        np.testing.assert_array_equal(denoise(alone.session(), image), expected(runtime, image))


def test_packed_engines_of_all_shapes_are_found(library, two) -> None:
    Runtime.load(two, threads=1).close()  # leaves the cache
    plan = library.load(two, threads=1)
    assert plan.info.prepacked and plan.select(images=1).info.prepacked


def test_shapes_of_a_bundle_for_one(library, bundle) -> None:
    plan = library.load(bundle)
    assert plan.shapes == [(1, 4, 4)]
    with pytest.raises(CallError, match="there is no shape 1; the bundle has 1"):
        plan.shape(1)
    assert library.dipgo_plan_shape_count(None) == 0


def test_a_caller_of_the_first_version_knows_no_shapes(library, two) -> None:
    """Its structure ends before them."""
    params = library.dipgo_plan_default_params()
    params.size = type(params).shape.offset
    params.shape = PlanShape(9, 9, 9)
    handle = ctypes.c_void_p()
    status = library.dipgo_plan_load(str(two).encode(), ctypes.byref(params), ctypes.byref(handle))
    library.check(status)
    library.dipgo_plan_free(handle)


def test_dipgo_run_takes_a_shape(dipgo_run, two, tmp_path) -> None:
    image = toy.image()
    np.save(tmp_path / "text.npy", image["text"])
    options = ["--condition", f"text={tmp_path / 'text.npy'}", "--seed", 3, "--threads", 1]
    done = dipgo_run(two, *options, "--images", 1, "--size", "4x4", "-o", tmp_path / "out.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out.npy").shape == (1, 2, 4, 4)
    described = json.loads(dipgo_run(two, "--images", 1, "--describe").stdout)
    assert described["shapes"] == [
        {"images": 1, "height": 4, "width": 4},
        {"images": 2, "height": 4, "width": 4},
    ]
    refused = dipgo_run(two, *options, "--images", 4)
    assert refused.returncode == INPUT and "1 or 2 images of 4x4 latents" in refused.stderr
    for wrong in (["--images", 0], ["--images", "x"], ["--size", "4"], ["--size", "0x4"], ["--size", "4x"]):
        assert dipgo_run(two, *options, *wrong).returncode == 2
