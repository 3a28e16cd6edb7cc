"""Every altered bundle of ``tests/corpus`` through the C++ library: the verdict that Python reaches.

``make cpp`` runs this on a build with sanitizers, where reading a byte too far ends the process.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dipgo_compile.errors import DipgoError
from dipgo_compile.runtime import Runtime
from tests.corpus import EITHER, OPENS, REFUSED, Alteration, corpus, make_base, write

REFUSALS = ("DIPGO_ERROR_BUNDLE", "DIPGO_ERROR_BACKEND", "DIPGO_ERROR_MEMORY")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Alteration]:
    directory = tmp_path_factory.mktemp("corpus")
    base = make_base(directory)
    return {
        write(alteration, base.path, directory / f"{number}.dipgo"): alteration
        for number, alteration in enumerate(corpus(base))
    }


@pytest.fixture(scope="module")
def found(built: Path, bundles: dict[Path, Alteration]) -> dict[Path, list[str]]:
    """What ``dipgo-check`` prints for every bundle: the status, and the lines of the message."""
    command = [built / "dipgo-check", *bundles]
    checked = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    assert checked.returncode == 1, checked.stderr[-4000:]
    lines: dict[Path, list[str]] = {}
    for line in checked.stdout.splitlines():
        if line.startswith("DIPGO_"):
            status, _, path = line.partition(" ")
            said = lines[Path(path)] = [status]
        else:
            said.append(line.strip())
    return lines


def test_every_bundle_gets_its_verdict(bundles: dict[Path, Alteration], found: dict[Path, list[str]]) -> None:
    wrong = []
    for path, alteration in bundles.items():
        status, *message = found[path]
        verdict = OPENS if status == "DIPGO_OK" else REFUSED if status in REFUSALS else status
        expected = alteration.verdict if alteration.verdict != EITHER else python_verdict(path)
        if verdict != expected or (verdict != OPENS and not any(message)):
            wrong.append(f"{alteration.name}: {verdict}, not {expected}. {' '.join(message)}")
    assert not wrong, "\n".join(wrong)


def python_verdict(bundle: Path) -> str:
    try:
        with Runtime.load(
            bundle, backend="onnxruntime", provider="cpu", precision="fp32", threads=1
        ) as runtime:
            for shape in runtime.shapes:
                runtime.session(images=shape.images)
    except DipgoError:
        return REFUSED
    return OPENS


def test_a_message_names_place_and_remedy(
    bundles: dict[Path, Alteration], found: dict[Path, list[str]]
) -> None:
    (path,) = (path for path, item in bundles.items() if item.name == "plan: a view of two numbers")
    status, what, where, mend = found[path]
    assert status == "DIPGO_ERROR_BUNDLE"
    assert what == "a view is [axis, start, stop]"
    assert where.startswith(f"where: {path}/plan.json: instructions[") and where.endswith(".view[0]")
    assert mend.startswith("to mend it: ")
