"""One bundle with its pipeline for several shapes: each has a text encoder and an image decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dipgo_compile.build import BuildOptions, build
from dipgo_compile.bundle import WEIGHTS, open_bundle
from dipgo_compile.cli import main
from dipgo_compile.drawing.draw import Job
from dipgo_compile.errors import InputError
from dipgo_compile.generate import generate
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load_pipeline
from dipgo_compile.runtime import Runtime
from dipgo_compile.shapes import Shape

PROMPTS = ["a photo of a dress", "a bag", "a boot"]
GRAY_LEVELS = 1  # as in test_drawing.py


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(((16, 24),), id="one size"),
        pytest.param(((16, 16), (16, 24)), id="two sizes", marks=pytest.mark.slow),
    ],
)
def ranged_bundle(
    request: pytest.FixtureRequest, pruned_mask: Mask, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """For one or two images."""
    output = tmp_path_factory.mktemp("bundles") / "ranged.dipgo"
    options = BuildOptions(batches=(1, 2), sizes=request.param, pipeline=True)
    return build(pruned_mask, output=output, options=options).path


@pytest.fixture(scope="module")
def ranged(ranged_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(ranged_bundle) as runtime:
        yield runtime


def test_sizes_are_pixels(ranged: Runtime) -> None:
    assert str(ranged.shapes).startswith("1 or 2 images of 16x") and "latents" not in str(ranged.shapes)
    assert next(iter(ranged.shapes)) == Shape(2, 8, 12)


def test_parts_and_their_weights_are_there_once(ranged: Runtime, pruned_bundle: Path) -> None:
    """An image decoder for each shape, a text encoder for each number of images, weights for all."""
    parts = [plan.pipeline for plan in ranged.bundle.plans if plan.pipeline is not None]
    assert len({part.image_decoder.file for part in parts}) == len(ranged.shapes)
    assert len({part.text_encoder.file for part in parts if part.text_encoder is not None}) == 2
    sizes = [open_bundle(path).plan.files[WEIGHTS].nbytes for path in (pruned_bundle, ranged.bundle.path)]
    assert sizes[0] <= sizes[1] < 1.05 * sizes[0]


def test_a_bundle_for_one_shape_tells_pixels_by_its_image_decoder(pruned_bundle: Path) -> None:
    assert str(open_bundle(pruned_bundle).shapes) == "2 images of 16x16"


@pytest.mark.slow
def test_what_is_drawn_is_what_a_bundle_for_the_shape_draws(
    pruned_mask: Mask, pruned_bundle: Path, tmp_path: Path
) -> None:
    options = BuildOptions(images=2, sizes=((16, 16), (24, 16)), pipeline=True)
    both = build(pruned_mask, output=tmp_path / "m.dipgo", options=options).path
    with Runtime.load(both) as runtime, Runtime.load(pruned_bundle) as alone:
        drawn = runtime.draw(PROMPTS[:2], seed=3, height=16, width=16)
        np.testing.assert_array_equal(drawn, alone.draw(PROMPTS[:2], seed=3))


def test_a_last_image_alone_is_no_pair(ranged: Runtime, stable_diffusion: Path) -> None:
    """Three prompts are a pair and one, and each gets the image that PyTorch's ends make of it."""
    drawn = ranged.draw(PROMPTS, seed=5, width=24)
    assert drawn.shape == (3, 16, 24, 3)
    calls: list[int] = []
    ranged.draw(PROMPTS, seed=5, width=24, callback=calls.append)
    assert calls.count(0) == 2
    jobs = [Job(prompt, 5 + index) for index, prompt in enumerate(PROMPTS)]
    pipeline = load_pipeline(str(stable_diffusion))
    made = generate(ranged, pipeline, jobs, guidance_scale=2.0, width=24)
    expected = np.stack([image.pixels for image in made]).astype(np.int16)
    np.testing.assert_allclose(drawn.astype(np.int16), expected, atol=GRAY_LEVELS, rtol=0)
    alone = ranged.draw(PROMPTS[2], seed=7, width=24)
    np.testing.assert_array_equal(alone[0], drawn[2])


def test_ends_follow_the_shapes_of_arrays(ranged: Runtime) -> None:
    for images in (1, 2):
        ids = ranged.pipeline.tokenize(PROMPTS[:images])
        assert len(ranged.encode(ids)["encoder_hidden_states"]) == len(ids) == 2 * images
    assert ranged.decode(np.zeros((1, 4, 8, 12), np.float32)).shape == (1, 16, 24, 3)
    for call in (
        lambda: ranged.decode(np.zeros((1, 4, 8, 9), np.float32)),
        lambda: ranged.encode(np.zeros((6, 77), np.int64)),
        lambda: ranged.draw("a bag", height=32),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert refused.value.available == (str(ranged.shapes),)


def test_generate_opens_what_it_needs(ranged_bundle: Path, ranged: Runtime, tmp_path: Path) -> None:
    words = ["generate", str(ranged_bundle), "--prompt", PROMPTS[0], "--seed", "5", "--width", "24"]
    drawn = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "a.png")], catch_exceptions=False)
    assert drawn.exit_code == 0, drawn.output
    from PIL import Image

    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(pixels, ranged.draw(PROMPTS[0], seed=5, width=24)[0])
    refused = CliRunner().invoke(main, [*words[:-1], "32", "-o", str(tmp_path / "b.png")])
    assert refused.exit_code == 10 and str(ranged.shapes) in refused.stderr


def test_tokenize_takes_a_prompt_for_each_image(ranged_bundle: Path) -> None:
    for prompts, rows in ((PROMPTS[:2], 4), (PROMPTS[:1], 2)):
        words = [word for prompt in prompts for word in ("--prompt", prompt)]
        printed = CliRunner().invoke(main, ["tokenize", str(ranged_bundle), *words], catch_exceptions=False)
        assert len(printed.stdout.splitlines()) == rows
    three = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    assert CliRunner().invoke(main, ["tokenize", str(ranged_bundle), *three]).exit_code == 10
