"""One bundle for several shapes of an ONNX file whose batch and size are free."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx_denoiser import File, make_mask

from dipgo_compile.bench import BenchOptions, bench
from dipgo_compile.build import BuildOptions, build
from dipgo_compile.bundle import WEIGHTS
from dipgo_compile.cli import main
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import relative_l2
from dipgo_compile.measure.example import example_inputs
from dipgo_compile.runtime import Runtime


@pytest.fixture(scope="module")
def mask(torchscript: File) -> Mask:
    return make_mask(torchscript.open(), ("111", "010", "000", "101"), "ddim")


@pytest.fixture(scope="module")
def built(mask: Mask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    directory = tmp_path_factory.mktemp("shapes")
    mask.save(directory / "m.json")
    path = directory / "m.dipgo"
    words = ["--mask", str(directory / "m.json"), "-o", str(path), "--json", "-"]
    sizes = ["--batch", "1..3", "--size", "8x8,8x16"]
    return path, CliRunner().invoke(main, ["build", *words, *sizes], catch_exceptions=False)


def test_every_shape_is_that_of_a_bundle_for_it_alone(
    built: tuple[Path, Result], mask: Mask, tmp_path: Path
) -> None:
    path, result = built
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)["shapes"]
    assert shown[0] == {"images": 3, "height": 8, "width": 16} and len(shown) == 6
    assert "export the denoiser (6 of 6)" in result.stderr
    with Runtime.load(path, threads=1) as runtime:
        for shape in runtime.shapes:
            options = BuildOptions(images=shape.images, height=shape.height, width=shape.width)
            build(mask, output=tmp_path / "alone.dipgo", options=options)
            given = example_inputs(runtime.bundle.shaped(shape).plan)
            with Runtime.load(tmp_path / "alone.dipgo", threads=1) as alone:
                expected = alone.denoise(given.latents, **given.conditions)
            np.testing.assert_array_equal(runtime.denoise(given.latents, **given.conditions), expected)
    assert (path / WEIGHTS).stat().st_size == (tmp_path / "alone.dipgo" / WEIGHTS).stat().st_size


def test_all_shapes_are_verified_unless_one_is_named(built: tuple[Path, Result]) -> None:
    path, _ = built
    verified = CliRunner().invoke(main, ["verify", str(path), "--threads", "1", "--json", "-"])
    assert verified.exit_code == 0, verified.output
    found = json.loads(verified.stdout)
    assert found["passed"] and len({shape["shape"] for shape in found["shapes"]}) == 6
    one = CliRunner().invoke(main, ["verify", str(path), "--threads", "1", "--shape", "2x8x8"])
    assert one.stdout.startswith("shape 2x8x8\n") and one.stdout.count("PASSED") == 1
    again = CliRunner().invoke(
        main, ["verify", str(path), "--threads", "1", "--shape", "2x8x8", "--json", "-"]
    )
    assert json.loads(again.stdout)["shapes"] == [
        each for each in found["shapes"] if each["shape"] == "2x8x8"
    ]
    none = CliRunner().invoke(main, ["verify", str(path), "--shape", "4x8x8"])
    assert none.exit_code == 10 and "1 to 3 images of 8x8 or 8x16 latents" in none.stderr


def test_inspect_shows_one_shape_and_names_all(built: tuple[Path, Result]) -> None:
    path, _ = built
    largest = CliRunner().invoke(main, ["inspect", str(path)])
    assert "3 images of 8 x 16 latents" in largest.stdout
    (line,) = (line for line in largest.stdout.splitlines() if line.startswith("of shapes"))
    assert line.split(maxsplit=2)[2].startswith("3x8x16, ") and line.count("x8x") == 6
    one = CliRunner().invoke(main, ["inspect", str(path), "--shape", "1x8x8"])
    assert "1 image of 8 x 8 latents" in one.stdout
    facts = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--shape", "2x8x8", "--json"]).stdout)
    assert facts["images"] == 2 and facts["shapes"][0]["name"] == "2x8x8"


def test_the_latents_of_an_image_choose_a_shape_too(mask: Mask, tmp_path: Path) -> None:
    options = BuildOptions(images=2, sizes=((8, 8), (8, 16)), start_step=1)
    path = build(mask, output=tmp_path / "m.dipgo", options=options).path
    with Runtime.load(path, threads=1) as runtime:
        given = example_inputs(runtime.bundle.shaped("8x8").plan)
        assert given.image_latents is not None
        drawn = runtime.denoise(seed=1, image_latents=given.image_latents, **given.conditions)
        assert drawn.shape == given.image_latents.shape == (2, 4, 8, 8)


def test_another_backend_follows_the_same_plans(built: tuple[Path, Result]) -> None:
    pytest.importorskip("openvino")
    path, _ = built
    with (
        Runtime.load(path, threads=1) as runtime,
        Runtime.load(path, threads=1, backend="openvino", precision="fp32") as other,
    ):
        for shape in runtime.shapes:
            given = example_inputs(runtime.bundle.shaped(shape).plan)
            found, expected = (each.denoise(given.latents, **given.conditions) for each in (other, runtime))
            assert relative_l2(found, expected) < 1e-3


def test_bench_times_one_shape(built: tuple[Path, Result]) -> None:
    path, _ = built
    options = BenchOptions(versus=("dense",), repeats=1, warmup=0, threads=1, shape="2x8x8")
    found = bench(path, options)
    assert (found.scenario["images"], found.scenario["latents"]) == (2, [8, 8])
    assert [row.name for row in found.rows] == ["plan", "dense"]


WRONG = {
    "a range backwards": (["--batch", "4..1"], 10, "write it as 1..4"),
    "no image": (["--batch", "0"], 10, "is no number of images"),
    "a size twice": (["--size", "8x8,8x8"], 10, "is asked for twice"),
    "half a size": (["--size", "8"], 10, "write HEIGHTxWIDTH"),
    "a size in two ways": (["--size", "8x8", "--height", "8"], 2, "--size, or --height and --width"),
}


@pytest.mark.parametrize("what", WRONG)
def test_shapes_that_make_no_sense(mask: Mask, tmp_path: Path, what: str) -> None:
    options, code, message = WRONG[what]
    mask.save(tmp_path / "m.json")
    words = ["build", "--mask", str(tmp_path / "m.json"), "-o", str(tmp_path / "m.dipgo")]
    refused = CliRunner().invoke(main, [*words, *options])
    assert refused.exit_code == code and message in refused.stderr
    assert not (tmp_path / "m.dipgo").exists()
