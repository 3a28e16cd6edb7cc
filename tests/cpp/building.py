"""The C++ runtime for tests: built where ``make cpp`` builds it, unless ``DIPGO_CPP_BUILD`` names a build."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ORT_ROOT = REPOSITORY / "build" / "onnxruntime"
RELEASE = REPOSITORY / "build" / "cpp-release"
NEEDED = ("g++", "cmake")


class NotBuildable(Exception):
    """This machine lacks what building takes."""


def build_directory() -> Path:
    """A directory with ``libdipgo.so``, ``dipgo-run`` and ``generate``, up to date. Raises NotBuildable."""
    if given := os.environ.get("DIPGO_CPP_BUILD"):
        return Path(given).resolve()
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        raise NotBuildable(f"the C++ runtime needs {' and '.join(missing)}")
    RELEASE.mkdir(parents=True, exist_ok=True)
    with locked(RELEASE / ".lock"):  # tests run in several processes
        script = REPOSITORY / "runtime" / "scripts" / "fetch_onnxruntime.py"
        fetched = subprocess.run([sys.executable, script, ORT_ROOT], capture_output=True, text=True)
        if fetched.returncode:
            raise NotBuildable(f"no headers of ONNX Runtime: {fetched.stderr.strip()}")
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        configure = ["cmake", "-S", REPOSITORY / "runtime", "-B", RELEASE, f"-DORT_ROOT={ORT_ROOT}"]
        if not (RELEASE / "CMakeCache.txt").is_file():
            run([*configure, *generator, "-DDIPGO_TESTS=OFF"])
        run(["cmake", "--build", RELEASE, "--parallel", str(os.cpu_count() or 1)])
    return RELEASE


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
