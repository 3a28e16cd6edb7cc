"""What stays in memory, measured in processes of their own: what other tests left behind comes and goes, tens
of megabytes at a time.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper
import pytest
from onnx import TensorProto

from dipgo_compile.backends.low_memory import BriefEngine
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.errors import BackendError

MIB = 1 << 20
ROWS = 4096  # of a hidden state; a megabyte for every 64 columns


def _measured(program: str) -> Any:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.fixture
def funnel(tmp_path: Path) -> Path:
    """An engine with large values of one size at its ends, and of another between."""
    file = tmp_path / "funnel.onnx"
    nodes, last = [], "x"
    for number, columns in enumerate((1024, 1020, 1024)):
        nodes.append(onnx.helper.make_node("Constant", [], [f"shape{number}"], value_ints=[ROWS, columns]))
        nodes.append(onnx.helper.make_node("Expand", [last, f"shape{number}"], [f"wide{number}"]))
        nodes.append(onnx.helper.make_node("ReduceMax", [f"wide{number}", "axes"], [f"narrow{number}"]))
        last = f"narrow{number}"
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["axes"], value_ints=[1]), *nodes],
        "funnel",
        [value("x", TensorProto.FLOAT, (ROWS, 1))],
        [value(last, TensorProto.FLOAT, (ROWS, 1))],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    return file


def test_a_buffer_is_not_kept_for_a_later_value_of_its_size(funnel: Path) -> None:
    grown = _measured(f"""
import json
import numpy as np
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.measure import machine
x, y = np.ones(({ROWS}, 1), np.float32), np.empty(({ROWS}, 1), np.float32)
names = ("x",), ("narrow2",)
engine = OnnxRuntimeBackend().open_file("funnel", {str(funnel)!r}, *names, threads=1)
run = engine.bind([x], [y])
before = machine.Pss.now().total
for _ in range(3):  # ONNX Runtime lays out a block after the first
    with machine.PeakPss() as peak:
        run()
print(json.dumps(peak.peak.total - before))
""")
    assert grown < 24 * MIB  # one value of 16 MiB is alive at a time; kept for the last, the first makes 32


def _left_of_a_freed_buffer(before: str, after: str) -> tuple[int, int]:
    """Bytes of 16 MiB that a process keeps when they are freed below others that are in use, a larger buffer
    having been freed earlier: at once, and once ``after`` was called. ``before`` is called first.
    """
    kept, left = _measured(f"""
import ctypes, json
from dipgo_compile.backends.low_memory import trim_heap, return_freed_memory
from dipgo_compile.measure import machine
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
{before}
libc.free(libc.malloc({24 * MIB}))
start = machine.Pss.now().total
block = libc.malloc({16 * MIB})
ctypes.memset(block, 1, {16 * MIB})
above = libc.malloc(1000)
libc.free(block)
kept = machine.Pss.now().total
{after}
print(json.dumps([kept - start, machine.Pss.now().total - start]))
""")
    return kept, left


def test_low_memory_keeps_no_freed_memory() -> None:
    kept, _ = _left_of_a_freed_buffer("return_freed_memory()", "")
    assert kept < 8 * MIB


def test_what_is_free_is_given_back() -> None:
    """Without ``low`` glibc keeps it, until it is told not to."""
    kept, left = _left_of_a_freed_buffer("", "trim_heap()")
    assert kept > 12 * MIB
    assert left < 8 * MIB


def test_a_brief_engine_is_closed_after_each_run(funnel: Path) -> None:
    opened: list[weakref.ref[Any]] = []

    def open_engine() -> Any:
        engine = OnnxRuntimeBackend().open_file("funnel", funnel, ("x",), ("narrow2",), threads=1)
        opened.append(weakref.ref(engine._session))
        return engine

    x, y = np.arange(ROWS, dtype=np.float32)[:, None], np.empty((ROWS, 1), np.float32)
    run = BriefEngine(open_engine).bind([x], [y])
    for start in (0, 5):
        x += start
        run()
        np.testing.assert_array_equal(y, x)
    gc.collect()
    assert len(opened) == 3  # once to see that it can be bound
    assert all(session() is None for session in opened)


def test_a_brief_engine_is_refused_when_it_is_bound(funnel: Path) -> None:
    backend = OnnxRuntimeBackend()
    brief = BriefEngine(lambda: backend.open_file("funnel", funnel, ("x",), ("narrow2",), threads=1))
    with pytest.raises(BackendError, match="'x' of the engine 'funnel'"):
        brief.bind([np.empty((ROWS, 2), np.float32)], [np.empty((ROWS, 1), np.float32)])
