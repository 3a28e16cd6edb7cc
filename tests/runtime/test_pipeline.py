"""A bundle with its pipeline, from prompts to pixels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
import toy_pipeline

import dipgo_compile
from dipgo_compile.bundle import open_bundle, write_bundle
from dipgo_compile.drawing.noise import image_noise
from dipgo_compile.drawing.tokens import PromptTokenizer
from dipgo_compile.errors import BackendError, BundleError, DipgoError, InputError
from dipgo_compile.plan import Part, Plan
from dipgo_compile.program import TensorSpec
from dipgo_compile.runtime import Runtime

RED_DRESS, NOTHING = [3, 4, 0], [0, 0, 0]
TOLERANCE = 1e-5  # as in test_executor


def write(path: Path, plan: Plan) -> Path:
    write_bundle(path, plan, toy_pipeline.write_files, toy.MASK)
    return path


@pytest.fixture(scope="module")
def drawing_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("drawing") / "toy.dipgo", toy_pipeline.plan())


@pytest.fixture(scope="module")
def drawing(drawing_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(drawing_bundle, threads=1) as loaded:
        yield loaded


def test_ids_lie_in_the_order_of_guidance(drawing_bundle: Path) -> None:
    ids = PromptTokenizer(open_bundle(drawing_bundle)).input_ids(["red dress"], "a")
    assert ids.dtype == np.int64
    assert ids.tolist() == [[2, 0, 0], RED_DRESS]


def test_without_guidance_there_are_no_halves(drawing_bundle: Path) -> None:
    bundle = open_bundle(drawing_bundle)
    interface = replace(bundle.plan.interface, guidance=None)
    tokenizer = PromptTokenizer(replace(bundle, plan=replace(bundle.plan, interface=interface)))
    assert tokenizer.input_ids(["red dress"]).tolist() == [RED_DRESS]


def test_long_prompts_are_cut_and_unknown_words_known_as_such(drawing_bundle: Path) -> None:
    tokenizer = PromptTokenizer(open_bundle(drawing_bundle))
    assert tokenizer(["a red red dress", "blue"]).tolist() == [[2, 3, 3], [1, 0, 0]]


def test_encodes(drawing: Runtime) -> None:
    conditions = drawing.encode(np.array([NOTHING, RED_DRESS]))
    assert list(conditions) == ["text"]
    np.testing.assert_array_equal(conditions["text"], toy_pipeline.TABLE[[NOTHING, RED_DRESS]])


def test_decodes(drawing: Runtime) -> None:
    latents = 20 * toy.image()["latents"]
    pixels = drawing.decode(latents)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, toy_pipeline.pixels(latents))
    assert {0, 255} <= set(pixels.ravel())  # clamped at both ends


@pytest.mark.parametrize(("scale", "used"), [(5.0, 5.0), (None, 3.0)])
def test_draws(drawing: Runtime, scale: float | None, used: float) -> None:
    """The whole way on paper: words, their embeddings, the noise of the seed, the loop, the pixels."""
    text = toy_pipeline.TABLE[[[2, 0, 0], RED_DRESS]]
    latents, draw = image_noise(7, [toy.LATENTS, toy.LATENTS])
    expected = toy.expected(latents, text, draw, used)
    drawn = drawing.draw("red dress", negative_prompt="a", seed=7, guidance_scale=scale)
    assert drawn.shape == toy_pipeline.PIXELS
    np.testing.assert_allclose(drawn.astype(int), toy_pipeline.pixels(expected).astype(int), atol=1)
    assert drawn.std() > 0


def test_prompts_have_seeds_of_their_own(drawing: Runtime) -> None:
    drawn = drawing.draw(["dress", "red", "dress"], seed=7)
    for index, prompt in enumerate(("dress", "red", "dress")):
        np.testing.assert_array_equal(drawn[index], drawing.draw(prompt, seed=7 + index)[0])
    assert len({image.tobytes() for image in drawn}) == 3


def test_without_a_seed_every_image_is_new(drawing: Runtime) -> None:
    assert drawing.draw("dress").tobytes() != drawing.draw("dress").tobytes()


def test_denoise_draws_the_same_noise(drawing: Runtime) -> None:
    conditions = drawing.encode(np.array([NOTHING, RED_DRESS]))
    latents = drawing.denoise(seed=7, guidance_scale=3.0, **conditions)
    np.testing.assert_array_equal(drawing.decode(latents), drawing.draw("red dress", seed=7))


def test_noise_that_is_given_is_not_drawn(drawing: Runtime) -> None:
    """A pipeline that is given latents draws nothing for them, and its scheduler begins the stream."""
    image, text = toy.image(), toy.image()["text"]
    (draw,) = image_noise(7, [toy.LATENTS])
    result = drawing.denoise(image["latents"], seed=7, guidance_scale=3.0, text=text)
    expected = toy.expected(image["latents"], text, draw, 3.0)
    np.testing.assert_allclose(result, expected, atol=TOLERANCE, rtol=0)


def test_threads_share_it(drawing_bundle: Path) -> None:
    """The parts are opened by whichever thread comes first."""
    with Runtime.load(drawing_bundle, threads=1) as runtime, ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda seed: runtime.draw("red dress", seed=seed), range(12)))
        for seed, drawn in enumerate(parallel):
            np.testing.assert_array_equal(drawn, runtime.draw("red dress", seed=seed))


def test_openvino_draws_the_same(drawing_bundle: Path, drawing: Runtime) -> None:
    latents = toy.image()["latents"]
    with Runtime.load(drawing_bundle, backend="openvino", precision="fp32", threads=1) as runtime:
        difference = runtime.draw("dress", seed=3).astype(int) - drawing.draw("dress", seed=3)
        assert np.abs(difference).max() <= 1
        np.testing.assert_array_equal(runtime.decode(latents), drawing.decode(latents))


def test_a_bundle_without_pipeline_says_how_to_get_one(runtime: Runtime) -> None:
    for call in (lambda: runtime.draw("dress"), lambda: runtime.encode([[0]]), lambda: runtime.decode([0.0])):
        with pytest.raises(InputError, match="denoising loop alone") as caught:
            call()
        assert "build it with --pipeline" in str(caught.value)
    with pytest.raises(InputError, match="no tokenizer"):
        PromptTokenizer(runtime.bundle)


def test_wrong_inputs_are_named(drawing: Runtime) -> None:
    with pytest.raises(InputError, match=r"input_ids has shape \(1, 3\), the plan was compiled for \(2, 3\)"):
        drawing.encode(np.array([RED_DRESS]))
    with pytest.raises(InputError, match="input_ids is float64"):
        drawing.encode(np.zeros((2, 3)))
    with pytest.raises(InputError, match="latents is float64"):
        drawing.decode(np.zeros(toy.LATENTS))
    with pytest.raises(InputError, match="nothing to draw"):
        drawing.draw([])


def test_ids_beyond_the_vocabulary_are_an_error(drawing: Runtime) -> None:
    with pytest.raises(BackendError, match="'text encoder' failed"):
        drawing.encode(np.array([NOTHING, [len(toy_pipeline.WORDS)] * 3]))


def test_closing_ends_it(drawing_bundle: Path) -> None:
    runtime = Runtime.load(drawing_bundle, threads=1)
    runtime.close()
    with pytest.raises(InputError, match="closed"):
        runtime.draw("dress")


def test_classes_need_no_text_encoder(tmp_path: Path) -> None:
    """The condition of a class-conditional model is the class: by number, or by a name that the plan has."""
    plan = toy_pipeline.plan()
    parts = replace(toy_pipeline.parts(), text_encoder=None, tokenizer=None, classes={"dress": 3})
    path = write(tmp_path / "c.dipgo", replace(plan, pipeline=parts))
    with Runtime.load(path, threads=1) as runtime:
        with pytest.raises(InputError, match="no text encoder") as caught:
            runtime.encode(np.array([NOTHING, RED_DRESS]))
        assert caught.value.available == ("text",)
        assert runtime.decode(toy.image()["latents"]).shape == toy_pipeline.PIXELS
    with pytest.raises(InputError, match="no tokenizer") as caught:
        PromptTokenizer(open_bundle(path))
    assert "pass the class's number" in str(caught.value)


def test_a_part_with_other_tensors_than_the_plan_is_refused(tmp_path: Path) -> None:
    parts = toy_pipeline.parts()
    assert parts.text_encoder is not None
    swapped = Part("image_decoder.onnx", parts.text_encoder.inputs, parts.text_encoder.outputs)
    path = write(
        tmp_path / "b.dipgo", replace(toy_pipeline.plan(), pipeline=replace(parts, text_encoder=swapped))
    )
    with (
        Runtime.load(path, threads=1) as runtime,
        pytest.raises(BackendError, match="the inputs of the plan"),
    ):
        runtime.encode(np.array([NOTHING, RED_DRESS]))


def test_a_decoder_that_gives_less_than_the_plan_says_is_refused(tmp_path: Path) -> None:
    decoder = toy_pipeline.parts().image_decoder
    larger = Part(decoder.file, decoder.inputs, {"pixels": TensorSpec("uint8", (1, 16, 16, 3))})
    plan = replace(toy_pipeline.plan(), pipeline=replace(toy_pipeline.parts(), image_decoder=larger))
    path = write(tmp_path / "b.dipgo", plan)
    with (
        Runtime.load(path, threads=1) as runtime,
        pytest.raises(BackendError, match="'pixels' of the engine 'image decoder'"),
    ):
        runtime.decode(toy.image()["latents"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "the tokenizer cannot be read"), (None, "does not give 3 ids a prompt")],
    ids=["damaged", "unpadded"],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(
    drawing_bundle: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    path = Path(shutil.copytree(drawing_bundle, tmp_path / "b.dipgo"))
    bundle = open_bundle(path)
    if content is None:
        tokenizer = toy_pipeline.tokenizer()
        tokenizer.no_padding()
        content = tokenizer.to_str()
    (path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        PromptTokenizer(bundle)(["dress"])


def test_without_the_package_an_extra_is_named(drawing_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DipgoError, match="takes the package tokenizers") as caught:
        PromptTokenizer(open_bundle(drawing_bundle))
    assert 'pip install "dipgo-compile[text]"' in str(caught.value)


def test_drawing_imports_numpy_onnxruntime_and_tokenizers_only(drawing_bundle: Path) -> None:
    script = """if True:
        import sys
        import dipgo_compile
        with dipgo_compile.Runtime.load(sys.argv[1], threads=1) as runtime:
            ids = runtime.pipeline.tokenize(["red dress"])
            assert "onnxruntime" in sys.modules and "tokenizers" in sys.modules
            runtime.decode(runtime.denoise(seed=0, **runtime.encode(ids)))
            runtime.draw("red dress", seed=0)
        heavy = {"torch", "onnx", "diffusers", "transformers", "jsonschema", "click", "PIL", "rich"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    root = Path(dipgo_compile.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", script, drawing_bundle], check=True, env=environment)
