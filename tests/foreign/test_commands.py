"""The commands, from a file to a measured bundle."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from onnx_denoiser import File, make_mask

from dipgo_compile import bench
from dipgo_compile.bench import BenchOptions
from dipgo_compile.build import build
from dipgo_compile.bundle import open_bundle
from dipgo_compile.cli import main
from dipgo_compile.errors import InputError, MaskError
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import relative_l2
from dipgo_compile.measure.rows import dense, plan, prepare
from dipgo_compile.models.source import Model

Run = Callable[..., Result]
ROUNDING = 1e-4  # relative L2 after a few calls; a wrong timestep moves the latents by more than 1e-2


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call


def test_from_file_to_report(run: Run, torchscript: File) -> None:
    sizes = ("--height", 8, "--width", 16, "--tokens", 5)
    told = (*sizes, "--guidance-order", "cond,uncond", "--scheduler", "ddim", "--steps", 8)
    made = run("mask", "make", "random", torchscript.path, *told, "--ratio", 0.3, "-o", "m.json")
    assert made.exit_code == 0, made.output
    assert "note: 'x' is taken for the sample: nothing else can be" in made.stderr
    shown = run("mask", "show", "m.json")
    assert "stages.2" in shown.stdout and "ideal speedup" in shown.stdout
    built = run("build", "--mask", "m.json", "--json", "-")
    assert built.exit_code == 0, built.output
    assert "note:" not in built.stderr  # the mask tells all
    assert json.loads(built.stdout)["calls"]["total"] == 8
    verified = run("verify", "m.dipgo")
    assert verified.exit_code == 0, verified.output
    assert "PASSED: 8 calls" in verified.stdout
    inspected = run("inspect", "m.dipgo")
    assert "(onnx)" in inspected.stdout
    assert "1 image of 8 x 16 latents, guidance, batch is cond + uncond" in inspected.stdout


def test_blocks(run: Run, torchscript: File) -> None:
    sizes = ("--height", 8, "--width", 8, "--tokens", 5)
    listed = run("blocks", torchscript.path, *sizes)
    assert listed.exit_code == 0, listed.output
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:4]] == [
        "stages.0",
        "stages.1",
        "stages.2",
    ]
    assert r"--blocks 'stages\.\d+'" in listed.stdout
    found = json.loads(
        run("blocks", torchscript.path, *sizes, "--regex", r"stages\.\d\.conv", "--json", "-").stdout
    )
    assert [block["scope"] for block in found["blocks"]] == [f"stages.{i}.conv" for i in range(3)]
    assert found["blocks"][0]["macs"] == 64 * 16 * 16 * 9
    modules = json.loads(
        run("blocks", torchscript.path, *sizes, "--granularity", "module", "--json", "-").stdout
    )
    assert {"clock", "enter", "stages.1.attention.q"} <= {block["scope"] for block in modules["blocks"]}
    assert modules["regex"] is None


def test_errors_name_the_option(run: Run, torchscript: File) -> None:
    made = run("mask", "make", "all", torchscript.path, "--scheduler", "ddim")
    assert made.exit_code == InputError.exit_code
    assert "axis 1 of 'text' (length) is free" in made.stderr and "--tokens N" in made.stderr
    sizes = ("--height", 8, "--width", 8, "--tokens", 5)
    made = run("mask", "make", "all", torchscript.path, *sizes)
    assert "the model comes without a scheduler" in made.stderr
    wrong = run("mask", "make", "all", "random:sd15", "--sample", "x")
    assert "random:sd15 is not an ONNX file" in wrong.stderr
    assert run("build", "--mask", "m.json", "--onnx", "a.onnx", "--model", "b").exit_code == 2


def test_an_export_stands_in_for_the_masks_model(run: Run, exported_tiny_sd: tuple[Model, Path]) -> None:
    """Trained in PyTorch, compiled from a file: the model's blocks and MACs, guided as the model is."""
    model, file = exported_tiny_sd
    steps = ("--scheduler", "ddim", "--steps", 4, "--every", 2)
    assert run("mask", "make", "skip-calls", model.source, *steps, "-o", "m.json").exit_code == 0
    mask = Mask.load("m.json")
    built = run("build", "--mask", "m.json", "--onnx", file, "--json", "-")
    assert built.exit_code == 0, built.output
    assert f"is taken for an export of {model.source}" in built.stderr
    macs = model.macs(model.geometry(), mask.blocks)
    assert json.loads(built.stdout)["macs"] == {"dense": 4 * macs.total, "kept": mask.kept_macs(macs)}
    interface = open_bundle("m.dipgo").plan.interface
    assert interface.guidance == ("uncond", "cond")
    assert interface.conditions == ("encoder_hidden_states",)
    kept = Mask.load("m.dipgo/mask.json")
    assert (kept.model.class_name, kept.model.source, kept.keep) == ("onnx", str(file), mask.keep)
    assert run("verify", "m.dipgo").exit_code == 0


def test_blocks_that_are_called_otherwise(
    run: Run, exported_tiny_sd: tuple[Model, Path], torchscript: File
) -> None:
    """Three blocks of the mask for the three stages of another file, in order."""
    steps = ("--scheduler", "ddim", "--steps", 2)
    chosen = ("--blocks", r"(down|up)_blocks\.0|mid_block")
    source = exported_tiny_sd[0].source
    assert run("mask", "make", "all", source, *steps, *chosen, "-o", "m.json").exit_code == 0
    file = ("--onnx", torchscript.path, "--height", 8, "--width", 8, "--tokens", 5)
    refused = run("build", "--mask", "m.json", *file)
    assert refused.exit_code == MaskError.exit_code and "has no block 'down_blocks.0'" in refused.stderr
    refused = run("build", "--mask", "m.json", *file, "--blocks", r"stages\.[01]")
    assert "2 modules for the 3 blocks of the mask" in refused.stderr
    built = run("build", "--mask", "m.json", *file, "--blocks", r"stages\.\d+", "--no-guidance")
    assert built.exit_code == 0, built.output
    assert Mask.load("m.dipgo/mask.json").blocks == ("stages.0", "stages.1", "stages.2")


def test_the_dense_row_is_the_file(file: File, tmp_path: Path) -> None:
    """Of an unpruned bundle both rows compute the same; sigmas and integers are fed as it reads them."""
    model = file.open()
    scheduler = "euler" if model.timestep_kind == "sigma" else "ddim"
    path = build(make_mask(model, ("111",) * 3, scheduler), model=model, output=tmp_path / "m.dipgo").path
    opened = open_bundle(path)
    job = bench._job(opened, BenchOptions(threads=1), str(tmp_path))
    prepare.store_inputs(opened, tmp_path)
    prepare.store_dense(opened, job.source, tmp_path)
    assert relative_l2(dense.load(job)(), plan.load(job)()) < ROUNDING


def test_without_pytorch_dense_is_all_there_is_to_compare_with(run: Run, today: File, tmp_path: Path) -> None:
    model = today.open()
    build(make_mask(model, ("111", "000"), "ddim"), model=model, output=tmp_path / "m.dipgo")
    options = ("--repeats", 1, "--warmup", 0, "--threads", 1)
    rows = json.loads(run("bench", "m.dipgo", *options, "--json", "-").stdout)["rows"]
    assert [row["name"] for row in rows] == ["plan", "dense"]


# What torch says of its older exporter, which the page uses.
@pytest.mark.filterwarnings(
    "ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"
)
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
def test_the_page_runs(run: Run, repository: Path) -> None:
    """The worked example of docs/foreign-onnx.md, as it stands."""
    page = (repository / "docs" / "foreign-onnx.md").read_text(encoding="utf-8")
    printed = ""
    for block in page.split("```")[1::2]:
        language, _, text = block.partition("\n")
        if language == "python":
            exec(compile(text, "foreign-onnx.md", "exec"), {})
        elif language == "sh":
            for line in text.splitlines():
                done = run(*shlex.split(line)[1:])
                assert done.exit_code == 0, f"{line}\n{done.output}"
                printed += done.output
        else:  # what a command prints, some lines left out
            assert not [line for line in text.splitlines() if line != "..." and line not in printed]
    assert "PASSED" in printed
