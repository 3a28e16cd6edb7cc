"""What users do wrong ends with one readable message on stderr and an exit code that means something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_support import Invoke

from dipgo_compile import cli
from dipgo_compile.errors import BackendError, BundleError, InputError, MaskError


def test_missing_mask(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("build", "--mask", tmp_path / "nope.json")
    assert result.exit_code == MaskError.exit_code
    assert result.stderr.startswith("error: cannot read the mask")
    assert str(tmp_path / "nope.json") in result.stderr
    assert result.stdout == ""


def test_mask_of_another_format_names_the_field(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    path.write_text(json.dumps({"format": "something.else"}))
    result = invoke("build", "--mask", path)
    assert result.exit_code == MaskError.exit_code
    assert "available: dipgo.mask" in result.stderr


def test_missing_model_says_what_would_do(invoke: Invoke, mask_file: Path) -> None:
    result = invoke("build", "--mask", mask_file, "--model", "random:sd99")
    assert result.exit_code == 4
    assert "available: random:sd15" in result.stderr


def test_unknown_target(invoke: Invoke, mask_file: Path) -> None:
    result = invoke("build", "--mask", mask_file, "--target", "abacus")
    assert result.exit_code == BackendError.exit_code
    assert "available: cpu, cuda" in result.stderr


def test_missing_bundle(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("generate", tmp_path / "nope.dipgo", "--prompt", "a dress", "-o", tmp_path / "image.png")
    assert result.exit_code == BundleError.exit_code
    assert "nope.dipgo" in result.stderr


@pytest.mark.parametrize("output", ["image.docx", "missing/image.png"])
def test_impossible_picture_is_refused_before_any_work(invoke: Invoke, tmp_path: Path, output: str) -> None:
    result = invoke("generate", tmp_path / "nope.dipgo", "--prompt", "a dress", "-o", tmp_path / output)
    assert result.exit_code == InputError.exit_code


def test_unwritable_json_is_refused_before_any_work(invoke: Invoke, mask_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "summary.json"
    result = invoke("build", "--mask", mask_file, "--json", path)
    assert result.exit_code == InputError.exit_code
    assert "summary.json" in result.stderr
    assert "load the model" not in result.stderr


def test_no_traceback_in_a_real_process() -> None:
    command = [sys.executable, "-m", "dipgo_compile.cli", "build", "--mask", "nope.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == MaskError.exit_code
    assert "Traceback" not in done.stderr
    debugged = subprocess.run(
        [*command[:3], "--debug", *command[3:]], capture_output=True, text=True, check=False
    )
    assert debugged.returncode == MaskError.exit_code
    assert "Traceback" in debugged.stderr


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> object:
    """Call ``dipgo-compile build`` with a command in its place that raises the given exception."""

    def call(error: BaseException) -> object:
        @click.command()
        def build() -> None:
            raise error

        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: build)
        return invoke("build")

    return call


def test_missing_package_names_the_extra(failing: Invoke) -> None:
    result = failing(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert result.exit_code == 1
    assert 'pip install "dipgo-compile[build]"' in result.stderr


def test_submodule_of_a_missing_package(failing: Invoke) -> None:
    result = failing(ModuleNotFoundError("No module named 'onnx'", name="onnx.helper"))
    assert 'pip install "dipgo-compile[build]"' in result.stderr


def test_ctrl_c(failing: Invoke) -> None:
    result = failing(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted\n"


def test_full_disk(failing: Invoke) -> None:
    result = failing(OSError(28, "No space left on device", "out.json"))
    assert result.exit_code == 1
    assert "No space left on device\n  where: out.json" in result.stderr


@pytest.mark.parametrize("bug", [ImportError("circular", name="dipgo_compile.mask"), ZeroDivisionError()])
def test_bugs_keep_their_traceback(failing: Invoke, bug: Exception) -> None:
    with pytest.raises(type(bug)):
        failing(bug)
