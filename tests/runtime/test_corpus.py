"""Every altered bundle of ``tests/corpus`` against the reader and the backend."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dipgo_compile.errors import DipgoError
from dipgo_compile.runtime import Runtime
from tests.corpus import EITHER, GROUPS, OPENS, REFUSED, Alteration, Base, corpus, make_base, write

MEMORY = 256 << 20  # bytes: what opening the whole corpus may take at once, beyond what the process had
AT_LEAST = 500  # alterations


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def alterations(base: Base) -> list[Alteration]:
    return list(corpus(base))


@pytest.fixture(scope="module")
def opened_files() -> Iterator[list[str]]:
    """The files that Python opens."""
    opened: list[str] = []
    listening = True

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(listen)  # hooks can't be removed
    yield opened
    listening = False


def verdict(bundle: Path) -> tuple[str, str]:
    """What the reader makes of a bundle, and its message. Whatever is no DipgoError is a bug."""
    try:
        with Runtime.load(
            bundle, backend="onnxruntime", provider="cpu", precision="fp32", threads=1
        ) as runtime:
            for shape in runtime.shapes:
                runtime.session(images=shape.images)
    except DipgoError as error:
        return REFUSED, str(error)
    return OPENS, ""


def test_the_base_opens(base: Base) -> None:
    assert verdict(base.path) == (OPENS, "")


def test_names_are_unique_and_follow_from_the_seed(base: Base, alterations: list[Alteration]) -> None:
    names = [alteration.name for alteration in alterations]
    assert len(names) == len(set(names)) >= AT_LEAST
    assert names == [alteration.name for alteration in corpus(base)]
    assert names != [alteration.name for alteration in corpus(base, seed=1)]


@pytest.mark.parametrize("group", GROUPS)
def test_verdicts(
    group: str, base: Base, alterations: list[Alteration], tmp_path: Path, opened_files: list[str]
) -> None:
    reset_peak_memory()
    before = peak_memory()
    wrong = []
    for alteration in alterations:
        if not alteration.name.startswith(f"{group}: "):
            continue
        bundle = write(alteration, base.path, tmp_path / "altered.dipgo")
        opened_files.clear()
        found, message = verdict(bundle)
        outside = [file for file in opened_files if file.startswith(str(base.outside))]
        if alteration.verdict not in (found, EITHER) or outside or (found == REFUSED and not message):
            wrong.append(f"{alteration.name}: {found}, not {alteration.verdict}. {message} {outside}")
        shutil.rmtree(bundle)
    assert not wrong, "\n".join(wrong)
    assert peak_memory() - before < MEMORY


def reset_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The largest resident set since the last reset, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
