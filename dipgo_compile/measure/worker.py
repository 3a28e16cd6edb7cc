"""The process that a benchmark's row lives in: one JSON line in, one out.

The first line asks for a row (``{"row": "plan", "job": {...}}``), by the name of a module of
``dipgo_compile.measure.rows`` or by the full name of another; each further line (``{"calls": null}``) then
times one image. A worker that waits is blocked on its input and computes nothing. ``Worker`` is the other
end.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dipgo_compile.errors import BackendError, DipgoError
from dipgo_compile.measure.machine import PeakPss
from dipgo_compile.measure.rows import Job


class Worker:
    """A row in a process of its own. Raises BackendError when that process fails."""

    def __init__(self, row: str, job: Job, *, memory: bool = False, calls: int | None = None) -> None:
        """With ``memory`` the process loads the row, makes one image (or its first ``calls``), answers with
        its peak and ends.
        """
        self.row = row
        self._log = Path(job.workspace) / f"{row}.log"
        start = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.ready = self.ask({"row": row, "job": asdict(job), "memory": memory, "calls": calls})
        """With ``memory``: ``peak_pss_bytes``, and ``peak_mapped_bytes``, the part of it that files back."""
        self.load_seconds = time.perf_counter() - start
        """From the start of the interpreter to a loaded row, imports included: what a user waits for."""

    def image(self, calls: int | None = None) -> float:
        """Make one batch of images, or its first ``calls``; the seconds it took."""
        return float(self.ask({"calls": calls})["seconds"])

    def ask(self, request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise BackendError(f"the row {self.row!r} cannot be measured: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process, if need be by force."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()  # it holds nothing that would have to be saved
        self._process.wait()
        self._process.stdout.close()
        self._process.stdin.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        written = self._log.read_text(errors="replace").strip().splitlines()
        return f"its process ended with status {code}: {written[-1] if written else 'it said nothing'}"


def serve(requests: IO[str], answers: IO[str]) -> None:
    """The worker's side: answer every line until there are no more."""

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        asked = json.loads(requests.readline())
        name = asked["row"]
        load = importlib.import_module(name if "." in name else f"dipgo_compile.measure.rows.{name}").load
        job = Job(**asked["job"])
        if asked["memory"]:
            with PeakPss() as peak:
                load(job)(asked["calls"])
            answer({"peak_pss_bytes": peak.peak.total, "peak_mapped_bytes": peak.peak.mapped})
            return
        image = load(job)
        answer({"ready": True})
        for line in requests:
            calls = json.loads(line)["calls"]
            start = time.perf_counter()
            image(calls)
            answer({"seconds": time.perf_counter() - start})
    except DipgoError as error:
        answer({"error": str(error)})


def main() -> None:
    # Libraries print to stdout when they feel like it: the answers go through a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
