from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import STEPS
from click.testing import Result

from dipgo_compile.bundle import WEIGHTS, open_bundle
from dipgo_compile.commands.build import size
from dipgo_compile.models.source import load_pipeline


def test_default_name_is_the_masks(bundle: Path, mask_file: Path) -> None:
    assert bundle.name == f"{mask_file.stem}.dipgo"
    assert (bundle / "plan.json").is_file()


def test_the_pipelines_weights_are_stored_once_and_shared(bundle: Path, repository: Path) -> None:
    """In the same file as the denoiser's, and no more bytes than the three models' parameters have. A few of
    the denoiser's are gone: what reads the timestep alone was computed when building.
    """
    plan = open_bundle(bundle).plan
    assert plan.pipeline is not None and {*plan.pipeline.files, WEIGHTS} <= set(plan.files)
    model = load_pipeline(str(repository / "models" / "tiny-sd"))
    modules = (model.unet, model.text_encoder, model.vae.decoder, model.vae.post_quant_conv)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    stored = plan.files[WEIGHTS].nbytes
    assert 0.9 < stored / sum(4 * parameter.numel() for parameter in parameters) <= 1


def test_summary(other_build: Result) -> None:
    facts = json.loads(other_build.stdout)  # stdout holds nothing else: progress goes to stderr
    output = Path(facts["bundle"])
    assert facts["calls"] == {"total": STEPS, "run": STEPS}
    assert facts["engines"] > 1
    assert facts["macs"]["kept"] == facts["macs"]["dense"] > 0
    assert facts["disk_bytes"] == sum(file.stat().st_size for file in output.iterdir() if file.is_file())
    assert facts["cache_bytes"] > facts["disk_bytes"] / 2
    assert "load the model" in other_build.stderr
    assert open_bundle(output).plan.interface.split


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 bytes"), (1_000, "1.0 kB"), (2_500_000, "2.5 MB"), (3_400_000_000, "3.4 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
