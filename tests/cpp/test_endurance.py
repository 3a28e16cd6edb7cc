"""Many images and several threads: results stay those of a fresh session, and memory stays where it was."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from libdipgo import Library, Plan, Session

from tests.runtime import toy

IMAGES, WARM = 1000, 10
SESSIONS = 4
GROWTH = 256 << 10  # bytes: freed memory that the allocators of Python and of the library keep


@pytest.fixture(scope="module")
def plan(library: Library, bundle: Path) -> Plan:
    return library.load(bundle, threads=1)


def denoise(session: Session, seed: int) -> np.ndarray:
    image = toy.image(seed)
    return session.denoise(
        image["latents"], {"text": image["text"]}, guidance_scale=3.0, draws=[image["draw"]]
    )


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def test_a_thousand_images_take_the_memory_of_ten(plan: Plan) -> None:
    session = plan.session()
    for seed in range(WARM):
        denoise(session, seed)
    before = resident_bytes()
    for seed in range(WARM, IMAGES):
        last = denoise(session, seed)
    assert resident_bytes() - before < GROWTH
    np.testing.assert_array_equal(last, denoise(plan.session(), IMAGES - 1))


def test_sessions_in_threads_compute_what_one_does(plan: Plan) -> None:
    serial = plan.session()
    expected = [denoise(serial, seed) for seed in range(IMAGES)]
    sessions = [plan.session() for _ in range(SESSIONS)]
    found: list[np.ndarray | None] = [None] * IMAGES
    start = threading.Barrier(SESSIONS)

    def work(mine: int) -> None:
        start.wait()
        for seed in range(mine, IMAGES, SESSIONS):
            found[seed] = denoise(sessions[mine], seed)

    def work_all() -> None:
        threads = [threading.Thread(target=work, args=(mine,)) for mine in range(SESSIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    work_all()
    for result, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
    before = resident_bytes()
    work_all()
    assert resident_bytes() - before < SESSIONS * GROWTH


def test_closed_plans_give_their_memory_back(library: Library, bundle: Path) -> None:
    def once() -> None:
        denoise(library.load(bundle, threads=1).session(), 0)

    for _ in range(WARM):
        once()
    before = resident_bytes()
    for _ in range(5 * WARM):
        once()
    assert resident_bytes() - before < GROWTH + (1 << 20)
