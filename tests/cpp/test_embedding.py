"""The page on embedding: its programs are built against the installed library, and run, as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from libdipgo import Library

from dipgo_compile.runtime import Runtime
from tests.runtime import toy

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "embedding.md").read_text(encoding="utf-8")
SEED, SCALE = 7, 3.0  # as in the examples


@pytest.fixture(scope="module")
def examples() -> dict[str, str]:
    """The page's files by name."""
    return dict(re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def prefix(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is installed."""
    directory = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", built, "--prefix", directory)
    return directory


@pytest.fixture(scope="module")
def programs(prefix: Path, examples: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, built by a project that knows of the library what ``find_package`` tells it."""
    project = tmp_path_factory.mktemp("project")
    for name, text in examples.items():
        (project / name).write_text(text, encoding="utf-8")
    build = project / "build"
    flags = "-Wall -Wextra -Wpedantic -Werror"
    run(
        *("cmake", "-S", project, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"),
        *(f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}"),
    )
    run("cmake", "--build", build)
    return build


@pytest.fixture
def workplace(bundle: Path, tmp_path: Path) -> Path:
    """A directory with ``model.dipgo``."""
    (tmp_path / "model.dipgo").symlink_to(bundle)
    return tmp_path


@pytest.fixture(scope="module")
def expected(library: Library, bundle: Path) -> np.ndarray:
    """The image that the examples make, by Python from the same noise."""
    size = int(np.prod(toy.LATENTS))
    latents, draw = library.noise(SEED, [size, size]).reshape(2, *toy.LATENTS)
    with Runtime.load(bundle, threads=1) as runtime:
        text = np.zeros(toy.TEXT, np.float32)
        return runtime.denoise(latents, draws=[draw], guidance_scale=SCALE, text=text)


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.parametrize("program", ["embed_cpp", "embed_c"])
def test_programs_make_the_image(program: str, programs: Path, workplace: Path, expected: np.ndarray) -> None:
    run(programs / program, cwd=workplace)
    made = np.fromfile(workplace / "latents.f32", np.float32).reshape(toy.LATENTS)
    np.testing.assert_array_equal(made, expected)


def test_programs_say_what_is_wrong(programs: Path, tmp_path: Path) -> None:
    for program in ("embed_cpp", "embed_c", "stepwise"):
        done = subprocess.run([programs / program], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 8
        assert "there is no bundle at model.dipgo" in done.stderr


def test_stepwise_makes_every_call(programs: Path, workplace: Path, bundle: Path, library: Library) -> None:
    lines = run(programs / "stepwise", cwd=workplace).splitlines()
    sample = library.noise(SEED, [int(np.prod(toy.GUIDED))]).reshape(toy.GUIDED)
    conditions = {"text": np.zeros(toy.TEXT, np.float32)}
    with Runtime.load(bundle, threads=1) as runtime:
        session = runtime.session()
        for call, timestep in enumerate(toy.TIMESTEPS):
            noise_pred = session.run_call(call, sample, conditions)
            assert lines[call] == f"t = {timestep:g}: {noise_pred.flat[0]:g}"
            sample -= np.float32(0.1) * noise_pred
    assert len(lines) == len(toy.TIMESTEPS)


def test_python(examples: dict[str, str], workplace: Path) -> None:
    run(sys.executable, "-c", examples["embed.py"], cwd=workplace, PYTHONPATH=str(REPOSITORY))
    made = np.load(workplace / "latents.npy")
    assert made.shape == toy.LATENTS and np.isfinite(made).all() and made.std() > 0


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_pkg_config_has_the_flags(prefix: Path, examples: dict[str, str], workplace: Path) -> None:
    (description,) = prefix.rglob("dipgo.pc")
    flags = run("pkg-config", "--cflags", "--libs", "dipgo", PKG_CONFIG_PATH=str(description.parent)).split()
    (workplace / "embed.c").write_text(examples["embed.c"])
    (directory,) = {file.parent for file in prefix.rglob("libdipgo.so")}
    run("cc", "embed.c", "-o", "embed", *flags, f"-Wl,-rpath,{directory}", cwd=workplace)
    run("./embed", cwd=workplace)
    assert (workplace / "latents.f32").stat().st_size == 4 * np.prod(toy.LATENTS)


def test_examples_are_all_here(examples: dict[str, str]) -> None:
    assert set(examples) == {"embed.py", "CMakeLists.txt", "embed.cpp", "embed.c", "stepwise.cpp"}
