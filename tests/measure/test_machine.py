from __future__ import annotations

from pathlib import Path

import numpy as np

from dipgo_compile.measure import machine

MIB = 1 << 20


def test_peak_pss_sees_memory_that_is_gone_again() -> None:
    before = machine.Pss.now().total
    with machine.PeakPss() as peak:
        block = np.ones(32 * MIB, np.uint8)  # written, so the pages are really there
        while peak.peak.total < before + 24 * MIB:  # the sampler has its own pace
            pass
        del block
    # The interpreter may free or take a little meanwhile: a quarter of the block is far more than that.
    assert peak.peak.total - before >= 24 * MIB
    assert machine.Pss.now().total - before < 16 * MIB


def test_pss_tells_mapped_files_from_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    np.ones(32 * MIB, np.uint8).tofile(file)
    before = machine.Pss.now()
    mapped = np.memmap(file, np.uint8, "r")
    assert mapped.sum() == 32 * MIB  # read, so the pages are really there
    grown = machine.Pss.now()
    # Pages in the page cache that nobody else maps count whole.
    assert grown.mapped - before.mapped >= 24 * MIB
    assert grown.total - before.total >= 24 * MIB


def test_description_is_complete() -> None:
    found = machine.describe()
    assert found["cpu"]
    assert 1 <= found["cores"] <= found["logical_cores"]
    assert found["memory_bytes"] > 64 * MIB
    assert {"numpy", "onnxruntime", "torch"} <= found["versions"].keys()
