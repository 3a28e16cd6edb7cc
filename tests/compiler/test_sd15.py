"""The authors' released mask on the Stable Diffusion 1.5 architecture, at full width and 128x128 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference import assert_parity, options

from dipgo_compile.build import Exported
from dipgo_compile.bundle import open_bundle
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.halves import share_halves
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load
from dipgo_compile.program import Combine
from dipgo_compile.rewrites import apply, default_rewrites

# What finds nothing to replace: those for transformers; tiles, which take 1,024 rows (here are 512); and
# convolutions of enlarged images, which have more weights than such small images have pixels.
NOT_HERE = {"modulated_norm", "mask_floor", "tile_rows", "upsampled_conv"}
RELEASED = Path(__file__).parents[2] / "benchmarks" / "masks" / "sd15_ddim50_released_0.80.json"


@pytest.mark.slow
def test_released_mask_on_sd15(tmp_path):
    mask = Mask.load(RELEASED)
    model = load(mask.model.source)
    geometry = model.geometry(batch=2, height=128, width=128)
    graph = export(model, geometry)
    assert share_halves(graph, model.inputs(geometry)).modified
    reports = apply(graph, default_rewrites("onnxruntime"))
    assert {report.name for report in reports if not report.modified} == NOT_HERE
    path = tmp_path / "sd15.dipgo"
    assert_parity(Exported(model, geometry, graph), mask, options(), path, seed=0)

    program = open_bundle(path, verify=False).plan.program
    assert program.calls_with_runs() == (0, 7, 13, 19, 20, 21, 26, 32, 39, 48)
    assert len(list(program.runs())) == 1 + 10  # the prologue, and one run a call
    # Between two runs: one combination for all the scheduler's steps, whose result is the next sample.
    assert sum(isinstance(instruction, Combine) for instruction in program.instructions) == 10
