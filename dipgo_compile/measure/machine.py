"""Which machine and which versions a measurement was made with, how much memory a process takes, and how much
of the processors' time others took meanwhile. No torch.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

PACKAGES = ("dipgo-compile", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "diffusers", "numpy")
SAMPLE_SECONDS = 0.02
STEAL = 7  # position in a line of /proc/stat; idle time is in the two from 3 on (proc_stat(5))
IDLE = slice(3, 5)
DISTURBED = 0.01  # of the processors' time stolen: more, and what is a few percent apart may as well be equal


def describe() -> dict[str, Any]:
    """The machine as JSON: processor, physical and usable logical cores, memory, operating system, versions,
    and where there is one the GPU with its memory and driver.
    """
    return {
        "cpu": _cpu_model(),
        "cores": physical_cores(),
        "logical_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
        "python": platform.python_version(),
        **({"gpu": gpu} if (gpu := _gpu()) else {}),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def _gpu() -> str | None:
    """The first NVIDIA GPU, as its driver describes it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    ran = subprocess.run(query, capture_output=True, text=True, check=False)
    return ran.stdout.splitlines()[0].strip() if ran.returncode == 0 and ran.stdout else None


def physical_cores() -> int:
    """The physical cores that this process may use: two hardware threads of one core count once."""
    usable = os.sched_getaffinity(0)
    siblings = set()
    for cpu in usable:
        file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(file.read_text().strip() if file.exists() else str(cpu))
    return len(siblings)


@dataclass(frozen=True, order=True, slots=True)
class Pss:
    """A proportional set size in bytes: private pages, plus the process's share of pages that it shares.
    ``mapped`` is the part that files back, such as mapped weights.

    Unlike the resident set, it counts a weight file once, however many engines map it.
    """

    total: int
    mapped: int

    @classmethod
    def now(cls) -> Pss:
        """This process's. Raises OSError where the kernel doesn't tell."""
        lines = (line.partition(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines())
        bytes_of = {name: int(rest.split()[0]) * 1024 for name, _, rest in lines if name.startswith("Pss")}
        if "Pss" not in bytes_of:
            raise OSError("the kernel reports no Pss in /proc/self/smaps_rollup")
        return cls(bytes_of["Pss"], bytes_of.get("Pss_File", 0))


class PeakPss:
    """The largest PSS while the context lasts, in ``peak``, sampled by a thread.

    Sampling walks the page tables, which takes time: don't measure speed meanwhile.
    """

    def __init__(self, every_seconds: float = SAMPLE_SECONDS) -> None:
        self.peak = Pss(0, 0)
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
        self.peak = max(self.peak, Pss.now())


class StolenTime:
    """How much of this virtual machine's processor time its host gave to others while the context lasted.

    ``share``, 0 to 1, is of the time in which there was work to do; None where the kernel doesn't tell.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self.share: float | None = None
        self._stat = stat
        self._before: tuple[int, int] | None = None

    def __enter__(self) -> StolenTime:
        self._before = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        after = self._read()
        if self._before is not None and after is not None:
            stolen, wanted = (now - then for now, then in zip(after, self._before, strict=True))
            self.share = stolen / wanted if wanted else 0.0

    def _read(self) -> tuple[int, int] | None:
        """Time stolen, and time stolen or used, of all processors since the machine started."""
        try:
            name, *times = self._stat.read_text().splitlines()[0].split()
        except (OSError, IndexError, ValueError):
            return None
        ticks = [int(time) for time in times[: STEAL + 1]]  # those behind are counted among them already
        if name != "cpu" or len(ticks) <= STEAL:
            return None
        return ticks[STEAL], sum(ticks) - sum(ticks[IDLE])


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
