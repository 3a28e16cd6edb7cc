"""From token ids to a picture without Python: the same bytes that the Python runtime gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import toy
import toy_pipeline
from libdipgo import BACKEND, INPUT, PIXELS, TOKENS, CallError, Library

from dipgo_compile.bundle import write_bundle
from dipgo_compile.drawing.noise import NoiseSource
from dipgo_compile.drawing.png import encode_png
from dipgo_compile.runtime import Runtime

IDS = np.array([[2, 0, 0], [2, 3, 4]])


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its pipeline; read it, don't change it."""
    path = tmp_path_factory.mktemp("cpp") / "drawing.dipgo"
    write_bundle(path, toy_pipeline.plan(), toy_pipeline.write_files, toy.MASK)
    return path


def test_a_plan_says_what_surrounds_it(library: Library, drawing: Path):
    plan = library.load(drawing)
    info = plan.info
    assert (info.has_text_encoder, info.has_image_decoder, info.guidance_scale) == (1, 1, 3.0)
    assert Path(info.tokenizer.decode()) == drawing / "tokenizer.json"
    assert plan.tensors(TOKENS) == [("input_ids", "int64", toy_pipeline.IDS)]
    assert plan.tensors(PIXELS) == [("pixels", "uint8", toy_pipeline.PIXELS)]


def test_every_step_is_the_same(library: Library, drawing: Path):
    session = library.load(drawing, threads=1).session()
    with Runtime.load(drawing, threads=1) as runtime:
        encoded = session.encode(IDS)
        np.testing.assert_array_equal(encoded["text"], runtime.encode(IDS)["text"])
        latents = session.denoise(None, encoded, seed=7)
        theirs = runtime.denoise(seed=7, guidance_scale=3.0, **encoded)
        np.testing.assert_array_equal(latents, theirs)
        np.testing.assert_array_equal(session.decode(latents), runtime.decode(latents))


@pytest.mark.parametrize("counts", [[4096, 3, 17, 1000, 1], [1, 1, 16], [15, 31, 15]])
def test_noise_is_the_same_to_the_last_bit(library: Library, counts):
    for seed in range(20):
        source = NoiseSource(seed)
        expected = np.concatenate([source.draw((count,)) for count in counts])
        np.testing.assert_array_equal(library.noise(seed, counts), expected)


def test_the_example_writes_the_same_file(built: Path, drawing: Path, tmp_path: Path):
    picture = tmp_path / "picture.png"
    done = example(built, drawing, 7, picture, *IDS.ravel())
    assert done.returncode == 0, done.stderr
    with Runtime.load(drawing, threads=1) as runtime:
        conditions = runtime.encode(IDS)
        pixels = runtime.decode(runtime.denoise(seed=7, guidance_scale=3.0, **conditions))
    assert picture.read_bytes() == encode_png(pixels[0])


@pytest.mark.parametrize(
    ("bundle_name", "ids", "message"),
    [
        ("drawing.dipgo", (), "usage: generate"),
        ("no.dipgo", (1,), "there is no bundle at"),
        ("drawing.dipgo", (1, 2), "does not fit the number of values"),
    ],
)
def test_the_example_explains_mistakes(built: Path, drawing: Path, tmp_path: Path, bundle_name, ids, message):
    done = example(built, drawing.parent / bundle_name, 7, tmp_path / "picture.png", *ids)
    assert done.returncode != 0
    assert message in done.stderr


def test_wrong_inputs_of_the_parts(library: Library, drawing: Path, bundle: Path):
    session = library.load(drawing).session()
    assert "the token ids has shape (2, 2)" in refused(session.encode, IDS[:, :2].copy())
    assert "is int32, the plan takes int64" in refused(session.encode, IDS.astype(np.int32))
    assert "failed" in refused(
        session.encode, IDS + 100, BACKEND
    )  # no row of the table: ONNX Runtime refuses
    assert "has shape (3,)" in refused(session.decode, np.zeros(3, np.float32))
    assert session.encode(IDS)["text"].shape == toy.TEXT
    assert "no text encoder" in refused(library.load(bundle).session().encode, IDS)


def example(built: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(built / "generate"), *map(str, words)], capture_output=True, text=True)


def refused(call, array: np.ndarray, status: int = INPUT) -> str:
    with pytest.raises(CallError) as caught:
        call(array)
    assert caught.value.status == status
    return caught.value.message
