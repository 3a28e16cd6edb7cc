"""One thing changed in a bundle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dipgo_compile.formats.plan_json import checksum

REFUSED, OPENS, EITHER = "refused", "opens", "either"
PLAN = "plan.json"
Json = dict[str, Any]
Change = Callable[[Path], None]
Edit = Callable[[Json], object]


@dataclass(frozen=True)
class Alteration:
    """``change`` is applied to a copy of the base, whose files are hard links: it puts new files in their
    place (``put``), it does not write into them.
    """

    name: str
    verdict: str
    change: Change

    def within(self, group: str) -> Alteration:
        return replace(self, name=f"{group}: {self.name}")


def write(alteration: Alteration, base: Path, directory: Path) -> Path:
    """The altered bundle, at ``directory``. Files that don't change are hard links to those of the base."""
    directory.mkdir(parents=True)
    for file in base.rglob("*"):
        target = directory / file.relative_to(base)
        if file.is_dir():
            target.mkdir()
        else:
            os.link(file, target)
    alteration.change(directory)
    return directory


def put(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file, or make it."""
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).write_bytes(data)


def put_recorded(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file, and what the plan says of it."""
    put(bundle, name, data)
    document = read_plan(bundle)
    document["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    put_plan(bundle, sealed(document))


def read_plan(bundle: Path) -> Json:
    document: Json = json.loads((bundle / PLAN).read_text(encoding="utf-8"))
    return document


def put_plan(bundle: Path, document: Json) -> None:
    put(bundle, PLAN, json.dumps(document).encode())


def sealed(document: Json) -> Json:
    """With a checksum that is right."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    return {**rest, "checksum": checksum(rest)}


def edited(name: str, verdict: str, edit: Edit) -> tuple[Alteration, Alteration]:
    """A change to the plan's document, with the checksum made right, and without."""

    def with_checksum(bundle: Path) -> None:
        document = read_plan(bundle)
        edit(document)
        put_plan(bundle, sealed(document))

    def without(bundle: Path) -> None:
        document = read_plan(bundle)
        edit(document)
        put_plan(bundle, document)

    return (
        Alteration(name, verdict, with_checksum),
        Alteration(f"{name}, checksum left as it was", REFUSED, without),
    )
