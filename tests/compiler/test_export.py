"""What can't be loaded or exported is refused in words that help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dipgo_compile.errors import ModelError
from dipgo_compile.graphs.export import trace
from dipgo_compile.models.source import load


class DataDependent(nn.Module):
    """Takes a branch that only the data decide, which no static graph can."""

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return sample if sample.sum() > 0 else -sample


def test_the_cause_is_named_and_not_the_step_that_failed() -> None:
    with pytest.raises(ModelError, match="the thing cannot be exported to ONNX") as caught:
        trace("the thing", DataDependent(), {"sample": torch.ones(2)}, ["sample"], "out", where="here")
    message = str(caught.value)
    assert "data-dependent" in message
    assert "\x1b" not in message
    assert "step 1/3" not in message


@pytest.fixture
def directory(repository: Path, tmp_path: Path) -> Path:
    """tiny-sd, in a directory whose index may be altered."""
    for part in (repository / "models" / "tiny-sd").iterdir():
        if part.is_dir():
            (tmp_path / part.name).symlink_to(part)
    return tmp_path


@pytest.mark.parametrize("entry", [None, [None, None]])
def test_an_index_may_leave_out_the_image_decoder(
    directory: Path, repository: Path, entry: list[None] | None
) -> None:
    index = json.loads((repository / "models" / "tiny-sd" / "model_index.json").read_text())
    assert index.pop("vae")
    (directory / "model_index.json").write_text(json.dumps(index | ({"vae": entry} if entry else {})))
    assert load(str(directory), weights=False).vae_scale_factor == 1


def test_an_index_without_a_denoiser_names_its_parts(directory: Path, repository: Path) -> None:
    index = json.loads((repository / "models" / "tiny-sd" / "model_index.json").read_text())
    (directory / "model_index.json").write_text(json.dumps(index | {"unet": [None, None]}))
    with pytest.raises(ModelError, match=r"available: .*text_encoder.*\n.*a unet or a transformer") as caught:
        load(str(directory), weights=False)
    assert "_class_name" not in str(caught.value)
