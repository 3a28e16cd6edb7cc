from __future__ import annotations

import numpy as np

from dipgo_compile.measure import machine

MIB = 1 << 20


def test_peak_pss_sees_memory_that_is_gone_again() -> None:
    before = machine.pss_bytes()
    with machine.PeakPss() as peak:
        block = np.ones(32 * MIB, np.uint8)  # written, so the pages are really there
        while peak.bytes < before + 24 * MIB:  # the sampler has its own pace
            pass
        del block
    # The interpreter may free or take a little meanwhile: a quarter of the block is far more than that.
    assert peak.bytes - before >= 24 * MIB
    assert machine.pss_bytes() - before < 16 * MIB


def test_description_is_complete() -> None:
    found = machine.describe()
    assert found["cpu"]
    assert 1 <= found["cores"] <= found["logical_cores"]
    assert found["memory_bytes"] > 64 * MIB
    assert {"numpy", "onnxruntime", "torch"} <= found["versions"].keys()
