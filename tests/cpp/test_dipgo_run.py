"""The command ``dipgo-run``: arrays from files, latents into one, and where the time went."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dipgo_compile.runtime import Runtime
from tests.runtime import toy


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The inputs of an image as .npy files."""
    paths = {name: tmp_path / f"{name}.npy" for name in ("latents", "text", "draw")}
    for name, array in toy.image(3).items():
        np.save(paths[name], array)
    return paths


def options(files: dict[str, Path]) -> list[object]:
    return [
        "--latents", files["latents"], "--condition", f"text={files['text']}", "--draw", files["draw"],
        "--guidance-scale", 3, "--threads", 1,
    ]  # fmt: skip


def test_denoises_from_files_into_one(dipgo_run, bundle, files, tmp_path):
    done = dipgo_run(bundle, *options(files), "-o", tmp_path / "out.npy", "--repeat", 3, "--json", "-")
    assert done.returncode == 0, done.stderr
    image = toy.image(3)
    with Runtime.load(bundle, threads=1) as runtime:
        expected = runtime.denoise(
            image["latents"], draws=[image["draw"]], guidance_scale=3.0, text=image["text"]
        )
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    report = json.loads(done.stdout)
    assert (report["repeat"], report["instructions"], report["runs"]) == (3, 13, 5)
    inside, whole = report["seconds_in_onnxruntime"], report["seconds_per_batch"]
    assert 0 < inside["min"] <= inside["median"] <= inside["max"] < whole["max"]


def test_describes_a_plan(dipgo_run, bundle):
    described = json.loads(dipgo_run(bundle, "--describe").stdout)
    assert described["conditions"] == [{"name": "text", "dtype": "float32", "shape": list(toy.TEXT)}]
    assert described["timesteps"] == list(toy.TIMESTEPS)
    assert described["guidance"] == ["uncond", "cond"]


def test_the_same_seed_gives_the_same_latents(dipgo_run, bundle, files, tmp_path):
    results = []
    for index, seed in enumerate((7, 7, 8)):
        path = tmp_path / f"{index}.npy"
        condition = f"text={files['text']}"
        assert dipgo_run(bundle, "--condition", condition, "--seed", seed, "-o", path).returncode == 0
        results.append(np.load(path))
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--seed"], 2, "--seed needs a value"),
        (["--seed", "-3"], 2, "--seed takes a count, not -3"),
        (["--memory", "huge"], 2, "--memory takes one of: low balanced fast"),
        (["--frobnicate"], 2, "there is no option --frobnicate"),
        (["--condition", "text"], 2, "--condition takes NAME=FILE"),
        (["--latents", "no.npy"], 1, "no.npy: cannot be read"),
        ([], 10, "not those of the plan"),
    ],
)
def test_mistakes_are_explained(dipgo_run, bundle, arguments, status, message):
    done = dipgo_run(bundle, *arguments)
    assert done.returncode == status
    assert message in done.stderr


def test_files_that_are_no_arrays(dipgo_run, bundle, tmp_path):
    broken = {
        "text.npy": (b"hello, this is text", "not a .npy file"),
        "short.npy": (b"\x93NUMPY\x01\x00\xff", "ends too early"),
    }
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((2, 3))))
    np.save(tmp_path / "complex.npy", np.zeros(3, np.complex64))
    for name, (content, message) in broken.items():
        (tmp_path / name).write_bytes(content)
        assert message in dipgo_run(bundle, "--latents", tmp_path / name).stderr
    assert "Fortran" in dipgo_run(bundle, "--latents", tmp_path / "fortran.npy").stderr
    assert "<c8" in dipgo_run(bundle, "--latents", tmp_path / "complex.npy").stderr


def test_help_lists_every_option(dipgo_run):
    shown = dipgo_run("--help")
    assert shown.returncode == 0
    assert all(option in shown.stdout for option in ("--condition", "--repeat", "--describe", "--json"))
