"""The command line, on a class-conditional pipeline without text encoder and autoencoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from dipgo_trainer.command import train
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.samples import read_prompts
from dipgo_trainer.session import Schedule, Selection, choose_blocks, make_task

from dipgo_compile.errors import DipgoError, InputError, MaskError
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import Model
from tests.families.tiny import save


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("dit", tmp_path_factory.mktemp("pipeline"))


def test_train_writes_a_mask_for_the_model(pipeline: Path, tmp_path: Path) -> None:
    output = tmp_path / "mask.json"
    arguments = [str(pipeline), "-o", str(output), "--steps", "8", "--scheduler", "pndm", "--ratio", "0.5"]
    arguments += ["--blocks", r"transformer_blocks\.[01]", "--train-steps", "2", "--samples", "1"]
    result = CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "build --mask" in result.output
    mask = Mask.load(output)
    assert mask.model.source == str(pipeline)
    assert mask.scheduler.class_name == "PNDMScheduler"
    assert mask.calls == 9, "PLMS makes one call more"
    assert mask.blocks == ("transformer_blocks.0", "transformer_blocks.1")
    assert mask.provenance["blocks"] == r"transformer_blocks\.[01]"
    assert mask.provenance["lr"] == 10, "the paper's learning rate for DiT"
    assert abs(mask.provenance["pruned_macs"] - 0.5) < 0.0125
    assert len((tmp_path / "mask.log.jsonl").read_text().splitlines()) == 2


def test_help_shows_defaults() -> None:
    help_text = CliRunner().invoke(train, ["--help"]).output
    for phrase in ("--ratio", "[default: 0.8]", "--resume", "dipgo-compile train models/tiny-sd"):
        assert phrase in help_text


def test_errors_propagate(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, [str(tmp_path / "nothing"), "-o", str(tmp_path / "mask.json")])
    assert isinstance(result.exception, DipgoError)
    result = CliRunner().invoke(train, ["random:sd15", "-o", str(tmp_path / "missing" / "mask.json")])
    assert isinstance(result.exception, InputError)


def test_a_text_model_needs_prompts(unet: Model) -> None:
    with pytest.raises(InputError, match="--prompts"):
        make_task(unet, TrainConfig(), Schedule(4), Selection())


def test_blocks_by_pattern(unet: Model) -> None:
    assert choose_blocks(unet, Selection(pattern=r"up_blocks\.\d+")) == ("up_blocks.0", "up_blocks.1")
    with pytest.raises(MaskError, match="no module scope"):
        choose_blocks(unet, Selection(pattern="attention"))
    with pytest.raises(MaskError, match="not a regular expression"):
        choose_blocks(unet, Selection(pattern="("))


def test_prompts_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a bag\n\n  a coat \n")
    assert read_prompts(path) == ("a bag", "a coat")
    path.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_prompts(path)
    with pytest.raises(InputError, match="cannot read"):
        read_prompts(tmp_path / "none.txt")
