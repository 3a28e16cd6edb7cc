"""Many images and several threads: results stay those of a fresh session, and memory stays where it was."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from libdipgo import Library, Plan, Session

from tests.runtime import toy

IMAGES, WARM = 1000, 10
SESSIONS = 4
GROWTH = 1 << 20  # bytes: what allocators keep of freed memory; a kilobyte lost with each image would be more

measures_memory = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what is freed"
)


@pytest.fixture(scope="module")
def plan(library: Library, bundle: Path) -> Plan:
    return library.load(bundle, threads=1)


def denoise(session: Session, seed: int) -> np.ndarray:
    image = toy.image(seed)
    return session.denoise(
        image["latents"], {"text": image["text"]}, guidance_scale=3.0, draws=[image["draw"]]
    )


def resident_bytes() -> int:
    """What was allocated: pages of files (libraries, weights) come and go as the kernel sees fit."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))


@measures_memory
def test_a_thousand_images_take_the_memory_of_ten(plan: Plan) -> None:
    session = plan.session()
    for seed in range(WARM):
        denoise(session, seed)
    before = resident_bytes()
    for seed in range(WARM, IMAGES):
        last = denoise(session, seed)
    assert resident_bytes() - before < GROWTH
    np.testing.assert_array_equal(last, denoise(plan.session(), IMAGES - 1))


def work_together(sessions: list[Session]) -> list[np.ndarray]:
    """``IMAGES`` images, dealt out to the sessions, each in a thread of its own."""
    found: dict[int, np.ndarray] = {}
    start = threading.Barrier(len(sessions))

    def work(mine: int) -> None:
        start.wait()
        for seed in range(mine, IMAGES, len(sessions)):
            found[seed] = denoise(sessions[mine], seed)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[seed] for seed in range(IMAGES)]


def test_sessions_in_threads_compute_what_one_does(plan: Plan) -> None:
    serial = plan.session()
    results = work_together([plan.session() for _ in range(SESSIONS)])
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result, denoise(serial, seed))


@measures_memory
def test_sessions_in_threads_take_no_more_with_time(plan: Plan) -> None:
    sessions = [plan.session() for _ in range(SESSIONS)]
    work_together(sessions)
    before = resident_bytes()
    work_together(sessions)
    assert resident_bytes() - before < SESSIONS * GROWTH


@measures_memory
def test_closed_plans_give_their_memory_back(library: Library, bundle: Path) -> None:
    def once() -> None:
        denoise(library.load(bundle, threads=1).session(), 0)

    for _ in range(WARM):
        once()
    before = resident_bytes()
    for _ in range(5 * WARM):
        once()
    assert resident_bytes() - before < 2 * GROWTH
