"""Files are hashed when they are new or have changed, and only then."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dipgo_compile.errors import BundleError
from dipgo_compile.formats.integrity import SETTLED_SECONDS, STAMPS, check_files, record
from dipgo_compile.plan import FileRecord

CONTENT = b"weights" * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "weights.bin"
    file.write_bytes(CONTENT)
    return file


def settle(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the check, not of the file system, goes on: a change time can't be set."""
    later = time.time() + 2 * SETTLED_SECONDS
    monkeypatch.setattr("dipgo_compile.formats.integrity.time.time", lambda: later)


def check(file: Path, expected: FileRecord, *, contents: bool = True) -> None:
    directory = file.parent
    check_files(directory, {file.name: expected}, contents=contents, stamps=directory / STAMPS, mend="mend")


def test_an_altered_byte_is_found_even_if_size_and_times_are_put_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, times = record(file), file.stat()
    settle(file, monkeypatch)
    check(file, expected)
    assert (file.parent / STAMPS).exists()
    file.write_bytes(CONTENT[:-1] + b"S")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(BundleError, match=r"weights\.bin was altered"):
        check(file, expected)
    check(file, expected, contents=False)


def test_a_file_found_right_is_not_hashed_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(file, monkeypatch)
    expected = record(file)
    check(file, expected)
    monkeypatch.setattr(
        "dipgo_compile.formats.integrity._sha256", lambda file: pytest.fail(f"{file} was hashed")
    )
    check(file, expected)


def test_a_stamp_is_worth_nothing_for_another_hash(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(file, monkeypatch)
    check(file, record(file))
    with pytest.raises(BundleError, match="altered"):
        check(file, FileRecord(len(CONTENT), "0" * 64))


def test_a_file_changed_just_now_gets_no_stamp(file: Path) -> None:
    check(file, record(file))
    assert not (file.parent / STAMPS).exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"weights.bin": 3}'])
def test_unreadable_stamps_only_mean_that_files_are_hashed(
    file: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(file, monkeypatch)
    (file.parent / STAMPS).write_text(content)
    check(file, record(file))
    with pytest.raises(BundleError, match="altered"):
        check(file, FileRecord(len(CONTENT), "0" * 64))


def test_missing_and_truncated_files_are_named(file: Path) -> None:
    expected = record(file)
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(BundleError, match=r"weights\.bin was truncated: expected 7,000 bytes, found 6,999"):
        check(file, expected, contents=False)
    file.unlink()
    with pytest.raises(BundleError, match=r"weights\.bin is missing"):
        check(file, expected, contents=False)
