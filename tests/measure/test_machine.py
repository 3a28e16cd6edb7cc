from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dipgo_compile.measure import machine

MIB = 1 << 20


# In a process of its own: what other tests left behind comes and goes, tens of megabytes at a time.
_A_BLOCK_THAT_GOES = f"""
import json, mmap
from dipgo_compile.measure import machine
before = machine.Pss.now().total
with machine.PeakPss() as peak:
    with mmap.mmap(-1, {32 * MIB}) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1  # written, so the pages are really there
        while peak.peak.total < before + {24 * MIB}:  # the sampler has its own pace
            pass
print(json.dumps([before, peak.peak.total, machine.Pss.now().total]))
"""


def test_peak_pss_sees_memory_that_is_gone_again() -> None:
    ran = subprocess.run([sys.executable, "-c", _A_BLOCK_THAT_GOES], capture_output=True, check=True)
    before, peak, after = json.loads(ran.stdout)
    assert peak - before >= 24 * MIB
    # The interpreter may free or take a little meanwhile: a quarter of the block is far more than that.
    assert after - before < 8 * MIB


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


def ticks(*times: int) -> str:
    return f"cpu  {' '.join(map(str, times))}\ncpu0 1 2 3\n"


def test_stolen_time_is_a_share_of_what_was_wanted(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(ticks(100, 10, 50, 9000, 70, 1, 2, 40, 5, 5))
    with machine.StolenTime(stat) as stolen:
        stat.write_text(ticks(150, 10, 70, 9500, 99, 1, 2, 70, 9, 9))
    assert stolen.share == 30 / (50 + 20 + 30)


def test_a_machine_at_rest_had_nothing_stolen(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(ticks(100, 10, 50, 9000, 70, 1, 2, 40))
    with machine.StolenTime(stat) as stolen:
        pass
    assert stolen.share == 0


@pytest.mark.parametrize("text", [None, "", "intr 1 2 3", "cpu 1 2 3"])
def test_a_kernel_that_counts_no_stolen_time(tmp_path: Path, text: str | None) -> None:
    stat = tmp_path / "stat"
    if text is not None:
        stat.write_text(text)
    with machine.StolenTime(stat) as stolen:
        pass
    assert stolen.share is None


def test_description_is_complete() -> None:
    found = machine.describe()
    assert found["cpu"]
    assert 1 <= found["cores"] <= found["logical_cores"]
    assert found["memory_bytes"] > 64 * MIB
    assert {"numpy", "onnxruntime", "torch"} <= found["versions"].keys()
