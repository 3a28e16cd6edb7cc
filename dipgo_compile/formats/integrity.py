"""Whether files are what they were when they were written: sizes always, SHA-256 when asked.

Hashing gigabytes takes seconds, so a file that was once found right is hashed again only when its size, its
inode or one of its times has changed. That is written down beside the files, in ``STAMPS``; where nothing can
be written, every check hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dipgo_compile.errors import BundleError
from dipgo_compile.plan import FileRecord

STAMPS = "verified.json"
SETTLED_SECONDS = 1.0  # a file may change twice within one tick of the file system's clock
CHUNK_BYTES = 1 << 20


def record(file: Path) -> FileRecord:
    """Size and SHA-256 of a file as it is."""
    return FileRecord(file.stat().st_size, _sha256(file))


def check_files(
    directory: Path, records: Mapping[str, FileRecord], *, contents: bool, stamps: Path, mend: str
) -> None:
    """Raises BundleError for a file of ``directory`` that is missing or has another size; with ``contents``
    also for one with another SHA-256. ``stamps`` is where files found right are written down.
    """
    for name, expected in records.items():
        file = directory / name
        if not file.is_file():
            raise BundleError(f"{name} is missing from the bundle", where=file, mend=mend)
        size = file.stat().st_size
        if size != expected.nbytes:
            state = "truncated" if size < expected.nbytes else "altered"
            raise BundleError(
                f"{name} was {state}: expected {expected.nbytes:,} bytes, found {size:,}",
                where=file,
                mend=mend,
            )
    if not contents:
        return
    known = _read(stamps)
    unknown = [
        name for name, expected in records.items() if known.get(name) != _stamp(directory / name, expected)
    ]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        hashes = pool.map(_sha256, [directory / name for name in unknown])
        for name, found in zip(unknown, hashes, strict=True):
            if found != records[name].sha256:
                raise BundleError(
                    f"{name} was altered: expected SHA-256 {records[name].sha256}, found {found}",
                    where=directory / name,
                    mend=mend,
                )
    remember(directory, {name: records[name] for name in unknown}, stamps)


def remember(directory: Path, records: Mapping[str, FileRecord], stamps: Path) -> None:
    """Write down that these files are what their records say. Those changed just now are left out."""
    settled = {
        name: _stamp(directory / name, expected)
        for name, expected in records.items()
        if _settled(directory / name)
    }
    if settled:
        _write(stamps, _read(stamps) | settled)


def _stamp(file: Path, expected: FileRecord) -> list[object]:
    """What a file looks like from outside. The inode's change time can't be set back by a user."""
    found = file.stat()
    return [expected.sha256, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _settled(file: Path) -> bool:
    return time.time() - file.stat().st_ctime > SETTLED_SECONDS


def _read(stamps: Path) -> dict[str, object]:
    try:
        found = json.loads(stamps.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(stamps: Path, content: Mapping[str, object]) -> None:
    staging = stamps.with_name(f".{stamps.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a read-only place: the next check hashes again
        stamps.parent.mkdir(exist_ok=True)
        staging.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        staging.replace(stamps)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    chunk = bytearray(CHUNK_BYTES)
    view = memoryview(chunk)
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(chunk):
            digest.update(view[:count])
    return digest.hexdigest()
