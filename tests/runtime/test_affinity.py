"""Threads on processors of their own."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401 - starts a thread of its own, which no bundle places
import pytest
import toy

from dipgo_compile.backends.affinity import threads_of
from dipgo_compile.errors import InputError
from dipgo_compile.runtime import Runtime

HERE = sorted(number + 1 for number in os.sched_getaffinity(0))
FIRST, LAST = HERE[0], HERE[-1]


ENGINES = 2


def places(threads: set[str]) -> list[set[int]]:
    """Where ``threads`` may run, without those that have ended: pools of engines being opened do."""
    found = []
    for thread in threads:
        with suppress(ProcessLookupError):
            found.append(os.sched_getaffinity(int(thread)))
    return sorted(found, key=sorted)


def settles(pristine: Path, affinity: str, expected: list[set[int]]) -> bool:
    """Whether the threads that loading a bundle starts come to be where they are ``expected``: they place
    themselves, after they have started.
    """
    before = set(os.listdir("/proc/self/task"))
    deadline = time.monotonic() + 10
    with Runtime.load(pristine, affinity=affinity):
        new = set(os.listdir("/proc/self/task")) - before
        while True:
            if places(new) == sorted(expected, key=sorted):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)


@pytest.mark.skipif(len(HERE) < 2, reason="with one processor there is nowhere else to be")
def test_threads_run_where_they_are_told(pristine: Path) -> None:
    first, last = {FIRST - 1}, {LAST - 1}
    assert settles(pristine, f"{LAST}", [last] * ENGINES)
    assert settles(pristine, f"{FIRST};{FIRST},{LAST}", [first, first | last] * ENGINES)


def test_results_are_those_of_as_many_threads_anywhere(pristine: Path) -> None:
    image = toy.image()
    given = {"draws": [image["draw"]], "text": image["text"]}
    with (
        Runtime.load(pristine, threads=2, affinity=str(FIRST)) as here,
        Runtime.load(pristine, threads=2) as anywhere,
    ):
        np.testing.assert_array_equal(
            here.denoise(image["latents"], **given), anywhere.denoise(image["latents"], **given)
        )


def test_the_calling_thread_is_one_more() -> None:
    assert threads_of(str(FIRST)) == 2
    assert threads_of(f"{FIRST};{FIRST}-{FIRST};{FIRST},{LAST}", 4) == 4


@pytest.mark.parametrize("affinity", ["", ";", "a", "1;;1", "1,", "-1", "1 2", "1-2-3", "1;x"])
def test_what_is_no_affinity(affinity: str) -> None:
    with pytest.raises(InputError, match="does not say where a thread runs") as caught:
        threads_of(affinity)
    assert '"1,2;3-4"' in str(caught.value)


@pytest.mark.parametrize("affinity", ["0", str(LAST + 1), f"{FIRST}-4000000000", "4000000000-1"])
def test_processors_that_do_not_exist(affinity: str) -> None:
    with pytest.raises(InputError, match="there is no processor") as caught:
        threads_of(affinity)
    assert caught.value.available == tuple(map(str, HERE))


def test_another_number_of_threads_is_refused(pristine: Path) -> None:
    with pytest.raises(InputError, match="places 1 threads, 3 threads were asked for") as caught:
        Runtime.load(pristine, threads=3, affinity=str(FIRST))
    assert "ask for 2" in str(caught.value)


def test_openvino_takes_none(pristine: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(InputError, match="OpenVINO places its threads itself"):
        Runtime.load(pristine, backend="openvino", affinity=str(FIRST))
