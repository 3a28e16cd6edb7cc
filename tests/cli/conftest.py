from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import STEPS, Invoke
from click.testing import CliRunner, Result

from dipgo_compile.cli import main
from dipgo_compile.mask import Mask, ModelRef, SchedulerRef


@pytest.fixture
def invoke() -> Invoke:
    """Call ``dipgo-compile`` in this process; exceptions that it lets through fail the test."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(
            main, [str(argument) for argument in arguments], catch_exceptions=False, prog_name="dipgo-compile"
        )

    return call


@pytest.fixture(scope="session")
def mask_file(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An all-ones mask of models/tiny-sd for a few DDIM steps."""
    from dipgo_compile.models.source import load, make_scheduler

    model = load(str(repository / "models" / "tiny-sd"), weights=False)
    scheduler = make_scheduler(model.scheduler_class, model.scheduler_config)
    scheduler.set_timesteps(STEPS)
    timesteps = tuple(float(timestep) for timestep in scheduler.timesteps)
    blocks = model.blocks()
    mask = Mask(
        ModelRef(model.source, model.class_name, model.config_sha256),
        SchedulerRef(model.scheduler_class, model.scheduler_config, STEPS, timesteps),
        blocks,
        ((True,) * len(blocks),) * STEPS,
    )
    path = tmp_path_factory.mktemp("mask") / "dense.json"
    mask.save(path)
    return path


@pytest.fixture(scope="session")
def bundle(mask_file: Path) -> Path:
    """A bundle of that mask, built as a user builds it: by the installed command. It has its pipeline."""
    subprocess.run(
        [sys.executable, "-m", "dipgo_compile.cli", "build", "--mask", mask_file, "--pipeline"],
        cwd=mask_file.parent, check=True, capture_output=True,
    )  # fmt: skip
    return mask_file.with_suffix(".dipgo")


@pytest.fixture(scope="session")
def other_build(mask_file: Path) -> Result:
    """The command's answer to many options at once: two images a batch, split guidance, one engine a block,
    JSON.
    """
    output = mask_file.with_name("other.dipgo")
    options = ["--batch", "2", "--split-guidance", "--fuse", "none", "--json", "-"]
    arguments = ["build", "--mask", str(mask_file), "-o", str(output), *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result
