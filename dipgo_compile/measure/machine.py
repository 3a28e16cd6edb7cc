"""Which machine and which versions a measurement was made with, and how much memory a process takes. No
torch.
"""

from __future__ import annotations

import os
import platform
import threading
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

PACKAGES = ("dipgo-compile", "onnxruntime", "openvino", "torch", "diffusers", "numpy")
SAMPLE_SECONDS = 0.02


def describe() -> dict[str, Any]:
    """The machine as JSON: processor, physical and usable logical cores, memory, operating system,
    versions.
    """
    return {
        "cpu": _cpu_model(),
        "cores": physical_cores(),
        "logical_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def physical_cores() -> int:
    """The physical cores that this process may use: two hardware threads of one core count once."""
    usable = os.sched_getaffinity(0)
    siblings = set()
    for cpu in usable:
        file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(file.read_text().strip() if file.exists() else str(cpu))
    return len(siblings)


def pss_bytes() -> int:
    """This process's proportional set size: private pages, plus its share of pages that it shares.

    Unlike the resident set, it counts a weight file once, however many engines map it.
    """
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    raise OSError("the kernel reports no Pss in /proc/self/smaps_rollup")


class PeakPss:
    """The largest PSS while the context lasts, in ``bytes``, sampled by a thread.

    Sampling walks the page tables, which takes time: don't measure speed meanwhile.
    """

    def __init__(self, every_seconds: float = SAMPLE_SECONDS) -> None:
        self.bytes = 0
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakPss:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        self.bytes = max(self.bytes, pss_bytes())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
